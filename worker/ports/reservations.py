"""Reservations, as a reservation service has them."""

from __future__ import annotations

from typing import Protocol

from changeover.models.reservation import Reservation


class Reservations(Protocol):
    """Reading leases. Raises ``Unreachable``, ``AskOperator`` or ``Garbled``, all or nothing."""

    def upcoming(self, now: float) -> list[Reservation]:
        """Every reservation whose lease has not ended by ``now``, in no order."""
        ...
