"""Host aggregates, as Nova has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A host aggregate of Nova's; its hosts' providers are members of ``uuid`` in Placement."""

    uuid: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    hosts: frozenset[str] = frozenset()
