"""Explain one boot, device, changeover, task or plan: what it is, what was done, what would be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from changeover.console.callbacks import COLUMNS, callback_line
from changeover.console.desk import Desk
from changeover.console.explain_device import explain_device
from changeover.console.history import history
from changeover.console.preview import described, preview_or_error, reason_text, show_preview
from changeover.console.render import Output, due, moment, plain, short, span
from changeover.console.show import changeover_listing
from changeover.console.subject import find_subject
from changeover.models.errors import NotFound
from changeover.models.states import BOOT_OVER, BOOT_WANTS

if TYPE_CHECKING:
    from changeover.models.boot import Boot


def explain(desk: Desk, out: Output, text: str) -> None:
    """Tell everything about one thing."""
    found = find_subject(desk, text)
    tell = {
        "boot": _boot,
        "device": explain_device,
        "changeover": _changeover,
        "task": _task,
        "plan": _plan,
    }[found.kind]
    tell(desk, out, found.id)


def _gone(kind: str, identifier: str) -> NotFound:
    return NotFound(f"there is no {kind} {identifier} any more")


def _boot(desk: Desk, out: Output, boot_id: str) -> None:
    now = desk.clock.now()
    with desk.database.read() as tx:
        boot = tx.boots.get(boot_id)
        if boot is None:
            raise _gone("boot", boot_id)
        promises = tx.boots.promises(boot=boot_id)
        made = [
            c
            for p in promises
            if p.changeover is not None and (c := tx.changeovers.get(p.changeover)) is not None
        ]
        deeds = tx.audit.of(boot_id)
        events = tx.events.of_server(boot.server) if boot.server is not None else []
        keeps = tx.keeps.standing(now, subject=boot_id)
        told = tx.callbacks.listed(boot=boot_id)
    preview = preview_or_error(desk, boot) if boot.state in BOOT_WANTS else None
    if out.as_json:
        out.document(
            {
                "kind": "boot",
                "boot": plain(boot),
                "promises": plain(promises),
                "changeovers": plain(made),
                "kept": plain(keeps),
                "callbacks": plain(told),
                "history": deeds,
                "events": events,
                "preview": preview,
            }
        )
        return
    names = desk.device_names
    out.facts(
        f"boot {boot.id}: {boot.state}",
        {
            "why": reason_text(boot.reason),
            "failed server": boot.server,
            "requested": _requested(boot),
            "server" if boot.server is None else "successor": boot.successor,
            "flavor": boot.name,
            "project": boot.project,
            "asked for": described(boot.request),
            "device profile": boot.device_profile,
            "failed": f"{span(now - boot.failed_at)} ago, {moment(boot.failed_at)}",
            "creates": f"{boot.attempt} of at most {desk.settings.max_attempts}",
            "judged again": due(boot.wake_at, now) if boot.state in BOOT_WANTS else None,
            "given up": None if boot.state in BOOT_OVER else due(boot.expires_at, now),
            "promised": ", ".join(
                f"{p.slots} slot(s) of {names.get(p.device, p.device)}"
                + (f" by changeover {short(p.changeover)}" if p.changeover else "")
                for p in promises
            ),
            "kept for its owner": ", ".join(
                f"{k.slots} slot(s) of {names.get(k.device, k.device)}, given up "
                f"{due(k.until, now)}"
                for k in keeps
            ),
        },
    )
    if told:
        out.heading("what its owner was told")
        out.table([callback_line(c, now) for c in told], COLUMNS)
    if made:
        out.heading("changeovers for it")
        changeover_listing(desk, out, made, empty="")
    if events:
        out.heading("events of its server")
    for event in events:
        out.line(
            f"  {moment(event['received_at'])}  {event['kind']} from {event['source']}: "
            f"{event['outcome']}"
        )
    _history(out, deeds, names)
    if preview is not None:
        out.heading("what would be decided now, for it alone")
        if "error" in preview:
            out.line(f"  no preview: {preview['error']['message']}")
        else:
            show_preview(out, preview)


def _requested(boot: Boot) -> str | None:
    """What was asked for, where no server failed."""
    if boot.origin != "request" or boot.blueprint is None:
        return None
    whose = f"by trust {boot.trust}" if boot.trust else "by the service user's own role"
    if boot.trust_withdrawn_at is not None:
        whose += ", which was taken back since"
    return f"server {boot.blueprint.name} for user {boot.user}, {whose}"


def _history(out: Output, deeds: list[dict[str, Any]], names: Mapping[str, str]) -> None:
    out.heading("history")
    history(out, deeds, names)


def _changeover(desk: Desk, out: Output, changeover_id: str) -> None:
    now = desk.clock.now()
    with desk.database.read() as tx:
        changeover = tx.changeovers.get(changeover_id)
        if changeover is None:
            raise _gone("changeover", changeover_id)
        fences = tx.fences.of(changeover_id)
        promises = tx.boots.promises(changeover=changeover_id)
        deeds = tx.audit.of(changeover_id)
        plan = None if changeover.plan_id is None else tx.plans.get(changeover.plan_id)
    intent = None
    if plan is not None:
        intent = next(
            (i for i in plan["result"]["intents"] if i["device"] == changeover.device), None
        )
    if out.as_json:
        out.document(
            {
                "kind": "changeover",
                "changeover": plain(changeover),
                "intent": intent,
                "fences": plain(fences),
                "promises": plain(promises),
                "history": deeds,
            }
        )
        return
    names = desk.device_names
    out.facts(
        f"changeover {changeover.id}: {changeover.state}",
        {
            "why": reason_text(changeover.reason),
            "device": f"{names.get(changeover.device, changeover.device)} on {changeover.host}",
            "from": changeover.from_function or "(empty)",
            "to": changeover.to_function,
            "for": f"a {changeover.kind}"
            + (f", {short(changeover.subject)}" if changeover.subject else ""),
            "plan": changeover.plan_id,
            "planned since": ", ".join(r["text"] for r in intent["reasons"]) if intent else None,
            "started": f"{span(now - changeover.created_at)} ago",
            "next step": due(changeover.due_at, now) if changeover.finished_at is None else None,
            "worked on by": changeover.lease_owner,
            "calls to the driver": changeover.tries or None,
            "failures in this step": changeover.failures or None,
            "asked to stop": "yes" if changeover.cancel else None,
            "took": None
            if changeover.finished_at is None
            else span(changeover.finished_at - changeover.created_at),
            "serves": ", ".join(f"boot {short(p.boot)}" for p in promises),
            "fences": ", ".join(names.get(f.provider, f.provider) for f in fences),
        },
    )
    _history(out, deeds, names)


def _task(desk: Desk, out: Output, task_id: str) -> None:
    with desk.database.read() as tx:
        task = tx.tasks.get(task_id)
        if task is None:
            raise _gone("task", task_id)
        made, deeds = tx.changeovers.of_subject(task_id), tx.audit.of(task_id)
    if out.as_json:
        out.document(
            {"kind": "task", "task": plain(task), "changeovers": plain(made), "history": deeds}
        )
        return
    names = desk.device_names
    out.facts(
        f"task {task.id}: {task.state}",
        {
            "why": reason_text(task.reason),
            "function": task.function,
            "device": task.device and names.get(task.device, task.device),
            "host": task.host,
            "done": f"{task.done} of {task.count} devices",
            "when": task.when,
            "priority": f"{task.priority:g}",
            "queued by": task.created_by,
        },
    )
    if made:
        out.heading("its changeovers")
        changeover_listing(desk, out, made, empty="")
    _history(out, deeds, names)


def _plan(desk: Desk, out: Output, plan_id: str) -> None:
    with desk.database.read() as tx:
        plan = tx.plans.get(plan_id)
        made = tx.changeovers.of_plan(plan_id)
    if plan is None:
        raise _gone("plan", plan_id)
    if out.as_json:
        out.document({"kind": "plan", "plan": plain(plan), "changeovers": plain(made)})
        return
    names = desk.device_names
    out.facts(
        f"plan {plan['id']}: {plan['state']}",
        {
            "made": moment(plan["created_at"]),
            "decided by": plan["decided_by"],
            "waits for a person": ", ".join(names.get(d, d) for d in plan["devices"])
            if plan["state"] == "recommended"
            else None,
            "score": f"{plan['result']['value'] - plan['result']['cost']:.3f}",
        },
    )
    for intent in plan["result"]["intents"]:
        why = "; ".join(reason["text"] for reason in intent["reasons"])
        out.line(
            f"  {names.get(intent['device'], intent['device'])}: "
            f"{intent['from_function'] or '(empty)'} -> {intent['to_function']}: {why}"
        )
    if made:
        out.heading("its changeovers")
        changeover_listing(desk, out, made, empty="")
