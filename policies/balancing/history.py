"""Compact demand history: what a forecast remembers of all boots that ever asked.

Boots of a function that come close together are one *burst*: its first boot within `burst_window`
seconds opens it. Kept per function, in bounded memory: exponentially decayed counts of bursts at
several time scales, counts by the time of day, and a decayed histogram of burst sizes in slots,
with how many boots these slots were asked for by. Kept of all functions together: how large
bursts are that follow soon, later or long after the one before.
The history learns online how much weight each kind of evidence deserves (see `learn`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY = 86400.0
LONG_AGO = -1e18
_FEW_BINS = 4
_FIRST = 3
"""The row of first bursts among the pooled sizes: after those that came soon, later, long after."""
_SINGLE = 0.02
"""Bursts of single boots that are taken for seen; they decide only where none was."""


@dataclass(frozen=True, slots=True)
class HistoryKnobs:
    """What is remembered, and how fast it is forgotten."""

    scales: tuple[float, ...] = (900.0, 3600.0, 4 * 3600.0, DAY, 7 * DAY)
    """Time constants in seconds of the decayed burst counts, ascending."""
    prior_weights: tuple[float, ...] = (0.10, 0.15, 0.15, 0.20, 0.30, 0.15, 0.15)
    """Weight of each evidence before anything is learned: one for each scale, then the
    function's own time of day, then its long popularity at the fleet's time of day."""
    prior_bursts: float = 20.0
    """How many bursts' worth of evidence the prior weights count for."""
    own_bursts: float = 10.0
    """How many bursts' worth of a function's own evidence the shared weights count for."""
    season_bins: int = 48
    """Bins a day."""
    season_keep: float = 0.75
    """Share of a bin's count that is kept from one day to the next."""
    largest_burst: int = 32
    """Bursts of more slots are counted as this many."""
    size_keep: float = 0.97
    """Share of a function's size histogram that is kept at each further burst."""
    pool_keep: float = 0.999
    """The same for the histograms of all functions together."""
    soon: tuple[float, float] = (3600.0, 4 * 3600.0)
    """Seconds since its last burst up to which a function's next one comes soon, or later."""
    burst_margin: float = 7.0
    """Seconds beyond the programming time during which boots count as one burst: what it takes
    to see a boot fail and to begin a program."""


class DemandHistory:
    """The memory of one fleet's demand; explicit state, changed only by its methods."""

    def __init__(
        self,
        functions: Sequence[str],
        program_seconds: float,
        knobs: HistoryKnobs | None = None,
    ) -> None:
        """Begin empty; the catalog's functions are known, their demand is not."""
        self.knobs = knobs or HistoryKnobs()
        self.functions = tuple(functions)
        self.burst_window = program_seconds + self.knobs.burst_margin
        size = len(self.functions)
        self.scales = np.array(self.knobs.scales)
        self.began: float | None = None
        self.now = 0.0
        self.bursts = np.zeros((len(self.scales), size))
        self.seen = np.zeros(size, dtype=bool)
        self.burst_began = np.full(size, LONG_AGO)
        self.last_arrival = np.full(size, LONG_AGO)
        self.burst_slots = np.zeros(size, dtype=np.int64)
        self.burst_boots = np.zeros(size, dtype=np.int64)
        self.burst_open = np.zeros(size, dtype=bool)
        self.sizes = np.zeros((size, self.knobs.largest_burst + 1))
        # Of the bursts of each size: boots for each slot, summed as `sizes` counts the bursts.
        self.boots = np.zeros_like(self.sizes)
        # Rows: bursts that came soon after the one before, later, long after, and first bursts.
        self.pooled_sizes = np.zeros((_FIRST + 1, self.knobs.largest_burst + 1))
        # Before the first burst is seen: mostly single boots, seldom a few.
        self.pooled_sizes[:, 1:4] = (2.0, 0.5, 0.2)
        self.burst_recency = np.full(size, _FIRST)
        self.season = np.zeros((self.knobs.season_bins, size))
        self.season_days = np.zeros(self.knobs.season_bins)
        prior = np.array(self.knobs.prior_weights)
        self.credit = prior * self.knobs.prior_bursts
        self.exposure = np.full(len(prior), float(self.knobs.prior_bursts))
        self.own_credit = np.zeros((len(prior), size))
        self.own_exposure = np.zeros((len(prior), size))
        self.in_use = np.zeros(size)
        self.use_seconds = np.zeros(size)
        self.departed = np.zeros(size)
        self._learned_at = 0.0

    @property
    def weights(self) -> Floats:
        """The learned weight of each evidence: bursts that it explained over bursts it foretold."""
        weights: Floats = self.credit / self.exposure
        return weights

    @property
    def own_weights(self) -> Floats:
        """The same for each function: what it taught by itself, shrunk towards all functions'."""
        prior = self.knobs.own_bursts
        weights: Floats = (prior * self.weights[:, None] + self.own_credit) / (
            prior + self.own_exposure
        )
        return weights

    def rates(self, horizon: float) -> Floats:
        """Bursts a second of each function, expected over `horizon` seconds."""
        rates: Floats = (self.own_weights * self.evidence(horizon)).sum(axis=0)
        return rates

    def advance(self, now: float) -> None:
        """Let time pass: counts decay, days turn, bursts close."""
        elapsed = now - self.now
        if self.began is None or elapsed <= 0:
            return
        self.use_seconds += self.in_use * elapsed
        self.bursts *= np.exp(-elapsed / self.scales)[:, None]
        width = DAY / self.knobs.season_bins
        for turn in range(int(self.now / width) + 1, int(now / width) + 1):
            number = turn % self.knobs.season_bins
            self.season[number] *= self.knobs.season_keep
            self.season_days[number] = self.season_days[number] * self.knobs.season_keep + 1
        self.now = now
        for function in np.nonzero(self.burst_open & (now - self.burst_began > self.burst_window))[
            0
        ]:
            self._close(int(function))

    def observe(self, now: float, function: int, slots: int) -> None:
        """Count a boot, failed or not."""
        if self.began is None:
            self.began = self.now = self._learned_at = now
            self.season_days[self._bin(now)] += 1
        self.advance(now)
        if self.burst_open[function]:
            self.burst_slots[function] += slots
            self.burst_boots[function] += 1
        else:
            self._credit(function)
            self.burst_recency[function] = self._recency()[function]
            self.burst_open[function] = True
            self.burst_began[function] = now
            self.burst_slots[function] = slots
            self.burst_boots[function] = 1
            self.bursts[:, function] += 1
            self.season[self._bin(now), function] += 1
            self.seen[function] = True
        self.last_arrival[function] = now

    def account(
        self, now: float, in_use: Sequence[int], departed: Sequence[tuple[int, int]]
    ) -> None:
        """Note the slots in use from now on, and (function, slots) of servers that just ended."""
        self.advance(now)
        self.in_use[:] = in_use
        for function, slots in departed:
            self.departed[function] += slots

    def holding_seconds(self) -> Floats:
        """Mean time for which a slot is held (Little's law), shrunk towards the fleet's mean."""
        pooled = (self.use_seconds.sum() + 3600.0) / (self.departed.sum() + 1.0)
        held: Floats = (self.use_seconds + 2 * pooled) / (self.departed + 2)
        return held

    def evidence(self, horizon: float) -> Floats:
        """Bursts a second that each evidence foretells for each function, over `horizon` seconds.

        Rows as in `prior_weights`. A decayed count foretells the rate at which it was filled,
        fading with its own time constant; recent scales say little about a long horizon.
        """
        began = self.began if self.began is not None else self.now
        # A short history must not make its few bursts look like a high rate.
        age = max(self.now - began, 3600.0)
        filled = self.scales * (1 - np.exp(-age / self.scales))
        rates = self.bursts / filled[:, None]
        fade = self.scales / horizon * (1 - np.exp(-horizon / self.scales))
        if age < 0.75 * DAY:
            own = by_hour = rates[-2]
        else:
            chosen = self._bins(horizon)
            days = max(float(self.season_days[chosen].sum()), 1e-9)
            width = DAY / self.knobs.season_bins
            own = self.season[chosen].sum(axis=0) / (days * width)
            usual = float(self.season.sum()) / max(float(self.season_days.sum()), 1e-9)
            here = float(self.season[chosen].sum()) / days
            # Shrunk a little towards the usual: a silent hour may be chance.
            by_hour = rates[-1] * (here + 0.2 * usual) / (1.2 * usual)
        return np.vstack([rates * fade[:, None], own[None], by_hour[None]])

    def learn(self) -> None:
        """Charge each evidence with the bursts that it foretold since the last call.

        With `observe`, which credits each evidence with its share of every burst that came, this is
        one step of expectation-maximisation for a sum of intensities (a Hawkes process with pooled
        weights; Veen and Schoenberg 2008), done online: once for all functions together, once for
        each by itself.
        """
        elapsed = self.now - self._learned_at
        if self.began is None or elapsed <= 0:
            return
        foretold = self.evidence(self.burst_window) * elapsed
        self.exposure += foretold.sum(axis=1)
        self.own_exposure += foretold
        self._learned_at = self.now

    def size_shares(self, shrink: float) -> Floats:
        """Distribution of burst sizes per function, shrunk towards all functions' together.

        Towards bursts of like recency: what was asked for within the hour grows, comes in batches
        and rolls out; what nobody asked for since yesterday begins with a single boot.
        """
        pooled = self.pooled_sizes / self.pooled_sizes.sum(axis=1, keepdims=True)
        recency = np.where(self.burst_open, self.burst_recency, self._recency())
        counts = self.sizes + shrink * pooled[recency]
        shares: Floats = counts / counts.sum(axis=1, keepdims=True)
        return shares

    def boots_a_slot(self) -> Floats:
        """`[f, c]`: boots for each slot of the bursts of more than c slots; 1 where none was seen.

        A boot that needs eight slots fails once for want of any of them.
        """
        share: Floats = (_beyond(self.boots) + _SINGLE) / (_beyond(self.sizes) + _SINGLE)
        return share

    def to_dict(self) -> dict[str, object]:
        """All of it, as JSON can hold it."""
        return {
            "functions": list(self.functions),
            "began": self.began,
            "now": self.now,
            "learned_at": self._learned_at,
            "credit": self.credit.tolist(),
            "exposure": self.exposure.tolist(),
            "pooled_sizes": self.pooled_sizes.tolist(),
            "season_days": self.season_days.tolist(),
            "by_function": {
                name: {
                    "bursts": self.bursts[:, i].tolist(),
                    "seen": bool(self.seen[i]),
                    "burst_began": float(self.burst_began[i]),
                    "last_arrival": float(self.last_arrival[i]),
                    "burst_slots": int(self.burst_slots[i]),
                    "burst_boots": int(self.burst_boots[i]),
                    "burst_open": bool(self.burst_open[i]),
                    "sizes": self.sizes[i].tolist(),
                    "boots": self.boots[i].tolist(),
                    "season": self.season[:, i].tolist(),
                    "in_use": float(self.in_use[i]),
                    "use_seconds": float(self.use_seconds[i]),
                    "departed": float(self.departed[i]),
                    "burst_recency": int(self.burst_recency[i]),
                    "credit": self.own_credit[:, i].tolist(),
                    "exposure": self.own_exposure[:, i].tolist(),
                }
                for i, name in enumerate(self.functions)
            },
        }

    def restore(self, saved: Mapping[str, object]) -> None:
        """Take over what `to_dict` gave; functions that left the catalog are forgotten."""
        began = saved["began"]
        self.began = None if began is None else _number(began)
        self.now = _number(saved["now"])
        self._learned_at = _number(saved["learned_at"])
        self.credit = np.array(saved["credit"], dtype=np.float64)
        self.exposure = np.array(saved["exposure"], dtype=np.float64)
        # What was saved before recency was told apart is taken for every recency.
        self.pooled_sizes[:] = np.array(saved["pooled_sizes"], dtype=np.float64)
        self.season_days = np.array(saved["season_days"], dtype=np.float64)
        by_function = saved["by_function"]
        if not isinstance(by_function, Mapping):
            raise TypeError("by_function must be a mapping")
        for i, name in enumerate(self.functions):
            kept = by_function.get(name)
            if kept is None:
                continue
            self.bursts[:, i] = kept["bursts"]
            self.seen[i] = kept["seen"]
            self.burst_began[i] = kept["burst_began"]
            self.last_arrival[i] = kept["last_arrival"]
            self.burst_slots[i] = kept["burst_slots"]
            # What was saved before boots were counted took each slot for one boot.
            self.burst_boots[i] = kept.get("burst_boots", kept["burst_slots"])
            self.burst_open[i] = kept["burst_open"]
            self.sizes[i] = kept["sizes"]
            self.boots[i] = kept.get("boots", kept["sizes"])
            self.season[:, i] = kept["season"]
            self.in_use[i] = kept["in_use"]
            self.use_seconds[i] = kept["use_seconds"]
            self.departed[i] = kept["departed"]
            self.burst_recency[i] = kept.get("burst_recency", _FIRST)
            self.own_credit[:, i] = kept.get("credit", 0.0)
            self.own_exposure[:, i] = kept.get("exposure", 0.0)

    def _credit(self, function: int) -> None:
        if not self.seen[function]:
            # No evidence could foretell a function that nobody ever asked for.
            return
        shares = (self.evidence(self.burst_window) * self.own_weights)[:, function]
        total = float(shares.sum())
        if total > 0:
            self.credit += shares / total
            self.own_credit[:, function] += shares / total

    def _recency(self) -> NDArray[np.int64]:
        """The row of `pooled_sizes` of each function's next burst, if it began now."""
        recency = np.searchsorted(self.knobs.soon, self.now - self.burst_began, side="right")
        return np.where(self.seen, recency, _FIRST)

    def _close(self, function: int) -> None:
        size = min(int(self.burst_slots[function]), self.knobs.largest_burst)
        self.sizes[function] *= self.knobs.size_keep
        self.sizes[function, size] += 1
        self.boots[function] *= self.knobs.size_keep
        self.boots[function, size] += self.burst_boots[function] / self.burst_slots[function]
        pool = self.pooled_sizes[self.burst_recency[function]]
        pool *= self.knobs.pool_keep
        pool[size] += 1
        self.burst_open[function] = False

    def _bin(self, now: float) -> int:
        return int(now / (DAY / self.knobs.season_bins)) % self.knobs.season_bins

    def _bins(self, horizon: float) -> NDArray[np.int64]:
        """The bins of the coming horizon; one earlier too where it is short, against jitter."""
        width = DAY / self.knobs.season_bins
        count = min(self.knobs.season_bins, max(1, round(horizon / width)) + 1)
        first = int(self.now / width)
        early = 1 if count < _FEW_BINS else 0
        return np.arange(first - early, first + count) % self.knobs.season_bins


def _beyond(histogram: Floats) -> Floats:
    """`[f, c]`: what the histogram of each function counts of more than c."""
    counts: Floats = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1][:, 1:]
    return counts


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"a number was expected, not {value!r}")
    return float(value)
