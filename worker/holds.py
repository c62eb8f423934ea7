"""Holds: slots that a changeover made stay reserved for their boots until those are created."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import structlog

from changeover.models.boot import BootPromise
from changeover.models.catalog import Device
from changeover.models.errors import NotFound, Stale
from changeover.policies.offer import class_of, fenced, is_fenced
from changeover.worker.store import Tx
from changeover.worker.world import World

log = structlog.get_logger(__name__)

TRIES = 10
"""Boots of one device open their slots at the same time: each conflict is one that got through."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What was made of a device's slots, still to be committed with :meth:`note`."""

    provider: str
    reserved: int
    generation: int
    at: float

    def note(self, tx: Tx) -> None:
        """Remember it, unless a later state is known already."""
        tx.devices.learn(
            self.provider, self.generation, reserved=self.reserved, offered_until=self.at
        )


def devices_of(world: World, promises: Iterable[BootPromise]) -> list[Device]:
    """The devices of promises. What the catalog lost nobody can open: Nova will say so."""
    found = []
    for promise in promises:
        try:
            found.append(world.device(promise.device))
        except NotFound as exc:
            log.warning("slots.device_lost", why=exc.message, boot=promise.boot)
    return found


def open_slots(world: World, device: Device) -> None:
    """Make Placement reserve exactly the slots that are still held. Idempotent.

    Raises :class:`Stale` if others kept writing to the provider; the sweep comes back to it.
    """
    opened = offer_slots(world, device)
    if opened is not None:
        with world.database.write() as tx:
            opened.note(tx)


def offer_slots(world: World, device: Device) -> Opened | None:
    """As :func:`open_slots`, for a caller that commits the outcome with more."""
    model = world.model(device)
    for _ in range(TRIES):
        # Placement first: a changeover that begins after its rows were read, or a promise that
        # is made then, changes the provider too, and the write below is void.
        try:
            generation, inventories = world.placement.inventories(device.provider)
        except NotFound:
            if world.is_there(device.provider):
                raise
            return None  # its slots are gone with it
        with world.database.read() as tx:
            record = tx.devices.get(device.provider)
            held = sum(p.slots for p in tx.boots.promises(device=device.provider) if p.held_until)
            held_back = any(f.provider == device.provider for f in tx.fences.all())
        function = world.catalog.functions.get(record.function or "") if record else None
        rc = model.resource_class if function is None else class_of(function, model)
        if record is None or rc is None or held_back:
            return None
        if record.generation is not None and record.generation > generation:
            # Another opened slots between the two readings: by a row that is newer than what was
            # read of Placement, those still to be opened would pass for somebody else's.
            continue
        inventory = inventories.get(rc)
        # Slots that somebody else reserved are theirs: the row knows how many were ours. Fewer of
        # these may be left: who opened some may have been killed before it could say so.
        ours = inventory is not None and (
            inventory.reserved == record.reserved or held < inventory.reserved < record.reserved
        )
        if inventory is not None and ours and inventory.reserved != held:
            opened = {**inventories, rc: replace(inventory, reserved=held)}
            try:
                generation = world.placement.put_inventories(device.provider, generation, opened)
            except Stale:
                continue
            log.info("slots.opened", device=device.name, held=held, slots=inventory.total)
        return Opened(device.provider, held, generation, world.clock.now())
    raise Stale(f"{device.name} changes faster than its slots can be opened")


def close(world: World, device: Device, still: Callable[[], object]) -> bool:
    """Close a device again that somebody else opened behind a fence; whether it was open.

    All slots are reserved: Placement accepts that even where some of them are in use by now.
    ``still`` is asked once Placement was read: it raises if the fence is not the caller's any
    more.
    """
    model = world.model(device)
    generation, inventories = world.placement.inventories(device.provider)
    if is_fenced(inventories, model, world.catalog):
        return False
    still()
    closed = fenced(inventories, model, world.catalog, "nova")
    world.placement.put_inventories(device.provider, generation, closed)
    return True
