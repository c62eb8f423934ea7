"""The entry of the ``celery`` command: ``celery -A changeover.worker.app worker``."""

from __future__ import annotations

import gc
import os
import socket
import threading
from typing import Any

import structlog
from celery.signals import (
    setup_logging,
    task_postrun,
    task_prerun,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
)

from changeover.models.errors import Retry
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.bootstrap import close_world, open_database
from changeover.worker.celery_app import make_app
from changeover.worker.logs import configure_logs
from changeover.worker.settings import load_settings

BEAT_SECONDS = 5.0

settings = load_settings()
app = make_app(settings)


@setup_logging.connect
def _logs(**_: Any) -> None:
    configure_logs(settings)


@worker_process_init.connect
def _fresh_process(**_: Any) -> None:
    # A forked child must not use its parent's connections.
    close_world()
    # What was imported lives as long as the process. Counted as garbage that may be, it is looked
    # through at each full collection, for longer than most tasks take, and its pages are copied.
    gc.collect()
    gc.freeze()


@worker_process_shutdown.connect
def _process_ends(**_: Any) -> None:
    close_world()


@task_prerun.connect
def _bind(task_id: str, task: Any, **_: Any) -> None:
    structlog.contextvars.bind_contextvars(task=task.name, task_id=task_id)


@task_postrun.connect
def _unbind(**_: Any) -> None:
    structlog.contextvars.clear_contextvars()


@worker_ready.connect
def _say_alive(**_: Any) -> None:
    """Tell the database regularly that this worker lives: cheaper than to ask it."""
    process = f"worker:{socket.gethostname()}:{os.getpid()}"
    database, clock = open_database(settings), SystemClock()

    def beat() -> None:
        pause = threading.Event()
        while True:
            try:
                with database.write() as tx:
                    tx.switches.beat(process, "worker", clock.now())
            except Retry as exc:
                structlog.get_logger(__name__).warning("worker.beat_failed", why=exc.message)
            pause.wait(BEAT_SECONDS)

    threading.Thread(target=beat, name="heartbeat", daemon=True).start()
