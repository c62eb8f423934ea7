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
    _require_known(before, _scripts())
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


def _scripts() -> ScriptDirectory:
    """This version's migrations; each call reads all of them."""
    return ScriptDirectory.from_config(_config("sqlite://"))


def head() -> str | None:
    """The revision that this version needs."""
    return _scripts().get_current_head()


def _require_known(revision: str | None, scripts: ScriptDirectory) -> None:
    """Raise :class:`AskOperator` for a revision that this version has no migration to."""
    if revision not in {None, *(one.revision for one in scripts.walk_revisions())}:
        wanted = scripts.get_current_head()
        raise AskOperator(
            f"the database is at revision {revision}, which this version does not know (it needs "
            f"{wanted}): a newer Changeover wrote it; install that one, or name "
            "another database",
            found=revision,
            wanted=wanted,
        )


def require_current(database: Database) -> None:
    """Raise :class:`AskOperator` unless the database has this version's schema."""
    scripts = _scripts()
    found, wanted = current(database.url), scripts.get_current_head()
    if found != wanted:
        _require_known(found, scripts)
        raise AskOperator(
            f"the database is at revision {found or 'none'}, this version needs {wanted}: "
            "run `changeover db upgrade`",
            found=found,
            wanted=wanted,
        )
