"""Is a plan allowed, and what is it worth? Read from the inputs alone.

This knows nothing of how :mod:`changeover.policies.choose` searches. It judges plans that a
person edited, baselines, and the planner itself in tests and benchmarks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from changeover.models.planning import (
    DemandClass,
    DeviceView,
    Intent,
    Plan,
    PlanInputs,
    Promise,
)
from changeover.policies.problem import LOW


@dataclass(frozen=True, slots=True)
class Audit:
    """``faults`` are sentences, none for a plan that may be carried out.

    ``value`` counts all units served, ``urgent`` those that are no floors or forecasts, ``cost``
    what the intents cost together; all in ordinary waiting boots.
    """

    faults: tuple[str, ...]
    value: float
    urgent: float
    cost: float

    @property
    def score(self) -> float:
        """Value less cost."""
        return self.value - self.cost


def audit(inputs: PlanInputs, plan: Plan) -> Audit:
    """Check ``plan`` against everything that ``inputs`` ask for, and price it anew."""
    devices = {device.uuid: device for device in inputs.devices}
    demands = {demand.key: demand for demand in inputs.demands}
    targets = {intent.device: intent for intent in plan.intents}
    units: dict[tuple[str, str], list[Promise]] = defaultdict(list)
    for promise in plan.promises:
        units[promise.demand, promise.subject].append(promise)
    served = Counter(key for key, _ in units)
    value = urgent = 0.0
    for key, count in served.items():
        demand = demands[key]
        worth = sum(demand.weights[:count])
        value += worth
        urgent += 0.0 if demand.kind in LOW else worth
    faults = (
        *_intent_faults(inputs, plan.intents, devices),
        *_budget_faults(inputs, plan.intents),
        *_rest_faults(inputs, plan, devices, demands),
        *_unit_faults(demands, units, devices),
        *_slot_faults(inputs, plan.promises, devices, targets, demands),
    )
    return Audit(faults, value, urgent, _cost(inputs, plan, devices, demands))


def _intent_faults(
    inputs: PlanInputs, intents: tuple[Intent, ...], devices: Mapping[str, DeviceView]
) -> Iterator[str]:
    catalog = {function.name: function for function in inputs.functions}
    for intent in intents:
        device, function = devices[intent.device], catalog[intent.to_function]
        if device.blocked is not None or device.becoming is not None:
            yield f"{intent.device} may not be programmed"
        if function.stopped is not None:
            yield f"{function.name} is stopped"
        if function.fits.get(device.model, 0) != intent.slots or not intent.slots:
            yield f"{function.name} does not give {intent.slots} slots on {device.model}"
        if device.function == intent.to_function:
            yield f"{intent.device} has {intent.to_function} already"
    if len({intent.device for intent in intents}) < len(intents):
        yield "a device is programmed twice"


def _rest_faults(
    inputs: PlanInputs,
    plan: Plan,
    devices: Mapping[str, DeviceView],
    demands: Mapping[str, DemandClass],
) -> Iterator[str]:
    if all(device.resting is None for device in inputs.devices):
        return
    urgent = {p.device for p in plan.promises if demands[p.demand].kind not in LOW}
    for intent in plan.intents:
        if devices[intent.device].resting is not None and intent.device not in urgent:
            yield f"{intent.device} rests, and is programmed for no boot or task"


def _budget_faults(inputs: PlanInputs, intents: tuple[Intent, ...]) -> Iterator[str]:
    budgets = inputs.budgets
    if budgets.total is not None and len(intents) > budgets.total:
        yield "over the total budget"
    for host, count in Counter(intent.host for intent in intents).items():
        bound = budgets.for_host(host)
        if bound is not None and count > bound:
            yield f"over the budget of host {host}"
    for name, count in Counter(intent.to_function for intent in intents).items():
        bound = budgets.for_function(name)
        if bound is not None and count > bound:
            yield f"over the budget of function {name}"


def _unit_faults(
    demands: Mapping[str, DemandClass],
    units: Mapping[tuple[str, str], list[Promise]],
    devices: Mapping[str, DeviceView],
) -> Iterator[str]:
    at: Counter[tuple[str, str]] = Counter()
    for (key, subject), promises in units.items():
        demand = demands[key]
        hosts = {devices[promise.device].host for promise in promises}
        at[key, min(hosts)] += 1
        if subject not in demand.subjects:
            yield f"{subject} does not wait in {key}"
        if len(hosts) > 1:
            yield f"{subject} is spread over hosts"
        if demand.devices is not None and any(p.device not in demand.devices for p in promises):
            yield f"{key} does not name the device of {subject}"
        if demand.apart and len({p.device for p in promises}) < len(promises):
            yield f"{subject} has two needs on one device"
        if not _matches(demand, promises):
            yield f"{subject} does not get what it needs"
    for (key, host), count in at.items():
        room = demands[key].hosts
        if room is not None and count > room.get(host, 0):
            yield f"{host} cannot take {count} units of {key}"
    whole = Counter(
        (key, promises[0].device)
        for (key, _), promises in units.items()
        if demands[key].whole_devices
    )
    yield from (f"{device} serves {key} twice" for (key, device), n in whole.items() if n > 1)


def _matches(demand: DemandClass, promises: list[Promise]) -> bool:
    """Whether ``promises`` and the needs of a unit can be paired off."""
    if demand.whole_devices:
        return len(promises) == 1 and promises[0].function in demand.needs[0].functions
    if len(promises) != len(demand.needs):
        return False

    def pair(depth: int, free: tuple[Promise, ...]) -> bool:
        if depth == len(demand.needs):
            return True
        need = demand.needs[depth]
        return any(
            promise.slots == need.slots
            and promise.function in need.functions
            and (need.devices is None or promise.device in need.devices)
            and pair(depth + 1, (*free[:k], *free[k + 1 :]))
            for k, promise in enumerate(free)
        )

    return pair(0, tuple(promises))


def _slot_faults(
    inputs: PlanInputs,
    promises: tuple[Promise, ...],
    devices: Mapping[str, DeviceView],
    targets: Mapping[str, Intent],
    demands: Mapping[str, DemandClass],
) -> Iterator[str]:
    taken: Counter[str] = Counter()
    for promise in promises:
        device, intent = devices[promise.device], targets.get(promise.device)
        offer = intent.to_function if intent is not None else device.becoming or device.function
        if promise.function != offer:
            yield f"{promise.device} does not offer {promise.function}"
        if not demands[promise.demand].whole_devices:
            taken[promise.device] += promise.slots
    for uuid, slots in taken.items():
        intent = targets.get(uuid)
        if slots > (intent.slots if intent is not None else devices[uuid].free):
            yield f"{uuid} has fewer than {slots} slots"
    listed = Counter(d.uuid for d in inputs.devices)
    if any(count > 1 for count in listed.values()):
        yield "a device is listed twice"


def _cost(
    inputs: PlanInputs,
    plan: Plan,
    devices: Mapping[str, DeviceView],
    demands: Mapping[str, DemandClass],
) -> float:
    """The terms that :mod:`changeover.policies.score` names, from their definitions."""
    weights = inputs.weights
    seconds = {function.name: function.seconds for function in inputs.functions}
    cost = sum(weights.per_second * seconds[intent.to_function] for intent in plan.intents)
    programs = [device.programs for device in inputs.devices]
    least, most = min(programs, default=0), max(programs, default=0)
    if most:
        cost += sum(
            weights.wear * (devices[intent.device].programs - least) / most
            for intent in plan.intents
        )
    return cost + _spread_cost(inputs, plan) + _lost_cost(inputs, plan, devices, demands)


def _spread_cost(inputs: PlanInputs, plan: Plan) -> float:
    under_way = Counter(d.host for d in inputs.devices if d.becoming is not None)
    chosen = Counter(intent.host for intent in plan.intents)
    return inputs.weights.spread * sum(
        under_way[host] + k for host, count in chosen.items() for k in range(count)
    )


def _lost_cost(
    inputs: PlanInputs,
    plan: Plan,
    devices: Mapping[str, DeviceView],
    demands: Mapping[str, DemandClass],
) -> float:
    cost = 0.0
    free: Counter[str] = Counter()
    for device in inputs.devices:
        offer = device.becoming or device.function
        if offer is not None:
            free[offer] += device.free
    gone: Counter[str] = Counter()
    for intent in plan.intents:
        if intent.from_function is not None:
            gone[intent.from_function] += devices[intent.device].free
    targets = {intent.device for intent in plan.intents}
    used: Counter[str] = Counter()
    for promise in plan.promises:
        if promise.device not in targets and demands[promise.demand].kind not in LOW:
            used[promise.function] += promise.slots
    for name, slots in gone.items():
        kept = inputs.keep.get(name)
        if kept is None:
            cost += inputs.weights.lost_slot * slots
        else:
            rest = free[name] - used[name]
            cost += sum(kept[rest - slots : rest])
    return cost
