"""Refresh: what devices there are and what they offer, as Placement has it.

A look is incremental: one listing shows the generation of every provider, and only those that
moved since they were read are read again. What became free does not show there (dropping an
allocation leaves the generation as it is): one query a kind of device lists the idle ones. Now and
then everything is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from changeover.models.catalog import Device
from changeover.models.errors import ChangeoverError, NotFound
from changeover.models.placement import ProviderState, Usage
from changeover.models.reasons import Reason
from changeover.policies.offer import class_of, function_seen, slots_of
from changeover.worker.carry_out.guards import left_over_classes, left_over_of
from changeover.worker.discovery import look_around
from changeover.worker.store.devices import DeviceRecord, by_provider
from changeover.worker.world import World

log = structlog.get_logger(__name__)

FULL = "full_refresh"
LEASE = "refresh"

AT_ONCE = 500
"""Devices that are read, then written in one transaction."""

LEASE_SECONDS = 60.0
"""Renewed after each transaction: a refresh that died is taken over from."""

Read = tuple[ProviderState, Usage] | ChangeoverError


def sync_catalog(world: World) -> None:
    """Make the database know the catalog's devices and functions."""
    with world.database.write() as tx:
        tx.devices.sync(world.catalog)
        tx.functions.sync(world.catalog, world.clock.now())


def look(world: World, *, full: bool | None = None) -> dict[str, int]:
    """Find what came and went, then read what changed; ``full`` reads everything.

    By default everything is read when that is due. One process looks at a time: another's look
    counts for this one. Returns how many devices there are and how many were read and freed.
    """
    with world.database.write() as tx:
        now = world.clock.now()
        if not tx.leases.acquire(LEASE, world.owner, now, LEASE_SECONDS):
            return {}
        if full:
            tx.leases.due(FULL, now, 0.0)  # counts as the one that is due
        if full is None:
            full = tx.leases.due(FULL, now, world.settings.full_refresh_seconds)
    try:
        return _look(world, full=full)
    finally:
        with world.database.write() as tx:
            tx.leases.release(LEASE, world.owner)


def _look(world: World, *, full: bool) -> dict[str, int]:
    listed = world.placement.providers()
    world = look_around(world, listed)
    generations = {provider.uuid: provider.generation for provider in listed}
    with world.database.read() as tx:
        records = by_provider(tx.devices.all())
    wanted: list[Device] = []
    kept: list[Device] = []
    for device in world.catalog.devices:
        record = records.get(device.provider)
        moved = (
            record is None
            or record.read_at is None
            or record.trouble is not None
            or record.generation != generations.get(device.provider)
        )
        (wanted if full or moved else kept).append(device)
    read = refresh(world, wanted)
    freed = _note_freed(world, kept, records)
    return {"devices": len(world.catalog.devices), "read": read, "freed": freed}


def _note_freed(
    world: World, devices: Sequence[Device], records: Mapping[str, DeviceRecord]
) -> int:
    """Record as idle what is listed with all of its slots free, though it was in use."""
    sizes: dict[tuple[str, int], dict[str, DeviceRecord]] = defaultdict(dict)
    for device in devices:
        record, model = records[device.provider], world.model(device)
        function = world.catalog.functions.get(record.function or "")
        rc = class_of(function, model) if function is not None else model.resource_class
        if record.used and rc is not None:
            sizes[rc, slots_of(function, model)][device.provider] = record
    kinds = sorted(sizes)
    listed = world.concurrently(
        lambda size: world.placement.providers(resources={size[0]: size[1]}), kinds
    )
    freed = [
        sizes[kind][provider.uuid]
        for kind, providers in zip(kinds, listed, strict=True)
        for provider in providers
        if provider.uuid in sizes[kind]
    ]
    if freed:
        with world.database.write() as tx:
            tx.devices.learn_all([(record, {"used": 0}) for record in freed])
    return len(freed)


def refresh(world: World, devices: Sequence[Device] | None = None) -> int:
    """Read devices (all of them by default) and record what they offer; returns how many.

    Several are read at once, and many are written in one transaction. One that cannot be read is
    recorded as troubled, and stops none of the others.
    """
    wanted = list(world.catalog.devices if devices is None else devices)
    read = 0
    for start in range(0, len(wanted), AT_ONCE):
        read += _refresh(world, wanted[start : start + AT_ONCE])
    return read


def _refresh(world: World, wanted: Sequence[Device]) -> int:
    with world.database.read() as tx:
        records = by_provider(tx.devices.these(device.provider for device in wanted))
    answers = world.concurrently(lambda device: _read(world, device), list(wanted))
    lost = left_over_of(
        world,
        (
            (device, answer[0])
            for device, answer in zip(wanted, answers, strict=True)
            if not isinstance(answer, ChangeoverError)
        ),
    )
    now = world.clock.now()
    learnt: list[tuple[DeviceRecord, dict[str, Any]]] = []
    with world.database.write() as tx:
        fenced = {fence.provider for fence in tx.fences.all()}
        for device, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, ChangeoverError):
                trouble = Reason("device.unreadable", answer.message)
                tx.devices.update(device.provider, trouble=trouble)
                log.warning("device.unreadable", device=device.name, why=answer.message)
            elif device.provider not in fenced and device.provider in records:
                # What a changeover noted while Placement was being read is newer than this.
                facts = _facts(world, device, *answer, now)
                if (left := lost.get(device.provider)) is not None and left.classes:
                    facts["trouble"] = left_over_classes(device, left.classes)
                record = records[device.provider]
                if record.read_at is None or record.generation != facts["generation"]:
                    # Closed as it may be now: until when it was open, nobody knows.
                    facts["offered_until"] = now
                moved = record.generation not in {None, facts["generation"]}
                if facts["used"] or (moved and device.owner == "changeover"):
                    # Our own writes note their generation: somebody else was here.
                    facts["unserved"] = None
                learnt.append((record, facts))
        tx.devices.learn_all(learnt)
        tx.leases.renew(LEASE, world.owner, now + LEASE_SECONDS)
    return sum(not isinstance(answer, ChangeoverError) for answer in answers)


def _read(world: World, device: Device) -> Read:
    try:
        return world.placement.state(device.provider), world.placement.usage(device.provider)
    except NotFound:
        return NotFound(
            f"Placement has no provider {device.provider}: correct devices.{device.name}.provider "
            "in the catalog, or create it"
        )
    except ChangeoverError as exc:
        return exc


def _facts(
    world: World, device: Device, state: ProviderState, usage: Usage, now: float
) -> dict[str, object]:
    model = world.model(device)
    function = function_seen(state.inventories, state.traits, model, world.catalog)
    rc = class_of(function, model) if function is not None else model.resource_class
    inventory = state.inventories.get(rc or "")
    used = sum(held.get(rc or "", 0) for held in usage.by_consumer.values())
    facts: dict[str, object] = {
        "function": None if function is None else function.name,
        "slots": slots_of(function, model),
        "used": used,
        "generation": state.generation,
        "read_at": now,
        "trouble": None,
    }
    if inventory is not None and inventory.capacity > 0:
        facts["offered_until"] = now
    return facts
