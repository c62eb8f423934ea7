"""The best fixed partition in hindsight: what a planner with perfect records, but no changes, gets.

It reads the whole workload, durations and all, so it is a yardstick and never runs in a cloud.
Without changes the functions do not touch each other: each one's loss depends on its own slots
only. So the loss of every function at every count of devices is simulated alone, and the counts
are chosen exactly by dynamic programming. Fleets of several models are treated as if all devices
were of the commonest.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Sequence

from changeover.models.workload import RecordedBoot, RecordedFleet
from changeover.policies.balancing.fleet import BLANK, FleetState, News, Program
from changeover.policies.balancing.policy import Decision


class Static:
    """Programs the chosen partition at the beginning, and residents' devices once they are idle."""

    def __init__(self, fleet: FleetState, wanted: Sequence[int]) -> None:
        """Lay out `wanted[function]` devices, counting those that residents already hold."""
        missing = list(wanted)
        spare: list[int] = []
        for device, function in enumerate(fleet.function):
            if function != BLANK and missing[function] > 0:
                missing[function] -= 1
            else:
                spare.append(device)
        todo = [f for f, count in enumerate(missing) for _ in range(count)]
        self._moves: dict[int, int] = {}
        for device in spare:
            fit = next((f for f in todo if fleet.slots[device][f]), None)
            if fit is not None:
                todo.remove(fit)
                self._moves[device] = fit

    def decide(self, now: float, fleet: FleetState, news: News) -> Decision:
        """Make the moves that are still due on devices that are idle."""
        del now, news
        due = [d for d in fleet.idle() if d in self._moves] if self._moves else []
        return Decision([Program(d, self._moves.pop(d), "best fixed partition") for d in due])


def best_partition(
    boots: Sequence[RecordedBoot], fleet: RecordedFleet, patience: float
) -> tuple[int, ...]:
    """Devices for each function that minimise the loss over the whole workload."""
    common = Counter(fleet.slots).most_common(1)[0][0]
    by_function: dict[str, list[RecordedBoot]] = {}
    for boot in boots:
        by_function.setdefault(boot.function, []).append(boot)
    count = len(fleet.devices)
    # best[n]: least loss with n devices over the functions so far, and the choices that give it.
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())] * (count + 1)
    for number, name in enumerate(fleet.functions):
        own = by_function.get(name, [])
        losses = _losses(own, common[number], count, patience)
        best = [
            min(
                (best[n - k][0] + losses[k], (*best[n - k][1], k))
                for k in range(min(n, len(losses) - 1) + 1)
            )
            for n in range(count + 1)
        ]
    return best[count][1]


def _losses(boots: Sequence[RecordedBoot], slots: int, most: int, patience: float) -> list[float]:
    """Loss with 0, 1, ... devices, up to where more cannot help."""
    losses = []
    for devices in range(most + 1 if slots else 1):
        losses.append(_loss(boots, devices * slots, patience))
        if losses[-1] == 0:
            break
    return losses


def _loss(boots: Sequence[RecordedBoot], slots: int, patience: float) -> float:
    """Failures plus waits over patience of one function on a fixed number of slots, FIFO."""
    free, loss = slots, 0.0
    ends: list[tuple[float, int]] = []
    waiting: deque[RecordedBoot] = deque()

    def start(now: float) -> float:
        nonlocal free
        waited = 0.0
        while waiting:
            if waiting[0].arrival + patience < now:
                waiting.popleft()
                waited += 1
            elif waiting[0].slots <= free:
                boot = waiting.popleft()
                free -= boot.slots
                heapq.heappush(ends, (now + boot.duration, boot.slots))
                waited += (now - boot.arrival) / patience
            else:
                break
        return waited

    for boot in boots:
        while ends and ends[0][0] <= boot.arrival:
            now, given = heapq.heappop(ends)
            free += given
            loss += start(now)
        loss += start(boot.arrival)
        if waiting or boot.slots > free:
            loss += 1
            waiting.append(boot)
        else:
            free -= boot.slots
            heapq.heappush(ends, (boot.arrival + boot.duration, boot.slots))
    return loss + len(waiting)
