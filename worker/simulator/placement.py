"""Placement in memory: its semantics without its process, held to the contract of the real one.

It knows standard traits by their namespaces, without os-traits' list. One upstream defect is not
imitated: where one class is asked for in several groups without ``group_policy=none``, the real
service adds up the amounts of candidates that have nothing to do with each other.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

from changeover.models.errors import InUse, Invalid, NotFound, Stale
from changeover.models.placement import (
    AllocationCandidate,
    Candidates,
    Capacity,
    Inventories,
    Inventory,
    Provider,
    ProviderState,
    RequestGroup,
    ResourceRequest,
    Usage,
)

_STANDARD_CLASSES: Final = frozenset({
    "DISK_GB", "FPGA", "IPV4_ADDRESS", "MEMORY_MB", "MEM_ENCRYPTION_CONTEXT",
    "NET_BW_EGR_KILOBIT_PER_SEC", "NET_BW_IGR_KILOBIT_PER_SEC",
    "NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC", "NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC",
    "NET_PACKET_RATE_KILOPACKET_PER_SEC", "NUMA_CORE", "NUMA_MEMORY_MB", "NUMA_SOCKET",
    "NUMA_THREAD", "PCI_DEVICE", "PCPU", "PGPU", "SRIOV_NET_VF", "VCPU", "VGPU",
    "VGPU_DISPLAY_HEAD",
})  # fmt: skip
_STANDARD_TRAIT = re.compile(r"(COMPUTE|HW|MISC|OWNER|STORAGE)_[A-Z0-9_]+")
_CUSTOM = re.compile(r"CUSTOM_[A-Z0-9_]+")
_SUFFIX = re.compile(r"[a-zA-Z0-9_-]{0,64}")

_LONGEST_NAME = 255
_MAX_INT = 0x7FFFFFFF


class When(StrEnum):
    """The two moments of a call at which a fault may strike."""

    BEFORE = "before"
    AFTER = "after"


FaultPlan = Callable[[When, str], None]
"""Consulted with the moment and the name of the port's method; may raise, or act on the service."""


class Faults:
    """A fault plan that strikes at the calls that it was told, each time once.

    ``faults.at(When.AFTER, "put_inventories", OutcomeUnknown("lost"))`` lets the next such write
    happen and loses its answer. An action that is callable is called instead: another client that
    acts in between. What it does to the service is not struck itself.
    """

    def __init__(self) -> None:
        self._planned: list[_Planned] = []
        self._lock = threading.Lock()

    def at(
        self,
        when: When,
        method: str,
        action: Exception | Callable[[], object],
        *,
        skip: int = 0,
        times: int = 1,
    ) -> None:
        """Strike ``times`` calls of ``method``, after letting ``skip`` of them pass."""
        with self._lock:
            self._planned.append(_Planned(when, method, action, skip, times))

    def __call__(self, when: When, method: str) -> None:
        for action in self._due(when, method):
            if isinstance(action, Exception):
                raise action
            action()

    def _due(self, when: When, method: str) -> list[Exception | Callable[[], object]]:
        due = []
        with self._lock:
            for planned in self._planned:
                if (planned.when, planned.method) != (when, method) or planned.times == 0:
                    continue
                if planned.skip > 0:
                    planned.skip -= 1
                    continue
                planned.times -= 1
                due.append(planned.action)
        return due


@dataclass(slots=True)
class _Planned:
    when: When
    method: str
    action: Exception | Callable[[], object]
    skip: int
    times: int


@dataclass(slots=True)
class _Record:
    """A provider as the service keeps it."""

    uuid: str
    name: str
    parent: str | None
    root: str
    generation: int = 0
    inventories: dict[str, Inventory] = field(default_factory=dict)
    traits: frozenset[str] = frozenset()
    aggregates: frozenset[str] = frozenset()
    used: Counter[str] = field(default_factory=Counter)
    consumers: dict[str, dict[str, int]] = field(default_factory=dict)

    def provider(self) -> Provider:
        return Provider(self.uuid, self.name, self.generation, self.parent, self.root)


@dataclass(frozen=True, slots=True)
class _Choice:
    """How one group may be satisfied within one tree."""

    parts: tuple[tuple[str, str, int], ...]
    providers: frozenset[str]


class Admitted:
    """An allocation whose capacity was checked, and which is not committed yet.

    The real service checks and commits in one transaction; another client's write may be
    committed in between. It then retries the generation conflict and commits what it had
    admitted, whatever the inventories say by then, unless it is told to try only once.
    """

    def __init__(self, placement: MemoryPlacement, commit: Callable[[], bool]) -> None:
        self._placement = placement
        self._commit = commit

    def commit(self) -> bool:
        """Let it land. ``False`` if a provider changed since and the service tries only once."""
        return self._commit()


class MemoryPlacement:
    """``PlacementTenant`` in memory. Safe to call from several threads at once.

    Answers come in the order in which providers were made. ``conflict_retries`` is Placement's
    ``allocation_conflict_retry_count``: above 1, an :class:`Admitted` allocation lands even after
    a fence.
    """

    def __init__(self, faults: FaultPlan | None = None, *, conflict_retries: int = 10) -> None:
        self._faults = faults
        self._conflict_retries = conflict_retries
        self._lock = threading.RLock()
        self._struck = threading.local()
        self._records: dict[str, _Record] = {}
        self._allocations: dict[str, dict[str, dict[str, int]]] = {}
        self._traits: set[str] = set()
        self._classes: set[str] = set()

    @contextmanager
    def _call(self, method: str) -> Iterator[None]:
        """One call of the port: faults before and after, the effect in between, alone."""
        self._strike(When.BEFORE, method)
        with self._lock:
            yield
        self._strike(When.AFTER, method)

    def _strike(self, when: When, method: str) -> None:
        if self._faults is None or getattr(self._struck, "now", False):
            return
        self._struck.now = True
        try:
            self._faults(when, method)
        finally:
            self._struck.now = False

    # --- reading ----------------------------------------------------------------------------

    def providers(
        self,
        *,
        resources: Mapping[str, int] | None = None,
        required: Iterable[str] = (),
        member_of: Iterable[str] = (),
        name: str | None = None,
        in_tree: str | None = None,
    ) -> list[Provider]:
        wanted, traits = dict(resources or {}), frozenset(required)
        aggregates = frozenset(member_of)
        for uuid in aggregates:
            _check_uuid(uuid)
        _check_amounts(wanted)
        if in_tree is not None:
            _check_uuid(in_tree)
        with self._call("providers"):
            if not self._known(wanted, traits):
                return []
            root = None if in_tree is None else self._root(in_tree)
            return [
                record.provider()
                for record in self._records.values()
                if (name is None or record.name == name)
                and (in_tree is None or record.root == root)
                and traits <= record.traits
                and (not aggregates or aggregates & record.aggregates)
                and self._fits(record, wanted)
            ]

    def state(self, uuid: str) -> ProviderState:
        with self._call("state"):
            record = self._record(uuid)
            return ProviderState(uuid, record.generation, dict(record.inventories), record.traits)

    def inventories(self, uuid: str) -> tuple[int, Inventories]:
        with self._call("inventories"):
            record = self._record(uuid)
            return record.generation, dict(record.inventories)

    def usage(self, uuid: str) -> Usage:
        with self._call("usage"):
            record = self._record(uuid)
            by_consumer = {consumer: dict(given) for consumer, given in record.consumers.items()}
            return Usage(uuid, record.generation, by_consumer)

    def candidates(self, request: ResourceRequest, limit: int | None = None) -> Candidates:
        groups = _groups(request)
        if limit is not None and limit < 1:
            raise Invalid(f"limit {limit} is not positive")
        with self._call("candidates"):
            traits = request.root_required | request.root_forbidden
            known = self._all_known(groups) and self._known((), traits)
            found = self._found(groups, request) if known else iter(())
            candidates = tuple(itertools.islice(found, limit))
            trees = {
                self._records[uuid].root
                for candidate in candidates
                for uuid in candidate.allocations
            }
            summaries = {
                record.uuid: self._summary(record)
                for record in self._records.values()
                if record.root in trees
            }
            return Candidates(candidates, summaries)

    def _found(
        self, groups: list[RequestGroup], request: ResourceRequest
    ) -> Iterator[AllocationCandidate]:
        trees: dict[str, list[_Record]] = {}
        for record in self._records.values():
            trees.setdefault(record.root, []).append(record)
        for root, tree in trees.items():
            host = self._records[root].name
            if host in request.excluded_hosts:
                continue
            if request.hosts is not None and host not in request.hosts:
                continue
            traits = self._records[root].traits
            if not request.root_required <= traits or request.root_forbidden & traits:
                continue
            choices = [list(self._choices(group, tree, request)) for group in groups]
            for combination in itertools.product(*choices):
                if request.group_policy == "isolate" and not _isolated(groups, combination):
                    continue
                allocations = _merged(combination)
                if self._over_capacity(allocations):
                    continue
                yield AllocationCandidate(
                    allocations,
                    {
                        group.suffix: tuple(sorted(choice.providers))
                        for group, choice in zip(groups, combination, strict=True)
                    },
                )

    def _is_member(self, record: _Record, request: ResourceRequest) -> bool:
        """It, or its root, is in one aggregate of each set, and neither is in an isolated one."""
        mine = record.aggregates | self._records[record.root].aggregates
        there = all(aggregates & mine for aggregates in request.member_of)
        return there and not request.isolated_aggregates & mine

    def _choices(
        self, group: RequestGroup, tree: list[_Record], request: ResourceRequest
    ) -> Iterator[_Choice]:
        """Suffixed: one provider gives all. Else: each class may come from another of the tree."""
        if group.suffix:
            for record in tree:
                if self._fits(record, group.resources) and _traits_fit(group, [record]):
                    parts = tuple((record.uuid, rc, n) for rc, n in group.resources.items())
                    yield _Choice(parts, frozenset({record.uuid}))
            return
        givers = [
            [
                record
                for record in tree
                if self._fits(record, {rc: amount}) and self._is_member(record, request)
            ]
            for rc, amount in group.resources.items()
        ]
        for combination in itertools.product(*givers):
            if _traits_fit(group, combination):
                parts = tuple(
                    (record.uuid, rc, amount)
                    for record, (rc, amount) in zip(
                        combination, group.resources.items(), strict=True
                    )
                )
                yield _Choice(parts, frozenset(record.uuid for record in combination))

    def _fits(self, record: _Record, resources: Mapping[str, int]) -> bool:
        return all(self._has_room(record, rc, amount) for rc, amount in resources.items())

    def _has_room(self, record: _Record, rc: str, amount: int) -> bool:
        inventory = record.inventories.get(rc)
        return (
            inventory is not None
            and inventory.min_unit <= amount <= inventory.max_unit
            and amount % inventory.step_size == 0
            and record.used[rc] + amount <= inventory.capacity
        )

    def _over_capacity(self, allocations: Mapping[str, Mapping[str, int]]) -> bool:
        """Whether several groups together ask too much of one provider."""
        for uuid, amounts in allocations.items():
            for rc, amount in amounts.items():
                record = self._records[uuid]
                inventory = record.inventories[rc]
                if amount > inventory.max_unit or record.used[rc] + amount > inventory.capacity:
                    return True
        return False

    def _summary(self, record: _Record) -> Capacity:
        return Capacity(
            uuid=record.uuid,
            root=record.root,
            parent=record.parent,
            traits=record.traits,
            capacity={rc: inventory.capacity for rc, inventory in record.inventories.items()},
            used={rc: record.used[rc] for rc in record.inventories},
        )

    # --- writing ----------------------------------------------------------------------------

    def put_inventories(self, uuid: str, generation: int, inventories: Inventories) -> int:
        with self._call("put_inventories"):
            record = self._record(uuid)
            for rc, inventory in inventories.items():
                _check_inventory(rc, inventory)
            _check_generation(record, generation)
            for rc, inventory in inventories.items():
                if inventory.capacity < 0:
                    raise Invalid(f"{rc}: the reserved value is greater than total", provider=uuid)
            for rc in inventories:
                if not self._class_known(rc):
                    raise NotFound(f"no such resource class {rc}", provider=uuid)
            gone = sorted(record.inventories.keys() - inventories.keys())
            if used := [rc for rc in gone if record.used[rc]]:
                raise InUse(f"inventory for {', '.join(used)} is in use", provider=uuid)
            record.inventories = dict(inventories)
            record.generation += 1
            return record.generation

    def put_traits(self, uuid: str, generation: int, traits: Iterable[str]) -> int:
        wanted = frozenset(traits)
        with self._call("put_traits"):
            record = self._record(uuid)
            for trait in wanted:
                _check_length(trait)
            _check_generation(record, generation)
            if unknown := sorted(t for t in wanted if not self._trait_known(t)):
                raise NotFound(f"no such trait {', '.join(unknown)}", provider=uuid)
            if wanted != record.traits:
                record.traits = wanted
                record.generation += 1
            return record.generation

    def put_aggregates(self, uuid: str, generation: int, aggregates: Iterable[str]) -> int:
        wanted = frozenset(aggregates)
        with self._call("put_aggregates"):
            record = self._record(uuid)
            for aggregate in wanted:
                _check_uuid(aggregate)
            _check_generation(record, generation)
            record.aggregates = wanted
            record.generation += 1
            return record.generation

    def ensure_traits(self, traits: Iterable[str]) -> None:
        with self._call("ensure_traits"):
            for trait in sorted(set(traits)):
                if not self._trait_known(trait):
                    _check_custom("trait", trait)
                    self._traits.add(trait)

    def ensure_resource_classes(self, classes: Iterable[str]) -> None:
        with self._call("ensure_resource_classes"):
            for rc in sorted(set(classes)):
                if not self._class_known(rc):
                    _check_custom("resource class", rc)
                    self._classes.add(rc)

    # --- what a scheduler and a cloud's builder do ------------------------------------------

    def create_provider(self, uuid: str, name: str, parent: str | None = None) -> Provider:
        _check_uuid(uuid)
        with self._call("create_provider"):
            record = self._records.get(uuid)
            if record is None and all(other.name != name for other in self._records.values()):
                root = uuid if parent is None else self._record(parent).root
                record = self._records[uuid] = _Record(uuid, name, parent, root)
            elif record is None or (record.name, record.parent) != (name, parent):
                raise Invalid(f"another provider has the uuid {uuid} or the name {name}", name=name)
            return record.provider()

    def claim(
        self,
        consumer: str,
        allocations: Mapping[str, Mapping[str, int]],
        *,
        project: str,
        user: str,
    ) -> bool:
        with self._call("claim"):
            admitted = self.admit(consumer, allocations, project=project, user=user)
            return admitted is not None and admitted.commit()

    def admit(
        self,
        consumer: str,
        allocations: Mapping[str, Mapping[str, int]],
        *,
        project: str,
        user: str,
    ) -> Admitted | None:
        """The first half of a claim: check, and hold what passed. ``None`` if it is refused."""
        _check_allocations(consumer, allocations, project, user)
        given = {uuid: dict(amounts) for uuid, amounts in allocations.items()}
        with self._lock:
            if consumer in self._allocations:
                raise Stale(f"consumer {consumer} has allocations already", consumer=consumer)
            records = [self._record(uuid) for uuid in given]
            for rc in itertools.chain(*given.values()):
                if not self._class_known(rc):
                    raise NotFound(f"no such resource class {rc}")
            if not all(self._fits(record, given[record.uuid]) for record in records):
                return None
            generations = {record.uuid: record.generation for record in records}

        def commit() -> bool:
            with self._lock:
                changed = any(
                    self._records[uuid].generation != generation
                    for uuid, generation in generations.items()
                )
                if consumer in self._allocations or (changed and self._conflict_retries <= 1):
                    return False
                self._allocations[consumer] = given
                for uuid, amounts in given.items():
                    record = self._records[uuid]
                    record.consumers[consumer] = amounts
                    record.used.update(amounts)
                    record.generation += 1
                return True

        return Admitted(self, commit)

    def release(self, consumer: str) -> None:
        with self._call("release"):
            for uuid, amounts in self._allocations.pop(consumer, {}).items():
                record = self._records[uuid]
                del record.consumers[consumer]
                record.used.subtract(amounts)

    def held(self, consumer: str) -> Mapping[str, Mapping[str, int]]:
        with self._call("held"):
            given = self._allocations.get(consumer, {})
            return {uuid: dict(amounts) for uuid, amounts in given.items()}

    # --- what is known ----------------------------------------------------------------------

    def _record(self, uuid: str) -> _Record:
        record = self._records.get(uuid)
        if record is None:
            raise NotFound(f"no resource provider with uuid {uuid}", provider=uuid)
        return record

    def _root(self, uuid: str) -> str | None:
        record = self._records.get(uuid)
        return None if record is None else record.root

    def _trait_known(self, trait: str) -> bool:
        return trait in self._traits or _STANDARD_TRAIT.fullmatch(trait) is not None

    def _class_known(self, rc: str) -> bool:
        return rc in self._classes or rc in _STANDARD_CLASSES

    def _known(self, classes: Iterable[str], traits: Iterable[str]) -> bool:
        return all(map(self._class_known, classes)) and all(map(self._trait_known, traits))

    def _all_known(self, groups: Iterable[RequestGroup]) -> bool:
        return all(
            self._known(group.resources, group.required.union(group.forbidden, *group.any_of))
            for group in groups
        )


# --- requests -------------------------------------------------------------------------------


def _groups(request: ResourceRequest) -> list[RequestGroup]:
    """The groups that ask for something, unsuffixed first; ``Invalid`` as Placement's 400s."""
    groups = sorted(
        (g for g in request.groups if g.resources or g.required or g.any_of or g.forbidden),
        key=lambda group: group.suffix,
    )
    suffixes = [group.suffix for group in groups]
    if not groups:
        raise Invalid("there must be at least one group with resources")
    if max(Counter(group.suffix for group in request.groups).values()) > 1:
        raise Invalid("two groups have one suffix")
    for group in groups:
        _check_group(group)
    if request.group_policy is None and len([suffix for suffix in suffixes if suffix]) > 1:
        raise Invalid("several suffixed groups need a group_policy")
    return groups


def _check_group(group: RequestGroup) -> None:
    if _SUFFIX.fullmatch(group.suffix) is None:
        raise Invalid(f"{group.suffix!r} is no suffix")
    if not group.resources:
        raise Invalid(f"group {group.suffix!r} has traits but no resources")
    _check_amounts(group.resources)
    required = [frozenset({trait}) for trait in group.required] + list(group.any_of)
    if not all(map(all, [*required, group.forbidden])) or not all(group.any_of):
        raise Invalid(f"group {group.suffix!r} names an empty trait, or any of none")
    if any(names <= group.forbidden for names in required):
        raise Invalid(f"group {group.suffix!r} requires and forbids one trait")


def _traits_fit(group: RequestGroup, records: Iterable[_Record]) -> bool:
    """All of the required somewhere among them, none of the forbidden anywhere."""
    traits = frozenset[str]().union(*(record.traits for record in records))
    return (
        group.required <= traits
        and not group.forbidden & traits
        and all(names & traits for names in group.any_of)
    )


def _isolated(groups: list[RequestGroup], combination: tuple[_Choice, ...]) -> bool:
    chosen = [c.providers for g, c in zip(groups, combination, strict=True) if g.suffix]
    return len(frozenset[str]().union(*chosen)) == len(chosen)


def _merged(combination: tuple[_Choice, ...]) -> dict[str, dict[str, int]]:
    allocations: dict[str, dict[str, int]] = {}
    for choice in combination:
        for uuid, rc, amount in choice.parts:
            amounts = allocations.setdefault(uuid, {})
            amounts[rc] = amounts.get(rc, 0) + amount
    return allocations


# --- form -------------------------------------------------------------------------------------


def _check_generation(record: _Record, generation: int) -> None:
    if record.generation != generation:
        raise Stale(
            f"provider {record.uuid} is at generation {record.generation}, not {generation}",
            provider=record.uuid,
        )


def _check_amounts(resources: Mapping[str, int]) -> None:
    for rc, amount in resources.items():
        if amount < 1:
            raise Invalid(f"{rc}: {amount} is not a positive amount")


def _check_inventory(rc: str, inventory: Inventory) -> None:
    least = {"total": 1, "reserved": 0, "min_unit": 1, "max_unit": 1, "step_size": 1}
    for key, minimum in least.items():
        if not minimum <= getattr(inventory, key) <= _MAX_INT:
            raise Invalid(f"{rc}: {key} is not between {minimum} and {_MAX_INT}")


def _check_allocations(
    consumer: str, allocations: Mapping[str, Mapping[str, int]], project: str, user: str
) -> None:
    _check_uuid(consumer)
    if not allocations or not all(allocations.values()) or not project or not user:
        raise Invalid("an allocation names providers with amounts, a project and a user")
    for amounts in allocations.values():
        _check_amounts(amounts)


def _check_uuid(text: str) -> None:
    try:
        UUID(text)
    except ValueError:
        raise Invalid(f"{text!r} is no uuid") from None


def _check_length(name: str) -> None:
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise Invalid(f"a name has 1 to {_LONGEST_NAME} characters")


def _check_custom(what: str, name: str) -> None:
    _check_length(name)
    if _CUSTOM.fullmatch(name) is None:
        raise Invalid(f"{name!r} is no {what} that can be made: CUSTOM_ and A-Z, 0-9, _")
