"""Unfence: give up before the device was programmed, and put back what was there."""

from __future__ import annotations

import structlog

from changeover.models.changeover import Changeover
from changeover.models.errors import NotFound
from changeover.models.placement import ProviderState
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
    for fence in job.fences():
        if fence.before is None:
            continue
        try:
            _put_back(job, fence.before)
        except NotFound:
            if job.world.is_there(fence.provider):
                raise
            log.warning("fence.provider_gone", provider=fence.provider)
    return abandon(job, job.changeover.reason)


def _put_back(job: Job, before: ProviderState) -> None:
    """Open one provider as it was; of the catalog nothing is needed but to name its function."""
    world = job.world
    state = world.placement.state(before.uuid)
    still_mine(job)
    # Only what the fence took away: what others wrote meanwhile is theirs.
    own = {
        rc: inv
        for rc, inv in before.inventories.items()
        if rc not in state.inventories or (inv.capacity > 0 and state.inventories[rc].capacity <= 0)
    }
    # Written even if nothing is missing: the write of a worker that was paused before it
    # fenced is void from here on. It would close the device with no row to say why.
    generation = world.placement.put_inventories(
        before.uuid, state.generation, {**state.inventories, **own}
    )
    facts: dict[str, object] = {"offered_until": world.clock.now()}
    device = world.catalog.device(before.uuid)
    if own and device is not None:
        model = world.model(device)
        function = function_seen(before.inventories, before.traits, model, world.catalog)
        facts["function"] = None if function is None else function.name
    with world.database.write() as tx:
        # Paused since, and taken over from, it may have been programmed by now.
        tx.devices.learn(before.uuid, generation, **facts)


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
