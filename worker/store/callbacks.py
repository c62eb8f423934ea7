"""The outbox of callbacks: written with the outcome that they tell, sent later."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import func, insert, select, update

from changeover.models.boot import Boot
from changeover.models.callback import Callback
from changeover.models.states import CallbackState
from changeover.models.tables import CallbackRow
from changeover.policies.callback import data_of, kind_of
from changeover.worker.queues import CALLBACK_QUEUE, DELIVER
from changeover.worker.store.hints import Hints
from changeover.worker.store.session import Session, columns_of

ERROR_CHARACTERS = 512

ABSORBED = "boot.absorbed"


class Callbacks:
    """Callbacks, by id."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def tell(self, boot: Boot, now: float) -> None:
        """A boot is over: tell its project's target, if there is one.

        Not of one that turned out to be another boot's attempt: its owner hears of that boot.
        """
        target = self.session.target_of(boot.project)
        if target is None or boot.reason.code == ABSORBED:
            return
        callback = Callback(
            id=str(uuid4()),
            kind=kind_of(boot),
            target=target,
            boot=boot.id,
            data=data_of(boot),
            state=CallbackState.PENDING,
            created_at=now,
            due_at=now,
        )
        self.session.connection.execute(insert(CallbackRow).values(**columns_of(callback)))
        self.hint(target, now, now)

    def hint(self, target: str, now: float, due_at: float) -> None:
        """Announce that the target has something due."""
        Hints(self.session).add(DELIVER, target, queue=CALLBACK_QUEUE, now=now, due_at=due_at)

    def take_hint(self, target: str) -> None:
        """What is due to the target is being sent."""
        Hints(self.session).take(DELIVER, target)

    def next_due(self, target: str, now: float) -> Callback | None:
        """The oldest callback that is to be sent to the target now."""
        row = self.session.row(
            select(CallbackRow.__table__)
            .where(
                CallbackRow.state == CallbackState.PENDING,
                CallbackRow.target == target,
                CallbackRow.due_at <= now,
            )
            .order_by(CallbackRow.created_at, CallbackRow.id)
            .limit(1)
        )
        return None if row is None else Callback(**row)

    def due(self, now: float | None = None) -> dict[str, float]:
        """Target -> when its next callback is due; only what is due by ``now``, if given."""
        statement = select(CallbackRow.target, func.min(CallbackRow.due_at).label("due_at")).where(
            CallbackRow.state == CallbackState.PENDING
        )
        if now is not None:
            statement = statement.where(CallbackRow.due_at <= now)
        rows = self.session.rows(statement.group_by(CallbackRow.target))
        return {row["target"]: float(row["due_at"]) for row in rows}

    def delivered(self, callback: Callback, now: float) -> None:
        """The receiver has it."""
        self._sent(callback, state=CallbackState.DELIVERED, finished_at=now, error=None)

    def failed(self, callback: Callback, error: str, due_at: float) -> None:
        """It is sent again at ``due_at``."""
        self._sent(callback, due_at=due_at, error=error[:ERROR_CHARACTERS])

    def bury(self, callback: Callback, error: str, now: float) -> None:
        """It is not sent again by itself."""
        self._sent(
            callback, state=CallbackState.DEAD, finished_at=now, error=error[:ERROR_CHARACTERS]
        )

    def _sent(self, callback: Callback, **values: object) -> None:
        # Only as it was read: what an operator had sent anew meanwhile is not marked by this.
        self.session.connection.execute(
            update(CallbackRow)
            .where(
                CallbackRow.id == callback.id,
                CallbackRow.state == callback.state,
                CallbackRow.tries == callback.tries,
            )
            .values(tries=callback.tries + 1, **values)
        )

    def retry(self, now: float, callback_id: str | None = None) -> int:
        """Have a dead callback sent again, or all of them; returns how many."""
        statement = update(CallbackRow).where(CallbackRow.state == CallbackState.DEAD)
        if callback_id is not None:
            statement = statement.where(CallbackRow.id == callback_id)
        rows = self.session.rows(
            statement.values(
                state=CallbackState.PENDING, tries=0, due_at=now, finished_at=None
            ).returning(CallbackRow.target)
        )
        for target in sorted({row["target"] for row in rows}):
            self.hint(target, now, now)
        return len(rows)

    def get(self, callback_id: str) -> Callback | None:
        """The callback of that id."""
        row = self.session.row(select(CallbackRow.__table__).where(CallbackRow.id == callback_id))
        return None if row is None else Callback(**row)

    def listed(
        self, *, state: CallbackState | None = None, boot: str | None = None, limit: int = 50
    ) -> list[Callback]:
        """Callbacks for people, newest first."""
        statement = select(CallbackRow.__table__)
        if state is not None:
            statement = statement.where(CallbackRow.state == state)
        if boot is not None:
            statement = statement.where(CallbackRow.boot == boot)
        rows = self.session.rows(statement.order_by(CallbackRow.created_at.desc()).limit(limit))
        return [Callback(**row) for row in rows]

    def find(self, text: str, limit: int = 10) -> list[str]:
        """Ids that begin with ``text``."""
        rows = self.session.rows(
            select(CallbackRow.id)
            .where(CallbackRow.id.startswith(text, autoescape=True))
            .limit(limit)
        )
        return [row["id"] for row in rows]

    def counts(self) -> dict[CallbackState, int]:
        """How many callbacks are in each state."""
        rows = self.session.rows(
            select(CallbackRow.state, func.count().label("n")).group_by(CallbackRow.state)
        )
        return {row["state"]: row["n"] for row in rows}
