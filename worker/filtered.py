"""Filtered: Nova rejects what Placement has candidates for, again and again.

Placement knows resources and traits. What Nova's own filters look at besides (compute services,
NUMA, PCI, server groups, hints) no notification tells and no API explains: what can be known is
said, so that a person looks in the right place. Programming a device changes none of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from changeover.models.boot import Boot
from changeover.models.errors import ChangeoverError
from changeover.models.placement import ResourceRequest
from changeover.models.reasons import Reason
from changeover.policies.aggregates import within
from changeover.worker.demand import CANDIDATES_LIMIT
from changeover.worker.requested import requested
from changeover.worker.world import World

HOSTS_LOOKED_AT = 20
"""Hosts of which it is asked whether their compute service is up: one call each."""

HOSTS_NAMED = 5


def why_filtered(world: World, boot: Boot) -> Reason | None:
    """The reason, if Placement has candidates for the boot now; else ``None``."""
    asked = requested(world, boot)
    if asked.never is not None or asked.later is not None or not asked.request.groups:
        return None
    try:
        found = world.placement.candidates(asked.request, CANDIDATES_LIMIT)
        names = world.host_names(found.roots)
    except ChangeoverError:
        return None
    hosts = sorted(names[root] for root in found.roots if root in names)
    if not found.candidates or not hosts:
        return None
    shown = ", ".join(hosts[:HOSTS_NAMED]) + (" and others" if len(hosts) > HOSTS_NAMED else "")
    known = [
        *_down(world, hosts[:HOSTS_LOOKED_AT]),
        *_not_set_here(world, boot, asked.request),
        *_pci(world, boot),
        *_asked_besides(boot, asked.request),
    ]
    look = "; ".join(known) or "nothing of what it asks is known to be beyond Placement"
    return Reason(
        "boot.filters_rejected",
        f"Nova's filters rejected it {boot.attempt} time(s) although Placement has candidates on "
        f"{shown}: reprogramming does not help. {look}. The scheduler's log names the filter.",
        {"hosts": hosts[:HOSTS_LOOKED_AT], "attempts": boot.attempt, "known": known},
    )


def _down(world: World, hosts: list[str]) -> Iterator[str]:
    """Hosts whose compute service is down: ComputeFilter."""
    for host in hosts:
        try:
            up = world.servers.host_up(host)
        except ChangeoverError:
            return
        if up is False:
            yield f"the compute service of {host} is down"


def _not_set_here(world: World, boot: Boot, request: ResourceRequest) -> Iterator[str]:
    """Isolation that aggregates are there for, where it would leave no host."""
    try:
        aggregates = world.servers.aggregates()
        kept = within(request, aggregates, project=boot.project, isolating=True)
        if kept == request or world.placement.candidates(kept, 1).candidates:
            return
    except ChangeoverError:
        return
    yield (
        "by the metadata of Nova's aggregates no host is left: if nova.conf has "
        "enable_isolated_aggregate_filtering or limit_tenants_to_placement_aggregate, set it here"
    )


def _pci(world: World, boot: Boot) -> Iterator[str]:
    """PCI devices, which Nova's own configuration names."""
    try:
        server = None if boot.server is None else world.servers.get(boot.server)
    except ChangeoverError:
        return
    alias = None if server is None else server.extra_specs.get("pci_passthrough:alias")
    if alias is not None:
        yield f"it asks for PCI devices {alias[:80]}: PciPassthroughFilter"


def _asked_besides(boot: Boot, request: ResourceRequest) -> Iterator[str]:
    """What the boot asks of Nova and not of Placement, as far as it is known."""
    if request.availability_zone is not None and not request.zone_aggregates:
        yield f"it asks for availability zone {request.availability_zone}"
    if request.hosts is not None:
        yield f"it was sent to {', '.join(request.hosts)}"
    if request.unpinned_vcpus is not None:
        yield "it asks for dedicated CPUs: NUMATopologyFilter"
    blueprint = boot.blueprint
    if blueprint is None:
        return
    if blueprint.server_group is not None:
        yield f"it is of server group {blueprint.server_group}: its affinity may leave no host"
    if blueprint.scheduler_hints:
        yield f"it has scheduler hints: {', '.join(sorted(blueprint.scheduler_hints))}"
