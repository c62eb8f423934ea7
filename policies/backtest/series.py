"""What a backtest did over time: waits, failures and programs in equal spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from changeover.policies.backtest.journal import Entry, Programmed
from changeover.policies.backtest.score import TICK, Score


@dataclass(frozen=True, slots=True)
class Series:
    """``at`` are the middles of the spans in seconds; ``None`` where no scored boot arrived."""

    at: tuple[float, ...]
    wait: tuple[float | None, ...]
    """Mean wait of the boots that arrived in each span, in seconds."""
    failed: tuple[float | None, ...]
    """Share of them that found no room at their first try."""
    programs: tuple[int, ...]
    """Programs begun in each span."""


def series(score: Score, journal: Sequence[Entry], ended: float, spans: int) -> Series:
    """Cut a run from 0 to ``ended`` into so many equal spans."""
    width = max(ended, 1.0) / spans

    def place(time: float) -> int:
        return min(spans - 1, int(time / width))

    waits: list[list[float]] = [[] for _ in range(spans)]
    for boot in score.boots:
        waits[place(boot.arrival)].append(boot.wait)
    programs = [0] * spans
    for entry in journal:
        if isinstance(entry, Programmed) and not entry.resident:
            programs[place(entry.time)] += 1
    return Series(
        at=tuple(width * (k + 0.5) for k in range(spans)),
        wait=tuple(sum(w) / len(w) if w else None for w in waits),
        failed=tuple(sum(x > TICK for x in w) / len(w) if w else None for w in waits),
        programs=tuple(programs),
    )
