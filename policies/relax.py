"""Which of a request's constraints stand in the way: the smallest sets whose relaxing would help.

A *constraint* is one thing that a request asks of a host: so much of a resource, a trait, a zone,
a forced host. Relaxing one means not to ask for it. Relaxing more never makes a host unfit, and a
host that a constraint rules out by itself stays ruled out until just that one is relaxed: so what
each constraint alone rules out bounds what need be asked, and Placement's own answers decide.

Nothing is asked here. The caller asks what :func:`to_ask` names and hands the answers in, until
nothing is named any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, Literal

from changeover.models.placement import RequestGroup, ResourceRequest

ConstraintKind = Literal[
    "resource",
    "trait",
    "any-trait",
    "forbidden-trait",
    "host-trait",
    "forbidden-host-trait",
    "zone",
    "host",
    "excluded-host",
    "isolation",
    "tenant",
    "isolated-aggregates",
]

MOST_TOGETHER: Final = 3
"""Sets of more constraints are no advice."""


@dataclass(frozen=True, slots=True, order=True)
class Constraint:
    """One thing asked for. ``names`` are the class, traits, zone or hosts; ``suffix`` the group."""

    kind: ConstraintKind
    names: tuple[str, ...] = ()
    amount: int = 0
    suffix: str = ""

    @property
    def text(self) -> str:
        """The constraint for a person."""
        names = ", ".join(self.names)
        words = {
            "resource": f"{self.amount} {names}",
            "trait": f"trait {names}",
            "any-trait": f"one of the traits {names}",
            "forbidden-trait": f"no trait {names}",
            "host-trait": f"a host with trait {names}",
            "forbidden-host-trait": f"a host without trait {names}",
            "zone": f"availability zone {names}",
            "host": f"forced to {names}",
            "excluded-host": f"not on {names}",
            "isolation": "groups on providers of their own",
            "tenant": "the aggregates that its project is kept to",
            "isolated-aggregates": "no aggregate that wants traits it does not ask for",
        }[self.kind]
        return f"{words} (group {self.suffix})" if self.suffix else words


Relaxed = frozenset[Constraint]
"""A set of constraints that are relaxed together."""

Hosts = frozenset[str]


def constraints_of(request: ResourceRequest) -> tuple[Constraint, ...]:
    """Everything that a request asks of a host, in a fixed order."""
    found: list[Constraint] = []
    for group in request.groups:
        at = group.suffix
        found += [Constraint("resource", (rc,), n, at) for rc, n in group.resources.items()]
        found += [Constraint("trait", (trait,), suffix=at) for trait in group.required]
        found += [Constraint("any-trait", tuple(sorted(c)), suffix=at) for c in group.any_of]
        found += [Constraint("forbidden-trait", (t,), suffix=at) for t in group.forbidden]
    found += [Constraint("host-trait", (trait,)) for trait in request.root_required]
    found += [Constraint("forbidden-host-trait", (trait,)) for trait in request.root_forbidden]
    if request.availability_zone is not None:
        found.append(Constraint("zone", (request.availability_zone,)))
    if request.tenant_aggregates:
        found.append(Constraint("tenant"))
    if request.isolated_aggregates:
        found.append(Constraint("isolated-aggregates"))
    if request.hosts is not None:
        found.append(Constraint("host", tuple(sorted(request.hosts))))
    if request.excluded_hosts:
        found.append(Constraint("excluded-host", tuple(sorted(request.excluded_hosts))))
    if request.group_policy == "isolate":
        found.append(Constraint("isolation"))
    return tuple(sorted(set(found)))


def without(request: ResourceRequest, relaxed: AbstractSet[Constraint]) -> ResourceRequest:
    """The request without what is relaxed; a group of no resources asks nothing of anybody."""
    kinds = {constraint.kind for constraint in relaxed}
    groups = tuple(group for g in request.groups if (group := _group_without(g, relaxed)).resources)
    suffixed = sum(bool(group.suffix) for group in groups)
    policy = request.group_policy
    if policy == "isolate" and "isolation" in kinds:
        policy = "none"
    return replace(
        request,
        groups=groups,
        group_policy=policy if suffixed > 1 else None,
        availability_zone=None if "zone" in kinds else request.availability_zone,
        zone_aggregates=frozenset() if "zone" in kinds else request.zone_aggregates,
        tenant_aggregates=frozenset() if "tenant" in kinds else request.tenant_aggregates,
        isolated_aggregates=(
            frozenset() if "isolated-aggregates" in kinds else request.isolated_aggregates
        ),
        root_required=request.root_required - _names("host-trait", relaxed),
        root_forbidden=request.root_forbidden - _names("forbidden-host-trait", relaxed),
        hosts=None if "host" in kinds else request.hosts,
        excluded_hosts=() if "excluded-host" in kinds else request.excluded_hosts,
    )


def _names(kind: ConstraintKind, relaxed: AbstractSet[Constraint]) -> frozenset[str]:
    return frozenset(name for c in relaxed if c.kind == kind for name in c.names)


def _group_without(group: RequestGroup, relaxed: AbstractSet[Constraint]) -> RequestGroup:
    mine = [constraint for constraint in relaxed if constraint.suffix == group.suffix]

    def names(kind: ConstraintKind) -> set[str]:
        return {name for c in mine if c.kind == kind for name in c.names}

    dropped = names("resource")
    choices = {frozenset(c.names) for c in mine if c.kind == "any-trait"}
    return replace(
        group,
        resources={rc: n for rc, n in group.resources.items() if rc not in dropped},
        required=group.required - names("trait"),
        any_of=tuple(choice for choice in group.any_of if choice not in choices),
        forbidden=group.forbidden - names("forbidden-trait"),
    )


@dataclass(frozen=True, slots=True)
class Answers:
    """What is known: the hosts that matter, and which of them could take the request.

    ``alone``: the hosts that each constraint by itself rules out, as far as that can be asked
    (none where it cannot). ``given``: the hosts that could take the request with a set relaxed.
    """

    request: ResourceRequest
    hosts: Hosts
    alone: Mapping[Constraint, Hosts]
    given: Mapping[Relaxed, Hosts]


def to_ask(known: Answers) -> list[Relaxed]:
    """The sets to be asked about next, all of one size; none if the smallest are known."""
    constraints = constraints_of(known.request)
    helping = smallest(known)
    for size in range(1, min(MOST_TOGETHER, len(constraints)) + 1):
        # What would take three is told only where nothing less helps.
        if size == MOST_TOGETHER and helping:
            return []
        asked = [
            relaxed
            for relaxed in map(frozenset, combinations(constraints, size))
            if relaxed not in known.given
            and not any(found <= relaxed for found in helping)
            and _may_help(known, relaxed)
        ]
        if asked:
            return asked
    return []


def smallest(known: Answers) -> list[Relaxed]:
    """The sets that would help, none of which contains another; the smallest first."""
    helping = [relaxed for relaxed, hosts in known.given.items() if hosts & known.hosts]
    least = [one for one in helping if not any(other < one for other in helping)]
    return sorted(least, key=lambda relaxed: (len(relaxed), sorted(relaxed)))


def _may_help(known: Answers, relaxed: Relaxed) -> bool:
    """Whether a host is left that no other constraint rules out by itself."""
    gone = {
        group.suffix
        for group in known.request.groups
        if _group_without(group, relaxed).resources == {}
    }
    left = set(known.hosts)
    for constraint, hosts in known.alone.items():
        # The traits of a group that asks for nothing any more are asked of nobody.
        dropped = constraint.kind in _OF_GROUP and constraint.suffix in gone
        if constraint not in relaxed and not dropped:
            left -= hosts
    return bool(left)


_OF_GROUP: Final = frozenset({"resource", "trait", "any-trait", "forbidden-trait"})
