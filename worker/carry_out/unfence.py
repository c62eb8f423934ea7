"""Unfence: give up before the device was programmed, and put back what was there."""

from __future__ import annotations

import structlog

from changeover.models.changeover import Changeover
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState
from changeover.policies.offer import function_seen
from changeover.worker.carry_out.boots import disappoint
from changeover.worker.carry_out.guards import still_mine
from changeover.worker.carry_out.job import Job

log = structlog.get_logger(__name__)


def give_up(job: Job, reason: Reason) -> Changeover:
    """Give up before programming: put back what was fenced."""
    log.info("changeover.gives_up", why=reason.text)
    if any(fence.before is not None for fence in job.fences()):
        return job.move(ChangeoverState.UNFENCING, reason)
    return abandon(job, reason)


def unfence(job: Job) -> Changeover:
    """Put back what the journal holds, unless it is there already."""
    world = job.world
    for fence in job.fences():
        if fence.before is None:
            continue
        device = world.device(fence.provider)
        state = world.placement.state(fence.provider)
        still_mine(job)
        function = function_seen(
            fence.before.inventories,
            fence.before.traits,
            world.model(device),
            world.catalog,
        )
        # Only what the fence took away: what others wrote meanwhile is theirs.
        own = {
            rc: inv
            for rc, inv in fence.before.inventories.items()
            if inv.capacity > 0
            and (rc not in state.inventories or state.inventories[rc].capacity <= 0)
        }
        # Written even if nothing is missing: the write of a worker that was paused before it
        # fenced is void from here on. It would close the device with no row to say why.
        generation = world.placement.put_inventories(
            fence.provider, state.generation, {**state.inventories, **own}
        )
        facts: dict[str, object] = {"generation": generation}
        if own:
            facts["function"] = None if function is None else function.name
            facts["offered_until"] = world.clock.now()
        with world.database.write() as tx:
            tx.devices.update(fence.provider, **facts)
    return abandon(job, job.changeover.reason)


def abandon(job: Job, reason: Reason) -> Changeover:
    """End it: nothing of it is left in Placement or on the device."""
    with job.world.database.write() as tx:
        now = job.world.clock.now()
        abandoned = tx.changeovers.move(
            job.changeover, ChangeoverState.ABANDONED, now, reason=reason
        )
        tx.fences.drop(abandoned.id)
        disappoint(tx, abandoned, now)
        return abandoned
