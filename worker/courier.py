"""The courier: sends hints to Celery's queues, and never stands in anybody's way.

A hint that cannot be sent stays in the outbox, and the sweep sends it again.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from changeover.worker.ports.clock import Clock
from changeover.worker.store import Hint

log = structlog.get_logger(__name__)

SILENCE_SECONDS = 10.0
"""After a failure nothing is tried for so long: each try costs a connection timeout.

The sweep sends what stayed behind.
"""


class Courier:
    """Callable with hints; see :class:`changeover.worker.store.Database`."""

    def __init__(self, app: Celery, clock: Clock) -> None:
        self.app = app
        self.clock = clock
        self.silent_until = 0.0

    def __call__(self, hints: Sequence[Hint]) -> None:
        """Send hints; a broker that does not answer is not an error."""
        now = self.clock.now()
        if now < self.silent_until:
            return
        for hint in hints:
            wait = hint.due_at - now
            try:
                self.app.send_task(
                    hint.task,
                    args=list(hint.args),
                    queue=hint.queue,
                    countdown=wait if wait > 0 else None,
                    ignore_result=True,
                )
            except (OperationalError, OSError) as exc:
                self.silent_until = self.clock.now() + SILENCE_SECONDS
                log.warning("courier.broker_silent", error=type(exc).__name__, unsent=len(hints))
                return
