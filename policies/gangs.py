"""Gangs: several needs of one unit, all on one host, each on one of its devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from changeover.policies.problem import Problem, Want
from changeover.policies.score import EPSILON, Grant, State

STEPS: Final = 200
"""How many partial placements of one gang on one host are tried."""

Way = tuple[int, int, int]
"""A device, a function, and its slots of it when programmed; 0 where it has the function."""


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """One way to serve one unit: the devices to ``programs``, and the ``grant``.

    ``gain`` is value less cost, for this unit and those that would fill the slots left over.
    """

    gain: float
    grant: Grant
    programs: tuple[tuple[int, int], ...]

    @property
    def density(self) -> float:
        """Gain for each device programmed: what budgets and devices are short of."""
        return self.gain / len(self.programs) if self.programs else float("inf")


def ways_at(problem: Problem, want: Want, host: int) -> list[tuple[int, list[Way]]]:
    """For each need its slots and the devices of ``host`` that could ever serve it.

    The needs that are harder to place come first. A need that nothing serves ends the search.
    """
    devices, may, offer, model = problem.at[host], problem.may, problem.offer, problem.model
    known: list[tuple[int, list[Way]]] = []
    for (functions, slots), only in zip(want.needs, want.only, strict=True):
        ways: list[Way] = []
        for i in devices:
            if (want.named is not None and i not in want.named) or (
                only is not None and i not in only
            ):
                continue
            for function in functions:
                if function == offer[i]:
                    if problem.free[i] >= slots:
                        ways.append((i, function, 0))
                elif may[i]:
                    after = problem.fits[function].get(model[i], 0)
                    if after >= slots:
                        ways.append((i, function, after))
        known.append((slots, ways))
        if not ways:
            break
    known.sort(key=lambda need: (len(need[1]), -need[0]))
    return known


def place_gang(
    state: State, want: Want, host: int, ways: list[tuple[int, list[Way]]]
) -> Option | None:
    """The cheapest placement of the next unit of ``want`` on ``host``, by bounded search."""
    if not all(possible(state, host, *need) for need in ways):
        return None
    search = _Search(state, host, ways, apart=want.apart)
    search.place(0, 0.0)
    if search.found is None:
        return None
    parts, programs = search.found
    weight = want.weights[len(state.served[want.number])]
    return Option(weight - search.cost, Grant(want, host, parts), programs)


def possible(state: State, host: int, slots: int, ways: list[Way]) -> bool:
    """Whether one need alone could be served now: what is cheap to see before a search."""
    room = state.total_left > 0 and state.host_left[host] > 0
    for i, function, after in ways:
        if state.offer[i] == function:
            if state.left[i] >= slots:
                return True
        elif room and after and state.function_left[function] > 0 and state.idle(i):
            return True
    return False


class _Search:
    """Depth first over the needs, the cheapest choice first, cut off by the best cost so far."""

    def __init__(
        self, state: State, host: int, ways: list[tuple[int, list[Way]]], *, apart: bool
    ) -> None:
        self.state = state
        self.host = host
        self.ways = ways
        self.apart = apart
        self.left: dict[int, int] = {}
        self.offer: dict[int, int] = {}
        self.programs: list[tuple[int, int]] = []
        self.parts: list[tuple[int, int, int]] = []
        self.steps = 0
        self.cost = float("inf")
        self.found: tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int], ...]] | None
        self.found = None

    def place(self, depth: int, cost: float) -> None:
        """Place the needs from ``depth`` on, having spent ``cost``."""
        self.steps += 1
        if cost >= self.cost - EPSILON or self.steps > STEPS:
            return
        if depth == len(self.ways):
            self.cost = cost
            self.found = (tuple(self.parts), tuple(self.programs))
            return
        slots, ways = self.ways[depth]
        for price, i, function, after in self.choices(slots, ways):
            left = self.left.get(i)
            if after:
                self.offer[i] = function
                self.programs.append((i, function))
                self.left[i] = after - slots
            else:
                self.left[i] = (self.state.left[i] if left is None else left) - slots
            self.parts.append((i, function, slots))
            self.place(depth + 1, cost + price)
            self.parts.pop()
            if after:
                self.programs.pop()
                del self.offer[i]
            if left is None:
                del self.left[i]
            else:
                self.left[i] = left

    def choices(self, slots: int, ways: list[Way]) -> list[tuple[float, int, int, int]]:
        """Ways to serve one need now, the cheapest first; equal devices are tried once."""
        state, left, offer = self.state, self.left, self.offer
        problem = state.problem
        count = len(self.programs)
        room = state.total_left > count and state.host_left[self.host] > count
        seen: set[tuple[object, ...]] = set()
        found: list[tuple[float, int, int, int]] = []
        for i, function, after in ways:
            if self.apart and i in left:
                continue
            if offer.get(i, state.offer[i]) == function:
                rest = left.get(i, state.left[i])
                if rest < slots:
                    continue
                same: tuple[object, ...] = (function, rest, problem.may[i])
                choice = (0.0, i, function, 0)
            elif room and after and i not in left and state.idle(i):
                equal = sum(1 for _, other in self.programs if other == function)
                if state.function_left[function] <= equal:
                    continue
                ground = state.ground(i) + state.spread * count
                same = (problem.model[i], problem.offer[i], ground, function)
                choice = (ground + state.fixed[function], i, function, after)
            else:
                continue
            if same not in seen:
                seen.add(same)
                found.append(choice)
        found.sort()
        return found
