"""The Celery tasks: each takes an id, looks in the database, and does what is due there.

Every task may be delivered twice, late, or never: the first delivery that finds the row due and
free does the work, the sweep makes up for those that never came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from celery import Task

from changeover.models.errors import ChangeoverError, Retry
from changeover.worker.app import app, settings
from changeover.worker.bootstrap import open_reservations, open_webhook, the_world
from changeover.worker.carry_out import CarryOut
from changeover.worker.deliver import deliver
from changeover.worker.judge import balance, judge
from changeover.worker.queues import (
    ADVANCE,
    ADVANCE_QUEUE,
    BALANCE,
    DELIVER,
    JUDGE,
    REBOOT,
    REFRESH,
    RESERVE,
    SWEEP,
)
from changeover.worker.reboot import reboot
from changeover.worker.refresh import look
from changeover.worker.reserve import reserve
from changeover.worker.sweep import sweep
from changeover.worker.world import World

log = structlog.get_logger(__name__)

R = TypeVar("R")

TICK_TOLERANCE = 0.9
"""A tick may come a little early: beats are not metronomes."""


def _guarded(work: Callable[[World], R]) -> R | None:
    """Run; errors that the sweep will come back to are logged, not raised through Celery."""
    try:
        return work(the_world(settings))
    except Retry as exc:
        log.warning("task.put_off", why=exc.message, error=type(exc).__name__)
    except ChangeoverError as exc:
        log.error("task.failed", why=exc.message, error=type(exc).__name__)
    return None


@app.task(name=JUDGE, bind=True)
def judge_task(_task: Task[[], None]) -> None:
    """Plan for all that waits."""
    _guarded(lambda world: judge(world, hinted=True))


@app.task(name=ADVANCE, bind=True)
def advance_task(task: Task[[str], None], changeover_id: str) -> None:
    """Take one changeover as far as it goes."""
    queue = str((task.request.delivery_info or {}).get("routing_key") or ADVANCE_QUEUE)
    _guarded(lambda world: CarryOut(world).advance(changeover_id, queue))


@app.task(name=REBOOT, bind=True)
def reboot_task(_task: Task[[str], None], boot_id: str) -> None:
    """Create one boot again, or watch its build."""
    _guarded(lambda world: reboot(world, boot_id))


@app.task(name=DELIVER, bind=True)
def deliver_task(_task: Task[[str], None], target: str) -> None:
    """Send what is due to one callback target."""
    _guarded(lambda world: deliver(world, open_webhook(settings), target))


@app.task(name=RESERVE, bind=True)
def reserve_task(_task: Task[[], None]) -> None:
    """Read the leases; the database decides whether this tick counts."""

    def work(world: World) -> Any:
        if not _due(world, RESERVE, settings.reservation_seconds):
            return None
        return reserve(world, open_reservations(settings)) and judge(world)

    _guarded(work)


@app.task(name=SWEEP, bind=True)
def sweep_task(_task: Task[[], None]) -> None:
    """Find what fell through; the database decides whether this tick counts."""

    def work(world: World) -> Any:
        return sweep(world) if _due(world, SWEEP, settings.sweep_seconds) else None

    _guarded(work)


@app.task(name=BALANCE, bind=True)
def balance_task(_task: Task[[], None]) -> None:
    """Learn from demand, look after floors and forecasts; the database decides when."""

    def work(world: World) -> Any:
        return balance(world) if _due(world, BALANCE, settings.balance_seconds) else None

    _guarded(work)


@app.task(name=REFRESH, bind=True)
def refresh_task(_task: Task[[], None]) -> None:
    """Look for devices that came, went or changed; the database decides whether it is time."""

    def work(world: World) -> Any:
        return look(world) if _due(world, REFRESH, settings.refresh_seconds) else None

    _guarded(work)


def _due(world: World, name: str, every: float) -> bool:
    with world.database.write() as tx:
        return tx.leases.due(name, world.clock.now(), every * TICK_TOLERANCE)
