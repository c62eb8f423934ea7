"""Gather: everything that a plan depends on, read before anything is decided.

Capacity is read before demand, so that a race errs towards doing less: a slot that somebody took
in between shows as a boot that failed again, never as a slot counted twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from changeover.models.boot import Boot
from changeover.models.changeover import Changeover
from changeover.models.planning import FunctionView, PlanInputs
from changeover.models.states import BOOT_WANTS
from changeover.models.task import Task
from changeover.worker.capacity import Capacity, read_ledger
from changeover.worker.demand import (
    FLOOR_WEIGHT,
    Judged,
    boot_demands,
    classes_of,
    floor_demands,
    floor_requests,
    judge_class,
    task_demands,
)
from changeover.worker.world import World

BOOTS_AT_ONCE = 20_000
"""Boots judged in one round; the oldest first, so that nobody starves."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything that was read, and the plan's inputs made from it."""

    inputs: PlanInputs
    judged: tuple[Judged, ...]
    tasks: Mapping[str, Task]
    live: Mapping[str, Changeover]
    paused: str | None


def gather(world: World, *, boots: Sequence[Boot] | None = None, floors: bool = False) -> Gathered:
    """Read capacity, then demand.

    ``boots``: judge just these (for an explanation) instead of all that are due. ``floors``: the
    pools' floors are demand too; otherwise their slots only have a value that keeps them.
    """
    now = world.clock.now()
    ledger = read_ledger(world, now)
    capacity = Capacity(world, ledger, now)
    with world.database.read() as tx:
        if boots is None:
            boots = tx.boots.in_states(BOOT_WANTS, wake_before=now, limit=BOOTS_AT_ONCE)
        tasks = {task.id: task for task in tx.tasks.all(queued_only=True)}
    judged = tuple(world.concurrently(lambda same: judge_class(world, same), classes_of(boots)))
    answers = [judgement.now for judgement in judged]
    if floors:
        answers += world.concurrently(world.placement.candidates, floor_requests(world))
    views = capacity.views(answers)
    for_tasks = Counter(c.subject for c in ledger.live.values() if c.subject is not None)
    inputs = PlanInputs(
        now=now,
        seed=world.settings.seed,
        functions=tuple(
            FunctionView(f.name, dict(f.fits), f.seconds, ledger.stopped.get(f.name))
            for f in world.catalog.functions.values()
        ),
        devices=views,
        demands=(
            *boot_demands(world, judged, now),
            *task_demands(world, tasks.values(), for_tasks, views),
            *(floor_demands(world) if floors else ()),
        ),
        budgets=capacity.budgets(views),
        keep={
            name: (FLOOR_WEIGHT,) * pool.min_free
            for name, pool in world.catalog.pools.items()
            if pool.min_free > 0
        },
    )
    return Gathered(inputs, judged, tasks, ledger.live, ledger.paused)
