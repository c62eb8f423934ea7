"""Set up: configuration and database."""

from __future__ import annotations

from typing import Annotated

import typer

from changeover.console.commands.common import Json, open_desk
from changeover.console.render import Output

commands = typer.Typer()
config_app = typer.Typer(help="Check, show and begin a configuration.", no_args_is_help=True)
db_app = typer.Typer(help="The database's schema.", no_args_is_help=True)
commands.add_typer(config_app, name="config")
commands.add_typer(db_app, name="db")


@config_app.command(name="check")
def config_check(*, json: Json = False) -> None:
    """Check settings, catalog, versions, and who answers."""
    from changeover.console import config

    with open_desk() as desk:
        raise typer.Exit(config.check(desk, Output(json)))


@config_app.command(name="show")
def config_show(*, json: Json = False) -> None:
    """Show every setting in force and where it comes from.

    Secrets are masked.
    """
    from changeover.console import config

    with open_desk() as desk:
        config.show(desk, Output(json))


@config_app.command(name="example")
def config_example(
    *,
    catalog: Annotated[
        bool, typer.Option("--catalog", help="An example of the catalog instead.")
    ] = False,
) -> None:
    """Print a commented example to begin a changeover.toml with."""
    from changeover.console import config, example_catalog

    print(example_catalog.TEXT if catalog else config.example(), end="")


@config_app.command(name="load")
def config_load(
    *,
    simulated: Annotated[
        bool,
        typer.Option(
            "--simulated", help="Build the simulated cloud first, in the Placement that is named."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Make the database know the catalog, and read every device.

    `changeover up` does so when it starts; where its processes run separately, this does.
    """
    from changeover.console import database

    with open_desk() as desk:
        database.load(desk, Output(json), simulated=simulated)


@db_app.command(name="upgrade")
def db_upgrade(*, json: Json = False) -> None:
    """Bring the database to this version's schema."""
    from changeover.console import database

    with open_desk() as desk:
        database.upgrade(desk, Output(json))
