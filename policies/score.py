"""What a partial plan is worth: the state that the search changes step by step, and its score.

``value`` is the weight of the units served. ``cost`` is, for each device to be programmed:

- ``per_second`` x the seconds that programming takes,
- ``wear`` x how much oftener it was programmed than the least programmed one (0 to 1),
- its free slots of the old function: ``keep`` of the slots that would remain least wanted,
  after the boots of this batch took theirs; ``lost_slot`` each where ``keep`` says nothing,
- ``spread`` x the changeovers that its host has already (under way, or in this plan),
- ``least_gain``, so that a step only pays when it brings more than that.

Every change has an exact inverse, which is how the search tries something and takes it back.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from changeover.policies.problem import NOBODY, Problem, Want

UNBOUNDED: Final = 1 << 60
"""What is left of a budget that has no bound."""

EPSILON: Final = 1e-9
"""Differences below this are rounding, not preference."""


@dataclass(slots=True, eq=False)
class Grant:
    """One unit served: ``parts`` are (device, function, slots), all on ``host``."""

    want: Want
    host: int
    parts: tuple[tuple[int, int, int], ...]


class Costs:
    """What programming costs, given what a plan programs and uses already.

    ``fixed`` is what programming any device with each function costs at least, ``count`` are the
    changeovers of each host, under way or planned, ``used`` the free slots of each function that
    boots take, ``gone`` those that go away.
    """

    def __init__(self, problem: Problem) -> None:
        weights = problem.inputs.weights
        self.problem = problem
        self.fixed = [
            weights.per_second * seconds + weights.least_gain for seconds in problem.seconds
        ]
        self.count = list(problem.under_way)
        self.used = [0] * len(problem.functions)
        self.gone = [0] * len(problem.functions)
        self.spread = weights.spread
        self._lost_slot = weights.lost_slot

    def ground(self, i: int) -> float:
        """What programming ``i`` costs, whatever the function."""
        problem = self.problem
        cost = problem.wear[i] + self.spread * self.count[problem.host[i]]
        free = problem.free[i]
        if free:
            old = problem.offer[i]
            if problem.keep[old] is None:
                return cost + self._lost_slot * free
            used, gone = self.used[old], self.gone[old]
            cost += self._loss(old, used, gone + free) - self._loss(old, used, gone)
        return cost

    def price(self, i: int, function: int) -> float:
        """What programming ``i`` with ``function`` costs now."""
        return self.ground(i) + self.fixed[function]

    def _loss(self, function: int, used: int, gone: int) -> float:
        kept = self.problem.keep[function]
        if kept is None:
            return self._lost_slot * gone
        rest = self.problem.free_total[function] - used
        top = len(kept) - 1
        return kept[min(rest, top)] - kept[min(max(rest - gone, 0), top)]

    def counted(self, i: int, step: int) -> None:
        """Count the changeover of ``i`` in (1) or out (-1)."""
        old = self.problem.offer[i]
        self.count[self.problem.host[i]] += step
        if old != NOBODY:
            self.gone[old] += step * self.problem.free[i]


def _bound(budget: int | None) -> int:
    return UNBOUNDED if budget is None else budget


class State(Costs):
    """A partial plan over a :class:`Problem`, with its score kept up to date."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        budgets = problem.inputs.budgets
        self.value = 0.0
        self.urgent = 0.0
        self.cost = 0.0
        self.total_left = _bound(budgets.total)
        self.host_left = [_bound(budgets.for_host(host)) for host in problem.hosts]
        self.function_left = [_bound(budgets.for_function(name)) for name in problem.functions]
        self.target = [NOBODY] * len(problem.devices)
        self.offer = list(problem.offer)
        self.left = list(problem.free)
        self.on: list[list[Grant]] = [[] for _ in problem.devices]
        self.served: list[list[Grant]] = [[] for _ in problem.wants]
        self.room: list[dict[int, int]] = [{} for _ in problem.wants]
        self.stock: list[list[int]] = [[] for _ in problem.functions]
        self.offering: dict[int, list[int]] = {function: [] for function in problem.whole}
        self.log: list[tuple[Callable[..., None], tuple[Any, ...]]] | None = None
        self.freed: list[int] = []
        for i, function in enumerate(self.offer):
            if function != NOBODY:
                if self.left[i] > 0:
                    self.stock[function].append(i)
                if function in self.offering:
                    self.offering[function].append(i)

    @property
    def score(self) -> float:
        """Value less cost."""
        return self.value - self.cost

    # What is possible.

    def idle(self, i: int) -> bool:
        """Whether ``i`` may be programmed: nothing forbids it, and it is promised to nobody."""
        return self.problem.may[i] and self.target[i] == NOBODY and not self.on[i]

    def allowed(self, i: int, function: int) -> bool:
        """Whether the budgets let ``i`` be programmed with ``function``."""
        return (
            self.total_left > 0
            and self.function_left[function] > 0
            and self.host_left[self.problem.host[i]] > 0
        )

    def room_at(self, want: Want, host: int) -> int:
        """How many more units of ``want`` can go to ``host``, devices aside."""
        hosts = want.hosts
        if hosts is None:
            return UNBOUNDED
        return hosts.get(host, 0) - self.room[want.number].get(host, 0)

    def serves(self, i: int, want: Want) -> bool:
        """Whether ``i`` serves a unit of ``want``."""
        return any(grant.want is want for grant in self.on[i])

    def waiting(self, want: Want) -> int:
        """How many units of ``want`` are not served."""
        return want.units - len(self.served[want.number])

    # What it would lose.

    def marginal(self, i: int) -> float:
        """What the plan would lose without the changeover of ``i`` and the units that it serves."""
        problem = self.problem
        worth = 0.0
        units = Counter(grant.want for grant in dict.fromkeys(self.on[i]))
        for want, count in units.items():
            served = len(self.served[want.number])
            worth += want.value[served] - want.value[served - count]
        function = self.target[i]
        cost = problem.wear[i] + self.fixed[function]
        cost += self.spread * (self.count[problem.host[i]] - 1)
        free = problem.free[i]
        if free:
            old = problem.offer[i]
            used, gone = self.used[old], self.gone[old]
            cost += self._loss(old, used, gone) - self._loss(old, used, gone - free)
        return worth - cost

    # Changes, each with its inverse.

    def undo(self, mark: int) -> None:
        """Take back every change since the log was ``mark`` long."""
        log, self.log = self.log, None
        if log is not None:
            while len(log) > mark:
                inverse, arguments = log.pop()
                inverse(*arguments)
            self.log = log

    def program(self, i: int, function: int) -> None:
        """Let ``i`` be programmed with ``function``."""
        if self.log is not None:
            self.log.append((self.unprogram, (i,)))
        problem = self.problem
        self.cost += self.price(i, function)
        self._count(i, function, 1)
        old = self.offer[i]
        if self.left[i] > 0 and old != NOBODY:
            self.stock[old].remove(i)
        self._offers(i, old, -1)
        self._offers(i, function, 1)
        self.target[i] = self.offer[i] = function
        self.left[i] = problem.fits[function][problem.model[i]]
        insort(self.stock[function], i)

    def unprogram(self, i: int) -> None:
        """Take back :meth:`program`; nothing may be promised of ``i``."""
        problem = self.problem
        function = self.target[i]
        if self.log is not None:
            self.log.append((self.program, (i, function)))
        self.freed.append(i)
        self.stock[function].remove(i)
        self.target[i] = NOBODY
        self.offer[i] = problem.offer[i]
        self.left[i] = problem.free[i]
        self._offers(i, function, -1)
        self._offers(i, self.offer[i], 1)
        if self.left[i] > 0 and self.offer[i] != NOBODY:
            insort(self.stock[self.offer[i]], i)
        self._count(i, function, -1)
        self.cost -= self.price(i, function)

    def _offers(self, i: int, function: int, step: int) -> None:
        offering = self.offering.get(function)
        if offering is None:
            return
        if step > 0:
            insort(offering, i)
        else:
            offering.remove(i)

    def _count(self, i: int, function: int, step: int) -> None:
        self.counted(i, step)
        self.host_left[self.problem.host[i]] -= step
        self.total_left -= step
        self.function_left[function] -= step

    def grant(self, grant: Grant) -> None:
        """Serve one more unit."""
        if self.log is not None:
            self.log.append((self.revoke, (grant,)))
        want = grant.want
        served = self.served[want.number]
        self._worth(want, want.weights[len(served)])
        served.append(grant)
        self._take(grant, 1)

    def revoke(self, grant: Grant) -> None:
        """Take back :meth:`grant`."""
        if self.log is not None:
            self.log.append((self.grant, (grant,)))
        want = grant.want
        served = self.served[want.number]
        served.remove(grant)
        self._worth(want, -want.weights[len(served)])
        self._take(grant, -1)

    def _worth(self, want: Want, weight: float) -> None:
        self.value += weight
        if not want.low:
            self.urgent += weight

    def _take(self, grant: Grant, step: int) -> None:
        want, host = grant.want, grant.host
        if want.hosts is not None:
            room = self.room[want.number]
            room[host] = room.get(host, 0) + step
        for i, function, slots in grant.parts:
            if step > 0:
                self.on[i].append(grant)
            else:
                self.on[i].remove(grant)
                self.freed.append(i)
            if not slots:
                continue
            before = self.left[i]
            self.left[i] = before - step * slots
            if self.left[i] == 0:
                self.stock[function].remove(i)
            elif before == 0:
                insort(self.stock[function], i)
            if self.target[i] == NOBODY and not want.low:
                used, gone = self.used[function], self.gone[function]
                self.used[function] = used + step * slots
                self.cost += self._loss(function, used + step * slots, gone)
                self.cost -= self._loss(function, used, gone)
