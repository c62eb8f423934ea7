"""What an SQLite file, a wrong URL and a database that is not there do to a transaction."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError

from changeover.models.errors import AskOperator, Busy, Invalid, Retry, Unreachable
from changeover.worker import migrate
from changeover.worker.store import Database
from changeover.worker.store.engine import LOCK_SECONDS, engine_for


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('engine')}/db.sqlite"
    migrate.upgrade(url)
    return url


@pytest.fixture
def database(migrated: str) -> Iterator[Database]:
    found = Database(migrated)
    yield found
    found.dispose()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:hunter2@h/db", "mysql"),
        ("postgres://u:hunter2@h/db", "postgres"),
        ("no url: hunter2", "cannot be read"),
        ("", "cannot be read"),
        ("postgresql://u:hunter2@h:port/db", "cannot be read"),
    ],
)
def test_urls_that_are_none_of_ours(url: str, said: str) -> None:
    with pytest.raises(Invalid, match=said) as caught:
        engine_for(url)
    assert "hunter2" not in caught.value.message


def test_a_password_is_not_shown() -> None:
    engine = engine_for("postgresql://u:hunter2@localhost:1/db")
    assert "hunter2" not in repr(engine)
    assert engine.dialect.driver == "psycopg"
    engine.dispose()


def test_the_file_is_durable_and_keeps_its_references(database: Database) -> None:
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": LOCK_SECONDS * 1000,
    }
    with database.read() as tx:
        found = {k: tx.connection.execute(text(f"PRAGMA {k}")).scalar_one() for k in expected}
    assert found == expected
    with pytest.raises(IntegrityError), database.write() as tx:
        tx.connection.execute(
            text("INSERT INTO promises (boot, device, slots) VALUES ('nosuch', 'd', 1)")
        )


def test_a_writer_takes_its_lock_at_once_and_a_reader_none(database: Database) -> None:
    begun: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def _saw(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("BEGIN"):
            begun.append(statement)

    # Alternating on one connection of the pool: being a reader must not stick to it.
    for _ in range(2):
        with database.read():
            pass
        with database.write():
            pass
    assert begun == ["BEGIN", "BEGIN IMMEDIATE"] * 2


def test_two_writers_take_turns(database: Database) -> None:
    """The second begins only after the first has committed, and then sees what it wrote."""
    begun = threading.Event()
    seen: list[object] = []

    def second() -> None:
        begun.set()
        with database.write() as tx:
            seen.append(tx.switches.get("turn"))

    with database.write() as tx:
        thread = threading.Thread(target=second)
        thread.start()
        assert begun.wait(10)
        tx.switches.set("turn", {"of": "first"}, 1.0)
        assert seen == []
    thread.join(10)
    assert seen == [{"of": "first"}]


def test_no_connection_is_left_open(database: Database) -> None:
    for _ in range(30):  # more than the pool has
        with pytest.raises(RuntimeError), database.write():
            raise RuntimeError
        with pytest.raises(RuntimeError), database.read():
            raise RuntimeError
    pool: Any = database.engine.pool
    assert pool.checkedout() == 0


def test_memory_is_one_database_for_all_threads() -> None:
    database = Database("sqlite://")
    with database.write() as tx:
        tx.connection.execute(text("CREATE TABLE t (x INTEGER)"))
    found: list[object] = []

    def look() -> None:
        with database.read() as tx:
            found.append(tx.connection.execute(text("SELECT count(*) FROM t")).scalar_one())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(10)
    assert found == [0]
    database.dispose()


def test_a_path_that_cannot_be_opened_is_unreachable(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/no/such/dir/db.sqlite"
    database = Database(url)
    with (
        pytest.raises(Unreachable, match=r"unable to open .*may write to it") as caught,
        database.read(),
    ):
        pass
    assert isinstance(caught.value, Retry)
    with pytest.raises(Unreachable), database.write():
        pass
    with pytest.raises(Unreachable):
        migrate.require_current(database)
    with pytest.raises(Unreachable):
        migrate.upgrade(url)
    database.dispose()
    assert not list(tmp_path.iterdir())


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}")
    with pytest.raises(Unreachable), database.write():
        pass
    database.dispose()


def test_nothing_listens_there() -> None:
    database = Database("postgresql://u@127.0.0.1:1/db")
    with pytest.raises(Unreachable), database.read():
        pass
    with pytest.raises(Unreachable), database.write():
        pass
    with pytest.raises(Unreachable):
        migrate.require_current(database)
    database.dispose()


def test_a_lock_that_another_program_holds_is_busy(migrated: str) -> None:
    database = Database(migrated)

    @event.listens_for(database.engine, "connect")
    def _soon(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA busy_timeout=50")

    other = sqlite3.connect(migrated.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy, match="locked"), database.write():
        pass
    with database.read() as tx:  # readers are none of its business
        assert tx.switches.get("nosuch") is None
    other.execute("ROLLBACK")
    other.close()
    with database.write():
        pass
    database.dispose()


def test_an_empty_file_asks_for_an_upgrade(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/db.sqlite")
    with pytest.raises(AskOperator, match="none, this version needs"):
        migrate.require_current(database)
    database.dispose()


def test_a_database_of_a_later_version_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/db.sqlite"
    migrate.upgrade(url)
    database = Database(url)
    with database.write() as tx:
        tx.connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(AskOperator, match="at revision 9999") as caught:
        migrate.require_current(database)
    assert caught.value.facts == {"found": "9999", "wanted": migrate.head()}
    database.dispose()
