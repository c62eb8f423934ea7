"""Compares ways to forecast under the same balancer and budget, on the recorded workloads.

  python bench/forecasts.py

Two cells of each workload (10 s and 60 s; 120 s and 600 s), read from $CHANGEOVER_TRACES.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from backtest import BOUNDS, CELLS, load, rho

from changeover.policies.backtest.engine import replay
from changeover.policies.backtest.score import score
from changeover.policies.balancing.default import DefaultKnobs, DefaultPolicy
from changeover.policies.balancing.history import HistoryKnobs
from changeover.policies.balancing.policy import PolicyFactory

FIXED = 1e6
"""So many bursts' worth of prior evidence that nothing is learned."""


def fixed(*weights: float) -> HistoryKnobs:
    """A history that learns no weights."""
    return HistoryKnobs(prior_weights=weights, prior_bursts=FIXED, own_bursts=FIXED)


METHODS = {
    "popularity of a day, fixed": fixed(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0),
    "recency at five scales, fixed": fixed(0.11, 0.17, 0.17, 0.22, 0.33, 0.0, 0.0),
    "time of day, fixed": fixed(0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5),
    "all of it, fixed": fixed(*HistoryKnobs().prior_weights),
    "all of it, learned together": HistoryKnobs(own_bursts=FIXED),
    "all of it, learned (default)": HistoryKnobs(),
    "the same, sizes whatever recency": HistoryKnobs(soon=(0.0, 0.0)),
}


def with_history(knobs: HistoryKnobs) -> PolicyFactory:
    """The default policy on another history."""
    return lambda fleet, patience, seed: DefaultPolicy(
        fleet, patience, seed, DefaultKnobs(history=knobs)
    )


def main() -> int:
    """Run the table."""
    if "CHANGEOVER_TRACES" not in os.environ:
        print("CHANGEOVER_TRACES is not set: no recorded workloads to run over", file=sys.stderr)
        return 2
    traces = Path(os.environ["CHANGEOVER_TRACES"])
    workloads = {name: load(traces, name) for name in BOUNDS}
    for method, knobs in METHODS.items():
        row = []
        for name, (boots, fleet) in workloads.items():
            values = []
            for number in (0, 3):
                program_seconds, patience = CELLS[number]
                result = replay(
                    boots,
                    fleet,
                    with_history(knobs),
                    program_seconds=program_seconds,
                    patience=patience,
                )
                values.append(rho(score(boots, result.journal, patience).loss, name, number))
            row.append(sum(values) / len(values))
        each = " ".join(f"{value:.3f}" for value in row)
        print(f"{method:32s} rho {sum(row) / len(row):.3f}  {each}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
