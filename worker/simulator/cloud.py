"""The embedded cloud as ``changeover up`` starts it: its fleet in Placement, and its catalog."""

from __future__ import annotations

from pathlib import Path

from changeover.worker.adapters.clock import SystemClock
from changeover.worker.adapters.placement_http import HttpPlacement
from changeover.worker.settings import Settings
from changeover.worker.simulator.cards import SimulatedCards
from changeover.worker.simulator.fleet import Shape, build_fleet, catalog_yaml
from changeover.worker.simulator.servers import SimulatedServers
from changeover.worker.simulator.wire import KombuEmitter


def build_cloud(settings: Settings, shape: Shape | None = None) -> Path:
    """Build what is missing of the embedded cloud; returns the path of its catalog.

    The catalog is written once: what an operator changes in it stays.
    """
    clock = SystemClock()
    placement = HttpPlacement.for_endpoint(str(settings.placement_endpoint))
    cards = SimulatedCards(settings.state_dir / "cards", clock=clock)
    servers = SimulatedServers(settings.state_dir / "servers.sqlite", placement, clock)
    build_fleet(placement, cards, servers, shape)
    servers.close()
    path = settings.state_dir / "catalog.yaml"
    if not path.exists():
        path.write_text(catalog_yaml(shape), encoding="utf-8")
    return path


def simulated_servers(settings: Settings, url: str) -> SimulatedServers:
    """The embedded cloud's Nova, publishing its notifications at ``url``."""
    return SimulatedServers(
        settings.state_dir / "servers.sqlite",
        HttpPlacement.for_endpoint(str(settings.placement_endpoint)),
        SystemClock(),
        KombuEmitter(url, exchange=settings.notification_exchange),
    )
