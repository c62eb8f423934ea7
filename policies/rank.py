"""Preferred traits: candidates that have the most of what is wanted come first."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Protocol, TypeVar


class Traited(Protocol):
    """Anything with traits: a device, a provider's summary, a host."""

    @property
    def traits(self) -> AbstractSet[str]:
        """The names of its traits."""
        ...


T = TypeVar("T", bound=Traited)


def rank(candidates: Iterable[T], wanted: AbstractSet[str]) -> list[T]:
    """The candidates, those with the most of the wanted traits first; ties keep their order.

    A preference only orders: a candidate that has none of the traits is still there, at the end.
    """
    return sorted(candidates, key=lambda candidate: -len(candidate.traits & wanted))
