"""The runner: claim a changeover, take it from step to step, and leave it when it has to wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from changeover.models.changeover import Changeover
from changeover.models.errors import (
    AskOperator,
    NotFound,
    OutcomeUnknown,
    Refuse,
    Reread,
    Retry,
    Stale,
)
from changeover.models.states import CHANGEOVER_MOVING, ChangeoverState
from changeover.worker.carry_out.begin import begin, objection
from changeover.worker.carry_out.fence import fence
from changeover.worker.carry_out.guards import as_left
from changeover.worker.carry_out.job import Job, Quarantine
from changeover.worker.carry_out.lost import end_lost, lost
from changeover.worker.carry_out.program import program
from changeover.worker.carry_out.publish import publish
from changeover.worker.carry_out.quarantine import quarantine
from changeover.worker.carry_out.retry import try_again
from changeover.worker.carry_out.settle import settle
from changeover.worker.carry_out.unfence import unfence
from changeover.worker.carry_out.verify import verify
from changeover.worker.queues import ADVANCE, ADVANCE_QUEUE
from changeover.worker.renewed import renewed
from changeover.worker.world import World

log = structlog.get_logger(__name__)

STEPS: Final[dict[ChangeoverState, Callable[[Job], Changeover]]] = {
    ChangeoverState.PLANNED: begin,
    ChangeoverState.FENCING: fence,
    ChangeoverState.SETTLING: settle,
    ChangeoverState.PROGRAMMING: program,
    ChangeoverState.VERIFYING: verify,
    ChangeoverState.PUBLISHING: publish,
    ChangeoverState.UNFENCING: unfence,
}
"""What is to be done in each state; it returns the changeover as that left it."""


class CarryOut:
    """The runner of one process; it keeps nothing between two calls."""

    def __init__(self, world: World) -> None:
        self.world = world

    def advance(self, changeover_id: str, queue: str = ADVANCE_QUEUE) -> ChangeoverState | None:
        """Take a changeover as far as it goes now; ``None`` if it is not due or not free.

        ``queue``: where this worker listens. A step that must run on the device's own host is
        handed over to that host's queue.
        """
        world, seconds = self.world, self.world.settings.lease_seconds
        with world.database.write() as tx:
            changeover = tx.changeovers.claim(
                changeover_id, world.owner, world.clock.now(), seconds
            )
            if changeover is None:
                there = tx.changeovers.get(changeover_id)
                if there is None or there.state not in CHANGEOVER_MOVING:
                    # A hint for what is over would be sent again for ever.
                    tx.hints.take(ADVANCE, changeover_id)
                return None
            tx.hints.take(ADVANCE, changeover_id)
            if changeover.state is ChangeoverState.PLANNED and objection(tx, changeover) is None:
                changeover = tx.changeovers.move(
                    changeover, ChangeoverState.FENCING, world.clock.now()
                )
        with structlog.contextvars.bound_contextvars(
            changeover=changeover.id, device=changeover.device
        ):
            with renewed(
                world,
                seconds,
                lambda tx, t: tx.changeovers.renew(changeover_id, world.owner, t),
                "changeover.renewal_failed",
            ):
                changeover = self._go(changeover, queue)
            return changeover.state

    def _go(self, changeover: Changeover, queue: str) -> Changeover:
        while changeover.state in CHANGEOVER_MOVING:
            try:
                moved = self._step(changeover, queue)
            except Reread as exc:
                # The lease is somebody else's by now: whatever comes next is theirs to do.
                log.info("changeover.lost_lease", why=exc.message)
                return changeover
            if moved is None:
                return changeover
            if moved.state is changeover.state or moved.due_at > self.world.clock.now():
                self._pause(moved, queue)
                return moved
            log.info("changeover.step", state=moved.state)
            changeover = moved
        return changeover

    def _step(self, changeover: Changeover, queue: str) -> Changeover | None:
        """One step, and what its failure means; ``None`` if it is for another queue's workers."""
        world = self.world
        job = Job(world, changeover)
        try:
            here = world.queue_at(changeover.device, changeover.state)
            if here != queue:
                self._hand_over(changeover, here)
                return None
            return STEPS[changeover.state](job)
        except Quarantine as exc:
            return quarantine(job.at(as_left(world, changeover)), exc.reason)
        except (Stale, OutcomeUnknown, Retry, Refuse, AskOperator) as exc:
            job = job.at(as_left(world, changeover))
            reason = lost(job) if isinstance(exc, NotFound) else None
            if reason is not None:
                return end_lost(job, reason)
            return try_again(world, job.changeover, exc, queue)

    def _hand_over(self, changeover: Changeover, queue: str) -> None:
        with self.world.database.write() as tx:
            tx.changeovers.release(changeover.id, self.world.owner)
            tx.hints.add(ADVANCE, changeover.id, queue=queue, now=self.world.clock.now())

    def _pause(self, changeover: Changeover, queue: str) -> None:
        """Nothing to do before ``due_at``: somebody takes it up then."""
        with self.world.database.write() as tx:
            tx.changeovers.release(changeover.id, self.world.owner)
            tx.hints.add(
                ADVANCE,
                changeover.id,
                queue=queue,
                now=self.world.clock.now(),
                due_at=changeover.due_at,
            )
