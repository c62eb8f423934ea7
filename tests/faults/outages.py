"""Outages: the broker is flushed, killed, paused; the database restarted, cut, locked.

Each round is one loss in the middle of a storm of boots. In the end every boot has its outcome,
and the checker finds nothing amiss.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import psycopg
from faults import again
from faults.rig import Rig, drain, loaded, rigged
from faults.table import Row
from kombu import Connection
from redis import Redis
from redis.exceptions import RedisError

from changeover.worker.embedded.broker import EmbeddedBroker, start_broker

Fault = tuple[str, Callable[[], object]]

DRAIN_SECONDS = 150.0


def _storm(
    row: Row,
    rig: Rig,
    faults: list[Fault],
    *,
    rounds: int,
    every: float,
    seed: int,
    seconds: float,
) -> None:
    """Under load, one fault after the other; then quiet, and a verdict."""
    chance = Random(seed)
    done = Counter[str]()
    with loaded(rig, seed=seed) as load:
        until = time.monotonic() + seconds
        time.sleep(every)
        while done.total() < rounds and time.monotonic() < until:
            name, strike = faults[done.total() % len(faults)]
            strike()
            done[name] += 1
            time.sleep(every * (0.5 + chance.random()))
    ended = time.monotonic()
    if not drain(rig, load, DRAIN_SECONDS):
        row.fails(f"{rig.unfinished()} boots or changeovers never ended")
    row.slowest = time.monotonic() - ended
    row.rounds, row.faults = load.booted, done.total()
    row.facts |= dict(done)
    row.facts["process_deaths"] = sum(process.failures for process in rig.supervisor.processes)
    row.note = ", ".join(f"{name} {count}" for name, count in done.items())
    row.judged(rig.verdict())


# ---------------------------------------------------------------- brokers


class Valkey:
    """The embedded broker, kept in hand."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.broker: EmbeddedBroker = start_broker(home)
        self.url = self.broker.url

    def _redis(self) -> Redis:
        return Redis(unix_socket_path=str(self.broker.socket_path))

    def flush(self) -> None:
        """Everything that was queued, and every binding, is gone; connections stay."""
        with self._redis() as client:
            client.flushall()

    def kill(self) -> None:
        """Dies, stays away for a moment, comes back empty."""
        self.broker._child.kill()
        time.sleep(1.0)
        self.broker = start_broker(self.home)

    def pause(self) -> None:
        """Hangs for longer than a connection's patience, and goes on as if nothing had been."""
        self.broker._child.send(signal.SIGSTOP)
        time.sleep(3.0)
        self.broker._child.send(signal.SIGCONT)

    def repeat(self) -> None:
        """What is queued is queued once more."""
        with self._redis() as client, contextlib.suppress(RedisError):
            for key in client.scan_iter("changeover.*"):
                if client.type(key) == b"list":
                    queued = client.lrange(key, 0, -1)
                    if queued:
                        client.rpush(key, *queued)

    def delay(self) -> None:
        """What is queued is taken away, and put back later, in another order."""
        taken: list[tuple[bytes, list[bytes]]] = []
        with self._redis() as client, contextlib.suppress(RedisError):
            for key in client.scan_iter("changeover.*"):
                if client.type(key) == b"list":
                    taken.append((key, client.lrange(key, 0, -1)))
                    client.delete(key)
            time.sleep(3.0)
            for key, queued in taken:
                if queued:
                    client.lpush(key, *reversed(queued))


def redis(home: Path, *, rounds: int, seconds: float, seed: int = 2, **settings: Any) -> Row:
    """Valkey, for hints and notifications alike, as in the embedded deployment."""
    row, started = Row("broker valkey"), time.monotonic()
    valkey = Valkey(home / "valkey")
    try:
        with rigged(home / "state", broker_url=valkey.url, **settings) as rig:
            faults: list[Fault] = [
                ("flushed", valkey.flush),
                ("killed", valkey.kill),
                ("paused", valkey.pause),
                ("repeated", valkey.repeat),
                ("delayed", valkey.delay),
            ]
            _storm(row, rig, faults, rounds=rounds, every=2.0, seed=seed, seconds=seconds)
    finally:
        valkey.broker.stop()
    row.took = time.monotonic() - started
    return row


def rabbit(home: Path, *, rounds: int, seconds: float, seed: int = 3, **settings: Any) -> Row:
    """RabbitMQ carries hints and notifications; it is restarted, killed, paused, purged."""
    row, started = Row("broker rabbitmq"), time.monotonic()
    with again.rabbitmq() as server:

        def restart() -> None:
            server.stop()
            server.start()

        def kill() -> None:
            server.kill()
            server.start()

        def purge() -> None:
            with Connection(server.url) as connection:
                channel: Any = connection.channel()
                for queue in ("changeover.plan", "changeover.advance", "changeover.boot"):
                    with contextlib.suppress(Exception):
                        channel.queue_purge(queue)

        with rigged(home, broker_url=server.url, **settings) as rig:
            faults: list[Fault] = [
                ("restarted", restart),
                ("purged", purge),
                ("paused", lambda: server.pause(3.0)),
                ("killed", kill),
            ]
            _storm(row, rig, faults, rounds=rounds, every=3.0, seed=seed, seconds=seconds)
    row.took = time.monotonic() - started
    return row


# ---------------------------------------------------------------- databases


def postgres(home: Path, *, rounds: int, seconds: float, seed: int = 4, **settings: Any) -> Row:
    """Changeover's PostgreSQL is restarted, crashes, hangs, and cuts connections."""
    row, started = Row("database postgresql"), time.monotonic()
    with again.postgres() as server:

        def restart() -> None:
            server.stop(signal.SIGINT)
            server.start()

        def crash() -> None:
            """One backend dies: the server ends all sessions and recovers."""
            with psycopg.connect(server.url, autocommit=True) as db:
                row = db.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'changeover' LIMIT 1"
                ).fetchone()
            if row is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(row[0], signal.SIGKILL)

        def cut() -> None:
            with psycopg.connect(server.url, autocommit=True) as db:
                db.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'changeover'"
                )

        with rigged(home, database_url=server.url, **settings) as rig:
            faults: list[Fault] = [
                ("cut", cut),
                ("restarted", restart),
                ("crashed", crash),
                ("paused", lambda: server.pause(2.0)),
            ]
            _storm(row, rig, faults, rounds=rounds, every=2.0, seed=seed, seconds=seconds)
    row.took = time.monotonic() - started
    return row


def sqlite(home: Path, *, rounds: int, seconds: float, seed: int = 5, **settings: Any) -> Row:
    """The SQLite file is locked by another process for longer than leases last."""
    row, started = Row("database sqlite"), time.monotonic()
    with rigged(home, **settings) as rig:
        path = rig.settings.database.removeprefix("sqlite:///")

        def lock(length: float) -> Callable[[], None]:
            def strike() -> None:
                with _locked(path):
                    time.sleep(length)

            return strike

        faults: list[Fault] = [
            ("locked shortly", lock(1.0)),
            ("locked beyond leases", lock(rig.settings.lease_seconds * 1.5)),
            ("locked beyond patience", lock(17.0)),
        ]
        _storm(row, rig, faults, rounds=rounds, every=2.0, seed=seed, seconds=seconds)
    row.took = time.monotonic() - started
    return row


@contextmanager
def _locked(path: str) -> Iterator[None]:
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")
    finally:
        db.close()
