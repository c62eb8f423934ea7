"""Act: tasks, cancelling, layouts, releasing, retrying, pausing and draining."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from changeover.console.desk import Desk
from changeover.console.render import Column, Output, plain, short
from changeover.models.errors import Invalid, Refuse

if TYPE_CHECKING:
    from changeover.models.task import Task, When
    from changeover.policies.layout import Difference


def _tell(desk: Desk, out: Output, document: dict[str, Any], line: str) -> None:
    """Answer; and say so if the workers were not told at once."""
    if out.as_json:
        out.document(document)
    else:
        out.line(line)
        if (unsent := desk.unsent) is not None:
            out.note(unsent)


def program(
    desk: Desk,
    out: Output,
    *,
    function: str,
    device: str | None,
    host: str | None,
    count: int,
    when: When,
    priority: float,
) -> None:
    """Queue a programming task."""
    task = desk.operator.program(
        function, device=device, host=host, count=count, when=when, priority=priority
    )
    _tell(desk, out, plain(task), f"queued task {task.id}: {_described(desk, task)}")


def _described(desk: Desk, task: Task) -> str:
    if task.device is not None:
        found = desk.catalog.device(task.device)
        return f"{task.function} on {task.device if found is None else found.name}"
    where = f" on {task.host}" if task.host else ""
    return f"{task.function} on {task.count} device(s){where}"


def cancel(desk: Desk, out: Output, subject: str) -> None:
    """Cancel a task, a boot or a changeover."""
    from changeover.console.subject import find_subject
    from changeover.models.changeover import Changeover

    found = find_subject(desk, subject)
    if found.kind not in {"task", "boot", "changeover"}:
        raise Refuse(
            f"{subject} is a {found.kind}: only tasks, boots and changeovers are cancelled"
        )
    cancelled = desk.operator.cancel(found.id)
    line = f"cancelled {found.kind} {found.id}"
    if isinstance(cancelled, Changeover):
        line = (
            f"asked changeover {found.id} to stop: it does unless its device is being "
            f"programmed already (it is {cancelled.state})"
        )
    _tell(desk, out, {"kind": found.kind, "id": found.id}, line)


def release(desk: Desk, out: Output, device: str) -> None:
    """Let a quarantined device be programmed again."""
    released = desk.operator.release(device)
    _tell(
        desk,
        out,
        plain(released),
        f"released {device}: it counts as empty and offers nothing until it is programmed",
    )


def retry(desk: Desk, out: Output, boot: str) -> None:
    """Judge a waiting boot again now."""
    from changeover.console.subject import find_id

    boot_id = find_id(desk, boot, "boot")
    desk.operator.retry(boot_id)
    _tell(desk, out, {"boot": boot_id}, f"boot {boot_id} is judged again now")


def allow(desk: Desk, out: Output, function: str) -> None:
    """Lift the stop of a function."""
    desk.operator.allow(function)
    _tell(desk, out, {"function": function, "stopped": None}, f"{function} may be programmed again")


def pause(desk: Desk, out: Output, why: str) -> None:
    """Start no changeover until resumed."""
    desk.operator.pause(why)
    _tell(
        desk,
        out,
        {"paused": why},
        "paused: no changeover is started; those under way are finished; "
        "go on with `changeover resume`",
    )


def resume(desk: Desk, out: Output) -> None:
    """Act again."""
    desk.operator.resume()
    _tell(desk, out, {"paused": None}, "resumed")


def drain(desk: Desk, out: Output) -> None:
    """Pause, and give up what is not programming yet."""
    asked = desk.operator.drain()
    _tell(
        desk,
        out,
        {"paused": "draining", "asked_to_stop": asked},
        f"draining: {asked} changeover(s) asked to stop; watch `changeover changeovers --live`; "
        "go on with `changeover resume`",
    )


# ---------------------------------------------------------------- layouts


def apply(desk: Desk, out: Output, path: Path, *, yes: bool, dry_run: bool, when: When) -> None:
    """Bring devices to a layout: show how far they are from it, ask, and queue the rest."""
    from changeover.console.layout_file import load_layout

    if out.as_json and not (yes or dry_run):
        raise Invalid("--json cannot ask: add --yes or --dry-run")
    layout = load_layout(path)
    lines = desk.operator.compare(layout.devices)
    refused = [line for line in lines if line.action == "refuse"]
    if refused:
        raise Invalid(
            "\n".join(
                layout.problem(line.device, f"{line.device}: {line.why}")
                for line in sorted(refused, key=lambda line: layout.lines[line.device])
            )
        )
    wanted = [line for line in lines if line.action == "program"]
    if not out.as_json:
        _show_differences(out, lines)
    if not wanted or dry_run:
        if out.as_json:
            out.document({"differences": plain(lines), "tasks": []})
        return
    if not yes and not _agreed(len(wanted)):
        raise Refuse("nothing was changed")
    tasks = desk.operator.apply(lines, when)
    if out.as_json:
        out.document({"differences": plain(lines), "tasks": plain(tasks)})
        return
    out.line(f"queued {len(tasks)} task(s): {', '.join(short(task.id) for task in tasks)}")
    if (unsent := desk.unsent) is not None:
        out.note(unsent)


def _show_differences(out: Output, lines: tuple[Difference, ...]) -> None:
    columns = [
        Column("device", "device"),
        Column("now", "offers"),
        Column("wanted", "wanted"),
        Column("action", "action"),
    ]
    changed = [line for line in lines if line.action != "keep"]
    if changed:
        out.table([{**plain(line), "now": line.now or "(empty)"} for line in changed], columns)
    queued = sum(line.action == "queued" for line in lines)
    kept = len(lines) - len(changed)
    to_do = len(changed) - queued
    out.line(f"{to_do} to program, {queued} queued already, {kept} as wanted")


def _agreed(count: int) -> bool:
    """Ask on a terminal. Raises :class:`Refuse` where nobody can answer."""
    import typer

    if not sys.stdin.isatty():
        raise Refuse("nobody can be asked here: add --yes to apply the layout")
    return typer.confirm(f"program {count} device(s)?", err=True)
