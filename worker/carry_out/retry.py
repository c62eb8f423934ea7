"""Retry: a step that a remote service did not let through is tried again, later each time."""

from __future__ import annotations

import structlog

from changeover.models.changeover import Changeover
from changeover.models.errors import ChangeoverError
from changeover.models.reasons import Reason
from changeover.policies.backoff import backoff, jitter_of
from changeover.worker.world import World

log = structlog.get_logger(__name__)

FIRST_RETRY = 0.5
MOST_RETRY = 60.0
"""Seconds between tries of a step that a remote service does not let through."""


def try_again(world: World, changeover: Changeover, exc: ChangeoverError, queue: str) -> Changeover:
    """A remote service stands in the way: wait, longer each time, and look again."""
    failures = changeover.failures + 1
    now = world.clock.now()
    wait = backoff(
        failures,
        first=FIRST_RETRY,
        most=MOST_RETRY,
        jitter=jitter_of(f"{changeover.id}.{failures}"),
    )
    log.warning(
        "changeover.step_failed",
        state=changeover.state,
        failures=failures,
        wait=round(wait, 2),
        why=exc.message,
        error=type(exc).__name__,
        queue=queue,
    )
    with world.database.write() as tx:
        reason = Reason("changeover.retrying", exc.message, {"failures": failures})
        return tx.changeovers.note(
            changeover, now, failures=failures, due_at=now + wait, reason=reason
        )
