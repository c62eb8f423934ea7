"""The reference beside the policy: what `reactive` would have programmed, given the same boots.

The budget of a forecasting policy is a multiple of the programs that the reference would need.
That number is estimated causally: a shadow fleet is run under `Reactive`, fed with the arrivals
and departures that are seen. A server ends in the shadow when it ends in truth. One that gave up
in truth, but runs in the shadow, is held there for as long as servers of its function were held
on average. So the count is an estimate, close as long as most boots start under both.
"""

from __future__ import annotations

import heapq

from changeover.policies.balancing.fleet import BLANK, FleetState, News, Waiting
from changeover.policies.balancing.reactive import Reactive


class Shadow:
    """A fleet under the reference policy, and how often it has programmed."""

    def __init__(self, fleet: FleetState, patience: float) -> None:
        """Begin with the same devices, functions and use as the real fleet has now."""
        self.programs = 0
        self._patience = patience
        self._fleet = FleetState(fleet.devices, fleet.functions, fleet.slots, fleet.program_seconds)
        self._policy = Reactive(self._fleet, patience, 0)
        self._ready: list[tuple[float, int]] = []
        self._running: dict[int, tuple[int, dict[int, int]]] = {}
        self._since: dict[int, float] = {}
        self._held = [0.0] * len(fleet.functions)
        self._ended = [0] * len(fleet.functions)
        # Servers that gave up in truth: when they end in the shadow.
        self._ends: list[tuple[float, int]] = []
        # Servers that were there before: whose they are is not known, so any of them ends.
        self._found: list[list[dict[int, int]]] = [[] for _ in fleet.functions]
        for device, function in enumerate(fleet.function):
            if function != BLANK:
                self._fleet.install(device, function, 0.0)
                taken = (
                    self._fleet.place(function, fleet.used[device]) if fleet.used[device] else None
                )
                if taken:
                    self._found[function].append(taken)

    def waiting(self) -> int:
        """Boots that wait in the shadow."""
        return sum(len(queue) for queue in self._fleet.waiting)

    def follow(self, now: float, news: News) -> None:
        """Apply the news to the shadow and let the reference decide."""
        fleet = self._fleet
        while self._ready and self._ready[0][0] <= now:
            _, device = heapq.heappop(self._ready)
            fleet.finish_program(device)
            self._start(fleet.function[device])
        self._end_servers(now, news)
        for function, queue in enumerate(fleet.waiting):
            while queue and queue[0].since + self._patience <= now:
                queue.popleft()
                self._start(function)
        for arrival in news.arrivals:
            self._since[arrival.boot] = arrival.time
            fleet.waiting[arrival.function].append(
                Waiting(arrival.boot, arrival.time, arrival.slots)
            )
            self._start(arrival.function)
        for program in self._policy.decide(now, fleet, news).programs:
            fleet.begin_program(program.device, program.function, now)
            heapq.heappush(self._ready, (fleet.ready_at[program.device], program.device))
            self.programs += 1

    def _end_servers(self, now: float, news: News) -> None:
        while self._ends and self._ends[0][0] <= now:
            self._end(heapq.heappop(self._ends)[1])
        for departure in news.departures:
            if departure.boot in self._since:
                self._account(now, departure.boot, departure.function)
                self._end(departure.boot)
            else:
                self._end_found(departure.function, departure.slots)
        for boot in news.abandoned:
            if boot in self._running:
                held = self._mean_held(self._running[boot][0])
                heapq.heappush(self._ends, (now + held, boot))
            else:
                self._end(boot)
            self._since.pop(boot, None)

    def _account(self, now: float, boot: int, function: int) -> None:
        self._held[function] += now - self._since.pop(boot)
        self._ended[function] += 1

    def _mean_held(self, function: int) -> float:
        """Seconds from a boot to its end, shrunk by two ends towards all functions' mean."""
        pooled = sum(self._held) / max(1, sum(self._ended))
        return (self._held[function] + 2 * pooled) / (self._ended[function] + 2)

    def _end(self, boot: int) -> None:
        running = self._running.pop(boot, None)
        if running is not None:
            self._fleet.release(*running)
            self._start(running[0])
            return
        for function, queue in enumerate(self._fleet.waiting):
            for waiting in queue:
                if waiting.boot == boot:
                    queue.remove(waiting)
                    self._start(function)
                    return

    def _end_found(self, function: int, slots: int) -> None:
        found = self._found[function]
        while slots > 0 and found:
            taken = found.pop(0)
            slots -= sum(taken.values())
            self._fleet.release(function, taken)
        self._start(function)

    def _start(self, function: int) -> None:
        queue = self._fleet.waiting[function]
        while queue:
            taken = self._fleet.place(function, queue[0].slots)
            if taken is None:
                return
            self._running[queue.popleft().boot] = (function, taken)
