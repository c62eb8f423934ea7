"""The Celery app: how messages travel. What they point at is in the database.

Messages carry ids only, in JSON only. They are acknowledged early: a message is a hint, and one
that is lost with its worker is sent again by the sweep long before a broker's visibility timeout.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from celery import Celery
from kombu import Queue

from changeover.models.errors import AskOperator
from changeover.worker.bootstrap import broker_url
from changeover.worker.queues import (
    ADVANCE,
    ADVANCE_QUEUE,
    BALANCE,
    BOOT_QUEUE,
    CALLBACK_QUEUE,
    CENTRAL_QUEUES,
    DELIVER,
    JUDGE,
    PLAN_QUEUE,
    REBOOT,
    REFRESH,
    RESERVE,
    SWEEP,
    SWEEP_QUEUE,
    host_queue,
)
from changeover.worker.settings import Settings

SOFT_SHUTDOWN_SECONDS = 10


KNOWN = {"celery": "5.7", "kombu": "5.7"}
"""Releases whose reconnecting was tried, and whose defects are worked around below.

Older ones do worse: before 5.5 a worker on Redis may consume nothing any more once it has
reconnected (celery issue 7276).
"""


def make_app(settings: Settings) -> Celery:
    """An app for these settings; nothing is connected yet.

    Raises :class:`AskOperator` where Celery or kombu is not of a release that is known to
    reconnect.
    """
    _require_known({package: version(package) for package in KNOWN})
    url = broker_url(settings)
    app = Celery("changeover", broker=url, include=["changeover.worker.tasks"])
    queues = [*CENTRAL_QUEUES, *([host_queue(settings.host)] if settings.host else [])]
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_default_queue=PLAN_QUEUE,
        task_queues=[Queue(name, routing_key=name) for name in queues],
        task_routes={
            JUDGE: {"queue": PLAN_QUEUE},
            ADVANCE: {"queue": ADVANCE_QUEUE},
            REBOOT: {"queue": BOOT_QUEUE},
            SWEEP: {"queue": SWEEP_QUEUE},
            BALANCE: {"queue": SWEEP_QUEUE},
            REFRESH: {"queue": SWEEP_QUEUE},
            DELIVER: {"queue": CALLBACK_QUEUE},
            RESERVE: {"queue": SWEEP_QUEUE},
        },
        # Once: it makes the connection anew. Without, beat goes on for ever with the dead
        # connection of a RabbitMQ that was restarted.
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0.0, "interval_step": 0.0},
        broker_connection_timeout=2.0,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(url),
        worker_prefetch_multiplier=1,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_soft_shutdown_timeout=SOFT_SHUTDOWN_SECONDS,
        enable_utc=True,
        timezone="UTC",
        beat_scheduler="celery.beat:Scheduler",
        beat_max_loop_interval=1.0,
        beat_schedule={
            "sweep": {"task": SWEEP, "schedule": settings.sweep_seconds},
            **(
                {"reserve": {"task": RESERVE, "schedule": settings.reservation_seconds}}
                if settings.blazar
                else {}
            ),
            "balance": {"task": BALANCE, "schedule": settings.balance_seconds},
            "refresh": {"task": REFRESH, "schedule": settings.refresh_seconds},
        },
    )
    return app


def _require_known(found: Mapping[str, str]) -> None:
    for package, installed in found.items():
        if not installed.startswith(f"{KNOWN[package]}."):
            raise AskOperator(
                f"{package} {installed} is installed, and nobody has tried whether its workers "
                f"survive a lost broker: install {package} {KNOWN[package]}, as the lock files do",
                package=package,
            )


def _transport_options(url: str) -> dict[str, Any]:
    if not url.startswith("redis"):
        return {"confirm_publish": True}
    return {
        # celery 5.7.0: with emulated acks a worker that reconnects while it holds prefetched
        # messages dies. Messages are acknowledged early here, so nothing is lost with it.
        "ack_emulation": False,
        "socket_connect_timeout": 2.0,
        "socket_timeout": 10.0,
        "socket_keepalive": True,
        "health_check_interval": 10,
    }
