"""Thrash: programs that served nobody before they were undone. Measured, and bounded."""

from __future__ import annotations

from dataclasses import dataclass

from changeover.worker.store import Tx
from changeover.worker.world import World

DAY = 86_400.0

FEW = 5
"""So few programs for forecasts say nothing of their share."""

AT_ONCE = 2
"""Programs for forecasts alone that one round starts at most."""


@dataclass(frozen=True, slots=True)
class Thrash:
    """Programs to one function, of one kind, since then; ``unused`` were undone before any use."""

    function: str
    kind: str
    programs: int
    unused: int

    @property
    def share(self) -> float:
        """``unused`` of ``programs``."""
        return self.unused / self.programs if self.programs else 0.0


def forecasts_left(world: World, tx: Tx, now: float) -> int:
    """How many programs for forecasts alone may be started now.

    None while too many of the last day's were for nothing, or the hour's are spent.
    """
    settings = world.settings
    of_forecasts = [t for t in thrash(tx, now - DAY) if t.kind == "forecast"]
    programs = sum(t.programs for t in of_forecasts)
    unused = sum(t.unused for t in of_forecasts)
    if programs >= FEW and unused > settings.max_thrash * programs:
        return 0
    started = tx.changeovers.started_since(now - 3600.0, kind="forecast")
    return max(0, min(AT_ONCE, settings.max_forecasts_per_hour - started))


def thrash(tx: Tx, since: float) -> list[Thrash]:
    """Programs since then by function and kind, and how many of them were undone unused."""
    programs, undone = tx.changeovers.programmed_since(since)
    return [
        Thrash(function, kind, count, undone.get((function, kind), 0))
        for (function, kind), count in sorted(programs.items())
    ]
