"""Gather: everything that a plan depends on, read before anything is decided.

Capacity is read before demand, so that a race errs towards doing less: a slot that somebody took
in between shows as a boot that failed again, never as a slot counted twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from changeover.models.boot import Boot, BootPromise
from changeover.models.catalog import Device
from changeover.models.changeover import Changeover
from changeover.models.placement import Candidates, RequestGroup, ResourceRequest
from changeover.models.planning import (
    Budgets,
    DemandClass,
    DeviceView,
    FunctionView,
    Need,
    PlanInputs,
)
from changeover.models.reasons import Reason
from changeover.models.states import BOOT_WANTS, CHANGEOVER_MOVING, ChangeoverState
from changeover.models.task import Task
from changeover.policies.offer import class_of, slots_of
from changeover.policies.understand import Understanding, understand
from changeover.policies.weigh import Fairness, weight
from changeover.worker.store.devices import DeviceRecord, by_provider
from changeover.worker.world import World

TASK_WEIGHT = 100.0
"""An operator's wish of priority 1 comes before any boot."""

FLOOR_WEIGHT = 0.2
"""A floor's slot comes after any boot; each further slot counts a little less."""

CANDIDATES_LIMIT = 1000
"""Allocation candidates asked for at once, as Nova's own default."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One equivalence class of waiting boots, and what Placement says about it."""

    boots: tuple[Boot, ...]
    understanding: Understanding
    now: Candidates
    hosts: Mapping[str, int] | None
    elsewhere: frozenset[str]

    @property
    def key(self) -> str:
        """The class's key."""
        return self.boots[0].request_key


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything that was read, and the plan's inputs made from it."""

    inputs: PlanInputs
    judged: tuple[Judged, ...]
    tasks: Mapping[str, Task]
    live: Mapping[str, Changeover]
    paused: str | None


@dataclass(frozen=True, slots=True)
class _Ledger:
    """The database's side."""

    records: Mapping[str, DeviceRecord]
    live: Mapping[str, Changeover]
    promises: Sequence[BootPromise]
    stopped: Mapping[str, Reason]
    claimed: frozenset[str]
    started_last_hour: int
    paused: str | None


def gather(world: World, *, boots: Sequence[Boot] | None = None, floors: bool = False) -> Gathered:
    """Read capacity, then demand.

    ``boots``: judge just these (for an explanation) instead of all that are due. ``floors``: the
    pools' floors are demand too; otherwise their slots only have a value that keeps them.
    """
    now = world.clock.now()
    ledger = _ledger(world, now)
    idle = _idle(world, ledger)
    with world.database.read() as tx:
        waiting = (
            tx.boots.in_states(BOOT_WANTS, wake_before=now, limit=20_000)
            if boots is None
            else list(boots)
        )
        tasks = {task.id: task for task in tx.tasks.all(queued_only=True)}
    judged = tuple(world.concurrently(lambda group: _judge(world, group), _classes(waiting)))
    answers = [judgement.now for judgement in judged]
    if floors:
        answers += world.concurrently(world.placement.candidates, _floor_requests(world))
    free_slots = _free_slots(world, answers, idle, ledger)
    devices = tuple(
        _device_view(world, device, ledger, idle, free_slots, now)
        for device in world.catalog.devices
    )
    functions = tuple(
        FunctionView(f.name, dict(f.fits), f.seconds, ledger.stopped.get(f.name))
        for f in world.catalog.functions.values()
    )
    demands = (
        *_boot_demands(world, judged, now),
        *_task_demands(world, tasks.values(), ledger, devices),
        *(_floor_demands(world) if floors else ()),
    )
    inputs = PlanInputs(
        now=now,
        seed=world.settings.seed,
        functions=functions,
        devices=devices,
        demands=demands,
        budgets=_budgets(world, ledger, devices),
        keep={
            name: (FLOOR_WEIGHT,) * pool.min_free
            for name, pool in world.catalog.pools.items()
            if pool.min_free > 0
        },
    )
    return Gathered(inputs, judged, tasks, ledger.live, ledger.paused)


def _ledger(world: World, now: float) -> _Ledger:
    with world.database.read() as tx:
        live = {c.device: c for c in tx.changeovers.live()}
        paused = tx.switches.get("pause")
        return _Ledger(
            records=by_provider(tx.devices.all()),
            live=live,
            promises=tx.boots.promises(),
            stopped=tx.functions.stopped(),
            claimed=frozenset(fence.provider for fence in tx.fences.all()),
            started_last_hour=tx.changeovers.started_since(now - 3600.0),
            paused=str(paused["why"]) if paused and paused.get("on") else None,
        )


def _idle(world: World, ledger: _Ledger) -> frozenset[str]:
    """Providers all of whose slots are free: one list call for each class and size.

    Asking for a device's whole capacity lists exactly the idle ones, however many there are.
    """
    sizes: set[tuple[str, int]] = set()
    for device in world.catalog.devices:
        record = ledger.records.get(device.provider)
        model = world.model(device)
        function = world.catalog.functions.get(record.function or "") if record else None
        slots = slots_of(function, model)
        if record is None or device.provider in ledger.live or slots == 0:
            continue
        rc = model.resource_class if function is None else class_of(function, model)
        if rc is not None:
            sizes.add((rc, slots))
    listed = world.concurrently(
        lambda size: world.placement.providers(resources={size[0]: size[1]}), sorted(sizes)
    )
    return frozenset(provider.uuid for providers in listed for provider in providers)


def _classes(boots: Sequence[Boot]) -> list[list[Boot]]:
    groups: dict[tuple[str, str | None], list[Boot]] = defaultdict(list)
    for boot in boots:
        groups[boot.request_key, boot.device_profile].append(boot)
    return list(groups.values())


def _judge(world: World, boots: list[Boot]) -> Judged:
    """Ask Placement the full request, and the request without what programming gives."""
    request = boots[0].request
    understanding = understand(request, world.catalog)
    known = {device.provider for device in world.catalog.devices}
    now = (
        world.placement.candidates(request, CANDIDATES_LIMIT)
        if request.groups
        else Candidates((), {})
    )
    # The oldest go first where only some fit: the order that they came in.
    elsewhere = boots[: _fits_elsewhere(request, now, known, understanding)]
    hosts: Mapping[str, int] | None = None
    if not understanding.nobody and understanding.relaxed.groups:
        relaxed = world.placement.candidates(understanding.relaxed, CANDIDATES_LIMIT)
        hosts = _rooms(world, understanding.relaxed, relaxed)
    elif understanding.relaxed.hosts is not None:
        hosts = {host: len(boots) for host in understanding.relaxed.hosts}
    return Judged(tuple(boots), understanding, now, hosts, frozenset(boot.id for boot in elsewhere))


def _fits_elsewhere(
    request: ResourceRequest, now: Candidates, known: set[str], understanding: Understanding
) -> int:
    """How many such boots fit at once without any device of the catalog.

    Where the catalog's devices are part of every candidate, the planner counts their free slots;
    here only what it cannot see is counted.
    """
    roots = {
        now.summaries[uuid].root
        for candidate in now.candidates
        if not known.intersection(candidate.allocations)
        for uuid in candidate.allocations
    }
    if not roots:
        return 0
    per_root = _room_by_root(request, now)
    fits = sum(per_root.get(root, 0) for root in roots)
    return fits if understanding.nobody else max(1, min(fits, len(roots)))


def _room_by_root(request: ResourceRequest, found: Candidates) -> dict[str, int]:
    """How many times each tree could take the request, going by its free capacity alone."""
    asked = Counter[str]()
    for group in request.groups:
        asked.update(group.resources)
    free: dict[str, Counter[str]] = defaultdict(Counter)
    for summary in found.summaries.values():
        for rc, capacity in summary.capacity.items():
            free[summary.root][rc] += max(0, capacity - summary.used.get(rc, 0))
    roots = found.roots
    return {
        root: min((free[root][rc] // n for rc, n in asked.items() if n > 0), default=0)
        for root in roots
    }


def _rooms(world: World, relaxed: ResourceRequest, found: Candidates) -> dict[str, int]:
    """Host name -> how many boots its tree could take besides the device."""
    if not found.candidates:
        return {}
    names = world.host_names(found.roots)
    ours = {device.host for device in world.catalog.devices}
    rooms = _room_by_root(relaxed, found)
    return {names[root]: n for root, n in rooms.items() if n > 0 and names.get(root) in ours}


def _promised_away(ledger: _Ledger) -> Counter[str]:
    """Slots of each device that are promised to boots that have not taken them yet."""
    away = Counter[str]()
    for promise in ledger.promises:
        away[promise.device] += promise.slots
    return away


def _free_slots(
    world: World, answers: Sequence[Candidates], idle: frozenset[str], ledger: _Ledger
) -> dict[str, int]:
    """Free slots that are promised to nobody, of the devices that were seen to have any."""
    away = _promised_away(ledger)
    free: dict[str, int] = {}
    for device in world.catalog.devices:
        record = ledger.records.get(device.provider)
        model = world.model(device)
        function = world.catalog.functions.get(record.function or "") if record else None
        if device.provider in idle:
            free[device.provider] = slots_of(function, model)
        rc = class_of(function, model) if function is not None else model.resource_class
        if rc is None:
            continue
        for answer in answers:
            summary = answer.summaries.get(device.provider)
            if summary is not None and rc in summary.capacity:
                free[device.provider] = summary.capacity[rc] - summary.used.get(rc, 0)
    return {uuid: max(0, n - away[uuid]) for uuid, n in free.items()}


def _floor_requests(world: World) -> list[ResourceRequest]:
    """What shows the free slots of every function that has a floor."""
    requests = {}
    for name, pool in world.catalog.pools.items():
        function = world.catalog.functions[name]
        for model in function.fits if pool.min_free > 0 else ():
            rc = class_of(function, world.catalog.models[model])
            group = RequestGroup(resources={rc: 1}, required=frozenset(function.traits))
            requests[name, rc] = ResourceRequest(groups=(group,))
    return list(requests.values())


def _device_view(
    world: World,
    device: Device,
    ledger: _Ledger,
    idle: frozenset[str],
    free: Mapping[str, int],
    now: float,
) -> DeviceView:
    record = ledger.records.get(device.provider)
    model = world.model(device)
    live = ledger.live.get(device.provider)
    changed_at = (record and record.changed_at) or 0.0
    becoming = None
    ready_in = 0.0
    slots = free.get(device.provider, 0)
    if live is not None:
        slots = 0
        if live.state in CHANGEOVER_MOVING and live.state is not ChangeoverState.UNFENCING:
            becoming = live.to_function
            function = world.catalog.functions.get(becoming)
            away = sum(p.slots for p in ledger.promises if p.device == device.provider)
            slots = max(0, slots_of(function, model) - away)
            ready_in = 0.0 if function is None else function.seconds
    return DeviceView(
        uuid=device.provider,
        name=device.name,
        host=device.host,
        model=device.model,
        mode=model.mode,
        function=record.function if record else None,
        free=slots,
        becoming=becoming,
        ready_in=ready_in,
        blocked=_blocked(world, device, record, live, idle, ledger, now),
        programs=record.programs if record else 0,
        idle_seconds=max(0.0, now - changed_at),
        traits=frozenset(model.traits),
    )


def _blocked(
    world: World,
    device: Device,
    record: DeviceRecord | None,
    live: Changeover | None,
    idle: frozenset[str],
    ledger: _Ledger,
    now: float,
) -> Reason | None:
    """Why the device may not be programmed now, if so."""
    if device.pinned:
        return Reason("device.pinned", f"{device.name} is pinned in the catalog")
    if live is not None:
        if live.state is ChangeoverState.QUARANTINED:
            return Reason(
                "device.quarantined",
                f"{device.name} is quarantined: {live.reason.text}",
                {"changeover": live.id},
            )
        return Reason(
            "device.changing",
            f"{device.name} is being programmed with {live.to_function} ({live.state})",
            {"changeover": live.id},
        )
    if record is None or record.read_at is None:
        return Reason("device.unread", f"{device.name} has not been read from Placement yet")
    if record.trouble is not None:
        return record.trouble
    for other in world.reset_with(device):
        if other.provider != device.provider and other.provider in ledger.claimed:
            return Reason(
                "device.card_changing", f"{other.name} on the same card is being programmed"
            )
        if not _is_idle(world, other, ledger, idle):
            return Reason(
                "device.in_use",
                f"{other.name} is in use"
                + ("" if other is device else f", and programming {device.name} resets it"),
                {"device": other.name},
            )
    if any(p.device == device.provider for p in ledger.promises):
        return Reason("device.promised", f"slots of {device.name} are promised to boots")
    if record.changed_at is not None and now - record.changed_at < world.settings.dwell_seconds:
        return Reason(
            "device.dwelling",
            f"{device.name} was programmed {now - record.changed_at:.0f} s ago and keeps its "
            f"function for {world.settings.dwell_seconds:.0f} s",
        )
    return None


def _is_idle(world: World, device: Device, ledger: _Ledger, idle: frozenset[str]) -> bool:
    record = ledger.records.get(device.provider)
    model = world.model(device)
    function = world.catalog.functions.get(record.function or "") if record else None
    return slots_of(function, model) == 0 or device.provider in idle


def _boot_demands(world: World, judged: Sequence[Judged], now: float) -> list[DemandClass]:
    fairness = Fairness(world.settings.ageing_seconds, dict(world.settings.project_shares))
    ahead = Counter[str]()
    demands = []
    for judgement in judged:
        units = []
        for boot in judgement.boots:
            if boot.id in judgement.elsewhere:
                continue
            units.append(
                (
                    weight(
                        priority=boot.priority,
                        age=now - boot.failed_at,
                        project=boot.project,
                        ahead=ahead[boot.project],
                        fairness=fairness,
                    ),
                    boot.id,
                )
            )
            ahead[boot.project] += 1
        units.sort(key=lambda unit: -unit[0])
        if judgement.understanding.nobody or not units:
            continue
        demands.append(
            DemandClass(
                key=judgement.key,
                kind="boot",
                needs=judgement.understanding.needs,
                weights=tuple(w for w, _ in units),
                subjects=tuple(subject for _, subject in units),
                hosts=judgement.hosts,
                devices=_devices_of(world, judgement.understanding),
                preferred=judgement.boots[0].request.preferred,
            )
        )
    return demands


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


def _task_demands(
    world: World,
    tasks: Iterable[Task],
    ledger: _Ledger,
    devices: Sequence[DeviceView],
) -> list[DemandClass]:
    demands = []
    for task in tasks:
        under_way = sum(1 for c in ledger.live.values() if c.subject == task.id)
        missing = task.count - task.done - under_way
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


def _floor_demands(world: World) -> list[DemandClass]:
    return [
        DemandClass(
            key=f"floor:{name}",
            kind="floor",
            needs=(Need((name,)),),
            weights=tuple(FLOOR_WEIGHT / (1.0 + k / pool.min_free) for k in range(pool.min_free)),
            subjects=(name,) * pool.min_free,
        )
        for name, pool in world.catalog.pools.items()
        if pool.min_free > 0
    ]


def _budgets(world: World, ledger: _Ledger, devices: Sequence[DeviceView]) -> Budgets:
    moving = [c for c in ledger.live.values() if c.state in CHANGEOVER_MOVING]
    settings = world.settings
    left: list[int] = []
    if settings.max_changeovers is not None:
        left.append(settings.max_changeovers - len(moving))
    if settings.max_changeovers_per_hour is not None:
        left.append(settings.max_changeovers_per_hour - ledger.started_last_hour)
    per_host = settings.max_changeovers_per_host
    per_function = settings.max_changeovers_per_function
    on_host = Counter(c.host for c in moving)
    to_function = Counter(c.to_function for c in moving)
    function_left: dict[str, int] = (
        {}
        if per_function is None
        else {f: max(0, per_function - n) for f, n in to_function.items()}
    )
    for name, pool in world.catalog.pools.items():
        if pool.max_devices is not None:
            have = sum(1 for d in devices if name == (d.becoming or d.function))
            room = max(0, pool.max_devices - have)
            function_left[name] = min(room, function_left.get(name, room))
    return Budgets(
        total=max(0, min(left)) if left else None,
        per_host=per_host,
        per_function=per_function,
        host_left={} if per_host is None else {h: max(0, per_host - n) for h, n in on_host.items()},
        function_left=function_left,
    )
