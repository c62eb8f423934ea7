"""What limits the default policy: the same decisions with more knowledge, or with more programs.

  python bench/limits.py [--workload NAME ...]

Two cells of each workload (10 s and 60 s; 120 s and 600 s), read from $CHANGEOVER_TRACES. What
is known of the future here is known to no policy: these rows are yardsticks.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from backtest import BOUNDS, CELLS, load, rho

from changeover.models.workload import RecordedBoot, RecordedFleet
from changeover.policies.backtest.causes import Cause, Watched, failure_shares, watching
from changeover.policies.backtest.engine import replay
from changeover.policies.backtest.score import score
from changeover.policies.balancing.balance import BalanceKnobs
from changeover.policies.balancing.default import DefaultKnobs, DefaultPolicy, Foresee
from changeover.policies.balancing.forecast import Forecast, ForecastKnobs, forecast, forecast_at
from changeover.policies.balancing.history import DemandHistory, HistoryKnobs

HOUR = 3600.0
FREE = DefaultKnobs(
    budget=1e6, pressure=0.0, tick=60.0, balance=BalanceKnobs(price=0.02, at_once=8, dwell=0.0)
)
"""Programs cost nothing and are not counted."""
VARIANTS: dict[str, tuple[DefaultKnobs, float | None]] = {
    "default": (DefaultKnobs(), None),
    "programs without limit": (FREE, None),
    "bursts of the next 8 h known": (DefaultKnobs(), 8 * HOUR),
    "bursts of the next 2 h known": (DefaultKnobs(), 2 * HOUR),
    "bursts of the next 30 min known": (DefaultKnobs(), HOUR / 2),
}
"""Knobs, and for how many seconds the number of bursts of each function is known."""


def knowing(
    boots: Sequence[RecordedBoot], functions: Sequence[str], window: float, seconds: float
) -> Foresee:
    """A forecast whose rates are the true counts of bursts in the next `seconds`, on average."""
    number = {name: i for i, name in enumerate(functions)}
    times: list[list[float]] = [[] for _ in functions]
    for boot in boots:
        own = times[number[boot.function]] if boot.function in number else []
        if not own or boot.arrival - own[-1] > window:
            own.append(boot.arrival)
    bursts = [np.array(own) for own in times]

    def foresee(history: DemandHistory, knobs: ForecastKnobs) -> Forecast:
        ahead = np.array([history.now, history.now + seconds])
        counts = [float(np.diff(own.searchsorted(ahead, "right"))[0]) for own in bursts]
        # A function that will not be asked for is still worth more than none.
        return forecast_at(history, np.array(counts) / seconds + 1e-9, knobs)

    return foresee


def measure(
    name: str,
    boots: Sequence[RecordedBoot],
    fleet: RecordedFleet,
    cell: int,
    variant: str,
) -> tuple[float, int, dict[Cause, float]]:
    """Rho, programs and the causes of failures of one variant in one cell."""
    program_seconds, patience = CELLS[cell]
    knobs, seconds = VARIANTS[variant]
    foresee = forecast
    if seconds is not None:
        window = program_seconds + HistoryKnobs().burst_margin
        foresee = knowing(boots, fleet.functions, window, seconds)
    watched: list[Watched] = []
    make = watching(lambda f, p, s: DefaultPolicy(f, p, s, knobs, foresee), watched)
    journal = replay(boots, fleet, make, program_seconds=program_seconds, patience=patience).journal
    scored = score(boots, journal, patience)
    causes = failure_shares(scored, watched[0].causes)
    return rho(scored.loss, name, cell), scored.programs, causes


def main() -> int:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", action="append", choices=list(BOUNDS))
    options = parser.parse_args()
    if "CHANGEOVER_TRACES" not in os.environ:
        print("CHANGEOVER_TRACES is not set: no recorded workloads to run over", file=sys.stderr)
        return 2
    print("failed: percent of scored boots by cause:", "; ".join(Cause), end="\n\n")
    names = options.workload or list(BOUNDS)
    workloads = {name: load(Path(os.environ["CHANGEOVER_TRACES"]), name) for name in names}
    for variant in VARIANTS:
        row = []
        for name, (boots, fleet) in workloads.items():
            cells = [measure(name, boots, fleet, cell, variant) for cell in (0, 3)]
            row.append(sum(cell[0] for cell in cells) / len(cells))
            for (_, programs, causes), cell in zip(cells, (0, 3), strict=True):
                failed = " ".join(f"{100 * share:5.2f}" for share in causes.values())
                place = f"{CELLS[cell][0]:4.0f} {CELLS[cell][1]:4.0f}"
                print(f"  {name:12s} {place} programs {programs:5d} failed: {failed}", flush=True)
        each = " ".join(f"{value:.3f}" for value in row)
        print(f"{variant:32s} rho {sum(row) / len(row):.3f}  {each}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
