"""Cancelling: what nobody wants any more is not done, as long as it has not begun."""

from __future__ import annotations

from changeover.models.boot import Boot
from changeover.models.errors import Refuse
from changeover.models.reasons import Reason
from changeover.models.states import BootState, TaskState
from changeover.models.task import Task
from changeover.worker.store import Tx


def cancel_boot(
    tx: Tx, boot: Boot, reason: Reason, now: float, state: BootState = BootState.CANCELLED
) -> Boot:
    """End a boot that is not being created, and the changeovers that only it wanted.

    Raises :class:`~changeover.models.errors.Refuse` if a create may have been sent: the server
    that it makes, now or late, must stay somebody's. Raises
    :class:`~changeover.models.errors.Reread` if a worker is about to create it.
    """
    if boot.state in {BootState.CREATING, BootState.BUILDING}:
        raise Refuse(f"boot {boot.id} is {boot.state}: too late to cancel it", boot=boot.id)
    made_by = {p.changeover for p in tx.boots.promises(boot=boot.id) if p.changeover is not None}
    # In this order as their ends lock, too. Of two that share one, the last must know that it is.
    tx.changeovers.lock(made_by)
    cancelled = tx.boots.move(boot, state, now, reason=reason)
    for changeover_id in sorted(made_by):
        changeover = tx.changeovers.get(changeover_id)
        if changeover is None or changeover.kind != "boot":
            continue
        if not tx.boots.promises(changeover=changeover_id):
            tx.changeovers.ask_cancel(changeover_id)
    return cancelled


def cancel_task(tx: Tx, task: Task, now: float, by: str) -> bool:
    """End a task; its changeovers that are not programming yet are given up."""
    reason = Reason("task.cancelled", f"cancelled by {by}")
    cancelled = tx.tasks.move(task, TaskState.CANCELLED, reason, now, by)
    if cancelled:
        for changeover in tx.changeovers.of_subject(task.id):
            tx.changeovers.ask_cancel(changeover.id)
    return cancelled
