"""Prints the backtest's table: rho with intervals, programs and thrash of each policy.

  python bench/backtest.py [--policy NAME ...] [--workload NAME ...] [--fleet N] [--draws N]

Workloads are read from $CHANGEOVER_TRACES. Intervals are bootstrapped over days. Bounds are known
for fleets of 85 % of the peak need; for others, and for synth_s1, rho is the loss over that of
`reactive`, as if a clairvoyant lost nothing.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from changeover.models.workload import RecordedBoot, RecordedFleet, parse_events, parse_fleet
from changeover.policies.backtest.bootstrap import (
    day_totals,
    draws_of_days,
    interval,
    resampled_loss,
)
from changeover.policies.backtest.causes import Cause, Watched, failure_shares, watching
from changeover.policies.backtest.engine import replay
from changeover.policies.backtest.score import Score, score
from changeover.policies.balancing.history import Floats
from changeover.policies.balancing.registry import NAMES, factory

KNOWN = 85
"""Percent of the peak need, for which bounds are known."""
CELLS = ((10.0, 60.0), (10.0, 600.0), (120.0, 60.0), (120.0, 600.0))
"""Program seconds and patience in seconds."""
BOUNDS = {
    "dlrm_cn_a": (1.14, 0.68, 1.18, 0.73),
    "dlrm_hn_a": (0.0, 0.0, 0.0, 0.0),
    "genai_lease": (0.11, 0.08, 0.29, 0.27),
    "openb_vgpu": (0.07, 0.03, 0.07, 0.03),
}
"""The clairvoyant's loss in percent, by cell."""
REFERENCE = {
    "dlrm_cn_a": (25.1, 26.1, 33.6, 29.2),
    "dlrm_hn_a": (27.1, 23.8, 43.0, 28.3),
    "genai_lease": (16.6, 14.4, 28.1, 18.1),
    "openb_vgpu": (2.8, 3.0, 2.7, 3.5),
}
"""The loss of `reactive` in percent, by cell, to which rho refers."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy on one workload in one cell."""

    score: Score
    patience: float
    causes: dict[Cause, float]


def load(
    traces: Path, name: str, percent: int = KNOWN
) -> tuple[tuple[RecordedBoot, ...], RecordedFleet]:
    """Read a workload and its fleet of `percent` of the peak need."""
    with gzip.open(traces / f"{name}.events.csv.gz", "rt") as lines:
        boots = parse_events(lines)
    with gzip.open(traces / f"{name}.fleet_{percent}.csv.gz", "rt") as lines:
        return boots, parse_fleet(lines)


def measure(
    name: str, boots: Sequence[RecordedBoot], fleet: RecordedFleet, cell: tuple[float, float]
) -> Cell:
    """Replay one policy in one cell."""
    watched: list[Watched] = []
    make = watching(factory(name, boots, fleet, cell[1]), watched)
    result = replay(boots, fleet, make, program_seconds=cell[0], patience=cell[1])
    scored = score(boots, result.journal, cell[1])
    return Cell(scored, cell[1], failure_shares(scored, watched[0].causes))


def rho(loss: float, workload: str, cell: int) -> float:
    """Share of the avoidable loss of `reactive` that is left; `loss` as a fraction."""
    bound = BOUNDS[workload][cell]
    return (100 * loss - bound) / (REFERENCE[workload][cell] - bound)


def rhos(
    cells: Sequence[Cell], base: Sequence[Cell], workload: str, percent: int
) -> tuple[float, ...]:
    """Rho of each cell; the plain ratio of losses where no bound is known."""
    if percent == KNOWN and workload in BOUNDS:
        return tuple(rho(cell.score.loss, workload, i) for i, cell in enumerate(cells))
    return tuple(
        ours.score.loss / theirs.score.loss for ours, theirs in zip(cells, base, strict=True)
    )


def bounds(workload: str, percent: int) -> tuple[float, ...]:
    """The clairvoyant's loss in percent, by cell; 0 where it is not known."""
    return BOUNDS.get(workload, (0.0,) * len(CELLS)) if percent == KNOWN else (0.0,) * len(CELLS)


def rho_draws(
    cells: Sequence[Cell], base: Sequence[Cell], lowest: Sequence[float], draws: int
) -> Floats:
    """Mean rho over the cells, both policies over the same draws of days."""
    drawn = []
    for number, (ours, theirs) in enumerate(zip(cells, base, strict=True)):
        totals = day_totals(ours.score, ours.patience)
        counts = draws_of_days(len(totals.loss), draws, seed=1)
        bound = lowest[number] / 100
        reference = resampled_loss(day_totals(theirs.score, theirs.patience), counts)
        gap = np.maximum(reference - bound, 1e-6)
        drawn.append((resampled_loss(totals, counts) - bound) / gap)
    mean: Floats = np.mean(drawn, axis=0)
    return mean


def report(
    policy: str, workload: str, cells: Sequence[Cell], base: Sequence[Cell], percent: int
) -> None:
    """Print one policy's rows on one workload."""
    reached = rhos(cells, base, workload, percent)
    for number, (ours, theirs) in enumerate(zip(cells, base, strict=True)):
        totals = day_totals(ours.score, ours.patience)
        counts = draws_of_days(len(totals.loss), 500, seed=1)
        span = interval(resampled_loss(totals, counts))
        causes = " ".join(f"{100 * share:5.2f}" for share in ours.causes.values())
        ratio = ours.score.programs / theirs.score.programs
        more_abandoned = 100 * (ours.score.abandoned - theirs.score.abandoned)
        print(
            f"{workload:12s} {policy:11s} {CELLS[number][0]:4.0f} {CELLS[number][1]:4.0f} "
            f"L {100 * ours.score.loss:6.2f} [{100 * span.low:6.2f} {100 * span.high:6.2f}] "
            f"rho {reached[number]:5.3f} "
            f"programs {ours.score.programs:5d} x{ratio:4.2f} abandoned {more_abandoned:+6.2f} "
            f"thrash {ours.score.thrash:4.2f} failed: {causes}",
            flush=True,
        )


def main() -> int:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", action="append", choices=NAMES)
    parser.add_argument("--workload", action="append", choices=[*BOUNDS, "synth_s1"])
    parser.add_argument("--fleet", type=int, default=KNOWN, choices=(50, 70, 85, 95, 105))
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    if "CHANGEOVER_TRACES" not in os.environ:
        print("skipped: CHANGEOVER_TRACES does not say where the recorded workloads are")
        return 0
    traces = Path(os.environ["CHANGEOVER_TRACES"])
    policies = options.policy or list(NAMES)
    workloads = options.workload or list(BOUNDS)
    print("failed: percent of scored boots by cause:", "; ".join(Cause), end="\n\n")
    means: dict[str, list[float]] = {policy: [] for policy in policies}
    drawn: dict[str, list[Floats]] = {policy: [] for policy in policies}
    for workload in workloads:
        boots, fleet = load(traces, workload, options.fleet)
        base = [measure("reactive", boots, fleet, cell) for cell in CELLS]
        for policy in policies:
            cells = (
                base
                if policy == "reactive"
                else [measure(policy, boots, fleet, cell) for cell in CELLS]
            )
            report(policy, workload, cells, base, options.fleet)
            means[policy].append(sum(rhos(cells, base, workload, options.fleet)) / len(CELLS))
            lowest = bounds(workload, options.fleet)
            drawn[policy].append(rho_draws(cells, base, lowest, options.draws))
    print()
    for policy in policies:
        span = interval(np.mean(drawn[policy], axis=0))
        each = "  ".join(f"{w} {m:.3f}" for w, m in zip(workloads, means[policy], strict=True))
        mean = sum(means[policy]) / len(workloads)
        print(f"{policy:11s} rho {mean:.3f} [{span.low:.3f} {span.high:.3f}]  {each}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
