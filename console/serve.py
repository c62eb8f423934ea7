"""Processes that run for good: thin wrappers around the worker's own."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from changeover.console.desk import Desk
from changeover.models.errors import Invalid
from changeover.worker.celery_command import CELERY, WORKER_FLAGS

QUEUES = ("plan", "advance", "boot", "sweep", "callback")
"""Short names of the central queues."""


def up(desk: Desk) -> None:
    """Everything, supervised, until SIGTERM."""
    from changeover.worker.logs import configure_logs
    from changeover.worker.supervisor import up as supervise

    configure_logs(desk.settings)
    supervise(desk.settings)


def listener(desk: Desk) -> None:
    """The listener, until SIGTERM."""
    from changeover.worker.listener import run

    _ready(desk)
    run(desk.settings)


def worker(
    desk: Desk, *, queues: str | None, host: str | None, concurrency: int | None
) -> NoReturn:
    """Become a Celery worker of the named queues."""
    host = host or desk.settings.host
    argv, env = worker_command(queues, host)
    if host:
        _say_whether_known(desk, host)
    _ready(desk)
    argv += ["--concurrency", str(concurrency or desk.settings.worker_concurrency)]
    _become(argv, env)


def beat(desk: Desk) -> NoReturn:
    """Become a Celery beat. Any number may run: the database decides which tick counts."""
    _ready(desk)
    _become(["beat"], {})


def worker_command(queues: str | None, host: str | None) -> tuple[list[str], dict[str, str]]:
    """Celery's words and environment for a worker of ``queues``, and of a host's own queue.

    A worker that is given a host and no queues serves that host's devices alone.
    """
    from changeover.worker.queues import CENTRAL_QUEUES, host_queue

    central = dict(zip(QUEUES, CENTRAL_QUEUES, strict=True))
    if queues is None:
        served = [] if host else list(CENTRAL_QUEUES)
    else:
        names = [name.strip() for name in queues.split(",") if name.strip()]
        if strange := [name for name in names if name not in central]:
            raise Invalid(
                f"--queues: there is no queue {', '.join(strange)}: the queues are "
                f"{', '.join(QUEUES)}; a compute host's own is served with --host"
            )
        served = [central[name] for name in names]
    env = {"REMAP_SIGTERM": "SIGQUIT"}  # ends in bounded time; what it held is taken over
    if host:
        served.append(host_queue(host))
        env["CHANGEOVER_HOST"] = host
    if not served:
        raise Invalid("--queues names no queue")
    return ["worker", "--queues", ",".join(served), *WORKER_FLAGS], env


def _say_whether_known(desk: Desk, host: str) -> None:
    """A misspelt host has a queue too, into which nobody ever puts anything."""
    with desk.database.read() as tx:
        hosts = sorted({record.host for record in tx.devices.all()})
    if host not in hosts:
        known = ", ".join(hosts) or "none"
        print(
            f"no device is known on host {host} yet, so there is no work for it; hosts with "
            f"devices: {known}",
            file=sys.stderr,
        )


def _ready(desk: Desk) -> None:
    """Fail here, with a clear message, rather than in a process that restarts for ever."""
    from changeover.worker.bootstrap import broker_url

    broker_url(desk.settings)
    _ = desk.database
    desk.close()


def _become(argv: list[str], env: dict[str, str]) -> NoReturn:
    """Replace this process: whoever supervises it has one process and one id to look after."""
    sys.stdout.flush()
    os.execve(sys.executable, [*CELERY, *argv], {**os.environ, **env})  # noqa: S606 - no shell is wanted
