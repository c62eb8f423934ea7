"""Demand: what waits, taken apart by class, and what Placement says about each class."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from changeover.models.boot import Boot
from changeover.models.errors import Garbled, Refuse
from changeover.models.placement import Candidates, RequestGroup, ResourceRequest
from changeover.models.planning import DemandClass, DeviceView, Need
from changeover.models.reasons import Reason
from changeover.models.task import Task
from changeover.policies.balancing.outlook import Prospect
from changeover.policies.offer import class_of
from changeover.policies.understand import Understanding, misspelt, strange_traits, understand
from changeover.policies.weigh import Fairness, weight
from changeover.worker.requested import requested
from changeover.worker.world import World

TASK_WEIGHT = 100.0
"""An operator's wish of priority 1 comes before any boot."""

FLOOR_WEIGHT = 0.4
"""A floor's slot comes after any boot; each further slot counts a little less, half at least."""

CANDIDATES_LIMIT = 1000
"""Allocation candidates asked for at once, as Nova's own default."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One equivalence class of waiting boots, and what Placement says about it."""

    key: str
    boots: tuple[Boot, ...]
    understanding: Understanding
    now: Candidates
    hosts: Mapping[str, int] | None
    elsewhere: frozenset[str]
    later: Reason | None = None
    """Why nothing can be said now; it is asked again."""


def class_key(world: World, boot: Boot) -> str:
    """The equivalence class: whatever Placement is asked for a boot depends on nothing else."""
    kept_to = boot.project if world.settings.limit_tenants_to_placement_aggregate else None
    return "+".join(part for part in (boot.request_key, boot.device_profile, kept_to) if part)


def classes_of(world: World, boots: Sequence[Boot]) -> list[list[Boot]]:
    """Boots by equivalence class: equal requests are judged once."""
    groups: dict[str, list[Boot]] = defaultdict(list)
    for boot in boots:
        groups[class_key(world, boot)].append(boot)
    return list(groups.values())


def judge_class(world: World, boots: list[Boot], counted: frozenset[str]) -> Judged:
    """Ask Placement the full request, and the request without what programming gives.

    ``counted``: the devices whose free slots the planner counts by itself. One class that cannot be
    asked stops none of the others: it is declined with the reason.
    """
    try:
        return _judge_class(world, boots, counted)
    except Garbled as exc:
        # Not the request is wrong, but the answer: that may pass.
        later = Reason("demand.garbled", f"Placement's answer cannot be read: {exc.message}")
        return replace(_declined(world, boots, later), later=later)
    except Refuse as exc:
        reason = Reason("demand.refused", f"Placement refuses the request: {exc.message}")
    return _declined(world, boots, reason)


def _declined(world: World, boots: Sequence[Boot], reason: Reason) -> Judged:
    nothing = Understanding((), frozenset(), boots[0].request, reason)
    key = class_key(world, boots[0])
    return Judged(key, tuple(boots), nothing, Candidates((), {}), None, frozenset())


def _judge_class(world: World, boots: list[Boot], counted: frozenset[str]) -> Judged:
    asked = requested(world, boots[0])
    if asked.never is not None:
        return _declined(world, boots, asked.never)
    if asked.later is not None:
        return replace(_declined(world, boots, asked.later), later=asked.later)
    if not asked.request.groups:
        text = "neither its failure nor Nova says what it asked for"
        return _declined(world, boots, Reason("demand.unknown", text))
    judged = _judge_request(world, boots, asked.request, counted)
    unpinned = asked.request.unpinned()
    if unpinned is None or judged.now.candidates or judged.hosts:
        return judged
    # Nova would take hosts that do not tell dedicated CPUs apart, too.
    other = _judge_request(world, boots, unpinned, counted)
    return other if other.now.candidates or other.hosts else judged


def _judge_request(
    world: World, boots: list[Boot], request: ResourceRequest, counted: frozenset[str]
) -> Judged:
    seen = {trait: world.holders(trait) for trait in strange_traits(request, world.catalog)}
    on_devices = {trait: holders for trait, holders in seen.items() if holders.devices}
    understanding = understand(request, world.catalog, on_devices)
    now = world.placement.candidates(request, CANDIDATES_LIMIT)
    # The oldest go first where only some fit: the order that they came in.
    elsewhere = boots[: _fits_elsewhere(request, now, counted, understanding)]
    hosts: Mapping[str, int] | None = None
    rest = understanding.relaxed
    if not understanding.nobody and rest.groups:
        hosts = _rooms(world, rest, everywhere(world, rest))
        if not hosts:
            understanding = _with_misspelt(world, understanding)
    elif rest.names_hosts:
        ours = frozenset(device.host for device in world.catalog.devices)
        hosts = dict.fromkeys(sorted(allowed_of(world, rest, ours)), len(boots))
    ids = frozenset(boot.id for boot in elsewhere)
    return Judged(class_key(world, boots[0]), tuple(boots), understanding, now, hosts, ids)


def everywhere(world: World, request: ResourceRequest) -> Candidates:
    """The candidates on every host: one that was cut off the answer would pass for unfit."""
    found = world.placement.candidates(request, CANDIDATES_LIMIT)
    if len(found.candidates) < CANDIDATES_LIMIT:
        return found
    return world.placement.candidates(request)


def allowed_of(world: World, request: ResourceRequest, hosts: frozenset[str]) -> frozenset[str]:
    """Those of the hosts that the request may use, whatever it asks of them."""
    hosts -= frozenset(request.excluded_hosts)
    if request.hosts is not None:
        hosts &= frozenset(request.hosts)
    for aggregates in request.member_of:
        hosts &= world.members(aggregates)
    if request.isolated_aggregates:
        hosts -= world.members(request.isolated_aggregates)
    return hosts


def _with_misspelt(world: World, understanding: Understanding) -> Understanding:
    """Where no host can take the rest, look whether it asks for a trait that nothing has."""
    nowhere = [t for t in sorted(understanding.strange) if not world.holders(t).anybody]
    if not nowhere:
        return understanding
    return replace(understanding, nobody=misspelt(nowhere, world.catalog))


def _fits_elsewhere(
    request: ResourceRequest, now: Candidates, counted: frozenset[str], understanding: Understanding
) -> int:
    """How many such boots fit at once without any device whose slots the planner counts.

    Where such devices are part of every candidate, it is the planner that counts; here only what
    it cannot see is counted.
    """
    roots = {
        now.root_of(candidate)
        for candidate in now.candidates
        if not counted.intersection(candidate.allocations)
    }
    if not roots:
        return 0
    per_root = _room_by_root(request, now)
    fits = sum(per_root.get(root, 0) for root in roots)
    return fits if understanding.nobody else max(1, min(fits, len(roots)))


def _room_by_root(request: ResourceRequest, found: Candidates) -> dict[str, int]:
    """How many times each tree could take the request, going by its free capacity alone.

    What is shared counts for each tree that draws on it.
    """
    asked = Counter[str]()
    for group in request.groups:
        asked.update(group.resources)
    trees: dict[str, set[str]] = defaultdict(set)
    for uuid, summary in found.summaries.items():
        trees[summary.root].add(uuid)
    for candidate in found.candidates:
        trees[found.root_of(candidate)].update(candidate.allocations)
    rooms = {}
    for root in found.roots:
        free = Counter[str]()
        for summary in (found.summaries[uuid] for uuid in trees[root]):
            for rc, capacity in summary.capacity.items():
                free[rc] += max(0, capacity - summary.used.get(rc, 0))
        rooms[root] = min((free[rc] // n for rc, n in asked.items() if n > 0), default=0)
    return rooms


def _rooms(world: World, relaxed: ResourceRequest, found: Candidates) -> dict[str, int]:
    """Host name -> how many boots its tree could take besides the device."""
    if not found.candidates:
        return {}
    names = world.host_names(found.roots)
    ours = {device.host for device in world.catalog.devices}
    rooms = _room_by_root(relaxed, found)
    return {names[root]: n for root, n in rooms.items() if n > 0 and names.get(root) in ours}


def slot_requests(world: World, names: Iterable[str]) -> list[ResourceRequest]:
    """What shows the free slots of the functions called ``names``."""
    requests = {}
    for name in names:
        function = world.catalog.functions[name]
        for model in function.fits:
            rc = class_of(function, world.catalog.models[model])
            group = RequestGroup(resources={rc: 1}, required=frozenset(function.traits))
            requests[name, rc] = ResourceRequest(groups=(group,))
    return list(requests.values())


def floors(world: World) -> list[str]:
    """The functions of which free slots are kept."""
    return [name for name, pool in world.catalog.pools.items() if pool.min_free > 0]


def boot_demands(world: World, judged: Sequence[Judged], now: float) -> list[DemandClass]:
    """Waiting boots as demand, each with its weight."""
    weights = _weights(world, judged, now)
    demands = []
    for judgement in judged:
        units = sorted(
            ((weights[b.id], b.id) for b in judgement.boots if b.id in weights), reverse=True
        )
        if judgement.understanding.nobody or not units:
            continue
        demands.append(
            DemandClass(
                key=judgement.key,
                kind="boot",
                needs=_needs_of(world, judgement.understanding),
                weights=tuple(w for w, _ in units),
                subjects=tuple(subject for _, subject in units),
                hosts=judgement.hosts,
                devices=_devices_of(world, judgement.understanding),
                preferred=judgement.boots[0].request.preferred,
                apart=judgement.understanding.apart,
            )
        )
    return demands


def _weights(world: World, judged: Sequence[Judged], now: float) -> dict[str, float]:
    """The weight of every boot that needs a device; a project's oldest boot comes first.

    Across all classes: what a project asks for must not decide which of its boots is first.
    """
    fairness = Fairness(world.settings.ageing_seconds, dict(world.settings.project_shares))
    boots = [b for j in judged for b in j.boots if b.id not in j.elsewhere]
    ahead = Counter[str]()
    weights = {}
    for boot in sorted(boots, key=lambda b: (b.failed_at, b.id)):
        weights[boot.id] = weight(
            priority=boot.priority,
            age=now - boot.failed_at,
            project=boot.project,
            ahead=ahead[boot.project],
            fairness=fairness,
        )
        ahead[boot.project] += 1
    return weights


def _needs_of(world: World, understanding: Understanding) -> tuple[Need, ...]:
    """The needs; where there are several, each is tied to the devices that its group allows."""
    needs = understanding.needs
    if len(needs) == 1:
        return needs  # the class is tied: see _devices_of
    tied = []
    for need, models in zip(needs, understanding.need_models, strict=True):
        fits = {m for name in need.functions for m in world.catalog.functions[name].fits}
        allowed = frozenset(d.provider for d in world.catalog.devices if d.model in models)
        if fits != models:
            allowed = allowed if need.devices is None else allowed & need.devices
            need = replace(need, devices=allowed)  # noqa: PLW2901 - the same need, tied
        tied.append(need)
    return tuple(tied)


def _devices_of(world: World, understanding: Understanding) -> frozenset[str] | None:
    """The devices of the models that the request allows; ``None`` if functions say enough."""
    fits = {
        model
        for need in understanding.needs
        for name in need.functions
        for model in world.catalog.functions[name].fits
    }
    if fits == understanding.models:
        return None
    return frozenset(d.provider for d in world.catalog.devices if d.model in understanding.models)


def task_demands(
    world: World,
    tasks: Iterable[Task],
    under_way: Mapping[str, int],
    devices: Sequence[DeviceView],
) -> list[DemandClass]:
    """What operators' tasks still lack; ``under_way`` counts their changeovers by task."""
    demands = []
    for task in tasks:
        missing = task.count - task.done - under_way.get(task.id, 0)
        if missing <= 0 or task.function not in world.catalog.functions:
            continue
        if task.device is not None:
            where = frozenset({task.device})
        else:
            where = frozenset(
                d.uuid
                for d in devices
                if (task.host is None or d.host == task.host)
                and task.function not in {d.function, d.becoming}
            )
        demands.append(
            DemandClass(
                key=f"task:{task.id}",
                kind="task",
                needs=(Need((task.function,)),),
                weights=(TASK_WEIGHT * task.priority,) * missing,
                subjects=(task.id,) * missing,
                devices=where,
                whole_devices=True,
            )
        )
    return demands


def floor_demands(world: World) -> list[DemandClass]:
    """The floors of the pools, slot by slot."""
    return [
        DemandClass(
            key=f"floor:{name}",
            kind="floor",
            needs=(Need((name,)),),
            weights=tuple(FLOOR_WEIGHT / (1.0 + k / pool.min_free) for k in range(pool.min_free)),
            subjects=(name,) * pool.min_free,
            devices=_floor_devices(world, name),
        )
        for name, pool in world.catalog.pools.items()
        if pool.min_free > 0
    ]


def forecast_demands(world: World, prospects: Mapping[str, Prospect]) -> list[DemandClass]:
    """What is likely to be asked for, slot by slot beyond the floors."""
    demands = []
    for name, prospect in prospects.items():
        weights = prospect.weights[world.catalog.pool(name).min_free :]
        if weights:
            demands.append(
                DemandClass(
                    key=f"forecast:{name}",
                    kind="forecast",
                    needs=(Need((name,)),),
                    weights=weights,
                    subjects=(name,) * len(weights),
                    devices=_floor_devices(world, name),
                )
            )
    return demands


def slot_values(world: World, prospects: Mapping[str, Prospect]) -> dict[str, tuple[float, ...]]:
    """What free slots are worth where they are: floors first, then what the forecast wants.

    A function that has a prospect, and of which no slot is wanted, has slots worth nothing: its
    devices are programmed first.
    """
    values = {name: prospect.weights for name, prospect in prospects.items()}
    for name in floors(world):
        least = world.catalog.pools[name].min_free
        values[name] = (FLOOR_WEIGHT,) * least + values.get(name, ())[least:]
    return values


def _floor_devices(world: World, name: str) -> frozenset[str]:
    """Where a floor's slots count: on devices that offer the function as its own class.

    A fully dynamic region takes any function, so that one that happens to have this loaded is no
    slot less for the others; it counts only for functions that fit nothing else.
    """
    function = world.catalog.functions[name]
    models = [world.catalog.models[model] for model in function.fits]
    single = {model.name for model in models if model.mode == "single_program"}
    counted = single or set(function.fits)
    return frozenset(d.provider for d in world.catalog.devices if d.model in counted)
