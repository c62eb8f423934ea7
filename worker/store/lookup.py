"""Find rows by what a person types: an id, or the first characters of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, select

from changeover.models.tables import BootRow, ChangeoverRow, PlanRow, TaskRow
from changeover.worker.store.session import Session

Kind = Literal["boot", "changeover", "task", "plan", "device"]

LEAST_CHARACTERS = 4
"""A shorter text is only found if it is the whole id."""

_COLUMNS: tuple[tuple[Kind, Any, Any], ...] = (
    ("boot", BootRow.id, BootRow.id),
    ("boot", BootRow.id, BootRow.server),
    ("boot", BootRow.id, BootRow.successor),
    ("changeover", ChangeoverRow.id, ChangeoverRow.id),
    ("task", TaskRow.id, TaskRow.id),
    ("plan", PlanRow.id, PlanRow.id),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A row that the text may mean."""

    kind: Kind
    id: str


class Lookup:
    """Boots (by their servers too), changeovers, tasks and plans, by the beginning of an id."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def find(self, text: str, limit: int = 10) -> list[Found]:
        """What ``text`` may mean: exact matches only if there are any."""
        if not text:
            return []
        exact = self._find(limit, lambda column: column == text)
        if exact or len(text) < LEAST_CHARACTERS:
            return exact
        return self._find(limit, lambda column: column.startswith(text, autoescape=True))

    def _find(self, limit: int, condition: Any) -> list[Found]:
        found: dict[Found, None] = {}
        for kind, id_column, column in _COLUMNS:
            matches: ColumnElement[bool] = condition(column)
            rows = self.session.rows(select(id_column.label("id")).where(matches).limit(limit))
            found |= dict.fromkeys(Found(kind, row["id"]) for row in rows)
        return list(found)[:limit]
