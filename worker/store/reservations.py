"""Reservations as they were read last: what is known while the service does not answer."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update

from changeover.models.reasons import Reason
from changeover.models.reservation import Reservation, ReservationRecord
from changeover.models.tables import ReservationRow
from changeover.worker.store.session import Session


class ReservationRows:
    """Reservations, by id."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def sync(self, found: Sequence[Reservation], now: float) -> tuple[list[str], list[str]]:
        """Make the rows be these; returns the ids of those that went, and that changed."""
        known = {record.id: record.reservation for record in self.all()}
        ids = {one.id for one in found}
        gone = sorted(known.keys() - ids)
        self.session.connection.execute(delete(ReservationRow).where(ReservationRow.id.in_(gone)))
        changed = []
        for one in found:
            if one.id in known and known[one.id] != one:
                changed.append(one.id)
            statement = self.session.insert(ReservationRow).values(
                id=one.id,
                starts_at=one.starts_at,
                reservation=one,
                read_at=now,
                reason=Reason("reservation.read", "read, not looked at yet"),
            )
            self.session.connection.execute(
                statement.on_conflict_do_update(
                    index_elements=[ReservationRow.id],
                    set_={"starts_at": one.starts_at, "reservation": one, "read_at": now},
                )
            )
        return gone, changed

    def all(self) -> list[ReservationRecord]:
        """All of them, by their start."""
        rows = self.session.rows(
            select(ReservationRow.__table__).order_by(ReservationRow.starts_at, ReservationRow.id)
        )
        return [ReservationRecord(**row) for row in rows]

    def explain(self, reservation_id: str, reason: Reason) -> None:
        """Say what is being done about it."""
        self.session.connection.execute(
            update(ReservationRow).where(ReservationRow.id == reservation_id).values(reason=reason)
        )
