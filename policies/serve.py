"""How one more unit could be served: by slots that are there, or by programming devices.

An :class:`Option` is the best that was found for the next unit of one want: the devices to
program, the slots promised, and what it brings together with the other waiting units that would
fill the slots left over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet
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

LOOKS: Final = 24
"""How many hosts are looked at for one gang at width one; then it waits for another plan."""

CROWD: Final = 4
"""From this many wants of one function on, those that are served are taken off its list."""


FEW: Final = 8
"""Hosts with about so many devices each are quicker to look at than a longer list of devices."""


Taker = tuple[float, int, int, float, Want]
"""A waiting unit: density (negative), slots, number of the want, weight, want."""


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
        self.wants: list[Want] = []
        self.waiting: list[list[Want]] = []
        self.whole: list[list[Want]] = []
        self._idle: dict[str, list[int]] = {}
        self._heaps: dict[str, list[tuple[float, int]]] = {}
        self._ways: dict[tuple[int, int], list[tuple[int, list[Way]]]] = {}
        self._places: dict[int, tuple[list[int], Iterator[int]]] = {}
        self._fitting: dict[tuple[tuple[int, ...], int], dict[str, None]] = {}
        for i, may in enumerate(problem.may):
            if may:
                self._idle.setdefault(problem.model[i], []).append(i)

    def admit(self, wants: list[Want]) -> None:
        """Let ``wants`` compete, also for slots that others leave over: the densest first."""
        self.wants += sorted(wants, key=_first_density)
        self.relist()

    def relist(self) -> None:
        """Look at every want and host afresh, whatever was settled before."""
        self.waiting = [[] for _ in self.problem.functions]
        self.whole = [[] for _ in self.problem.functions]
        self._places.clear()
        for want in self.wants:
            if not want.gang:
                lists = self.whole if want.whole else self.waiting
                for function in want.functions:
                    lists[function].append(want)

    # Slots that are there.

    def spare(self, want: Want) -> Iterator[Grant]:
        """Ways to serve units of ``want`` without programming anything, one after the other.

        Each is to be granted before the next is asked for.
        """
        if want.gang:
            yield from self._gang_spare(want)
            return
        host, hosts = self.problem.host, want.hosts
        slots = 0 if want.whole else want.slots
        left, room = self.state.left, self.state.room[want.number]
        for function in want.functions:
            for i in self._offering(want, function):
                while (
                    left[i] >= slots
                    and (hosts is None or hosts.get(host[i], 0) > room.get(host[i], 0))
                    and not (want.whole and self.state.serves(i, want))
                ):
                    yield Grant(want, host[i], ((i, function, slots),))

    def _offering(self, want: Want, function: int) -> list[int]:
        """The devices with slots of ``function`` that ``want`` may have, in their order."""
        state, problem, hosts, named = self.state, self.problem, want.hosts, want.named
        stock = state.offering[function] if want.whole else state.stock[function]
        if named is not None:
            stock = [i for i in stock if i in named]
        if hosts is None:
            return list(stock)
        if len(stock) < FEW * len(hosts):
            host = problem.host
            return [i for i in stock if host[i] in hosts]
        # Their own devices are fewer than all that offer the function.
        offer, at = state.offer, problem.at
        mine = sorted(i for place in hosts for i in at[place] if offer[i] == function)
        return mine if named is None else [i for i in mine if i in named]

    def _gang_spare(self, want: Want) -> Iterator[Grant]:
        """Serve a gang by slots that are there, on hosts that have some for every need."""
        state, host = self.state, self.problem.host
        if not all(any(state.stock[f] for f in functions) for functions, _ in want.needs):
            return
        # Slots that programs leave over are not in this index; programming for a gang finds them.
        hosts = self._suppliers(want.needs[1][0])
        for functions, _ in want.needs[2:]:
            hosts = hosts & self._suppliers(functions)
        functions, slots = want.needs[0]
        places = dict.fromkeys(
            host[i]
            for f in functions
            for i in state.stock[f]
            if host[i] in hosts and state.left[i] >= slots
        )
        for place in places:
            while state.room_at(want, place) > 0:
                ways = self._spare_ways(want, place)
                option = place_gang(state, want, place, ways)
                if option is None:
                    break
                yield option.grant

    def _suppliers(self, functions: tuple[int, ...]) -> AbstractSet[int]:
        """The hosts that have free slots of one of ``functions``, before anything is programmed."""
        supply = self._supply
        if len(functions) == 1:
            return supply[functions[0]]
        return set().union(*(supply[function] for function in functions))

    def _spare_ways(self, want: Want, host: int) -> list[tuple[int, list[Way]]]:
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
                    and (only is None or i in only)
                ],
            )
            for (functions, slots), only in zip(want.needs, want.only, strict=True)
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
        useful, model, offer = problem.useful, problem.model, problem.offer
        for ground, i in self._candidates(want):
            if blink is not None and blink.random() < BLINK:
                continue
            self.work += 1
            for function in want.functions:
                after = useful[model[i]].get(function, 0)
                if after < least or function == offer[i] or state.function_left[function] <= 0:
                    continue
                gain = weight - ground - state.fixed[function]
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
        state = self.state
        if state.total_left <= 0:
            return []
        if want.named is None and want.hosts is None:
            models = self._models(want.functions, want.slots)
            return [pair for model in models for pair in self._cheapest(model, want.functions)]
        return self._tied(want, 2 * self.width)

    def _tied(self, want: Want, most: int) -> list[tuple[float, int]]:
        """The first idle devices that ``want`` names, or on hosts that may take it."""
        problem, state = self.problem, self.state
        may, model, target, on = problem.may, problem.model, state.target, state.on
        models = self._models(want.functions, want.slots)
        places: Iterable[tuple[int, Iterable[int]]]
        if want.named is not None:
            places = [(problem.host[i], (i,)) for i in sorted(want.named)]
        else:
            places = ((host, problem.at[host]) for host in self._hosts(want))
        found: list[tuple[float, int]] = []
        for host, devices in places:
            if state.host_left[host] <= 0 or state.room_at(want, host) <= 0:
                continue
            for i in devices:
                if may[i] and target[i] == NOBODY and model[i] in models and not on[i]:
                    found.append((state.ground(i), i))
                    if len(found) == most:
                        return found
        return found

    def _models(self, functions: tuple[int, ...], slots: int) -> dict[str, None]:
        """The models on which one of ``functions`` yields as many slots as that."""
        models = self._fitting.get((functions, slots))
        if models is None:
            fits = self.problem.fits
            models = self._fitting[functions, slots] = {
                model: None
                for function in functions
                for model, after in fits[function].items()
                if after >= slots
            }
        return models

    def _hosts(self, want: Want) -> Collection[int]:
        """The hosts that have devices and may take ``want``, in seeded order."""
        return range(len(self.problem.hosts)) if want.hosts is None else want.hosts

    def _cheapest(self, model: str, functions: tuple[int, ...]) -> list[tuple[float, int]]:
        """The idle devices of ``model`` that cost least, as many as the width allows.

        The heap holds lower bounds of ground costs: what has become dearer sinks as it surfaces.
        Devices that offer the only function asked for are passed over.
        """
        self._queue_freed()
        heap = self._heap(model)
        state, host, offer = self.state, self.problem.host, self.problem.offer
        only = functions[0] if len(functions) == 1 else NOBODY - 1
        found: list[tuple[float, int]] = []
        passed: list[tuple[float, int]] = []
        last = NOBODY
        while heap and len(found) < self.width:
            key, i = heappop(heap)
            if i == last or not state.idle(i) or state.host_left[host[i]] <= 0:
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
                heappush(self._heap(self.problem.model[i]), (state.ground(i), i))
        state.freed.clear()

    def _heap(self, model: str) -> list[tuple[float, int]]:
        """The devices of ``model`` that may be programmed; made when it is first asked for."""
        heap = self._heaps.get(model)
        if heap is None:
            ground = self.state.ground
            heap = self._heaps[model] = [(ground(i), i) for i in self._idle.get(model, ())]
            heapify(heap)
        return heap

    # Filling up.

    def fill(
        self, i: int, function: int, slots: int, but: Want | None = None
    ) -> list[tuple[float, Want]]:
        """The waiting units that would take ``slots`` slots of ``function`` on ``i``.

        One unit of ``but`` is taken as served on the same device already.
        """
        chosen = []
        if slots:
            takers = self._takers(i, function, slots, but)
            if len(takers) > 1:
                takers.sort(key=_by_density)
            for _, size, _, weight, want in takers:
                if size <= slots:
                    slots -= size
                    chosen.append((weight, want))
        if self.whole[function]:
            state, host = self.state, self.problem.host[i]
            chosen += [
                (want.weights[len(state.served[want.number])], want)
                for want in self.whole[function]
                if want is not but
                and state.waiting(want) > 0
                and (want.named is None or i in want.named)
                and state.room_at(want, host) > 0
            ]
        return chosen

    def _takers(self, i: int, function: int, slots: int, but: Want | None) -> list[Taker]:
        """The units that could take slots of ``i``, as far as they are dense enough to matter."""
        host, served, rooms = self.problem.host[i], self.state.served, self.state.room
        found: list[Taker] = []
        gathered, least, settled = 0, float("inf"), 0
        listed = self.waiting[function]
        for want in listed:
            size = want.slots
            if gathered >= slots and want.weights[0] <= least * size:
                break
            number = want.number
            first = len(served[number]) + (want is but)
            if first >= want.units:
                settled += 1
                continue
            if size > slots or (want.named is not None and i not in want.named):
                continue
            count = slots // size
            if want.hosts is not None:
                room = want.hosts.get(host, 0) - rooms[number].get(host, 0) - (want is but)
                count = min(count, max(room, 0))
            for weight in want.weights[first : first + count]:
                found.append((-weight / size, size, number, weight, want))
                gathered += size
                least = min(least, weight / size)
        if settled > CROWD and 2 * settled > len(listed) and self.blink is None:
            self.waiting[function] = [want for want in listed if self.state.waiting(want) > 0]
        return found

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
        state = self.state
        for functions, _ in want.needs:
            if not any(state.function_left[f] > 0 or state.stock[f] for f in functions):
                return None
        best: Option | None = None
        found = 0
        for host in islice(self.gang_hosts(want), LOOKS * self.width):
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

    def gang_at(self, want: Want, host: int) -> Option | None:
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

    def gang_hosts(self, want: Want) -> Iterator[int]:
        """The hosts where every need could have a device, were nothing else promised.

        They are looked up as far as they are asked for, each want from another start.
        """
        if want.number not in self._places:
            self._places[want.number] = ([], self._look_for_hosts(want))
        known, rest = self._places[want.number]
        yield from known
        for host in rest:
            known.append(host)
            yield host

    def _look_for_hosts(self, want: Want) -> Iterator[int]:
        hosts = self._hosts(want)
        left = self.state.function_left
        needs = []
        for functions, slots in want.needs:
            # While a search tries changes, budgets come back; otherwise what is spent is spent.
            open_now = tuple(f for f in functions if left[f] > 0 or self.blink is not None)
            mask = self._mask(self._models(open_now, slots))
            offering = self._suppliers(functions)
            needs.append((mask, offering))
            if not mask:
                hosts = sorted(host for host in offering if host in hosts)
        models = self._host_models
        start = want.number * 7919 % len(hosts) if hosts else 0
        for host in chain(islice(hosts, start, None), islice(hosts, start)):
            for mask, offering in needs:
                if not models[host] & mask and host not in offering:
                    break
            else:
                yield host

    def _mask(self, models: Iterable[str]) -> int:
        return sum(
            1 << self._model_number[model] for model in models if model in self._model_number
        )

    @cached_property
    def _model_number(self) -> dict[str, int]:
        return {model: k for k, model in enumerate(self._idle)}

    @cached_property
    def _host_models(self) -> list[int]:
        """For each host, the models of devices that may be programmed, as bits."""
        problem, bits = self.problem, {m: 1 << k for m, k in self._model_number.items()}
        masks = [0] * len(problem.hosts)
        for i, may in enumerate(problem.may):
            if may:
                masks[problem.host[i]] |= bits[problem.model[i]]
        return masks

    @cached_property
    def _supply(self) -> list[set[int]]:
        """For each function, the hosts that have free slots of it."""
        problem = self.problem
        supply: list[set[int]] = [set() for _ in problem.functions]
        for i, free in enumerate(problem.free):
            if free:
                supply[problem.offer[i]].add(problem.host[i])
        return supply

    def ways(self, want: Want, host: int) -> list[tuple[int, list[Way]]]:
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


def _by_density(entry: Taker) -> tuple[float, int, int]:
    return entry[:3]
