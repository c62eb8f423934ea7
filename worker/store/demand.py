"""Recorded demand, and what was learnt from it: see :mod:`changeover.models.demand`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import delete, select, update

from changeover.models.demand import RecordedServer, RequestKind
from changeover.models.placement import ResourceRequest
from changeover.models.tables import DemandRow, HistoryRow, RequestKindRow
from changeover.worker.store.session import Session

ONLY = 1
"""The id of the one row of the learnt history."""

_FACTS = (
    DemandRow.id,
    DemandRow.server,
    DemandRow.kind,
    DemandRow.arrived_at,
    DemandRow.failed,
    DemandRow.placed_at,
    DemandRow.ended_at,
)


class Demand:
    """Servers that asked for devices: each once, whatever is told twice."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def kind(self, request: ResourceRequest, device_profile: str | None) -> str:
        """The key of a kind of request, which is stored if it is new."""
        text = f"{request.key}:{device_profile or ''}"
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        statement = self.session.insert(RequestKindRow).values(
            key=key, request=request, device_profile=device_profile
        )
        self.session.connection.execute(statement.on_conflict_do_nothing())
        return key

    def built(self, server: str, kind: str, at: float) -> bool:
        """A server asked, and was built at once; ``False`` if that is known."""
        statement = self.session.insert(DemandRow).values(
            server=server,
            kind=kind,
            arrived_at=at,
            failed=False,
            placed_at=at,
            counted=False,
            end_counted=False,
        )
        row = self.session.row(statement.on_conflict_do_nothing().returning(DemandRow.id))
        return row is not None

    def failed(self, arrivals: Sequence[tuple[str, str, float]]) -> None:
        """Servers that asked and failed, each with its kind and when; what is known is left."""
        if arrivals:
            rows = [
                {
                    "server": server,
                    "kind": kind,
                    "arrived_at": at,
                    "failed": True,
                    "placed_at": None,
                    "counted": False,
                    "end_counted": False,
                }
                for server, kind, at in arrivals
            ]
            statement = self.session.insert(DemandRow.__table__).on_conflict_do_nothing()
            self.session.connection.execute(statement, rows)

    def succeeded(self, server: str, successor: str, at: float) -> None:
        """A successor was built in the place of a failed server: the demand goes on as his."""
        self.session.connection.execute(
            update(DemandRow)
            .where(DemandRow.server == server, DemandRow.ended_at.is_(None))
            .values(server=successor, placed_at=at)
        )

    def ended(self, server: str, at: float) -> None:
        """A server is gone, or was given up."""
        self.session.connection.execute(
            update(DemandRow)
            .where(DemandRow.server == server, DemandRow.ended_at.is_(None))
            .values(ended_at=at)
        )

    def kinds(self) -> dict[str, RequestKind]:
        """All kinds of requests, by key."""
        rows = self.session.rows(select(RequestKindRow.__table__))
        return {row["key"]: RequestKind(**row) for row in rows}

    def uncounted(self, limit: int) -> tuple[list[RecordedServer], list[RecordedServer]]:
        """Arrivals and ends that the history has not learnt from yet, oldest first."""
        arrivals = self.session.rows(
            select(*_FACTS)
            .where(DemandRow.counted.is_(False))
            .order_by(DemandRow.arrived_at, DemandRow.id)
            .limit(limit)
        )
        ends = self.session.rows(
            select(*_FACTS)
            .where(DemandRow.end_counted.is_(False), DemandRow.ended_at.is_not(None))
            .order_by(DemandRow.ended_at, DemandRow.id)
            .limit(limit)
        )
        return [RecordedServer(**r) for r in arrivals], [RecordedServer(**r) for r in ends]

    def count(self, arrivals: Sequence[int], ends: Sequence[int]) -> tuple[set[int], set[int]]:
        """Mark as learnt; returns those that nobody else has marked."""
        return (
            self._mark(DemandRow.counted, arrivals),
            self._mark(DemandRow.end_counted, ends),
        )

    def _mark(self, column: Any, ids: Sequence[int]) -> set[int]:
        if not ids:
            return set()
        rows = self.session.rows(
            update(DemandRow)
            .where(DemandRow.id.in_(list(ids)), column.is_(False))
            .values({column: True})
            .returning(DemandRow.id)
        )
        return {row["id"] for row in rows}

    def recorded(self, since: float, limit: int) -> list[RecordedServer]:
        """Servers that asked since then, oldest first; and those that held devices then."""
        rows = self.session.rows(
            select(*_FACTS)
            .where(
                (DemandRow.arrived_at >= since)
                | DemandRow.ended_at.is_(None)
                | (DemandRow.ended_at >= since)
            )
            .order_by(DemandRow.arrived_at, DemandRow.id)
            .limit(limit)
        )
        return [RecordedServer(**row) for row in rows]

    def prune(self, before: float) -> int:
        """Forget servers that ended before then and were learnt from; returns how many."""
        done = self.session.connection.execute(
            delete(DemandRow).where(
                DemandRow.ended_at < before,
                DemandRow.counted.is_(True),
                DemandRow.end_counted.is_(True),
            )
        )
        return int(done.rowcount)

    def history(self) -> tuple[dict[str, Any] | None, dict[str, Any], float]:
        """What was learnt, the outlook made from it, and when; nothing before the first time."""
        row = self.session.row(select(HistoryRow.__table__).where(HistoryRow.id == ONLY))
        return (None, {}, 0.0) if row is None else (row["state"], row["outlook"], row["at"])

    def outlook(self) -> tuple[dict[str, Any], float]:
        """The outlook alone, and when it was made."""
        row = self.session.row(
            select(HistoryRow.outlook, HistoryRow.at).where(HistoryRow.id == ONLY)
        )
        return ({}, 0.0) if row is None else (row["outlook"], row["at"])

    def learnt(self, state: dict[str, Any], outlook: dict[str, Any], at: float) -> None:
        """Keep what was learnt."""
        values = {"state": state, "outlook": outlook, "at": at}
        statement = self.session.insert(HistoryRow).values(id=ONLY, **values)
        self.session.connection.execute(
            statement.on_conflict_do_update(index_elements=[HistoryRow.id], set_=values)
        )


def ids_of(servers: Iterable[RecordedServer]) -> list[int]:
    """Their ids."""
    return [server.id for server in servers]
