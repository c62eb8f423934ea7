"""The audit: everything done, by whom, to what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Table, insert, select

from changeover.models.tables import AuditRow
from changeover.worker.store.session import Session


class Audit:
    """Appended to in the transaction of the deed itself; never changed."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, at: float, actor: str, action: str, subject: str, **facts: Any) -> None:
        """Record a deed."""
        self.session.connection.execute(
            insert(AuditRow).values(at=at, actor=actor, action=action, subject=subject, facts=facts)
        )

    def add_all(self, deeds: Sequence[dict[str, Any]]) -> None:
        """Record deeds (columns by name) at once."""
        table = cast("Table", AuditRow.__table__)
        self.session.connection.execute(insert(table), list(deeds))

    def of(self, subject: str, limit: int = 200) -> list[dict[str, Any]]:
        """The last deeds on a subject, oldest first."""
        rows = self.session.rows(
            select(AuditRow.at, AuditRow.actor, AuditRow.action, AuditRow.facts)
            .where(AuditRow.subject == subject)
            .order_by(AuditRow.id.desc())
            .limit(limit)
        )
        return [dict(row) for row in reversed(rows)]

    def latest(self, limit: int = 200) -> list[dict[str, Any]]:
        """The last deeds on anything, oldest first."""
        rows = self.session.rows(
            select(AuditRow.at, AuditRow.actor, AuditRow.action, AuditRow.subject, AuditRow.facts)
            .order_by(AuditRow.id.desc())
            .limit(limit)
        )
        return [dict(row) for row in reversed(rows)]
