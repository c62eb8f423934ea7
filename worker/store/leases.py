"""Leases of jobs that only one process may do at a time, and switches for all of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, or_, select, update

from changeover.models.tables import HeartbeatRow, LeaseRow, SwitchRow
from changeover.worker.store.session import Session


class Leases:
    """Named leases, and when their holder last finished."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def _ensure(self, name: str) -> None:
        self.session.connection.execute(
            self.session.insert(LeaseRow)
            .values(name=name, owner=None, until=0.0, ran_at=0.0)
            .on_conflict_do_nothing()
        )

    def acquire(self, name: str, owner: str, now: float, seconds: float) -> bool:
        """Take the lease if it is free or lapsed."""
        self._ensure(name)
        taken = self.session.connection.execute(
            update(LeaseRow)
            .where(
                LeaseRow.name == name,
                or_(LeaseRow.owner.is_(None), LeaseRow.until < now, LeaseRow.owner == owner),
            )
            .values(owner=owner, until=now + seconds)
        )
        return bool(taken.rowcount == 1)

    def renew(self, name: str, owner: str, until: float) -> bool:
        """Prolong the lease; ``False`` if it is somebody else's by now."""
        done = self.session.connection.execute(
            update(LeaseRow)
            .where(LeaseRow.name == name, LeaseRow.owner == owner)
            .values(until=until)
        )
        return bool(done.rowcount == 1)

    def release(self, name: str, owner: str) -> None:
        """Give the lease back."""
        self.session.connection.execute(
            update(LeaseRow)
            .where(LeaseRow.name == name, LeaseRow.owner == owner)
            .values(owner=None, until=0.0)
        )

    def due(self, name: str, now: float, every: float) -> bool:
        """Claim one run of a scheduled job: ``True`` at most once in ``every`` seconds.

        Any number of beats may tick; the database decides which tick counts. A run in the future
        was claimed by a clock that was wrong: until then nothing would be swept.
        """
        self._ensure(name)
        done = self.session.connection.execute(
            update(LeaseRow)
            .where(
                LeaseRow.name == name,
                or_(LeaseRow.ran_at <= now - every, LeaseRow.ran_at > now + every),
            )
            .values(ran_at=now)
        )
        return bool(done.rowcount == 1)

    def ran_at(self, name: str) -> float | None:
        """When a run of the scheduled job was last claimed, if ever."""
        row = self.session.row(select(LeaseRow.ran_at).where(LeaseRow.name == name))
        return None if row is None or not row["ran_at"] else float(row["ran_at"])


class Switches:
    """What an operator has switched for everything at once; and who is alive."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def set(self, name: str, value: dict[str, Any], at: float) -> None:
        """Set a switch."""
        statement = self.session.insert(SwitchRow).values(name=name, value=value, at=at)
        self.session.connection.execute(
            statement.on_conflict_do_update(
                index_elements=[SwitchRow.name], set_={"value": value, "at": at}
            )
        )

    def get(self, name: str, *, lock: bool = False) -> dict[str, Any] | None:
        """The switch's value, if it was ever set. ``lock``: nobody sets it before the commit."""
        statement = select(SwitchRow.value).where(SwitchRow.name == name)
        row = self.session.row(statement.with_for_update() if lock else statement)
        return None if row is None else dict(row["value"])

    def under(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Switches whose names begin so, by name."""
        rows = self.session.rows(
            select(SwitchRow.name, SwitchRow.value).where(
                SwitchRow.name.startswith(prefix, autoescape=True)
            )
        )
        return {row["name"]: dict(row["value"]) for row in rows}

    def drop(self, name: str) -> None:
        """Forget a switch."""
        self.session.connection.execute(delete(SwitchRow).where(SwitchRow.name == name))

    def beat(self, process: str, role: str, at: float) -> None:
        """Say that a process is alive."""
        statement = self.session.insert(HeartbeatRow).values(process=process, role=role, at=at)
        self.session.connection.execute(
            statement.on_conflict_do_update(index_elements=[HeartbeatRow.process], set_={"at": at})
        )
        self.session.connection.execute(delete(HeartbeatRow).where(HeartbeatRow.at < at - 86_400))

    def alive(self, since: float) -> list[dict[str, Any]]:
        """Processes that said so since then."""
        rows = self.session.rows(
            select(HeartbeatRow.process, HeartbeatRow.role, HeartbeatRow.at)
            .where(HeartbeatRow.at >= since)
            .order_by(HeartbeatRow.role, HeartbeatRow.process)
        )
        return [dict(row) for row in rows]
