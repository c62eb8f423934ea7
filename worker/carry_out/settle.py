"""Settle: allocations that were admitted before the fence may still land; stage meanwhile."""

from __future__ import annotations

import structlog

from changeover.models.changeover import Changeover
from changeover.models.errors import AskOperator, Refuse, Unreachable
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState
from changeover.worker.carry_out.fence import settled_at
from changeover.worker.carry_out.guards import stop_if_cancelled
from changeover.worker.carry_out.job import GiveUp, Job
from changeover.worker.carry_out.program import program, silent
from changeover.worker.carry_out.unfence import give_up
from changeover.worker.queues import ADVANCE_QUEUE

log = structlog.get_logger(__name__)


def settle(job: Job) -> Changeover:
    """Once the settle time is over, have the artifact at hand, look who came, and program.

    The time is that of the journal: ``due_at`` is also when a failed step is tried again.
    """
    try:
        stop_if_cancelled(job)
    except GiveUp as exc:
        return give_up(job, exc.reason)
    due, now = settled_at(job.world, job.fences()), job.world.clock.now()
    if due is not None and now < due:
        with job.world.database.write() as tx:
            return tx.changeovers.note(job.changeover, now, due_at=due)
    try:
        job.world.programmer(job.device).stage(job.device, job.function)
    except (Refuse, AskOperator) as exc:
        return _unfit(job, exc)
    except Unreachable as exc:
        return silent(job, exc)
    if job.world.queue_at(job.changeover.device, ChangeoverState.PROGRAMMING) != ADVANCE_QUEUE:
        return job.move(ChangeoverState.PROGRAMMING)
    return program(job)


def _unfit(job: Job, exc: Refuse | AskOperator) -> Changeover:
    """Artifact or device is not what the catalog describes: trying again changes nothing."""
    code = "artifact.refused" if isinstance(exc, Refuse) else "device.misdescribed"
    reason, now = Reason(code, exc.message), job.world.clock.now()
    with job.world.database.write() as tx:
        if isinstance(exc, Refuse):
            log.error("function.stopped", function=job.function.name, why=exc.message)
            tx.functions.stop(job.function.name, exc.message, now)
        if job.changeover.subject is not None:
            tx.tasks.fail(job.changeover.subject, reason, now)
    return give_up(job, reason)
