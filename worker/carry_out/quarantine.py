"""Quarantine: keep the device closed until an operator has looked at it."""

from __future__ import annotations

import structlog

from changeover.models.changeover import Changeover
from changeover.models.errors import OutcomeUnknown, Refuse, Retry, Stale
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState
from changeover.worker.carry_out.boots import disappoint
from changeover.worker.carry_out.guards import still_mine
from changeover.worker.carry_out.job import Job
from changeover.worker.holds import close

log = structlog.get_logger(__name__)


def quarantine(job: Job, reason: Reason) -> Changeover:
    """End it with its fences up: whatever somebody else opened is closed again."""
    log.error("changeover.quarantined", why=reason.text, **dict(reason.facts))
    for fence in job.fences():
        try:
            close(job.world, job.world.device(fence.provider), lambda: still_mine(job))
        except (Retry, Refuse, Stale, OutcomeUnknown) as exc:
            # The sweep looks after the fences of all that is quarantined.
            log.warning("fence.not_closed", provider=fence.provider, why=exc.message)
    with job.world.database.write() as tx:
        now = job.world.clock.now()
        quarantined = tx.changeovers.move(
            job.changeover, ChangeoverState.QUARANTINED, now, reason=reason
        )
        disappoint(tx, quarantined, now)
        return quarantined
