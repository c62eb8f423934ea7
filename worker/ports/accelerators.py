"""Accelerators as Cyborg manages them: device profiles, and the deployables behind providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Deployable:
    """A part of a device that can be programmed and attached by itself.

    ``provider`` is the resource provider that stands for it (``None`` until Cyborg has reported
    it). ``resource_class`` and ``traits`` are what its driver said at the agent's last report,
    ``accelerators`` how many there are. ``driver`` is the name of Cyborg's driver.
    """

    uuid: str
    name: str
    provider: str | None
    resource_class: str | None
    traits: frozenset[str]
    accelerators: int
    driver: str = ""


class Accelerators(Protocol):
    """What Changeover asks of Cyborg. Safe to call from several threads at once.

    Errors: ``Unreachable`` (it does not answer, or answers 5xx), ``Garbled``, ``AskOperator``
    (credentials, no such service in the cloud).
    """

    def device_profile(self, name: str) -> Sequence[Mapping[str, str]] | None:
        """The groups of a device profile, in its order, as Cyborg has them.

        ``None`` if there is no such profile. An answer may be as old as the adapter says.
        """
        ...

    def deployables(self) -> list[Deployable]:
        """All deployables of the cloud."""
        ...

    def deployable(self, uuid: str) -> Deployable:
        """One deployable; raises ``NotFound``."""
        ...
