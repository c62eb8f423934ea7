"""Leases of the embedded cloud: a file that says what Blazar's ``GET /v1/leases`` would answer.

People write it themselves, in Blazar's own form (docs/reservations.md); no file means no leases.
"""

from __future__ import annotations

import json
from pathlib import Path

from changeover.models.errors import Garbled
from changeover.models.reservation import Reservation
from changeover.worker.adapters.reservations_blazar import reservations_of
from changeover.worker.adapters.service_http import WrongFormError


class SimulatedReservations:
    """The port ``Reservations``, read from ``path`` each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def upcoming(self, now: float) -> list[Reservation]:
        """See :class:`~changeover.worker.ports.reservations.Reservations`."""
        try:
            found = list(reservations_of(json.loads(self._path.read_bytes())))
        except FileNotFoundError:
            return []
        except (WrongFormError, ValueError, RecursionError) as exc:
            raise Garbled(f"{self._path}: is not of the form of Blazar's leases: {exc}") from exc
        return [one for one in found if one.ends_at > now]
