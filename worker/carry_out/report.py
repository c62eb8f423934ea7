"""Reports: what a device has that its driver cannot read, but somebody else tells of in time."""

from __future__ import annotations

from changeover.models.changeover import Changeover
from changeover.models.errors import Unreachable
from changeover.models.reasons import Reason
from changeover.worker.carry_out.job import Job
from changeover.worker.ports.programmer import Programmer

SILENT_REPORTS = 10
"""Times ``report_seconds`` that a reporter which does not answer is waited for."""

POLLS = 30
"""How often a report is looked for, at most, in the time within which it comes."""


def between_looks(within: float) -> float:
    """Seconds from one look to the next for what is reported within so many."""
    return within / POLLS


def await_report(job: Job, within: float, until: float) -> Changeover:
    """Look again in a while for what somebody else reports of the device ``within`` seconds."""
    now = job.world.clock.now()
    reason = Reason("program.unreported", f"waiting for a report that {job.device.name} has it")
    due = min(until, now + between_looks(within))
    with job.world.database.write() as tx:
        return tx.changeovers.note(job.changeover, now, due_at=due, reason=reason)


def wait_for_reporter(job: Job, driver: Programmer, since: float) -> None:
    """Raise ``Unreachable`` while who reports of the device may only be away for a time."""
    if job.world.clock.now() < since + SILENT_REPORTS * driver.report_seconds:
        raise Unreachable(f"who reports what {job.device.name} has does not answer")


def is_news(job: Job, driver: Programmer) -> bool:
    """Whether what is read now can only come from the last call.

    A report is as old as it is: what it said before the call already proves nothing.
    """
    return not driver.report_seconds or job.changeover.read_before not in {
        None,
        job.function.name,
    }
