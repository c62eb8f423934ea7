"""Plans with the inputs that they were made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        devices: Sequence[str] = (),
    ) -> None:
        """Store a plan; ``devices`` are those of it that wait for a person."""
        self.session.connection.execute(
            insert(PlanRow).values(
                id=plan_id,
                created_at=now,
                state=state,
                inputs=inputs,
                result=result,
                devices=list(devices),
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

    def open(self, state: PlanState = PlanState.RECOMMENDED) -> list[dict[str, Any]]:
        """Plans in a state, newest first: those that wait for a person, by default."""
        rows = self.session.rows(
            select(PlanRow.id, PlanRow.created_at, PlanRow.result, PlanRow.devices)
            .where(PlanRow.state == state)
            .order_by(PlanRow.created_at.desc())
        )
        return [dict(row) for row in rows]

    def refused(self, since: float) -> list[dict[str, Any]]:
        """Plans that were refused since then."""
        rows = self.session.rows(
            select(PlanRow.id, PlanRow.result).where(
                PlanRow.state == PlanState.REFUSED, PlanRow.decided_at >= since
            )
        )
        return [dict(row) for row in rows]

    def decide(
        self,
        plan_id: str,
        state: PlanState,
        by: str,
        now: float,
        devices: Sequence[str] | None = None,
    ) -> bool:
        """A recommended plan was approved (for ``devices`` of it) or refused; ``False`` if none."""
        values: dict[str, Any] = {"state": state, "decided_by": by, "decided_at": now}
        if devices is not None:
            values["devices"] = list(devices)
        done = self.session.connection.execute(
            update(PlanRow)
            .where(PlanRow.id == plan_id, PlanRow.state == PlanState.RECOMMENDED)
            .values(**values)
        )
        return bool(done.rowcount == 1)

    def started(self, plan_id: str, devices: Iterable[str]) -> None:
        """Devices of an approved plan were started; it is executed once all are."""
        row = self.session.row(select(PlanRow.devices).where(PlanRow.id == plan_id))
        left = sorted(set(row["devices"] if row is not None else ()) - set(devices))
        state = PlanState.APPROVED if left else PlanState.EXECUTED
        self.session.connection.execute(
            update(PlanRow).where(PlanRow.id == plan_id).values(devices=left, state=state)
        )

    def expire(self, before: float, now: float) -> int:
        """Plans older than ``before`` are too old to be approved, or carried out."""
        done = self.session.connection.execute(
            update(PlanRow)
            .where(
                PlanRow.state.in_([PlanState.RECOMMENDED, PlanState.APPROVED]),
                PlanRow.created_at < before,
            )
            .values(state=PlanState.EXPIRED, decided_by="sweep", decided_at=now)
        )
        return int(done.rowcount)
