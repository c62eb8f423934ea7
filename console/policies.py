"""Policies by name: those built in, and those that installed packages offer.

A package offers one by an entry point of the group ``changeover.policies`` that names a
:class:`~changeover.policies.balancing.policy.PolicyFactory`: see docs/policies.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from changeover.models.errors import Invalid
from changeover.models.workload import RecordedBoot, RecordedFleet
from changeover.policies.balancing.policy import PolicyFactory
from changeover.policies.balancing.registry import NAMES, factory

GROUP = "changeover.policies"


def offered() -> dict[str, EntryPoint]:
    """What installed packages offer, by name; nothing takes the name of a policy built in."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in NAMES}


def names() -> tuple[str, ...]:
    """All names, those built in first."""
    return (*NAMES, *sorted(offered()))


def policy(
    name: str, boots: Sequence[RecordedBoot], fleet: RecordedFleet, patience: float
) -> PolicyFactory:
    """The factory of the named policy. Raises :class:`Invalid` with what there is."""
    if name in NAMES:
        return factory(name, boots, fleet, patience)
    point = offered().get(name)
    if point is None:
        raise Invalid(f"no policy is called {name!r}; there are: {', '.join(names())}")
    try:
        found = point.load()
    except Exception as exc:  # another's package may fail in any way
        raise Invalid(f"policy {name} ({point.value}) cannot be loaded: {exc!r}") from exc
    if not callable(found):
        raise Invalid(f"policy {name} ({point.value}) is no factory: it cannot be called")
    made: PolicyFactory = found
    return made
