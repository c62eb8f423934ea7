"""Publish: make Placement say what the device has now, with every slot reserved."""

from __future__ import annotations

from dataclasses import replace

import structlog

from changeover.models.catalog import Device
from changeover.models.changeover import Changeover, Fence
from changeover.models.errors import NotFound, Stale
from changeover.models.placement import Inventories, ProviderState, Usage
from changeover.models.reasons import Reason
from changeover.policies.offer import (
    class_of,
    fenced,
    is_fenced,
    offered,
    slots_of,
    traits_with,
)
from changeover.worker.carry_out.done import done
from changeover.worker.carry_out.guards import left_over_on, look, seen_idle, still_mine
from changeover.worker.carry_out.job import Job, Quarantine
from changeover.worker.carry_out.report import await_report
from changeover.worker.holds import close
from changeover.worker.world import World

log = structlog.get_logger(__name__)

CYBORG_REPORTS = 180.0
"""Seconds within which Cyborg publishes a device of its own that another driver programs."""


def publish(job: Job) -> Changeover:
    """Traits, then inventory with every slot reserved. Slots are opened once it is DONE.

    Nothing is open before DONE is committed, so that after a crash an allocation seen here
    can only be one that was admitted behind the fence.
    """
    world = job.world
    state = _closed_and_idle(job)
    for other in job.fences():
        if other.provider != job.device.provider:
            _empty_sibling(job, world.device(other.provider))
    traits = traits_with(state.traits, job.function, job.model, world.catalog)
    traits -= left_over_on(world, job.device, state).traits
    generation = state.generation
    if job.device.owner == "cyborg":
        waiting = _await_cyborg(job, state, traits)
        if waiting is not None:
            return waiting
    if traits != state.traits:
        generation = _put_traits(world, state, generation, traits)
    slots = slots_of(job.function, job.model)
    inventories = offered(state.inventories, job.function, job.model, world.catalog, reserved=slots)
    generation = _put_inventories(world, state.uuid, generation, inventories)
    seen_idle(job)
    return done(job, generation)


def _closed_and_idle(job: Job) -> ProviderState:
    """The device's state, with everything that its programming resets closed and idle."""
    world = job.world
    states: dict[str, ProviderState] = {}
    usages: list[Usage] = []
    for fence in job.fences():
        state, usage = _look_behind(world, fence)
        states[fence.provider] = state
        usages.append(usage)
    still_mine(job)
    opened = False
    for provider, state in states.items():
        if not is_fenced(state.inventories, world.model(world.device(provider)), world.catalog):
            log.error("fence.was_lifted", provider=provider)
            close(world, world.device(provider), lambda: still_mine(job))
            opened = True
    if opened:
        # Whoever took it while it was open counts on what it was.
        raise Stale(f"{job.device.name} was opened behind its fence, and closed again")
    seen_idle(job, usages)
    return states[job.device.provider]


def _look_behind(world: World, fence: Fence) -> tuple[ProviderState, Usage]:
    """What a fenced provider offers and who uses it.

    At the generation that the fence made it is what the fence left: every write to a provider
    moves its generation by one.
    """
    device = world.device(fence.provider)
    before = fence.before
    if before is None or fence.generation != before.generation + 1:
        return look(world, fence.provider)
    usage = world.placement.usage(fence.provider)
    if usage.generation != fence.generation:
        return world.placement.state(fence.provider), usage
    closed = fenced(before.inventories, world.model(device), world.catalog, device.owner)
    return replace(before, generation=usage.generation, inventories=closed), usage


def _empty_sibling(job: Job, device: Device) -> None:
    """What shared the card was reset with it: it has no function any more.

    It stays closed until the changeover is done: whoever took it before then would look like
    a late allocation.
    """
    world = job.world
    model = world.model(device)
    state = world.placement.state(device.provider)
    still_mine(job)
    traits = traits_with(state.traits, None, model, world.catalog)
    traits -= left_over_on(world, device, state).traits
    generation = state.generation
    if traits != state.traits:
        generation = world.placement.put_traits(device.provider, generation, traits)
    slots = slots_of(None, model)
    inventories = offered(state.inventories, None, model, world.catalog, reserved=slots)
    if dict(inventories) != dict(state.inventories):
        generation = world.placement.put_inventories(device.provider, generation, inventories)
    with world.database.write() as tx:
        # Paused since, and taken over from, it may have been opened or programmed by now.
        tx.devices.learn(
            device.provider, generation, function=None, slots=slots, used=0, reserved=slots
        )


def _await_cyborg(job: Job, state: ProviderState, traits: frozenset[str]) -> Changeover | None:
    """Cyborg publishes its devices itself: wait until it has, and check what.

    Its driver has reported the function by now (that was verified), and Placement is told in
    the same breath. Where that failed Cyborg never says it again: then it is for us to say.
    """
    rc, slots = class_of(job.function, job.model), slots_of(job.function, job.model)
    there = state.inventories.get(rc)
    if there is None or there.total != slots:
        raise Quarantine(
            Reason(
                "cyborg.count_changed",
                f"Cyborg offers {0 if there is None else there.total} x {rc} on "
                f"{job.device.name}, not {slots} as the catalog says",
            )
        )
    driver = job.world.programmer(job.device)
    seconds = driver.report_seconds or CYBORG_REPORTS
    until = (job.changeover.programmed_at or 0.0) + seconds
    if traits == state.traits:
        return None
    if job.world.clock.now() < until:
        return await_report(job, seconds, until)
    log.warning("cyborg.did_not_publish", device=job.device.name, traits=sorted(traits))
    return None


def _put_traits(world: World, state: ProviderState, generation: int, traits: frozenset[str]) -> int:
    """Replace the traits; only where Placement does not know them all are they made first."""
    put = world.placement.put_traits
    try:
        return put(state.uuid, generation, traits)
    except NotFound:
        world.placement.ensure_traits(traits - state.traits)
        return put(state.uuid, generation, traits)


def _put_inventories(world: World, provider: str, generation: int, inventories: Inventories) -> int:
    """Replace the inventories; a class that Placement does not know is made first."""
    put = world.placement.put_inventories
    try:
        return put(provider, generation, inventories)
    except NotFound:
        world.placement.ensure_resource_classes(inventories)
        return put(provider, generation, inventories)
