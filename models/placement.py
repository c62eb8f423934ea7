"""Placement's own vocabulary as values: inventories, providers, allocations, requests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

GroupPolicy = Literal["none", "isolate"]


@dataclass(frozen=True, slots=True)
class Inventory:
    """How much of one resource class a provider has. Units are those of the class (slots, MiB)."""

    total: int
    reserved: int = 0
    min_unit: int = 1
    max_unit: int = 2147483647
    step_size: int = 1
    allocation_ratio: float = 1.0

    @property
    def capacity(self) -> int:
        """What allocations may use: ``(total - reserved) * allocation_ratio``, as Placement."""
        return int((self.total - self.reserved) * self.allocation_ratio)

    def as_json(self) -> dict[str, Any]:
        """The body that Placement's API takes."""
        return {
            "total": self.total,
            "reserved": self.reserved,
            "min_unit": self.min_unit,
            "max_unit": self.max_unit,
            "step_size": self.step_size,
            "allocation_ratio": self.allocation_ratio,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Inventory:
        """The inventory of an API answer, or of :meth:`as_json`."""
        return cls(
            total=int(data["total"]),
            reserved=int(data.get("reserved", 0)),
            min_unit=int(data.get("min_unit", 1)),
            max_unit=int(data.get("max_unit", 2147483647)),
            step_size=int(data.get("step_size", 1)),
            allocation_ratio=float(data.get("allocation_ratio", 1.0)),
        )


Inventories = Mapping[str, Inventory]


@dataclass(frozen=True, slots=True)
class Provider:
    """A resource provider as Placement lists it."""

    uuid: str
    name: str
    generation: int
    parent: str | None = None
    root: str = ""


@dataclass(frozen=True, slots=True)
class ProviderState:
    """What a provider offers, read at one generation."""

    uuid: str
    generation: int
    inventories: Inventories
    traits: frozenset[str]

    def as_json(self) -> dict[str, Any]:
        """JSON-able, for the journal that a fence is undone from."""
        return {
            "uuid": self.uuid,
            "generation": self.generation,
            "inventories": {rc: inv.as_json() for rc, inv in sorted(self.inventories.items())},
            "traits": sorted(self.traits),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ProviderState:
        """The state that :meth:`as_json` wrote."""
        return cls(
            uuid=str(data["uuid"]),
            generation=int(data["generation"]),
            inventories={rc: Inventory.from_json(i) for rc, i in data["inventories"].items()},
            traits=frozenset(data["traits"]),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """Allocations on one provider and the generation read before them.

    That order is what makes the generation a safe base for a compare-and-swap: an allocation
    that lands after the read has bumped it.
    """

    uuid: str
    generation: int
    by_consumer: Mapping[str, Mapping[str, int]]

    @property
    def idle(self) -> bool:
        """No consumer holds anything."""
        return not self.by_consumer


@dataclass(frozen=True, slots=True)
class RequestGroup:
    """One group of a request: resources that one provider (suffixed) or one tree must give.

    ``suffix`` is empty for the unsuffixed group. ``required`` holds all-of traits, ``any_of``
    sets of which one trait each must be there, ``preferred`` is a hint that only ranks.
    """

    suffix: str = ""
    resources: Mapping[str, int] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    any_of: tuple[frozenset[str], ...] = ()
    forbidden: frozenset[str] = frozenset()
    preferred: frozenset[str] = frozenset()

    def as_json(self) -> dict[str, Any]:
        """JSON-able and canonical: equal groups give equal JSON."""
        return {
            "suffix": self.suffix,
            "resources": dict(sorted(self.resources.items())),
            "required": sorted(self.required),
            "any_of": sorted(sorted(s) for s in self.any_of),
            "forbidden": sorted(self.forbidden),
            "preferred": sorted(self.preferred),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RequestGroup:
        """The group that :meth:`as_json` wrote."""
        return cls(
            suffix=str(data["suffix"]),
            resources={str(k): int(v) for k, v in data["resources"].items()},
            required=frozenset(data["required"]),
            any_of=tuple(frozenset(s) for s in data["any_of"]),
            forbidden=frozenset(data["forbidden"]),
            preferred=frozenset(data["preferred"]),
        )


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """All that one server asks of Placement, as Nova would ask it.

    ``hosts`` restricts the root providers by name (forced host or node), ``None`` means any.
    ``excluded_hosts`` are those the server must not use. ``availability_zone`` is a host
    aggregate that Nova, not Placement, maps to hosts; ``None`` means any. ``root_required`` and
    ``root_forbidden`` are traits of the host itself. The host is in one of ``zone_aggregates``, if
    there are any, in one of ``tenant_aggregates``, if there are any, and in none of
    ``isolated_aggregates`` (Placement's uuids; what they are says
    :mod:`changeover.policies.aggregates`). ``unpinned_vcpus`` is set where CPUs are asked for as
    dedicated ones and Nova asks a second time for so many shared ones: see :meth:`unpinned`.
    """

    groups: tuple[RequestGroup, ...]
    group_policy: GroupPolicy | None = None
    hosts: tuple[str, ...] | None = None
    excluded_hosts: tuple[str, ...] = ()
    availability_zone: str | None = None
    root_required: frozenset[str] = frozenset()
    root_forbidden: frozenset[str] = frozenset()
    zone_aggregates: frozenset[str] = frozenset()
    tenant_aggregates: frozenset[str] = frozenset()
    isolated_aggregates: frozenset[str] = frozenset()
    unpinned_vcpus: int | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON-able and canonical: equal requests give equal JSON."""
        return {
            "groups": [g.as_json() for g in sorted(self.groups, key=lambda g: g.suffix)],
            "group_policy": self.group_policy,
            "hosts": None if self.hosts is None else sorted(self.hosts),
            "excluded_hosts": sorted(self.excluded_hosts),
            "availability_zone": self.availability_zone,
            "root_required": sorted(self.root_required),
            "root_forbidden": sorted(self.root_forbidden),
            "zone_aggregates": sorted(self.zone_aggregates),
            "tenant_aggregates": sorted(self.tenant_aggregates),
            "isolated_aggregates": sorted(self.isolated_aggregates),
            "unpinned_vcpus": self.unpinned_vcpus,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ResourceRequest:
        """The request that :meth:`as_json` wrote."""
        hosts = data["hosts"]
        return cls(
            groups=tuple(RequestGroup.from_json(g) for g in data["groups"]),
            group_policy=data["group_policy"],
            hosts=None if hosts is None else tuple(hosts),
            excluded_hosts=tuple(data["excluded_hosts"]),
            availability_zone=data["availability_zone"],
            # Not in rows that were written before there were any.
            root_required=frozenset(data.get("root_required", ())),
            root_forbidden=frozenset(data.get("root_forbidden", ())),
            zone_aggregates=frozenset(data.get("zone_aggregates", ())),
            tenant_aggregates=frozenset(data.get("tenant_aggregates", ())),
            isolated_aggregates=frozenset(data.get("isolated_aggregates", ())),
            unpinned_vcpus=data.get("unpinned_vcpus"),
        )

    def unpinned(self) -> ResourceRequest | None:
        """What Nova asks besides, for hosts that do not tell dedicated CPUs apart (no PCPU yet).

        Its own rule (``[workarounds] disable_fallback_pcpu_query`` is off by default): shared CPUs
        instead, and nothing about threads.
        """
        if self.unpinned_vcpus is None:
            return None
        threads = {"HW_CPU_HYPERTHREADING"}
        groups = tuple(
            group
            if group.suffix
            else replace(
                group,
                resources={
                    **{rc: n for rc, n in group.resources.items() if rc != "PCPU"},
                    "VCPU": self.unpinned_vcpus,
                },
                required=group.required - threads,
                forbidden=group.forbidden - threads,
            )
            for group in self.groups
        )
        return replace(self, groups=groups, unpinned_vcpus=None)

    @property
    def member_of(self) -> tuple[frozenset[str], ...]:
        """The host is in one aggregate of each of these sets."""
        return tuple(uuids for uuids in (self.zone_aggregates, self.tenant_aggregates) if uuids)

    @property
    def names_hosts(self) -> bool:
        """It may not use every host, whatever the host has."""
        named = self.hosts is not None or self.excluded_hosts
        return bool(named or self.member_of or self.isolated_aggregates)

    @property
    def key(self) -> str:
        """The equivalence class: requests with one key are judged once (16 hex digits)."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def preferred(self) -> frozenset[str]:
        """The preferred traits of all groups."""
        return frozenset().union(*(g.preferred for g in self.groups))


SHARES: Final = "MISC_SHARES_VIA_AGGREGATE"
"""The trait of a provider whose resources are for every member of its aggregates: shared disks."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """A provider as an allocation-candidates answer summarises it."""

    uuid: str
    root: str
    parent: str | None
    traits: frozenset[str]
    capacity: Mapping[str, int]
    used: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AllocationCandidate:
    """One way to satisfy a request: provider uuid -> resource class -> amount."""

    allocations: Mapping[str, Mapping[str, int]]
    mappings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The answer to one allocation-candidates request."""

    candidates: tuple[AllocationCandidate, ...]
    summaries: Mapping[str, Capacity]

    @property
    def roots(self) -> frozenset[str]:
        """The trees (hosts) that have a candidate, by root provider uuid."""
        return frozenset(map(self.root_of, self.candidates))

    def root_of(self, candidate: AllocationCandidate) -> str:
        """The host of a candidate; what it takes of a shared provider is of another tree."""
        used = [self.summaries[uuid] for uuid in candidate.allocations]
        own = [one for one in used if SHARES not in one.traits]
        return min(one.root for one in own or used)
