"""Boots: what the end of a changeover means for those that it was for."""

from __future__ import annotations

from changeover.models.changeover import Changeover
from changeover.models.errors import Reread
from changeover.models.reasons import Reason
from changeover.models.states import BootState, ChangeoverState
from changeover.worker.queues import BOOT_QUEUE, JUDGE, PLAN_QUEUE, REBOOT
from changeover.worker.store import Tx


def wake_served(tx: Tx, done: Changeover, now: float) -> None:
    """One changeover is done; a boot is ready when all that it waits for are."""
    for boot_id in sorted({p.boot for p in tx.boots.promises(changeover=done.id)}):
        # Of two changeovers that end at once, the second must see that the first has.
        boot = tx.boots.locked(boot_id)
        if boot is None or boot.state is not BootState.PROMISED:
            continue
        others = [
            tx.changeovers.get(p.changeover)
            for p in tx.boots.promises(boot=boot_id)
            if p.changeover is not None and p.changeover != done.id
        ]
        if all(other is None or other.state is ChangeoverState.DONE for other in others):
            reason = Reason("boot.slots_made", f"{done.to_function} was programmed for it")
            try:
                tx.boots.move(boot, BootState.READY, now, reason=reason, wake_at=now)
            except Reread:
                continue
            tx.hints.add(REBOOT, boot_id, queue=BOOT_QUEUE, now=now)


def disappoint(tx: Tx, changeover: Changeover, now: float) -> None:
    """Its boots wait again and are judged at once: another device may do."""
    reason = Reason(
        "boot.changeover_failed",
        f"the changeover that was meant for it ended: {changeover.reason.text}",
        {"changeover": changeover.id},
    )
    for promise in tx.boots.promises(changeover=changeover.id):
        boot = tx.boots.locked(promise.boot)
        if boot is not None and boot.state is BootState.PROMISED:
            tx.boots.move(boot, BootState.WAITING, now, reason=reason, wake_at=now)
    tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)
