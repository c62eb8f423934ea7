"""Guards: what is asked before, while and after a device is closed, programmed and published.

A guard that finds what must not be raises: :class:`Reread` if the changeover is another worker's
by now, :class:`GiveUp` while nothing was programmed, :class:`Quarantine` once something was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import cast

from changeover.models.catalog import Device
from changeover.models.changeover import Changeover
from changeover.models.errors import Reread, Unreachable
from changeover.models.placement import ProviderState, Usage
from changeover.models.reasons import Reason
from changeover.policies.offer import LeftOver, is_fenced, is_foreign, left_over
from changeover.worker.carry_out.job import GiveUp, Job, Quarantine
from changeover.worker.world import World


def as_left(world: World, changeover: Changeover) -> Changeover:
    """The row as the step left it: it may have moved on before it failed.

    Raises :class:`Reread` if another worker has taken over.
    """
    with world.database.read() as tx:
        now = tx.changeovers.get(changeover.id)
    if now is None or now.lease_owner != changeover.lease_owner:
        raise Reread(f"changeover {changeover.id} was taken over by another worker")
    return now


def still_mine(job: Job) -> None:
    """Raise :class:`Reread` if another worker has taken over. Ask after reading Placement.

    What is written then carries a generation from before the takeover: whoever took over has
    written since, or makes this write's generation its own reading. Asked before reading, a
    worker that was paused in between would write over what the other has published.
    """
    if as_left(job.world, job.changeover).state is not job.changeover.state:
        raise Reread(f"changeover {job.changeover.id} was taken over by another worker")


def stop_if_cancelled(job: Job) -> None:
    """Raise :class:`GiveUp` if nobody wants it any more; asked as long as nothing was sent."""
    with job.world.database.read() as tx:
        now = tx.changeovers.get(job.changeover.id)
    if now is not None and now.cancel:
        raise GiveUp(Reason("changeover.cancelled", "an operator, or its purpose, cancelled it"))


def left_over_on(world: World, device: Device, state: ProviderState) -> LeftOver:
    """What a device still offers of functions that the catalog lost."""
    return left_over_of(world, [(device, state)]).get(device.provider, LeftOver())


def left_over_of(world: World, seen: Iterable[tuple[Device, ProviderState]]) -> dict[str, LeftOver]:
    """The same of many, by provider: only of those that offer what the catalog does not tell of."""
    foreign = [
        (device, state)
        for device, state in seen
        if is_foreign(state, world.model(device), world.catalog)
    ]
    if not foreign:
        return {}
    with world.database.read() as tx:
        ever = tx.functions.ever()
    return {
        device.provider: left_over(state, world.model(device), world.catalog, ever)
        for device, state in foreign
    }


def left_over_classes(device: Device, classes: Collection[str]) -> Reason:
    """That a device offers what no fence would close."""
    return Reason(
        "device.left_over",
        f"{device.name} offers {', '.join(sorted(classes))}, of a function that the catalog does "
        "not have any more: put it back until the device has another, or empty its inventory",
        {"resource_classes": sorted(classes)},
    )


def look(world: World, provider: str) -> tuple[ProviderState, Usage]:
    """What a provider offers and who uses it, read side by side; generations may differ."""
    reads: list[Callable[[str], ProviderState | Usage]] = [
        world.placement.state,
        world.placement.usage,
    ]
    state, usage = world.concurrently(lambda read: read(provider), reads)
    return cast("ProviderState", state), cast("Usage", usage)


def usage_while_idle(world: World, provider: str) -> Usage:
    """Who uses a provider, which is nobody; raises :class:`GiveUp` otherwise."""
    usage = world.placement.usage(provider)
    if not usage.idle:
        raise GiveUp(in_use(world.device(provider), usage))
    return usage


def still_ours(job: Job) -> None:
    """Every provider is closed and idle, read in that order: what lands later is refused.

    Each write of an inventory moves the generation, and Placement reads the generation before
    the allocations: where it is the fence's own, one answer says both.
    """
    world = job.world
    for fence in job.fences():
        device = world.device(fence.provider)
        usage = usage_while_idle(world, fence.provider)
        if usage.generation == fence.generation:
            continue
        state = world.placement.state(fence.provider)
        if not is_fenced(state.inventories, world.model(device), world.catalog):
            raise GiveUp(
                Reason(
                    "fence.lifted",
                    f"somebody else opened {device.name} again: its inventory was rewritten",
                )
            )
        usage_while_idle(world, fence.provider)


def not_used_otherwise(job: Job) -> str | None:
    """Refuse what Placement does not know of: use that the driver sees, a host that is down.

    Returns the function that the device has, as far as its driver can say.
    """
    world = job.world
    host = job.device.host
    up = world.servers.host_up(host)
    if up is None:
        raise GiveUp(
            Reason(
                "host.unknown",
                f"Nova knows no compute service of {host}: nobody can say who runs there; "
                "correct the device's host",
            )
        )
    if not up:
        raise GiveUp(
            Reason(
                "host.down",
                f"the compute service of {host} is down: guests whose allocations "
                "were dropped by a local delete may still run there",
            )
        )
    before: str | None = None
    fenced = {fence.provider for fence in job.fences()}
    for device in world.reset_with(job.device):
        if device.provider not in fenced:
            raise GiveUp(
                Reason(
                    "device.card_grew",
                    f"{device.name} was found on the same card after the fences were put up",
                )
            )
        driver = world.programmer(device)
        reading = driver.read(device)
        if driver.report_seconds and not reading.readable:
            raise Unreachable(f"nobody can say what {device.name} has, and who uses it")
        if device.provider == job.device.provider:
            before = reading.function
        if reading.users:
            raise GiveUp(
                Reason(
                    "device.used_by_driver",
                    f"{device.name} is used by {', '.join(reading.users)}, as its driver sees "
                    "it, although Placement shows no allocation",
                )
            )
    return before


def seen_idle(job: Job, seen: Sequence[Usage] | None = None) -> None:
    """After programming: an allocation now was admitted behind the fence."""
    usages = seen or [job.world.placement.usage(f.provider) for f in job.fences()]
    for usage in usages:
        if not usage.idle:
            raise Quarantine(in_use(job.world.device(usage.uuid), usage))


def in_use(device: Device, usage: Usage) -> Reason:
    """That somebody has allocations on the device, and who."""
    consumers = sorted(usage.by_consumer)
    return Reason(
        "device.in_use",
        f"{device.name} is allocated to {', '.join(consumers)}",
        {"consumers": consumers},
    )
