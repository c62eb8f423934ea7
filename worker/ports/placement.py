"""Placement as Changeover needs it, and as a scheduler needs it.

Every write carries the generation that the decision was made on; a method that writes without
one does not exist. Errors (both adapters, held to one contract test):

``Stale``          the generation is not the provider's any more (409 ``concurrent_update``)
``InUse``          the write would take away what is allocated (409 ``inventory.inuse``)
``NotFound``       no such provider, trait or class
``Invalid``        Placement refused the request's form (400)
``Unreachable``    no connection was made, or 429/503: nothing was done
``OutcomeUnknown`` a write was sent and not answered, or answered 500/502/504, or its success is
                   not of the documented form: it may have worked
``Garbled``        the answer to a read is not of the documented form
``AskOperator``    401, 403, no endpoint, or a Placement that is too old
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from changeover.models.placement import (
    Candidates,
    Inventories,
    Provider,
    ProviderState,
    ResourceRequest,
    Usage,
)


class Placement(Protocol):
    """What Changeover reads and writes. Safe to call from several threads at once."""

    def providers(
        self,
        *,
        resources: Mapping[str, int] | None = None,
        required: Iterable[str] = (),
        member_of: Iterable[str] = (),
        name: str | None = None,
        in_tree: str | None = None,
    ) -> list[Provider]:
        """Providers that could take ``resources`` now and have all traits of ``required``.

        ``member_of``: in any of these aggregates.

        ``resources`` counts free capacity, so asking for a device's whole capacity lists the
        idle ones in one call (``max_unit`` permitting). Nobody has a trait or class that Placement
        does not know.
        """
        ...

    def state(self, uuid: str) -> ProviderState:
        """Inventories and traits at one generation (re-read until both agree; Stale if never)."""
        ...

    def inventories(self, uuid: str) -> tuple[int, Inventories]:
        """The provider's generation and its inventories: where traits do not matter."""
        ...

    def usage(self, uuid: str) -> Usage:
        """Allocations on the provider, and the generation read before them."""
        ...

    def put_inventories(self, uuid: str, generation: int, inventories: Inventories) -> int:
        """Replace all inventories; returns the provider's new generation."""
        ...

    def put_traits(self, uuid: str, generation: int, traits: Iterable[str]) -> int:
        """Replace all traits; returns the generation then (unchanged if the set is the same)."""
        ...

    def candidates(self, request: ResourceRequest, limit: int | None = None) -> Candidates:
        """Allocation candidates of the request.

        ``hosts`` and ``excluded_hosts`` of the request are applied to root provider names by the
        adapter (Placement knows no names in this query). A request that names a trait or class
        that Placement does not have gives no candidates, as no provider can have it.
        """
        ...

    def ensure_traits(self, traits: Iterable[str]) -> None:
        """Create the custom traits that are missing."""
        ...

    def ensure_resource_classes(self, classes: Iterable[str]) -> None:
        """Create the custom resource classes that are missing."""
        ...


class PlacementTenant(Placement, Protocol):
    """What a scheduler and a cloud's builder do besides: for the simulated cloud and tests."""

    def create_provider(self, uuid: str, name: str, parent: str | None = None) -> Provider:
        """Create a provider (generation 0); an existing one of that uuid and name is returned."""
        ...

    def put_aggregates(self, uuid: str, generation: int, aggregates: Iterable[str]) -> int:
        """Replace the provider's aggregates; returns its new generation."""
        ...

    def claim(
        self,
        consumer: str,
        allocations: Mapping[str, Mapping[str, int]],
        *,
        project: str,
        user: str,
    ) -> bool:
        """Allocate for a new consumer; ``False`` if Placement refuses (409: no capacity).

        ``Stale`` if the consumer has allocations already, or Placement gave up on a race.
        """
        ...

    def release(self, consumer: str) -> None:
        """Drop all allocations of the consumer; none is fine."""
        ...

    def held(self, consumer: str) -> Mapping[str, Mapping[str, int]]:
        """Allocations of the consumer: provider uuid -> resource class -> amount."""
        ...
