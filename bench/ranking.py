"""Ranks functions by who is asked for next, to see how well the past alone foretells it.

  python bench/ranking.py [--workload NAME ...]

At the first boot of every burst all known functions are ranked, and as many as there are devices
without servers are laid out on these, at once and for free. A burst of a function without servers
that is not among them is missed. The rankings: by the last time asked for; by the default's
forecast; and by boosted trees that correct it (LightGBM's LambdaRank, where it is installed:
`pip install lightgbm`) by all that could be thought of, each half of the bursts ranked by what
was learned from the other half. Trees see the projects of boots, which no policy does. Workloads
are read from $CHANGEOVER_TRACES.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import heapq
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from backtest import BOUNDS, load

from changeover.policies.backtest.bootstrap import (
    DayTotals,
    draws_of_days,
    interval,
    resampled_loss,
)
from changeover.policies.balancing.forecast import ForecastKnobs
from changeover.policies.balancing.history import DAY, DemandHistory, Floats

try:
    import lightgbm
except ImportError:
    lightgbm = None

PROGRAM_SECONDS = 10.0
SKIPPED = 0.05
"""Share of the bursts before any is counted, as in the score."""
TOGETHER = 600.0
"""Seconds within which bursts of two functions count as one after the other."""
SESSIONS = (600.0, 1800.0, 7200.0)
"""Seconds for which a project is taken to be there after its last boot."""


@dataclass(frozen=True, slots=True)
class Bursts:
    """What was known at each burst: `features[burst, feature, function]`."""

    day: Floats
    function: Floats
    places: Floats
    """Devices without servers."""
    candidate: Floats
    """`candidate[burst, function]`: asked for before, and no servers now."""
    recency: Floats
    rates: Floats
    features: Floats


class Past:
    """All that could be thought of as foretelling who comes next, beside the demand history."""

    def __init__(self, functions: int, projects: int) -> None:
        """Begin empty."""
        self.last = np.full(functions, -1e9)
        self.first = np.full(functions, 1e9)
        self.gap = np.full(functions, 1e7)
        self.ended = np.full(functions, -1e9)
        self.total = np.zeros(functions)
        self.follows = np.zeros((functions, functions))
        self._recent: list[tuple[float, int]] = []
        self._asked = np.zeros((projects, functions))
        self._there = np.full(projects, -1e9)
        self._before = np.zeros(projects, dtype=int)
        self._next = np.zeros((functions, functions))

    def features(self, now: float, history: DemandHistory) -> Floats:
        """One row each: evidence, times since, sessions of projects, functions that go together."""
        rows = [np.log(row * DAY + 1e-3) for row in history.evidence(1800.0)]
        since = np.log(now - self.last + 1)
        rows += [since, np.log(self.gap + 1), since - np.log(self.gap + 1)]
        rows += [np.log(now - self.ended + 1), np.log(np.maximum(now - self.first, 0) + 1)]
        rows.append(np.log(self.total + 1))
        popular = self.total / max(1.0, self.total.sum())
        for session in SESSIONS:
            here = np.nonzero(self._there > now - session)[0]
            fresh = np.exp((self._there[here] - now) / session)
            own = self._asked[here] / np.maximum(self._asked[here].sum(axis=1, keepdims=True), 1)
            after = self._next[self._before[here]] + 3 * popular
            after /= np.maximum(after.sum(axis=1, keepdims=True), 1e-9)
            rows += [np.log(fresh @ own + 1e-3), np.log(fresh @ after + 1e-4)]
            # How much those who are there try out: the same for all functions.
            tried = (self._asked[here] > 0).sum(axis=1) / np.maximum(
                self._asked[here].sum(axis=1), 1
            )
            rows.append(np.full(len(self.last), np.log(fresh @ tried + 1e-2)))
        self._recent = [(when, f) for when, f in self._recent if when > now - TOGETHER]
        before = sorted({f for _, f in self._recent})
        together = (self.follows[before] / (self.total[before, None] + 5)).sum(axis=0)
        return np.array([*rows, np.log(together + 1e-3)], dtype=np.float32)

    def burst(self, now: float, function: int) -> None:
        """A burst of the function began."""
        if self.total[function]:
            self.gap[function] = now - self.last[function]
        self.first[function] = min(self.first[function], now)
        self.total[function] += 1
        for before in {f for when, f in self._recent if when > now - TOGETHER}:
            self.follows[before, function] += 1
        self._recent.append((now, function))

    def boot(self, now: float, function: int, project: int) -> None:
        """A boot of a project asked for the function."""
        if self._there[project] > now - SESSIONS[-1]:
            self._next[self._before[project], function] += 1
        self._asked[project, function] += 1
        self._there[project], self._before[project] = now, function
        self.last[function] = now


def gather(traces: Path, name: str) -> Bursts:
    """Run over the workload, every boot with room, and note what was known at each burst."""
    _, fleet = load(traces, name)
    number = {function: i for i, function in enumerate(fleet.functions)}
    slots = np.maximum(np.array(fleet.slots).max(axis=0), 1)
    with gzip.open(traces / f"{name}.events.csv.gz", "rt") as lines:
        rows = sorted(csv.DictReader(lines), key=lambda row: float(row["arrival_s"]))
    projects = {row["project"]: 0 for row in rows}
    projects = {project: i for i, project in enumerate(projects)}
    history = DemandHistory(fleet.functions, PROGRAM_SECONDS)
    past = Past(len(number), len(projects))
    in_use = np.zeros(len(number))
    ends: list[tuple[float, int, int]] = []
    noted: list[tuple[Any, ...]] = []
    for row in rows:
        if row["function"] not in number:
            continue
        now, function, asked = (
            float(row["arrival_s"]),
            number[row["function"]],
            int(row["slots"]),
        )
        while ends and ends[0][0] <= now:
            when, ended, count = heapq.heappop(ends)
            in_use[ended] -= count
            past.ended[ended] = when
        history.advance(now)
        history.learn()
        if not history.burst_open[function]:
            if history.seen[function] and now > 0:
                places = len(fleet.devices) - np.ceil(in_use / slots).sum()
                candidate = (in_use == 0) & history.seen
                rates = history.rates(ForecastKnobs().horizon)
                features = past.features(now, history)
                noted.append(
                    (now // DAY, function, places, candidate, past.last.copy(), rates, features)
                )
            past.burst(now, function)
        history.observe(now, function, asked)
        past.boot(now, function, projects[row["project"]])
        in_use[function] += asked
        heapq.heappush(ends, (now + float(row["duration_s"]), function, asked))
    return Bursts(*(np.array(column) for column in zip(*noted, strict=True)))


def learned(bursts: Bursts) -> Floats:
    """The forecast, corrected by trees: each half of the bursts by what the other half taught."""
    count = len(bursts.function)
    forecast = np.log(bursts.rates + 1e-12)
    worth = forecast.copy()
    half = count // 2
    own = bursts.candidate[np.arange(count), bursts.function]
    for other, ranked in (
        (range(int(SKIPPED * count), half), range(half, count)),
        (range(half, count), range(half)),
    ):
        inputs, answers, begun, sizes = [], [], [], []
        for burst in other:
            if own[burst]:
                among = np.nonzero(bursts.candidate[burst])[0]
                inputs.append(bursts.features[burst][:, among].T)
                answers.append(among == bursts.function[burst])
                begun.append(forecast[burst, among])
                sizes.append(len(among))
        data = lightgbm.Dataset(
            np.concatenate(inputs),
            np.concatenate(answers).astype(int),
            group=sizes,
            init_score=np.concatenate(begun),
        )
        knobs = {
            "objective": "lambdarank",
            "learning_rate": 0.03,
            "num_leaves": 15,
            "min_data_in_leaf": 100,
            "lambda_l2": 5,
            "feature_fraction": 0.7,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "num_threads": 1,
            "seed": 1,
            "verbose": -1,
        }
        trees = lightgbm.train(knobs, data, 150)
        asked = bursts.features[ranked.start : ranked.stop]
        flat = asked.transpose(0, 2, 1).reshape(-1, asked.shape[1])
        worth[ranked.start : ranked.stop] += trees.predict(flat, num_threads=1).reshape(
            len(asked), -1
        )
    return worth


def report(bursts: Bursts, worth: Floats, label: str) -> None:
    """Print the share of bursts that the ranking misses, with an interval by day."""
    count = len(bursts.function)
    counted = np.arange(count) >= SKIPPED * count
    placed = np.where(bursts.candidate, worth, -np.inf)
    own = placed[np.arange(count), bursts.function]
    before = (placed > own[:, None]).sum(axis=1)
    missed = bursts.candidate[np.arange(count), bursts.function] & (before >= bursts.places)
    days = bursts.day.astype(int)[counted]
    totals = DayTotals(np.bincount(days, missed[counted]), np.bincount(days).astype(float))
    span = interval(resampled_loss(totals, draws_of_days(len(totals.loss), 1000, seed=1)))
    print(
        f"  {label:28s} missed {100 * missed[counted].mean():5.2f} % of bursts "
        f"[{100 * span.low:5.2f} {100 * span.high:5.2f}]",
        flush=True,
    )


def main() -> int:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", action="append", choices=list(BOUNDS))
    options = parser.parse_args()
    if "CHANGEOVER_TRACES" not in os.environ:
        print("CHANGEOVER_TRACES is not set: no recorded workloads to run over", file=sys.stderr)
        return 2
    for name in options.workload or list(BOUNDS):
        bursts = gather(Path(os.environ["CHANGEOVER_TRACES"]), name)
        print(f"{name}: {len(bursts.function)} bursts of functions asked for before")
        report(bursts, bursts.recency, "most recently asked for")
        report(bursts, bursts.rates, "the default's forecast")
        if lightgbm is not None:
            report(bursts, learned(bursts), "corrected by trees")
    return 0


if __name__ == "__main__":
    sys.exit(main())
