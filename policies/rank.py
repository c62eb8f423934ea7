"""Preferred traits: candidates that have the most of what is wanted come first.

Only the standard library is used here: Nova's scheduler imports this too, see
:mod:`changeover.worker.nova_weigher`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, Protocol, TypeVar

PREFERRED: Final = "changeover:preferred_traits"
"""Extra spec of ours: traits (comma-separated) that rank candidates and exclude none."""


class Traited(Protocol):
    """Anything with traits: a device, a provider's summary, a host."""

    @property
    def traits(self) -> AbstractSet[str]:
        """The names of its traits."""
        ...


T = TypeVar("T", bound=Traited)


def preferred(extra_specs: Mapping[str, str]) -> frozenset[str]:
    """The traits that a flavor prefers, as written there."""
    names = (part.strip() for part in extra_specs.get(PREFERRED, "").split(","))
    return frozenset(name for name in names if name)


def liking(traits: AbstractSet[str], wanted: AbstractSet[str]) -> int:
    """How many of the wanted traits there are: the one measure of preference."""
    return len(traits & wanted)


def rank(candidates: Iterable[T], wanted: AbstractSet[str]) -> list[T]:
    """The candidates, those with the most of the wanted traits first; ties keep their order.

    A preference only orders: a candidate that has none of the traits is still there, at the end.
    """
    return sorted(candidates, key=lambda candidate: -liking(candidate.traits, wanted))
