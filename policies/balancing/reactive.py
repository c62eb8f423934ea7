"""The reference that every forecast is measured against: program only for boots that failed.

For each function with waiting boots, in order of the oldest waiter: one idle device for each
missing device-full after the programs under way. Blank devices first, then the device whose
function has the least recent demand (EWMA of arrivals, time constant 1 h) for each of its free
or coming slots; ties by id. Tried again whenever anything happens.
"""

from __future__ import annotations

import math

from changeover.policies.balancing.fleet import BLANK, FleetState, News, Program
from changeover.policies.balancing.policy import Decision

EWMA_SECONDS = 3600.0
"""Time constant of the demand average by which devices are taken."""


class Reactive:
    """Programs for waiting boots, and for nothing else."""

    __slots__ = ("_demand", "_seen")

    def __init__(self, fleet: FleetState, patience: float, seed: int) -> None:
        """Begin without memory; neither patience nor seed matters."""
        del patience, seed
        self._demand = [0.0] * len(fleet.functions)
        self._seen = 0.0

    def decide(self, now: float, fleet: FleetState, news: News) -> Decision:
        """Program for the oldest waiters first."""
        if news.arrivals:
            decay = math.exp(-(now - self._seen) / EWMA_SECONDS)
            self._demand = [value * decay for value in self._demand]
            self._seen = now
            for arrival in news.arrivals:
                self._demand[arrival.function] += 1
        waiting = sorted(
            (queue[0].since, queue[0].boot, f) for f, queue in enumerate(fleet.waiting) if queue
        )
        if not waiting:
            return Decision()
        free, coming = list(fleet.free), list(fleet.coming)
        idle = list(fleet.idle())
        programs = []
        for _, _, function in waiting:
            wanted = sum(boot.slots for boot in fleet.waiting[function])
            while wanted > free[function] + coming[function]:
                fit = [
                    d for d in idle if fleet.slots[d][function] and fleet.function[d] != function
                ]
                if not fit:
                    break
                device = min(fit, key=lambda d: (self._worth(fleet, d, free, coming), d))
                idle.remove(device)
                old = fleet.function[device]
                if old != BLANK:
                    free[old] -= fleet.slots[device][old]
                coming[function] += fleet.slots[device][function]
                programs.append(Program(device, function, "boots wait"))
        return Decision(programs)

    def _worth(self, fleet: FleetState, device: int, free: list[int], coming: list[int]) -> float:
        function = fleet.function[device]
        if function == BLANK:
            return -1.0
        return self._demand[function] / (free[function] + coming[function])
