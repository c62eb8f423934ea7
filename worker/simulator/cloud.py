"""The embedded cloud as ``changeover up`` starts it: its fleet in Placement, and its catalog."""

from __future__ import annotations

from pathlib import Path

from changeover.worker.ports.placement import PlacementTenant
from changeover.worker.simulator.cards import SimulatedCards
from changeover.worker.simulator.fleet import Shape, build_fleet, catalog_yaml
from changeover.worker.simulator.servers import SimulatedServers


def build_cloud(
    path: Path,
    placement: PlacementTenant,
    cards: SimulatedCards,
    servers: SimulatedServers,
    shape: Shape | None = None,
) -> None:
    """Build what is missing of the embedded cloud, and write its catalog to ``path``.

    The catalog is written once: what an operator changes in it stays.
    """
    build_fleet(placement, cards, servers, shape)
    if not path.exists():
        path.write_text(catalog_yaml(shape), encoding="utf-8")
