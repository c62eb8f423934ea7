"""Sweep: find what fell through, from the database alone. Losing every message loses nothing."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import structlog

from changeover.models.changeover import Changeover
from changeover.models.errors import ChangeoverError, NotFound, Reread
from changeover.models.reasons import Reason
from changeover.models.states import CHANGEOVER_MOVING, BootState, ChangeoverState
from changeover.worker.cancel import cancel_boot
from changeover.worker.entrusted import withdraw_trusts
from changeover.worker.holds import close, open_slots
from changeover.worker.intake import Intake
from changeover.worker.ports.servers import FOUND_AT_ONCE
from changeover.worker.queues import (
    ADVANCE,
    ADVANCE_QUEUE,
    BOOT_QUEUE,
    JUDGE,
    PLAN_QUEUE,
    REBOOT,
)
from changeover.worker.reboot import WORKS
from changeover.worker.refresh import refresh
from changeover.worker.store import Tx
from changeover.worker.world import World

log = structlog.get_logger(__name__)

HINT_GRACE = 2.0
"""Seconds after which a hint that nobody took up is sent again."""

LOOK = "look"
"""The lease under which one process at a time looks for failed servers."""

CLOSED = "keep_closed"
"""The lease under which one process at a time looks whether quarantined devices are closed."""

LOOK_OVERLAP = 60.0
"""Seconds that two looks have in common besides: clocks differ, and updates come late."""

STUCK_FAILURES = 5
"""Failures of one step in a row after which a boot whose patience is over waits no more for it."""

UNHEEDED_SECONDS = 60.0
"""How long a changeover may be due without anybody taking it up, for such a boot."""

HINTS_AT_ONCE = 500
UNREAD_AT_ONCE = 100
DAY = 86_400.0
PLAN_LIFETIME = 900.0
"""Seconds after which a recommended plan is too old to be approved."""


def sweep(world: World) -> dict[str, int]:
    """One sweep; returns what was found, by kind."""
    now = world.clock.now()
    found: dict[str, int] = {}
    with world.database.write() as tx:
        found["stuck_changeovers"] = _stuck_changeovers(world, tx, now)
        found["stuck_boots"] = _stuck_boots(tx, now)
        found["promises_broken"] = _broken_promises(tx, now)
        found["stranded"] = _stranded(tx, now)
        found["expired"] = _expire(tx, now)
        found["holds_lapsed"] = _lapse(tx, now)
        if lapsed := tx.keeps.lapse(now):
            tx.boots.wake(now)
        found["keeps_lapsed"] = lapsed
        if expired := tx.plans.expire(now - PLAN_LIFETIME, now):
            tx.boots.wake(now)  # they name a plan that nobody can approve any more
        found["plans_expired"] = expired
        found["callbacks_due"] = _unsent_callbacks(tx, now)
        if tx.boots.wanting(now) or tx.tasks.all(queued_only=True, limit=1):
            tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)
        lost = tx.hints.overdue(now - HINT_GRACE, now, HINTS_AT_ONCE)
        tx.to_send.extend(lost)
        found["hints_resent"] = len(lost)
        found["demand_forgotten"] = tx.demand.prune(now - world.settings.demand_days * DAY)
        ajar = tx.devices.ajar()
        due = tx.leases.due(CLOSED, now, world.settings.refresh_seconds)
        quarantined = _quarantined(tx) if due else []
        unread = set(tx.devices.unread(UNREAD_AT_ONCE))
    for provider in ajar:
        try:
            open_slots(world, world.device(provider))
        except ChangeoverError as exc:
            log.warning("slots.still_held", device=provider, why=exc.message)
    found["opened"] = len(ajar)
    found["closed"] = _keep_closed(world, quarantined)
    found["untold"] = _untold(world)
    found["trusts_withdrawn"] = withdraw_trusts(world)
    wanted = [d for d in world.catalog.devices if d.provider in unread] if unread else []
    found["read"] = refresh(world, wanted) if wanted else 0
    if any(found.values()):
        log.info("sweep.found", **{k: v for k, v in found.items() if v})
    return found


def _quarantined(tx: Tx) -> list[str]:
    """The providers of all that is quarantined."""
    live = [c for c in tx.changeovers.live() if c.state is ChangeoverState.QUARANTINED]
    return [fence.provider for c in live for fence in tx.fences.of(c.id)]


def _keep_closed(world: World, providers: list[str]) -> int:
    """Nobody knows what quarantined devices do: one that somebody else opened is closed again."""
    closed = 0
    for provider in providers:
        try:
            closed += close(
                world, world.device(provider), partial(_still_quarantined, world, provider)
            )
        except ChangeoverError as exc:
            log.warning("fence.not_closed", provider=provider, why=exc.message)
    return closed


def _still_quarantined(world: World, provider: str) -> None:
    """An operator may have released it since, and another changeover published it."""
    with world.database.read() as tx:
        if provider not in _quarantined(tx):
            raise Reread(f"{provider} is not quarantined any more")


def _untold(world: World) -> int:
    """Failed servers that no notification told of: it was lost, or nobody listened.

    Each look begins where the last one ended, with some overlap, so that a cloud full of failed
    servers is not read again and again. Times are in whole seconds there.
    """
    now = world.clock.now()
    every = world.settings.look_seconds
    with world.database.write() as tx:
        if not tx.leases.due(LOOK, now, every):
            return 0
        looked = tx.switches.get(LOOK)
    since = now - world.settings.patience_seconds
    if looked is not None:
        since = max(since, float(looked["since"]))
    try:
        failed = world.servers.failed_since(since)
    except ChangeoverError as exc:
        log.warning("sweep.servers_silent", why=exc.message)
        return 0
    intake = Intake(world.database, world.clock, world.settings)
    # A young failure may be told of this moment.
    old = [one for one in failed if one.timestamp <= now - every / 2]
    found = intake.accept_found(old, source=LOOK)
    onward = now - every - LOOK_OVERLAP
    if len(failed) >= FOUND_AT_ONCE:  # there are more: go on at once where this look was cut off
        onward = min(onward, max(since, failed[-1].timestamp - 1.0))
    with world.database.write() as tx:
        tx.switches.set(LOOK, {"since": onward}, now)
    return found


def _stuck_changeovers(world: World, tx: Tx, now: float) -> int:
    """Due, and nobody works on it: its hint was lost, or its worker died."""
    stuck = tx.changeovers.stuck(now - HINT_GRACE)
    for changeover in stuck:
        try:
            queue = world.queue_at(changeover.device, changeover.state)
        except NotFound:
            queue = ADVANCE_QUEUE  # whoever takes it up says so
        tx.hints.add(ADVANCE, changeover.id, queue=queue, now=now)
    return len(stuck)


def _unsent_callbacks(tx: Tx, now: float) -> int:
    """Due, and nobody sends them: a hint was lost, or a sender died."""
    due = tx.callbacks.due(now - HINT_GRACE)
    for target in sorted(due):
        tx.callbacks.hint(target, now, now)
    return len(due)


def _stuck_boots(tx: Tx, now: float) -> int:
    stuck = [b for b in tx.boots.in_states(WORKS, wake_before=now) if b.lease_until < now]
    for boot in stuck:
        tx.hints.add(REBOOT, boot.id, queue=BOOT_QUEUE, now=now)
    return len(stuck)


def _broken_promises(tx: Tx, now: float) -> int:
    """Boots that wait for changeovers of which none is under way: nobody would ever wake them."""
    promised = tx.boots.in_states([BootState.PROMISED])
    if not promised:
        return 0
    moving = {c.id for c in tx.changeovers.live() if c.state in CHANGEOVER_MOVING}
    broken = 0
    for boot in promised:
        if any(p.changeover in moving for p in tx.boots.promises(boot=boot.id)):
            continue
        reason = Reason("boot.promise_broken", "the changeover that was meant for it is over")
        with suppress(Reread):
            tx.boots.move(boot, BootState.WAITING, now, reason=reason, wake_at=now)
            broken += 1
    return broken


def _stranded(tx: Tx, now: float) -> int:
    """Boots whose patience is over, and whose changeover nobody can take any further."""
    stranded = 0
    for boot in tx.boots.in_states([BootState.PROMISED]):
        if boot.expires_at > now:
            continue
        made_by = [tx.changeovers.get(p.changeover or "") for p in tx.boots.promises(boot=boot.id)]
        stuck = next((c for c in made_by if c is not None and _is_stuck(c, now)), None)
        if stuck is None:
            continue
        reason = Reason(
            "boot.changeover_stuck",
            f"not to be had within {boot.expires_at - boot.received_at:.0f} s: the changeover "
            f"that was meant for it is {stuck.state} and gets no further: {stuck.reason.text}",
            {"changeover": stuck.id},
        )
        with suppress(Reread):
            cancel_boot(tx, boot, reason, now, BootState.EXPIRED)
            stranded += 1
    return stranded


def _is_stuck(changeover: Changeover, now: float) -> bool:
    """Its step fails again and again, or nobody works where it must be done."""
    unheeded = changeover.lease_until < now and changeover.due_at < now - UNHEEDED_SECONDS
    return changeover.state in CHANGEOVER_MOVING and (
        changeover.failures >= STUCK_FAILURES or unheeded
    )


def _expire(tx: Tx, now: float) -> int:
    """Patience is over for those that wait; what is being made for a boot is still tried."""
    expired = 0
    for boot in tx.boots.in_states([BootState.WAITING, BootState.RECEIVED]):
        if boot.expires_at > now:
            continue
        reason = Reason(
            boot.reason.code,
            f"not to be had within {boot.expires_at - boot.received_at:.0f} s: {boot.reason.text}",
            dict(boot.reason.facts),
        )
        try:
            tx.boots.move(boot, BootState.EXPIRED, now, reason=reason)
            expired += 1
        except Reread:
            continue
    return expired


def _lapse(tx: Tx, now: float) -> int:
    """Slots were held long enough for a boot that could not be created: others may have them."""
    lapsed = tx.boots.holds_lapsed(now)
    for promise in lapsed:
        boot = tx.boots.get(promise.boot)
        if boot is None or boot.state is not BootState.READY:
            tx.boots.unhold(promise.boot)
            continue
        try:
            tx.boots.move(
                boot,
                BootState.WAITING,
                now,
                reason=Reason("boot.hold_lapsed", "its slots were held too long and given back"),
                wake_at=now,
            )
        except Reread:
            continue
    return len(lapsed)
