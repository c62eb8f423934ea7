"""Private servers for tests: on free ports, in directories of their own, gone with the test run."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from changeover.worker.embedded.child import Child, start_child

_HOST = "127.0.0.1"
_START_SECONDS = 60.0


class MissingError(Exception):
    """A server's program is not installed; the message names it."""


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def find(program: str, *directories: str) -> Path:
    """The program, from PATH or from where distributions hide it."""
    found = shutil.which(program)
    if found:
        return Path(found)
    for pattern in directories:
        for path in sorted(Path("/").glob(f"{pattern.lstrip('/')}/{program}"), reverse=True):
            if os.access(path, os.X_OK):
                return path
    raise MissingError(f"{program} is not installed")


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL cluster; yields the URL of its database ``postgres``."""
    hidden = "/usr/lib/postgresql/*/bin"
    initdb, server = find("initdb", hidden), find("postgres", hidden)
    with _home("pg", user="postgres") as (home, become):
        data = home / "data"
        _run(
            [*become, initdb, "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "-N"],
            home,
            env={"LC_ALL": "C.UTF-8"},
        )
        port = free_port()
        options = {
            "listen_addresses": _HOST, "port": port, "unix_socket_directories": home,
            "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
            "max_connections": 200, "shared_buffers": "64MB",
        }  # fmt: skip
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        child = start_child(
            [*become, server, "-D", data, *settings],
            name="postgres",
            log_path=home / "log",
            cwd=home,
            on_parent_death=signal.SIGQUIT,
        )
        ready = find("pg_isready", hidden)
        with _running(child, signal.SIGINT):
            child.wait_until(
                lambda: _succeeds([ready, "-q", "-h", _HOST, "-p", str(port)]),
                timeout=_START_SECONDS,
            )
            yield f"postgresql://postgres@{_HOST}:{port}/postgres"


@contextmanager
def redis() -> Iterator[str]:
    """A Redis that keeps nothing; yields its URL."""
    server = find("redis-server")
    port = free_port()
    with _home("redis") as (home, _):
        child = start_child(
            [server, "--port", str(port), "--bind", _HOST, "--save", "", "--appendonly", "no"],
            name="redis",
            log_path=home / "log",
            cwd=home,
        )
        with _running(child):
            child.wait_until(lambda: _pongs(port), timeout=_START_SECONDS)
            yield f"redis://{_HOST}:{port}/0"


@contextmanager
def rabbitmq(log_path: Path | None = None) -> Iterator[str]:
    """A RabbitMQ node with an epmd of its own; yields the URL of its virtual host ``/``.

    Its log goes with it unless ``log_path`` is given.
    """
    # The one on PATH may change the user and want the system's own directories.
    plain = next(Path("/usr/lib/rabbitmq").glob("bin/rabbitmq-server"), None)
    server = plain or find("rabbitmq-server")
    epmd = find("epmd", "/usr/lib/erlang/erts-*/bin")
    port, dist_port, epmd_port = free_port(), free_port(), free_port()
    with _home("rabbit") as (home, _):
        (home / "plugins").write_text("[].\n")
        (home / "rabbitmq.conf").touch()
        env = {
            **os.environ,
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": f"test{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": _HOST,
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2"
            ),
            "RUNNING_UNDER_SYSTEMD": "1",  # the script becomes the node, rather than its parent
            "ERL_EPMD_ADDRESS": _HOST,
            "ERL_EPMD_PORT": str(epmd_port),
        }
        names = start_child(
            [epmd, "-port", str(epmd_port), "-address", _HOST],
            name="epmd",
            env=env,
            log_path=home / "epmd.log",
        )
        with _running(names):
            names.wait_until(lambda: _listens(epmd_port), timeout=_START_SECONDS)
            child = start_child(
                [server], name="rabbitmq", env=env, log_path=log_path or home / "log"
            )
            with _running(child):
                child.wait_until(lambda: _speaks_amqp(port), timeout=2 * _START_SECONDS)
                yield f"amqp://guest:guest@{_HOST}:{port}//"


@contextmanager
def mariadb(log_path: Path | None = None, *, connections: int = 300) -> Iterator[str]:
    """A MariaDB; yields the URL of its database ``test`` (PyMySQL's form).

    Its log goes with it unless ``log_path`` is given.
    """
    install, server = find("mariadb-install-db"), find("mariadbd", "/usr/sbin")
    client = find("mariadb")
    port = free_port()
    with _home("maria", user="mysql") as (home, become):
        data, socket_path = home / "data", home / "socket"
        options = [f"--datadir={data}", "--auth-root-authentication-method=normal"]
        _run([*become, install, "--no-defaults", *options], home)
        child = start_child(
            [
                *become, server, "--no-defaults", f"--datadir={data}", f"--socket={socket_path}",
                f"--bind-address={_HOST}", f"--port={port}", f"--pid-file={home / 'pid'}",
                "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync",
                "--innodb-doublewrite=0", "--innodb-buffer-pool-size=64M",
                f"--max-connections={connections}", "--character-set-server=utf8mb3",
            ],
            name="mariadb",
            log_path=log_path or home / "log",
            cwd=home,
        )  # fmt: skip
        sql = (
            "CREATE DATABASE IF NOT EXISTS test;"
            "CREATE USER changeover@'127.0.0.1' IDENTIFIED BY 'changeover';"
            "GRANT ALL ON *.* TO changeover@'127.0.0.1'"
        )
        with _running(child):
            connect = [client, "--no-defaults", "-uroot", "-S", socket_path]
            child.wait_until(
                lambda: _succeeds([*connect, "-e", "SELECT 1"]), timeout=_START_SECONDS
            )
            _run([*connect, "-e", sql], home)
            yield f"mysql+pymysql://changeover:changeover@{_HOST}:{port}/test"


# --- parts ------------------------------------------------------------------------------------


@contextmanager
def _home(name: str, *, user: str | None = None) -> Iterator[tuple[Path, list[str | Path]]]:
    """A directory of its own, short enough for sockets, and how to run a program as its owner.

    Some servers refuse to run as root: for those ``user`` names who they run as then.
    """
    home = Path(tempfile.mkdtemp(prefix=f"co-{name}-"))
    become: list[str | Path] = []
    try:
        if user is not None and os.geteuid() == 0:
            try:
                entry = pwd.getpwnam(user)
            except KeyError:
                raise MissingError(f"there is no user {user!r} to run as") from None
            os.chown(home, entry.pw_uid, entry.pw_gid)
            become = [
                find("setpriv"), f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}",
                "--clear-groups", "--pdeathsig=keep", "--",
            ]  # fmt: skip
        yield home, become
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _running(child: Child, number: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    try:
        yield
    finally:
        child.stop(20.0, number=number)


def _run(argv: list[str | Path], home: Path, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        argv,
        cwd=home,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace")[-2000:]
        raise RuntimeError(f"{argv} ended with {done.returncode}: {said}")


def _succeeds(argv: list[str | Path]) -> bool:
    done = subprocess.run(argv, capture_output=True, timeout=10, check=False)
    return done.returncode == 0


def _listens(port: int) -> bool:
    return _exchange(port, b"") is not None


def _pongs(port: int) -> bool:
    return (_exchange(port, b"PING\r\n") or b"").startswith(b"+PONG")


def _speaks_amqp(port: int) -> bool:
    """A node that has booted answers the protocol's header with a method frame."""
    return (_exchange(port, b"AMQP\x00\x00\x09\x01") or b"").startswith(b"\x01\x00\x00")


def _exchange(port: int, said: bytes) -> bytes | None:
    """What is answered, ``None`` if there is no connection."""
    try:
        with socket.create_connection((_HOST, port), timeout=5.0) as connection:
            if not said:
                return b""
            connection.sendall(said)
            return connection.recv(64)
    except OSError:
        return None
