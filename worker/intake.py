"""Intake: what is told goes in once, durably, or is kept as a dead letter. Nothing is lost.

The listener, ``changeover replay`` and the replay of dead letters all come through here. A
message may be acknowledged as soon as :meth:`Intake.accept` has returned, and not before.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import structlog
from sqlalchemy.exc import DBAPIError

from changeover.models.boot import Boot
from changeover.models.demand import asks_for_devices
from changeover.models.errors import Invalid, Reread, Retry
from changeover.models.notification import (
    BuildFailed,
    Ignored,
    Notification,
    SchedulingBegan,
    ServerCreated,
    ServerDeleted,
    parse_notification,
)
from changeover.models.placement import ResourceRequest
from changeover.models.reasons import Reason
from changeover.models.states import BOOT_OVER, BootState
from changeover.policies.request import FlavorRequest, request_of_flavor, request_of_spec
from changeover.worker.cancel import cancel_boot
from changeover.worker.ports.clock import Clock
from changeover.worker.ports.servers import MARKER, request_id_of
from changeover.worker.queues import BOOT_QUEUE, JUDGE, PLAN_QUEUE, REBOOT
from changeover.worker.settings import Settings
from changeover.worker.store import Database, Tx

log = structlog.get_logger(__name__)

KEPT_CHARACTERS = 65_536
"""How much of a dead letter's body is kept."""

# A quote inside the value has more backslashes before it than the one that ends it.
_TOKEN = re.compile(
    r"""((?:auth|subject)[_-]?token|password|admin_?pass|secret)(\\*["']\s*:\s*)(\\*["'])"""
    r""".*?(?:(?<!\\)(\3)|\Z)""",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of one message: ``outcome`` is a static name, ``boot`` the boot it made."""

    outcome: str
    boot: str | None = None
    reason: str = ""


class Intake:
    """Accepts raw notifications."""

    def __init__(self, database: Database, clock: Clock, settings: Settings) -> None:
        self.database = database
        self.clock = clock
        self.settings = settings

    def accept(self, body: bytes | str, source: str) -> Accepted:
        """Accept one message; see :meth:`accept_all`."""
        return self.accept_all([body], source)[0]

    def accept_all(self, bodies: Sequence[bytes | str], source: str) -> list[Accepted]:
        """Accept messages in order, with one commit for all.

        Raises :class:`~changeover.models.errors.Retry` if the database cannot be reached: then
        nothing was accepted and nothing may be acknowledged. No other error escapes.
        """
        parsed = [self._parse(body) for body in bodies]
        try:
            accepted = self._store(bodies, parsed, source)
        except Retry:
            raise
        except DBAPIError:
            if len(bodies) == 1:
                return [self._unstorable(bodies[0], source)]
            # One of them cannot be stored: one at a time, so that only that one is set aside.
            return [self.accept(body, source) for body in bodies]
        for outcome, count in Counter(a.outcome for a in accepted).items():
            log.info("intake.accepted", outcome=outcome, count=count, source=source)
        return accepted

    def accept_found(self, found: Sequence[BuildFailed], source: str) -> int:
        """Accept failures that were found by looking, not told of; returns how many were news."""
        with self.database.read() as tx:
            known = tx.boots.known_servers([failed.server for failed in found])
        news = [failed for failed in found if failed.server not in known]
        if not news:
            return 0
        with self.database.write() as tx:
            accepted = [self._one(tx, f"found: {f.server}", f, source) for f in news]
        return sum(one.outcome == "boot" for one in accepted)

    def _parse(self, body: bytes | str) -> Notification | Invalid:
        try:
            return parse_notification(body)
        except Invalid as exc:
            return exc

    def _store(
        self,
        bodies: Sequence[bytes | str],
        parsed: Sequence[Notification | Invalid],
        source: str,
    ) -> list[Accepted]:
        # Made before the transaction: on SQLite nobody else writes while it is open.
        boots = self._boots(parsed) if len(parsed) > 1 else {}
        with self.database.write() as tx:
            fresh = self._store_fresh(tx, parsed, boots, source)
            return [
                fresh.get(index) or self._one(tx, body, notification, source)
                for index, (body, notification) in enumerate(zip(bodies, parsed, strict=True))
            ]

    def _boots(
        self, parsed: Sequence[Notification | Invalid]
    ) -> dict[int, tuple[BuildFailed, Boot]]:
        """Failures that make sense, each with its boot, by their place."""
        boots = {}
        for index, failed in enumerate(parsed):
            if isinstance(failed, BuildFailed):
                with contextlib.suppress(Invalid):
                    boots[index] = failed, self._boot(failed)
        return boots

    def _store_fresh(
        self,
        tx: Tx,
        parsed: Sequence[Notification | Invalid],
        boots: Mapping[int, tuple[BuildFailed, Boot]],
        source: str,
    ) -> dict[int, Accepted]:
        """Store failures that nobody told of before, all at once: a storm has little else.

        Only servers that no other message of the batch is about: their order does not matter.
        """
        if not boots:
            return {}
        told = [n for n in parsed if not isinstance(n, (Invalid, Ignored))]
        about = Counter(n.server for n in told)
        ids = Counter(n.message_id for n in told)
        known = tx.boots.known_servers(about)
        known |= tx.events.gone_of(about).keys()
        seen = tx.events.seen_of(ids)
        boots = {
            index: (failed, boot)
            for index, (failed, boot) in boots.items()
            if about[failed.server] == ids[failed.message_id] == 1
            and failed.server not in known
            and failed.message_id not in seen
        }
        if not boots:
            return {}
        tx.boots.add_all([boot for _, boot in boots.values()])
        self._asked(tx, [boot for _, boot in boots.values()])
        tx.events.add_all([self._event(f, source, "boot", b.id) for f, b in boots.values()])
        tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=self.clock.now())
        return {index: Accepted("boot", boot.id) for index, (_, boot) in boots.items()}

    def _event(
        self,
        notification: BuildFailed | SchedulingBegan | ServerDeleted | ServerCreated,
        source: str,
        outcome: str,
        boot_id: str | None,
    ) -> dict[str, Any]:
        return {
            "message_id": notification.message_id,
            "kind": type(notification).__name__,
            "source": source,
            "server": notification.server,
            "project": notification.project,
            "facts": {
                "request_id": notification.request_id,
                "timestamp": notification.timestamp,
            },
            "received_at": self.clock.now(),
            "outcome": outcome,
            "boot_id": boot_id,
        }

    def _one(
        self, tx: Tx, body: bytes | str, notification: Notification | Invalid, source: str
    ) -> Accepted:
        if isinstance(notification, Invalid):
            return self._dead_letter(tx, body, notification.message, source)
        if isinstance(notification, Ignored):
            return Accepted("ignored", reason=notification.reason)
        if tx.events.seen(notification.message_id):
            return Accepted("duplicate")
        if isinstance(notification, BuildFailed):
            try:
                accepted = self._failed(tx, notification)
            except Invalid as exc:
                return self._dead_letter(tx, body, exc.message, source)
        elif isinstance(notification, ServerDeleted):
            accepted = self._deleted(tx, notification)
        elif isinstance(notification, SchedulingBegan):
            accepted = self._scheduling_began(tx, notification)
            if accepted.boot is None:
                return accepted
        else:
            accepted = self._created(tx, notification)
            if accepted.boot is None:
                return accepted
        event = self._event(notification, source, accepted.outcome, accepted.boot)
        return accepted if tx.events.add(**event) else Accepted("duplicate")

    def _failed(self, tx: Tx, failed: BuildFailed) -> Accepted:
        now = self.clock.now()
        known = tx.boots.of_server(failed.server)
        if known is not None:
            if known.successor == failed.server and known.state not in BOOT_OVER:
                self._hurry(tx, known.id, now)
                return Accepted("successor_failed", known.id)
            return Accepted("known", known.id)
        gone = tx.events.gone_of([failed.server])
        if failed.server in gone:  # told of late, or twice over another way: nobody waits for it
            return Accepted("gone", gone[failed.server])
        boot = self._boot(failed)
        if not tx.boots.add(boot):  # another listener was told of it this moment
            there = tx.boots.of_server(failed.server)
            return Accepted("known", None if there is None else there.id)
        self._asked(tx, [boot])
        tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)
        return Accepted("boot", boot.id)

    def _asked(self, tx: Tx, boots: Sequence[Boot]) -> None:
        """Record that somebody asked for devices, and found no room."""
        kinds: dict[tuple[str, str | None], str] = {}
        arrivals = []
        for boot in boots:
            if boot.server is None or not asks_for_devices(boot.request, boot.device_profile):
                continue
            same = boot.request_key, boot.device_profile
            if same not in kinds:
                kinds[same] = tx.demand.kind(boot.request, boot.device_profile)
            arrivals.append((boot.server, kinds[same], boot.failed_at))
        tx.demand.failed(arrivals)

    def _built(self, tx: Tx, created: ServerCreated, boot: Boot | None) -> bool:
        """Record a server that was built; ``True`` if it asks for devices, and is news."""
        at = min(created.timestamp, self.clock.now())
        if boot is not None:
            if boot.successor == created.server:
                self._succeeded(tx, boot, created.server, at)
            return False
        if created.asked is None:
            return False
        try:
            asked = request_of_flavor(created.asked)
        except Invalid:
            return False  # built all the same: of what, nobody can say
        if not asks_for_devices(asked.request, asked.device_profile):
            return False
        kind = tx.demand.kind(asked.request, asked.device_profile)
        return tx.demand.built(created.server, kind, at)

    def _succeeded(self, tx: Tx, boot: Boot, successor: str, at: float) -> None:
        if boot.server is not None:
            tx.demand.succeeded(boot.server, successor, at)
        elif asks_for_devices(boot.request, boot.device_profile):
            # It was asked of Changeover itself: no server of its own has failed before.
            kind = tx.demand.kind(boot.request, boot.device_profile)
            tx.demand.built(successor, kind, at)

    def _gone(self, tx: Tx, deleted: ServerDeleted, boot: Boot | None) -> None:
        """Record that a server is gone, unless it only makes way for its successor."""
        replaced = (
            boot is not None
            and boot.server == deleted.server
            and (boot.removed_at is not None or boot.successor is not None)
        )
        if not replaced:
            tx.demand.ended(deleted.server, min(deleted.timestamp, self.clock.now()))

    def _boot(self, failed: BuildFailed) -> Boot:
        """The boot of a failed server. Raises :class:`Invalid` if its flavor makes no sense."""
        now = self.clock.now()
        asked = (
            FlavorRequest(ResourceRequest(groups=()))
            if failed.spec is None
            else request_of_spec(failed.spec, self.settings.request_filters)
        )
        # An event that was long on its way is as old as it says, but never from the future.
        failed_at = min(failed.timestamp, now) if failed.timestamp > 0 else now
        return Boot(
            id=str(uuid4()),
            server=failed.server,
            project=failed.project,
            user=failed.user,
            name=failed.spec.flavor.name if failed.spec is not None else "",
            group_id=failed.request_id,
            request=asked.request,
            request_key=asked.request.key,
            device_profile=asked.device_profile,
            state=BootState.RECEIVED,
            reason=Reason("boot.received", "accepted, not judged yet"),
            priority=1.0,
            failed_at=failed_at,
            received_at=now,
            expires_at=now + self.settings.patience_seconds,
            wake_at=now,
            attempt=0,
        )

    def _deleted(self, tx: Tx, deleted: ServerDeleted) -> Accepted:
        now = self.clock.now()
        boot = tx.boots.of_server(deleted.server)
        self._gone(tx, deleted, boot)
        outcome = "woke"
        mine = boot is not None and boot.server == deleted.server
        # A failed server that we set out to delete says nothing about its owner's wish.
        if boot is not None and mine and boot.state not in BOOT_OVER and boot.removed_at is None:
            outcome = "owner_deleted"
            self._cancel(tx, boot, now)
        if boot is None:
            boot = self._unanswered(tx, deleted, now)
            outcome = "woke" if boot is None else "successor_deleted"
        # Most servers go while nobody waits for what they had: no round is made for these.
        if tx.boots.wake(now) or tx.tasks.all(queued_only=True, limit=1):
            tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)
        return Accepted(outcome, None if boot is None else boot.id)

    def _unanswered(self, tx: Tx, deleted: ServerDeleted, now: float) -> Boot | None:
        """The boot that made it by a create that was not answered: Nova soon forgets its marker."""
        marker = deleted.metadata.get(MARKER, "")
        boot = tx.boots.get(marker.partition(".")[0])
        if boot is None or boot.state is not BootState.CREATING or boot.marker != marker:
            return None
        reason = Reason("boot.building", f"was created again as {deleted.server}, now deleted")
        made = tx.boots.created(boot, deleted.server, now, reason)
        if made is not None:
            self._hurry(tx, made.id, now)
        return made

    def _scheduling_began(self, tx: Tx, began: SchedulingBegan) -> Accepted:
        """Whose create it is, if that was not answered yet: it may be gone before it is found."""
        now = self.clock.now()
        for boot in tx.boots.in_states([BootState.CREATING]):
            mine = request_id_of(boot.marker) == began.global_request_id
            if mine and boot.project == began.project:
                if not tx.boots.told(boot, began.server):
                    break
                self._hurry(tx, boot.id, now)
                return Accepted("successor_told", boot.id)
        return Accepted("ignored", reason="no create of Changeover's waits for its answer")

    def _hurry(self, tx: Tx, boot_id: str, now: float) -> None:
        """Something happened to a boot that is being created: whoever watches it looks now."""
        tx.boots.hurry(boot_id, now)
        tx.hints.add(REBOOT, boot_id, queue=BOOT_QUEUE, now=now)

    def _cancel(self, tx: Tx, boot: Boot, now: float) -> None:
        """The owner has given the server up; unless a create is at work, nothing is to be done."""
        reason = Reason("boot.owner_deleted", "its owner deleted the failed server")
        try:
            if boot.state in {BootState.CREATING, BootState.BUILDING}:
                self._hurry(tx, boot.id, now)
            else:
                cancel_boot(tx, boot, reason, now)
        except Reread:
            # Somebody is working on it this moment, and looks at the server before it creates.
            log.info("intake.boot_busy", boot=boot.id)

    def _created(self, tx: Tx, created: ServerCreated) -> Accepted:
        boot = tx.boots.of_server(created.server)
        news = self._built(tx, created, boot)
        if boot is None and created.host and created.flavor:
            kept = tx.keeps.served(
                project=created.project, flavor=created.flavor, host=created.host
            )
            if kept is not None:
                return Accepted("owner_booted", kept)
        if news:
            return Accepted("demand")
        if boot is None or boot.successor != created.server or boot.state in BOOT_OVER:
            return Accepted("ignored", reason="a server that Changeover has nothing to do with")
        self._hurry(tx, boot.id, self.clock.now())
        return Accepted("successor_built", boot.id)

    def _dead_letter(self, tx: Tx, body: bytes | str, reason: str, source: str) -> Accepted:
        raw = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
        text = raw[: KEPT_CHARACTERS * 4].decode("utf-8", "replace")
        tx.events.dead_letter(
            digest=hashlib.sha256(raw).hexdigest(),
            source=source,
            reason=reason.encode("utf-8", "replace").decode()[:512].replace("\x00", "\\0"),
            # Without NUL, which no database stores; in UTF-16 it would hide a token from the mask.
            body=_TOKEN.sub(r"\1\2\3[removed]\4", text.replace("\x00", "")[:KEPT_CHARACTERS]),
            size=len(raw),
            now=self.clock.now(),
        )
        log.warning("intake.dead_letter", reason=reason[:512], source=source, size=len(raw))
        return Accepted("dead_letter", reason=reason)

    def _unstorable(self, body: bytes | str, source: str) -> Accepted:
        with self.database.write() as tx:
            return self._dead_letter(tx, body, "the database refuses its values", source)
