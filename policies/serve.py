"""How one more unit could be served: by slots that are there, or by programming devices.

An :class:`Option` is the best that was found for the next unit of one want: the devices to
program, the slots promised, and what it brings together with the other waiting units that would
fill the slots left over.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final

from changeover.policies.problem import Problem, Want
from changeover.policies.score import Grant, State

EPSILON: Final = 1e-9
"""Differences below this are rounding, not preference."""

GANG_STEPS: Final = 200
"""How many placements of one gang on one host are tried."""


@dataclass(frozen=True, slots=True)
class Option:
    """``gain`` is value less cost for this unit and those that would fill the slots left over."""

    gain: float
    grant: Grant
    programs: tuple[tuple[int, int], ...]

    @property
    def density(self) -> float:
        """Gain for each device programmed: what budgets and devices are short of."""
        return self.gain / len(self.programs) if self.programs else float("inf")


class Server:
    """Finds options in a :class:`State`, and carries them out."""

    def __init__(self, problem: Problem, state: State, width: int) -> None:
        self.problem = problem
        self.state = state
        self.width = width
        self.waiting: list[list[Want]] = [[] for _ in problem.functions]
        self.whole: list[list[Want]] = [[] for _ in problem.functions]
        self._heaps: dict[str, list[tuple[float, int]]] = {}
        self._queued = [False] * len(problem.devices)
        self._order: dict[int, list[str]] = {}
        self._host_number = {host: k for k, host in enumerate(problem.at)}
        for i, device in enumerate(problem.devices):
            if problem.may[i]:
                self._heaps.setdefault(device.model, []).append((state.ground(i), i))
                self._queued[i] = True
        for heap in self._heaps.values():
            heapify(heap)

    def admit(self, wants: list[Want]) -> None:
        """Let ``wants`` fill slots that others leave over, the densest first."""
        for want in sorted(wants, key=density_of):
            if len(want.needs) == 1:
                lists = self.whole if want.whole else self.waiting
                for function in want.needs[0][0]:
                    lists[function].append(want)

    # Slots that are there.

    def spare(self, want: Want) -> Option | None:
        """Serve the next unit of ``want`` without programming anything."""
        if len(want.needs) > 1:
            found = self._gang(want, programming=False)
            return found if found is not None else None
        state, host = self.state, self.problem.host
        functions, slots = want.needs[0]
        for function in functions:
            for i in state.offering[function] if want.whole else state.stock[function]:
                if not want.whole and state.left[i] < slots:
                    continue
                if want.named is not None and i not in want.named:
                    continue
                if state.room_at(want, host[i]) <= 0:
                    continue
                if want.whole and any(grant.want is want for grant in state.on[i]):
                    continue
                parts = ((i, function, 0 if want.whole else slots),)
                return Option(self._weight(want), Grant(want, host[i], parts), ())
        return None

    def _weight(self, want: Want) -> float:
        return want.weights[len(self.state.served[want.number])]

    # Programming.

    def option(self, want: Want) -> Option | None:
        """The best way found to serve the next unit of ``want``, if there is any."""
        spare = self.spare(want)
        if spare is not None:
            return spare
        if len(want.needs) > 1:
            return self._gang(want, programming=True)
        return self._single(want)

    def _single(self, want: Want) -> Option | None:
        problem, state = self.problem, self.state
        functions, slots = want.needs[0]
        need = 1 if want.whole else slots
        weight = self._weight(want)
        best: tuple[float, int, int] | None = None
        for ground, i in self._candidates(want):
            useful = problem.useful[problem.devices[i].model]
            for function in functions:
                after = useful.get(function, 0)
                if after < need or function == problem.offer[i]:
                    continue
                if not state.allowed(i, function):
                    continue
                gain = weight - ground - state.fixed(function)
                spared = after if want.whole else after - slots
                gain += sum(worth for worth, _ in self.fill(i, function, spared, want))
                if best is None or gain > best[0] + EPSILON:
                    best = (gain, i, function)
        if best is None:
            return None
        gain, i, function = best
        parts = ((i, function, 0 if want.whole else slots),)
        return Option(gain, Grant(want, problem.host[i], parts), ((i, function),))

    def _candidates(self, want: Want) -> list[tuple[float, int]]:
        """Idle devices worth a look for one unit of ``want``, with their ground costs."""
        problem, state = self.problem, self.state
        if want.named is not None:
            return [
                (state.ground(i), i)
                for i in sorted(want.named)
                if state.idle(i) and state.room_at(want, problem.host[i]) > 0
            ]
        models = {model: None for function in want.needs[0][0] for model in problem.fits[function]}
        if want.hosts is None:
            return [pair for model in models for pair in self._cheapest(model)]
        found = []
        for host in self._hosts(want):
            if state.room_at(want, host) > 0 and state.left_at(host) > 0:
                found += [
                    (state.ground(i), i)
                    for i in problem.at[host]
                    if problem.devices[i].model in models and state.idle(i)
                ]
            if len(found) >= 4 * self.width:
                break
        return found

    def _hosts(self, want: Want) -> list[str]:
        """The hosts that have devices and may take ``want``, in seeded order."""
        hosts = want.hosts
        if hosts is None:
            return list(self.problem.at)
        order = self._order.get(id(hosts))
        if order is None:
            number = self._host_number
            order = sorted((host for host in hosts if host in number), key=number.__getitem__)
            self._order[id(hosts)] = order
        return order

    def _cheapest(self, model: str) -> list[tuple[float, int]]:
        """The idle devices of ``model`` that cost least, as many as the width allows."""
        heap = self._heaps.get(model)
        if heap is None:
            return []
        state, host = self.state, self.problem.host
        found: list[tuple[float, int]] = []
        while heap and len(found) < self.width:
            key, i = heappop(heap)
            if not state.idle(i) or state.left_at(host[i]) <= 0:
                self._queued[i] = False
                continue
            ground = state.ground(i)
            if ground > key + EPSILON and heap and ground > heap[0][0]:
                heappush(heap, (ground, i))
            else:
                found.append((ground, i))
        for pair in found:
            heappush(heap, pair)
        return found

    def fill(
        self, i: int, function: int, slots: int, but: Want | None = None
    ) -> list[tuple[float, Want]]:
        """The waiting units that would take ``slots`` slots of ``function`` on ``i``.

        One unit of ``but`` is taken as served on the same device already.
        """
        state, host = self.state, self.problem.host[i]
        found: list[tuple[float, float, int, Want]] = []
        gathered, least = 0, float("inf")
        for want in self.waiting[function] if slots else ():
            size = want.needs[0][1]
            if gathered >= slots and want.weights[0] / size <= least:
                break
            mine = int(want is but)
            count = min(state.waiting(want) - mine, slots // size)
            if count <= 0 or (want.named is not None and i not in want.named):
                continue
            if want.hosts is not None:
                count = min(count, state.room_at(want, host) - mine)
            first = len(state.served[want.number]) + mine
            for weight in want.weights[first : first + max(count, 0)]:
                found.append((-weight / size, weight, size, want))
                gathered += size
                least = min(least, weight / size)
        found.sort(key=_by_density)
        chosen = []
        for _, weight, size, want in found:
            if size <= slots:
                slots -= size
                chosen.append((weight, want))
        for want in self.whole[function]:
            if (
                want is not but
                and state.waiting(want) > 0
                and (want.named is None or i in want.named)
                and state.room_at(want, host) > 0
            ):
                chosen.append((self._weight(want), want))
        return chosen

    # Gangs: several needs of one unit on one host.

    def _gang(self, want: Want, *, programming: bool) -> Option | None:
        best: Option | None = None
        tried = 0
        for host in self._hosts(want):
            if self.state.room_at(want, host) <= 0:
                continue
            option = _GangOnHost(self, want, host, programming=programming).best()
            if option is None:
                continue
            if not option.programs:
                return option
            if best is None or option.density > best.density + EPSILON:
                best = option
            tried += 1
            if tried >= self.width:
                break
        return best

    # Carrying out.

    def carry_out(self, option: Option) -> None:
        """Apply ``option``, and let waiting units fill what it leaves over."""
        state = self.state
        for i, function in option.programs:
            state.program(i, function)
        state.grant(option.grant)
        for i, function in option.programs:
            for _, want in self.fill(i, function, state.left[i]):
                if want.whole and any(grant.want is want for grant in state.on[i]):
                    continue
                slots = 0 if want.whole else want.needs[0][1]
                state.grant(Grant(want, self.problem.host[i], ((i, function, slots),)))


class _GangOnHost:
    """The cheapest placement of one gang on one host, by bounded depth-first search."""

    def __init__(self, server: Server, want: Want, host: str, *, programming: bool) -> None:
        self.server = server
        self.state = server.state
        self.want = want
        self.host = host
        self.programming = programming
        self.needs = sorted(want.needs, key=lambda need: (-need[1], len(need[0])))
        self.devices = [i for i in server.problem.at[host] if want.named is None or i in want.named]
        self.left = {i: self.state.left[i] for i in self.devices}
        self.offer = {i: self.state.offer[i] for i in self.devices}
        self.programs: list[tuple[int, int]] = []
        self.parts: list[tuple[int, int, int]] = []
        self.steps = 0
        self.cost = float("inf")
        self.found: tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int], ...]] | None
        self.found = None

    def best(self) -> Option | None:
        """The cheapest placement found, if the gang fits at all."""
        self._place(0, 0.0)
        if self.found is None:
            return None
        parts, programs = self.found
        gain = self.server._weight(self.want) - self.cost  # noqa: SLF001 - one algorithm in two classes
        taken = dict.fromkeys((i for i, _ in programs), 0)
        for i, _, slots in parts:
            if i in taken:
                taken[i] += slots
        for i, function in programs:
            model = self.server.problem.devices[i].model
            rest = self.server.problem.fits[function][model] - taken[i]
            gain += sum(worth for worth, _ in self.server.fill(i, function, rest, self.want))
        return Option(gain, Grant(self.want, self.host, parts), programs)

    def _place(self, depth: int, cost: float) -> None:
        self.steps += 1
        if cost >= self.cost - EPSILON or self.steps > GANG_STEPS:
            return
        if depth == len(self.needs):
            self.cost = cost
            self.found = (tuple(self.parts), tuple(self.programs))
            return
        for price, i, function, programs in self._choices(*self.needs[depth]):
            slots = self.needs[depth][1]
            before = (self.left[i], self.offer[i])
            if programs:
                model = self.server.problem.devices[i].model
                self.left[i] = self.server.problem.fits[function][model]
                self.offer[i] = function
                self.programs.append((i, function))
            self.left[i] -= slots
            self.parts.append((i, function, slots))
            self._place(depth + 1, cost + price)
            self.parts.pop()
            if programs:
                self.programs.pop()
            self.left[i], self.offer[i] = before

    def _choices(
        self, functions: tuple[int, ...], slots: int
    ) -> list[tuple[float, int, int, bool]]:
        """Ways to serve one need, the cheapest first; equal devices are tried once."""
        problem, state = self.server.problem, self.state
        seen: set[tuple[object, ...]] = set()
        found: list[tuple[float, int, int, bool]] = []
        for i in self.devices:
            offer, left = self.offer[i], self.left[i]
            idle = state.idle(i) and all(i != part[0] for part in self.parts)
            if offer in functions and left >= slots:
                same: tuple[object, ...] = (offer, left, idle)
                if same not in seen:
                    seen.add(same)
                    found.append((0.0, i, offer, False))
            if not (self.programming and idle):
                continue
            device = problem.devices[i]
            extra = state.problem.inputs.weights.spread * len(self.programs)
            price = state.ground(i) + extra
            for function in functions:
                if function == offer or problem.useful[device.model].get(function, 0) < slots:
                    continue
                if not self._allowed(function):
                    continue
                same = (device.model, offer, left, price, function)
                if same not in seen:
                    seen.add(same)
                    found.append((price + state.fixed(function), i, function, True))
        found.sort(key=lambda choice: choice[0])
        return found

    def _allowed(self, function: int) -> bool:
        state = self.state
        same = sum(1 for _, other in self.programs if other == function)
        return (
            state.total_left > len(self.programs)
            and state.left_at(self.host) > len(self.programs)
            and state.function_left[function] > same
        )


def density_of(want: Want) -> tuple[float, int, int]:
    """Order wants by the weight of a slot, then the harder to place first."""
    slots = sum(slots for _, slots in want.needs)
    hosts = want.hosts
    places = len(hosts) if hosts is not None else 1 << 30
    return (-want.weights[0] / slots, places, want.number)


def _by_density(entry: tuple[float, float, int, Want]) -> tuple[float, int, int]:
    return (entry[0], entry[2], entry[3].number)
