"""Plans with the inputs that they were made from."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select, update

from changeover.models.states import PlanState
from changeover.models.tables import PlanRow
from changeover.worker.store.session import Session


class Plans:
    """Written once; only what became of a plan changes."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(
        self,
        *,
        plan_id: str,
        now: float,
        state: PlanState,
        inputs: dict[str, Any],
        result: dict[str, Any],
    ) -> None:
        """Store a plan."""
        self.session.connection.execute(
            insert(PlanRow).values(
                id=plan_id, created_at=now, state=state, inputs=inputs, result=result
            )
        )

    def get(self, plan_id: str) -> dict[str, Any] | None:
        """A plan with inputs and result."""
        row = self.session.row(select(PlanRow.__table__).where(PlanRow.id == plan_id))
        return None if row is None else dict(row)

    def latest(self, limit: int = 50) -> list[dict[str, Any]]:
        """The newest plans first, without their inputs."""
        rows = self.session.rows(
            select(
                PlanRow.id, PlanRow.created_at, PlanRow.state, PlanRow.result, PlanRow.decided_by
            )
            .order_by(PlanRow.created_at.desc())
            .limit(limit)
        )
        return [dict(row) for row in rows]

    def decide(self, plan_id: str, state: PlanState, by: str, now: float) -> bool:
        """A recommended plan was executed or refused, or expired; ``False`` if it is none."""
        done = self.session.connection.execute(
            update(PlanRow)
            .where(PlanRow.id == plan_id, PlanRow.state == PlanState.RECOMMENDED)
            .values(state=state, decided_by=by, decided_at=now)
        )
        return bool(done.rowcount == 1)

    def expire(self, before: float, now: float) -> int:
        """Recommended plans older than ``before`` are too old to be approved."""
        done = self.session.connection.execute(
            update(PlanRow)
            .where(PlanRow.state == PlanState.RECOMMENDED, PlanRow.created_at < before)
            .values(state=PlanState.EXPIRED, decided_by="sweep", decided_at=now)
        )
        return int(done.rowcount)
