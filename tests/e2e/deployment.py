"""A whole deployment with real worker processes, and what a test does to its cloud."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from changeover.models.boot import Boot
from changeover.models.catalog import Catalog
from changeover.models.states import BOOT_OVER
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.bootstrap import (
    load_catalog,
    open_database,
    open_placement,
    open_simulated_servers,
)
from changeover.worker.operate import Operator
from changeover.worker.ports.placement import PlacementTenant
from changeover.worker.settings import Settings
from changeover.worker.simulator.cards import Behaviour, SimulatedCards
from changeover.worker.simulator.servers import SimulatedServers
from changeover.worker.store import Database
from changeover.worker.supervisor import Supervisor, running

T = TypeVar("T")

DEADLINE = 60.0


def eventually(look: Callable[[], T], *, within: float = DEADLINE) -> T:
    """The first truthy answer of ``look``; fails if there is none in time."""
    deadline = time.monotonic() + within
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:.0f} s: last answer {found!r}")
        time.sleep(0.05)


@dataclass
class Deployment:
    """Everything that ``changeover up`` runs, and its simulated cloud."""

    supervisor: Supervisor
    settings: Settings
    database: Database
    servers: SimulatedServers
    cards: SimulatedCards
    placement: PlacementTenant
    catalog: Catalog
    operator: Operator

    def boot_of(self, server: str) -> Boot | None:
        """The boot of a failed server."""
        with self.database.read() as tx:
            return tx.boots.of_server(server)

    def outcome(self, server: str, *, within: float = DEADLINE) -> Boot:
        """The boot of a failed server, once it is over."""

        def look() -> Boot | None:
            boot = self.boot_of(server)
            return boot if boot is not None and boot.state in BOOT_OVER else None

        return eventually(look, within=within)

    def settled(self) -> None:
        """Wait until no device is between two functions."""

        def look() -> bool:
            with self.database.read() as tx:
                return not tx.changeovers.live()

        eventually(look)

    def offers(self, device: str) -> str | None:
        """What a device offers, by the database."""
        with self.database.read() as tx:
            record = tx.devices.get(device)
        return None if record is None else record.function

    def provider(self, device: str) -> str:
        """A device's provider uuid."""
        found = self.catalog.device(device)
        assert found is not None
        return found.provider


@contextmanager
def deployed(state_dir: Path, **settings: Any) -> Iterator[Deployment]:
    """Run a deployment whose cards are quick and whose settle time is short."""
    wanted = {
        "settle_seconds": 0.1,
        "allow_short_settle": True,
        "sweep_seconds": 0.5,
        "balance_seconds": 1.0,
        "retry_seconds": 2.0,
        "worker_concurrency": 3,
        **settings,
    }
    cards = SimulatedCards(state_dir / "cards", clock=SystemClock())
    cards.behave(Behaviour(scale=0.02))
    with running(Settings(state_dir=state_dir, **wanted)) as supervisor:
        live = supervisor.settings
        database = open_database(live)
        placement = open_placement(live)
        servers = open_simulated_servers(live, placement, SystemClock())
        catalog = load_catalog(live)
        yield Deployment(
            supervisor=supervisor,
            settings=live,
            database=database,
            servers=servers,
            cards=cards,
            placement=placement,
            catalog=catalog,
            operator=Operator(database, lambda: catalog, SystemClock(), "test"),
        )
        servers.close()
        database.dispose()
