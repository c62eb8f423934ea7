"""The real openstack-placement on loopback, in a process of its own.

One process serves it: waitress with a few threads. Reading requests run side by side; on SQLite
writing ones take turns, because it has no queue for transactions that turn from reading to writing:
it fails the second one, which Placement answers with 500. Write-ahead logging lets readers go on
meanwhile. On another database writers race as they do in a cloud, in several processes if wanted.
Authentication is noauth2: the header ``x-auth-token: admin`` is an administrator, so it listens on
loopback only.
"""

# ruff: noqa: PLC0415 - only the child pays for importing Placement and what it needs

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import os
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from changeover.models.errors import AskOperator, Busy, Invalid, Unreachable
from changeover.worker.embedded.child import Child, start_child
from changeover.worker.flock import hold

INSTALL = "pip install 'changeover[embedded]'"

START_SECONDS = 60.0
THREADS = 2

_HOST = "127.0.0.1"
_KEEP_ALIVE_SECONDS = 24 * 3600
_CONNECTIONS = 1000

_CONFIG = """\
[DEFAULT]
use_stderr = true
default_log_levels = placement.requestlog=WARNING,alembic=WARNING,placement.objects.allocation=ERROR
[api]
auth_strategy = noauth2
[placement]
allocation_conflict_retry_count = {retries}
[placement_database]
connection = {database}
sync_on_startup = true
"""


class EmbeddedPlacement:
    """A running Placement; ends with this process at the latest."""

    def __init__(self, child: Child, port: int, others: Sequence[Child] = ()) -> None:
        self._child = child
        self._others = others
        self.port = port
        self.url = f"http://{_HOST}:{port}"

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def log_path(self) -> Path | None:
        return self._child.log_path

    def poll(self) -> int | None:
        """The exit status if it has ended, ``None`` while it runs."""
        return self._child.poll()

    def stop(self, timeout: float = 5.0) -> None:
        """End it; what its clients were told is in its database."""
        for child in self._others:
            child.stop(timeout)
        self._child.stop(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start_placement(
    state_dir: Path,
    *,
    port: int = 0,
    database: str | None = None,
    conflict_retries: int = 1,
    threads: int = THREADS,
    processes: int = 1,
    timeout: float = START_SECONDS,
) -> EmbeddedPlacement:
    """Start Placement on loopback and wait until it answers.

    Its database is SQLite in ``state_dir``, kept between runs, or ``database`` (an SQLAlchemy
    URL). ``port`` 0 takes a free one. ``conflict_retries`` is Placement's own
    ``allocation_conflict_retry_count``: 1, as operators are advised, so that nothing lands after
    a fence. ``processes`` that share the port need a ``database`` of their own. Raises ``Busy`` if
    the port or the state directory is taken, ``Unreachable`` with the end of its log if it does
    not come up, ``AskOperator`` if it is not installed.
    """
    _require_installed()
    if processes > 1 and database is None:
        raise Invalid("several Placement processes need a database: SQLite takes one writer")
    with _listen(port) as listener:
        port = listener.getsockname()[1]
        children: list[Child] = []

        def start(home: Path) -> Child:
            home.mkdir(parents=True, exist_ok=True)
            argv: list[str | Path] = [
                sys.executable, "-m", "changeover.worker.embedded.placement_service",
                "--state-dir", home, "--listen-fd", str(listener.fileno()),
                "--threads", str(threads), "--conflict-retries", str(conflict_retries),
            ]  # fmt: skip
            env = dict(os.environ)
            if database is not None:
                # a password is none of the process list's business
                env[_DATABASE_VARIABLE] = database
            return start_child(
                argv,
                name="placement",
                env=env,
                log_path=home / "placement.log",
                pass_fds=[listener.fileno()],
            )

        try:
            children.append(start(state_dir))
            # The first one makes the tables, which the others then find.
            children[0].wait_until(lambda: _answers(port), timeout=timeout)
            children += [start(state_dir / f"process{n}") for n in range(2, processes + 1)]
        except Unreachable as error:
            if children[0].poll() == _LOCKED_STATUS:
                raise Busy(f"another process serves {state_dir}", path=str(state_dir)) from error
            raise
        except BaseException:
            for child in children:
                child.kill()
            raise
    return EmbeddedPlacement(children[0], port, children[1:])


_DATABASE_VARIABLE = "CHANGEOVER_EMBEDDED_PLACEMENT_DATABASE"
_LOCKED_STATUS = 75


def _require_installed() -> None:
    for module in ("placement", "waitress"):
        if importlib.util.find_spec(module) is None:
            raise AskOperator(
                f"the embedded Placement needs the package {module!r}: {INSTALL}", module=module
            )


def _listen(port: int) -> socket.socket:
    """Bind before the child starts: nobody can take the port in between."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise Busy(f"port {port} on {_HOST} is taken: {error}", port=port) from error
    return listener


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=1.0)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False


# --- the child's side ---------------------------------------------------------------------------


def _main() -> int:
    parser = argparse.ArgumentParser(description="Serve openstack-placement on loopback.")
    parser.add_argument("--state-dir", type=Path, required=True)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--port", type=int, default=0)
    where.add_argument("--listen-fd", type=int)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--conflict-retries", type=int, default=1)
    given = parser.parse_args()

    state_dir: Path = given.state_dir.resolve()
    state_dir.mkdir(parents=True, exist_ok=True)
    listener = (
        _listen(given.port) if given.listen_fd is None else socket.socket(fileno=given.listen_fd)
    )
    try:
        with hold(state_dir / "placement.lock"):
            database = os.environ.pop(_DATABASE_VARIABLE, None)
            _configure(state_dir, database, given.conflict_retries)
            _serve(listener, given.threads, take_turns=database is None)
    except Busy:
        return _LOCKED_STATUS
    return 0


def _configure(state_dir: Path, database: str | None, retries: int) -> None:
    if database is None:
        path = state_dir / "placement.sqlite"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        database = f"sqlite:///{path}"
        _tune_sqlite()
    config = state_dir / "placement.conf"
    config.touch(mode=0o600)
    config.write_text(_CONFIG.format(database=database.replace("$", "$$"), retries=retries))
    os.environ["OS_PLACEMENT_CONFIG_DIR"] = str(state_dir)


def _tune_sqlite() -> None:
    """Halve the cost of a call: keep connections, and leave syncing to checkpoints.

    oslo.db opens and closes an SQLite connection for each transaction and yields to other green
    threads after it. Write-ahead logging makes it safe to sync at checkpoints only.
    """
    from oslo_db.sqlalchemy import engines
    from placement.db_api import placement_context_manager
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from sqlalchemy.pool import QueuePool

    def connected(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA busy_timeout = 30000")
        connection.execute("PRAGMA synchronous = NORMAL")

    def keep_connections(_url: object, arguments: dict[str, Any], _options: object) -> None:
        arguments["poolclass"] = QueuePool

    event.listen(Engine, "connect", connected)
    engines._init_connection_args.dispatch_for("sqlite")(keep_connections)  # noqa: SLF001 - the only place where oslo.db lets the pool be chosen
    placement_context_manager.configure(thread_checkin=False)


def _serve(listener: socket.socket, threads: int, *, take_turns: bool) -> None:
    from placement.wsgi.api import application
    from waitress import serve

    serve(
        _writers_take_turns(application) if take_turns else application,
        sockets=[listener],
        threads=threads,
        connection_limit=_CONNECTIONS,
        channel_timeout=_KEEP_ALIVE_SECONDS,
        ident=None,
        _quiet=True,
    )


_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def _writers_take_turns(application: _Application) -> _Application:
    lock = threading.Lock()

    def serialised(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in {"GET", "HEAD"}:
            return application(environ, start_response)
        with lock:
            return application(environ, start_response)

    return serialised


if __name__ == "__main__":
    raise SystemExit(_main())
