"""Serve who waits by the idle device whose function was asked for longest ago (LRU)."""

from __future__ import annotations

from changeover.policies.balancing.fleet import BLANK, FleetState, News, Program
from changeover.policies.balancing.policy import Decision

NEVER = float("-inf")


class Oldest:
    """One object serves one run; whatever it remembers, it holds itself."""

    def __init__(self, fleet: FleetState, patience: float, seed: int) -> None:
        """Begin with an empty memory. Patience and seed play no part here."""
        del patience, seed
        self._asked = [NEVER] * len(fleet.functions)

    def decide(self, now: float, fleet: FleetState, news: News) -> Decision:
        """Program one idle device for each function that waits and has nothing coming."""
        del now
        for arrival in news.arrivals:
            self._asked[arrival.function] = arrival.time
        idle = sorted(fleet.idle(), key=lambda device: self._last_asked(fleet, device))
        programs = []
        for function, queue in enumerate(fleet.waiting):
            wanted = sum(boot.slots for boot in queue)
            if wanted <= fleet.free[function] + fleet.coming[function]:
                continue
            fit = next((d for d in idle if fleet.slots[d][function]), None)
            if fit is not None and fleet.function[fit] != function:
                idle.remove(fit)
                programs.append(Program(fit, function, "boots wait; nobody asked for the old one"))
        return Decision(programs)

    def _last_asked(self, fleet: FleetState, device: int) -> tuple[float, int]:
        function = fleet.function[device]
        return (NEVER if function == BLANK else self._asked[function], device)
