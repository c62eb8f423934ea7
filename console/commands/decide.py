"""Decide: plans, previews, and policies tried on what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from changeover.console import complete
from changeover.console.commands.common import Days, Json, open_desk
from changeover.console.render import Output

LONGEST = 31_536_000
"""Seconds, a year: a policy that is asked for ever never ends a backtest."""

commands = typer.Typer()
plan_app = typer.Typer(
    help="What would be done now, and why not otherwise; or decide on plans.",
    short_help="What would be done now; approve or refuse it.",
)
commands.add_typer(plan_app, name="plan")


@plan_app.callback(invoke_without_command=True)
def plan(ctx: typer.Context, *, json: Json = False) -> None:
    """What would be done now, and why not otherwise; or decide on plans."""
    if ctx.invoked_subcommand is not None:
        if json:
            raise typer.BadParameter(f"write --json after {ctx.invoked_subcommand}")
        return
    from changeover.console import preview

    with open_desk() as desk:
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

    with open_desk() as desk:
        decide.approve(desk, Output(json), plan_id, only=only or (), without=without or ())


@plan_app.command(name="refuse")
def plan_refuse(plan_id: PlanId, *, json: Json = False) -> None:
    """Refuse a recommended plan."""
    from changeover.console import decide

    with open_desk() as desk:
        decide.refuse(desk, Output(json), plan_id)


@plan_app.command(name="replay")
def plan_replay(plan_id: PlanId, *, json: Json = False) -> None:
    """Make a plan again from its stored inputs.

    It must come out the same: the exit status is 1 if it does not.
    """
    from changeover.console import decide

    with open_desk() as desk:
        raise typer.Exit(decide.replay(desk, Output(json), plan_id))


@commands.command()
def backtest(
    *,
    events: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Recorded boots: CSV, may be gzipped."),
    ] = None,
    fleet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Devices and the slots that each yields: CSV."),
    ] = None,
    from_db: Annotated[
        bool, typer.Option("--from-db", help="What this deployment recorded itself, instead.")
    ] = False,
    days: Days = 30.0,
    program_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="To program a device; --from-db: the catalog's.",
            min=0.0,
            max=LONGEST,
        ),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="That a boot waits; --from-db: the setting's.",
            min=0.001,
            max=LONGEST,
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="static, reactive, newsvendor, default, or one that a package offers; "
            "repeatable, to compare.",
            autocompletion=complete.policies,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="For policies that use chance.")] = 0,
    journal: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was done: JSON lines.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw it over time: FILE.png or FILE.svg."),
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
        with open_desk() as desk:
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


@commands.command()
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

    with open_desk() as desk:
        ranking.rank(
            desk,
            Output(json),
            wanted=wanted,
            path=file,
            resources=resources or (),
            required=required or (),
        )
