"""Forecasts from a demand history: how often free slots will not do, what one more is worth.

Bursts of a function come at a rate (the history's evidence, weighted as learned); the slots that
are asked for within one burst window are compound Poisson over that rate and the function's
burst sizes. The window is the time that the fleet needs to answer: whatever grows more slowly
can be programmed for when it shows, so only what comes within one window needs slots that are
already there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from changeover.policies.balancing.history import DemandHistory, Floats

_RARE = 0.03
"""Bursts in one window up to which a second one is neglected."""


@dataclass(frozen=True, slots=True)
class ForecastKnobs:
    """How far a forecast looks, and how much it trusts one function's own past."""

    horizon: float = 2 * 3600.0
    """Seconds over which rates are averaged."""
    size_shrink: float = 16.0
    """Bursts of a function that weigh as much as the burst sizes of all functions together."""
    most_slots: int = 64
    """Slots up to which distributions are computed."""
    burst_fade: float = 10.0
    """Time constant in seconds after which an open burst is believed over."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of each function (rows) from now on."""

    rates: Floats
    """Bursts a second."""
    exceed: Floats
    """`exceed[f, c]`: probability that more than c slots are asked for within one burst window."""
    remainder: Floats
    """`remainder[f, c]`: probability that an open burst brings more than c further slots, later
    than a program begun now would be ready."""
    boots: Floats
    """`boots[f, c]`: boots for each of the slots by which a burst exceeds c."""
    holding: Floats
    """Seconds for which a slot is held, mean."""
    window: float
    """The burst window in seconds."""

    def lost_boots(self, span: float) -> Floats:
        """Boots that fail over `span` seconds for want of the (c+1)-th free slot: `[f, c]`.

        A boot of several slots counts in equal parts for each: what they are worth together.
        """
        lost: Floats = (self.exceed * (span / self.window) + self.remainder) * self.boots
        return lost

    def quantile(self, share: float) -> list[int]:
        """Slots that suffice for one window with probability `share`, per function."""
        enough = self.exceed <= 1 - share
        return [int(row.argmax()) if row.any() else self.exceed.shape[1] for row in enough]


def forecast(history: DemandHistory, knobs: ForecastKnobs) -> Forecast:
    """Forecast from the history as of its own `now`."""
    return forecast_at(history, history.rates(knobs.horizon), knobs)


def forecast_at(history: DemandHistory, rates: Floats, knobs: ForecastKnobs) -> Forecast:
    """Forecast from the history's burst sizes and given rates of bursts, per function."""
    shares = history.size_shares(knobs.size_shrink)
    exceed = _exceedance(rates * history.burst_window, shares, knobs.most_slots)
    remainder = np.zeros_like(exceed)
    delay = history.burst_window - history.knobs.burst_margin
    for function in np.nonzero(history.burst_open)[0]:
        so_far = min(int(history.burst_slots[function]), shares.shape[1] - 1)
        tail = shares[function, so_far:]
        quiet = history.now - history.last_arrival[function] + delay
        going_on = np.exp(-quiet / knobs.burst_fade)
        beyond = 1 - np.cumsum(tail) / max(float(tail.sum()), 1e-12)
        remainder[function, : len(beyond)] = going_on * np.clip(beyond, 0, 1)
    boots = np.ones_like(exceed)
    a_slot = history.boots_a_slot()[:, : knobs.most_slots]
    boots[:, : a_slot.shape[1]] = a_slot
    return Forecast(
        rates, exceed, remainder, boots, history.holding_seconds(), history.burst_window
    )


def _exceedance(bursts: Floats, shares: Floats, most: int) -> Floats:
    """P(slots > c), c = 0 .. most-1, of a compound Poisson sum.

    Where two bursts in one window are unlikely, the first burst decides; elsewhere the whole
    distribution is computed by its characteristic function, over twice the range, so that what
    wraps around is negligible.
    """
    exceed = np.zeros((shares.shape[0], most))
    beyond = np.clip(1 - np.cumsum(shares, axis=1), 0, 1)[:, :most]
    exceed[:, : beyond.shape[1]] = -np.expm1(-bursts[:, None] * beyond)
    often = np.nonzero(bursts > _RARE)[0]
    if len(often):
        length = 2 * most
        transform = np.exp(bursts[often, None] * (np.fft.rfft(shares[often], length, axis=1) - 1))
        mass = np.fft.irfft(transform, length, axis=1)
        exceed[often] = np.clip(1 - np.cumsum(mass, axis=1)[:, :most], 0, 1)
    return exceed
