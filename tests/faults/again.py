"""Servers that can be stopped, killed and started again, with what they had on disk.

The private servers of the tests are started through one function; here it is watched, so that
each can be started once more exactly as it was.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import services

from changeover.worker.embedded.child import Child, start_child


@dataclass
class Again:
    """A running server by its URL."""

    url: str
    started: tuple[tuple[Any, ...], dict[str, Any]]
    child: Child
    ready: Callable[[], bool]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, with that signal."""
        self.child.stop(20.0, number=number)

    def kill(self) -> None:
        """End it at once."""
        self.child.kill()

    def start(self) -> None:
        """Start it again, on the same port and the same files."""
        args, kwargs = self.started
        self.child = start_child(*args, **kwargs)
        self.child.wait_until(self.ready, timeout=60.0)

    def pause(self, seconds: float) -> None:
        """Let it hang for a while."""
        self.child.send(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            self.child.send(signal.SIGCONT)


@contextmanager
def again(
    serve: Callable[[], AbstractContextManager[str]], name: str, ready: Callable[[str], bool]
) -> Iterator[Again]:
    """Run one of :mod:`services`' servers; ``name`` is its child's."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any], Child]] = []

    def watched(*args: Any, **kwargs: Any) -> Child:
        child = start_child(*args, **kwargs)
        if kwargs.get("name") == name:
            seen.append((args, kwargs, child))
        return child

    vars(services)["start_child"] = watched
    try:
        with serve() as url:
            vars(services)["start_child"] = start_child
            args, kwargs, child = seen[0]
            server = Again(url, (args, kwargs), child, lambda: ready(url))
            yield server
            if server.child is not child:
                with contextlib.suppress(ProcessLookupError):
                    server.stop(signal.SIGINT)
    finally:
        vars(services)["start_child"] = start_child


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].split("/", 1)[0])


def postgres() -> AbstractContextManager[Again]:
    """A PostgreSQL; see :func:`again`."""
    ready = services.find("pg_isready", "/usr/lib/postgresql/*/bin")
    return again(
        services.postgres,
        "postgres",
        lambda url: services._succeeds([ready, "-q", "-h", "127.0.0.1", "-p", str(_port(url))]),
    )


def rabbitmq() -> AbstractContextManager[Again]:
    """A RabbitMQ; see :func:`again`."""
    return again(services.rabbitmq, "rabbitmq", lambda url: services._speaks_amqp(_port(url)))
