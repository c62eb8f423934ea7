"""Replays a recorded workload over a fleet in virtual time, under a policy.

The rules are those of the journal checker: FIFO within a function, slots all at once on one or
several devices, a programmed device offers nothing for `program_seconds`, a waiting boot gives
up after `patience`. At one time: ends, programs that became ready, arrivals, starts, boots that
give up, then the policy.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from changeover.models.workload import RecordedBoot, RecordedFleet
from changeover.policies.backtest.journal import Abandoned, Entry, Programmed, Started
from changeover.policies.balancing.fleet import (
    BLANK,
    Arrival,
    Departure,
    FleetState,
    News,
    Program,
    Waiting,
)
from changeover.policies.balancing.policy import PolicyFactory

NEVER = float("inf")

AFTERWARDS = 172_800.0
"""Seconds for which a policy is asked on after the last boot: it cannot know that none follows."""


class IllegalProgramError(RuntimeError):
    """A policy asked for a program that the rules forbid."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a run did, in order of time. It ``ended`` when no boot was left to come or waiting."""

    journal: tuple[Entry, ...]
    ended: float


def replay(
    boots: Sequence[RecordedBoot],
    fleet: RecordedFleet,
    make_policy: PolicyFactory,
    *,
    program_seconds: float,
    patience: float,
    seed: int = 0,
) -> Replay:
    """Run the policy over the boots (sorted by arrival) and return its journal."""
    state = FleetState(fleet.devices, fleet.functions, fleet.slots, program_seconds)
    run = _Run(boots, state, patience)
    run.seat_residents()
    policy = make_policy(state, patience, seed)
    wake = NEVER
    ended: float | None = None
    while True:
        if ended is None and run.done:
            ended = run.now
        now = min(run.next_time(), wake)
        if ended is not None and (now == NEVER or now > run.last_arrival + AFTERWARDS):
            return Replay(tuple(run.journal), ended)
        news = run.advance(now)
        decision = policy.decide(now, state, news)
        for program in decision.programs:
            run.program(program)
        wake = decision.wake_at if decision.wake_at is not None else NEVER
        if wake <= now:
            wake = NEVER


class _Run:
    """The moving parts of one replay."""

    def __init__(self, boots: Sequence[RecordedBoot], state: FleetState, patience: float) -> None:
        self.boots = boots
        self.state = state
        self.patience = patience
        self.journal: list[Entry] = []
        self.now = 0.0
        self._number = {name: i for i, name in enumerate(state.functions)}
        self._next = 0
        self._ends: list[tuple[float, int, int, dict[int, int]]] = []
        self._ready: list[tuple[float, int]] = []
        self._deadlines: deque[tuple[float, int]] = deque()
        self._open: set[int] = set()

    def seat_residents(self) -> None:
        """Start the rows with arrival 0 on devices programmed for free; drop who finds none."""
        while self._next < len(self.boots) and self.boots[self._next].arrival <= 0:
            number, boot = self._next, self.boots[self._next]
            self._next += 1
            function = self._number.get(boot.function)
            if function is None or not self._install_for(function, boot.slots):
                continue
            self._start(number, function, boot)

    def _install_for(self, function: int, slots: int) -> bool:
        """Install blank devices until the resident fits; nothing is installed if it never would."""
        state = self.state
        missing = slots - state.free[function]
        chosen = []
        for device in range(len(state.devices)):
            if missing <= 0:
                break
            if state.function[device] == BLANK and state.slots[device][function]:
                chosen.append(device)
                missing -= state.slots[device][function]
        if missing > 0:
            return False
        for device in chosen:
            state.install(device, function, 0.0)
            self.journal.append(Programmed(0.0, device, function, resident=True))
        return True

    @property
    def done(self) -> bool:
        """Whether every boot has arrived and nobody waits."""
        return self._next >= len(self.boots) and not self._open

    @property
    def last_arrival(self) -> float:
        """When the last boot arrives; 0 if there is none."""
        return self.boots[-1].arrival if self.boots else 0.0

    def next_time(self) -> float:
        """When something happens next, whatever the policy does."""
        times = [self._next_arrival()]
        if self._ends:
            times.append(self._ends[0][0])
        if self._ready:
            times.append(self._ready[0][0])
        if self._deadlines:
            times.append(self._deadlines[0][0])
        return min(times)

    def advance(self, now: float) -> News:
        """Apply what happens at `now`, up to and with one arrival.

        Boots that arrive together are told one by one, as a cloud's notifications are: the policy
        decides on the first before it knows of the second. Patience ends after the last of them.
        """
        self.now = now
        arrivals: list[Arrival] = []
        departures: list[Departure] = []
        abandoned: list[int] = []
        touched: set[int] = set()
        while True:
            self._apply_ends(now, departures, touched)
            while self._ready and self._ready[0][0] <= now:
                _, device = heapq.heappop(self._ready)
                self.state.finish_program(device)
                touched.add(self.state.function[device])
            for function in sorted(touched):
                self._start_waiting(function)
            touched.clear()
            if self._ends and self._ends[0][0] <= now:
                # A boot of no duration has started: it ends at the time it started.
                continue
            if not arrivals and self._next_arrival() <= now:
                arrivals += self._apply_arrival()
            elif self._next_arrival() > now:
                self._give_up(now, abandoned, touched)
            if not touched and not (self._ends and self._ends[0][0] <= now):
                return News(arrivals, departures, abandoned)

    def _next_arrival(self) -> float:
        return self.boots[self._next].arrival if self._next < len(self.boots) else NEVER

    def _apply_ends(self, now: float, departures: list[Departure], touched: set[int]) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, number, function, taken = heapq.heappop(self._ends)
            self.state.release(function, taken)
            departures.append(Departure(now, number, function, sum(taken.values())))
            touched.add(function)

    def _apply_arrival(self) -> list[Arrival]:
        number, boot = self._next, self.boots[self._next]
        self._next += 1
        self._open.add(number)
        self._deadlines.append((boot.arrival + self.patience, number))
        function = self._number.get(boot.function)
        if function is None:
            # No device could ever offer it: it only waits out its patience.
            return []
        self.state.waiting[function].append(Waiting(number, boot.arrival, boot.slots))
        self._start_waiting(function)
        return [Arrival(boot.arrival, number, function, boot.slots, number in self._open)]

    def _start_waiting(self, function: int) -> None:
        queue = self.state.waiting[function]
        while queue and self.state.free[function] >= queue[0].slots:
            number = queue.popleft().boot
            self._open.discard(number)
            self._start(number, function, self.boots[number])

    def _start(self, number: int, function: int, boot: RecordedBoot) -> None:
        taken = self.state.place(function, boot.slots)
        if taken is None:
            raise AssertionError("room was counted that is not there")
        self.journal.append(Started(self.now, number, taken))
        heapq.heappush(self._ends, (self.now + boot.duration, number, function, taken))

    def _give_up(self, now: float, abandoned: list[int], touched: set[int]) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = self._deadlines.popleft()
            if number not in self._open:
                continue
            self._open.discard(number)
            self.journal.append(Abandoned(now, number))
            abandoned.append(number)
            function = self._number.get(self.boots[number].function)
            if function is not None:
                queue = self.state.waiting[function]
                # Patience is one for all, so whoever gives up is the oldest of its queue.
                queue.popleft()
                touched.add(function)

    def program(self, program: Program) -> None:
        """Begin a program, or raise where the rules forbid it."""
        state, device, function = self.state, program.device, program.function
        if state.used[device] or state.programming[device] or not state.slots[device][function]:
            raise IllegalProgramError(f"{state.devices[device]} to {state.functions[function]}")
        state.begin_program(device, function, self.now)
        self.journal.append(Programmed(self.now, device, function, resident=False))
        heapq.heappush(self._ready, (state.ready_at[device], device))
