"""Transactions: the unit of everything that Changeover does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from changeover.models.errors import AskOperator, Busy, Unreachable
from changeover.worker.store.audit import Audit
from changeover.worker.store.boots import Boots
from changeover.worker.store.callbacks import Callbacks
from changeover.worker.store.changeovers import Changeovers, Fences
from changeover.worker.store.demand import Demand
from changeover.worker.store.devices import Devices, Functions
from changeover.worker.store.discovered import Discovered
from changeover.worker.store.engine import READ_ONLY, engine_for
from changeover.worker.store.events import Events
from changeover.worker.store.hints import Hints
from changeover.worker.store.keeps import Keeps
from changeover.worker.store.leases import Leases, Switches
from changeover.worker.store.plans import Plans
from changeover.worker.store.reservations import ReservationRows
from changeover.worker.store.session import Hint, Session, TargetOf
from changeover.worker.store.tasks import Tasks

Courier = Callable[[Sequence[Hint]], None]


class Tx(Session):
    """One transaction, with the tables by subject."""

    @cached_property
    def boots(self) -> Boots:
        return Boots(self)

    @cached_property
    def demand(self) -> Demand:
        return Demand(self)

    @cached_property
    def callbacks(self) -> Callbacks:
        return Callbacks(self)

    @cached_property
    def reservations(self) -> ReservationRows:
        return ReservationRows(self)

    @cached_property
    def keeps(self) -> Keeps:
        return Keeps(self)

    @cached_property
    def changeovers(self) -> Changeovers:
        return Changeovers(self)

    @cached_property
    def fences(self) -> Fences:
        return Fences(self)

    @cached_property
    def devices(self) -> Devices:
        return Devices(self)

    @cached_property
    def discovered(self) -> Discovered:
        return Discovered(self)

    @cached_property
    def functions(self) -> Functions:
        return Functions(self)

    @cached_property
    def events(self) -> Events:
        return Events(self)

    @cached_property
    def plans(self) -> Plans:
        return Plans(self)

    @cached_property
    def tasks(self) -> Tasks:
        return Tasks(self)

    @cached_property
    def hints(self) -> Hints:
        return Hints(self)

    @cached_property
    def audit(self) -> Audit:
        return Audit(self)

    @cached_property
    def leases(self) -> Leases:
        return Leases(self)

    @cached_property
    def switches(self) -> Switches:
        return Switches(self)


class Database:
    """Opens transactions; sends the hints of those that were committed.

    ``target_of`` says whose callbacks go where: a boot's outcome is committed with its callback.

    Raises :class:`Busy` where the database is locked or a serialisation fails, and
    :class:`Unreachable` where its connection is lost: the transaction did not happen, or (a
    connection lost during the commit) may have; every caller re-reads before it acts again.
    :class:`AskOperator` where tables or columns are missing: no waiting mends that.
    """

    def __init__(self, url: str, target_of: TargetOf = lambda _project: None) -> None:
        self.url = url
        self.target_of = target_of
        self.engine: Engine = engine_for(url)
        self.courier: Courier | None = None

    @contextmanager
    def write(self) -> Iterator[Tx]:
        """A read-write transaction; hints added in it are sent after the commit."""
        with self._translated(), self.engine.begin() as connection:
            tx = Tx(connection, self.target_of)
            yield tx
        if tx.to_send and self.courier is not None:
            self.courier(tx.to_send)

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """A read-only transaction: a snapshot that blocks nobody (on SQLite)."""
        with (
            self._translated(),
            self.engine.connect().execution_options(**{READ_ONLY: True}) as connection,
            connection.begin(),
        ):
            yield Tx(connection)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as exc:
            if "unable to open database file" in str(exc.orig):
                raise Unreachable(
                    f"{self.engine.url.database}: {_first_line(exc)}: check that Changeover may "
                    "write to it and to its directory, and that database_url is right"
                ) from exc
            if exc.connection_invalidated or _lost(exc):
                raise Unreachable(
                    f"the database does not answer ({_first_line(exc)}): check that it runs and "
                    "that database_url is right",
                    error=type(exc.orig).__name__,
                ) from exc
            if _no_database(exc):
                raise AskOperator(
                    f"the database's file cannot be used ({_first_line(exc)}): name another with "
                    "database_url, or restore it"
                ) from exc
            if _of_another_schema(exc):
                raise AskOperator(
                    f"the database is not of this version ({exc.orig}): run `changeover db upgrade`"
                ) from exc
            if _not_written(exc):
                raise Busy(
                    f"the database cannot be written ({_first_line(exc)}): see to it that there is "
                    "room on its disk, and that Changeover may write to its file and directory"
                ) from exc
            if isinstance(exc, OperationalError):
                raise Busy(f"the database is busy: {exc.orig}") from exc
            raise

    def dispose(self) -> None:
        """Close all connections (before a fork's child uses its own, and at the end)."""
        self.engine.dispose()


def _lost(exc: DBAPIError) -> bool:
    text = str(exc.orig)
    return isinstance(exc, (OperationalError, InterfaceError)) and any(
        sign in text for sign in ("connection", "server closed", "host")
    )


def _not_written(exc: DBAPIError) -> bool:
    text = str(exc.orig).lower()
    return isinstance(exc, OperationalError) and any(
        sign in text for sign in ("disk is full", "no space left", "readonly", "disk i/o error")
    )


def _first_line(exc: DBAPIError) -> str:
    return str(exc.orig).strip().partition("\n")[0]


def _no_database(exc: DBAPIError) -> bool:
    return any(sign in str(exc.orig) for sign in ("not a database", "malformed"))


def _of_another_schema(exc: DBAPIError) -> bool:
    state = getattr(exc.orig, "sqlstate", None)  # PostgreSQL's: undefined table, undefined column
    signs = ("no such table", "no such column", "has no column named")  # SQLite's
    return state in {"42P01", "42703"} or any(sign in str(exc.orig) for sign in signs)
