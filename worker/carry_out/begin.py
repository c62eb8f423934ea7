"""Begin a planned changeover, unless somebody objects by now."""

from __future__ import annotations

from changeover.models.changeover import Changeover
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState
from changeover.worker.carry_out.job import Job
from changeover.worker.carry_out.unfence import abandon
from changeover.worker.store import Tx


def begin(job: Job) -> Changeover:
    """Begin, unless there is an objection: nothing was touched, and nothing will be."""
    with job.world.database.read() as tx:
        why_not = objection(tx, job.changeover)
    if why_not is not None:
        return abandon(job, why_not)
    return job.move(ChangeoverState.FENCING)


def objection(tx: Tx, changeover: Changeover) -> Reason | None:
    """Why a planned changeover is not to begin, if so."""
    if changeover.cancel:
        return Reason("changeover.cancelled", "cancelled before it began")
    pause = tx.switches.get("pause")
    if pause is not None and pause.get("on"):
        # Planned by a round that had not seen it.
        return Reason("plan.paused", f"paused by an operator: {pause['why']}")
    return None
