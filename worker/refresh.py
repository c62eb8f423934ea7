"""Refresh: what the devices of the catalog offer, as Placement has it."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from changeover.models.catalog import Device
from changeover.models.errors import ChangeoverError, NotFound
from changeover.models.placement import ProviderState, Usage
from changeover.models.reasons import Reason
from changeover.policies.offer import class_of, function_seen, slots_of
from changeover.worker.store.devices import by_provider
from changeover.worker.world import World

log = structlog.get_logger(__name__)

Read = tuple[ProviderState, Usage] | ChangeoverError


def sync_catalog(world: World) -> None:
    """Make the database know the catalog's devices and functions."""
    with world.database.write() as tx:
        tx.devices.sync(world.catalog)
        tx.functions.sync(world.catalog, world.clock.now())


def refresh(world: World, devices: Sequence[Device] | None = None) -> int:
    """Read devices (all of them by default) and record what they offer; returns how many.

    Several are read at once. One that cannot be read is recorded as troubled, and stops none of
    the others.
    """
    wanted = list(world.catalog.devices if devices is None else devices)
    with world.database.read() as tx:
        records = by_provider(tx.devices.all())
    answers = world.concurrently(lambda device: _read(world, device), wanted)
    now = world.clock.now()
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
                record = records[device.provider]
                if record.read_at is None or record.generation != facts["generation"]:
                    # Closed as it may be now: until when it was open, nobody knows.
                    facts["offered_until"] = now
                tx.devices.learn(record, **facts)
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
