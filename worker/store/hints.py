"""The outbox of hints.

A hint's row lives until a worker takes up what it points at, not until it was sent: what is lost
on the way is simply sent again by the sweep.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import case, delete, func, or_, select, update

from changeover.models.tables import HintRow
from changeover.worker.store.session import Hint, Session

STALE_SECONDS = 1.0
"""A hint that is overdue for so long is not on its way any more."""

MOST_PATIENCE = 20.0
"""Longest time between two sendings of a hint that nobody takes up, beside the sender's own."""


def _patience() -> Any:
    """How long a hint may go on being overdue before it is sent again: as long as it was already.

    In a storm most hints are not lost but wait their turn. Were all of them sent again at each
    sweep, their copies would keep the others from theirs.
    """
    waited = HintRow.due_at - HintRow.created_at
    return case((waited > MOST_PATIENCE, MOST_PATIENCE), (waited > 0.0, waited), else_=0.0)


class Hints:
    """Added with the change that they announce; taken by the worker that acts on it."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(
        self, task: str, *args: Any, queue: str, now: float, due_at: float | None = None
    ) -> None:
        """Announce work. A hint for the same work that is already out is not sent twice.

        One that should have been taken up by now was lost, or found its work leased: that is
        sent again, and at once: what is announced for later must not put off what was due.
        """
        due = now if due_at is None else due_at
        key = ":".join((task, *map(str, args)))
        # It waits from when it is due, not from when that was said.
        statement = self.session.insert(HintRow).values(
            key=key, task=task, args=list(args), queue=queue, due_at=due, created_at=due
        )
        stale = HintRow.due_at + _patience() < now - STALE_SECONDS
        statement = statement.on_conflict_do_update(
            index_elements=[HintRow.key],
            set_={"due_at": case((stale, min(due, now)), else_=due), "queue": queue},
            where=or_(HintRow.due_at > due, stale),
        ).returning(HintRow.due_at)
        row = self.session.row(statement)
        if row is not None:
            self.session.to_send.append(Hint(key, task, args, queue, row["due_at"]))

    def take(self, task: str, *args: Any) -> bool:
        """The work is being taken up: the hint has served. ``False`` if there was none."""
        key = ":".join((task, *map(str, args)))
        taken = self.session.connection.execute(delete(HintRow).where(HintRow.key == key))
        return bool(taken.rowcount == 1)

    def waiting(self, task: str, now: float) -> bool:
        """Whether a hint for a task without arguments is due and not taken up."""
        row = self.session.row(
            select(HintRow.key).where(HintRow.key == task, HintRow.due_at <= now)
        )
        return row is not None

    def overdue(self, before: float, now: float, limit: int) -> list[Hint]:
        """Hints that were due before ``before`` and that nobody took up; postponed to ``now``.

        Postponing them spaces out the next sending; sending is the caller's.
        """
        due = (
            select(HintRow.key)
            .where(HintRow.due_at + _patience() < before)
            .order_by(HintRow.due_at)
            .limit(limit)
        )
        rows = self.session.rows(
            update(HintRow)
            .where(HintRow.key.in_(due))
            .values(due_at=now)
            .returning(HintRow.key, HintRow.task, HintRow.args, HintRow.queue, HintRow.due_at)
        )
        return [Hint(r["key"], r["task"], tuple(r["args"]), r["queue"], r["due_at"]) for r in rows]

    def count_due(self, before: float) -> int:
        """How many were due before then and are still waiting to be taken up."""
        row = self.session.row(
            select(func.count().label("n")).select_from(HintRow).where(HintRow.due_at < before)
        )
        return 0 if row is None else int(row["n"])
