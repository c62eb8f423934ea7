"""Look at what the database keeps: one function a listing, each as a table or as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from changeover.console.desk import Desk
from changeover.console.render import Column, Output, plain, short, span

if TYPE_CHECKING:
    from changeover.models.changeover import Changeover


def boots(
    desk: Desk, out: Output, *, over: bool | None, state: str | None = None, limit: int = 50
) -> None:
    """One line a failed boot, newest first."""
    now = desk.clock.now()
    with desk.database.read() as tx:
        found = tx.boots.listed(over=over, limit=limit if state is None else 100_000)
    found = [b for b in found if state is None or b.state == state][:limit]
    columns = [
        Column("boot", "boot"),
        Column("server", "server"),
        Column("name", "flavor"),
        Column("state", "state"),
        Column("attempt", "tries", right=True),
        Column("age", "age", right=True),
        Column("why", "why"),
    ]
    out.listing(
        [plain(b) for b in found],
        columns,
        (
            {
                "boot": short(b.id),
                "server": short(b.server or b.successor),
                "name": b.name,
                "state": str(b.state),
                "attempt": b.attempt,
                "age": span((b.finished_at or now) - b.failed_at),
                "why": b.reason.text,
            }
            for b in found
        ),
        empty="no boots" if over is None else "no such boots",
    )


def tasks(desk: Desk, out: Output, *, queued: bool = False) -> None:
    """One line a programming task, most urgent first."""
    now = desk.clock.now()
    with desk.database.read() as tx:
        found = tx.tasks.all(queued_only=queued)
    names = desk.device_names
    rows = [
        {**plain(t), "device_name": names.get(t.device, t.device) if t.device else None}
        for t in found
    ]
    columns = [
        Column("task", "task"),
        Column("function", "function"),
        Column("where", "where"),
        Column("progress", "done", right=True),
        Column("when", "when"),
        Column("priority", "priority", right=True),
        Column("state", "state"),
        Column("age", "age", right=True),
        Column("by", "by"),
        Column("why", "why"),
    ]
    shown = (
        {
            "task": short(t.id),
            "function": t.function,
            "where": row["device_name"] or t.host or "anywhere",
            "progress": f"{t.done}/{t.count}",
            "when": t.when,
            "priority": f"{t.priority:g}",
            "state": str(t.state),
            "age": span(now - t.created_at),
            "by": t.created_by,
            "why": t.reason.text,
        }
        for t, row in zip(found, rows, strict=True)
    )
    out.listing(rows, columns, shown, empty="no tasks: queue one with `changeover program`")


def changeovers(desk: Desk, out: Output, *, live: bool = False, limit: int = 50) -> None:
    """One line a changeover, newest first."""
    with desk.database.read() as tx:
        found = list(reversed(tx.changeovers.live())) if live else tx.changeovers.latest(limit)
    changeover_listing(desk, out, found[:limit], empty="no changeovers")


CHANGEOVER_COLUMNS = [
    Column("changeover", "changeover"),
    Column("device", "device"),
    Column("from", "from"),
    Column("to", "to"),
    Column("kind", "for"),
    Column("state", "state"),
    Column("age", "age", right=True),
    Column("took", "took", right=True),
    Column("why", "why"),
]


def changeover_listing(desk: Desk, out: Output, found: Iterable[Changeover], *, empty: str) -> None:
    """Changeovers as a listing."""
    those = list(found)
    names = desk.device_names
    rows = [{**plain(c), "device_name": names.get(c.device, c.device)} for c in those]
    shown = (changeover_line(c, names, desk.clock.now()) for c in those)
    out.listing(rows, CHANGEOVER_COLUMNS, shown, empty=empty)


def changeover_line(c: Changeover, names: Mapping[str, str], now: float) -> dict[str, Any]:
    """A changeover in a table."""
    return {
        "changeover": short(c.id),
        "device": names.get(c.device, c.device),
        "from": c.from_function or "(empty)",
        "to": c.to_function,
        "kind": c.kind,
        "state": str(c.state),
        "age": span(now - c.created_at),
        "took": None if c.finished_at is None else span(c.finished_at - c.created_at),
        "why": c.reason.text,
    }


def plans(desk: Desk, out: Output, *, limit: int = 50) -> None:
    """One line a plan that wanted changeovers, newest first."""
    now = desk.clock.now()
    with desk.database.read() as tx:
        found = tx.plans.latest(limit)
    names = desk.device_names
    columns = [
        Column("plan", "plan"),
        Column("state", "state"),
        Column("age", "age", right=True),
        Column("changes", "changeovers"),
        Column("by", "decided by"),
    ]
    shown = (
        {
            "plan": short(p["id"]),
            "state": str(p["state"]),
            "age": span(now - p["created_at"]),
            "changes": ", ".join(
                f"{names.get(i['device'], i['device'])}: {i['from_function'] or '(empty)'} -> "
                f"{i['to_function']}"
                for i in p["result"]["intents"]
            ),
            "by": p["decided_by"],
        }
        for p in found
    )
    out.listing([plain(p) for p in found], columns, shown, empty="no plans")


def dead_letters(desk: Desk, out: Output, *, limit: int = 200) -> None:
    """One line a message that could not be understood, newest first."""
    now = desk.clock.now()
    with desk.database.read() as tx:
        found = tx.events.dead_letters(limit)
    columns = [
        Column("id", "id", right=True),
        Column("age", "age", right=True),
        Column("source", "source"),
        Column("size", "bytes", right=True),
        Column("times", "times", right=True),
        Column("replayed", "replayed"),
        Column("reason", "reason"),
    ]
    shown = (
        {
            **letter,
            "age": span(now - letter["received_at"]),
            "replayed": letter["replayed_at"] and f"{span(now - letter['replayed_at'])} ago",
        }
        for letter in found
    )
    out.listing(found, columns, shown, empty="no dead letters")
