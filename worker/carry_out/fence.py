"""Fence: make Placement refuse new allocations on all that the programming resets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from changeover.models.catalog import Device
from changeover.models.changeover import Changeover, Fence
from changeover.models.errors import InUse, Stale
from changeover.models.placement import ProviderState
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState
from changeover.policies.offer import fenced, is_fenced, own_classes
from changeover.worker.carry_out.guards import (
    in_use,
    left_over_classes,
    left_over_on,
    look,
    still_mine,
    stop_if_cancelled,
    usage_while_idle,
)
from changeover.worker.carry_out.job import GiveUp, Job
from changeover.worker.carry_out.unfence import give_up
from changeover.worker.world import World

log = structlog.get_logger(__name__)

FENCE_TRIES = 5
"""Generation conflicts in a row before the device counts as contended and is left alone."""


def fence(job: Job) -> Changeover:
    """Journal what each provider offers, then make Placement refuse new allocations."""
    try:
        fences = [_fence_one(job, fence) for fence in job.fences()]
    except GiveUp as exc:
        return give_up(job, exc.reason)
    with job.world.database.write() as tx:
        for fence in fences:
            tx.fences.journal(fence)
            if fence.fenced_at is not None:
                tx.devices.update(
                    fence.provider, generation=fence.generation, offered_until=fence.fenced_at
                )
        now = job.world.clock.now()
        due = settled_at(job.world, fences)
        if due is None:
            return tx.changeovers.move(job.changeover, ChangeoverState.PROGRAMMING, now)
        reason = Reason("changeover.settling", "fenced; late allocations could still land")
        return tx.changeovers.move(
            job.changeover, ChangeoverState.SETTLING, now, reason=reason, due_at=max(now, due)
        )


def settled_at(world: World, fences: Sequence[Fence]) -> float | None:
    """When nothing that was admitted before the fences can land any more; ``None``: nothing can.

    A device that was never open to the scheduler has nothing that could still land.
    """
    open_until = max((f.fenced_at for f in fences if f.fenced_at is not None), default=None)
    return None if open_until is None else open_until + world.settings.settle_seconds


def _fence_one(job: Job, fence: Fence) -> Fence:
    """One provider, idle at the generation that its fence replaces; raises :class:`GiveUp`."""
    world = job.world
    device = world.device(fence.provider)
    model = world.model(device)
    for _ in range(FENCE_TRIES):
        stop_if_cancelled(job)
        if (state := _fenceable(world, device)) is None:
            continue
        still_mine(job)
        if classes := left_over_on(world, device, state).classes:
            raise GiveUp(left_over_classes(device, classes))
        is_closed = is_fenced(state.inventories, model, world.catalog)
        if fence.before is None or not (is_closed or fence.before == state):
            # Also what others wrote since it was journaled first: that is to be put back.
            fence = replace(fence, before=state)
            with world.database.write() as tx:
                # By whom it is still: another's journal must not be overwritten with less.
                tx.changeovers.note(job.changeover, world.clock.now())
                tx.fences.journal(fence)
        if is_closed:
            if fence.fenced_at is not None:
                return fence
            if not own_classes(model, world.catalog).intersection(state.inventories):
                return _found_closed(world, fence, state)
            # Closed by its reserved slots, which somebody may be about to open: the write
            # below makes a new generation, and whoever decided on the old one finds out.
        closed = fenced(state.inventories, model, world.catalog, device.owner)
        try:
            generation = world.placement.put_inventories(fence.provider, state.generation, closed)
        except Stale:
            continue
        except InUse as exc:
            usage_while_idle(world, fence.provider)
            raise GiveUp(
                Reason("device.taken", f"{device.name} was taken before it could be fenced")
            ) from exc
        return _fenced_now(world, fence, generation)
    raise GiveUp(Reason("device.contended", f"{device.name} changes faster than it can be fenced"))


def _fenceable(world: World, device: Device) -> ProviderState | None:
    """What an idle device offers; ``None`` if it changed while it was read."""
    if device.owner == "changeover":
        # Its fence takes the classes away, which Placement refuses, in the same breath, where
        # they are in use.
        return world.placement.state(device.provider)
    state, usage = look(world, device.provider)
    if not usage.idle:
        raise GiveUp(in_use(device, usage))
    return state if state.generation == usage.generation else None


def _found_closed(world: World, fence: Fence, state: ProviderState) -> Fence:
    """It offers nothing already: it needs no fence, and no settling if that is known for long.

    Known is what was read or written at this very generation. Whatever changed it since may
    have closed it a moment ago, with allocations still to land.
    """
    with world.database.read() as tx:
        record = tx.devices.get(fence.provider)
    since = world.clock.now() - world.settings.settle_seconds
    if (
        record is not None
        and record.read_at is not None
        and record.generation == state.generation
        and (record.offered_until is None or record.offered_until <= since)
    ):
        return fence
    # Closed since it was journaled, by a write of ours that nobody lived to note or by
    # somebody else's: what that write left is read again where it matters.
    return _fenced_now(world, fence, state.generation if fence.before == state else None)


def _fenced_now(world: World, fence: Fence, generation: int | None) -> Fence:
    """Closed from now on. Were this lost before the commit, it would be closed once more."""
    log.info("fence.up", provider=fence.provider, generation=generation)
    return replace(fence, generation=generation, fenced_at=world.clock.now())
