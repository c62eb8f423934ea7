"""A Celery app with a task that does nothing: the peer of the intake's benchmark."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

QUEUE = "bench.noop"

app = Celery("noop", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_ignore_result=True,
    task_default_queue=QUEUE,
    broker_transport_options={"ack_emulation": False},
    worker_enable_remote_control=False,
)


@app.task(name="bench.noop")
def noop(mark: str | None = None) -> None:
    """Do nothing, but for the first and the last: those say when they were carried out."""
    if mark is not None:
        Path(mark).write_text(repr(time.time()), encoding="utf-8")
