"""Explain one boot, device, changeover, task or plan: what it is, what was done, what would be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from changeover.console.callbacks import COLUMNS, callback_line
from changeover.console.desk import Desk
from changeover.console.preview import described, previewed, reason_text, show_preview
from changeover.console.render import Output, moment, plain, short, span
from changeover.console.show import changeover_listing, device_row, history
from changeover.models.errors import ChangeoverError, Invalid, NotFound
from changeover.models.states import BOOT_OVER, BOOT_WANTS

if TYPE_CHECKING:
    from changeover.models.boot import Boot
    from changeover.models.catalog import Device
    from changeover.models.keep import Keep
    from changeover.worker.store.lookup import Found


def find_subject(desk: Desk, text: str) -> Found:
    """The one thing that ``text`` means: a device's name, or an id or the beginning of one."""
    from changeover.worker.store.lookup import Found, Lookup

    with desk.database.read() as tx:
        record = tx.devices.get(text)
        found = Lookup(tx).find(text)
    if record is not None:
        return Found("device", record.provider)
    if not found:
        return _new_device(desk, text)
    if len(found) > 1:
        many = ", ".join(f"{f.kind} {f.id}" for f in found)
        raise Invalid(f"{text} may mean any of {many}: type more of it")
    return found[0]


def _new_device(desk: Desk, text: str) -> Found:
    """A device that the catalog names and the workers do not know yet."""
    from changeover.worker.store.lookup import Found

    missing = (
        f"there is no device, boot, server, changeover, task or plan {text}: see "
        "`changeover devices`, `boots`, `changeovers`, `tasks` and `plans`"
    )
    try:
        device = desk.catalog.device(text)
    except Invalid as exc:
        raise NotFound(
            f"{missing}; whether the catalog names a new device so cannot be said:\n{exc.message}"
        ) from exc
    if device is None:
        raise NotFound(missing)
    return Found("device", device.provider)


def find_id(desk: Desk, text: str, *kinds: str) -> str:
    """The id of what must be one of ``kinds``."""
    found = find_subject(desk, text)
    if found.kind not in kinds:
        raise Invalid(f"{text} is a {found.kind}; wanted is a {' or '.join(kinds)}")
    return found.id


def explain(desk: Desk, out: Output, text: str) -> None:
    """Tell everything about one thing."""
    found = find_subject(desk, text)
    tell = {
        "boot": _boot,
        "device": _device,
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
    preview = _preview(desk, boot) if boot.state in BOOT_WANTS else None
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
            "judged again": _later(boot.wake_at, now) if boot.state in BOOT_WANTS else None,
            "given up": None if boot.state in BOOT_OVER else _later(boot.expires_at, now),
            "promised": ", ".join(
                f"{p.slots} slot(s) of {names.get(p.device, p.device)}"
                + (f" by changeover {short(p.changeover)}" if p.changeover else "")
                for p in promises
            ),
            "kept for its owner": ", ".join(
                f"{k.slots} slot(s) of {names.get(k.device, k.device)}, given up "
                f"{_later(k.until, now)}"
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


def _for_whom(keep: Keep) -> str:
    whose = "the owner of boot" if keep.kind == "owner" else "lease"
    return f"{whose} {short(keep.subject)}"


def _later(at: float, now: float) -> str:
    return "now" if at <= now else f"in {span(at - now)}"


def _preview(desk: Desk, *boots: Boot) -> dict[str, Any]:
    """A preview, or why there is none: an explanation must not fail with a silent Placement."""
    try:
        return previewed(desk, boots or None)
    except ChangeoverError as exc:
        return {"error": {"kind": type(exc).__name__, "message": exc.message}}


def _history(out: Output, deeds: list[dict[str, Any]], names: Mapping[str, str]) -> None:
    out.heading("history")
    history(out, deeds, names)


def _device(desk: Desk, out: Output, provider: str) -> None:
    device = desk.catalog.device(provider)
    if device is None:
        raise NotFound(
            f"the catalog no longer has device {provider}: put it back to have it managed again"
        )
    now = desk.clock.now()
    with desk.database.read() as tx:
        record, live = tx.devices.get(provider), tx.changeovers.live_of_device(provider)
        past = tx.changeovers.of_device(provider)
        promises = tx.boots.promises(device=provider)
        keeps = tx.keeps.standing(now, device=provider)
        fences = [f for f in tx.fences.all() if f.provider == provider]
        deeds = tx.audit.of(provider)
    row = device_row(device, record, live, now)
    placement = _in_placement(desk, provider)
    # One that does not answer is not waited for twice.
    verdict = placement if "error" in placement else _verdict(desk, device)
    if out.as_json:
        out.document(
            {
                "kind": "device",
                "device": row,
                "placement": placement,
                "may_be_programmed": verdict,
                "promises": plain(promises),
                "kept": plain(keeps),
                "fences": plain(fences),
                "changeovers": plain(past),
                "history": deeds,
            }
        )
        return
    offers = "nothing: it is empty"
    if row["function"] is not None:
        offers = f"{row['function']}, {row['used']} of {row['slots']} slots used"
    elif record is None:
        offers = "not known: it was not read yet"
    out.facts(
        f"device {device.name}: {row['state']}",
        {
            "provider": device.provider,
            "host": device.host,
            "model": f"{device.model} ({desk.catalog.models[device.model].mode})",
            "card": device.card,
            "address": device.address,
            "offers": offers,
            "read": None
            if row["read_seconds_ago"] is None
            else f"{span(row['read_seconds_ago'])} ago",
            "programmed": f"{row['programs']} times",
            "may have": ", ".join(
                f.name for f in desk.catalog.functions.values() if device.model in f.fits
            ),
            "note": row["note"],
            "fenced": "yes: Placement takes no new allocations on it" if fences else None,
            "promised": ", ".join(f"{p.slots} slot(s) to boot {short(p.boot)}" for p in promises),
            "kept": ", ".join(
                f"{k.slots} slot(s) for {_for_whom(k)}, given up {_later(k.until, now)}"
                for k in keeps
            ),
        },
    )
    out.heading("in Placement now")
    _show_placement(out, placement)
    out.heading("may it be programmed now?")
    _show_verdict(out, verdict)
    if past:
        out.heading("its changeovers")
        changeover_listing(desk, out, past, empty="")
    if deeds:
        _history(out, deeds, desk.device_names)


def _in_placement(desk: Desk, provider: str) -> dict[str, Any]:
    """What Placement says of the provider this moment, or why that is not known."""
    try:
        placement = desk.placement
        state, usage = placement.state(provider), placement.usage(provider)
    except ChangeoverError as exc:
        return {"error": {"kind": type(exc).__name__, "message": exc.message}}
    return {**state.as_json(), "allocations": plain(usage.by_consumer)}


def _show_placement(out: Output, placement: Mapping[str, Any]) -> None:
    if "error" in placement:
        out.line(f"  cannot say: {placement['error']['message']}")
        return
    for rc, inventory in placement["inventories"].items():
        used = sum(held.get(rc, 0) for held in placement["allocations"].values())
        reserved = f", {inventory['reserved']} reserved" if inventory["reserved"] else ""
        out.line(f"  {used} of {inventory['total']} {rc} in use{reserved}")
    if not placement["inventories"]:
        out.line("  no inventory: nothing can be scheduled to it")
    out.line(f"  traits: {', '.join(placement['traits']) or 'none'}")
    for consumer, held in placement["allocations"].items():
        amounts = ", ".join(f"{n} {rc}" for rc, n in held.items())
        out.line(f"  used by {consumer}: {amounts}")


def _verdict(desk: Desk, device: Device) -> dict[str, Any]:
    """Whether the device may be programmed, and what the planner would do with it."""
    preview = _preview(desk)
    if "error" in preview:
        return preview
    intent = next((i for i in preview["intents"] if i["device"] == device.provider), None)
    rejection = next((r for r in preview["rejected"] if r["device"] == device.provider), None)
    promised = [p for p in preview["promises"] if p["device"] == device.provider]
    blocked = _blocked(desk, device)
    return {
        "may": blocked is None,
        "blocked": blocked,
        "would_become": None if intent is None else intent["to_function"],
        "would_serve": [p["subject"] for p in promised],
        "not_chosen": None if rejection is None else rejection["reason"],
    }


def _blocked(desk: Desk, device: Device) -> dict[str, Any] | None:
    from changeover.worker.capacity import Capacity, read_ledger

    world = desk.planning_world
    now = desk.clock.now()
    reason = Capacity(world, read_ledger(world, now), now).blocked(device)
    return None if reason is None else reason.as_json()


def _show_verdict(out: Output, verdict: Mapping[str, Any]) -> None:
    if "error" in verdict:
        out.line(f"  cannot say: {verdict['error']['message']}")
        return
    if verdict["blocked"] is not None:
        out.line(f"  no: {verdict['blocked']['text']} ({verdict['blocked']['code']})")
    else:
        out.line("  yes")
    if verdict["would_become"] is not None:
        out.line(f"  it would be programmed with {verdict['would_become']} now")
    elif verdict["not_chosen"] is not None and verdict["blocked"] is None:
        reason = verdict["not_chosen"]
        out.line(f"  but it would not be: {reason['text']} ({reason['code']})")


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
            "next step": _later(changeover.due_at, now) if changeover.finished_at is None else None,
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
        made = [c for c in tx.changeovers.latest(10_000) if c.plan_id == plan_id]
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
