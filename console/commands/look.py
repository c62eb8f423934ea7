"""Look: what is there, what waits, what was done and why."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from changeover.console import complete
from changeover.console.commands.common import Days, Fresh, Json, Limit, open_desk
from changeover.console.render import Output

commands = typer.Typer()


@commands.command()
def status(*, json: Json = False) -> None:
    """Everything at a glance."""
    from changeover.console.status import status as show_status

    with open_desk() as desk:
        show_status(desk, Output(json))


@commands.command()
def alive(
    role: Annotated[
        Literal["worker", "listener", "beat"], typer.Argument(help="Which kind of process.")
    ],
    *,
    json: Json = False,
) -> None:
    """Whether a process of this host lives; for health checks."""
    from changeover.console.status import alive as show_alive

    with open_desk() as desk:
        show_alive(desk, Output(json), role)


@commands.command()
def pools(*, fresh: Fresh = False, json: Json = False) -> None:
    """Functions: what offers them, what is free, who waits."""
    from changeover.console.devices import pools as show_pools

    with open_desk() as desk:
        show_pools(desk, Output(json), fresh=fresh)


@commands.command()
def devices(
    *,
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Only of this host.", autocompletion=complete.hosts),
    ] = None,
    function: Annotated[
        str | None,
        typer.Option(
            metavar="FUNCTION",
            help="Only those that offer this.",
            autocompletion=complete.functions,
        ),
    ] = None,
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Devices: what they offer, and whether they are free."""
    from changeover.console.devices import devices as show_devices

    with open_desk() as desk:
        show_devices(desk, Output(json), host=host, function=function, fresh=fresh)


@commands.command()
def doctor(
    *,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Advice on what was skipped, too.")
    ] = False,
    json: Json = False,
) -> int:
    """Check everything against the running cloud; changes nothing.

    What is wrong is said with what to change.
    """
    from changeover.console import doctor as examined

    with open_desk() as desk:
        return examined.doctor(desk, Output(json), verbose=verbose)


@commands.command()
def discover(*, fresh: Fresh = False, json: Json = False) -> None:
    """Devices that rules found, lost, or cannot make sense of."""
    from changeover.console import discover as found

    with open_desk() as desk:
        found.discover(desk, Output(json), fresh=fresh)


@commands.command()
def boots(
    *,
    over: Annotated[
        bool | None, typer.Option("--over/--open", help="Only finished, or only unfinished ones.")
    ] = None,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only in this one, such as waiting.")
    ] = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Boots that failed or were asked for, newest first."""
    from changeover.console import show
    from changeover.models.states import BootState

    if state is not None and state not in set(BootState):
        raise typer.BadParameter(
            f"{state!r} is none of {', '.join(BootState)}", param_hint="--state"
        )
    with open_desk() as desk:
        show.boots(desk, Output(json), over=over, state=state, limit=limit)


@commands.command()
def functions(
    *,
    allow: Annotated[
        str | None,
        typer.Option(
            metavar="FUNCTION",
            help="Lift the stop of a function whose artifact failed.",
            autocompletion=complete.functions,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """What devices can be programmed to do."""
    from changeover.console.devices import functions as show_functions
    from changeover.console.operate import allow as allow_function

    with open_desk() as desk:
        if allow is not None:
            allow_function(desk, Output(json), allow)
        else:
            show_functions(desk, Output(json))


@commands.command()
def tasks(
    *,
    queued: Annotated[bool, typer.Option("--queued", help="Only those not done yet.")] = False,
    json: Json = False,
) -> None:
    """Operators' programming tasks."""
    from changeover.console import show

    with open_desk() as desk:
        show.tasks(desk, Output(json), queued=queued)


@commands.command()
def changeovers(
    *,
    live: Annotated[bool, typer.Option("--live", help="Only those that hold a device.")] = False,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Devices changed from one function to another, newest first."""
    from changeover.console import show

    with open_desk() as desk:
        show.changeovers(desk, Output(json), live=live, limit=limit)


@commands.command()
def forecast(*, json: Json = False) -> None:
    """What each function is expected to need, and why."""
    from changeover.console import forecast as forecasting

    with open_desk() as desk:
        forecasting.forecast(desk, Output(json))


@commands.command()
def thrash(
    *,
    days: Days = 7.0,
    json: Json = False,
) -> None:
    """Programs that served nobody before they were undone."""
    from changeover.console import forecast as forecasting

    with open_desk() as desk:
        forecasting.thrash(desk, Output(json), days=days)


@commands.command()
def plans(*, limit: Limit = 50, json: Json = False) -> None:
    """Plans that wanted changeovers, newest first."""
    from changeover.console import show

    with open_desk() as desk:
        show.plans(desk, Output(json), limit=limit)


@commands.command()
def audit(
    subject: Annotated[
        str | None,
        typer.Argument(
            help="A boot, device, changeover, task or plan.", autocompletion=complete.subjects
        ),
    ] = None,
    *,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """What was done, by whom and why, oldest first."""
    from changeover.console.history import audit as show_audit

    with open_desk() as desk:
        show_audit(desk, Output(json), subject, limit=limit)


@commands.command()
def callbacks(
    *,
    state: Annotated[
        Literal["pending", "delivered", "dead"] | None, typer.Option(help="Only in this state.")
    ] = None,
    retry: Annotated[
        str | None, typer.Option(metavar="ID", help="Send this one again, that was given up.")
    ] = None,
    retry_all: Annotated[
        bool, typer.Option("--retry-all", help="Send all again that were given up.")
    ] = False,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """What owners were told of their boots, newest first."""
    from changeover.console import callbacks as telling

    if retry is not None and retry_all:
        raise typer.BadParameter("name one with --retry, or all with --retry-all: not both")
    with open_desk() as desk:
        if retry is not None or retry_all:
            telling.retry(desk, Output(json), retry)
        else:
            telling.listing(desk, Output(json), state=state, limit=limit)


@commands.command()
def reservations(*, json: Json = False) -> None:
    """Upcoming leases, what is being done for them, and why."""
    from changeover.console import reservations as leases

    with open_desk() as desk:
        leases.listing(desk, Output(json))


@commands.command(name="dead-letters")
def dead_letters(
    *,
    replay: Annotated[
        int | None, typer.Option(metavar="ID", help="Take this one in again.")
    ] = None,
    replay_all: Annotated[
        bool, typer.Option("--replay-all", help="Take all in again that were not yet.")
    ] = False,
    limit: Limit = 200,
    json: Json = False,
) -> None:
    """Messages that could not be understood, kept."""
    from changeover.console import replay as replaying
    from changeover.console import show

    if replay is not None and replay_all:
        raise typer.BadParameter("name one with --replay, or all with --replay-all: not both")
    with open_desk() as desk:
        if replay is not None or replay_all:
            replaying.replay_letters(desk, Output(json), replay)
        else:
            show.dead_letters(desk, Output(json), limit=limit)


@commands.command()
def explain(
    subject: Annotated[
        str,
        typer.Argument(
            help="A device's name, or the beginning of the id of a boot, server, changeover, "
            "task or plan.",
            autocompletion=complete.subjects,
        ),
    ],
    *,
    json: Json = False,
) -> None:
    """Why something is as it is, and what would be done now."""
    from changeover.console import explain as explaining

    with open_desk() as desk:
        explaining.explain(desk, Output(json), subject)
