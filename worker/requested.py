"""What a boot asks of Placement in full: its flavor's request, its device profile's groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

import structlog

from changeover.models.boot import Boot
from changeover.models.errors import AskOperator, Garbled, Refuse, Retry
from changeover.models.placement import ResourceRequest
from changeover.models.reasons import Reason
from changeover.policies.device_profile import profile_groups, with_profile
from changeover.worker.world import World

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Requested:
    """The request. ``never``: why nobody can serve it; ``later``: why it cannot be said now."""

    request: ResourceRequest
    never: Reason | None = None
    later: Reason | None = None


def _in_zone(world: World, request: ResourceRequest, zone: str) -> ResourceRequest:
    """The zone as Nova asks it of Placement: by the aggregates that make it up."""
    try:
        aggregates = world.servers.zone_aggregates(zone)
    except AskOperator as exc:
        log.warning("requested.zone_not_told", zone=zone, why=exc.message)
        return request
    return replace(request, member_of=(aggregates,)) if aggregates else request


def requested(world: World, boot: Boot) -> Requested:
    """Resolve the boot's device profile in Cyborg, if it names one.

    A profile may be changed while the boot waits: it is looked up each time, and the adapter
    remembers it for a while.
    """
    return resolved(world, boot.request, boot.device_profile)


def resolved(world: World, request: ResourceRequest, name: str | None) -> Requested:
    """The request with its zone's aggregates and the groups of the device profile ``name``."""
    zone = request.availability_zone
    if zone is not None:
        try:
            request = _in_zone(world, request, zone)
        except (Retry, Garbled) as exc:
            text = f"availability zone {zone} cannot be looked up in Nova now: {exc.message}"
            return Requested(request, later=Reason("demand.nova_silent", text, {"zone": zone}))
    if name is None:
        return Requested(request)
    facts = {"profile": name}
    if world.accelerators is None:
        text = f"it asks for device profile {name}, which only Cyborg can resolve: there is none"
        return Requested(request, never=Reason("demand.device_profile", text, facts))
    try:
        groups = world.accelerators.device_profile(name)
        if groups is None:
            text = f"it asks for device profile {name}, which Cyborg does not have any more"
            return Requested(request, never=Reason("demand.device_profile", text, facts))
        return Requested(with_profile(request, profile_groups(name, groups)))
    except (Retry, Garbled, AskOperator) as exc:
        text = f"device profile {name} cannot be looked up in Cyborg now: {exc.message}"
        return Requested(request, later=Reason("demand.cyborg_silent", text, facts))
    except Refuse as exc:
        return Requested(request, never=Reason("demand.device_profile", exc.message, facts))
