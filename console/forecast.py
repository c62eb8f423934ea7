"""What is expected of each function, what the balancer wants of it, and why; and thrash."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from changeover.console.desk import Desk
from changeover.console.render import Column, Output, span

if TYPE_CHECKING:
    from changeover.policies.balancing.outlook import Prospect

DAY = 86_400.0


def forecast(desk: Desk, out: Output) -> None:
    """Show the outlook of every function as the balancer sees it."""
    document = _forecast(desk)
    if out.as_json:
        out.document(document)
        return
    out.line(document["why"])
    rows = [
        {
            "function": row["function"],
            "bursts": f"{row['bursts_a_day']:.2f}",
            "slots": "/".join(map(str, row["slots"])),
            "lost": f"{row['lost_a_day']:.2f}",
            "held": span(row["holding_seconds"]),
            "prior": f"{100 * row['prior']:.0f} %",
            "offered": f"{row['slots_free']} of {row['slots_offered']}",
            "wanted": row["slots_wanted"],
            "why": row["why"],
        }
        for row in document["functions"]
    ]
    columns = [
        Column("function", "function"),
        Column("bursts", "bursts a day", right=True),
        Column("slots", "slots 50/90/99 %", right=True),
        Column("lost", "lost a day", right=True),
        Column("held", "held", right=True),
        Column("prior", "prior", right=True),
        Column("offered", "free", right=True),
        Column("wanted", "wanted free", right=True),
        Column("why", "why"),
    ]
    if rows:
        out.table(rows, columns)


def _forecast(desk: Desk) -> dict[str, Any]:
    from changeover.policies.balancing.outlook import Prospect
    from changeover.worker.history import STALE

    settings, now = desk.settings, desk.clock.now()
    with desk.database.read() as tx:
        stored, at = tx.demand.outlook()
        records = tx.devices.all()
    offered, free = Counter[str](), Counter[str]()
    for record in records:
        if record.function is not None:
            offered[record.function] += record.slots
            free[record.function] += record.slots - record.used - record.reserved
    made = {name: Prospect.from_json(data) for name, data in stored.get("functions", {}).items()}
    pools = stored.get("pools", {})  # of the workers' catalog; earlier releases kept none
    age = now - float(stored["began"]) if stored else 0.0
    young = age < settings.forecast_after_seconds
    functions = []
    for name, prospect in sorted(made.items()):
        pool = pools.get(name, {"mode": None, "floor": 0})
        least = max(len(prospect.weights), pool["floor"])
        why = _why(prospect, pool["mode"], young=young, enough=free[name] >= least)
        functions.append(
            {
                "function": name,
                **prospect.as_json(),
                "slots_offered": offered[name],
                "slots_free": free[name],
                "slots_wanted": len(prospect.weights),
                **pool,
                "why": why,
            }
        )
    if not settings.forecast:
        why = "forecasts are switched off: see the setting forecast"
    elif not stored:
        why = "nothing was learnt yet: the balancer learns while `changeover up` runs"
    elif now - at > STALE:
        why = f"the last look was {span(now - at)} ago: is `changeover up` running?"
    else:
        why = f"learnt from {span(age)} of demand, {span(now - at)} ago"
    return {"made_at": at, "seen_seconds": age, "why": why, "functions": functions}


def _why(prospect: Prospect, mode: str | None, *, young: bool, enough: bool) -> str:
    if young and not prospect.prior:
        return "not acted on: too little was seen"
    if not prospect.weights:
        return "nothing: hardly any boot would be lost"
    if enough:
        return "enough is free"
    told = f"{prospect.lost_a_day:.2f} boots a day would fail without"
    return told if mode is None else f"{told}; mode {mode}"


def thrash(desk: Desk, out: Output, *, days: float) -> None:
    """Show how many programs served nobody before they were undone."""
    from changeover.worker.thrash import thrash as measured

    with desk.database.read() as tx:
        found = measured(tx, desk.clock.now() - days * DAY)
    rows = [
        {
            "function": t.function,
            "kind": t.kind,
            "programs": t.programs,
            "unused": t.unused,
            "share": t.share,
        }
        for t in found
    ]
    programs, unused = sum(t.programs for t in found), sum(t.unused for t in found)
    if out.as_json:
        out.document({"days": days, "programs": programs, "unused": unused, "by_function": rows})
        return
    share = 100 * unused / programs if programs else 0.0
    out.line(
        f"{unused} of {programs} programs of the last {days:g} day(s) were undone before they "
        f"served anybody ({share:.0f} %)"
    )
    columns = [
        Column("function", "function"),
        Column("kind", "for a"),
        Column("programs", "programs", right=True),
        Column("unused", "undone unused", right=True),
        Column("share", "share", right=True),
    ]
    shown = [{**row, "share": f"{100 * t.share:.0f} %"} for row, t in zip(rows, found, strict=True)]
    if shown:
        out.table(shown, columns)
