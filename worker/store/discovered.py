"""The mirror: what the catalog's rules found in Placement, and when it last changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, select, union, update

from changeover.models.catalog import FoundDevice
from changeover.models.reasons import Reason
from changeover.models.states import CHANGEOVER_LIVE, FoundState
from changeover.models.tables import (
    ChangeoverRow,
    DiscoveredRow,
    FenceRow,
    PromiseRow,
    RevisionRow,
)
from changeover.worker.store.session import Session

DEVICES = "devices"
"""The revision of all devices that rules found."""


@dataclass(frozen=True, slots=True)
class DiscoveredRecord:
    """The row of a provider that a rule is, was, or might be about.

    ``classes`` are those of its inventories at ``generation``, if they were read. ``reason`` says
    why it is no device, or not any more.
    """

    provider: str
    name: str
    state: FoundState
    since: float
    generation: int | None
    classes: frozenset[str] | None
    device: FoundDevice | None
    reason: Reason | None


class Discovered:
    """What rules found, by provider uuid."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def all(self) -> list[DiscoveredRecord]:
        """Everything, by name."""
        rows = self.session.rows(select(DiscoveredRow.__table__).order_by(DiscoveredRow.name))
        return [DiscoveredRecord(**{**row, "classes": _set(row["classes"])}) for row in rows]

    def devices(self) -> list[FoundDevice]:
        """The devices that are there now."""
        rows = self.session.rows(
            select(DiscoveredRow.device).where(DiscoveredRow.state == FoundState.FOUND)
        )
        return [row["device"] for row in rows]

    def device(self, provider: str) -> FoundDevice | None:
        """The device, even if it is gone."""
        row = self.session.row(
            select(DiscoveredRow.device).where(DiscoveredRow.provider == provider)
        )
        return None if row is None else row["device"]

    def busy(self) -> frozenset[str]:
        """Providers that a changeover or a boot still counts on: they stay what they are."""
        rows = self.session.rows(
            union(
                select(ChangeoverRow.device.label("provider")).where(
                    ChangeoverRow.state.in_(CHANGEOVER_LIVE)
                ),
                select(FenceRow.provider),
                select(PromiseRow.device),
            )
        )
        return frozenset(row["provider"] for row in rows)

    def put(self, records: Iterable[DiscoveredRecord]) -> None:
        """Write rows as they are given."""
        values = [
            {
                "provider": r.provider,
                "name": r.name,
                "state": r.state,
                "since": r.since,
                "generation": r.generation,
                "classes": None if r.classes is None else sorted(r.classes),
                "device": r.device,
                "reason": r.reason,
            }
            for r in records
        ]
        if not values:
            return
        statement = self.session.insert(DiscoveredRow)
        fresh = {key: statement.excluded[key] for key in values[0] if key != "provider"}
        self.session.connection.execute(
            statement.on_conflict_do_update(index_elements=[DiscoveredRow.provider], set_=fresh),
            values,
        )

    def forget(self, providers: Iterable[str]) -> None:
        """Delete rows."""
        values = [{"gone": provider} for provider in providers]
        if values:
            self.session.connection.execute(
                delete(DiscoveredRow).where(DiscoveredRow.provider == bindparam("gone")), values
            )

    def revision(self) -> int:
        """Counts the changes of :meth:`devices`."""
        row = self.session.row(select(RevisionRow.number).where(RevisionRow.name == DEVICES))
        return 0 if row is None else int(row["number"])

    def changed(self) -> None:
        """Make every process read :meth:`devices` anew."""
        self.session.connection.execute(
            self.session.insert(RevisionRow).values(name=DEVICES, number=0).on_conflict_do_nothing()
        )
        self.session.connection.execute(
            update(RevisionRow)
            .where(RevisionRow.name == DEVICES)
            .values(number=RevisionRow.number + 1)
        )


def _set(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def devices_in(records: Iterable[DiscoveredRecord]) -> Mapping[str, FoundDevice]:
    """The devices that are there, by provider uuid."""
    return {
        r.provider: r.device
        for r in records
        if r.state is FoundState.FOUND and r.device is not None
    }
