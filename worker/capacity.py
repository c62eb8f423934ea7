"""Capacity: what every device is, offers and may become, read from the database and Placement."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from changeover.models.boot import BootPromise
from changeover.models.catalog import Device, Function
from changeover.models.changeover import Changeover
from changeover.models.keep import Keep
from changeover.models.placement import Candidates
from changeover.models.planning import Budgets, DeviceView
from changeover.models.reasons import Reason
from changeover.models.states import CHANGEOVER_MOVING, ChangeoverState
from changeover.policies.backoff import backoff
from changeover.policies.offer import class_of, constant_offer, slots_of
from changeover.worker.store.devices import DeviceRecord, by_provider
from changeover.worker.world import World

FIRST_COOLING = 5.0
MOST_COOLING = 300.0
"""Seconds for which a device is left alone after a changeover that it stood in the way of."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The database's side, read in one snapshot."""

    records: Mapping[str, DeviceRecord]
    live: Mapping[str, Changeover]
    promises: Sequence[BootPromise]
    keeps: Sequence[Keep]
    stopped: Mapping[str, Reason]
    fenced: frozenset[str]
    released: frozenset[str]
    """Devices that an operator released from quarantine: closed, and as good as empty."""
    given_up: Mapping[str, Sequence[Changeover]]
    """Changeovers of the last hour that a device itself stood in the way of, by device."""
    started_last_hour: int
    paused: str | None

    @property
    def meant(self) -> list[BootPromise | Keep]:
        """Slots that are meant for somebody."""
        return [*self.promises, *self.keeps]

    @property
    def promised(self) -> Counter[str]:
        """Slots of each device that are meant for somebody who has not taken them yet."""
        slots = Counter[str]()
        for meant in self.meant:
            slots[meant.device] += meant.slots
        return slots


def read_ledger(world: World, now: float) -> Ledger:
    """Read the database's side."""
    with world.database.read() as tx:
        paused = tx.switches.get("pause")
        return Ledger(
            records=by_provider(tx.devices.all()),
            live={c.device: c for c in tx.changeovers.live()},
            promises=tx.boots.promises(),
            keeps=tx.keeps.standing(now),
            stopped=tx.functions.stopped(),
            fenced=frozenset(fence.provider for fence in tx.fences.all()),
            released=_released(world, tx.changeovers.last_ends()),
            given_up=_given_up(tx.changeovers.abandoned_since(now - 3600.0)),
            started_last_hour=tx.changeovers.started_since(now - 3600.0),
            paused=str(paused["why"]) if paused and paused.get("on") else None,
        )


def _given_up(abandoned: Iterable[Changeover]) -> Mapping[str, Sequence[Changeover]]:
    found: dict[str, list[Changeover]] = defaultdict(list)
    for changeover in abandoned:
        if changeover.reason.code.startswith(("device.", "fence.", "host.")):
            found[changeover.device].append(changeover)
    return found


def _released(world: World, ends: Mapping[str, tuple[float, ChangeoverState]]) -> frozenset[str]:
    """Released devices, with all that their changeovers had fenced, until one is published."""
    released = set()
    for device in world.catalog.devices if ends else ():
        group = [ends[d.provider] for d in world.reset_with(device) if d.provider in ends]
        if group and max(group)[1] is ChangeoverState.RELEASED:
            released.add(device.provider)
    return frozenset(released)


class Capacity:
    """The devices of the catalog as they are now. ``idle`` holds providers with no slot in use."""

    def __init__(self, world: World, ledger: Ledger, now: float) -> None:
        self.world = world
        self.ledger = ledger
        self.now = now
        self.promised = ledger.promised
        self._meant = {meant.device: meant for meant in reversed(ledger.meant)}
        self.idle = self._list_idle()

    @property
    def counted(self) -> frozenset[str]:
        """The devices whose free slots the planner counts: those that have a function.

        A region without one offers its class all the same, to whoever wants any region.
        """
        return frozenset(d.provider for d in self.world.catalog.devices if self._function(d))

    def _function(self, device: Device) -> Function | None:
        if device.provider in self.ledger.released:
            return None
        record = self.ledger.records.get(device.provider)
        return self.world.catalog.functions.get(record.function or "") if record else None

    def _shown(self, device: Device) -> tuple[str, int] | None:
        """The class and slots that Placement shows of the device; ``None``: none, it is empty."""
        model, function = self.world.model(device), self._function(device)
        if function is None and device.owner != "changeover":
            return constant_offer(model, self.world.catalog)
        rc = class_of(function, model) if function is not None else model.resource_class
        slots = slots_of(function, model)
        return (rc, slots) if rc is not None and slots else None

    def _list_idle(self) -> frozenset[str]:
        """Ask for the whole capacity of each kind of device: that lists exactly the idle ones.

        One call for each class and size, however many devices there are. A device counts by the
        answer for its own size: half of a larger one is free where a smaller one is asked for.
        """
        sizes: dict[tuple[str, int], set[str]] = defaultdict(set)
        for device in self.world.catalog.devices:
            known = device.provider in self.ledger.records
            shown = self._shown(device)
            if known and shown is not None and device.provider not in self.ledger.live:
                sizes[shown].add(device.provider)
        kinds = sorted(sizes)
        listed = self.world.concurrently(
            lambda size: self.world.placement.providers(resources={size[0]: size[1]}), kinds
        )
        return frozenset(
            provider.uuid
            for kind, providers in zip(kinds, listed, strict=True)
            for provider in providers
            if provider.uuid in sizes[kind]
        )

    def views(self, answers: Sequence[Candidates]) -> tuple[DeviceView, ...]:
        """Every device for the planner; ``answers`` show free slots of devices in part use."""
        free = self._free_slots(answers)
        return tuple(
            self._view(device, free.get(device.provider, 0))
            for device in self.world.catalog.devices
        )

    def _free_slots(self, answers: Sequence[Candidates]) -> dict[str, int]:
        """Free slots that are promised to nobody, of the devices that were seen to have any."""
        free: dict[str, int] = {}
        for device in self.world.catalog.devices:
            model = self.world.model(device)
            function = self._function(device)
            if device.provider in self.idle:
                free[device.provider] = slots_of(function, model)
            rc = class_of(function, model) if function is not None else model.resource_class
            if rc is None:
                continue
            for answer in answers:
                summary = answer.summaries.get(device.provider)
                if summary is not None and rc in summary.capacity:
                    free[device.provider] = summary.capacity[rc] - summary.used.get(rc, 0)
        return {uuid: max(0, n - self.promised[uuid]) for uuid, n in free.items()}

    def _view(self, device: Device, free: int) -> DeviceView:
        record = self.ledger.records.get(device.provider)
        model = self.world.model(device)
        function = self._function(device)
        live = self.ledger.live.get(device.provider)
        changed_at = (record and record.changed_at) or 0.0
        becoming: str | None = None
        ready_in = 0.0
        if live is not None:
            free = 0
            if live.state in CHANGEOVER_MOVING and live.state is not ChangeoverState.UNFENCING:
                becoming = live.to_function
                to = self.world.catalog.functions.get(becoming)
                free = slots_of(to, model) - self.promised[device.provider]
                ready_in = 0.0 if to is None else to.seconds
        return DeviceView(
            uuid=device.provider,
            name=device.name,
            host=device.host,
            model=device.model,
            mode=model.mode,
            function=function.name if function is not None else None,
            free=max(0, free),
            becoming=becoming,
            ready_in=ready_in,
            blocked=self.blocked(device),
            programs=record.programs if record else 0,
            idle_seconds=max(0.0, self.now - changed_at),
            traits=frozenset(model.traits),
            resting=self._resting(device, record),
        )

    def blocked(self, device: Device) -> Reason | None:
        """Why the device may not be programmed now, if so."""
        record = self.ledger.records.get(device.provider)
        if device.pinned:
            return Reason("device.pinned", f"{device.name} is pinned in the catalog")
        if (live := self.ledger.live.get(device.provider)) is not None:
            return _changing(device, live)
        if record is None or record.read_at is None:
            return Reason("device.unread", f"{device.name} has not been read from Placement yet")
        return (
            record.trouble
            or self._in_use(device)
            or self._cooling(device)
            or self._dwelling(device, record)
        )

    def _in_use(self, device: Device) -> Reason | None:
        """Its own slots, and those of everything that programming it resets."""
        for other in self.world.reset_with(device):
            mine = other.provider == device.provider
            if not mine and other.provider in self.ledger.fenced:
                return Reason(
                    "device.card_changing", f"{other.name} on the same card is being programmed"
                )
            if self._shown(other) is None:
                continue
            if other.provider in self.ledger.released:
                # Closed, so that no list of free capacity has it: the fence will see whether it
                # is in use.
                continue
            if other.provider not in self.idle:
                also = "" if mine else f", and programming {device.name} resets it"
                return Reason(
                    "device.in_use", f"{other.name} is in use{also}", {"device": other.name}
                )
        return self._promised(device)

    def _promised(self, device: Device) -> Reason | None:
        """Slots of its own, or of what programming it resets, are meant for somebody."""
        for other in self.world.reset_with(device):
            meant = self._meant.get(other.provider)
            if meant is None:
                continue
            if isinstance(meant, BootPromise):
                return Reason("device.promised", f"slots of {other.name} are promised to boots")
            whose = "an owner who was told to boot again" if meant.kind == "owner" else "a lease"
            return Reason(
                "device.kept",
                f"slots of {other.name} are kept for {whose}, for {meant.until - self.now:.0f} s",
                {"for": meant.subject, "until": meant.until},
            )
        return None

    def _cooling(self, device: Device) -> Reason | None:
        """A device that stood in the way is left alone, longer each time."""
        given_up = self.ledger.given_up.get(device.provider, ())
        if not given_up:
            return None
        last = given_up[-1]
        wait = backoff(len(given_up), first=FIRST_COOLING, most=MOST_COOLING, jitter=0.0)
        left = (last.finished_at or 0.0) + wait - self.now
        if left <= 0:
            return None
        return Reason(
            "device.cooling",
            f"{device.name} is left alone for {left:.0f} s: the last of {len(given_up)} "
            f"changeover(s) given up within the hour ended with: {last.reason.text}",
            {"seconds": left},
        )

    def _resting(self, device: Device, record: DeviceRecord | None) -> Reason | None:
        rest = self.world.settings.forecast_dwell_seconds
        # What stands empty has nothing to lose by being programmed again.
        if record is None or record.changed_at is None or record.function is None:
            return None
        age = self.now - record.changed_at
        if age >= rest:
            return None
        text = f"{device.name} was programmed {age:.0f} s ago: only boots and tasks take it again"
        return Reason("device.resting", text, {"seconds": rest - age})

    def _dwelling(self, device: Device, record: DeviceRecord) -> Reason | None:
        dwell = self.world.settings.dwell_seconds
        if record.changed_at is None or self.now - record.changed_at >= dwell:
            return None
        age = self.now - record.changed_at
        return Reason(
            "device.dwelling",
            f"{device.name} was programmed {age:.0f} s ago and keeps its function for "
            f"{dwell:.0f} s",
            {"seconds": dwell - age},
        )

    def budgets(self, views: Sequence[DeviceView]) -> Budgets:
        """What may be started now: the settings' bounds less what is under way."""
        settings = self.world.settings
        moving = [c for c in self.ledger.live.values() if c.state in CHANGEOVER_MOVING]
        left: list[int] = []
        if settings.max_changeovers is not None:
            left.append(settings.max_changeovers - len(moving))
        if settings.max_changeovers_per_hour is not None:
            left.append(settings.max_changeovers_per_hour - self.ledger.started_last_hour)
        per_host = settings.max_changeovers_per_host
        per_function = settings.max_changeovers_per_function
        on_host = Counter(c.host for c in moving)
        to_function = Counter(c.to_function for c in moving)
        function_left = _left(per_function, to_function)
        for name, pool in self.world.catalog.pools.items():
            if pool.max_devices is not None:
                have = sum(1 for view in views if name == (view.becoming or view.function))
                room = max(0, pool.max_devices - have)
                function_left[name] = min(room, function_left.get(name, room))
        return Budgets(
            total=max(0, min(left)) if left else None,
            per_host=per_host,
            per_function=per_function,
            host_left=_left(per_host, on_host),
            function_left=function_left,
        )


def _left(bound: int | None, taken: Mapping[str, int]) -> dict[str, int]:
    return {} if bound is None else {key: max(0, bound - n) for key, n in taken.items()}


def _changing(device: Device, live: Changeover) -> Reason:
    if live.state is ChangeoverState.QUARANTINED:
        text = f"{device.name} is quarantined: {live.reason.text}"
        return Reason("device.quarantined", text, {"changeover": live.id})
    text = f"{device.name} is being programmed with {live.to_function} ({live.state})"
    return Reason("device.changing", text, {"changeover": live.id})
