"""The outlook: what free slots of each function are worth, in the planner's own unit.

A forecast says how many boots will fail over ``span`` for want of one more free slot. That
expected loss becomes the weight of a slot in the planner: low, so that waiting boots and floors
come first, and growing slowly, so that a device is moved only to where it is worth many times
more than where it lies. The planner's own costs of a program are the hysteresis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from changeover.policies.balancing.forecast import Forecast, ForecastKnobs, forecast
from changeover.policies.balancing.history import DAY, DemandHistory, Floats

STEP = 0.025
"""Waiting boots; a slot's weight is ``STEP * ln(1 + 10 * lost boots a day)``."""

MOST = 0.19
"""Waiting boots; no forecast is worth a slot of a floor."""

LEAST = 0.01
"""Waiting boots; slots of less weight are not wanted."""

PRIOR_BURSTS = 2.0
"""How many bursts' worth of evidence a prior of the catalog counts for."""

QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Prior:
    """What the catalog expects of a function: bursts a second, and the slots of each."""

    rate: float
    slots: int


@dataclass(frozen=True, slots=True)
class Prospect:
    """The outlook of one function.

    ``bursts_a_day`` is the rate of bursts expected just now, ``slots`` the slots that suffice for
    one burst window with the probabilities :data:`QUANTILES`, ``lost_a_day`` the boots that fail
    if none is free, ``weights`` the worth of each free slot, most wanted first.
    ``prior`` is the share of the catalog's prior in it.
    """

    bursts_a_day: float
    slots: tuple[int, ...]
    lost_a_day: float
    holding_seconds: float
    weights: tuple[float, ...]
    prior: float

    def as_json(self) -> dict[str, Any]:
        """JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Prospect:
        """What :meth:`as_json` wrote."""
        return cls(**{**data, "slots": tuple(data["slots"]), "weights": tuple(data["weights"])})


def outlook(
    history: DemandHistory,
    priors: Mapping[str, Prior],
    most: Mapping[str, int],
    knobs: ForecastKnobs | None = None,
) -> dict[str, Prospect]:
    """The prospect of every function; ``most`` bounds how many slots of each may be wanted."""
    expected = forecast(history, knobs or ForecastKnobs())
    lost = expected.lost_boots(DAY)
    quantiles = [expected.quantile(share) for share in QUANTILES]
    shares = _prior_shares(history, priors)
    made = {}
    for i, name in enumerate(history.functions):
        row, rate = lost[i], float(expected.rates[i])
        slots = tuple(quantile[i] for quantile in quantiles)
        prior, share = priors.get(name), float(shares[i])
        if prior is not None and share > 0:
            # The first slots of each expected burst, as far as it reaches.
            of_prior = prior.rate * DAY * (np.arange(len(row)) < prior.slots)
            row = (1 - share) * row + share * of_prior
            rate = (1 - share) * rate + share * prior.rate
            slots = tuple(
                max(n, _poisson_slots(prior, expected, q) if share > 1 / 2 else n)
                for n, q in zip(slots, QUANTILES, strict=True)
            )
        weights = [round(weight_of(float(value)), 6) for value in row[: most.get(name, 0)]]
        made[name] = Prospect(
            bursts_a_day=rate * DAY,
            slots=slots,
            lost_a_day=float(row.sum()),
            holding_seconds=float(expected.holding[i]),
            weights=tuple(weight for weight in weights if weight >= LEAST),
            prior=share if prior is not None else 0.0,
        )
    return made


def weight_of(lost_a_day: float) -> float:
    """The worth of a slot that saves so many boots a day from failing."""
    return min(MOST, STEP * math.log1p(10.0 * max(0.0, lost_a_day)))


def _prior_shares(history: DemandHistory, priors: Mapping[str, Prior]) -> Floats:
    """How much of each prior is left: its bursts over these and what was seen or missed since."""
    shares = np.zeros(len(history.functions))
    if history.began is None:
        return np.ones(len(history.functions))
    seen = history.bursts[-1]
    filled = float(history.scales[-1])
    filled *= 1 - math.exp(-max(0.0, history.now - history.began) / filled)
    for i, name in enumerate(history.functions):
        prior = priors.get(name)
        if prior is not None:
            evidence = max(float(seen[i]), prior.rate * filled)
            shares[i] = PRIOR_BURSTS / (PRIOR_BURSTS + evidence)
    return shares


def _poisson_slots(prior: Prior, expected: Forecast, share: float) -> int:
    """Slots that suffice for one burst window under the prior alone."""
    mean = prior.rate * expected.window
    bursts, chance = 0, math.exp(-mean)
    total = chance
    while total < share and bursts < len(expected.exceed[0]):
        bursts += 1
        chance *= mean / bursts
        total += chance
    return bursts * prior.slots
