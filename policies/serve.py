"""How one more unit could be served: by slots that are there, or by programming devices.

An :class:`Option` is the best that was found for the next unit of one want: the devices to
program, the slots promised, and what it brings together with the other waiting units that would
fill the slots left over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import chain, islice
from random import Random
from typing import Final

from changeover.policies.gangs import Option, Way, place_gang, ways_at
from changeover.policies.problem import NOBODY, Problem, Want
from changeover.policies.score import EPSILON, Grant, State

BLINK: Final = 0.25
"""How often a try of the local search overlooks a device, so that tries differ."""

LOOKS: Final = 256
"""How many hosts are looked at for one gang before it waits for another plan."""

CROWD: Final = 16
"""From this many wants of one function on, those that are served are taken off its list."""


class Server:
    """Finds options in a :class:`State`, and carries them out.

    ``width`` is how many devices of a model, and how many hosts, are compared for one unit.
    ``work`` counts what was looked at. While ``blink`` is set, devices are overlooked at random.
    """

    def __init__(self, problem: Problem, state: State, width: int) -> None:
        self.problem = problem
        self.state = state
        self.width = width
        self.work = 0
        self.blink: Random | None = None
        self.waiting: list[list[Want]] = [[] for _ in problem.functions]
        self.whole: list[list[Want]] = [[] for _ in problem.functions]
        self._heaps: dict[str, list[tuple[float, int]]] = {}
        self._ways: dict[tuple[int, str], list[tuple[int, list[Way]]]] = {}
        self._places: dict[int, tuple[list[str], Iterator[str]]] = {}
        self._reach: dict[int, list[int]] = {}
        self._order: dict[int, list[str]] = {}
        self._all_hosts = list(problem.at)
        self._host_number = {host: k for k, host in enumerate(problem.at)}
        for i, may in enumerate(problem.may):
            if may:
                self._heaps.setdefault(problem.model[i], []).append((state.ground(i), i))
        for heap in self._heaps.values():
            heapify(heap)

    def admit(self, wants: list[Want]) -> None:
        """Let ``wants`` fill slots that others leave over, the densest first."""
        for want in sorted(wants, key=_first_density):
            if not want.gang:
                lists = self.whole if want.whole else self.waiting
                for function in want.functions:
                    lists[function].append(want)

    # Slots that are there.

    def spare(self, want: Want) -> Grant | None:
        """Serve the next unit of ``want`` without programming anything."""
        if want.gang:
            return self._gang_spare(want)
        state, host = self.state, self.problem.host
        whole, hosts, named = want.whole, want.hosts, want.named
        slots = 0 if whole else want.slots
        left = state.left
        for function in want.functions:
            for i in state.offering[function] if whole else state.stock[function]:
                if (
                    left[i] >= slots
                    and (named is None or i in named)
                    and (hosts is None or state.room_at(want, host[i]) > 0)
                    and not (whole and state.serves(i, want))
                ):
                    return Grant(want, host[i], ((i, function, slots),))
        return None

    def _gang_spare(self, want: Want) -> Grant | None:
        """Serve a gang by slots that are there, on a host that has some for every need."""
        state, host = self.state, self.problem.host
        functions, slots = want.needs[0]
        tried = set()
        for function in functions:
            for i in state.stock[function]:
                place = host[i]
                if state.left[i] < slots or place in tried:
                    continue
                tried.add(place)
                if state.room_at(want, place) > 0:
                    option = place_gang(state, want, place, self._spare_ways(want, place))
                    if option is not None:
                        return option.grant
        return None

    def _spare_ways(self, want: Want, host: str) -> list[tuple[int, list[Way]]]:
        """The devices of ``host`` that offer what each need asks for."""
        state, devices = self.state, self.problem.at[host]
        return [
            (
                slots,
                [
                    (i, state.offer[i], 0)
                    for i in devices
                    if state.offer[i] in functions
                    and state.left[i] >= slots
                    and (want.named is None or i in want.named)
                ],
            )
            for functions, slots in want.needs
        ]

    # Programming.

    def option(self, want: Want) -> Option | None:
        """The best way found to serve the next unit of ``want``, if there is any."""
        return self._gang(want) if want.gang else self._single(want)

    def _single(self, want: Want) -> Option | None:
        problem, state, blink = self.problem, self.state, self.blink
        slots = 0 if want.whole else want.slots
        least = max(slots, 1)
        weight = want.weights[len(state.served[want.number])]
        best: tuple[float, int, int] | None = None
        for ground, i in self._candidates(want):
            if blink is not None and blink.random() < BLINK:
                continue
            useful = problem.useful[problem.model[i]]
            self.work += 1
            for function in want.functions:
                after = useful.get(function, 0)
                if (
                    after < least
                    or function == problem.offer[i]
                    or state.function_left[function] <= 0
                ):
                    continue
                gain = weight - ground - state.fixed(function)
                for worth, _ in self.fill(i, function, after - slots, want):
                    gain += worth
                if best is None or gain > best[0] + EPSILON:
                    best = (gain, i, function)
        if best is None:
            return None
        gain, i, function = best
        grant = Grant(want, problem.host[i], ((i, function, slots),))
        return Option(gain, grant, ((i, function),))

    def _candidates(self, want: Want) -> list[tuple[float, int]]:
        """Idle devices worth a look for one unit of ``want``, with their ground costs."""
        problem, state = self.problem, self.state
        if state.total_left <= 0:
            return []
        if want.named is None and want.hosts is None:
            models = self._models(want.functions, want.slots)
            return [pair for model in models for pair in self._cheapest(model, want.functions)]
        found: list[tuple[float, int]] = []
        target, on, host = state.target, state.on, problem.host
        enough = 4 * self.width
        for i in self._reachable(want):
            if (
                target[i] == NOBODY
                and not on[i]
                and state.room_at(want, host[i]) > 0
                and state.left_at(host[i]) > 0
            ):
                found.append((state.ground(i), i))
                if len(found) >= enough:
                    break
        return found

    def _reachable(self, want: Want) -> list[int]:
        """The devices that could be programmed for ``want``, where it is tied to some."""
        reach = self._reach.get(want.number)
        if reach is None:
            problem = self.problem
            may, model, offer = problem.may, problem.model, problem.offer
            models = self._models(want.functions, want.slots)
            only = want.functions[0] if len(want.functions) == 1 else NOBODY - 1
            among = (
                sorted(want.named)
                if want.named is not None
                else chain.from_iterable([problem.at[host] for host in self._hosts(want)])
            )
            reach = self._reach[want.number] = [
                i for i in among if may[i] and model[i] in models and offer[i] != only
            ]
        return reach

    def _models(self, functions: tuple[int, ...], slots: int) -> dict[str, None]:
        """The models on which one of ``functions`` yields as many slots as that."""
        fits = self.problem.fits
        return {
            model: None
            for function in functions
            for model, after in fits[function].items()
            if after >= slots
        }

    def _hosts(self, want: Want) -> list[str]:
        """The hosts that have devices and may take ``want``, in seeded order."""
        hosts = want.hosts
        if hosts is None:
            return self._all_hosts
        # Classes may share one mapping, which the inputs keep alive: ids do not recur.
        order = self._order.get(id(hosts))
        if order is None:
            number = self._host_number
            order = sorted((host for host in hosts if host in number), key=number.__getitem__)
            self._order[id(hosts)] = order
        return order

    def _cheapest(self, model: str, functions: tuple[int, ...]) -> list[tuple[float, int]]:
        """The idle devices of ``model`` that cost least, as many as the width allows.

        The heap holds lower bounds of ground costs: what has become dearer sinks as it surfaces.
        Devices that offer the only function asked for are passed over.
        """
        self._queue_freed()
        heap = self._heaps.get(model)
        if heap is None:
            return []
        state, host, offer = self.state, self.problem.host, self.problem.offer
        only = functions[0] if len(functions) == 1 else NOBODY - 1
        found: list[tuple[float, int]] = []
        passed: list[tuple[float, int]] = []
        last = NOBODY
        while heap and len(found) < self.width:
            key, i = heappop(heap)
            if i == last or not state.idle(i) or state.left_at(host[i]) <= 0:
                continue
            last = i
            ground = state.ground(i)
            if ground > key + EPSILON and heap and ground > heap[0][0]:
                heappush(heap, (ground, i))
                last = NOBODY
            elif offer[i] == only:
                passed.append((ground, i))
            else:
                found.append((ground, i))
        for pair in chain(found, passed):
            heappush(heap, pair)
        return found

    def _queue_freed(self) -> None:
        """Put devices that were given back on their heaps again."""
        state = self.state
        for i in state.freed:
            if state.idle(i):
                heappush(self._heaps[self.problem.model[i]], (state.ground(i), i))
        state.freed.clear()

    # Filling up.

    def fill(
        self, i: int, function: int, slots: int, but: Want | None = None
    ) -> list[tuple[float, Want]]:
        """The waiting units that would take ``slots`` slots of ``function`` on ``i``.

        One unit of ``but`` is taken as served on the same device already.
        """
        chosen: list[tuple[float, Want]] = []
        state, host = self.state, self.problem.host[i]
        served = state.served
        if slots:
            found: list[tuple[float, int, int, float, Want]] = []
            gathered, least, settled = 0, float("inf"), 0
            listed = self.waiting[function]
            for want in listed:
                size = want.slots
                if gathered >= slots and want.weights[0] <= least * size:
                    break
                first = len(served[want.number])
                count = want.units - first
                if count <= 0:
                    settled += 1
                    continue
                if size > slots or (want.named is not None and i not in want.named):
                    continue
                if want.hosts is not None:
                    count = min(count, state.room_at(want, host))
                if want is but:
                    first += 1
                    count -= 1
                for weight in want.weights[first : first + min(count, slots // size)]:
                    found.append((-weight / size, size, want.number, weight, want))
                    gathered += size
                    least = min(least, weight / size)
            if settled > CROWD and 2 * settled > len(listed) and self.blink is None:
                self.waiting[function] = [w for w in listed if state.waiting(w) > 0]
            if len(found) > 1:
                found.sort(key=_by_density)
            for _, size, _, weight, want in found:
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
                chosen.append((want.weights[len(served[want.number])], want))
        return chosen

    def fill_up(self, i: int, function: int) -> None:
        """Let waiting units take what ``i`` has left."""
        state = self.state
        for _, want in self.fill(i, function, state.left[i]):
            if not (want.whole and state.serves(i, want)):
                slots = 0 if want.whole else want.slots
                state.grant(Grant(want, self.problem.host[i], ((i, function, slots),)))

    # Gangs.

    def _gang(self, want: Want) -> Option | None:
        """The best of the first hosts where the gang fits."""
        best: Option | None = None
        found = 0
        for host in islice(self.gang_hosts(want), LOOKS):
            if self.blink is not None and self.blink.random() < BLINK:
                continue
            option = self.gang_at(want, host)
            if option is None:
                continue
            if best is None or option.density > best.density + EPSILON:
                best = option
            found += 1
            if found >= self.width:
                break
        return best

    def gang_at(self, want: Want, host: str) -> Option | None:
        """The cheapest way found to serve one gang on ``host``, with what fills the rest."""
        if self.state.room_at(want, host) <= 0:
            return None
        self.work += 1
        option = place_gang(self.state, want, host, self.ways(want, host))
        if option is None or not option.programs:
            return option
        gain = option.gain
        for i, function in option.programs:
            rest = self.problem.fits[function][self.problem.model[i]]
            rest -= sum(slots for k, _, slots in option.grant.parts if k == i)
            gain += sum(worth for worth, _ in self.fill(i, function, rest, want))
        return Option(gain, option.grant, option.programs)

    def gang_hosts(self, want: Want) -> Iterator[str]:
        """The hosts where every need could have a device, were nothing else promised.

        They are looked up as far as they are asked for, each want from another start.
        """
        if want.number not in self._places:
            hosts = self._hosts(want)
            start = want.number * 7919 % len(hosts) if hosts else 0
            order = chain(islice(hosts, start, None), islice(hosts, start))
            self._places[want.number] = ([], filter(self._could(want), order))
        known, rest = self._places[want.number]
        yield from known
        for host in rest:
            known.append(host)
            yield host

    def _could(self, want: Want) -> Callable[[str], bool]:
        """Whether a host has devices for all needs of ``want``: a quick test that errs towards yes."""
        needs = [
            (self._mask(self._models(functions, slots)), frozenset(functions))
            for functions, slots in want.needs
        ]
        models, offers = self._host_models, self._host_offers

        def could(host: str) -> bool:
            return all(
                models[host] & mask or not offers[host].isdisjoint(functions)
                for mask, functions in needs
            )

        return could

    def _mask(self, models: Iterable[str]) -> int:
        return sum(
            1 << self._model_number[model] for model in models if model in self._model_number
        )

    @cached_property
    def _model_number(self) -> dict[str, int]:
        return {model: k for k, model in enumerate(self._heaps)}

    @cached_property
    def _host_models(self) -> dict[str, int]:
        """For each host, the models of devices that may be programmed, as bits."""
        problem, bits = self.problem, {m: 1 << k for m, k in self._model_number.items()}
        masks = dict.fromkeys(problem.at, 0)
        for i, may in enumerate(problem.may):
            if may:
                masks[problem.host[i]] |= bits[problem.model[i]]
        return masks

    @cached_property
    def _host_offers(self) -> dict[str, set[int]]:
        """For each host, the functions of which it has free slots."""
        problem = self.problem
        offers: dict[str, set[int]] = {host: set() for host in problem.at}
        for i, free in enumerate(problem.free):
            if free:
                offers[problem.host[i]].add(problem.offer[i])
        return offers

    def ways(self, want: Want, host: str) -> list[tuple[int, list[Way]]]:
        """:func:`ways_at`, remembered."""
        known = self._ways.get((want.number, host))
        if known is None:
            known = self._ways[want.number, host] = ways_at(self.problem, want, host)
        return known

    # Carrying out.

    def carry_out(self, option: Option) -> None:
        """Apply ``option``, and let waiting units fill what it leaves over."""
        state = self.state
        for i, function in option.programs:
            state.program(i, function)
        state.grant(option.grant)
        for i, function in option.programs:
            self.fill_up(i, function)


def _first_density(want: Want) -> tuple[float, int, int]:
    return want.density(0)


def _by_density(entry: tuple[float, int, int, float, Want]) -> tuple[float, int, int]:
    return entry[:3]
