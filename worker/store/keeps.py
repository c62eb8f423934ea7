"""Slots that are left for somebody: see :class:`changeover.models.keep.Keep`."""

from __future__ import annotations

from sqlalchemy import delete, select

from changeover.models.keep import Keep
from changeover.models.tables import KeepRow
from changeover.worker.store.session import Session, columns_of


class Keeps:
    """Keeps, by subject and device."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def put(self, keep: Keep) -> None:
        """Keep slots of a device for a subject; what was kept of it for the same is replaced."""
        columns = columns_of(keep)
        statement = self.session.insert(KeepRow).values(**columns)
        self.session.connection.execute(
            statement.on_conflict_do_update(
                index_elements=[KeepRow.subject, KeepRow.device],
                set_={k: v for k, v in columns.items() if k not in {"subject", "device"}},
            )
        )

    def standing(
        self, now: float, *, device: str | None = None, subject: str | None = None
    ) -> list[Keep]:
        """Keeps that have not lapsed: on a device, for a subject, or all."""
        statement = select(KeepRow.__table__).where(KeepRow.until > now)
        for column, value in ((KeepRow.device, device), (KeepRow.subject, subject)):
            if value is not None:
                statement = statement.where(column == value)
        rows = self.session.rows(statement.order_by(KeepRow.until, KeepRow.subject, KeepRow.device))
        return [Keep(**row) for row in rows]

    def drop(self, subject: str, device: str | None = None) -> None:
        """Keep nothing for the subject any more, or not this device."""
        statement = delete(KeepRow).where(KeepRow.subject == subject)
        if device is not None:
            statement = statement.where(KeepRow.device == device)
        self.session.connection.execute(statement)

    def served(self, *, project: str, flavor: str, host: str) -> str | None:
        """A server was built: whose keep that ends; the oldest of several, one for each server."""
        row = self.session.row(
            select(KeepRow.subject)
            .where(
                KeepRow.kind == "owner",
                KeepRow.project == project,
                KeepRow.flavor == flavor,
                KeepRow.host == host,
            )
            .order_by(KeepRow.until, KeepRow.subject)
        )
        if row is None:
            return None
        self.drop(row["subject"])
        return str(row["subject"])

    def lapse(self, now: float) -> int:
        """Forget what was kept long enough; returns how many."""
        done = self.session.connection.execute(delete(KeepRow).where(KeepRow.until <= now))
        return int(done.rowcount)
