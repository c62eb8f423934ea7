"""The command line. Every command is thin and imports what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from changeover.console import complete
from changeover.console.desk import Desk
from changeover.console.render import Output

SEE = "Exit status: 0 done, 2 refused, 3 a person must act, 4 try again later, 5 look again."


class Commands(TyperGroup):
    """Turns every error of ours into one message and a status, as JSON where that was asked."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - typer's signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002 - typer's signature
        **extra: Any,
    ) -> Any:
        """Run a command; see the class."""
        words = list(sys.argv[1:] if args is None else args)
        status = _guarded(
            lambda: super(Commands, self).main(
                words,
                prog_name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            ),
            as_json="--json" in words,
        )
        if standalone_mode:
            sys.exit(status)
        return status


def _guarded(run: Callable[[], Any], *, as_json: bool) -> int:
    from changeover.models.errors import ChangeoverError

    try:
        answered = run()
    except ChangeoverError as exc:
        from changeover.console.failures import report

        return report(exc, as_json=as_json)
    except typer.Abort:
        from changeover.console.failures import INTERRUPTED, say

        say("interrupted", kind="Interrupted", status=INTERRUPTED, as_json=as_json)
        return INTERRUPTED
    except typer.TyperException as exc:  # wrong usage
        return _wrong_usage(exc, as_json=as_json)
    except BrokenPipeError:
        # Whoever read our output (head, less) has gone: nothing is left to say, to anybody.
        sys.stdout = None
        return 0
    except Exception as exc:
        from changeover.console.failures import TRY_AGAIN, database_error, say

        message = database_error(exc)
        if message is None:
            raise
        say(message, kind="DatabaseError", status=TRY_AGAIN, as_json=as_json)
        return TRY_AGAIN
    return answered if isinstance(answered, int) else 0


def _wrong_usage(error: typer.TyperException, *, as_json: bool) -> int:
    if as_json:
        from changeover.console.failures import say

        say(error.format_message(), kind="Usage", status=error.exit_code, as_json=True)
    else:
        show: Callable[[], None] = getattr(error, "show", lambda: None)
        show()
    return error.exit_code


app = typer.Typer(
    cls=Commands,
    name="changeover",
    help="Rescue failed boots: fence, program and publish idle accelerators.",
    epilog=SEE,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich takes longer to import than everything else together
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Check, show and begin a configuration.", no_args_is_help=True)
plan_app = typer.Typer(
    help="What would be done now, and why not otherwise; or decide on plans.",
    short_help="What would be done now; approve or refuse it.",
)
db_app = typer.Typer(help="The database's schema.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(db_app, name="db")
app.add_typer(plan_app, name="plan")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(help="How many at most.", min=1)]
When = Annotated[
    Literal["idle", "now-or-fail"],
    typer.Option(help="Wait until devices are idle, or fail at once if they are not."),
]


Fresh = Annotated[bool, typer.Option("--fresh", help="Read every device from Placement first.")]


@contextmanager
def _desk() -> Iterator[Desk]:
    from changeover.console.desk import quiet

    quiet()
    desk = Desk()
    try:
        yield desk
    finally:
        desk.close()


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer's signature
    if wanted:
        from importlib.metadata import version

        print(f"changeover {version('changeover')}")
        raise typer.Exit


@app.callback()
def _everything(
    *,
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Say which version this is.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


# ---------------------------------------------------------------- look


@app.command()
def status(*, json: Json = False) -> None:
    """Everything at a glance."""
    from changeover.console import show

    with _desk() as desk:
        show.status(desk, Output(json))


@app.command()
def alive(
    role: Annotated[
        Literal["worker", "listener", "beat"], typer.Argument(help="Which kind of process.")
    ],
    *,
    json: Json = False,
) -> None:
    """Whether a process of this host lives; for health checks."""
    from changeover.console import show

    with _desk() as desk:
        show.alive(desk, Output(json), role)


@app.command()
def pools(*, fresh: Fresh = False, json: Json = False) -> None:
    """Functions: what offers them, what is free, who waits."""
    from changeover.console import show

    with _desk() as desk:
        show.pools(desk, Output(json), fresh=fresh)


@app.command()
def devices(
    *,
    host: Annotated[
        str | None, typer.Option(help="Only of this host.", autocompletion=complete.hosts)
    ] = None,
    function: Annotated[
        str | None,
        typer.Option(help="Only those that offer this.", autocompletion=complete.functions),
    ] = None,
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Devices: what they offer, and whether they are free."""
    from changeover.console import show

    with _desk() as desk:
        show.devices(desk, Output(json), host=host, function=function, fresh=fresh)


@app.command()
def doctor(
    *,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Advice on what was skipped, too.")
    ] = False,
    json: Json = False,
) -> int:
    """Check everything against the running cloud and say what to change; changes nothing."""
    from changeover.console import doctor as examined

    with _desk() as desk:
        return examined.doctor(desk, Output(json), verbose=verbose)


@app.command()
def discover(*, fresh: Fresh = False, json: Json = False) -> None:
    """Devices that the catalog's rules found, lost, or cannot make sense of."""
    from changeover.console import discover as found

    with _desk() as desk:
        found.discover(desk, Output(json), fresh=fresh)


@app.command()
def boots(
    *,
    over: Annotated[
        bool | None, typer.Option("--over/--open", help="Only finished, or only unfinished ones.")
    ] = None,
    state: Annotated[str | None, typer.Option(help="Only in this state.")] = None,
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
    with _desk() as desk:
        show.boots(desk, Output(json), over=over, state=state, limit=limit)


@app.command()
def functions(
    *,
    allow: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Lift the stop of a function whose artifact failed.",
            autocompletion=complete.functions,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """What devices can be programmed to do."""
    from changeover.console import operate, show

    with _desk() as desk:
        if allow is not None:
            operate.allow(desk, Output(json), allow)
        else:
            show.functions(desk, Output(json))


@app.command()
def tasks(
    *,
    queued: Annotated[bool, typer.Option("--queued", help="Only those not done yet.")] = False,
    json: Json = False,
) -> None:
    """Operators' programming tasks."""
    from changeover.console import show

    with _desk() as desk:
        show.tasks(desk, Output(json), queued=queued)


@app.command()
def changeovers(
    *,
    live: Annotated[bool, typer.Option("--live", help="Only those that hold a device.")] = False,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Devices changed from one function to another, newest first."""
    from changeover.console import show

    with _desk() as desk:
        show.changeovers(desk, Output(json), live=live, limit=limit)


@app.command()
def forecast(*, json: Json = False) -> None:
    """What each function is expected to need, what is wanted free, and why."""
    from changeover.console import forecast as forecasting

    with _desk() as desk:
        forecasting.forecast(desk, Output(json))


@app.command()
def thrash(
    *,
    days: Annotated[float, typer.Option(help="So many days back.", min=0.001)] = 7.0,
    json: Json = False,
) -> None:
    """Programs that served nobody before they were undone."""
    from changeover.console import forecast as forecasting

    with _desk() as desk:
        forecasting.thrash(desk, Output(json), days=days)


@app.command()
def plans(*, limit: Limit = 50, json: Json = False) -> None:
    """Plans that wanted changeovers, newest first."""
    from changeover.console import show

    with _desk() as desk:
        show.plans(desk, Output(json), limit=limit)


@app.command()
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
    from changeover.console import show

    with _desk() as desk:
        show.audit(desk, Output(json), subject, limit=limit)


@app.command()
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
    with _desk() as desk:
        if retry is not None or retry_all:
            telling.retry(desk, Output(json), retry)
        else:
            telling.listing(desk, Output(json), state=state, limit=limit)


@app.command()
def reservations(*, json: Json = False) -> None:
    """Upcoming leases, what is being done for them, and why."""
    from changeover.console import reservations as leases

    with _desk() as desk:
        leases.listing(desk, Output(json))


@app.command(name="dead-letters")
def dead_letters(
    *,
    replay: Annotated[
        int | None, typer.Option(metavar="ID", help="Take this one in again.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Take all in again that were not yet.")
    ] = False,
    limit: Limit = 200,
    json: Json = False,
) -> None:
    """Messages that could not be understood, kept."""
    from changeover.console import replay as replaying
    from changeover.console import show

    if replay is not None and everything:
        raise typer.BadParameter("name one with --replay, or all with --all: not both")
    with _desk() as desk:
        if replay is not None or everything:
            replaying.replay_letters(desk, Output(json), replay)
        else:
            show.dead_letters(desk, Output(json), limit=limit)


@app.command()
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

    with _desk() as desk:
        explaining.explain(desk, Output(json), subject)


@plan_app.callback(invoke_without_command=True)
def plan(ctx: typer.Context, *, json: Json = False) -> None:
    """What would be done now, and why not otherwise; or decide on plans."""
    if ctx.invoked_subcommand is not None:
        return
    from changeover.console import preview

    with _desk() as desk:
        preview.plan(desk, Output(json))


PlanId = Annotated[
    str,
    typer.Argument(
        metavar="PLAN", help="Its id; see `changeover plans`.", autocompletion=complete.plans
    ),
]


@plan_app.command(name="approve")
def plan_approve(
    plan_id: PlanId,
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE", help="Only this device; repeatable.", autocompletion=complete.devices
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE", help="Not this device; repeatable.", autocompletion=complete.devices
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Approve a recommended plan, or some devices of it."""
    from changeover.console import decide

    with _desk() as desk:
        decide.approve(desk, Output(json), plan_id, only=only or (), without=without or ())


@plan_app.command(name="refuse")
def plan_refuse(plan_id: PlanId, *, json: Json = False) -> None:
    """Refuse a recommended plan."""
    from changeover.console import decide

    with _desk() as desk:
        decide.refuse(desk, Output(json), plan_id)


@plan_app.command(name="replay")
def plan_replay(plan_id: PlanId, *, json: Json = False) -> None:
    """Make a plan again from its stored inputs; it must come out the same."""
    from changeover.console import decide

    with _desk() as desk:
        raise typer.Exit(decide.replay(desk, Output(json), plan_id))


@app.command()
def backtest(
    *,
    events: Annotated[
        Path | None, typer.Option(help="Recorded boots: CSV, may be gzipped.")
    ] = None,
    fleet: Annotated[
        Path | None, typer.Option(help="Devices and the slots that each yields: CSV.")
    ] = None,
    from_db: Annotated[
        bool, typer.Option("--from-db", help="What this deployment recorded itself, instead.")
    ] = False,
    days: Annotated[float, typer.Option(help="So many days of it.", min=0.001)] = 30.0,
    program_seconds: Annotated[
        float | None,
        typer.Option(help="Seconds to program a device; --from-db: the catalog's.", min=0.0),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(help="Seconds that a boot waits; --from-db: the setting's.", min=0.001),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="static, reactive, newsvendor, default, or one that a package offers; "
            "repeatable, to compare.",
            autocompletion=complete.policies,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="For policies that use chance.")] = 0,
    journal: Annotated[Path | None, typer.Option(help="Write what was done: JSON lines.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it over time: FILE.png or FILE.svg.")
    ] = None,
    json: Json = False,
) -> None:
    """Try policies in virtual time on a recorded workload.

    Either on files (--events and --fleet), or on what this deployment recorded (--from-db).
    """
    from changeover.console import backtest as run

    if from_db:
        if events is not None or fleet is not None:
            raise typer.BadParameter("--from-db takes the place of --events and --fleet")
        with _desk() as desk:
            workload = run.from_db(
                desk, days=days, program_seconds=program_seconds, patience=patience
            )
        named = policy or list(run.COMPARED)
    else:
        if events is None or fleet is None or program_seconds is None or patience is None:
            raise typer.BadParameter(
                "give --events, --fleet, --program-seconds and --patience, or --from-db"
            )
        workload = run.from_files(events, fleet, program_seconds=program_seconds, patience=patience)
        named = policy or ["default"]
    run.backtest(
        Output(json),
        workload,
        policies=list(dict.fromkeys(named)),
        seed=seed,
        journal=journal,
        plot=plot,
    )


@app.command()
def rank(
    file: Annotated[
        Path | None, typer.Argument(help="Candidates as JSON; - or nothing: standard input.")
    ] = None,
    *,
    wanted: Annotated[str, typer.Option(metavar="TRAIT,...", help="Preferred traits.")],
    resources: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS=N", help="Ask Placement for candidates of these instead."),
    ] = None,
    required: Annotated[
        list[str] | None, typer.Option(metavar="TRAIT", help="Traits that they must have.")
    ] = None,
    json: Json = False,
) -> None:
    """Rank candidates by how many wanted traits they have."""
    from changeover.console import rank as ranking

    with _desk() as desk:
        ranking.rank(
            desk,
            Output(json),
            wanted=wanted,
            path=file,
            resources=resources or (),
            required=required or (),
        )


# ---------------------------------------------------------------- act


@app.command()
def program(
    *,
    function: Annotated[
        str, typer.Option(help="What to program.", autocompletion=complete.functions)
    ],
    device: Annotated[
        str | None, typer.Option(help="This device.", autocompletion=complete.devices)
    ] = None,
    count: Annotated[int, typer.Option(help="So many devices, whichever fit best.")] = 1,
    host: Annotated[
        str | None, typer.Option(help="Only devices of this host.", autocompletion=complete.hosts)
    ] = None,
    when: When = "idle",
    priority: Annotated[float, typer.Option(help="Above 1 comes before other tasks.")] = 1.0,
    json: Json = False,
) -> None:
    """Queue a programming task.

    It goes through the same changeovers as failed boots.
    """
    from changeover.console import operate

    with _desk() as desk:
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


@app.command()
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


@app.command()
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
    with _desk() as desk:
        status = request.submit(
            desk,
            Output(json),
            asked,
            name=request.InWhoseName(*whose),
            terms=lambda most: Terms(most if patience is None else patience, priority, key),
            wait=wait,
        )
    raise typer.Exit(status)


@app.command()
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

    with _desk() as desk:
        operate.apply(desk, Output(json), layout, yes=yes, dry_run=dry_run, when=when)


@app.command()
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

    with _desk() as desk:
        operate.cancel(desk, Output(json), subject)


@app.command()
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

    with _desk() as desk:
        operate.release(desk, Output(json), device)


@app.command()
def retry(
    boot: Annotated[
        str, typer.Argument(help="A waiting boot, or its server.", autocompletion=complete.boots)
    ],
    *,
    json: Json = False,
) -> None:
    """Judge a waiting boot again now."""
    from changeover.console import operate

    with _desk() as desk:
        operate.retry(desk, Output(json), boot)


@app.command()
def pause(
    *,
    why: Annotated[str, typer.Option(help="Said to everybody who asks.")] = "by an operator",
    json: Json = False,
) -> None:
    """Start no changeover; those under way are finished."""
    from changeover.console import operate

    with _desk() as desk:
        operate.pause(desk, Output(json), why)


@app.command()
def resume(*, json: Json = False) -> None:
    """Act again after `pause` or `drain`."""
    from changeover.console import operate

    with _desk() as desk:
        operate.resume(desk, Output(json))


@app.command()
def drain(*, json: Json = False) -> None:
    """Pause, and put back what is not programming yet."""
    from changeover.console import operate

    with _desk() as desk:
        operate.drain(desk, Output(json))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="Notifications, one a line; - is standard input.")],
    *,
    json: Json = False,
) -> None:
    """Take captured notifications in, as the listener does."""
    from changeover.console import replay as replaying

    with _desk() as desk:
        replaying.replay(desk, Output(json), file)


# ---------------------------------------------------------------- set up


@config_app.command(name="check")
def config_check(*, json: Json = False) -> None:
    """Check settings, catalog, versions, and that everything named answers."""
    from changeover.console import config

    with _desk() as desk:
        raise typer.Exit(config.check(desk, Output(json)))


@config_app.command(name="show")
def config_show(*, json: Json = False) -> None:
    """Show every setting in force and where it comes from; secrets are masked."""
    from changeover.console import config

    with _desk() as desk:
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

    with _desk() as desk:
        database.load(desk, Output(json), simulated=simulated)


@db_app.command(name="upgrade")
def db_upgrade(*, json: Json = False) -> None:
    """Bring the database to this version's schema."""
    from changeover.console import database

    with _desk() as desk:
        database.upgrade(desk, Output(json))


# ---------------------------------------------------------------- run


@app.command()
def up() -> None:
    """Run everything until SIGTERM, supervised.

    Listener, workers and beat; and a broker, Placement and a simulated cloud where no setting
    names any.
    """
    from changeover.console import serve

    serve.up(Desk())


@app.command()
def listener() -> None:
    """Run only the listener."""
    from changeover.console import serve

    serve.listener(Desk())


@app.command()
def worker(
    *,
    queues: Annotated[
        str | None, typer.Option(metavar="plan,advance,boot,sweep,callback", help="Only these.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Serve this compute host's devices: run it there.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
) -> None:
    """Run only a worker."""
    from changeover.console import serve

    serve.worker(Desk(), queues=queues, host=host, concurrency=concurrency)


@app.command()
def beat() -> None:
    """Run only the clock of scheduled jobs; several do no harm."""
    from changeover.console import serve

    serve.beat(Desk())


@app.command()
def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave its files for a look at them.")
    ] = False,
) -> None:
    """Rescue boots on a simulated cloud, in under two minutes."""
    from changeover.console import demo as demonstration

    raise typer.Exit(demonstration.run(keep=keep))


def main() -> None:
    """The ``changeover`` command."""
    app()


if __name__ == "__main__":
    main()
