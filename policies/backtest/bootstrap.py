"""Intervals by day: days of a recording are drawn anew, losses are taken over the draws.

Failures come in storms, so boots are not independent; days nearly are (Efron and Tibshirani
1993, ch. 8, blocks). Both policies of a ratio are scored over the same draw of days.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from changeover.policies.backtest.score import TICK, Score
from changeover.policies.balancing.history import DAY, Floats


@dataclass(frozen=True, slots=True)
class Interval:
    """A central interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DayTotals:
    """Loss and boots, day by day."""

    loss: Floats
    boots: Floats


def day_totals(score: Score, patience: float) -> DayTotals:
    """Sum each scored boot's loss over the days of arrival."""
    days = 1 + max((int(boot.arrival / DAY) for boot in score.boots), default=0)
    loss, boots = np.zeros(days), np.zeros(days)
    for boot in score.boots:
        day = int(boot.arrival / DAY)
        loss[day] += (boot.wait > TICK) + boot.wait / patience
        boots[day] += 1
    return DayTotals(loss, boots)


def draws_of_days(days: int, draws: int, seed: int) -> Floats:
    """How often each day is drawn, a row for each draw."""
    chance = np.random.default_rng(seed)
    counts: Floats = chance.multinomial(days, [1 / days] * days, size=draws).astype(np.float64)
    return counts


def resampled_loss(totals: DayTotals, counts: Floats) -> Floats:
    """L for each draw of days."""
    losses: Floats = (counts @ totals.loss) / np.maximum(counts @ totals.boots, 1.0)
    return losses


def interval(values: Sequence[float] | Floats, share: float = 0.95) -> Interval:
    """The central `share` of the values."""
    tail = (1 - share) / 2
    low, high = np.quantile(np.asarray(values), [tail, 1 - tail])
    return Interval(float(low), float(high))
