"""Boots and what is promised to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from sqlalchemy import Table, and_, case, delete, exists, func, insert, or_, select, update
from sqlalchemy.orm import aliased

from changeover.models.boot import Boot, BootPromise
from changeover.models.errors import Reread
from changeover.models.placement import ResourceRequest
from changeover.models.reasons import Reason
from changeover.models.states import (
    BOOT_OVER,
    BOOT_TRANSITIONS,
    BOOT_WANTS,
    BootState,
    check_transition,
)
from changeover.models.tables import BootRow, DeviceRow, PromiseRow
from changeover.worker.store.audit import Audit
from changeover.worker.store.callbacks import Callbacks
from changeover.worker.store.leases import Switches
from changeover.worker.store.session import Session, columns_of

_TABLE = cast("Table", BootRow.__table__)

IDS_AT_ONCE = 500
"""Ids in one statement at most."""

WOKEN = "woken"
"""The switch that notes when waiting boots were woken last."""


class Boots:
    """Boots, by id. A boot changes state by compare-and-swap only."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, boot: Boot) -> bool:
        """Store a new boot; ``False`` if its server, or its submission, already has one."""
        statement = self.session.insert(BootRow).values(**columns_of(boot))
        added = self.session.row(statement.on_conflict_do_nothing().returning(BootRow.id))
        if added is not None:
            Audit(self.session).add(
                boot.received_at, "intake", "boot.received", boot.id, server=boot.server
            )
        return added is not None

    def add_all(self, boots: Sequence[Boot]) -> None:
        """Store new boots at once. Raises SQLAlchemy's ``IntegrityError`` if one is there."""
        self.session.connection.execute(insert(_TABLE), [columns_of(boot) for boot in boots])
        Audit(self.session).add_all(
            [
                {
                    "at": boot.received_at,
                    "actor": "intake",
                    "action": "boot.received",
                    "subject": boot.id,
                    "facts": {"server": boot.server},
                }
                for boot in boots
            ]
        )

    def known_servers(self, servers: Iterable[str]) -> set[str]:
        """Those of the servers that are some boot's failed server or successor."""
        wanted = list(servers)
        rows = self.session.rows(
            select(BootRow.server, BootRow.successor).where(
                or_(BootRow.server.in_(wanted), BootRow.successor.in_(wanted))
            )
        )
        return {name for row in rows for name in (row["server"], row["successor"]) if name}

    def get(self, boot_id: str) -> Boot | None:
        """The boot of that id."""
        row = self.session.row(select(BootRow.__table__).where(BootRow.id == boot_id))
        return None if row is None else Boot(**row)

    def locked(self, boot_id: str) -> Boot | None:
        """The boot of that id; nobody else moves it before the commit."""
        row = self.session.row(
            select(BootRow.__table__).where(BootRow.id == boot_id).with_for_update()
        )
        return None if row is None else Boot(**row)

    def of_server(self, server: str) -> Boot | None:
        """The boot whose successor this is, else the one whose failed server it is.

        A successor's failure can be told before its create is answered: then there are both.
        """
        row = self.session.row(
            select(BootRow.__table__)
            .where(or_(BootRow.server == server, BootRow.successor == server))
            .order_by(case((BootRow.successor == server, 0), else_=1))
        )
        return None if row is None else Boot(**row)

    def of_submission(self, submission: str) -> list[Boot]:
        """The boots of one submitted request, in order; see :mod:`changeover.worker.submit`."""
        rows = self.session.rows(
            select(BootRow.__table__)
            .where(BootRow.submission.startswith(f"{submission}."))
            .order_by(BootRow.submission)
        )
        return [Boot(**row) for row in rows]

    def trusts_spent(self, limit: int) -> list[str]:
        """Trusts that were made for requests of which every boot is over, not taken back yet."""
        other = aliased(BootRow)
        needed = exists().where(other.trust == BootRow.trust, ~other.state.in_(list(BOOT_OVER)))
        rows = self.session.rows(
            select(BootRow.trust)
            .where(BootRow.trust.is_not(None), BootRow.trust_withdrawn_at.is_(None), ~needed)
            .group_by(BootRow.trust)
            .order_by(func.min(BootRow.received_at))
            .limit(limit)
        )
        return [row["trust"] for row in rows]

    def trust_withdrawn(self, trust: str, now: float) -> None:
        """The trust was taken back."""
        self.session.connection.execute(
            update(BootRow).where(BootRow.trust == trust).values(trust_withdrawn_at=now)
        )

    def of_successor(self, server: str) -> Boot | None:
        """The boot whose successor this is."""
        row = self.session.row(select(BootRow.__table__).where(BootRow.successor == server))
        return None if row is None else Boot(**row)

    def in_states(
        self, states: Iterable[BootState], *, wake_before: float | None = None, limit: int = 100_000
    ) -> list[Boot]:
        """Boots in any of ``states``, oldest failure first."""
        statement = select(BootRow.__table__).where(BootRow.state.in_(list(states)))
        if wake_before is not None:
            statement = statement.where(BootRow.wake_at <= wake_before)
        rows = self.session.rows(statement.order_by(BootRow.failed_at, BootRow.id).limit(limit))
        return [Boot(**row) for row in rows]

    def listed(self, *, over: bool | None, limit: int) -> list[Boot]:
        """Boots for people: newest first; finished ones only or unfinished ones only if said."""
        statement = select(BootRow.__table__)
        if over is not None:
            in_over = BootRow.state.in_(list(BOOT_OVER))
            statement = statement.where(in_over if over else ~in_over)
        rows = self.session.rows(statement.order_by(BootRow.received_at.desc()).limit(limit))
        return [Boot(**row) for row in rows]

    def wanting(self, now: float) -> bool:
        """Whether any boot is demand for the planner now."""
        row = self.session.row(
            select(BootRow.id)
            .where(BootRow.state.in_(list(BOOT_WANTS)), BootRow.wake_at <= now)
            .limit(1)
        )
        return row is not None

    def counts(self) -> dict[BootState, int]:
        """How many boots are in each state."""
        rows = self.session.rows(
            select(BootRow.state, func.count().label("n")).group_by(BootRow.state)
        )
        return {row["state"]: row["n"] for row in rows}

    def move(
        self,
        boot: Boot,
        state: BootState,
        now: float,
        *,
        reason: Reason | None = None,
        **changes: Any,
    ) -> Boot:
        """Move a boot as it was read to ``state``, or raise :class:`Reread`.

        What was promised to it is dropped when it leaves the states that promises belong to. Its
        outcome is told to its project's callback target: the two are committed together.
        """
        check_transition(BOOT_TRANSITIONS, boot.state, state)
        over = state in BOOT_OVER
        values: dict[str, Any] = {"state": state, **changes}
        if reason is not None:
            values["reason"] = reason
        if over:
            values.update(finished_at=now, lease_owner=None, lease_until=0.0)
        row = self.session.row(
            update(BootRow)
            .where(
                BootRow.id == boot.id,
                BootRow.state == boot.state,
                BootRow.attempt == boot.attempt,
                # A lapsed lease that somebody else has taken makes this move void.
                or_(BootRow.lease_owner.is_(None), BootRow.lease_owner == boot.lease_owner)
                if boot.lease_owner is not None
                else or_(BootRow.lease_owner.is_(None), BootRow.lease_until < now),
            )
            .values(**values)
            .returning(BootRow.__table__)
        )
        if row is None:
            raise Reread(f"boot {boot.id} is not {boot.state} any more", boot=boot.id)
        if over or state in BOOT_WANTS:
            if state is BootState.BOOTED:
                self._served(boot.id)
            self.drop_promises(boot.id)
        if state is not boot.state:
            facts = {} if reason is None else {"reason": reason.as_json()}
            Audit(self.session).add(now, "worker", f"boot.{state}", boot.id, **facts)
        moved = Boot(**row)
        if over:
            Callbacks(self.session).tell(moved, now)
        return moved

    def wait_on(
        self, ids: Sequence[str], attempt: int, reason: Reason, wake_at: float, now: float
    ) -> None:
        """Note why boots go on waiting after that many attempts; those that moved on are left."""
        for start in range(0, len(ids), IDS_AT_ONCE):
            self.session.connection.execute(
                update(BootRow)
                .where(
                    BootRow.id.in_(ids[start : start + IDS_AT_ONCE]),
                    BootRow.state == BootState.WAITING,
                    BootRow.attempt == attempt,
                    or_(BootRow.lease_owner.is_(None), BootRow.lease_until < now),
                )
                .values(reason=reason, wake_at=wake_at)
            )

    def created(self, boot: Boot, successor: str, now: float, reason: Reason) -> Boot | None:
        """The boot's current attempt made ``successor``; ``None`` if that, or another, is known.

        Whoever holds the lease by now has not found it yet: what it decides next is void.
        """
        row = self.session.row(
            update(BootRow)
            .where(
                BootRow.id == boot.id,
                BootRow.state == BootState.CREATING,
                BootRow.attempt == boot.attempt,
                or_(BootRow.successor.is_(None), BootRow.successor == successor),
            )
            .values(state=BootState.BUILDING, successor=successor, reason=reason)
            .returning(BootRow.__table__)
        )
        if row is None:
            return None
        Audit(self.session).add(
            now, "worker", f"boot.{BootState.BUILDING}", boot.id, reason=reason.as_json()
        )
        return Boot(**row)

    def told(self, boot: Boot, successor: str) -> bool:
        """Note what the boot's current attempt made, before its create call is answered.

        It goes on being looked for by its marker: there may be a second one. ``False`` if one is
        known.
        """
        done = self.session.connection.execute(
            update(BootRow)
            .where(
                BootRow.id == boot.id,
                BootRow.state == BootState.CREATING,
                BootRow.attempt == boot.attempt,
                BootRow.sent_at.is_not(None),
                BootRow.successor.is_(None),
            )
            .values(successor=successor)
        )
        return done.rowcount == 1

    def describe(self, boot: Boot, request: ResourceRequest, device_profile: str | None) -> None:
        """Say what a boot asks for; raises :class:`Reread` if it was judged meanwhile."""
        done = self.session.connection.execute(
            update(BootRow)
            .where(BootRow.id == boot.id, BootRow.state == BootState.RECEIVED)
            .values(request=request, request_key=request.key, device_profile=device_profile)
        )
        if done.rowcount != 1:
            raise Reread(f"boot {boot.id} was judged meanwhile", boot=boot.id)

    def put_off(self, boot: Boot, wake_at: float) -> None:
        """Judge a boot that was not judged yet only then."""
        self.session.connection.execute(
            update(BootRow)
            .where(BootRow.id == boot.id, BootRow.state == BootState.RECEIVED)
            .values(wake_at=wake_at)
        )

    def postpone(self, boot: Boot, wake_at: float, reason: Reason, **changes: Any) -> Boot:
        """Look at a leased boot again at ``wake_at``, or raise :class:`Reread`."""
        row = self.session.row(
            update(BootRow)
            .where(
                BootRow.id == boot.id,
                BootRow.state == boot.state,
                BootRow.lease_owner == boot.lease_owner,
            )
            .values(wake_at=wake_at, reason=reason, **changes)
            .returning(BootRow.__table__)
        )
        if row is None:
            raise Reread(f"the lease of boot {boot.id} is lost", boot=boot.id)
        return Boot(**row)

    def claim(
        self, boot_id: str, states: Iterable[BootState], owner: str, now: float, seconds: float
    ) -> Boot | None:
        """Lease a boot that is due and that nobody else works on."""
        row = self.session.row(
            update(BootRow)
            .where(
                BootRow.id == boot_id,
                BootRow.state.in_(list(states)),
                BootRow.wake_at <= now,
                or_(BootRow.lease_owner.is_(None), BootRow.lease_until < now),
            )
            .values(lease_owner=owner, lease_until=now + seconds)
            .returning(BootRow.__table__)
        )
        return None if row is None else Boot(**row)

    def release(self, boot_id: str, owner: str) -> None:
        """Give the lease back."""
        self.session.connection.execute(
            update(BootRow)
            .where(BootRow.id == boot_id, BootRow.lease_owner == owner)
            .values(lease_owner=None, lease_until=0.0)
        )

    def renew(self, boot_ids: Iterable[str], owner: str, until: float) -> None:
        """Prolong leases."""
        self.session.connection.execute(
            update(BootRow)
            .where(BootRow.id.in_(list(boot_ids)), BootRow.lease_owner == owner)
            .values(lease_until=until)
        )

    def wake(self, now: float, *, at: float | None = None) -> int:
        """Something has changed that may help: all waiting boots are judged again, ``at`` then.

        The time is noted besides: a round that gathered before this, and ends after it, must not
        put its boots to sleep over what has changed meanwhile.
        """
        Switches(self.session).set(WOKEN, {"at": now}, now)
        return self.rouse(now if at is None else at)

    def rouse(self, at: float) -> int:
        """All waiting boots are judged again at that time, if they were to be only later."""
        done = self.session.connection.execute(
            update(BootRow)
            .where(BootRow.state == BootState.WAITING, BootRow.wake_at > at)
            .values(wake_at=at)
        )
        return int(done.rowcount)

    def hurry(self, boot_id: str, now: float) -> None:
        """Something happened to a boot that is being created: look at it now, not later."""
        self.session.connection.execute(
            update(BootRow)
            .where(
                BootRow.id == boot_id,
                BootRow.state.in_([BootState.CREATING, BootState.BUILDING]),
                BootRow.wake_at > now,
            )
            .values(wake_at=now)
        )

    def woken_since(self, then: float) -> bool:
        """Whether something changed since then; see :meth:`wake`.

        Ask last: whoever would wake boots from now on waits for the commit, and finds them.
        """
        woken = Switches(self.session).get(WOKEN, lock=True)
        return woken is not None and float(woken["at"]) >= then

    # -- promises ---------------------------------------------------------------------------

    def promise(self, promise: BootPromise) -> None:
        """Promise slots to a boot."""
        statement = self.session.insert(PromiseRow).values(**columns_of(promise))
        self.session.connection.execute(
            statement.on_conflict_do_update(
                index_elements=[PromiseRow.boot, PromiseRow.device],
                set_={
                    "slots": promise.slots,
                    "changeover": promise.changeover,
                    "held_until": promise.held_until,
                },
            )
        )

    def promises(
        self,
        *,
        boot: str | None = None,
        device: str | None = None,
        changeover: str | None = None,
    ) -> list[BootPromise]:
        """Promises to a boot, on a device, or made by a changeover; all without a filter."""
        statement = select(PromiseRow.__table__)
        for column, value in (
            (PromiseRow.boot, boot),
            (PromiseRow.device, device),
            (PromiseRow.changeover, changeover),
        ):
            if value is not None:
                statement = statement.where(column == value)
        rows = self.session.rows(statement.order_by(PromiseRow.boot, PromiseRow.device))
        return [BootPromise(**row) for row in rows]

    def hold(self, changeover: str, until: float) -> None:
        """The slots that a changeover made are reserved in Placement until then."""
        self.session.connection.execute(
            update(PromiseRow).where(PromiseRow.changeover == changeover).values(held_until=until)
        )

    def unhold(self, boot: str) -> None:
        """The boot's slots are no longer reserved for it: it is about to take them."""
        self.session.connection.execute(
            update(PromiseRow).where(PromiseRow.boot == boot).values(held_until=None)
        )

    def _served(self, boot: str) -> None:
        """The devices that gave the boot its slots have served somebody."""
        given = select(PromiseRow.device).where(PromiseRow.boot == boot)
        self.session.connection.execute(
            update(DeviceRow).where(DeviceRow.provider.in_(given)).values(unserved=None)
        )

    def drop_promises(self, boot: str) -> None:
        """Nothing is promised to the boot any more."""
        self.session.connection.execute(delete(PromiseRow).where(PromiseRow.boot == boot))

    def holds_lapsed(self, now: float) -> list[BootPromise]:
        """Promises that were held too long for a boot that still was not created."""
        rows = self.session.rows(
            select(PromiseRow.__table__).where(
                and_(PromiseRow.held_until.is_not(None), PromiseRow.held_until < now)
            )
        )
        return [BootPromise(**row) for row in rows]
