"""What a boot asks of Placement in full: what its flavor, its device profile, Nova's set-up say."""

from __future__ import annotations

from dataclasses import dataclass, replace

import structlog

from changeover.models.boot import Boot
from changeover.models.errors import AskOperator, Garbled, Refuse, Retry
from changeover.models.placement import ResourceRequest
from changeover.models.reasons import Reason
from changeover.policies.aggregates import within
from changeover.policies.device_profile import profile_groups, with_profile
from changeover.worker.world import World

log = structlog.get_logger(__name__)

NEWER = "COMPUTE_SECURITY_TPM_SECRET_SECURITY_"
"""Asked for with every TPM, and reported with every TPM, by Novas that have such secrets at all."""


@dataclass(frozen=True, slots=True)
class Requested:
    """The request. ``never``: why nobody can serve it; ``later``: why it cannot be said now."""

    request: ResourceRequest
    never: Reason | None = None
    later: Reason | None = None


def requested(world: World, boot: Boot) -> Requested:
    """Resolve the boot's device profile in Cyborg, if it names one, and aggregates in Nova.

    Both may be changed while the boot waits: they are looked up each time, and the adapters
    remember them for a while.
    """
    asked = with_groups(world, boot.request, boot.device_profile)
    if asked.never is not None or asked.later is not None:
        return asked
    return _within_aggregates(world, _by_older_nova(world, asked.request), boot.project)


def _by_older_nova(world: World, request: ResourceRequest) -> ResourceRequest:
    """Without traits that only newer Novas ask for, where no host's Nova is that new."""
    newer = [trait for trait in request.root_required if trait.startswith(NEWER)]
    unknown = frozenset(trait for trait in newer if not world.holders(trait).anybody)
    return replace(request, root_required=request.root_required - unknown) if unknown else request


def with_groups(world: World, request: ResourceRequest, name: str | None) -> Requested:
    """The request with the groups of the device profile ``name``."""
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


def _within_aggregates(world: World, request: ResourceRequest, project: str) -> Requested:
    """Kept to its zone, its project's aggregates, and from those isolated, as Nova is set up."""
    settings = world.settings
    zone = request.availability_zone
    limited = settings.limit_tenants_to_placement_aggregate
    isolating = settings.enable_isolated_aggregate_filtering
    if not (zone or limited or isolating):
        return Requested(request)
    try:
        aggregates = world.servers.aggregates()
    except (Retry, Garbled) as exc:
        text = f"Nova's aggregates cannot be looked up now: {exc.message}"
        return Requested(request, later=Reason("demand.nova_silent", text, {"zone": zone}))
    except AskOperator as exc:
        if limited or isolating:
            # Who may not see them must not act as if there were none.
            text = f"Nova does not show its aggregates to the service user: {exc.message}"
            return Requested(request, later=Reason("demand.aggregates_hidden", text))
        log.warning("requested.zone_not_told", zone=zone, why=exc.message)
        return Requested(request)
    whose = project if limited else None
    request = within(request, aggregates, project=whose, isolating=isolating)
    required = settings.placement_aggregate_required_for_tenants
    if limited and required and not request.tenant_aggregates:
        text = (
            f"no aggregate's filter_tenant_id names project {project}, and Nova takes only those "
            "projects (placement_aggregate_required_for_tenants)"
        )
        facts = {"project": project}
        return Requested(request, never=Reason("demand.tenant_without_aggregate", text, facts))
    return Requested(request)
