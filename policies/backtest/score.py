"""Scores a journal as the checker does, keeps each boot's loss, and measures thrash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from changeover.models.workload import RecordedBoot
from changeover.policies.backtest.journal import Abandoned, Entry, Programmed, Started

WARM_UP = 0.05
"""Share of the boots, from the first, that is not scored."""
ACQUAINTANCE_SECONDS = 120.0
"""A boot is scored only if its function was first asked for more than this before it."""
TICK = 1e-6
"""Seconds under which a wait counts as none, as in the checker."""


@dataclass(frozen=True, slots=True)
class ScoredBoot:
    """One scored boot's share of the loss."""

    boot: int
    arrival: float
    wait: float
    abandoned: bool


@dataclass(frozen=True, slots=True)
class Score:
    """The checker's figures, and thrash."""

    scored: int
    first_try_failures: float
    waiting: float
    abandoned: float
    programs: int
    wasted_programs: int
    """Programs that were undone before they served anybody."""
    wait_mean: float
    wait_p50: float
    wait_p95: float
    wait_p99: float
    boots: tuple[ScoredBoot, ...]

    @property
    def loss(self) -> float:
        """L = first-try failures + mean wait over patience."""
        return self.first_try_failures + self.waiting

    @property
    def thrash(self) -> float:
        """Share of the programs that served nobody before they were undone."""
        return self.wasted_programs / max(1, self.programs)


def score(boots: Sequence[RecordedBoot], journal: Sequence[Entry], patience: float) -> Score:
    """Score a journal over the boots (sorted by arrival)."""
    started: dict[int, float] = {}
    given_up: set[int] = set()
    programs = 0
    for entry in journal:
        match entry:
            case Started(time, boot, _):
                started[boot] = time
            case Abandoned(_, boot):
                given_up.add(boot)
            case Programmed(resident=resident):
                programs += not resident
    scored = [
        ScoredBoot(
            boot,
            boots[boot].arrival,
            started[boot] - boots[boot].arrival if boot in started else patience,
            boot not in started,
        )
        for boot in _scored_numbers(boots)
    ]
    count = max(1, len(scored))
    waits = sorted(boot.wait for boot in scored)
    mean = sum(waits) / count
    return Score(
        scored=len(scored),
        first_try_failures=sum(wait > TICK for wait in waits) / count,
        waiting=mean / patience,
        abandoned=sum(boot.abandoned for boot in scored) / count,
        programs=programs,
        wasted_programs=_wasted(journal),
        wait_mean=mean,
        wait_p50=_quantile(waits, 0.5),
        wait_p95=_quantile(waits, 0.95),
        wait_p99=_quantile(waits, 0.99),
        boots=tuple(scored),
    )


def _scored_numbers(boots: Sequence[RecordedBoot]) -> list[int]:
    residents = sum(boot.arrival <= 0 for boot in boots)
    begin = residents + int(WARM_UP * (len(boots) - residents))
    first: dict[str, float] = {}
    numbers = []
    for number, boot in enumerate(boots):
        known_since = first.setdefault(boot.function, boot.arrival)
        if number >= begin and boot.arrival > known_since + ACQUAINTANCE_SECONDS:
            numbers.append(number)
    return numbers


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _wasted(journal: Sequence[Entry]) -> int:
    """Count programs whose device was programmed again before it served a boot."""
    unserved: set[int] = set()
    wasted = 0
    for entry in journal:
        match entry:
            case Programmed(_, device, _, resident):
                wasted += device in unserved
                if not resident:
                    unserved.add(device)
            case Started(_, _, taken):
                unserved.difference_update(taken)
            case Abandoned():
                pass
    return wasted
