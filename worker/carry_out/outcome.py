"""What came of a call to the driver: programmed, failed, or not known."""

from __future__ import annotations

import structlog

from changeover.models.changeover import Changeover
from changeover.models.errors import Reread
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState
from changeover.policies.backoff import backoff
from changeover.worker.carry_out.job import Job
from changeover.worker.carry_out.quarantine import quarantine
from changeover.worker.carry_out.report import (
    await_report,
    between_looks,
    is_news,
    wait_for_reporter,
)
from changeover.worker.carry_out.retry import FIRST_RETRY
from changeover.worker.ports.programmer import Outcome, ProgramResult

log = structlog.get_logger(__name__)


def programmed(job: Job, result: ProgramResult) -> Changeover:
    """The driver has answered; raises :class:`Reread` if it did not send the call any more."""
    log.info("program.result", outcome=result.outcome, detail=result.detail[:200])
    if result.outcome is Outcome.PROGRAMMED:
        return _to_verifying(job)
    if result.outcome is Outcome.SUPERSEDED:
        raise Reread(f"changeover {job.changeover.id} was taken over before it was sent")
    if result.outcome is Outcome.UNKNOWN:
        return after_unknown(job)
    return _after_failure(job, result.detail)


def _to_verifying(job: Job) -> Changeover:
    """The driver says that the device has it, or the device itself does."""
    with job.world.database.write() as tx:
        now = job.world.clock.now()
        undone = tx.devices.programmed(job.device.provider, job.changeover.id)
        tx.functions.succeeded(job.function.name)
        return tx.changeovers.move(
            job.changeover,
            ChangeoverState.VERIFYING,
            now,
            sent_at=None,
            programmed_at=now,
            undoes=undone or job.changeover.undoes,
        )


def after_unknown(job: Job) -> Changeover:
    """Wait until an earlier call, whose outcome is not known, can no longer be at work.

    It is dead when the device's own lock is free, or when the driver's drain time has passed
    since it was sent. Then the device is read back.
    """
    driver = job.world.programmer(job.device)
    reading = driver.read(job.device)
    sent_at = job.changeover.sent_at or 0.0
    now = job.world.clock.now()
    drained = sent_at + driver.drain_seconds
    # A sender that was paused between journal and call holds no lock yet; but it asks whether
    # it is still entitled once it holds it, and this worker's lease says that it is not.
    if reading.busy is not False and now < drained:
        with job.world.database.write() as tx:
            return tx.changeovers.note(
                job.changeover,
                now,
                due_at=min(drained, now + max(FIRST_RETRY, between_looks(driver.report_seconds))),
                reason=Reason("program.unknown", "an earlier call may still be at work"),
            )
    if reading.busy:
        return quarantine(
            job,
            Reason(
                "program.hangs",
                f"a call sent {now - sent_at:.0f} s ago still holds {job.device.name}",
            ),
        )
    if reading.function == job.function.name and is_news(job, driver):
        return _to_verifying(job)
    if driver.report_seconds and now < drained + driver.report_seconds:
        until = drained + driver.report_seconds
        return await_report(job, driver.report_seconds, until)
    if not reading.readable:
        wait_for_reporter(job, driver, drained)
        return quarantine(
            job,
            Reason(
                "program.unreadable",
                f"nobody knows what {job.device.name} has: the call was not answered and its "
                "driver cannot read it back",
            ),
        )
    # Where others report what the device has, an old report may be no proof of failure; but
    # the call is over, so that another one does no harm.
    return _after_failure(
        job,
        "the call was not answered, and the device lacks it",
        proven=not driver.report_seconds,
    )


def _after_failure(job: Job, detail: str, *, proven: bool = True) -> Changeover:
    """Try again, later, or quarantine. A failure that is ``proven`` counts for the function."""
    world = job.world
    with world.database.write() as tx:
        now = world.clock.now()
        stopped = None
        if proven:
            stopped = tx.functions.failed(
                job.function.name, job.device.provider, world.settings.function_failures, now
            )
        if stopped is not None:
            log.error("function.stopped", function=job.function.name, why=stopped.text)
        job = job.at(tx.changeovers.note(job.changeover, now, sent_at=None))
    reason = Reason(
        "program.failed",
        f"programming {job.device.name} with {job.function.name} failed "
        f"{job.changeover.tries} time(s): {detail[:500] or 'the driver said nothing'}",
    )
    if job.changeover.tries >= world.settings.program_tries or stopped is not None:
        return quarantine(job, reason)
    with world.database.write() as tx:
        wait = backoff(job.changeover.tries, first=1.0, most=30.0, jitter=0.5)
        return tx.changeovers.note(
            job.changeover, world.clock.now(), due_at=now + wait, reason=reason
        )
