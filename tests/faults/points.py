"""Named points at which a real process can be made to die: test code only.

Every transaction and every call that changes something outside is a point, before and after.
Points are named by the line of the product that they are at, and found by running: what a
process comes by is written down, so that a battery can spread its kills over all of them.

A point is armed by a file. Who comes by first takes the file and kills itself, or its whole
worker, with SIGKILL: nothing is cleaned up, as in a crash.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

import structlog
from kombu.message import Message

from changeover.worker import bootstrap
from changeover.worker.courier import Courier
from changeover.worker.inbox import AmqpInbox, RedisInbox
from changeover.worker.store.database import Database, Tx
from changeover.worker.world import World

DIRECTORY = "CHANGEOVER_TEST_POINTS"
"""The environment variable that names the directory of armed points."""

Whom = Literal["self", "all"]

WRITES = frozenset(
    {"put_inventories", "put_traits", "create", "link", "delete", "program", "stage"}
)


class Points:
    """One process's view of the points; a harness uses the same class to arm them."""

    def __init__(self, directory: Path) -> None:
        self.armed = directory / "armed"
        self.kills = directory / "kills.jsonl"
        self.seen = directory / "seen"
        self.known: set[str] = set()
        self.armed.mkdir(parents=True, exist_ok=True)
        self.seen.mkdir(exist_ok=True)

    # -- the process's side ----------------------------------------------------------------

    def reach(self, point: str) -> None:
        """Come by a point, and die there if it is armed."""
        if point not in self.known:
            self.known.add(point)
            (self.seen / quote(point, safe="")).touch()
        order = self.armed / quote(point, safe="")
        try:
            whom = order.read_text(encoding="utf-8")
            order.unlink()
        except OSError:
            return  # not armed, or somebody else took it
        bound = structlog.contextvars.get_contextvars()
        note = {
            "t": time.time(), "point": point, "pid": os.getpid(), "whom": whom,
            "changeover": bound.get("changeover"), "boot": bound.get("boot"),
        }  # fmt: skip
        _append(self.kills, json.dumps(note))
        if whom == "all":
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    # -- the harness's side ----------------------------------------------------------------

    def arm(self, point: str, whom: Whom = "self") -> None:
        """Let the next process that comes by die."""
        path = self.armed / quote(point, safe="")
        draft = path.with_name(f".{path.name[:40]}")
        draft.write_text(whom, encoding="utf-8")
        draft.replace(path)

    def disarm(self) -> list[str]:
        """Nobody has to die any more; returns the points that nobody came by."""
        left = []
        for path in self.armed.iterdir():
            with suppress(FileNotFoundError):
                path.unlink()
                left.append(unquote(path.name))
        return left

    def all_seen(self) -> list[str]:
        """All points that any process came by."""
        return sorted(unquote(path.name) for path in self.seen.iterdir())

    def killed(self) -> list[dict[str, Any]]:
        """The deaths so far."""
        if not self.kills.exists():
            return []
        return [json.loads(line) for line in self.kills.read_text(encoding="utf-8").splitlines()]


def _append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def _where() -> str:
    """The innermost line of the product's story: which step this is."""
    frame = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("changeover.worker.") and ".store" not in name:
            return f"{name.rpartition('.')[2]}.{frame.f_code.co_name}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "elsewhere"


class Watched:
    """A port whose changing calls are points."""

    def __init__(self, inner: Any, points: Points, wrap: Mapping[str, Any] | None = None) -> None:
        self._inner = inner
        self._points = points
        self._wrap = dict(wrap or {})

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in WRITES:
            return value
        points = self._points

        def call(*args: Any, **kwargs: Any) -> Any:
            where = _where()
            points.reach(f"{where} {name} before")
            if name == "program":
                args = (*args[:3], _watched_entitled(points, where, args[3]))
            result = value(*args, **kwargs)
            points.reach(f"{where} {name} after")
            return result

        return call


def _watched_entitled(
    points: Points, where: str, entitled: Callable[[], bool]
) -> Callable[[], bool]:
    def asked() -> bool:
        answer = entitled()
        points.reach(f"{where} program entitled")
        return answer

    return asked


def install(directory: Path) -> Points:
    """Make this process's transactions, messages and ports points. For entry modules."""
    points = Points(directory)
    _watch_database(points)
    _watch_messages(points)
    make = bootstrap.make_world

    def watched_world(settings: Any) -> World:
        world = make(settings)
        return replace(
            world,
            placement=Watched(world.placement, points),
            servers=Watched(world.servers, points),
            programmers={name: Watched(p, points) for name, p in world.programmers.items()},
        )

    bootstrap.make_world = watched_world
    return points


def _watch_database(points: Points) -> None:
    plain = Database.write

    @contextmanager
    def write(self: Database) -> Iterator[Tx]:
        where = _where()
        with plain(self) as tx:
            yield tx
            points.reach(f"{where} commit before")
        points.reach(f"{where} commit after")

    Database.write = write  # type: ignore[method-assign]  # what a failpoint does


def _watch_messages(points: Points) -> None:
    send, ack = Courier.__call__, Message.ack
    for kind in (AmqpInbox, RedisInbox):
        _watch_inbox(kind, points)

    def sending(self: Courier, hints: Any) -> None:
        points.reach("courier send before")
        send(self, hints)
        points.reach("courier send after")

    def acknowledging(self: Message, *args: Any, **kwargs: Any) -> Any:
        points.reach("message ack before")
        answer = ack(self, *args, **kwargs)
        points.reach("message ack after")
        return answer

    Courier.__call__ = sending  # type: ignore[method-assign]  # what a failpoint does
    Message.ack = acknowledging  # type: ignore[method-assign]  # what a failpoint does


def _watch_inbox(kind: type[AmqpInbox | RedisInbox], points: Points) -> None:
    take, acknowledge = kind.take, kind.acknowledge

    def taking(self: Any) -> Any:
        taken = take(self)
        if taken:
            points.reach("inbox take after")
        return taken

    def acknowledging(self: Any) -> None:
        points.reach("inbox acknowledge before")
        acknowledge(self)
        points.reach("inbox acknowledge after")

    kind.take = taking  # type: ignore[method-assign]  # what a failpoint does
    kind.acknowledge = acknowledging  # type: ignore[method-assign]  # what a failpoint does


def from_environment() -> Points:
    """Install the points of the directory that the environment names."""
    return install(Path(os.environ[DIRECTORY]))
