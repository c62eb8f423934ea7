"""A transaction as the table modules see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, RowMapping
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

TargetOf = Callable[[str], str | None]
"""The name of a project's callback target, if it has one."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A message to send: it names a task and where it should look. Losing it loses nothing."""

    key: str
    task: str
    args: tuple[Any, ...]
    queue: str
    due_at: float


class Session:
    """A connection inside a transaction, and the hints to send once it is committed."""

    def __init__(self, connection: Connection, target_of: TargetOf = lambda _project: None) -> None:
        self.connection = connection
        self.target_of = target_of
        self.to_send: list[Hint] = []

    @cached_property
    def insert(self) -> Any:
        """``insert`` of this database's dialect: both know ``on_conflict_do_*`` alike."""
        sqlite = self.connection.dialect.name == "sqlite"
        return sqlite_insert if sqlite else postgresql_insert

    def rows(self, statement: Any) -> list[RowMapping]:
        """All rows of a statement, as mappings by column name."""
        return [row._mapping for row in self.connection.execute(statement)]  # noqa: SLF001 - SQLAlchemy's public name for it

    def row(self, statement: Any) -> RowMapping | None:
        """The first row, or ``None``."""
        first = self.connection.execute(statement).first()
        return None if first is None else first._mapping  # noqa: SLF001 - as above


def columns_of(value: Any) -> dict[str, Any]:
    """A dataclass as the columns of its row: shallow, so that stored values stay values."""
    return {field.name: getattr(value, field.name) for field in fields(value)}
