"""Program: journal one call to the driver, and send it."""

from __future__ import annotations

from typing import Any

from changeover.models.changeover import Changeover
from changeover.models.errors import AskOperator, Busy, ChangeoverError, Retry, Unreachable
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState
from changeover.worker.carry_out.guards import not_used_otherwise, still_ours, stop_if_cancelled
from changeover.worker.carry_out.job import GiveUp, Job
from changeover.worker.carry_out.outcome import after_unknown, programmed
from changeover.worker.carry_out.quarantine import quarantine
from changeover.worker.carry_out.unfence import give_up
from changeover.worker.world import World

SILENT_FAILURES = 3
"""Times in a row that a driver's service did not answer before the device is given back."""


def program(job: Job) -> Changeover:
    """Send one call to the driver, unless an earlier one may still be at work."""
    if job.changeover.sent_at is not None:
        return after_unknown(job)
    if job.changeover.tries >= job.world.settings.program_tries:
        # Whoever counted the last failure was killed before it could say so.
        return quarantine(job, job.changeover.reason)
    try:
        stop_if_cancelled(job)
        still_ours(job)
        before = not_used_otherwise(job)
    except GiveUp as exc:
        # Tried before and failed: what is on the device now is not what it was.
        if job.changeover.tries:
            return quarantine(job, exc.reason)
        return give_up(job, exc.reason)
    except Unreachable as exc:
        return silent(job, exc)
    tries, failures = job.changeover.tries + 1, job.changeover.failures
    token = f"{job.changeover.id}.{tries}"
    with job.world.database.write() as tx:
        now = job.world.clock.now()
        facts: dict[str, Any] = {
            "tries": tries,
            "token": token,
            "sent_at": now,
            "failures": 0,
            "read_before": before,
        }
        if job.changeover.state is ChangeoverState.PROGRAMMING:
            sent = tx.changeovers.note(job.changeover, now, **facts)
        else:
            sent = tx.changeovers.move(job.changeover, ChangeoverState.PROGRAMMING, now, **facts)
    job = job.at(sent)
    driver = job.world.programmer(job.device)
    try:
        result = driver.program(job.device, job.function, token, lambda: _entitled(job.world, sent))
    except (Retry, AskOperator) as exc:
        with job.world.database.write() as tx:
            unsent = tx.changeovers.note(
                sent, job.world.clock.now(), sent_at=None, tries=tries - 1, failures=failures
            )
        if isinstance(exc, Busy):
            raise
        return silent(job.at(unsent), exc)
    return programmed(job, result)


def silent(job: Job, exc: ChangeoverError) -> Changeover:
    """Nothing was sent, as the driver's service does not answer or lets nobody in."""
    if job.changeover.tries or job.changeover.failures < SILENT_FAILURES:
        raise exc
    return give_up(job, Reason("host.programmer_silent", exc.message))


def _entitled(world: World, sent: Changeover) -> bool:
    """Whether this call is still the one that the database knows of."""
    with world.database.read() as tx:
        now = tx.changeovers.get(sent.id)
    return (
        now is not None
        and (now.state, now.token) == (sent.state, sent.token)
        and now.lease_owner == sent.lease_owner
    )
