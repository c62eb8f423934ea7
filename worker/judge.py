"""Judge: one planning round after the other, as long as there is demand that nobody judged.

Only one process plans at a time (a lease in the database). What arrives meanwhile is planned
together in the next round: no fixed batch window, and no plan made on half of what is known.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

import structlog

from changeover.models.boot import Boot, BootPromise
from changeover.models.changeover import Changeover
from changeover.models.diagnosis import Diagnosis
from changeover.models.errors import Busy, Reread
from changeover.models.planning import Intent, Plan, Promise
from changeover.models.reasons import Reason
from changeover.models.states import (
    CHANGEOVER_MOVING,
    BootState,
    ChangeoverState,
    PlanState,
    TaskState,
)
from changeover.policies.choose import choose
from changeover.worker.absorb import absorb
from changeover.worker.complete import complete
from changeover.worker.demand import Judged
from changeover.worker.diagnose import diagnoses
from changeover.worker.gather import Gathered, gather
from changeover.worker.history import learn
from changeover.worker.plan_json import inputs_as_json, plan_as_json
from changeover.worker.queues import ADVANCE, ADVANCE_QUEUE, BOOT_QUEUE, JUDGE, REBOOT
from changeover.worker.renewed import renewed
from changeover.worker.reserve import answer_leases
from changeover.worker.store import Tx
from changeover.worker.world import World

log = structlog.get_logger(__name__)

_Change = tuple[str, str]
"""A device's provider and the function that it is to get."""

_Wait = tuple[Reason, float]
"""Why a boot goes on waiting, and when it is looked at again."""

LEASE = "planner"
REFUSAL_SECONDS = 900.0
"""A plan that a person refused is not recommended again for so long."""

MAX_ROUNDS = 100
"""Rounds in one call; the next hint goes on where this one stopped."""


def judge(world: World, *, balance: bool = False, hinted: bool = False) -> int:
    """Plan until nothing is left to be judged; returns the rounds made.

    ``balance``: look after the pools' floors and forecasts too, even if no boot waits.
    ``hinted``: this call answers a message; if its hint was taken up by an earlier round, there is
    nothing to do.
    """
    rounds = 0
    while rounds < MAX_ROUNDS and _acquire(world, hinted=hinted):
        try:
            with renewed(
                world,
                _seconds(world),
                lambda tx, t: tx.leases.renew(LEASE, world.owner, t),
                "judge.renewal_failed",
            ):  # a round takes as long as Placement takes to answer
                absorb(world)
                complete(world)
                gathered = gather(world, balance=balance)
                plan = choose(gathered.inputs)
                _apply(world, gathered, plan)
        except BaseException:
            with world.database.write() as tx:
                tx.leases.release(LEASE, world.owner)
            raise
        rounds += 1
        balance = hinted = False
        # The lease was given back with the plan, before this look: a message that found it taken
        # has, by then, committed what it points at.
        with world.database.read() as tx:
            now = world.clock.now()
            if not tx.boots.wanting(now) and not tx.hints.waiting(JUDGE, now):
                break
    return rounds


def balance(world: World) -> int:
    """Learn from what was asked since, then plan for floors and forecasts too; returns rounds."""
    if world.settings.forecast:
        learn(world)
    return judge(world, balance=True)


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be decided now, and what was found out about each class, by its key."""

    gathered: Gathered
    plan: Plan
    diagnoses: Mapping[str, Diagnosis]


def preview(world: World, boots: Sequence[Boot] | None = None) -> Preview:
    """What would be decided now; nothing is changed."""
    gathered = gather(world, boots=boots, balance=True)
    plan = choose(gathered.inputs)
    return Preview(gathered, plan, diagnoses(world, gathered, plan))


def _acquire(world: World, *, hinted: bool) -> bool:
    """Take the planner's lease; not if somebody plans, or has planned what the hint was for."""
    with world.database.write() as tx:
        now = world.clock.now()
        if not tx.leases.acquire(LEASE, world.owner, now, _seconds(world)):
            return False
        if not tx.hints.take(JUDGE) and hinted:
            tx.leases.release(LEASE, world.owner)
            return False
        return True


def _seconds(world: World) -> float:
    return world.settings.lease_seconds * 4


@dataclass(frozen=True, slots=True)
class _Decision:
    """A plan with what it means for whom."""

    gathered: Gathered
    plan: Plan
    plan_id: str
    act: tuple[Intent, ...]
    held_back: tuple[Intent, ...]
    by_device: Mapping[str, tuple[Promise, ...]]
    by_subject: Mapping[str, tuple[Promise, ...]]
    unmet: Mapping[str, Reason]
    outdated: bool = False
    refused: bool = False
    """Whether a person refused just this lately."""

    @classmethod
    def of(
        cls, world: World, gathered: Gathered, plan: Plan, approved: Mapping[_Change, str]
    ) -> _Decision:
        by_device: dict[str, list[Promise]] = defaultdict(list)
        by_subject: dict[str, list[Promise]] = defaultdict(list)
        for promise in plan.promises:
            by_device[promise.device].append(promise)
            by_subject[promise.subject].append(promise)
        act: list[Intent] = []
        held_back: list[Intent] = []
        forecasts: list[tuple[Intent, bool]] = []
        for intent in plan.intents:
            asked = any(p.demand.startswith("task:") for p in by_device[intent.device])
            mode = world.catalog.pool(intent.to_function).mode
            # What an operator queued by hand was approved by a person already.
            yes = asked or mode == "act" or (intent.device, intent.to_function) in approved
            if _is_forecast(by_device[intent.device]):
                forecasts.append((intent, yes))
                continue
            (act if yes and gathered.paused is None else held_back).append(intent)
        # The rest of what forecasts want is planned again in a later round.
        forecasts.sort(key=lambda one: (one[0].cost - one[0].gain, one[0].device))
        for intent, yes in forecasts[: gathered.forecasts_left]:
            (act if yes and gathered.paused is None else held_back).append(intent)
        return cls(
            gathered,
            plan,
            str(uuid4()),
            tuple(act),
            tuple(held_back),
            {k: tuple(v) for k, v in by_device.items()},
            {k: tuple(v) for k, v in by_subject.items()},
            {r.subject: r.reason for r in plan.unmet},
        )


def _is_forecast(served: Sequence[Promise]) -> bool:
    return bool(served) and all(p.demand.startswith("forecast:") for p in served)


def _apply(world: World, gathered: Gathered, plan: Plan) -> None:
    now = world.clock.now()
    with world.database.write() as tx:
        if not tx.leases.renew(LEASE, world.owner, now + _seconds(world)):
            # Paused since: what another has started or promised by now this plan knows nothing of.
            raise Busy("another process plans by now: what was gathered is out of date")
        approved = _approved(tx)
        decision = _Decision.of(world, gathered, plan, approved)
        decision = _record(tx, decision, now)
        coming, ended = _still_coming(tx, gathered)
        started = _start(world, tx, decision, now)
        coming |= started
        for plan_id in sorted(set(approved.values())):
            tx.plans.started(plan_id, started)
        decision = replace(decision, outdated=ended)
        waits: dict[tuple[str, str, float, int], tuple[Reason, list[str]]] = {}
        for judgement in gathered.judged:
            for boot in judgement.boots:
                wait = _answer_boot(world, tx, decision, judgement, boot, coming, now)
                if wait is not None:
                    reason, wake_at = wait
                    # A class has one reason to wait, and those that a plan held back would serve
                    # another: within it the code tells them apart.
                    alike = judgement.key, reason.code, wake_at, boot.attempt
                    waits.setdefault(alike, (reason, []))[1].append(boot.id)
        # Together: in a storm thousands go on waiting, and nobody else can write meanwhile.
        for (_, _, wake_at, attempt), (reason, ids) in waits.items():
            tx.boots.wait_on(ids, attempt, reason, wake_at, now)
        _answer_tasks(tx, decision, coming, now)
        there = {p.device: p.device in coming or _is_free(decision, p) for p in plan.promises}
        answer_leases(world, tx, plan.promises, there, decision.unmet, now)
        if tx.boots.woken_since(gathered.inputs.now):
            tx.boots.rouse(now)
        tx.leases.release(LEASE, world.owner)
    log.info(
        "judge.planned",
        boots=sum(len(j.boots) for j in gathered.judged),
        started=len(decision.act),
        held_back=len(decision.held_back),
        unmet=len(plan.unmet),
        plan=decision.plan_id if plan.intents else None,
    )


def _still_coming(tx: Tx, gathered: Gathered) -> tuple[dict[str, str], bool]:
    """Device -> changeover under way; and whether one that was gathered has ended since.

    What is promised from now on must be seen by the changeover's end: its row is locked, so that
    it either ends before this look or finds the promise.
    """
    moving = {c.id for c in tx.changeovers.locked_moving()}
    gone = any(c.state in CHANGEOVER_MOVING and c.id not in moving for c in gathered.live.values())
    return {c.device: c.id for c in gathered.live.values() if c.id in moving}, gone


def _approved(tx: Tx) -> dict[_Change, str]:
    """The changes that a person approved, and by which plan."""
    return {
        (intent["device"], intent["to_function"]): plan["id"]
        for plan in tx.plans.open(PlanState.APPROVED)
        for intent in plan["result"]["intents"]
        if intent["device"] in plan["devices"]
    }


def _record(tx: Tx, decision: _Decision, now: float) -> _Decision:
    """Store the plan, unless one that recommends the same waits for a person, or was refused."""
    if not (decision.act or decision.held_back):
        return decision
    held_back = sorted(intent.device for intent in decision.held_back)
    if held_back and not decision.act:
        wanted = {(i.device, i.to_function) for i in decision.held_back}
        refused = tx.plans.refused(now - REFUSAL_SECONDS)
        for known in (*refused, *tx.plans.open()):
            if {(i["device"], i["to_function"]) for i in known["result"]["intents"]} == wanted:
                return replace(decision, plan_id=known["id"], refused=known in refused)
    tx.plans.add(
        plan_id=decision.plan_id,
        now=now,
        state=PlanState.RECOMMENDED if held_back else PlanState.EXECUTED,
        inputs=inputs_as_json(decision.gathered.inputs),
        result=plan_as_json(decision.plan),
        devices=held_back,
    )
    return decision


def _start(world: World, tx: Tx, decision: _Decision, now: float) -> dict[str, str]:
    """Start the changeovers; device -> changeover id."""
    started = {}
    for intent in decision.act:
        device = world.device(intent.device)
        served = decision.by_device.get(intent.device, ())
        kinds = [p.demand.partition(":")[0] for p in served if ":" in p.demand]
        kind = "boot" if len(kinds) < len(served) or not kinds else kinds[0]
        changeover = Changeover(
            id=str(uuid4()),
            device=intent.device,
            host=intent.host,
            from_function=intent.from_function,
            to_function=intent.to_function,
            kind=kind,
            subject=served[0].subject if kind == "task" else None,
            plan_id=decision.plan_id,
            state=ChangeoverState.PLANNED,
            reason=intent.reasons[0],
            priority=intent.gain,
            created_at=now,
            updated_at=now,
            due_at=now,
            tries=0,
            failures=0,
            cancel=False,
        )
        try:
            # Both or neither: a changeover without its fences would program what is open.
            with tx.connection.begin_nested():
                tx.changeovers.add(changeover)
                tx.fences.add((d.provider for d in world.reset_with(device)), changeover.id)
        except Busy as exc:
            # Two devices of one card that resets as a whole: one now, the other after it.
            log.warning("judge.device_taken", device=intent.device, why=exc.message)
            continue
        tx.hints.add(ADVANCE, changeover.id, queue=ADVANCE_QUEUE, now=now)
        started[intent.device] = changeover.id
    return started


def _answer_boot(
    world: World,
    tx: Tx,
    decision: _Decision,
    judgement: Judged,
    boot: Boot,
    coming: Mapping[str, str],
    now: float,
) -> _Wait | None:
    """Decide; why and until when it waits, if it has waited and goes on waiting."""
    promises = decision.by_subject.get(boot.id, ())
    try:
        if boot.id in judgement.elsewhere:
            reason = Reason("boot.fits_now", "a host can take it now without any changeover")
            _ready(tx, boot, (), now, reason)
        elif promises and all(p.device in coming or _is_free(decision, p) for p in promises):
            _promise(tx, boot, promises, coming, now)
        else:
            return _wait_or_decline(world, tx, decision, judgement, boot, now)
    except Reread as exc:
        # Its owner deleted it, or an operator cancelled it, while it was judged.
        log.info("judge.boot_moved", boot=boot.id, why=exc.message)
    return None


def _is_free(decision: _Decision, promise: Promise) -> bool:
    """Whether the promised slots are there already (not to be made by a held-back intent)."""
    return all(i.device != promise.device for i in decision.plan.intents)


def _promise(
    tx: Tx, boot: Boot, promises: Sequence[Promise], coming: Mapping[str, str], now: float
) -> None:
    slots = Counter[str]()
    for one in promises:
        slots[one.device] += one.slots  # several needs may be served by one device
    made = [BootPromise(boot.id, d, n, coming.get(d), None) for d, n in slots.items()]
    names = ", ".join(sorted({p.function for p in promises}))
    if all(p.changeover is None for p in made):
        _ready(tx, boot, made, now, Reason("boot.slots_free", f"slots of {names} are free now"))
        return
    reason = Reason(
        "boot.promised",
        f"a device is being programmed with {names} for it",
        {"changeovers": sorted({p.changeover for p in made if p.changeover is not None})},
    )
    tx.boots.move(boot, BootState.PROMISED, now, reason=reason)
    for promise in made:
        tx.boots.promise(promise)


def _ready(tx: Tx, boot: Boot, promises: Sequence[BootPromise], now: float, reason: Reason) -> None:
    tx.boots.move(boot, BootState.READY, now, reason=reason, wake_at=now)
    for promise in promises:
        tx.boots.promise(promise)
    tx.hints.add(REBOOT, boot.id, queue=BOOT_QUEUE, now=now)


def _wait_or_decline(
    world: World, tx: Tx, decision: _Decision, judgement: Judged, boot: Boot, now: float
) -> _Wait | None:
    nobody = judgement.understanding.nobody
    wake_at = _next_look(world, boot, now)
    if judgement.later is not None:
        reason = judgement.later
    elif nobody is not None:
        tx.boots.move(boot, BootState.DECLINED, now, reason=nobody)
        return None
    else:
        reason = _why_waiting(decision, judgement, boot)
        wake_at = now if decision.outdated else wake_at
    if boot.state is BootState.WAITING:
        return reason, wake_at
    tx.boots.move(boot, BootState.WAITING, now, reason=reason, wake_at=wake_at)
    return None


def _why_waiting(decision: _Decision, judgement: Judged, boot: Boot) -> Reason:
    if decision.gathered.paused is not None:
        return Reason("plan.paused", f"paused by an operator: {decision.gathered.paused}")
    held_back = {intent.device for intent in decision.held_back}
    if any(p.device in held_back for p in decision.by_subject.get(boot.id, ())):
        if decision.refused:
            return Reason(
                "plan.refused",
                f"plan {decision.plan_id} would help, but a person refused it",
                {"plan": decision.plan_id},
            )
        return Reason(
            "plan.not_acting",
            f"plan {decision.plan_id} would help, but its pool's mode is not to act by itself: "
            f"`changeover plan approve {decision.plan_id}`",
            {"plan": decision.plan_id},
        )
    return decision.unmet.get(
        judgement.key, Reason("boot.no_gain", "no changeover is worth its cost now")
    )


def _next_look(world: World, boot: Boot, now: float) -> float:
    """When a boot is judged again if nothing wakes it before."""
    return min(now + world.settings.retry_seconds, max(now, boot.expires_at))


def _answer_tasks(tx: Tx, decision: _Decision, coming: Mapping[str, str], now: float) -> None:
    for task in decision.gathered.tasks.values():
        served = decision.by_subject.get(task.id, ())
        there = sum(1 for p in served if p.device not in coming and _is_free(decision, p))
        if there:
            tx.tasks.count_done(task.id, there)
        if task.done + there >= task.count:
            reason = Reason("task.done", f"{task.count} device(s) offer {task.function}")
            tx.tasks.move(task, TaskState.DONE, reason, now, "planner")
            continue
        unmet = decision.unmet.get(f"task:{task.id}")
        if unmet is None:
            continue
        state = TaskState.QUEUED if task.when == "idle" else TaskState.FAILED
        tx.tasks.move(task, state, unmet, now, "planner")
