"""What the database must have before workers start: its schema, and the catalog."""

from __future__ import annotations

from changeover.console.desk import Desk
from changeover.console.render import Output


def upgrade(desk: Desk, out: Output) -> None:
    """Bring the database to this version's schema, making it if it is not there."""
    from changeover.worker.bootstrap import open_database
    from changeover.worker.migrate import upgrade as migrate

    database = open_database(desk.settings)
    with database.read():
        pass  # one that cannot be reached says so here, by its own family of errors
    before, after = migrate(database.url)
    database.dispose()
    if out.as_json:
        out.document({"before": before, "after": after})
    elif before == after:
        out.line(f"the database is at revision {after} already")
    else:
        out.line(f"upgraded the database from {before or 'nothing'} to revision {after}")


def load(desk: Desk, out: Output, *, simulated: bool) -> None:
    """Make the database know the catalog, and read every device from Placement."""
    from changeover.worker.refresh import sync_catalog

    if simulated:
        _build_simulated(desk)
    sync_catalog(desk.planning_world)
    read = desk.look()["read"]
    known = {"functions": len(desk.catalog.functions), "devices": len(desk.catalog.devices)}
    if out.as_json:
        out.document({**known, "devices_read": read})
        return
    out.line(f"{known['functions']} functions and {known['devices']} devices are known")
    if read < known["devices"]:
        out.note(
            f"{known['devices'] - read} of them cannot be read from Placement: see "
            "`changeover devices`"
        )


def _build_simulated(desk: Desk) -> None:
    from changeover.models.errors import Refuse
    from changeover.worker.bootstrap import open_cards, open_simulated_servers
    from changeover.worker.simulator.cloud import build_cloud

    settings = desk.settings
    if settings.cloud is not None or settings.catalog is not None:
        raise Refuse("--simulated would build hosts in a real cloud: leave out cloud and catalog")
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    servers = open_simulated_servers(settings, desk.placement, desk.clock)
    try:
        cards = open_cards(settings, desk.clock)
        build_cloud(settings.state_dir / "catalog.yaml", desk.placement, cards, servers)
    finally:
        servers.close()
