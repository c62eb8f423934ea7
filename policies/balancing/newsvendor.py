"""A simple newsvendor: hold the slots that each function's recent demand would have needed.

Demand per function is averaged over one day (EWMA); the coming hour's demand is taken as
Poisson, and the target of slots is its critical quantile, over the slots in use. Whoever is
short gets idle devices of those who have too much. Waiting boots are served first, as by
`reactive`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from changeover.policies.balancing.fleet import BLANK, FleetState, News, Program
from changeover.policies.balancing.policy import Decision
from changeover.policies.balancing.reactive import Reactive


@dataclass(frozen=True, slots=True)
class NewsvendorKnobs:
    """The newsvendor's terms."""

    memory: float = 86400.0
    """Time constant of the demand average in seconds."""
    horizon: float = 3600.0
    """Seconds of demand that free slots should cover."""
    quantile: float = 0.7
    """Critical ratio: cost of a missing slot over the cost of a missing and of an idle one."""
    every: float = 900.0
    """Seconds between two rounds."""
    at_once: int = 2
    """Programs begun in one round at most."""


class Newsvendor:
    """Targets from quantiles of a Poisson demand; serves waiting boots as `Reactive` does."""

    def __init__(
        self, fleet: FleetState, patience: float, seed: int, knobs: NewsvendorKnobs | None = None
    ) -> None:
        """Begin without memory."""
        self._knobs = knobs or NewsvendorKnobs()
        self._reactive = Reactive(fleet, patience, seed)
        self._demand = [0.0] * len(fleet.functions)
        self._seen = 0.0
        self._next = 0.0

    def decide(self, now: float, fleet: FleetState, news: News) -> Decision:
        """Serve who waits; every so often move idle devices towards the targets."""
        for arrival in news.arrivals:
            decay = math.exp(-(now - self._seen) / self._knobs.memory)
            self._demand = [value * decay for value in self._demand]
            self._seen = now
            self._demand[arrival.function] += arrival.slots
        urgent = self._reactive.decide(now, fleet, news)
        if urgent.programs or now < self._next or not any(self._demand):
            return Decision(urgent.programs, self._next)
        self._next = now + self._knobs.every
        return Decision(self._round(now, fleet), self._next)

    def _round(self, now: float, fleet: FleetState) -> list[Program]:
        decay = math.exp(-(now - self._seen) / self._knobs.memory)
        share = self._knobs.horizon / self._knobs.memory
        surplus = [
            free + coming - _poisson_quantile(demand * decay * share, self._knobs.quantile)
            for free, coming, demand in zip(fleet.free, fleet.coming, self._demand, strict=True)
        ]
        idle = list(fleet.idle())
        programs: list[Program] = []
        for function in sorted(range(len(surplus)), key=lambda f: (surplus[f], -self._demand[f])):
            if surplus[function] >= 0 or len(programs) == self._knobs.at_once:
                break
            device = self._spare_device(fleet, idle, surplus, function)
            if device is None:
                continue
            old = fleet.function[device]
            if old != BLANK:
                surplus[old] -= fleet.slots[device][old]
            idle.remove(device)
            programs.append(Program(device, function, "below its newsvendor target"))
        return programs

    @staticmethod
    def _spare_device(
        fleet: FleetState, idle: list[int], surplus: list[int], function: int
    ) -> int | None:
        """Blank first, then the greatest surplus; never below the old function's own target."""
        best: tuple[int, int] | None = None
        for device in idle:
            old = fleet.function[device]
            if not fleet.slots[device][function] or old == function:
                continue
            if old == BLANK:
                return device
            left = surplus[old] - fleet.slots[device][old]
            if left >= 0 and (best is None or (-left, device) < best):
                best = (-left, device)
        return best[1] if best else None


def _poisson_quantile(mean: float, share: float) -> int:
    """Least k with P(N <= k) >= share."""
    mass = total = math.exp(-mean)
    count = 0
    while total < share and mass > 0:
        count += 1
        mass *= mean / count
        total += mass
    return count
