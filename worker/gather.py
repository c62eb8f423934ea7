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
from changeover.policies.balancing.outlook import Prospect
from changeover.worker.capacity import Capacity, read_ledger
from changeover.worker.demand import (
    Judged,
    boot_demands,
    classes_of,
    floor_demands,
    floors,
    forecast_demands,
    judge_class,
    slot_requests,
    slot_values,
    task_demands,
)
from changeover.worker.history import prospects
from changeover.worker.reserve import lease_demands
from changeover.worker.thrash import forecasts_left
from changeover.worker.world import World

FORECASTS_AT_ONCE = 200
"""Functions whose forecasts are acted on in one round."""

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
    forecasts_left: int = 0
    """Programs for forecasts alone that may be started now."""


def gather(world: World, *, boots: Sequence[Boot] | None = None, balance: bool = False) -> Gathered:
    """Read capacity, then demand.

    ``boots``: judge just these (for an explanation) instead of all that are due. ``balance``: the
    pools' floors and forecasts are demand too; otherwise their slots only have a value that keeps
    them.
    """
    now = world.clock.now()
    ledger = read_ledger(world, now)
    capacity = Capacity(world, ledger, now)
    with world.database.read() as tx:
        if boots is None:
            boots = tx.boots.in_states(BOOT_WANTS, wake_before=now, limit=BOOTS_AT_ONCE)
        tasks = {task.id: task for task in tx.tasks.all(queued_only=True)}
        leases = lease_demands(world, tx, now)
        expected = prospects(world, tx, now) if world.settings.forecast else {}
        left = forecasts_left(world, tx, now) if balance and expected else 0
    wanted = _most_wanted(expected) if left else {}
    classes = classes_of(world, boots)
    counted = capacity.counted
    judged = tuple(world.concurrently(lambda same: judge_class(world, same, counted), classes))
    answers = [judgement.now for judgement in judged]
    if balance:
        shown = dict.fromkeys([*floors(world), *wanted])
        answers += world.concurrently(world.placement.candidates, slot_requests(world, shown))
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
            *leases,
            *(floor_demands(world) if balance else ()),
            *forecast_demands(world, wanted),
        ),
        budgets=capacity.budgets(views),
        keep=slot_values(world, expected),
    )
    return Gathered(inputs, judged, tasks, ledger.live, ledger.paused, left)


def _most_wanted(expected: Mapping[str, Prospect]) -> dict[str, Prospect]:
    """The functions of which most would be lost; each costs a question to Placement."""
    order = sorted(expected, key=lambda name: (-expected[name].lost_a_day, name))
    return {name: expected[name] for name in order[:FORECASTS_AT_ONCE] if expected[name].weights}
