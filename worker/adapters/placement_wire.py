"""Placement's answers and queries in their documented form; any other form is an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from changeover.models.placement import (
    AllocationCandidate,
    Candidates,
    Capacity,
    Inventory,
    Provider,
    RequestGroup,
    ResourceRequest,
)
from changeover.worker.adapters.microversions import Version, range_of
from changeover.worker.adapters.service_http import (
    WrongFormError,
    a_count,
    a_text,
    an_array,
    an_integer,
    an_object,
    member,
    texts,
)

# --- answers ----------------------------------------------------------------------------------


def _resources(value: Any, where: str) -> dict[str, int]:
    items = an_object(value, where).items()
    return {rc: a_count(amount, f"{where}[{rc}]") for rc, amount in items}


def generation(value: Any) -> int:
    key = "resource_provider_generation"
    return a_count(member(value, key, "answer"), key)


def provider(value: Any) -> Provider:
    uuid = a_text(member(value, "uuid", "provider"), "uuid")
    parent = member(value, "parent_provider_uuid", "provider")
    return Provider(
        uuid=uuid,
        name=a_text(member(value, "name", "provider"), "name"),
        generation=a_count(member(value, "generation", "provider"), "generation"),
        parent=None if parent is None else a_text(parent, "parent_provider_uuid"),
        root=a_text(member(value, "root_provider_uuid", "provider"), "root_provider_uuid"),
    )


def providers(value: Any) -> list[Provider]:
    key = "resource_providers"
    return [provider(item) for item in an_array(member(value, key, "answer"), key)]


_INVENTORY_COUNTS = ("total", "reserved", "min_unit", "max_unit", "step_size")


def _inventory(value: Any, where: str) -> Inventory:
    counts = {
        key: a_count(member(value, key, where), f"{where}.{key}") for key in _INVENTORY_COUNTS
    }
    ratio = member(value, "allocation_ratio", where)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
        raise WrongFormError(f"{where}.allocation_ratio is no number")
    return Inventory(**counts, allocation_ratio=float(ratio))


def inventories(value: Any) -> tuple[dict[str, Inventory], int]:
    items = an_object(member(value, "inventories", "answer"), "inventories").items()
    return {rc: _inventory(item, rc) for rc, item in items}, generation(value)


def traits(value: Any) -> tuple[frozenset[str], int]:
    return texts(member(value, "traits", "answer"), "traits"), generation(value)


def trait_names(value: Any) -> frozenset[str]:
    return texts(member(value, "traits", "answer"), "traits")


def class_names(value: Any) -> frozenset[str]:
    key = "resource_classes"
    classes = an_array(member(value, key, "answer"), key)
    return frozenset(a_text(member(item, "name", key), key) for item in classes)


def _allocations(value: Any, where: str) -> dict[str, dict[str, int]]:
    return {
        key: _resources(member(item, "resources", where), f"{where}[{key}]")
        for key, item in an_object(value, where).items()
    }


def held(value: Any) -> dict[str, dict[str, int]]:
    return _allocations(member(value, "allocations", "answer"), "allocations")


def usage(value: Any) -> tuple[int, dict[str, dict[str, int]]]:
    return generation(value), held(value)


def candidates(value: Any) -> Candidates:
    summaries = {
        uuid: _capacity(uuid, item)
        for uuid, item in an_object(
            member(value, "provider_summaries", "answer"), "provider_summaries"
        ).items()
    }
    requests_ = an_array(member(value, "allocation_requests", "answer"), "allocation_requests")
    found = []
    for item in requests_:
        allocations = _allocations(
            member(item, "allocations", "allocation_request"), "allocations"
        )  # fmt: skip
        for uuid in allocations:
            if uuid not in summaries:
                raise WrongFormError(f"provider_summaries lacks {uuid!r}")
        mappings = an_object(member(item, "mappings", "allocation_request"), "mappings")
        found.append(
            AllocationCandidate(
                allocations,
                {key: tuple(sorted(texts(uuids, "mappings"))) for key, uuids in mappings.items()},
            )
        )
    return Candidates(tuple(found), summaries)


def _capacity(uuid: str, value: Any) -> Capacity:
    parent = member(value, "parent_provider_uuid", uuid)
    resources = an_object(member(value, "resources", uuid), "resources")
    return Capacity(
        uuid=uuid,
        root=a_text(member(value, "root_provider_uuid", uuid), "root_provider_uuid"),
        parent=None if parent is None else a_text(parent, "parent_provider_uuid"),
        traits=texts(member(value, "traits", uuid), "traits"),
        # Less than nothing is left where a fence reserves what is already allocated.
        capacity={rc: an_integer(member(r, "capacity", rc), rc) for rc, r in resources.items()},
        used={rc: a_count(member(r, "used", rc), rc) for rc, r in resources.items()},
    )


def versions(value: Any) -> tuple[Version, Version]:
    versions = an_array(member(value, "versions", "answer"), "versions")
    if not versions:
        raise WrongFormError("versions is empty")
    return range_of(versions[0], "max_version")


# --- queries ----------------------------------------------------------------------------------


def amounts(resources: Mapping[str, int]) -> str:
    return ",".join(f"{rc}:{amount}" for rc, amount in sorted(resources.items()))


def aggregates_query(request: ResourceRequest) -> Iterator[tuple[str, str]]:
    """As Nova: the unsuffixed group's providers, or their root, are members, or not."""
    for aggregates in sorted(sorted(uuids) for uuids in request.member_of):
        yield "member_of", "in:" + ",".join(aggregates)
    if request.isolated_aggregates:
        yield "member_of", "!in:" + ",".join(sorted(request.isolated_aggregates))


def group_query(group: RequestGroup) -> Iterator[tuple[str, str]]:
    if group.resources:
        yield f"resources{group.suffix}", amounts(group.resources)
    traits = [*sorted(group.required), *(f"!{trait}" for trait in sorted(group.forbidden))]
    if traits:
        yield f"required{group.suffix}", ",".join(traits)
    for names in sorted(sorted(names) for names in group.any_of):
        yield f"required{group.suffix}", "in:" + ",".join(names)
