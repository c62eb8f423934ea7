"""Alembic's environment: the same engine settings as the product's own."""

from __future__ import annotations

from typing import Literal

from alembic import context
from sqlalchemy import Connection, event

from changeover.models.tables import Base, StateColumn, Stored
from changeover.worker.store.engine import engine_for

UPGRADING = 0x6368616E6765
"""The advisory lock that an upgrade holds for as long as it is connected."""


def _render(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Write the plain type of a column into migrations: they must not change with our classes."""
    if kind == "type" and isinstance(item, Stored):
        return "sa.JSON()"
    if kind == "type" and isinstance(item, StateColumn):
        return "sa.String(length=16)"
    return False


def _run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # One upgrade at a time; SQLite's first statement takes its lock anyway.
        connection.exec_driver_sql("SET lock_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({UPGRADING})")
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # SQLite cannot alter tables: they are rebuilt.
        render_as_batch=True,
        render_item=_render,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


engine = engine_for(context.config.attributes["url"])

if engine.dialect.name == "sqlite":
    # Rebuilding a table drops it for a moment; rows that refer to it must not go with it.
    @event.listens_for(engine, "connect")
    def _no_foreign_keys(connection, _record):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - DBAPI objects have no common type
        connection.execute("PRAGMA foreign_keys=OFF")


try:
    with engine.connect() as connection:
        _run(connection)
finally:
    engine.dispose()
