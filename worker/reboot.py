"""Boot again: create the successor of a failed server, once, and watch it build.

The marker is journaled before the create is sent. A create that was not answered is unknown: it
is looked for by its marker, and no other is sent before the first can no longer be at work.
"""

from __future__ import annotations

from typing import Any

import structlog

from changeover.models.blueprint import Blueprint
from changeover.models.boot import Boot
from changeover.models.errors import (
    AskOperator,
    ChangeoverError,
    Garbled,
    NotFound,
    OutcomeUnknown,
    QuotaExceeded,
    Refuse,
    Reread,
    Retry,
)
from changeover.models.reasons import Reason
from changeover.models.states import BootState
from changeover.policies.backoff import backoff, jitter_of
from changeover.policies.consent import Losses, consent, successor
from changeover.worker.filtered import why_filtered
from changeover.worker.holds import devices_of, offer_slots, open_slots
from changeover.worker.leave_to_owner import leave_to_owner
from changeover.worker.ports.servers import (
    MARKER,
    NO_VALID_HOST,
    REPLACED_BY,
    Authority,
    Server,
    ServerStatus,
)
from changeover.worker.queues import BOOT_QUEUE, JUDGE, PLAN_QUEUE, REBOOT
from changeover.worker.renewed import renewed
from changeover.worker.world import World

log = structlog.get_logger(__name__)

WORKS = frozenset({BootState.READY, BootState.CREATING, BootState.BUILDING})
"""States in which a boot is this module's."""

WATCH_SECONDS = 5.0
"""How often a build is looked at where no notification tells of it."""

FAULT_SECONDS = 30.0
"""How long Nova is given to say why a server is in ERROR: it shows the one before the other."""

FAULT_AWAITED = "boot.fault_awaited"

AFTER_SECONDS = 1.0
"""How soon after a success those that wait are judged again."""

STALL_SECONDS = 1.0
"""How long after it was journaled a create may still be sent: it counts as sent until then."""

FIRST_RETRY = 1.0
MOST_RETRY = 60.0

UNDO_TRIES = 8
"""How often a server that was made too late is tried to be deleted, within about two minutes."""


def reboot(world: World, boot_id: str) -> BootState | None:
    """Take one boot as far as it goes now; ``None`` if it is not due or not free."""
    seconds = world.settings.lease_seconds
    with world.database.write() as tx:
        boot = tx.boots.claim(boot_id, WORKS, world.owner, world.clock.now(), seconds)
        tx.hints.take(REBOOT, boot_id)
    if boot is None:
        return None
    bound = structlog.contextvars.bound_contextvars(boot=boot_id, server=boot.server)
    held = renewed(
        world,
        seconds,
        lambda tx, t: tx.boots.renew([boot_id], world.owner, t),
        "boot.renewal_failed",
    )  # a create can take minutes
    with bound, held:
        try:
            while boot.state in WORKS and boot.wake_at <= world.clock.now():
                boot = _STEPS[boot.state](world, boot)
        except (Reread, Retry, Refuse, AskOperator) as exc:
            _later(world, boot_id, exc)
        finally:
            with world.database.write() as tx:
                tx.boots.release(boot_id, world.owner)
        return boot.state


def _later(world: World, boot_id: str, exc: ChangeoverError) -> None:
    """Something stands in the way: come back to it. What is held stays held until it lapses.

    Not for ever: with its patience, and the time for which slots are held, it is over, unless a
    create may have been sent or what failed was deleted for it.
    """
    log.warning("boot.step_failed", why=exc.message, error=type(exc).__name__)
    with world.database.write() as tx:
        boot = tx.boots.get(boot_id)
        if boot is None or boot.lease_owner != world.owner or boot.state not in WORKS:
            return
        now = world.clock.now()
        untouched = boot.sent_at is None and boot.successor is None and boot.removed_at is None
        over = untouched and now >= boot.expires_at + world.settings.hold_seconds
        if not over:
            wait = backoff(
                1 + int((now - boot.failed_at) // MOST_RETRY),
                first=FIRST_RETRY,
                most=MOST_RETRY,
                jitter=jitter_of(boot_id),
            )
            tx.boots.postpone(boot, now + wait, Reason("boot.retrying", exc.message))
            tx.hints.add(REBOOT, boot_id, queue=BOOT_QUEUE, now=now, due_at=now + wait)
    if over:
        text = f"its slots are there, but it could not be created in time: {exc.message}"
        _give_back(world, boot, BootState.EXPIRED, Reason("boot.not_created", text))


def _ready(world: World, boot: Boot) -> Boot:
    """Look at the failed server once more, journal the attempt, open its slots, create.

    What the successor is made of is journaled with the attempt: nothing that happens to the failed
    server afterwards can lose it.
    """
    if boot.server is not None and world.settings.recreated == "never":
        return leave_to_owner(world, boot, "servers are not created here (recreate = never)")
    changes: dict[str, Any] = {}
    # Nothing failed where somebody asked for the server: its blueprint came with the request.
    if boot.server is not None and boot.removed_at is None:
        failed = world.servers.get(boot.server)
        if failed is None:
            return _give_back(world, boot, BootState.CANCELLED, _OWNER_DELETED)
        other = _seen_to(world, boot, failed) or _fault_awaited(world, boot, failed)
        if other is not None:
            return other
        made_of = _successor(world, boot, failed)
        if isinstance(made_of, str):
            return leave_to_owner(world, boot, made_of)
        blueprint, reason = made_of
        changes = {
            "reason": reason,
            "blueprint": blueprint,
            "project": failed.project,
            "user": failed.user,
        }
    with world.database.write() as tx:
        boot = tx.boots.move(
            boot,
            BootState.CREATING,
            world.clock.now(),
            attempt=boot.attempt + 1,
            sent_at=None,
            successor=None,
            **changes,
        )
        tx.boots.unhold(boot.id)
    return _send(world, boot)


_OWNER_DELETED = Reason("boot.owner_deleted", "its owner deleted the failed server")


def _seen_to(world: World, boot: Boot, failed: Server) -> Boot | None:
    """End the boot if somebody else has seen to the failed server."""
    if failed.status is not ServerStatus.ERROR or failed.launched:
        how = "ran once" if failed.launched else f"is {failed.status}"
        reason = Reason("boot.not_failed", f"the server {how}: somebody saw to it")
        return _give_back(world, boot, BootState.CANCELLED, reason)
    owner = _whose(world, boot, failed)
    if owner is None:
        return None
    reason = Reason(
        "boot.absorbed", f"its server is the successor of boot {owner}", {"boot": owner}
    )
    return _give_back(world, boot, BootState.CANCELLED, reason)


def _fault_awaited(world: World, boot: Boot, server: Server) -> Boot | None:
    """Look at a server in ERROR again as long as Nova may be about to say why."""
    if server.status is not ServerStatus.ERROR or server.fault:
        return None
    now = world.clock.now()
    known = boot.reason.code == FAULT_AWAITED
    since = float(boot.reason.facts["since"]) if known else now
    if now >= since + FAULT_SECONDS:
        return None
    text = f"{server.uuid} is in ERROR, and Nova does not say why yet"
    reason = Reason(FAULT_AWAITED, text, {"since": since})
    return _look_again(world, boot, now + WATCH_SECONDS, reason)


def _look_again(world: World, boot: Boot, due: float, reason: Reason) -> Boot:
    with world.database.write() as tx:
        boot = tx.boots.postpone(boot, due, reason)
        now = world.clock.now()
        tx.hints.add(REBOOT, boot.id, queue=BOOT_QUEUE, now=now, due_at=due)
    return boot


def _successor(world: World, boot: Boot, failed: Server) -> tuple[Blueprint, Reason] | str:
    """What to create in the failed server's place and why, or why nothing may be created."""
    settings = world.settings
    agreed = consent(
        settings.recreated,
        metadata=failed.metadata,
        extra_specs=failed.extra_specs,
        project=failed.project,
        projects=settings.recreate_projects,
    )
    if not agreed.given:
        return agreed.why
    authority = world.servers.authority(failed.project, failed.user)
    if authority is Authority.NOBODY:
        return (
            f"the service user has neither a trust from its owner ({failed.user}) nor a role in "
            f"its project ({failed.project})"
        )
    blueprint = failed.blueprint
    forced = boot.request.hosts
    if blueprint is not None and blueprint.host is None and forced:
        blueprint = blueprint.model_copy(update={"host": forced[0]})
    as_owner = authority is Authority.OWNER
    made_of = successor(
        blueprint,
        lost=failed.lost,
        as_owner=as_owner,
        losses=Losses(networks=settings.lost_networks, key=settings.lost_key),
    )
    if isinstance(made_of, str):
        return made_of
    told = made_of.told(agreed, as_owner=as_owner)
    facts = {"as_owner": as_owner, "without": list(made_of.without)}
    return made_of.blueprint, Reason("boot.consented", told, facts)


def _whose(world: World, boot: Boot, failed: Server) -> str | None:
    """The boot whose successor the failed server is, going by its marker.

    Its failure may be told long before that boot knows of it, or after it has forgotten it: this
    is the last look before a second server would be made for one owner's wish.
    """
    owner = failed.metadata.get(MARKER, "").partition(".")[0]
    if not owner or owner == boot.id:
        return None
    with world.database.read() as tx:
        return owner if tx.boots.get(owner) is not None else None


def _creating(world: World, boot: Boot) -> Boot:
    """Taken up after a crash, or after an answer that never came."""
    if boot.sent_at is None:
        if boot.server is None:
            return _send(world, boot)
        if boot.removed_at is not None:
            # Journaled before it was done: whether it was done yet, nobody knows.
            try:
                world.servers.delete(boot.server)
            except (Refuse, AskOperator) as exc:
                return _kept(world, boot, exc)
        elif world.servers.get(boot.server) is None:
            return _give_back(world, boot, BootState.CANCELLED, _OWNER_DELETED)
        return _send(world, boot)
    # A listing shows nothing of what is done while it is made: when it was asked for counts.
    asked_at = world.clock.now()
    listing = world.servers.find(boot.marker, boot.project, boot.sent_at)
    if listing.servers:
        return _adopt(world, boot, listing.servers)
    told = _told(world, boot)
    if told is not None:
        # It is not listed: if it is not there either, its owner deleted it.
        with world.database.write() as tx:
            return tx.boots.move(boot, BootState.BUILDING, world.clock.now(), successor=told)
    now = world.clock.now()
    safe_at = boot.sent_at + STALL_SECONDS + world.servers.longest_request_seconds
    if asked_at < safe_at or not listing.complete:
        reason = Reason(
            "boot.create_unknown",
            "the create call was not answered; it is being looked for by its marker",
            {"marker": boot.marker, "complete_listing": listing.complete},
        )
        due = max(safe_at, now) if listing.complete else now + WATCH_SECONDS
        return _look_again(world, boot, min(due, now + WATCH_SECONDS), reason)
    return _failed_again(world, boot, Reason("boot.create_lost", "the create call came to nothing"))


def _told(world: World, boot: Boot) -> str | None:
    """What a notification said meanwhile that the create call made."""
    with world.database.read() as tx:
        known = tx.boots.get(boot.id)
    return None if known is None or known.attempt != boot.attempt else known.successor


def _adopt(world: World, boot: Boot, found: tuple[Server, ...]) -> Boot:
    """The unanswered create did work. Of two with one marker, the recorded or first one stays."""
    order = (ServerStatus.ACTIVE, ServerStatus.OTHER, ServerStatus.BUILD, ServerStatus.ERROR)
    keep, *others = sorted(
        found, key=lambda s: (order.index(s.status) if s.status in order else len(order), s.uuid)
    )
    if others:
        # First, so that the deletion of another is not heard as the end of this one.
        with world.database.write() as tx:
            boot = tx.boots.postpone(boot, boot.wake_at, boot.reason, successor=keep.uuid)
    for other in others:
        log.error("boot.doubled", kept=keep.uuid, other=other.uuid, status=other.status)
        # One that runs may be in use already: that is for its owner to say.
        if other.status in {ServerStatus.ERROR, ServerStatus.BUILD} and not other.launched:
            try:
                world.servers.delete(other.uuid)
            except (Refuse, AskOperator) as exc:
                log.error("boot.double_kept", other=other.uuid, why=exc.message)
                continue
            with world.database.write() as tx:
                tx.events.spent(other.uuid, boot.project, boot.id, world.clock.now())
    with world.database.write() as tx:
        return tx.boots.move(boot, BootState.BUILDING, world.clock.now(), successor=keep.uuid)


def _open_and_journal(world: World, boot: Boot) -> Boot:
    """Open its slots; note that, and that the create is sent, with one commit."""
    with world.database.read() as tx:
        promises = tx.boots.promises(boot=boot.id)
    opened = [offer_slots(world, device) for device in devices_of(world, promises)]
    with world.database.write() as tx:
        for one in opened:
            if one is not None:
                one.note(tx)
        boot = tx.boots.postpone(boot, boot.wake_at, boot.reason, sent_at=world.clock.now())
    while world.clock.now() - (boot.sent_at or 0.0) > STALL_SECONDS:
        # Paused since: whoever took over may hold it for lost. If nobody did, it is sent now.
        with world.database.write() as tx:
            boot = tx.boots.postpone(boot, boot.wake_at, boot.reason, sent_at=world.clock.now())
    return boot


def _send(world: World, boot: Boot) -> Boot:
    blueprint = boot.blueprint
    if blueprint is None:
        reason = Reason("boot.no_blueprint", "nothing is known of what it was created from")
        return _give_back(world, boot, BootState.DECLINED, reason)
    boot = _open_and_journal(world, boot)
    try:
        created_as = world.servers.create(
            blueprint, boot.marker, project=boot.project, user=boot.user, replaces=boot.server
        )
    except (OutcomeUnknown, Garbled) as exc:
        # Also an answer that cannot be read may be that of a create that worked.
        log.warning("boot.create_unknown", why=exc.message)
        return _creating(world, boot)
    except (Retry, AskOperator):
        # Provably not done, and not for what was asked: no attempt is spent on it. The slots are
        # open already: whoever takes them first has them.
        with world.database.write() as tx:
            boot = tx.boots.postpone(boot, boot.wake_at, boot.reason, sent_at=None)
        raise
    except QuotaExceeded as exc:
        may = world.settings.delete_failed == "for-quota" and boot.removed_at is None
        if may and boot.server is not None:
            return _make_room(world, boot, boot.server, exc)
        return _refused(world, boot, exc)
    except Refuse as exc:
        return _refused(world, boot, exc)
    log.info("boot.recreated", successor=created_as, attempt=boot.attempt)
    with world.database.write() as tx:
        reason = Reason("boot.building", f"created again as {created_as}")
        created = tx.boots.created(boot, created_as, world.clock.now(), reason)
    if created is not None:
        return created
    # Paused for so long that the create was given up for lost, or found by its marker.
    with world.database.read() as tx:
        known = tx.boots.get(boot.id)
    if known is None or known.successor != created_as:
        log.error("boot.created_too_late", successor=created_as, attempt=boot.attempt)
        _undo(world, boot, created_as)
    raise Reread(f"boot {boot.id} went on without this worker", boot=boot.id)


def _undo(world: World, boot: Boot, server: str) -> None:
    """Delete what came of a create that nobody waits for any more: only this worker knows of it."""
    for tries in range(1, UNDO_TRIES + 1):
        try:
            world.servers.delete(server)
            break
        except (Retry, OutcomeUnknown) as exc:
            log.error("boot.not_undone", server=server, tries=tries, why=exc.message)
            world.clock.sleep(backoff(tries, first=FIRST_RETRY, most=MOST_RETRY, jitter=0.0))
    with world.database.write() as tx:
        tx.events.spent(server, boot.project, boot.id, world.clock.now())


def _make_room(world: World, boot: Boot, failed: str, refused: QuotaExceeded) -> Boot:
    """The owner's quota has no room for both: delete the failed server first, then create.

    That it is meant to be deleted is journaled before it is: from then on its absence is our doing
    and ends nothing. What its successor is made of is in the boot's row since the attempt began.
    """
    log.info("boot.room_for_quota", why=refused.message)
    with world.database.write() as tx:
        now = world.clock.now()
        boot = tx.boots.postpone(boot, boot.wake_at, boot.reason, sent_at=None, removed_at=now)
    try:
        there = world.servers.delete(failed)
    except (Refuse, AskOperator) as exc:
        return _kept(world, boot, exc)
    if not there:
        return _give_back(world, boot, BootState.CANCELLED, _OWNER_DELETED)
    return _send(world, boot)


def _kept(world: World, boot: Boot, exc: ChangeoverError) -> Boot:
    """Nova does not let the failed server go: it stays, and its owner's word about it counts."""
    with world.database.write() as tx:
        boot = tx.boots.postpone(boot, boot.wake_at, boot.reason, removed_at=None)
    reason = Reason("boot.create_refused", f"the quota has no room for both, and: {exc.message}")
    return _failed_again(world, boot, reason)


def _refused(world: World, boot: Boot, exc: ChangeoverError) -> Boot:
    """Quota, policy or a bad request: trying again at once would only be refused again."""
    reason = Reason("boot.create_refused", f"Nova refused the create: {exc.message}")
    return _failed_again(world, boot, reason)


def _building(world: World, boot: Boot) -> Boot:
    """Look how the build goes."""
    if boot.successor is None:
        raise NotFound(f"boot {boot.id} is building nothing", boot=boot.id)
    server = world.servers.get(boot.successor)
    now = world.clock.now()
    if server is None:
        return _give_back(
            world,
            boot,
            BootState.CANCELLED,
            Reason("boot.successor_deleted", "its owner deleted the successor while it was built"),
        )
    if server.status in {ServerStatus.ACTIVE, ServerStatus.OTHER} or server.launched:
        # Also if its owner stopped or broke it before anybody looked: it is not ours to delete.
        return _booted(world, boot, server)
    if server.status is ServerStatus.BUILD and boot.server and boot.removed_at is None:
        ended = _unwanted(world, boot, boot.server, server)
        if ended is not None:
            return ended
    awaited = _fault_awaited(world, boot, server)
    if awaited is not None:
        return awaited
    if server.status is ServerStatus.ERROR:
        try:
            world.servers.delete(server.uuid)
        except (Refuse, AskOperator) as exc:
            if now < boot.expires_at:
                raise
            text = f"its successor {server.uuid} failed, and may not be deleted: {exc.message}"
            return _give_back(world, boot, BootState.EXPIRED, Reason("boot.not_deleted", text))
        said = server.fault[:300] or "Nova does not say why"
        reason = Reason("boot.failed_again", f"the successor failed: {said}")
        return _failed_again(world, boot, reason)
    return _look_again(world, boot, now + WATCH_SECONDS, boot.reason)


def _unwanted(world: World, boot: Boot, failed: str, building: Server) -> Boot | None:
    """End the boot if its owner deleted the failed server while the successor is still built."""
    if world.servers.get(failed) is not None:
        return None
    world.servers.delete(building.uuid)
    return _give_back(world, boot, BootState.CANCELLED, _OWNER_DELETED)


def _booted(world: World, boot: Boot, server: Server) -> Boot:
    """Tidy up, then commit the outcome: the failed server is of no use to anybody now.

    In this order a crash in between only tidies twice. A cloud that forbids it does not undo the
    success; one that does not answer is asked again.
    """
    if boot.server is not None and boot.removed_at is None:
        try:
            world.servers.link(boot.server, {REPLACED_BY: server.uuid})
            if world.settings.delete_failed != "never":
                world.servers.delete(boot.server)
        except (Refuse, AskOperator) as exc:
            log.warning("boot.tidy_refused", why=exc.message)
    reason = Reason("boot.booted", f"runs as {server.uuid} on {server.host}")
    with world.database.write() as tx:
        now = world.clock.now()
        booted = tx.boots.move(boot, BootState.BOOTED, now, reason=reason)
        tx.boots.drop_promises(boot.id)
        # What was promised to it no longer keeps its devices from others. Mostly it uses them
        # now: a moment later is soon enough, and one look then serves all that booted by then.
        if tx.boots.wake(now, at=now + AFTER_SECONDS):
            tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now, due_at=now + AFTER_SECONDS)
        return booted


def _failed_again(world: World, boot: Boot, reason: Reason) -> Boot:
    """Put it back with its age; after too many attempts it is over."""
    now = world.clock.now()
    if boot.attempt >= world.settings.max_attempts:
        filtered = why_filtered(world, boot) if NO_VALID_HOST in reason.text else None
        if filtered is not None:
            return _give_back(world, boot, BootState.DECLINED, filtered)
        return _give_back(
            world,
            boot,
            BootState.EXPIRED,
            Reason(
                "boot.attempts_spent",
                f"{boot.attempt} attempts failed; the last: {reason.text}",
            ),
        )
    wait = backoff(boot.attempt, first=FIRST_RETRY, most=MOST_RETRY, jitter=0.0)
    with world.database.write() as tx:
        if boot.successor is not None:
            tx.events.spent(boot.successor, boot.project, boot.id, now)
        boot = tx.boots.move(
            boot,
            BootState.WAITING,
            now,
            reason=reason,
            wake_at=now + wait,
            sent_at=None,
            successor=None,
        )
        tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now, due_at=now + wait)
    return boot


def _give_back(world: World, boot: Boot, state: BootState, reason: Reason) -> Boot:
    """It ends here: what was held for it is for others."""
    with world.database.write() as tx:
        now = world.clock.now()
        promises = tx.boots.promises(boot=boot.id)
        boot = tx.boots.move(boot, state, now, reason=reason)
        if tx.boots.wake(now):
            tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)
    for device in devices_of(world, promises):
        try:
            open_slots(world, device)
        except ChangeoverError as exc:
            log.warning("slots.still_held", device=device.name, why=exc.message)
    return boot


_STEPS = {
    BootState.READY: _ready,
    BootState.CREATING: _creating,
    BootState.BUILDING: _building,
}
