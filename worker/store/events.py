"""Accepted events, once each; and dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from sqlalchemy import Table, func, insert, select, update

from changeover.models.notification import ServerDeleted
from changeover.models.tables import DeadLetterRow, EventRow
from changeover.worker.store.session import Session

DELETED = ServerDeleted.__name__

SPENT = "SuccessorSpent"
"""The kind of an event that nobody told of: see :meth:`Events.spent`."""


class Events:
    """What was told, and what it came to."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, **event: Any) -> bool:
        """Store an event (columns by name); ``False`` if a message of that id is stored."""
        statement = self.session.insert(EventRow).values(**event)
        inserted = self.session.row(statement.on_conflict_do_nothing().returning(EventRow.id))
        return inserted is not None

    def add_all(self, events: Sequence[dict[str, Any]]) -> None:
        """Store events at once. Raises SQLAlchemy's ``IntegrityError`` if one is there."""
        table = cast("Table", EventRow.__table__)
        self.session.connection.execute(insert(table), list(events))

    def seen_of(self, message_ids: Iterable[str]) -> set[str]:
        """Those of the message ids that are stored."""
        rows = self.session.rows(
            select(EventRow.message_id).where(EventRow.message_id.in_(list(message_ids)))
        )
        return {row["message_id"] for row in rows}

    def seen(self, message_id: str) -> bool:
        """Whether a message of that id is stored."""
        row = self.session.row(select(EventRow.id).where(EventRow.message_id == message_id))
        return row is not None

    def spent(self, server: str, project: str, boot_id: str, now: float) -> None:
        """Note that a server that Changeover made for a boot came to nothing, and is deleted.

        Its failure may be told of only after that: it must not be taken for another's.
        """
        self.add(
            message_id=f"spent:{server}",
            kind=SPENT,
            source="reboot",
            server=server,
            project=project,
            facts={},
            received_at=now,
            outcome="spent",
            boot_id=boot_id,
        )

    def gone_of(self, servers: Iterable[str]) -> dict[str, str | None]:
        """Those of the servers that are known to be deleted, and the boot that each was of."""
        rows = self.session.rows(
            select(EventRow.server, EventRow.boot_id).where(
                EventRow.server.in_(list(servers)), EventRow.kind.in_([SPENT, DELETED])
            )
        )
        return {row["server"]: row["boot_id"] for row in rows}

    def of_server(self, server: str) -> list[dict[str, Any]]:
        """The events of one server, oldest first."""
        rows = self.session.rows(
            select(EventRow.__table__).where(EventRow.server == server).order_by(EventRow.id)
        )
        return [dict(row) for row in rows]

    def last_heard(self) -> float | None:
        """When the last notification came from the listener, if ever."""
        found = self.session.row(
            select(func.max(EventRow.received_at).label("at")).where(EventRow.source == "listener")
        )
        return None if found is None or found["at"] is None else float(found["at"])

    def first_heard(self) -> float | None:
        """When the first notification came from the listener, if ever."""
        found = self.session.row(
            select(func.min(EventRow.received_at).label("at")).where(EventRow.source == "listener")
        )
        return None if found is None or found["at"] is None else float(found["at"])

    def count(self) -> int:
        """How many events are stored."""
        row = self.session.row(select(func.count().label("n")).select_from(EventRow))
        return 0 if row is None else int(row["n"])

    def count_dead_letters(self) -> int:
        """How many dead letters were not replayed yet."""
        row = self.session.row(
            select(func.count().label("n"))
            .select_from(DeadLetterRow)
            .where(DeadLetterRow.replayed_at.is_(None))
        )
        return 0 if row is None else int(row["n"])

    def dead_letter(
        self, *, digest: str, source: str, reason: str, body: str, size: int, now: float
    ) -> None:
        """Keep what could not be understood; the same body again only counts."""
        statement = self.session.insert(DeadLetterRow).values(
            digest=digest,
            source=source,
            reason=reason,
            body=body,
            size=size,
            times=1,
            received_at=now,
            replayed_at=None,
        )
        self.session.connection.execute(
            statement.on_conflict_do_update(
                index_elements=[DeadLetterRow.digest],
                set_={"times": DeadLetterRow.times + 1, "reason": reason},
            )
        )

    def dead_letters(self, limit: int = 200) -> list[dict[str, Any]]:
        """The newest dead letters first."""
        rows = self.session.rows(
            select(DeadLetterRow.__table__).order_by(DeadLetterRow.id.desc()).limit(limit)
        )
        return [dict(row) for row in rows]

    def get_dead_letter(self, letter_id: int) -> dict[str, Any] | None:
        """One dead letter."""
        row = self.session.row(select(DeadLetterRow.__table__).where(DeadLetterRow.id == letter_id))
        return None if row is None else dict(row)

    def replayed(self, letter_id: int, now: float) -> None:
        """A dead letter went through the intake again."""
        self.session.connection.execute(
            update(DeadLetterRow).where(DeadLetterRow.id == letter_id).values(replayed_at=now)
        )
