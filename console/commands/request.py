"""Ask for servers that are created when they can succeed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from changeover.console.commands.common import Json, open_desk
from changeover.console.render import Output

commands = typer.Typer()


OsCloud = Annotated[
    str | None,
    typer.Option(help="You, as in clouds.yaml: the server is yours, created by your trust."),
]
Project = Annotated[
    str | None, typer.Option(help="For operators: this project's id, by the service user's role.")
]
User = Annotated[str | None, typer.Option(help="For operators: whose server it is.")]
Wait = Annotated[bool, typer.Option("--wait", help="Show what happens until it is over.")]
Patience = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Give up after; default: patience_seconds.")
]
Priority = Annotated[float, typer.Option(help="Above 1 comes before other boots.")]
Key = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Sent twice with the same, a request counts once."),
]


@commands.command()
def boot(
    *,
    flavor: Annotated[str, typer.Option(help="Name or id.")],
    image: Annotated[str, typer.Option(help="Name or id.")],
    network: Annotated[
        list[str] | None,
        typer.Option(metavar="NETWORK", help="Name or id, port=ID, or auto, or none; repeatable."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the server; default: the flavor's.")] = None,
    key_name: Annotated[str | None, typer.Option(help="Key pair.")] = None,
    user_data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For cloud-init; - is standard input.")
    ] = None,
    availability_zone: Annotated[str | None, typer.Option()] = None,
    properties: Annotated[
        list[str] | None,
        typer.Option("--property", metavar="KEY=VALUE", help="Metadata; repeatable."),
    ] = None,
    hint: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="For the scheduler (group=ID too); repeatable."),
    ] = None,
    security_group: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Repeatable.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Repeatable.")] = None,
    count: Annotated[int, typer.Option(help="So many servers.")] = 1,
    os_cloud: OsCloud = None,
    project: Project = None,
    user: User = None,
    priority: Priority = 1.0,
    patience: Patience = None,
    idempotency_key: Key = None,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Ask for a server that is created when it can succeed.

    It is judged like a failed boot: created at once if it fits, else once a device was changed
    for it, else it waits, and is given up with the reason.
    """
    from changeover.console import request
    from changeover.models.server_request import request_of

    hints = request.pairs(hint or (), "--hint")
    asked = request_of(
        {
            "name": name or flavor,
            "flavor": flavor,
            "image": image,
            "networks": request.networks(network or ()),
            "key_name": key_name,
            "user_data": request.user_data(user_data),
            "availability_zone": availability_zone,
            "metadata": request.pairs(properties or (), "--property"),
            "server_group": hints.pop("group", None),
            "scheduler_hints": hints,
            "security_groups": security_group or [],
            "tags": tag or [],
        },
        count=count,
    )
    _request(asked, (os_cloud, project, user), (patience, priority, idempotency_key), wait, json)


@commands.command()
def submit(
    file: Annotated[Path, typer.Argument(help="Nova's own create request; - is standard input.")],
    *,
    os_cloud: OsCloud = None,
    project: Project = None,
    user: User = None,
    priority: Priority = 1.0,
    patience: Patience = None,
    idempotency_key: Key = None,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Ask for servers with the body of Nova's `POST /servers`; see `boot`."""
    from changeover.console import request

    asked = request.read_request(file)
    _request(asked, (os_cloud, project, user), (patience, priority, idempotency_key), wait, json)


def _request(
    asked: Any,
    whose: tuple[str | None, str | None, str | None],
    terms: tuple[float | None, float, str | None],
    wait: bool,  # noqa: FBT001 - handed on
    json: bool,  # noqa: FBT001 - handed on
) -> None:
    from changeover.console import request
    from changeover.worker.submit import Terms

    patience, priority, key = terms
    with open_desk() as desk:
        status = request.submit(
            desk,
            Output(json),
            asked,
            name=request.InWhoseName(*whose),
            terms=lambda most: Terms(most if patience is None else patience, priority, key),
            wait=wait,
        )
    raise typer.Exit(status)
