"""Ask for servers that are created when they can succeed."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from changeover.console.commands.common import Json, open_desk
from changeover.console.render import Output

commands = typer.Typer()


def _asks(read: Callable[..., Any]) -> Callable[..., None]:
    """A command that queues the request which ``read`` makes of its own options.

    How it is asked is said here once. Typer takes options from a signature and knows no groups of
    them, so that of ``read`` and the common one are put together.
    """

    def command(
        *,
        os_cloud: Annotated[
            str | None,
            typer.Option(
                metavar="NAME",
                help="You, as in clouds.yaml: the server is yours, created by your trust.",
            ),
        ] = None,
        project: Annotated[
            str | None,
            typer.Option(
                metavar="ID", help="For operators: this project's id, by the service user's role."
            ),
        ] = None,
        user: Annotated[
            str | None, typer.Option(metavar="ID", help="For operators: whose server it is.")
        ] = None,
        priority: Annotated[
            float, typer.Option(metavar="NUMBER", help="Above 1 comes before other boots.")
        ] = 1.0,
        patience: Annotated[
            float | None,
            typer.Option(metavar="SECONDS", help="Give up after; default: patience_seconds."),
        ] = None,
        idempotency_key: Annotated[
            str | None,
            typer.Option(metavar="TEXT", help="Sent twice with the same, a request counts once."),
        ] = None,
        wait: Annotated[
            bool, typer.Option("--wait", help="Show what happens until it is over.")
        ] = False,
        json: Json = False,
        **own: Any,
    ) -> None:
        from changeover.console import request
        from changeover.worker.submit import Terms

        asked = read(**own)
        with open_desk() as desk:
            status = request.submit(
                desk,
                Output(json),
                asked,
                name=request.InWhoseName(os_cloud, project, user),
                terms=lambda most: Terms(
                    most if patience is None else patience, priority, idempotency_key
                ),
                wait=wait,
            )
        raise typer.Exit(status)

    its, common = (signature(one, eval_str=True) for one in (read, command))
    asked = [p for p in common.parameters.values() if p.kind is p.KEYWORD_ONLY]
    together = its.replace(parameters=[*its.parameters.values(), *asked])
    command.__signature__ = together  # type: ignore[attr-defined]  # what Typer reads
    command.__name__, command.__doc__ = read.__name__, read.__doc__
    return command


@commands.command()
@_asks
def boot(
    *,
    flavor: Annotated[str, typer.Option(metavar="FLAVOR", help="Name or id.")],
    image: Annotated[str, typer.Option(metavar="IMAGE", help="Name or id.")],
    network: Annotated[
        list[str] | None,
        typer.Option(metavar="NETWORK", help="Name or id, port=ID, or auto, or none; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the server; default: the flavor's.")
    ] = None,
    key_name: Annotated[str | None, typer.Option(metavar="NAME", help="Key pair.")] = None,
    user_data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For cloud-init; - is standard input.")
    ] = None,
    availability_zone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Where it must be; default: anywhere.")
    ] = None,
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
    count: Annotated[int, typer.Option(metavar="N", help="So many servers.")] = 1,
) -> Any:
    """Ask for a server that is created when it can succeed.

    It is judged like a failed boot: created at once if it fits, else once a device was changed
    for it, else it waits, and is given up with the reason.
    """
    from changeover.console import request
    from changeover.models.server_request import request_of

    hints = request.pairs(hint or (), "--hint")
    return request_of(
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


@commands.command()
@_asks
def submit(
    file: Annotated[Path, typer.Argument(help="Nova's own create request; - is standard input.")],
) -> Any:
    """Ask for servers with the body of Nova's `POST /servers`.

    They are treated as those of `boot`.
    """
    from changeover.console import request

    return request.read_request(file)
