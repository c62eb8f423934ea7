"""Carry out a changeover, a step at a time: each idempotent, each committed before the next.

Any worker can take over after any crash: a step trusts only the database, Placement and the
device. Before a device is programmed it is fenced, settled and seen idle; after it was
programmed it is seen idle again before anything is published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import structlog

from changeover.models.catalog import Device, Function, Model
from changeover.models.changeover import Changeover, Fence
from changeover.models.errors import (
    AskOperator,
    Busy,
    ChangeoverError,
    InUse,
    NotFound,
    OutcomeUnknown,
    Refuse,
    Reread,
    Retry,
    Stale,
    Unreachable,
)
from changeover.models.placement import Inventories, ProviderState, Usage
from changeover.models.reasons import Reason
from changeover.models.states import CHANGEOVER_MOVING, BootState, ChangeoverState, TaskState
from changeover.policies.backoff import backoff, jitter_of
from changeover.policies.offer import (
    class_of,
    fenced,
    function_seen,
    is_fenced,
    offered,
    own_classes,
    slots_of,
    traits_with,
)
from changeover.worker.holds import close, open_slots
from changeover.worker.ports.programmer import Outcome, Programmer, ProgramResult
from changeover.worker.queues import ADVANCE, ADVANCE_QUEUE, BOOT_QUEUE, JUDGE, PLAN_QUEUE, REBOOT
from changeover.worker.store import Tx
from changeover.worker.world import World

log = structlog.get_logger(__name__)

FIRST_RETRY = 0.5
MOST_RETRY = 60.0
"""Seconds between tries of a step that a remote service does not let through."""

SILENT_FAILURES = 3
"""Times in a row that a driver's service did not answer before the device is given back."""

CYBORG_REPORTS = 180.0
"""Seconds within which Cyborg publishes a device of its own that another driver programs."""

SILENT_REPORTS = 10
"""Times ``report_seconds`` that a reporter which does not answer is waited for."""

POLLS = 30
"""How often a report is looked for, at most, in the time within which it comes."""

FENCE_TRIES = 5
"""Generation conflicts in a row before the device counts as contended and is left alone."""

_S = ChangeoverState


class GiveUp(ChangeoverError):
    """Put the device back as it was: the changeover lost a race, or is not wanted any more."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text, **dict(reason.facts))
        self.reason = reason


class Quarantine(ChangeoverError):
    """Nobody can say what the device does: it stays fenced until an operator looks."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text, **dict(reason.facts))
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Job:
    """A changeover with what the catalog says of it."""

    changeover: Changeover
    device: Device
    model: Model
    function: Function

    def at(self, changeover: Changeover) -> Job:
        """The same job, with the changeover as it is now."""
        return replace(self, changeover=changeover)


class CarryOut:
    """The steps. One instance a process; it keeps nothing between two calls."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.steps: Mapping[ChangeoverState, Callable[[Job], Changeover]] = {
            _S.PLANNED: self._plan,
            _S.FENCING: self._fence,
            _S.SETTLING: self._settle,
            _S.PROGRAMMING: self._program,
            _S.VERIFYING: self._verify,
            _S.PUBLISHING: self._publish,
            _S.UNFENCING: self._unfence,
        }

    def advance(self, changeover_id: str, queue: str = ADVANCE_QUEUE) -> ChangeoverState | None:
        """Take a changeover as far as it goes now; ``None`` if it is not due or not free.

        ``queue``: where this worker listens. A step that must run on the device's own host is
        handed over to that host's queue.
        """
        world = self.world
        with world.database.write() as tx:
            changeover = tx.changeovers.claim(
                changeover_id, world.owner, world.clock.now(), world.settings.lease_seconds
            )
            if changeover is None:
                there = tx.changeovers.get(changeover_id)
                if there is None or there.state not in CHANGEOVER_MOVING:
                    # A hint for what is over would be sent again for ever.
                    tx.hints.take(ADVANCE, changeover_id)
                return None
            tx.hints.take(ADVANCE, changeover_id)
            if changeover.state is _S.PLANNED and self._objection(tx, changeover) is None:
                changeover = tx.changeovers.move(changeover, _S.FENCING, world.clock.now())
        with structlog.contextvars.bound_contextvars(
            changeover=changeover.id, device=changeover.device
        ):
            with self._lease(changeover_id):
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
        try:
            job = self._job(changeover)
            here = self.world.queue_at(job.device, changeover.state)
            if here != queue:
                self._hand_over(changeover, here)
                return None
            return self.steps[changeover.state](job)
        except Quarantine as exc:
            return self._quarantine(job.at(self._as_left(changeover)), exc.reason)
        except (Stale, OutcomeUnknown, Retry, Refuse, AskOperator) as exc:
            return self._again(self._as_left(changeover), exc, queue)

    def _as_left(self, changeover: Changeover) -> Changeover:
        """The row as the step left it: it may have moved on before it failed.

        Raises :class:`Reread` if another worker has taken over.
        """
        with self.world.database.read() as tx:
            now = tx.changeovers.get(changeover.id)
        if now is None or now.lease_owner != changeover.lease_owner:
            raise Reread(f"changeover {changeover.id} was taken over by another worker")
        return now

    def _job(self, changeover: Changeover) -> Job:
        device = self.world.device(changeover.device)
        function = self.world.function(changeover.to_function)
        return Job(changeover, device, self.world.model(device), function)

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

    def _again(self, changeover: Changeover, exc: ChangeoverError, queue: str) -> Changeover:
        """A remote service stands in the way: wait, longer each time, and look again."""
        failures = changeover.failures + 1
        now = self.world.clock.now()
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
        with self.world.database.write() as tx:
            reason = Reason("changeover.retrying", exc.message, {"failures": failures})
            return tx.changeovers.note(
                changeover, now, failures=failures, due_at=now + wait, reason=reason
            )

    @contextmanager
    def _lease(self, changeover_id: str) -> Iterator[None]:
        """Renew the lease while the steps run, as long as this process lives."""
        seconds = self.world.settings.lease_seconds

        def renew() -> None:
            try:
                with self.world.database.write() as tx:
                    until = self.world.clock.now() + seconds
                    tx.changeovers.renew(changeover_id, self.world.owner, until)
            except Retry as exc:
                log.warning("changeover.renewal_failed", why=exc.message)

        with self.world.clock.every(seconds / 3.0, renew):
            yield

    # -- the steps --------------------------------------------------------------------------

    def _move(
        self, job: Job, state: ChangeoverState, reason: Reason | None = None, **changes: object
    ) -> Changeover:
        with self.world.database.write() as tx:
            return tx.changeovers.move(
                job.changeover, state, self.world.clock.now(), reason=reason, **changes
            )

    def _plan(self, job: Job) -> Changeover:
        """Begin, unless there is an objection: nothing was touched, and nothing will be."""
        with self.world.database.read() as tx:
            objection = self._objection(tx, job.changeover)
        if objection is not None:
            return self._abandon(job, objection)
        return self._move(job, _S.FENCING)

    def _objection(self, tx: Tx, changeover: Changeover) -> Reason | None:
        """Why a planned changeover is not to begin, if so."""
        if changeover.cancel:
            return Reason("changeover.cancelled", "cancelled before it began")
        pause = tx.switches.get("pause")
        if pause is not None and pause.get("on"):
            # Planned by a round that had not seen it.
            return Reason("plan.paused", f"paused by an operator: {pause['why']}")
        return None

    def _fence(self, job: Job) -> Changeover:
        """Journal what each provider offers, then make Placement refuse new allocations."""
        try:
            fences = [self._fence_one(job, fence) for fence in self._fences(job)]
        except GiveUp as exc:
            return self._back(job, exc.reason)
        with self.world.database.write() as tx:
            for fence in fences:
                tx.fences.journal(fence)
                if fence.fenced_at is not None:
                    tx.devices.update(
                        fence.provider, generation=fence.generation, offered_until=fence.fenced_at
                    )
            # A device that was never open to the scheduler has nothing that could still land.
            open_until = max((f.fenced_at for f in fences if f.fenced_at is not None), default=None)
            now = self.world.clock.now()
            if open_until is None:
                return tx.changeovers.move(job.changeover, _S.PROGRAMMING, now)
            due = open_until + self.world.settings.settle_seconds
            reason = Reason("changeover.settling", "fenced; late allocations could still land")
            return tx.changeovers.move(
                job.changeover, _S.SETTLING, now, reason=reason, due_at=max(now, due)
            )

    def _fence_one(self, job: Job, fence: Fence) -> Fence:
        world = self.world
        device = world.device(fence.provider)
        model = world.model(device)
        for _ in range(FENCE_TRIES):
            self._stop_if_cancelled(job)
            if (state := self._fenceable(device)) is None:
                continue
            self._still_mine(job)
            is_closed = is_fenced(state.inventories, model, world.catalog)
            if fence.before is None or not (is_closed or fence.before == state):
                # Also what others wrote since it was journaled first: that is to be put back.
                fence = replace(fence, before=state)
                with world.database.write() as tx:
                    tx.fences.journal(fence)
            if is_closed:
                if fence.fenced_at is not None:
                    return fence
                if not own_classes(model, world.catalog).intersection(state.inventories):
                    return self._found_closed(fence, state)
                # Closed by its reserved slots, which somebody may be about to open: the write
                # below makes a new generation, and whoever decided on the old one finds out.
            closed = fenced(state.inventories, model, world.catalog, device.owner)
            try:
                generation = world.placement.put_inventories(
                    fence.provider, state.generation, closed
                )
            except Stale:
                continue
            except InUse as exc:
                self._usage_while_idle(fence.provider)
                raise GiveUp(
                    Reason("device.taken", f"{device.name} was taken before it could be fenced")
                ) from exc
            return self._fenced_now(fence, generation)
        raise GiveUp(
            Reason("device.contended", f"{device.name} changes faster than it can be fenced")
        )

    def _fenceable(self, device: Device) -> ProviderState | None:
        """What an idle device offers; ``None`` if it changed while it was read."""
        if device.owner == "changeover":
            # Its fence takes the classes away, which Placement refuses, in the same breath, where
            # they are in use.
            return self.world.placement.state(device.provider)
        state, usage = self._look(device.provider)
        if not usage.idle:
            raise GiveUp(_used(device, usage))
        return state if state.generation == usage.generation else None

    def _found_closed(self, fence: Fence, state: ProviderState) -> Fence:
        """It offers nothing already: it needs no fence, and no settling if that is known for long.

        Known is what was read or written at this very generation. Whatever changed it since may
        have closed it a moment ago, with allocations still to land.
        """
        with self.world.database.read() as tx:
            record = tx.devices.get(fence.provider)
        since = self.world.clock.now() - self.world.settings.settle_seconds
        if (
            record is not None
            and record.read_at is not None
            and record.generation == state.generation
            and (record.offered_until is None or record.offered_until <= since)
        ):
            return fence
        # Closed since it was journaled, by a write of ours that nobody lived to note or by
        # somebody else's: what that write left is read again where it matters.
        return self._fenced_now(fence, state.generation if fence.before == state else None)

    def _fenced_now(self, fence: Fence, generation: int | None) -> Fence:
        """Closed from now on. Were this lost before the commit, it would be closed once more."""
        log.info("fence.up", provider=fence.provider, generation=generation)
        return replace(fence, generation=generation, fenced_at=self.world.clock.now())

    def _settle(self, job: Job) -> Changeover:
        """Once the settle time is over, have the artifact at hand, look who came, and program."""
        try:
            self._stop_if_cancelled(job)
        except GiveUp as exc:
            return self._back(job, exc.reason)
        try:
            self.world.programmer(job.device).stage(job.device, job.function)
        except (Refuse, AskOperator) as exc:
            return self._unfit(job, exc)
        except Unreachable as exc:
            return self._silent(job, exc)
        if self.world.queue_at(job.device, _S.PROGRAMMING) != ADVANCE_QUEUE:
            return self._move(job, _S.PROGRAMMING)
        return self._program(job)

    def _unfit(self, job: Job, exc: Refuse | AskOperator) -> Changeover:
        """Artifact or device is not what the catalog describes: trying again changes nothing."""
        code = "artifact.refused" if isinstance(exc, Refuse) else "device.misdescribed"
        reason, now = Reason(code, exc.message), self.world.clock.now()
        with self.world.database.write() as tx:
            if isinstance(exc, Refuse):
                log.error("function.stopped", function=job.function.name, why=exc.message)
                tx.functions.stop(job.function.name, exc.message, now)
            if job.changeover.subject is not None:
                tx.tasks.fail(job.changeover.subject, reason, now)
        return self._back(job, reason)

    def _program(self, job: Job) -> Changeover:
        """Send one call to the driver, unless an earlier one may still be at work."""
        if job.changeover.sent_at is not None:
            return self._after_unknown(job)
        if job.changeover.tries >= self.world.settings.program_tries:
            # Whoever counted the last failure was killed before it could say so.
            return self._quarantine(job, job.changeover.reason)
        try:
            self._stop_if_cancelled(job)
            self._still_ours(job)
            before = self._not_used_otherwise(job)
        except GiveUp as exc:
            # Tried before and failed: what is on the device now is not what it was.
            if job.changeover.tries:
                return self._quarantine(job, exc.reason)
            return self._back(job, exc.reason)
        except Unreachable as exc:
            return self._silent(job, exc)
        tries, failures = job.changeover.tries + 1, job.changeover.failures
        token = f"{job.changeover.id}.{tries}"
        with self.world.database.write() as tx:
            now = self.world.clock.now()
            facts: dict[str, Any] = {
                "tries": tries,
                "token": token,
                "sent_at": now,
                "failures": 0,
                "read_before": before,
            }
            if job.changeover.state is _S.PROGRAMMING:
                sent = tx.changeovers.note(job.changeover, now, **facts)
            else:
                sent = tx.changeovers.move(job.changeover, _S.PROGRAMMING, now, **facts)
        job = job.at(sent)
        driver = self.world.programmer(job.device)
        try:
            result = driver.program(job.device, job.function, token, lambda: self._entitled(sent))
        except (Retry, AskOperator) as exc:
            with self.world.database.write() as tx:
                unsent = tx.changeovers.note(
                    sent, self.world.clock.now(), sent_at=None, tries=tries - 1
                )
            if isinstance(exc, Busy):
                raise
            return self._silent(job.at(replace(unsent, failures=failures)), exc)
        return self._programmed(job, result)

    def _silent(self, job: Job, exc: ChangeoverError) -> Changeover:
        """Nothing was sent, as the driver's service does not answer or lets nobody in."""
        if job.changeover.tries or job.changeover.failures < SILENT_FAILURES:
            raise exc
        return self._back(job, Reason("host.programmer_silent", exc.message))

    def _entitled(self, sent: Changeover) -> bool:
        """Whether this call is still the one that the database knows of."""
        with self.world.database.read() as tx:
            now = tx.changeovers.get(sent.id)
        return (
            now is not None
            and (now.state, now.token) == (sent.state, sent.token)
            and now.lease_owner == sent.lease_owner
        )

    def _programmed(self, job: Job, result: ProgramResult) -> Changeover:
        log.info("program.result", outcome=result.outcome, detail=result.detail[:200])
        if result.outcome is Outcome.PROGRAMMED:
            return self._to_verifying(job)
        if result.outcome is Outcome.SUPERSEDED:
            raise Reread(f"changeover {job.changeover.id} was taken over before it was sent")
        if result.outcome is Outcome.UNKNOWN:
            return self._after_unknown(job)
        return self._after_failure(job, result.detail)

    def _to_verifying(self, job: Job) -> Changeover:
        with self.world.database.write() as tx:
            now = self.world.clock.now()
            undone = tx.devices.programmed(job.device.provider, job.changeover.id)
            tx.functions.succeeded(job.function.name)
            return tx.changeovers.move(
                job.changeover,
                _S.VERIFYING,
                now,
                sent_at=None,
                programmed_at=now,
                undoes=undone or job.changeover.undoes,
            )

    def _after_unknown(self, job: Job) -> Changeover:
        """Wait until an earlier call, whose outcome is not known, can no longer be at work.

        It is dead when the device's own lock is free, or when the driver's drain time has passed
        since it was sent. Then the device is read back.
        """
        driver = self.world.programmer(job.device)
        reading = driver.read(job.device)
        sent_at = job.changeover.sent_at or 0.0
        now = self.world.clock.now()
        drained = sent_at + driver.drain_seconds
        # A sender that was paused between journal and call holds no lock yet; but it asks whether
        # it is still entitled once it holds it, and this worker's lease says that it is not.
        if reading.busy is not False and now < drained:
            with self.world.database.write() as tx:
                return tx.changeovers.note(
                    job.changeover,
                    now,
                    due_at=min(drained, now + max(FIRST_RETRY, driver.report_seconds / POLLS)),
                    reason=Reason("program.unknown", "an earlier call may still be at work"),
                )
        if reading.busy:
            return self._quarantine(
                job,
                Reason(
                    "program.hangs",
                    f"a call sent {now - sent_at:.0f} s ago still holds {job.device.name}",
                ),
            )
        if reading.function == job.function.name and self._is_news(driver, job):
            return self._to_verifying(job)
        if driver.report_seconds and now < drained + driver.report_seconds:
            until = drained + driver.report_seconds
            return self._await_report(job, driver.report_seconds, until)
        if not reading.readable:
            self._wait_for_reporter(driver, job, drained)
            return self._quarantine(
                job,
                Reason(
                    "program.unreadable",
                    f"nobody knows what {job.device.name} has: the call was not answered and its "
                    "driver cannot read it back",
                ),
            )
        # Where others report what the device has, an old report may be no proof of failure; but
        # the call is over, so that another one does no harm.
        return self._after_failure(
            job,
            "the call was not answered, and the device lacks it",
            proven=not driver.report_seconds,
        )

    def _wait_for_reporter(self, driver: Programmer, job: Job, since: float) -> None:
        """Raise ``Unreachable`` while who reports of the device may only be away for a time."""
        if self.world.clock.now() < since + SILENT_REPORTS * driver.report_seconds:
            raise Unreachable(f"who reports what {job.device.name} has does not answer")

    def _is_news(self, driver: Programmer, job: Job) -> bool:
        """Whether what is read now can only come from the last call.

        A report is as old as it is: what it said before the call already proves nothing.
        """
        return not driver.report_seconds or job.changeover.read_before not in {
            None,
            job.function.name,
        }

    def _await_report(self, job: Job, within: float, until: float) -> Changeover:
        """Look again in a while for what somebody else reports of the device ``within`` seconds."""
        now = self.world.clock.now()
        reason = Reason("program.unreported", f"waiting for a report that {job.device.name} has it")
        due = min(until, now + within / POLLS)
        with self.world.database.write() as tx:
            return tx.changeovers.note(job.changeover, now, due_at=due, reason=reason)

    def _after_failure(self, job: Job, detail: str, *, proven: bool = True) -> Changeover:
        """Try again, later, or quarantine. A failure that is ``proven`` counts for the function."""
        world = self.world
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
            return self._quarantine(job, reason)
        with world.database.write() as tx:
            wait = backoff(job.changeover.tries, first=1.0, most=30.0, jitter=0.5)
            return tx.changeovers.note(
                job.changeover, world.clock.now(), due_at=now + wait, reason=reason
            )

    def _verify(self, job: Job) -> Changeover:
        """Read the device back; its allocations are read by the next step, before any write."""
        driver = self.world.programmer(job.device)
        reading = driver.read(job.device)
        if reading.busy:
            raise Busy(f"a call is still at work on {job.device.name}", device=job.device.name)
        if driver.report_seconds:
            reported = reading.function == job.function.name and self._is_news(driver, job)
            until = (job.changeover.programmed_at or 0.0) + driver.report_seconds
            if not reported and self.world.clock.now() < until:
                self._keep_closed(job)
                return self._await_report(job, driver.report_seconds, until)
            if not reading.readable:
                self._keep_closed(job)
                self._wait_for_reporter(driver, job, until)
                raise Quarantine(
                    Reason("program.unreadable", f"nobody reports what {job.device.name} has")
                )
        if reading.readable and reading.function is not None:
            if reading.function != job.function.name:
                return self._quarantine(
                    job,
                    Reason(
                        "program.wrong_function",
                        f"{job.device.name} has {reading.function or 'nothing'} "
                        f"instead of {job.function.name}",
                    ),
                )
            if reading.users:
                return self._quarantine(
                    job,
                    Reason(
                        "device.used_behind_fence",
                        f"{job.device.name} is used by {', '.join(reading.users)}, as its driver "
                        "sees it",
                    ),
                )
        return self._move(job, _S.PUBLISHING)

    def _publish(self, job: Job) -> Changeover:
        """Traits, then inventory with every slot reserved. Slots are opened once it is DONE.

        Nothing is open before DONE is committed, so that after a crash an allocation seen here
        can only be one that was admitted behind the fence.
        """
        world = self.world
        state = self._closed_and_idle(job)
        for other in self._fences(job):
            if other.provider != job.device.provider:
                self._empty_sibling(job, world.device(other.provider))
        traits = traits_with(state.traits, job.function, job.model, world.catalog)
        generation = state.generation
        if job.device.owner == "cyborg":
            waiting = self._reported(job, state, traits)
            if waiting is not None:
                return waiting
        if traits != state.traits:
            generation = self._put_traits(state, generation, traits)
        slots = slots_of(job.function, job.model)
        inventories = offered(
            state.inventories, job.function, job.model, world.catalog, reserved=slots
        )
        generation = self._put_inventories(state.uuid, generation, inventories)
        self._seen_idle(job)
        return self._done(job, generation)

    def _keep_closed(self, job: Job) -> None:
        """Close again what somebody else opened behind the fence."""
        world = self.world
        for fence in self._fences(job):
            if close(world, world.device(fence.provider), lambda: self._still_mine(job)):
                log.error("fence.was_lifted", provider=fence.provider)

    def _reported(
        self, job: Job, state: ProviderState, traits: frozenset[str]
    ) -> Changeover | None:
        """Cyborg publishes its devices itself: wait until it has, and check what.

        Its driver has reported the function by now (that was verified), and Placement is told in
        the same breath. Where that failed Cyborg never says it again: then it is for us to say.
        """
        rc, slots = class_of(job.function, job.model), slots_of(job.function, job.model)
        there = state.inventories.get(rc)
        if there is None or there.total != slots:
            raise Quarantine(
                Reason(
                    "cyborg.count_changed",
                    f"Cyborg offers {0 if there is None else there.total} x {rc} on "
                    f"{job.device.name}, not {slots} as the catalog says",
                )
            )
        driver = self.world.programmer(job.device)
        seconds = driver.report_seconds or CYBORG_REPORTS
        until = (job.changeover.programmed_at or 0.0) + seconds
        if traits == state.traits:
            return None
        if self.world.clock.now() < until:
            return self._await_report(job, seconds, until)
        log.warning("cyborg.did_not_publish", device=job.device.name, traits=sorted(traits))
        return None

    def _closed_and_idle(self, job: Job) -> ProviderState:
        """The device's state, with everything that its programming resets closed and idle."""
        world = self.world
        states: dict[str, ProviderState] = {}
        usages: list[Usage] = []
        for fence in self._fences(job):
            state, usage = self._look_behind(fence)
            states[fence.provider] = state
            usages.append(usage)
        self._still_mine(job)
        opened = False
        for provider, state in states.items():
            if not is_fenced(state.inventories, world.model(world.device(provider)), world.catalog):
                log.error("fence.was_lifted", provider=provider)
                close(world, world.device(provider), lambda: self._still_mine(job))
                opened = True
        if opened:
            # Whoever took it while it was open counts on what it was.
            raise Stale(f"{job.device.name} was opened behind its fence, and closed again")
        self._seen_idle(job, usages)
        return states[job.device.provider]

    def _look_behind(self, fence: Fence) -> tuple[ProviderState, Usage]:
        """What a fenced provider offers and who uses it.

        At the generation that the fence made it is what the fence left: every write to a provider
        moves its generation by one.
        """
        device = self.world.device(fence.provider)
        before = fence.before
        if before is None or fence.generation != before.generation + 1:
            return self._look(fence.provider)
        usage = self.world.placement.usage(fence.provider)
        if usage.generation != fence.generation:
            return self.world.placement.state(fence.provider), usage
        closed = fenced(
            before.inventories, self.world.model(device), self.world.catalog, device.owner
        )
        return replace(before, generation=usage.generation, inventories=closed), usage

    def _put_traits(self, state: ProviderState, generation: int, traits: frozenset[str]) -> int:
        """Replace the traits; only where Placement does not know them all are they made first."""
        put = self.world.placement.put_traits
        try:
            return put(state.uuid, generation, traits)
        except NotFound:
            self.world.placement.ensure_traits(traits - state.traits)
            return put(state.uuid, generation, traits)

    def _put_inventories(self, provider: str, generation: int, inventories: Inventories) -> int:
        """Replace the inventories; a class that Placement does not know is made first."""
        put = self.world.placement.put_inventories
        try:
            return put(provider, generation, inventories)
        except NotFound:
            self.world.placement.ensure_resource_classes(inventories)
            return put(provider, generation, inventories)

    def _empty_sibling(self, job: Job, device: Device) -> None:
        """What shared the card was reset with it: it has no function any more.

        It stays closed until the changeover is done: whoever took it before then would look like
        a late allocation.
        """
        world = self.world
        model = world.model(device)
        state = world.placement.state(device.provider)
        self._still_mine(job)
        traits = traits_with(state.traits, None, model, world.catalog)
        generation = state.generation
        if traits != state.traits:
            generation = world.placement.put_traits(device.provider, generation, traits)
        slots = slots_of(None, model)
        inventories = offered(state.inventories, None, model, world.catalog, reserved=slots)
        if dict(inventories) != dict(state.inventories):
            generation = world.placement.put_inventories(device.provider, generation, inventories)
        with world.database.write() as tx:
            tx.devices.update(
                device.provider,
                function=None,
                slots=slots,
                used=0,
                reserved=slots,
                generation=generation,
            )

    def _done(self, job: Job, generation: int) -> Changeover:
        """Published: the boots that it was for are ready, a task has one device more."""
        world = self.world
        with world.database.write() as tx:
            now = world.clock.now()
            reason = Reason("changeover.done", f"{job.device.name} offers {job.function.name}")
            done = tx.changeovers.move(job.changeover, _S.DONE, now, reason=reason)
            tx.fences.drop(done.id)
            tx.devices.update(
                job.device.provider,
                function=job.function.name,
                slots=slots_of(job.function, job.model),
                used=0,
                generation=generation,
                read_at=now,
                changed_at=now,
                offered_until=now,
                reserved=slots_of(job.function, job.model),
            )
            tx.boots.hold(done.id, now + world.settings.hold_seconds)
            self._wake_served(tx, done, now)
            if done.subject is not None:
                task = tx.tasks.get(done.subject)
                tx.tasks.count_done(done.subject, 1)
                if task is not None and task.state is TaskState.QUEUED:
                    tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)
                    if task.done + 1 >= task.count:
                        tx.tasks.move(
                            task,
                            TaskState.DONE,
                            Reason("task.done", f"{task.count} device(s) offer {task.function}"),
                            now,
                            "worker",
                        )
            if tx.boots.wake(now):
                tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)
            served = tx.boots.promises(changeover=done.id)
        for device in world.reset_with(job.device):
            if device.provider != job.device.provider or not served:
                self._open(device)
        return done

    def _open(self, device: Device) -> None:
        """Open what nobody is promised; where that fails now, the sweep comes back to it."""
        try:
            open_slots(self.world, device)
        except ChangeoverError as exc:
            log.warning("slots.still_held", device=device.name, why=exc.message)

    def _wake_served(self, tx: Tx, done: Changeover, now: float) -> None:
        """A boot is ready when every changeover that it waits for is done."""
        for boot_id in sorted({p.boot for p in tx.boots.promises(changeover=done.id)}):
            boot = tx.boots.get(boot_id)
            if boot is None or boot.state is not BootState.PROMISED:
                continue
            others = [
                tx.changeovers.get(p.changeover)
                for p in tx.boots.promises(boot=boot_id)
                if p.changeover is not None and p.changeover != done.id
            ]
            if all(other is None or other.state is _S.DONE for other in others):
                reason = Reason("boot.slots_made", f"{done.to_function} was programmed for it")
                try:
                    tx.boots.move(boot, BootState.READY, now, reason=reason, wake_at=now)
                except Reread:
                    continue
                tx.hints.add(REBOOT, boot_id, queue=BOOT_QUEUE, now=now)

    # -- ways out ---------------------------------------------------------------------------

    def _back(self, job: Job, reason: Reason) -> Changeover:
        """Give up before programming: put back what was fenced."""
        log.info("changeover.gives_up", why=reason.text)
        if any(fence.before is not None for fence in self._fences(job)):
            return self._move(job, _S.UNFENCING, reason)
        return self._abandon(job, reason)

    def _unfence(self, job: Job) -> Changeover:
        """Put back what the journal holds, unless it is there already."""
        world = self.world
        for fence in self._fences(job):
            if fence.before is None:
                continue
            device = world.device(fence.provider)
            state = world.placement.state(fence.provider)
            self._still_mine(job)
            function = function_seen(
                fence.before.inventories,
                fence.before.traits,
                world.model(device),
                world.catalog,
            )
            # Only what the fence took away: what others wrote meanwhile is theirs.
            own = {
                rc: inv
                for rc, inv in fence.before.inventories.items()
                if inv.capacity > 0
                and (rc not in state.inventories or state.inventories[rc].capacity <= 0)
            }
            # Written even if nothing is missing: the write of a worker that was paused before it
            # fenced is void from here on. It would close the device with no row to say why.
            generation = world.placement.put_inventories(
                fence.provider, state.generation, {**state.inventories, **own}
            )
            facts: dict[str, object] = {"generation": generation}
            if own:
                facts["function"] = None if function is None else function.name
                facts["offered_until"] = world.clock.now()
            with world.database.write() as tx:
                tx.devices.update(fence.provider, **facts)
        return self._abandon(job, job.changeover.reason)

    def _abandon(self, job: Job, reason: Reason) -> Changeover:
        with self.world.database.write() as tx:
            now = self.world.clock.now()
            abandoned = tx.changeovers.move(job.changeover, _S.ABANDONED, now, reason=reason)
            tx.fences.drop(abandoned.id)
            self._disappoint(tx, abandoned, now)
            return abandoned

    def _quarantine(self, job: Job, reason: Reason) -> Changeover:
        log.error("changeover.quarantined", why=reason.text, **dict(reason.facts))
        for fence in self._fences(job):
            try:
                close(self.world, self.world.device(fence.provider), lambda: self._still_mine(job))
            except (Retry, Refuse, Stale, OutcomeUnknown) as exc:
                # The sweep looks after the fences of all that is quarantined.
                log.warning("fence.not_closed", provider=fence.provider, why=exc.message)
        with self.world.database.write() as tx:
            now = self.world.clock.now()
            quarantined = tx.changeovers.move(job.changeover, _S.QUARANTINED, now, reason=reason)
            self._disappoint(tx, quarantined, now)
            return quarantined

    def _disappoint(self, tx: Tx, changeover: Changeover, now: float) -> None:
        """Its boots wait again and are judged at once: another device may do."""
        reason = Reason(
            "boot.changeover_failed",
            f"the changeover that was meant for it ended: {changeover.reason.text}",
            {"changeover": changeover.id},
        )
        for promise in tx.boots.promises(changeover=changeover.id):
            boot = tx.boots.get(promise.boot)
            if boot is not None and boot.state is BootState.PROMISED:
                tx.boots.move(boot, BootState.WAITING, now, reason=reason, wake_at=now)
        tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)

    # -- checks -----------------------------------------------------------------------------

    def _fences(self, job: Job) -> list[Fence]:
        with self.world.database.read() as tx:
            return tx.fences.of(job.changeover.id)

    def _still_mine(self, job: Job) -> None:
        """Raise :class:`Reread` if another worker has taken over. Ask after reading Placement.

        What is written then carries a generation from before the takeover: whoever took over has
        written since, or makes this write's generation its own reading. Asked before reading, a
        worker that was paused in between would write over what the other has published.
        """
        if self._as_left(job.changeover).state is not job.changeover.state:
            raise Reread(f"changeover {job.changeover.id} was taken over by another worker")

    def _stop_if_cancelled(self, job: Job) -> None:
        with self.world.database.read() as tx:
            now = tx.changeovers.get(job.changeover.id)
        if now is not None and now.cancel:
            raise GiveUp(
                Reason("changeover.cancelled", "an operator, or its purpose, cancelled it")
            )

    def _usage_while_idle(self, provider: str) -> Usage:
        usage = self.world.placement.usage(provider)
        if not usage.idle:
            raise GiveUp(_used(self.world.device(provider), usage))
        return usage

    def _still_ours(self, job: Job) -> None:
        """Every provider is closed and idle, read in that order: what lands later is refused.

        Each write of an inventory moves the generation, and Placement reads the generation before
        the allocations: where it is the fence's own, one answer says both.
        """
        world = self.world
        for fence in self._fences(job):
            device = world.device(fence.provider)
            usage = self._usage_while_idle(fence.provider)
            if usage.generation == fence.generation:
                continue
            state = world.placement.state(fence.provider)
            if not is_fenced(state.inventories, world.model(device), world.catalog):
                raise GiveUp(
                    Reason(
                        "fence.lifted",
                        f"somebody else opened {device.name} again: its inventory was rewritten",
                    )
                )
            self._usage_while_idle(fence.provider)

    def _look(self, provider: str) -> tuple[ProviderState, Usage]:
        """What a provider offers and who uses it, read side by side; generations may differ."""
        reads: list[Callable[[str], ProviderState | Usage]] = [
            self.world.placement.state,
            self.world.placement.usage,
        ]
        state, usage = self.world.concurrently(lambda read: read(provider), reads)
        return cast("ProviderState", state), cast("Usage", usage)

    def _not_used_otherwise(self, job: Job) -> str | None:
        """Refuse what Placement does not know of: use that the driver sees, a host that is down.

        Returns the function that the device has, as far as its driver can say.
        """
        world = self.world
        if world.servers.host_up(job.device.host) is False:
            raise GiveUp(
                Reason(
                    "host.down",
                    f"the compute service of {job.device.host} is down: guests whose allocations "
                    "were dropped by a local delete may still run there",
                )
            )
        before: str | None = None
        fenced = {fence.provider for fence in self._fences(job)}
        for device in world.reset_with(job.device):
            if device.provider not in fenced:
                raise GiveUp(
                    Reason(
                        "device.card_grew",
                        f"{device.name} was found on the same card after the fences were put up",
                    )
                )
            driver = world.programmer(device)
            reading = driver.read(device)
            if driver.report_seconds and not reading.readable:
                raise Unreachable(f"nobody can say what {device.name} has, and who uses it")
            if device.provider == job.device.provider:
                before = reading.function
            if reading.users:
                raise GiveUp(
                    Reason(
                        "device.used_by_driver",
                        f"{device.name} is used by {', '.join(reading.users)}, as its driver sees "
                        "it, although Placement shows no allocation",
                    )
                )
        return before

    def _seen_idle(self, job: Job, seen: Sequence[Usage] | None = None) -> None:
        """After programming: an allocation now was admitted behind the fence."""
        usages = seen or [self.world.placement.usage(f.provider) for f in self._fences(job)]
        for usage in usages:
            if not usage.idle:
                raise Quarantine(_used(self.world.device(usage.uuid), usage))


def _used(device: Device, usage: Usage) -> Reason:
    consumers = sorted(usage.by_consumer)
    return Reason(
        "device.in_use",
        f"{device.name} is allocated to {', '.join(consumers)}",
        {"consumers": consumers},
    )
