"""The planner's inputs as numbers, in an order that only the seed and the names decide.

Everything behind this module speaks of devices, functions and wants (demand classes) by number.
The numbers follow a seeded hash of uuid, name and key, so that "the lower number" is a fair and
repeatable tie-break, and the order of the inputs cannot matter.
"""

from __future__ import annotations

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
    need.
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
    hosts: Mapping[str, int] | None
    named: frozenset[int] | None
    preferred: frozenset[str]
    functions: tuple[int, ...]
    slots: int

    @property
    def gang(self) -> bool:
        """Whether a unit has several needs."""
        return len(self.needs) > 1

    def density(self, served: int) -> tuple[float, int, int]:
        """Where the next unit stands: by the weight of a slot, then the harder to place first."""
        places = len(self.hosts) if self.hosts is not None else 1 << 30
        return (-self.weights[served] / self.slots, places, self.number)


@dataclass(slots=True, eq=False)
class Problem:
    """One batch, numbered. Lists are indexed by device, function or want.

    Only devices that can matter are in it: those that offer a wanted function, and those that may
    be programmed with one.
    """

    inputs: PlanInputs
    functions: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    fits: list[Mapping[str, int]] = field(default_factory=list)
    keep: list[list[float] | None] = field(default_factory=list)
    free_total: list[int] = field(default_factory=list)
    useful: dict[str, dict[int, int]] = field(default_factory=dict)

    devices: list[DeviceView] = field(default_factory=list)
    number: dict[str, int] = field(default_factory=dict)
    host: list[str] = field(default_factory=list)
    offer: list[int] = field(default_factory=list)
    may: list[bool] = field(default_factory=list)
    model: list[str] = field(default_factory=list)
    free: list[int] = field(default_factory=list)
    wear: list[float] = field(default_factory=list)
    at: dict[str, list[int]] = field(default_factory=dict)
    under_way: dict[str, int] = field(default_factory=dict)

    wants: list[Want] = field(default_factory=list)
    whole: frozenset[int] = frozenset()


def tie(seed: int, name: str) -> bytes:
    """Where ``name`` stands among equals: fair, and the same in every process."""
    return blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()


def compile_problem(inputs: PlanInputs) -> Problem:
    """Number everything that can matter for ``inputs``."""
    problem = Problem(inputs)
    number = _functions(problem)
    relevant = _devices(problem, number)
    _arrange(problem, relevant, number)
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


def _devices(problem: Problem, number: dict[str, int]) -> list[DeviceView]:
    """Count what is free of every function, and keep the devices that can matter."""
    inputs, useful, functions = problem.inputs, problem.useful, problem.functions
    wanted = set(functions)
    whole = {functions[f] for f in problem.whole}
    only = {model: functions[next(iter(to))] for model, to in useful.items() if len(to) == 1}
    free: dict[str, int] = {}
    under_way = problem.under_way
    relevant = []
    for device in inputs.devices:
        offer = device.function
        may = device.blocked is None and device.model in useful
        if device.becoming is not None:
            offer = device.becoming
            may = False
            under_way[device.host] = under_way.get(device.host, 0) + 1
        if offer is None:
            if may:
                relevant.append(device)
            continue
        if device.free:
            free[offer] = free.get(offer, 0) + device.free
        if (may and only.get(device.model) != offer) or (
            offer in wanted and (device.free > 0 or offer in whole)
        ):
            relevant.append(device)
    for name in free:
        if name not in number:
            number[name] = len(problem.functions)
            problem.functions.append(name)
    for name in problem.functions:
        kept = inputs.keep.get(name)
        problem.keep.append(None if kept is None else [0.0, *accumulate(kept)])
        problem.free_total.append(free.get(name, 0))
    return relevant


def _arrange(problem: Problem, relevant: list[DeviceView], number: dict[str, int]) -> None:
    """Number the devices, those first whose free slots should be used first.

    These may not be programmed anyway, have slots now rather than soon, and few of them. Then the
    seed decides.
    """
    inputs, useful = problem.inputs, problem.useful
    budgets = inputs.budgets
    prefix = f"{inputs.seed}:"
    shut = {host for host, left in budgets.host_left.items() if left <= 0}
    if budgets.per_host is not None and budgets.per_host <= 0:
        shut.update(d.host for d in relevant if budgets.host_left.get(d.host, 0) <= 0)
    if budgets.total is not None and budgets.total <= 0:
        useful = {}
    order = sorted(
        [
            (
                device.blocked is None
                and device.becoming is None
                and device.model in useful
                and device.host not in shut,
                device.becoming is not None,
                device.ready_in,
                device.free,
                blake2b((prefix + device.uuid).encode(), digest_size=8).digest(),
                device.uuid,
                device,
            )
            for device in relevant
        ]
    )
    programs = [device.programs for device in inputs.devices]
    least, most = min(programs, default=0), max(programs, default=0)
    wear = inputs.weights.wear / most if most else 0.0
    problem.devices = [entry[-1] for entry in order]
    problem.may = [entry[0] for entry in order]
    problem.number = {entry[5]: index for index, entry in enumerate(order)}
    problem.host = [device.host for device in problem.devices]
    problem.model = [device.model for device in problem.devices]
    problem.wear = [wear * (device.programs - least) for device in problem.devices]
    problem.offer = [
        NOBODY if name is None else number.get(name, NOBODY)
        for name in (device.becoming or device.function for device in problem.devices)
    ]
    problem.free = [
        0 if offer == NOBODY else device.free
        for offer, device in zip(problem.offer, problem.devices, strict=True)
    ]
    at = problem.at
    for index, host in enumerate(problem.host):
        if host in at:
            at[host].append(index)
        else:
            at[host] = [index]


def _numbers(problem: Problem, uuids: frozenset[str] | None) -> frozenset[int] | None:
    if uuids is None:
        return None
    return frozenset(problem.number[uuid] for uuid in uuids if uuid in problem.number)


def _wants(problem: Problem, number: dict[str, int]) -> None:
    """Put the demand classes into seeded order."""
    seed = problem.inputs.seed
    ordered = sorted(problem.inputs.demands, key=lambda d: (tie(seed, d.key), d.key))
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
                hosts=demand.hosts,
                named=named,
                preferred=demand.preferred,
                functions=needs[0][0] if needs else (),
                slots=1 if demand.whole_devices else sum(slots for _, slots in needs) or 1,
            )
        )
