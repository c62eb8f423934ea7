"""Engines for SQLite and PostgreSQL that behave alike."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import StaticPool

from changeover.models.errors import Invalid

READ_ONLY = "changeover_read_only"

LOCK_SECONDS = 15
"""Longest wait for somebody else's lock; after that the database is busy."""


def engine_for(url: str) -> Engine:
    """An engine for ``sqlite:///PATH``, ``sqlite://`` (memory) or ``postgresql://…`` (psycopg 3).

    Raises :class:`Invalid` for anything else.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # whose texts may hold a part of the password
        raise Invalid(
            "the database URL cannot be read: use sqlite:///PATH or postgresql://…"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _sqlite(parsed)
    if backend == "postgresql":
        return _postgresql(parsed)
    raise Invalid(f"database {backend!r} is not supported: use sqlite:///PATH or postgresql://…")


def _postgresql(url: URL) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
        connect_args={
            "connect_timeout": 5,
            "application_name": "changeover",
            # Of a database in SQL_ASCII, as initdb makes it without a locale, texts come as bytes.
            "client_encoding": "utf8",
        },
    )

    @event.listens_for(engine, "connect")
    def _limits(connection: Any, _record: object) -> None:
        # A worker that was stopped while it held a lock must not stop all others: see SQLite's.
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {LOCK_SECONDS * 1000}")
        connection.commit()

    return engine


def _sqlite(url: URL) -> Engine:
    memory = url.database in {None, "", ":memory:"}
    kwargs: dict[str, Any] = {"poolclass": StaticPool} if memory else {}
    engine = create_engine(
        url,
        connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False, "isolation_level": None},
        **kwargs,
    )

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={LOCK_SECONDS * 1000}")
        _write_ahead(cursor)
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that reads first and writes later fails with "locked" whenever
        # somebody wrote in between; a writer therefore takes the lock at once.
        read_only = connection.get_execution_options().get(READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switch the file to write-ahead logging, which it stays in; raises as ``sqlite3`` does.

    Two that open a new file at once refuse each other here at once, whatever the busy timeout:
    each holds what the other waits for.
    """
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return
