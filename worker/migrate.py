"""Migrations: bring a database to the schema of this version."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from changeover.models.errors import AskOperator
from changeover.worker.store import Database

MIGRATIONS = Path(__file__).resolve().parent / "migrations"


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> tuple[str | None, str | None]:
    """Upgrade the database; returns the revisions before and after.

    Raises :class:`AskOperator` if a newer version has upgraded it already.
    """
    before = current(url)
    _require_known(before)
    command.upgrade(_config(url), revision)
    return before, current(url)


def current(url: str) -> str | None:
    """The revision that the database is at; ``None`` for an empty one."""
    database = Database(url)
    try:
        with database.read() as tx:
            return MigrationContext.configure(tx.connection).get_current_revision()
    finally:
        database.dispose()


def head() -> str | None:
    """The revision that this version needs."""
    return ScriptDirectory.from_config(_config("sqlite://")).get_current_head()


def _require_known(revision: str | None) -> None:
    """Raise :class:`AskOperator` for a revision that this version has no migration to."""
    script, wanted = ScriptDirectory.from_config(_config("sqlite://")), head()
    if revision not in {None, *(one.revision for one in script.walk_revisions())}:
        raise AskOperator(
            f"the database is at revision {revision}, which this version does not know (it needs "
            f"{wanted}): a newer Changeover wrote it; install that one, or name "
            "another database",
            found=revision,
            wanted=wanted,
        )


def require_current(database: Database) -> None:
    """Raise :class:`AskOperator` unless the database has this version's schema."""
    found, wanted = current(database.url), head()
    _require_known(found)
    if found != wanted:
        raise AskOperator(
            f"the database is at revision {found or 'none'}, this version needs {wanted}: "
            "run `changeover db upgrade`",
            found=found,
            wanted=wanted,
        )
