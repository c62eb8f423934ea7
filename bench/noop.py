"""A Celery app with a task that does nothing: the peer of the intake's benchmark."""

from __future__ import annotations

import os

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
def noop() -> None:
    """Do nothing."""
