"""The witness: writes down, in one order, all that really happens to devices and servers.

It sits in Placement, in the cards and in Nova, never in Changeover: what it says is the truth
that a checker holds against what was promised.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from changeover.models.placement import Inventories, Inventory
from changeover.worker.ports.clock import Clock
from changeover.worker.simulator.cards import SimulatedCards
from changeover.worker.simulator.placement import Admitted, FaultPlan, MemoryPlacement
from changeover.worker.simulator.servers import SimulatedServers

CLOUD = "cloud"
"""Who acts when nobody else says so: the cloud itself (Nova, its users)."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: ``kind`` and ``facts`` are named in the witness's methods."""

    number: int
    t: float
    actor: str
    kind: str
    facts: Mapping[str, Any]


@dataclass
class Witness:
    """All events in order; ``watchers`` see each one as it happens."""

    clock: Clock
    events: list[Event] = field(default_factory=list)
    watchers: list[Callable[[Event], None]] = field(default_factory=list)
    actor: str = CLOUD

    def note(self, kind: str, **facts: Any) -> None:
        """Write one event down."""
        event = Event(len(self.events), self.clock.now(), self.actor, kind, facts)
        self.events.append(event)
        for watcher in self.watchers:
            watcher(event)

    @contextmanager
    def acting(self, who: str) -> Iterator[None]:
        """What happens meanwhile is this actor's doing."""
        before, self.actor = self.actor, who
        try:
            yield
        finally:
            self.actor = before


class WitnessedPlacement(MemoryPlacement):
    """Placement with a witness: every change of inventories, traits and allocations."""

    def __init__(self, witness: Witness, faults: FaultPlan | None = None) -> None:
        super().__init__(faults)
        self.witness = witness

    def put_inventories(self, uuid: str, generation: int, inventories: Inventories) -> int:
        done = super().put_inventories(uuid, generation, inventories)
        self.witness.note("inventories", provider=uuid, inventories=dict(inventories))
        return done

    def put_traits(self, uuid: str, generation: int, traits: Iterable[str]) -> int:
        wanted = frozenset(traits)
        done = super().put_traits(uuid, generation, wanted)
        self.witness.note("traits", provider=uuid, traits=wanted)
        return done

    def admit(
        self,
        consumer: str,
        allocations: Mapping[str, Mapping[str, int]],
        *,
        project: str,
        user: str,
    ) -> Admitted | None:
        admitted = super().admit(consumer, allocations, project=project, user=user)
        if admitted is None:
            return None

        def commit() -> bool:
            landed = admitted.commit()
            if landed:
                given = {uuid: dict(amounts) for uuid, amounts in allocations.items()}
                self.witness.note("allocated", consumer=consumer, allocations=given)
            return landed

        return Admitted(self, commit)

    def release(self, consumer: str) -> None:
        super().release(consumer)
        self.witness.note("released", consumer=consumer)

    def offers(self, uuid: str) -> tuple[Mapping[str, Inventory], frozenset[str]]:
        """What a provider offers, without a call that faults could strike."""
        record = self._records[uuid]
        return dict(record.inventories), record.traits

    def consumers(self, uuid: str) -> frozenset[str]:
        """Who holds allocations on a provider."""
        return frozenset(self._records[uuid].consumers)

    def all_consumers(self) -> frozenset[str]:
        """Who holds allocations anywhere."""
        return frozenset(self._allocations)


class WitnessedCards(SimulatedCards):
    """Cards with a witness: every line of their journals, as it is written."""

    def __init__(self, root: Path, clock: Clock, witness: Witness) -> None:
        self.witness = witness
        super().__init__(root, clock)

    def _note(self, device: str, event: str, *, t: float | None = None, **facts: object) -> None:
        super()._note(device, event, t=t, **facts)
        self.witness.note("card", device=device, event=event, **facts)


class WitnessedServers(SimulatedServers):
    """Nova with a witness: every line of its journal, as it is written."""

    witness: Witness

    def _note(self, db: sqlite3.Connection, event: str, server: str, **facts: object) -> None:
        super()._note(db, event, server, **facts)
        self.witness.note("server", event=event, server=server, **facts)
