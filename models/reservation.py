"""Reservations: what a lease will need of devices, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from changeover.models.placement import ResourceRequest
from changeover.models.reasons import Reason


@dataclass(frozen=True, slots=True)
class Reservation:
    """One reservation of a lease. Times are seconds since the epoch.

    ``units`` servers (or hosts) are reserved. ``request`` is what each asks of Placement, where
    the reservation tells (by its flavor); otherwise ``words`` are the words of its filter over
    properties, among which may be traits.
    """

    id: str
    lease: str
    name: str
    project: str
    kind: str
    starts_at: float
    ends_at: float
    units: int
    request: ResourceRequest | None = None
    words: frozenset[str] = frozenset()

    def as_json(self) -> dict[str, Any]:
        """What is stored; see :meth:`from_json`."""
        return {
            "id": self.id,
            "lease": self.lease,
            "name": self.name,
            "project": self.project,
            "kind": self.kind,
            "starts_at": self.starts_at,
            "ends_at": self.ends_at,
            "units": self.units,
            "request": None if self.request is None else self.request.as_json(),
            "words": sorted(self.words),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reservation:
        """The reservation of :meth:`as_json`."""
        request = data["request"]
        return cls(
            **{
                **data,
                "request": None if request is None else ResourceRequest.from_json(request),
                "words": frozenset(data["words"]),
            }
        )


@dataclass(frozen=True, slots=True)
class ReservationRecord:
    """The row of a reservation: as it was read last, and what is being done about it."""

    id: str
    starts_at: float
    reservation: Reservation
    read_at: float
    reason: Reason
