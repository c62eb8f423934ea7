"""Changeovers and the fences that they hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import delete, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from changeover.models.changeover import Changeover, Fence
from changeover.models.errors import Busy, Reread
from changeover.models.reasons import Reason
from changeover.models.states import (
    CHANGEOVER_LIVE,
    CHANGEOVER_MOVING,
    CHANGEOVER_TRANSITIONS,
    ChangeoverState,
    check_transition,
)
from changeover.models.tables import ChangeoverRow, FenceRow
from changeover.worker.store.audit import Audit
from changeover.worker.store.session import Session, columns_of

FINISHED = frozenset({ChangeoverState.DONE, ChangeoverState.ABANDONED, ChangeoverState.RELEASED})


class Changeovers:
    """Changeovers, by id. Only the holder of the lease moves one."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, changeover: Changeover) -> None:
        """Start a changeover. Raises :class:`Busy` if the device has a live one."""
        try:
            with self.session.connection.begin_nested():
                self.session.connection.execute(
                    insert(ChangeoverRow).values(**columns_of(changeover))
                )
        except IntegrityError as exc:
            raise Busy(
                f"device {changeover.device} already has a live changeover",
                device=changeover.device,
            ) from exc
        Audit(self.session).add(
            changeover.created_at,
            "planner",
            "changeover.planned",
            changeover.id,
            device=changeover.device,
            function=changeover.to_function,
        )

    def get(self, changeover_id: str) -> Changeover | None:
        """The changeover of that id."""
        row = self.session.row(
            select(ChangeoverRow.__table__).where(ChangeoverRow.id == changeover_id)
        )
        return None if row is None else Changeover(**row)

    def live(self) -> list[Changeover]:
        """All changeovers that hold a device, quarantined ones included."""
        return self._where(ChangeoverRow.state.in_(list(CHANGEOVER_LIVE)))

    def locked_moving(self) -> list[Changeover]:
        """Changeovers under way; none of them moves before the commit."""
        rows = self.session.rows(
            select(ChangeoverRow.__table__)
            .where(ChangeoverRow.state.in_(list(CHANGEOVER_MOVING)))
            .order_by(ChangeoverRow.id)
            .with_for_update()
        )
        return [Changeover(**row) for row in rows]

    def lock(self, changeover_ids: Iterable[str]) -> None:
        """None of them moves, or is promised to anybody, before the commit."""
        self.session.rows(
            select(ChangeoverRow.id)
            .where(ChangeoverRow.id.in_(list(changeover_ids)))
            .order_by(ChangeoverRow.id)
            .with_for_update()
        )

    def live_of_device(self, device: str) -> Changeover | None:
        """The live changeover of a device."""
        found = self._where(
            ChangeoverRow.device == device, ChangeoverRow.state.in_(list(CHANGEOVER_LIVE))
        )
        return found[0] if found else None

    def of_device(self, device: str, limit: int = 20) -> list[Changeover]:
        """A device's changeovers, newest first."""
        return self._where(ChangeoverRow.device == device, newest=True, limit=limit)

    def latest(self, limit: int = 50) -> list[Changeover]:
        """The newest changeovers first."""
        return self._where(newest=True, limit=limit)

    def of_subject(self, subject: str) -> list[Changeover]:
        """The changeovers that were started for a task."""
        return self._where(ChangeoverRow.subject == subject)

    def of_plan(self, plan_id: str) -> list[Changeover]:
        """The changeovers that a plan started, newest first."""
        return self._where(ChangeoverRow.plan_id == plan_id, newest=True)

    def stuck(self, now: float) -> list[Changeover]:
        """Due changeovers on which nobody works: unleased, or with a lapsed lease."""
        return self._where(
            ChangeoverRow.state.in_(list(CHANGEOVER_MOVING)),
            ChangeoverRow.due_at <= now,
            or_(ChangeoverRow.lease_owner.is_(None), ChangeoverRow.lease_until < now),
        )

    def abandoned_since(self, since: float) -> list[Changeover]:
        """Changeovers that were given up since then, oldest first."""
        found = self._where(
            ChangeoverRow.state == ChangeoverState.ABANDONED, ChangeoverRow.finished_at >= since
        )
        return sorted(found, key=lambda c: c.finished_at or 0.0)

    def last_ends(self) -> dict[str, tuple[float, ChangeoverState]]:
        """Device -> when it was last published or released, and which of the two."""
        ends = (ChangeoverState.RELEASED, ChangeoverState.DONE)
        rows = self.session.rows(
            select(
                ChangeoverRow.device,
                ChangeoverRow.state,
                func.max(ChangeoverRow.finished_at).label("at"),
            )
            .where(ChangeoverRow.state.in_(ends))
            .group_by(ChangeoverRow.device, ChangeoverRow.state)
        )
        last: dict[str, tuple[float, ChangeoverState]] = {}
        for row in rows:
            end = (float(row["at"]), row["state"])
            last[row["device"]] = max(end, last.get(row["device"], end))
        return last

    def counts(self) -> dict[ChangeoverState, int]:
        """How many changeovers are in each state."""
        rows = self.session.rows(
            select(ChangeoverRow.state, func.count().label("n")).group_by(ChangeoverRow.state)
        )
        return {row["state"]: row["n"] for row in rows}

    def started_since(self, since: float, kind: str | None = None) -> int:
        """How many changeovers, of a kind, were planned since then (for the hourly budgets)."""
        statement = (
            select(func.count().label("n"))
            .select_from(ChangeoverRow)
            .where(ChangeoverRow.created_at >= since)
        )
        if kind is not None:
            statement = statement.where(ChangeoverRow.kind == kind)
        row = self.session.row(statement)
        return 0 if row is None else int(row["n"])

    def programmed_since(
        self, since: float
    ) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
        """Programs since then by function and kind; and those of them that were undone unused."""
        undone = aliased(ChangeoverRow)
        kind = (ChangeoverRow.to_function, ChangeoverRow.kind)
        made = select(*kind, func.count().label("n")).where(ChangeoverRow.programmed_at >= since)
        unused = made.where(exists().where(undone.undoes == ChangeoverRow.id))
        return tuple(  # type: ignore[return-value]  # two of them
            {
                (row["to_function"], row["kind"]): int(row["n"])
                for row in self.session.rows(statement.group_by(*kind))
            }
            for statement in (made, unused)
        )

    def claim(
        self, changeover_id: str, owner: str, now: float, seconds: float
    ) -> Changeover | None:
        """Lease a due changeover that nobody else works on."""
        row = self.session.row(
            update(ChangeoverRow)
            .where(
                ChangeoverRow.id == changeover_id,
                ChangeoverRow.state.in_(list(CHANGEOVER_MOVING)),
                ChangeoverRow.due_at <= now,
                or_(ChangeoverRow.lease_owner.is_(None), ChangeoverRow.lease_until < now),
            )
            .values(lease_owner=owner, lease_until=now + seconds)
            .returning(ChangeoverRow.__table__)
        )
        return None if row is None else Changeover(**row)

    def renew(self, changeover_id: str, owner: str, until: float) -> bool:
        """Prolong the lease; ``False`` if it is somebody else's by now."""
        done = self.session.connection.execute(
            update(ChangeoverRow)
            .where(ChangeoverRow.id == changeover_id, ChangeoverRow.lease_owner == owner)
            .values(lease_until=until)
        )
        return bool(done.rowcount == 1)

    def release(self, changeover_id: str, owner: str) -> None:
        """Give the lease back."""
        self.session.connection.execute(
            update(ChangeoverRow)
            .where(ChangeoverRow.id == changeover_id, ChangeoverRow.lease_owner == owner)
            .values(lease_owner=None, lease_until=0.0)
        )

    def note(self, changeover: Changeover, now: float, **changes: Any) -> Changeover:
        """Change facts of a leased changeover without changing its state."""
        return self._update(changeover, {"updated_at": now, **changes})

    def move(
        self,
        changeover: Changeover,
        state: ChangeoverState,
        now: float,
        *,
        reason: Reason | None = None,
        **changes: Any,
    ) -> Changeover:
        """Move a leased changeover, or raise :class:`Reread` if the lease is lost.

        Each move clears the count of failures: they belong to one step.
        """
        check_transition(CHANGEOVER_TRANSITIONS, changeover.state, state)
        values: dict[str, Any] = {
            "state": state,
            "updated_at": now,
            "due_at": now,
            "failures": 0,
            **changes,
        }
        if reason is not None:
            values["reason"] = reason
        if state in FINISHED:
            values["finished_at"] = now
        if state not in CHANGEOVER_MOVING:
            values.update(lease_owner=None, lease_until=0.0)
        moved = self._update(changeover, values)
        facts = {} if reason is None else {"reason": reason.as_json()}
        Audit(self.session).add(now, "worker", f"changeover.{state}", changeover.id, **facts)
        return moved

    def ask_cancel(self, changeover_id: str) -> bool:
        """Ask whoever works on it to give it up if it is not programming yet."""
        done = self.session.connection.execute(
            update(ChangeoverRow)
            .where(
                ChangeoverRow.id == changeover_id,
                ChangeoverRow.state.in_(list(CHANGEOVER_MOVING)),
            )
            .values(cancel=True)
        )
        return bool(done.rowcount == 1)

    def _update(self, changeover: Changeover, values: dict[str, Any]) -> Changeover:
        owner = changeover.lease_owner
        mine = (
            ChangeoverRow.lease_owner.is_(None)
            if owner is None
            else ChangeoverRow.lease_owner == owner
        )
        row = self.session.row(
            update(ChangeoverRow)
            .where(ChangeoverRow.id == changeover.id, ChangeoverRow.state == changeover.state, mine)
            .values(**values)
            .returning(ChangeoverRow.__table__)
        )
        if row is None:
            raise Reread(
                f"changeover {changeover.id} is not {changeover.state} under this lease any more",
                changeover=changeover.id,
            )
        return Changeover(**row)

    def _where(
        self, *conditions: Any, newest: bool = False, limit: int = 10_000
    ) -> list[Changeover]:
        order = ChangeoverRow.created_at.desc() if newest else ChangeoverRow.created_at
        rows = self.session.rows(
            select(ChangeoverRow.__table__)
            .where(*conditions)
            .order_by(order, ChangeoverRow.id)
            .limit(limit)
        )
        return [Changeover(**row) for row in rows]


class Fences:
    """The write-ahead journal of fences."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, providers: Iterable[str], changeover: str) -> None:
        """Claim providers. Raises :class:`Busy` if another live changeover holds one of them."""
        for provider in sorted(providers):
            try:
                with self.session.connection.begin_nested():
                    self.session.connection.execute(
                        insert(FenceRow).values(provider=provider, changeover=changeover)
                    )
            except IntegrityError as exc:
                raise Busy(
                    f"provider {provider} belongs to another live changeover", provider=provider
                ) from exc

    def journal(self, fence: Fence) -> None:
        """Write down what a provider offers before it is fenced, or that it now is."""
        done = self.session.connection.execute(
            update(FenceRow)
            .where(FenceRow.provider == fence.provider, FenceRow.changeover == fence.changeover)
            .values(before=fence.before, generation=fence.generation, fenced_at=fence.fenced_at)
        )
        if done.rowcount != 1:
            raise Reread(f"the fence of {fence.provider} is not this changeover's any more")

    def of(self, changeover: str) -> list[Fence]:
        """The fences of a changeover."""
        rows = self.session.rows(
            select(FenceRow.__table__)
            .where(FenceRow.changeover == changeover)
            .order_by(FenceRow.provider)
        )
        return [Fence(**row) for row in rows]

    def all(self) -> list[Fence]:
        """All fences."""
        rows = self.session.rows(select(FenceRow.__table__).order_by(FenceRow.provider))
        return [Fence(**row) for row in rows]

    def drop(self, changeover: str) -> None:
        """The changeover holds nothing any more."""
        self.session.connection.execute(delete(FenceRow).where(FenceRow.changeover == changeover))
