"""Act: programming tasks, and what an operator tells the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from changeover.console import complete
from changeover.console.commands.common import Json, When, open_desk
from changeover.console.render import Output

commands = typer.Typer()


@commands.command()
def program(
    *,
    function: Annotated[
        str,
        typer.Option(
            metavar="FUNCTION", help="What to program.", autocompletion=complete.functions
        ),
    ],
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="This device.", autocompletion=complete.devices),
    ] = None,
    count: Annotated[
        int, typer.Option(metavar="N", help="So many devices, whichever fit best.")
    ] = 1,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="Only devices of this host.", autocompletion=complete.hosts
        ),
    ] = None,
    when: When = "idle",
    priority: Annotated[
        float, typer.Option(metavar="NUMBER", help="Above 1 comes before other tasks.")
    ] = 1.0,
    json: Json = False,
) -> None:
    """Queue a programming task.

    It goes through the same changeovers as failed boots.
    """
    from changeover.console import operate

    with open_desk() as desk:
        operate.program(
            desk,
            Output(json),
            function=function,
            device=device,
            host=host,
            count=count,
            when=when,
            priority=priority,
        )


@commands.command()
def apply(
    layout: Annotated[Path, typer.Argument(help="YAML: `devices: {NAME: FUNCTION}`.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the difference.")] = False,
    when: When = "idle",
    json: Json = False,
) -> None:
    """Bring devices to a layout; the difference is shown first.

    Applying a layout twice does nothing the second time.
    """
    from changeover.console import operate

    with open_desk() as desk:
        operate.apply(desk, Output(json), layout, yes=yes, dry_run=dry_run, when=when)


@commands.command()
def cancel(
    subject: Annotated[
        str,
        typer.Argument(help="A task, boot or changeover.", autocompletion=complete.cancellable),
    ],
    *,
    json: Json = False,
) -> None:
    """Cancel a task, a boot, or a changeover not programming yet."""
    from changeover.console import operate

    with open_desk() as desk:
        operate.cancel(desk, Output(json), subject)


@commands.command()
def release(
    device: Annotated[
        str, typer.Argument(help="A quarantined device.", autocompletion=complete.devices)
    ],
    *,
    json: Json = False,
) -> None:
    """Let a quarantined device be programmed again.

    Do so after somebody has looked at it: nobody knows what it does.
    """
    from changeover.console import operate

    with open_desk() as desk:
        operate.release(desk, Output(json), device)


@commands.command()
def retry(
    boot: Annotated[
        str, typer.Argument(help="A waiting boot, or its server.", autocompletion=complete.boots)
    ],
    *,
    json: Json = False,
) -> None:
    """Judge a waiting boot again now."""
    from changeover.console import operate

    with open_desk() as desk:
        operate.retry(desk, Output(json), boot)


@commands.command()
def pause(
    *,
    why: Annotated[
        str, typer.Option(metavar="TEXT", help="Said to everybody who asks.")
    ] = "by an operator",
    json: Json = False,
) -> None:
    """Start no changeover; those under way are finished."""
    from changeover.console import operate

    with open_desk() as desk:
        operate.pause(desk, Output(json), why)


@commands.command()
def resume(*, json: Json = False) -> None:
    """Act again after `pause` or `drain`."""
    from changeover.console import operate

    with open_desk() as desk:
        operate.resume(desk, Output(json))


@commands.command()
def drain(*, json: Json = False) -> None:
    """Pause, and put back what is not programming yet."""
    from changeover.console import operate

    with open_desk() as desk:
        operate.drain(desk, Output(json))


@commands.command()
def replay(
    file: Annotated[Path, typer.Argument(help="Notifications, one a line; - is standard input.")],
    *,
    json: Json = False,
) -> None:
    """Take captured notifications in, as the listener does."""
    from changeover.console import replay as replaying

    with open_desk() as desk:
        replaying.replay(desk, Output(json), file)
