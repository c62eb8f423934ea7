"""What limits the default policy: the same decisions with more knowledge, or with better programs.

  python bench/limits.py [--workload NAME ...] [--variant NAME ...]

Two cells of each workload (10 s and 60 s; 120 s and 600 s), read from $CHANGEOVER_TRACES. What
is known of the future here is known to no policy: these rows are yardsticks.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from backtest import BOUNDS, CELLS, load, rho

from changeover.models.workload import RecordedBoot, RecordedFleet
from changeover.policies.backtest.causes import Cause, Watched, failure_shares, watching
from changeover.policies.backtest.engine import replay
from changeover.policies.backtest.score import score
from changeover.policies.balancing.balance import BalanceKnobs
from changeover.policies.balancing.default import DefaultKnobs, DefaultPolicy, Foresee
from changeover.policies.balancing.fleet import FleetState, News
from changeover.policies.balancing.forecast import Forecast, ForecastKnobs, forecast, forecast_at
from changeover.policies.balancing.history import DemandHistory, HistoryKnobs
from changeover.policies.balancing.policy import Decision, Policy

HOUR = 3600.0
FREE = DefaultKnobs(
    budget=1e6, pressure=0.0, tick=60.0, balance=BalanceKnobs(price=0.02, at_once=8, dwell=0.0)
)
"""Programs cost nothing and are not counted."""
AT_ONCE = replace(
    FREE,
    settle=0.0,
    budget=1e4,
    balance=BalanceKnobs(price=0.001, at_once=40, dwell=-1.0),
)
"""The same, and what is ready at once may be moved again at once."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The default policy with other knobs, more knowledge or better programs."""

    knobs: DefaultKnobs = field(default_factory=DefaultKnobs)
    seconds: float | None = None
    """For how long the number of bursts of each function is known."""
    at_once: bool = False
    """Forecast programs take no time and are not counted."""


VARIANTS = {
    "default": Variant(),
    "programs without limit": Variant(FREE),
    "forecast programs free, at once": Variant(AT_ONCE, at_once=True),
    "bursts of the next 4 days known": Variant(seconds=96 * HOUR),
    "bursts of the next 2 days known": Variant(seconds=48 * HOUR),
    "bursts of the next day known": Variant(seconds=24 * HOUR),
    "bursts of the next 8 h known": Variant(seconds=8 * HOUR),
    "bursts of the next 2 h known": Variant(seconds=2 * HOUR),
    "bursts of the next 30 min known": Variant(seconds=HOUR / 2),
}


class AtOnce:
    """The default policy, whose forecast programs are done the moment they are decided.

    It changes the fleet, which no policy may: a yardstick. Programs for boots that failed take
    their time, and a function whose burst has begun gets nothing at once, or the first boot of a
    batch would bring in the room for all the others.
    """

    def __init__(self, fleet: FleetState, patience: float, seed: int, knobs: DefaultKnobs) -> None:
        """Wrap a default policy."""
        self._policy = DefaultPolicy(fleet, patience, seed, knobs, self._foresee)
        self._open: set[int] = set()

    def _foresee(self, history: DemandHistory, knobs: ForecastKnobs) -> Forecast:
        self._open = {int(function) for function in np.nonzero(history.burst_open)[0]}
        expected = forecast(history, knobs)
        return replace(expected, remainder=np.zeros_like(expected.remainder))

    def decide(self, now: float, fleet: FleetState, news: News) -> Decision:
        """Decide, and do at once what the forecast alone asked for."""
        decision = self._policy.decide(now, fleet, news)
        slow = []
        for program in decision.programs:
            if not program.reason.startswith("forecast"):
                slow.append(program)
            elif program.function not in self._open:
                fleet.install(program.device, program.function, 0.0)
        return Decision(slow, decision.wake_at)


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
    chosen = VARIANTS[variant]
    foresee = forecast
    if chosen.seconds is not None:
        window = program_seconds + HistoryKnobs().burst_margin
        foresee = knowing(boots, fleet.functions, window, chosen.seconds)

    def build(state: FleetState, patience: float, seed: int) -> Policy:
        if chosen.at_once:
            return AtOnce(state, patience, seed, chosen.knobs)
        return DefaultPolicy(state, patience, seed, chosen.knobs, foresee)

    watched: list[Watched] = []
    make = watching(build, watched)
    journal = replay(boots, fleet, make, program_seconds=program_seconds, patience=patience).journal
    scored = score(boots, journal, patience)
    causes = failure_shares(scored, watched[0].causes)
    return rho(scored.loss, name, cell), scored.programs, causes


def main() -> int:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", action="append", choices=list(BOUNDS))
    parser.add_argument("--variant", action="append", choices=list(VARIANTS))
    options = parser.parse_args()
    if "CHANGEOVER_TRACES" not in os.environ:
        print("CHANGEOVER_TRACES is not set: no recorded workloads to run over", file=sys.stderr)
        return 2
    print("failed: percent of scored boots by cause:", "; ".join(Cause), end="\n\n")
    names = options.workload or list(BOUNDS)
    workloads = {name: load(Path(os.environ["CHANGEOVER_TRACES"]), name) for name in names}
    for variant in options.variant or VARIANTS:
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
