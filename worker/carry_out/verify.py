"""Verify: read the device back."""

from __future__ import annotations

import structlog

from changeover.models.changeover import Changeover
from changeover.models.errors import Busy
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState
from changeover.worker.carry_out.guards import still_mine
from changeover.worker.carry_out.job import Job, Quarantine
from changeover.worker.carry_out.quarantine import quarantine
from changeover.worker.carry_out.report import await_report, is_news, wait_for_reporter
from changeover.worker.holds import close

log = structlog.get_logger(__name__)


def verify(job: Job) -> Changeover:
    """Read the device back; its allocations are read by the next step, before any write."""
    driver = job.world.programmer(job.device)
    reading = driver.read(job.device)
    if reading.busy:
        raise Busy(f"a call is still at work on {job.device.name}", device=job.device.name)
    if driver.report_seconds:
        reported = reading.function == job.function.name and is_news(job, driver)
        until = (job.changeover.programmed_at or 0.0) + driver.report_seconds
        if not reported and job.world.clock.now() < until:
            _keep_closed(job)
            return await_report(job, driver.report_seconds, until)
        if not reading.readable:
            _keep_closed(job)
            wait_for_reporter(job, driver, until)
            raise Quarantine(
                Reason("program.unreadable", f"nobody reports what {job.device.name} has")
            )
    if reading.readable and reading.function is not None:
        if reading.function != job.function.name:
            return quarantine(
                job,
                Reason(
                    "program.wrong_function",
                    f"{job.device.name} has {reading.function or 'nothing'} "
                    f"instead of {job.function.name}",
                ),
            )
        if reading.users:
            return quarantine(
                job,
                Reason(
                    "device.used_behind_fence",
                    f"{job.device.name} is used by {', '.join(reading.users)}, as its driver "
                    "sees it",
                ),
            )
    return job.move(ChangeoverState.PUBLISHING)


def _keep_closed(job: Job) -> None:
    """Close again what somebody else opened behind the fence."""
    world = job.world
    for fence in job.fences():
        if close(world, world.device(fence.provider), lambda: still_mine(job)):
            log.error("fence.was_lifted", provider=fence.provider)
