"""The audit: everything done, by whom, to what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, insert, or_, select

from changeover.models.tables import AuditRow, ChangeoverRow, TaskRow
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

    def about(self, subject: str, limit: int = 200) -> list[dict[str, Any]]:
        """The last deeds on a subject, and on the changeovers and tasks that were for it.

        Of a device these are its own, of a plan, a task or a boot those that it started.
        """
        its = select(ChangeoverRow.id).where(
            or_(
                ChangeoverRow.device == subject,
                ChangeoverRow.plan_id == subject,
                ChangeoverRow.subject == subject,
            )
        )
        wanted = or_(
            AuditRow.subject == subject,
            AuditRow.subject.in_(its),
            AuditRow.subject.in_(select(TaskRow.id).where(TaskRow.device == subject)),
        )
        return self._latest(limit, wanted)

    def latest(self, limit: int = 200) -> list[dict[str, Any]]:
        """The last deeds on anything, oldest first."""
        return self._latest(limit)

    def _latest(self, limit: int, *wanted: ColumnElement[bool]) -> list[dict[str, Any]]:
        rows = self.session.rows(
            select(AuditRow.at, AuditRow.actor, AuditRow.action, AuditRow.subject, AuditRow.facts)
            .where(*wanted)
            .order_by(AuditRow.id.desc())
            .limit(limit)
        )
        return [dict(row) for row in reversed(rows)]
