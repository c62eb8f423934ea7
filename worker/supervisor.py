"""``changeover up``: every process of a deployment under one parent, restarted when it dies.

What the settings do not name is started here: the broker, Placement and the simulated cloud.
Stopping is orderly: first what takes work in, then the workers, which hand over what they hold
(every step is committed, so another worker goes on where they stopped), then the services.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from kombu import Connection

from changeover.models.errors import Busy, ChangeoverError, Unreachable
from changeover.worker import flock
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.bootstrap import (
    as_found,
    make_world,
    notification_url,
    open_cards,
    open_database,
    open_placement,
    open_simulated_servers,
    write_endpoints,
)
from changeover.worker.celery_command import CELERY, WORKER_FLAGS
from changeover.worker.embedded.broker import EmbeddedBroker, start_broker
from changeover.worker.embedded.child import Child, start_child
from changeover.worker.embedded.placement_service import EmbeddedPlacement, start_placement
from changeover.worker.listener import notification_queue
from changeover.worker.migrate import upgrade
from changeover.worker.queues import CENTRAL_QUEUES, host_queue
from changeover.worker.refresh import look, sync_catalog
from changeover.worker.settings import Settings, as_environment
from changeover.worker.simulator.cloud import build_cloud
from changeover.worker.simulator.fleet import Shape

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
FIRST_RESTART_SECONDS = 0.5
MOST_RESTART_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A process that lived so long starts again without delay."""

WORKER_STOP_SECONDS = 20.0
STOP_SECONDS = 10.0
ALIVE_SECONDS = 120.0

Start = Callable[[], Child]
E = TypeVar("E", EmbeddedBroker, EmbeddedPlacement)


@dataclass(slots=True)
class Process:
    """One supervised process. ``stop_seconds``: how long it may take to end by itself."""

    name: str
    start: Start
    stop_seconds: float
    child: Child | None = None
    started_at: float = 0.0
    failures: int = 0
    due_at: float = 0.0

    def ensure(self, now: float) -> None:
        """Start it if it is not running and its back-off is over."""
        if self.child is not None:
            status = self.child.poll()
            if status is None:
                return
            steady = now - self.started_at >= STEADY_SECONDS
            self.failures = 1 if steady else self.failures + 1
            wait = min(MOST_RESTART_SECONDS, FIRST_RESTART_SECONDS * 2.0 ** (self.failures - 1))
            self.due_at = now + wait
            self.child = None
            log.error("up.process_ended", process=self.name, status=status, restart_in=wait)
        if now >= self.due_at:
            self.child = self.start()
            self.started_at = now
            log.info("up.process_started", process=self.name, pid=self.child.pid)

    def stop(self) -> None:
        """Ask it to end, and see to it that it does."""
        if self.child is not None:
            status = self.child.stop(self.stop_seconds)
            log.info("up.process_stopped", process=self.name, status=status)
            self.child = None


@dataclass(slots=True)
class Service:
    """An embedded service: started anew where it was, if it dies."""

    name: str
    start: Callable[[], EmbeddedBroker | EmbeddedPlacement]
    running: EmbeddedBroker | EmbeddedPlacement

    def ensure(self) -> None:
        """Start it again if it has ended."""
        status = self.running.poll()
        if status is not None:
            log.error("up.service_ended", service=self.name, status=status)
            self.running.stop()
            self.running = self.start()
            log.info("up.service_started", service=self.name, pid=self.running.pid)


class Supervisor:
    """Starts, watches and stops. ``settings`` may leave anything to the embedded defaults.

    ``shape`` is that of the simulated cloud, where it is built.
    """

    def __init__(
        self, settings: Settings, *, echo_logs: bool = True, shape: Shape | None = None
    ) -> None:
        self.settings = settings
        self.shape = shape
        self.echo_logs = echo_logs
        self.env = dict(os.environ)
        self.processes: list[Process] = []
        self.services: list[Service] = []
        self.stopping = threading.Event()
        self.started_at = time.time()
        self._lock = contextlib.ExitStack()

    def start(self) -> Settings:
        """Start everything; returns the settings with what was filled in.

        Raises :class:`Busy` if another supervisor runs on the same state directory.
        """
        self.settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._lock.enter_context(flock.hold(self.settings.state_dir / "up.lock"))
        except Busy as exc:
            raise Busy(
                f"`changeover up` runs on {self.settings.state_dir} already: stop it, or set "
                "another state_dir"
            ) from exc
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self.settings

    def _start(self) -> None:
        settings = self.settings
        if settings.broker_url is None:
            self._embed("broker", lambda: start_broker(settings.state_dir / "broker"))
            self._fill_in(broker_url=self.services[-1].running.url)
        if settings.cloud is None and settings.placement_endpoint is None:
            home = settings.state_dir / "placement"
            port = self._embed("placement", lambda: start_placement(home)).port
            self.services[-1].start = lambda: start_placement(home, port=port)
            self._fill_in(placement_endpoint=self.services[-1].running.url)
        write_endpoints(self.settings)
        database = open_database(self.settings)
        before, after = upgrade(database.url)
        if before != after:
            log.info("up.database_upgraded", before=before, after=after)
        database.dispose()
        # Bound before anything is published: what no queue is bound for is gone.
        with Connection(notification_url(self.settings), connect_timeout=5) as connection:
            notification_queue(self.settings)(connection.channel()).declare()
        if settings.cloud is None and settings.catalog is None:
            self._build_cloud()
        world = as_found(make_world(self.settings))
        sync_catalog(world)
        try:
            look(world)
        except ChangeoverError as exc:  # the workers look again, until it answers
            log.warning("up.devices_unread", why=exc.message)
        world.database.dispose()
        self._celery()

    def _embed(self, name: str, start: Callable[[], E]) -> E:
        running = start()
        service = Service(name, start, running)
        self.services.append(service)
        log.info("up.service_started", service=name, pid=running.pid)
        return running

    def _fill_in(self, **values: str) -> None:
        """What was started is what the processes below are to use."""
        self.settings = Settings(**{**dict(self.settings), **values})

    def _build_cloud(self) -> None:
        """The simulated cloud's fleet, and its catalog where the settings name none."""
        clock = SystemClock()
        placement = open_placement(self.settings)
        servers = open_simulated_servers(self.settings, placement, clock)
        path = self.settings.state_dir / "catalog.yaml"
        build_cloud(path, placement, open_cards(self.settings, clock), servers, self.shape)
        servers.close()

    def _celery(self) -> None:
        settings = self.settings
        self.env |= as_environment(settings)
        queues = [*CENTRAL_QUEUES, *([host_queue(settings.host)] if settings.host else [])]
        worker = [
            *CELERY, "worker",
            "--queues", ",".join(queues),
            "--concurrency", str(settings.worker_concurrency),
            *WORKER_FLAGS,
        ]  # fmt: skip
        listener = [sys.executable, "-m", "changeover.worker.listener"]
        self._add("worker", worker, WORKER_STOP_SECONDS, REMAP_SIGTERM="SIGQUIT")
        self._add("beat", [*CELERY, "beat"], STOP_SECONDS)
        self._add("listener", listener, STOP_SECONDS)
        for process in self.processes:
            process.ensure(time.monotonic())

    def _add(self, name: str, argv: list[str], stop_seconds: float, **env: str) -> None:
        log_path: Path | None = None
        if not self.echo_logs:
            log_path = self.settings.state_dir / f"{name}.log"

        def start() -> Child:
            return start_child(argv, name=name, env={**self.env, **env}, log_path=log_path)

        self.processes.append(Process(name, start, stop_seconds))

    def wait_until_alive(self) -> None:
        """Wait until a worker and a listener say in the database that they live.

        Raises :class:`Unreachable` if one does not within :data:`ALIVE_SECONDS`.
        """
        database = open_database(self.settings)
        deadline = time.monotonic() + ALIVE_SECONDS
        missing = {"worker", "listener"}
        while missing:
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"no {' and no '.join(sorted(missing))} came up within {ALIVE_SECONDS:.0f} s; "
                    f"their logs are in {self.settings.state_dir}"
                )
            time.sleep(POLL_SECONDS / 5)
            with database.read() as tx:
                missing -= {process["role"] for process in tx.switches.alive(self.started_at)}
        database.dispose()

    def watch(self) -> None:
        """Restart what dies, until :attr:`stopping` is set."""
        while not self.stopping.wait(POLL_SECONDS):
            for service in self.services:
                self._ensure(service.name, service.ensure)
            for process in self.processes:
                self._ensure(process.name, partial(process.ensure, time.monotonic()))

    def _ensure(self, name: str, ensure: Callable[[], None]) -> None:
        try:
            ensure()
        except ChangeoverError as exc:
            log.error("up.start_failed", process=name, why=exc.message)

    def stop(self) -> None:
        """Stop everything, in order."""
        self.stopping.set()
        for process in reversed(self.processes):
            process.stop()
        self.processes.clear()
        for service in reversed(self.services):
            service.running.stop()
        self.services.clear()
        self._lock.close()


@contextlib.contextmanager
def running(
    settings: Settings, *, echo_logs: bool = False, shape: Shape | None = None
) -> Iterator[Supervisor]:
    """A deployment for the length of a ``with`` block (the demo, tests, benchmarks).

    ``shape``: how large its simulated cloud is.
    """
    supervisor = Supervisor(settings, echo_logs=echo_logs, shape=shape)
    supervisor.start()
    watcher = threading.Thread(target=supervisor.watch, name="supervisor", daemon=True)
    watcher.start()
    try:
        supervisor.wait_until_alive()
        yield supervisor
    finally:
        supervisor.stopping.set()
        watcher.join()
        supervisor.stop()


def up(settings: Settings) -> None:
    """Run a deployment until SIGTERM or SIGINT."""
    supervisor = Supervisor(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stopping.set())
    supervisor.start()
    log.info("up.ready", state_dir=str(settings.state_dir))
    try:
        supervisor.watch()
    finally:
        supervisor.stop()
        log.info("up.stopped")
