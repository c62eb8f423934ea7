"""The planner's inputs as numbers, in an order that only the seed and the names decide.

Everything behind this module speaks of devices, hosts, functions and wants (demand classes) by
number.
The numbers follow a seeded hash of uuid, name and key, so that "the lower number" is a fair and
repeatable tie-break, and the order of the inputs cannot matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate
from typing import Final

from changeover.models.planning import DemandClass, DeviceView, PlanInputs

LOW: Final = frozenset({"floor", "forecast", "early-lease"})
"""Kinds that only take what every other kind leaves."""

NOBODY: Final = -1
"""The number of no function: an empty device, a device that is not being programmed."""


@dataclass(slots=True, eq=False)
class Want:
    """One demand class, with what the search asks of it over and over.

    ``needs`` are (functions, slots), ``only`` the devices that each need is tied to (``None``:
    any), ``apart`` forbids two needs on one device. ``value[k]`` is what k served units are worth,
    ``slots`` what a unit takes in all (of a whole device: one), ``functions`` those of the first
    need; a ``gang`` has several. ``hosts`` are in the order of their numbers; ``places`` counts
    those without devices too.
    """

    number: int
    demand: DemandClass
    needs: tuple[tuple[tuple[int, ...], int], ...]
    only: tuple[frozenset[int] | None, ...]
    apart: bool
    units: int
    weights: tuple[float, ...]
    value: list[float]
    low: bool
    whole: bool
    hosts: Mapping[int, int] | None
    places: int
    named: frozenset[int] | None
    preferred: frozenset[str]
    functions: tuple[int, ...]
    slots: int
    gang: bool

    def density(self, served: int) -> tuple[float, int, int]:
        """Where the next unit stands: by the weight of a slot, then the harder to place first."""
        return (-self.weights[served] / self.slots, self.places, self.number)


@dataclass(slots=True, eq=False)
class Problem:
    """One batch, numbered. Lists are indexed by function, device, host or want.

    Only devices that can matter are numbered: those that offer a wanted function, and those that
    may be programmed with one. The others stand ``aside``. Hosts follow their first device.
    """

    inputs: PlanInputs
    functions: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    fits: list[Mapping[str, int]] = field(default_factory=list)
    keep: list[list[float] | None] = field(default_factory=list)
    free_total: list[int] = field(default_factory=list)
    useful: dict[str, dict[int, int]] = field(default_factory=dict)

    devices: list[DeviceView] = field(default_factory=list)
    aside: list[DeviceView] = field(default_factory=list)
    number: dict[str, int] = field(default_factory=dict)
    """Of devices that demands name."""
    host: list[int] = field(default_factory=list)
    offer: list[int] = field(default_factory=list)
    may: list[bool] = field(default_factory=list)
    model: list[str] = field(default_factory=list)
    free: list[int] = field(default_factory=list)
    wear: list[float] = field(default_factory=list)

    hosts: list[str] = field(default_factory=list)
    at: list[list[int]] = field(default_factory=list)
    under_way: list[int] = field(default_factory=list)

    wants: list[Want] = field(default_factory=list)
    whole: frozenset[int] = frozenset()


def tie(seed: int, name: str) -> bytes:
    """Where ``name`` stands among equals: fair, and the same in every process."""
    return blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()


def compile_problem(inputs: PlanInputs) -> Problem:
    """Number everything that can matter for ``inputs``."""
    problem = Problem(inputs)
    number = _functions(problem)
    _devices(problem, number)
    _wants(problem, number)
    return problem


def _functions(problem: Problem) -> dict[str, int]:
    """Number the wanted functions, and find out which of them each device model could take."""
    inputs = problem.inputs
    wanted = {name for demand in inputs.demands for need in demand.needs for name in need.functions}
    catalog = {function.name: function for function in inputs.functions}
    seed = inputs.seed
    problem.functions = sorted(wanted, key=lambda name: (tie(seed, name), name))
    for number, name in enumerate(problem.functions):
        function = catalog.get(name)
        fits = function.fits if function is not None and function.stopped is None else {}
        problem.fits.append(fits)
        problem.seconds.append(function.seconds if function is not None else 0.0)
        for model, slots in fits.items():
            if slots > 0:
                problem.useful.setdefault(model, {})[number] = slots
    numbers = {name: number for number, name in enumerate(problem.functions)}
    problem.whole = frozenset(
        numbers[name]
        for demand in inputs.demands
        if demand.whole_devices
        for need in demand.needs
        for name in need.functions
    )
    return numbers


_Entry = tuple[bytes, str, int, str, str | None, int, int, DeviceView]
"""The seeded hash of a device and its uuid, then what is asked of it, the device itself last."""


def _devices(problem: Problem, number: dict[str, int]) -> None:
    """Number the devices that can matter, and count what is free of every function.

    Those come first whose free slots should be used first: these may not be programmed anyway,
    have slots now rather than soon, and few of them. Then the seed decides.
    """
    inputs, useful, functions = problem.inputs, problem.useful, problem.functions
    wanted = set(functions)
    whole = {functions[f] for f in problem.whole}
    only = {model: functions[next(iter(to))] for model, to in useful.items() if len(to) == 1}
    shut = _shut(inputs)
    spent = inputs.budgets.total is not None and inputs.budgets.total <= 0
    prefix = f"{inputs.seed}:"
    free: dict[str, int] = {}
    under_way: dict[str, int] = {}
    hosts: dict[str, int] = {}
    alike: defaultdict[tuple[bool, bool, float, int], list[_Entry]] = defaultdict(list)
    for device in inputs.devices:
        slots, offer, model, coming = device.free, device.function, device.model, device.becoming
        may = device.blocked is None and model in useful
        host = device.host
        if coming is not None:
            offer = coming
            may = False
            under_way[host] = under_way.get(host, 0) + 1
        if offer is None:
            matters = may
        else:
            if slots:
                free[offer] = free.get(offer, 0) + slots
            matters = (may and only.get(model) != offer) or (
                offer in wanted and (slots > 0 or offer in whole)
            )
        if not matters:
            problem.aside.append(device)
            continue
        uuid = device.uuid
        digest = blake2b((prefix + uuid).encode(), digest_size=8).digest()
        place = hosts.setdefault(host, len(hosts))
        entry = (digest, uuid, place, model, offer, slots, device.programs, device)
        rank = (may and not spent and host not in shut, coming is not None, device.ready_in, slots)
        alike[rank].append(entry)
    for name in free:
        if name not in number:
            number[name] = len(functions)
            functions.append(name)
    for name in functions:
        kept = inputs.keep.get(name)
        problem.keep.append(None if kept is None else [0.0, *accumulate(kept)])
        problem.free_total.append(free.get(name, 0))
    entries: list[_Entry] = []
    for rank in sorted(alike):
        problem.may += [rank[0]] * len(alike[rank])
        entries += sorted(alike[rank])
    _columns(problem, number, entries, list(hosts))
    problem.under_way = [under_way.get(host, 0) for host in problem.hosts]


def _shut(inputs: PlanInputs) -> set[str]:
    """The hosts that may start no changeover."""
    budgets = inputs.budgets
    shut = {host for host, left in budgets.host_left.items() if left <= 0}
    if budgets.per_host is not None and budgets.per_host <= 0:
        shut.update({device.host for device in inputs.devices} - budgets.host_left.keys())
    return shut


def _columns(
    problem: Problem, number: dict[str, int], entries: list[_Entry], hosts: list[str]
) -> None:
    """What is asked of the devices over and over. Hosts are numbered by their first device."""
    inputs = problem.inputs
    programs = [device.programs for device in inputs.devices]
    least, most = min(programs, default=0), max(programs, default=0)
    wear = inputs.weights.wear / most if most else 0.0
    named = _named(inputs)
    host_of = [NOBODY] * len(hosts)
    for i, (_, uuid, place, model, name, slots, times, device) in enumerate(entries):
        host = host_of[place]
        if host == NOBODY:
            host = host_of[place] = len(problem.hosts)
            problem.hosts.append(hosts[place])
            problem.at.append([i])
        else:
            problem.at[host].append(i)
        if uuid in named:
            problem.number[uuid] = i
        offer = NOBODY if name is None else number.get(name, NOBODY)
        problem.devices.append(device)
        problem.host.append(host)
        problem.model.append(model)
        problem.wear.append(wear * (times - least))
        problem.offer.append(offer)
        problem.free.append(0 if offer == NOBODY else slots)


def _named(inputs: PlanInputs) -> set[str]:
    """The devices that demands speak of."""
    named: set[str] = set()
    for demand in inputs.demands:
        named.update(demand.devices or ())
        for need in demand.needs:
            named.update(need.devices or ())
    return named


def _numbers(problem: Problem, uuids: frozenset[str] | None) -> frozenset[int] | None:
    if uuids is None:
        return None
    return frozenset(problem.number[uuid] for uuid in uuids if uuid in problem.number)


def _rooms(numbers: dict[str, int], hosts: Mapping[str, int]) -> dict[int, int]:
    """How many units each host can take, by number; of hosts that have devices."""
    known = [(n, room) for host, room in hosts.items() if (n := numbers.get(host)) is not None]
    known.sort()
    return dict(known)


def _wants(problem: Problem, number: dict[str, int]) -> None:
    """Put the demand classes into seeded order."""
    seed = problem.inputs.seed
    ordered = sorted(problem.inputs.demands, key=lambda d: (tie(seed, d.key), d.key))
    # Classes may share one mapping, which the inputs keep alive: ids do not recur.
    shared = {id(d.hosts): d.hosts for d in ordered if d.hosts is not None}
    numbers = {host: k for k, host in enumerate(problem.hosts)} if shared else {}
    rooms = {key: _rooms(numbers, hosts) for key, hosts in shared.items()}
    for index, demand in enumerate(ordered):
        asked = demand.needs[:1] if demand.whole_devices else demand.needs
        needs = tuple(
            (tuple(sorted({number[name] for name in need.functions})), need.slots) for need in asked
        )
        only = tuple(_numbers(problem, need.devices) for need in asked)
        named = _numbers(problem, demand.devices)
        if len(only) == 1 and only[0] is not None:
            named = only[0] if named is None else named & only[0]
        problem.wants.append(
            Want(
                number=index,
                demand=demand,
                needs=needs,
                only=only,
                apart=demand.apart,
                units=len(demand.weights) if needs else 0,
                weights=demand.weights,
                value=[0.0, *accumulate(demand.weights)],
                low=demand.kind in LOW,
                whole=demand.whole_devices,
                hosts=None if demand.hosts is None else rooms[id(demand.hosts)],
                places=1 << 30 if demand.hosts is None else len(demand.hosts),
                named=named,
                preferred=demand.preferred,
                functions=needs[0][0] if needs else (),
                slots=1 if demand.whole_devices else sum(slots for _, slots in needs) or 1,
                gang=len(needs) > 1,
            )
        )
