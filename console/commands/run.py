"""Run: the processes, each by itself or all supervised."""

from __future__ import annotations

from typing import Annotated

import typer

from changeover.console.desk import Desk

commands = typer.Typer()


@commands.command()
def up() -> None:
    """Run everything until SIGTERM, supervised.

    Listener, workers and beat; and a broker, Placement and a simulated cloud where no setting
    names any.
    """
    from changeover.console import serve

    serve.up(Desk())


@commands.command()
def listener() -> None:
    """Run only the listener."""
    from changeover.console import serve

    serve.listener(Desk())


@commands.command()
def worker(
    *,
    queues: Annotated[
        str | None, typer.Option(metavar="plan,advance,boot,sweep,callback", help="Only these.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Serve this compute host's devices: run it there."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1000, help="Processes.")
    ] = None,
) -> None:
    """Run only a worker."""
    from changeover.console import serve

    serve.worker(Desk(), queues=queues, host=host, concurrency=concurrency)


@commands.command()
def beat() -> None:
    """Run only the clock of scheduled jobs; several do no harm."""
    from changeover.console import serve

    serve.beat(Desk())


@commands.command()
def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave its files for a look at them.")
    ] = False,
) -> None:
    """Rescue boots on a simulated cloud, in under two minutes."""
    from changeover.console import demo as demonstration

    raise typer.Exit(demonstration.run(keep=keep))
