"""Celery's queues and tasks by name: one place, so that a producer needs to import no task."""

from __future__ import annotations

JUDGE = "changeover.judge"
"""Plan for everything that waits."""
ADVANCE = "changeover.advance"
"""Take one changeover as far as it goes."""
REBOOT = "changeover.reboot"
"""Create one boot again, or watch its build."""
SWEEP = "changeover.sweep"
"""Find what fell through."""
BALANCE = "changeover.balance"
"""Look after the pools' floors."""
REFRESH = "changeover.refresh"
"""Look for devices that came, went or changed."""
RESERVE = "changeover.reserve"
"""Read the leases, and have devices ready for them."""
DELIVER = "changeover.deliver"
"""Send callbacks to one target."""

PLAN_QUEUE = "changeover.plan"
ADVANCE_QUEUE = "changeover.advance"
BOOT_QUEUE = "changeover.boot"
SWEEP_QUEUE = "changeover.sweep"
CALLBACK_QUEUE = "changeover.callback"

CENTRAL_QUEUES = (PLAN_QUEUE, ADVANCE_QUEUE, BOOT_QUEUE, SWEEP_QUEUE, CALLBACK_QUEUE)


def host_queue(host: str) -> str:
    """The queue of the worker on one compute host."""
    return f"changeover.host.{host}"
