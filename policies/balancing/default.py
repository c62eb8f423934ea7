"""The default policy: serve who waits, lay down on idle devices what will be asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from changeover.policies.balancing.balance import BalanceKnobs, Balancer
from changeover.policies.balancing.fleet import FleetState, News
from changeover.policies.balancing.forecast import Forecast, ForecastKnobs, forecast
from changeover.policies.balancing.history import DemandHistory, HistoryKnobs
from changeover.policies.balancing.policy import Decision
from changeover.policies.balancing.shadow import Shadow


@dataclass(frozen=True, slots=True)
class DefaultKnobs:
    """All knobs of the default policy; the defaults are the one set that is shipped."""

    history: HistoryKnobs = field(default_factory=HistoryKnobs)
    forecast: ForecastKnobs = field(default_factory=ForecastKnobs)
    balance: BalanceKnobs = field(default_factory=BalanceKnobs)
    tick: float = 300.0
    """Seconds after which idle devices are looked at again if nothing happens."""
    settle: float = 5.0
    """Least seconds between two looks that no failed boot asked for."""
    budget: float = 1.9
    """Programs at most, as a multiple of what the reference would have needed so far."""
    allowance: float = 6.0
    """Programs that may be begun before the reference has begun any."""
    pressure: float = 6.0
    """Doublings of a program's price from nothing spent to the whole budget spent."""
    knee: float = 0.75
    """Share of the budget at which a program has its plain price."""


Foresee = Callable[[DemandHistory, ForecastKnobs], Forecast]
"""A way to forecast."""


class DefaultPolicy:
    """Forecasting and balancing under a budget; one object serves one run."""

    def __init__(
        self,
        fleet: FleetState,
        patience: float,
        seed: int,
        knobs: DefaultKnobs | None = None,
        foresee: Foresee = forecast,
    ) -> None:
        """Begin with an empty history; nothing here is left to chance, so the seed is not used.

        `foresee` may be another way to forecast, for comparisons.
        """
        del seed
        self._knobs = knobs or DefaultKnobs()
        self._patience = patience
        self._foresee = foresee
        self._history = DemandHistory(fleet.functions, fleet.program_seconds, self._knobs.history)
        self._shadow = Shadow(fleet, patience)
        self._programs = 0
        self._looked = 0.0
        self._next = 0.0

    def decide(self, now: float, fleet: FleetState, news: News) -> Decision:
        """Observe, then act where boots wait or a look at the idle devices is due."""
        self._observe(now, fleet, news)
        if self._history.began is None:
            return Decision()
        waiting = any(fleet.waiting)
        if news.departures or news.arrivals:
            self._next = min(self._next, max(now, self._looked + self._knobs.settle))
        due = now >= self._next
        if not due and not waiting:
            return Decision((), self._next)
        if not any(True for _ in fleet.idle()):
            self._next = now + self._knobs.tick if due else self._next
            return Decision((), self._next)
        self._history.advance(now)
        self._history.learn()
        balancer = Balancer(
            now,
            fleet,
            self._foresee(self._history, self._knobs.forecast),
            self._patience,
            self._knobs.balance,
        )
        balancer.serve_waiting()
        balancer.follow_failures()
        if due or balancer.programs:
            left = self._left() - len(balancer.programs)
            if left >= 1:
                balancer.prepare(self._price(), min(int(left), self._knobs.balance.at_once))
            self._looked = now
            self._next = now + self._knobs.tick
        self._programs += len(balancer.programs)
        return Decision(balancer.programs, self._next)

    def _observe(self, now: float, fleet: FleetState, news: News) -> None:
        self._shadow.follow(now, news)
        for arrival in news.arrivals:
            self._history.observe(now, arrival.function, arrival.slots)
        if self._history.began is None or not (news.arrivals or news.departures):
            return
        in_use = [0] * len(fleet.functions)
        for device, used in enumerate(fleet.used):
            if used:
                in_use[fleet.function[device]] += used
        ended = [(departure.function, departure.slots) for departure in news.departures]
        self._history.account(now, in_use, ended)

    def _left(self) -> float:
        """Programs that the budget still allows beyond those that waiting boots need."""
        return self._knobs.budget * self._shadow.programs + self._knobs.allowance - self._programs

    def _price(self) -> float:
        """The price of a program, dearer the more of the budget is spent."""
        limit = self._knobs.budget * self._shadow.programs + self._knobs.allowance
        spent = self._programs / max(1.0, limit)
        return self._knobs.balance.price * float(
            2.0 ** (self._knobs.pressure * (spent - self._knobs.knee))
        )
