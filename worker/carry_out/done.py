"""Done: tell whoever the changeover was for, then open the slots that nobody is promised."""

from __future__ import annotations

import structlog

from changeover.models.catalog import Device
from changeover.models.changeover import Changeover
from changeover.models.errors import ChangeoverError
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState, TaskState
from changeover.policies.offer import slots_of
from changeover.worker.carry_out.boots import wake_served
from changeover.worker.carry_out.job import Job
from changeover.worker.holds import open_slots
from changeover.worker.queues import JUDGE, PLAN_QUEUE
from changeover.worker.world import World

log = structlog.get_logger(__name__)


def done(job: Job, generation: int) -> Changeover:
    """Published: the boots that it was for are ready, a task has one device more."""
    world = job.world
    with world.database.write() as tx:
        now = world.clock.now()
        reason = Reason("changeover.done", f"{job.device.name} offers {job.function.name}")
        changeover = tx.changeovers.move(job.changeover, ChangeoverState.DONE, now, reason=reason)
        tx.fences.drop(changeover.id)
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
        tx.boots.hold(changeover.id, now + world.settings.hold_seconds)
        wake_served(tx, changeover, now)
        if changeover.subject is not None:
            task = tx.tasks.get(changeover.subject)
            tx.tasks.count_done(changeover.subject, 1)
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
        served = tx.boots.promises(changeover=changeover.id)
    for device in world.reset_with(job.device):
        if device.provider != job.device.provider or not served:
            _open(world, device)
    return changeover


def _open(world: World, device: Device) -> None:
    """Open what nobody is promised; where that fails now, the sweep comes back to it."""
    try:
        open_slots(world, device)
    except ChangeoverError as exc:
        log.warning("slots.still_held", device=device.name, why=exc.message)
