"""Which hosts a request is kept to, or kept from, by the metadata of Nova's host aggregates.

Rules of Nova 34's ``scheduler/request_filter.py``: ``map_az_to_placement_aggregate``,
``require_tenant_aggregate`` and ``isolate_aggregates``. Texts are compared as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from changeover.models.aggregate import Aggregate
from changeover.models.placement import ResourceRequest

ZONE: Final = "availability_zone"
"""The key whose value is the availability zone that the aggregate is part of."""

TENANT: Final = "filter_tenant_id"
"""What keys begin with whose value is a project that is kept to the aggregate."""

ISOLATING: Final = "trait:"
"""What keys begin with that, if their value is ``required``, keep out who does not ask for that."""


def zone_of(aggregate: Aggregate) -> str | None:
    """The availability zone that the aggregate is part of."""
    return aggregate.metadata.get(ZONE)


def tenants(aggregate: Aggregate) -> frozenset[str]:
    """The projects that are kept to the aggregate (and to others that name them)."""
    said = aggregate.metadata.items()
    return frozenset(value for key, value in said if key.startswith(TENANT))


def of_zone(aggregates: Iterable[Aggregate], zone: str) -> frozenset[str]:
    """The aggregates that make up a zone; none where it is not made of any (the default zone)."""
    return frozenset(one.uuid for one in aggregates if zone_of(one) == zone)


def of_tenant(aggregates: Iterable[Aggregate], project: str) -> frozenset[str]:
    """The aggregates that the project is kept to."""
    return frozenset(one.uuid for one in aggregates if project in tenants(one))


def isolated(aggregates: Iterable[Aggregate], asked: Iterable[str]) -> frozenset[str]:
    """The aggregates that are kept from who asks for the traits ``asked`` only."""
    may = {f"{ISOLATING}{trait}" for trait in asked}
    return frozenset(
        one.uuid
        for one in aggregates
        if any(
            key.startswith(ISOLATING) and value == "required" and key not in may
            for key, value in one.metadata.items()
        )
    )


def within(
    request: ResourceRequest,
    aggregates: Iterable[Aggregate],
    *,
    project: str | None = None,
    isolating: bool = False,
) -> ResourceRequest:
    """The request, kept to and from the aggregates.

    ``project``: whose it is, where projects are kept to aggregates. ``isolating``: whether
    aggregates are kept from those who do not ask for their traits; traits of all groups count,
    those of the host itself do not.
    """
    there = tuple(aggregates)
    zone = request.availability_zone
    asked = frozenset[str]().union(*(group.required for group in request.groups))
    return replace(
        request,
        zone_aggregates=frozenset() if zone is None else of_zone(there, zone),
        tenant_aggregates=frozenset() if project is None else of_tenant(there, project),
        isolated_aggregates=isolated(there, asked) if isolating else frozenset(),
    )
