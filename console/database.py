"""The database's schema."""

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
