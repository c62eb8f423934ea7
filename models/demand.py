"""Demand as it is recorded: who asked for devices, when, and for how long they were held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from changeover.models.placement import ResourceRequest

HOST_CLASSES: Final = frozenset({"VCPU", "PCPU", "MEMORY_MB", "DISK_GB"})
"""What every server asks for; who asks for nothing else is no demand for devices."""


def asks_for_devices(request: ResourceRequest, device_profile: str | None) -> bool:
    """Whether a request may ask for a programmable device."""
    return device_profile is not None or any(
        group.resources.keys() - HOST_CLASSES for group in request.groups
    )


@dataclass(frozen=True, slots=True)
class RecordedServer:
    """One server that asked for devices; times are seconds since the epoch.

    ``kind`` names what it asked for. ``failed``: it found no room at its first try. ``placed_at``
    is when it was built, itself or a successor, ``ended_at`` when it was deleted or given up.
    """

    id: int
    server: str
    kind: str
    arrived_at: float
    failed: bool
    placed_at: float | None
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class RequestKind:
    """What servers of one kind ask for; kept once, however many they are."""

    key: str
    request: ResourceRequest
    device_profile: str | None
