"""Lost: a changeover of which Placement or the catalog does not have the device any more.

Nobody can finish it. Were it tried again for ever, its boots would wait for it for ever.
"""

from __future__ import annotations

from changeover.models.changeover import Changeover
from changeover.models.errors import NotFound
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState
from changeover.worker.carry_out.job import Job
from changeover.worker.carry_out.quarantine import quarantine
from changeover.worker.carry_out.unfence import give_up


def lost(job: Job) -> Reason | None:
    """Why it can never be finished, if so, once something was not found.

    A provider that is gone stays gone. What the catalog lacks may be put back, or another worker
    may have it already: that is for an operator to decide, by cancelling the changeover.
    """
    if job.changeover.state is ChangeoverState.UNFENCING:
        return None  # it puts back what there is
    for fence in job.fences():
        if not job.world.is_there(fence.provider):
            text = f"Placement has no resource provider {fence.provider} any more"
            return Reason("device.gone", text, {"provider": fence.provider})
    if job.changeover.cancel:
        try:
            _ = job.model, job.function
        except NotFound as exc:
            return Reason("changeover.cancelled", f"cancelled while {exc.message}")
    return None


def end_lost(job: Job, reason: Reason) -> Changeover:
    """Give it up while nothing was sent; after that nobody knows what the device does."""
    return quarantine(job, reason) if job.changeover.tries else give_up(job, reason)
