"""Nova's host aggregates: whether what keeps servers to and from them is asked for here, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus

from changeover.models.aggregate import Aggregate
from changeover.policies.aggregates import isolated, tenants, zone_of
from changeover.worker.adapters import nova_wire
from changeover.worker.doctor.check import Check, fail, ok, some, warn
from changeover.worker.doctor.site import Site

_NOVA = {"OpenStack-API-Version": "compute 2.73"}


def aggregates(site: Site) -> Iterator[Check]:
    """They are shown to us, mirrored in Placement, and what they are there for is asked for."""
    name = "nova.aggregates"
    answer = site.api("compute").request("GET", "/os-aggregates", headers=_NOVA)
    if answer.status == HTTPStatus.FORBIDDEN:
        yield fail(
            name,
            "Nova does not let our user see aggregates: zones, isolation and projects that are "
            "kept to aggregates cannot be asked for",
            "give it os_compute_api:os-aggregates:index: see docs/openstack.md",
        )
        return
    found = answer.parse(nova_wire.aggregates)
    yield ok(name, f"Nova shows {len(found)} aggregate(s)")
    isolating = [one for one in found if isolated([one], ())]
    limiting = [one for one in found if tenants(one)]
    if isolating and not site.settings.enable_isolated_aggregate_filtering:
        yield _not_asked(
            isolating, "trait:NAME = required", ("enable_isolated_aggregate_filtering",)
        )
    if limiting and not site.settings.limit_tenants_to_placement_aggregate:
        options = (
            "limit_tenants_to_placement_aggregate",
            "placement_aggregate_required_for_tenants",
        )
        yield _not_asked(limiting, "filter_tenant_id", options)
    yield from _mirrored(site, [*isolating, *limiting, *filter(zone_of, found)])


def _not_asked(those: list[Aggregate], metadata: str, options: tuple[str, ...]) -> Check:
    option = options[0]
    return warn(
        f"nova.{option}",
        f"{some(_names(those))}: metadata {metadata}, but {option} is off here",
        f"set {' and '.join(options)} here as in nova.conf of nova-scheduler, [scheduler]: hosts "
        "that Nova rules out look fit, and devices are programmed in vain",
        aggregates=_names(those),
    )


def _mirrored(site: Site, those: list[Aggregate]) -> Iterator[Check]:
    """Nova writes an aggregate's hosts to Placement as they are added; of old ones it may not."""
    lost = [
        one
        for one in {one.uuid: one for one in those}.values()
        if one.hosts and not site.placement.providers(member_of=[one.uuid])
    ]
    if lost:
        yield warn(
            "nova.aggregates_mirrored",
            f"{some(_names(lost))}: with hosts in Nova and without any in Placement",
            "run `nova-manage placement sync_aggregates`: who is kept to them finds no host",
            aggregates=_names(lost),
        )


def _names(those: Iterable[Aggregate]) -> list[str]:
    return sorted(one.name or one.uuid for one in those)
