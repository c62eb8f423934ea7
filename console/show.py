"""Look: one function a listing, each as a table or as JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from changeover.console.desk import Desk
from changeover.console.render import Column, Output, plain, short, span
from changeover.models.errors import Invalid
from changeover.models.states import BOOT_WANTS, CHANGEOVER_MOVING, ChangeoverState

if TYPE_CHECKING:
    from changeover.models.boot import Boot
    from changeover.models.catalog import Catalog, Device
    from changeover.models.changeover import Changeover
    from changeover.worker.store.devices import DeviceRecord

ALIVE_SECONDS = 20.0
"""A process that said nothing for so long is not counted as running."""

LATE_SECONDS = 30.0
"""Hints that wait longer than this show that no worker takes them up."""


def status(desk: Desk, out: Output) -> None:
    """Everything at a glance."""
    from sqlalchemy.engine import make_url

    from changeover.worker.circuit import open_circuits

    now = desk.clock.now()
    circuits = open_circuits(desk.database, now)
    with desk.database.read() as tx:
        processes = tx.switches.alive(now - ALIVE_SECONDS)
        pause = tx.switches.get("pause") or {}
        boots, changeovers = tx.boots.counts(), tx.changeovers.counts()
        records = tx.devices.all()
        queued = len(tx.tasks.all(queued_only=True))
        events, letters = tx.events.count(), tx.events.count_dead_letters()
        late = tx.hints.count_due(now - LATE_SECONDS)
        stopped = tx.functions.stopped()
        callbacks = tx.callbacks.counts()
    facts: dict[str, Any] = {
        "database": make_url(desk.settings.database).render_as_string(hide_password=True),
        "processes": [
            {"process": p["process"], "role": p["role"], "seen_seconds_ago": now - p["at"]}
            for p in processes
        ],
        "paused": str(pause.get("why")) if pause.get("on") else None,
        "boots": plain(boots),
        "changeovers": plain(changeovers),
        "devices": {
            "all": len(records),
            "empty": sum(r.function is None for r in records),
            "in_use": sum(r.used > 0 for r in records),
            "troubled": sum(r.trouble is not None for r in records),
            "quarantined": changeovers.get(ChangeoverState.QUARANTINED, 0),
        },
        "tasks_queued": queued,
        "functions_stopped": sorted(stopped),
        "events": events,
        "dead_letters": letters,
        "hints_late": late,
        "callbacks": plain(callbacks),
        "circuits_open": [
            {
                "service": trip.service,
                "open_seconds": now - trip.since,
                "failures": trip.failures,
                "next_try_in_seconds": max(0.0, trip.until - now),
                "why": trip.why,
            }
            for trip in circuits
        ],
    }
    if out.as_json:
        out.document(facts)
        return
    roles = Counter(p["role"] for p in processes)
    out.facts(
        "Changeover",
        {
            "database": facts["database"],
            "running": _counted(roles) or "nothing: start `changeover up`",
            "paused": facts["paused"],
            "devices": _counted(facts["devices"]),
            "boots": _counted(facts["boots"]) or "none yet",
            "changeovers": _counted(facts["changeovers"]) or "none yet",
            "tasks": f"{queued} queued" if queued else None,
            "stopped functions": ", ".join(sorted(stopped)),
            "events": events,
            "dead letters": f"{letters}: see `changeover dead-letters`" if letters else None,
            "callbacks": _counted(facts["callbacks"]) or None,
            "silent": "; ".join(
                f"{trip.service} since {span(now - trip.since)}, {trip.failures} calls failed: "
                f"{trip.why}"
                for trip in circuits
            ),
            "hints": f"{late} wait for a worker since over {LATE_SECONDS:g} s" if late else None,
        },
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {key.replace('_', ' ')}" for key, n in counts.items() if n)


def read_now(desk: Desk) -> None:
    """Have every device read from Placement first: what is known of them is from the last time."""
    desk.look()


MISSED_TICKS = 4
"""So many sweeps may be late before the clock counts as stopped."""


def alive(desk: Desk, out: Output, role: str) -> None:
    """Whether this host's worker or listener lives, or scheduled jobs run; else ``Unreachable``.

    For health checks: a row that is read costs less than a message that has to be answered.
    """
    import socket

    from changeover.models.errors import Unreachable
    from changeover.worker.queues import SWEEP

    now = desk.clock.now()
    with desk.database.read() as tx:
        processes = tx.switches.alive(now - ALIVE_SECONDS)
        swept_at = tx.leases.ran_at(SWEEP)
    if role == "beat":
        late = ALIVE_SECONDS + MISSED_TICKS * desk.settings.sweep_seconds
        if swept_at is None or now - swept_at > late:
            raise Unreachable(f"no scheduled sweep has run for {late:g} s")
        said = f"the last scheduled sweep ran {span(now - swept_at)} ago"
    else:
        here = f"{role}:{socket.gethostname()}:"
        mine = [p for p in processes if p["process"].startswith(here)]
        if not mine:
            raise Unreachable(
                f"no {role} of this host has said for {ALIVE_SECONDS:g} s that it lives"
            )
        said = f"{len(mine)} {role}(s) alive on this host"
    if out.as_json:
        out.document({"role": role, "alive": True})
    else:
        out.line(said)


def pools(desk: Desk, out: Output, *, fresh: bool = False) -> None:
    """One line a function: what offers it, what is free of it, who waits for it."""
    from changeover.policies.understand import understand

    catalog = desk.catalog
    if fresh:
        read_now(desk)
    with desk.database.read() as tx:
        records = tx.devices.all()
        live = [c for c in tx.changeovers.live() if c.state in CHANGEOVER_MOVING]
        waiting = tx.boots.in_states(BOOT_WANTS)
        stopped = tx.functions.stopped()
    offering: dict[str | None, list[DeviceRecord]] = defaultdict(list)
    moving = {c.device for c in live}
    for record in records:
        offering[record.function].append(record)
    becoming = Counter(c.to_function for c in live)
    wanted = Counter[str]()
    same: dict[str, list[Boot]] = defaultdict(list)
    for boot in waiting:
        same[boot.request_key].append(boot)
    for boots_ in same.values():
        needs = understand(boots_[0].request, catalog).needs
        for function in {name for need in needs for name in need.functions}:
            wanted[function] += len(boots_)
    rows = []
    for name in catalog.functions:
        pool, those = catalog.pool(name), offering[name]
        open_ = [r for r in those if r.provider not in moving and r.trouble is None]
        rows.append(
            {
                "function": name,
                "mode": pool.mode,
                "devices": len(those),
                "becoming": becoming[name],
                "slots": sum(r.slots for r in those),
                "used": sum(r.used for r in those),
                "free": sum(max(0, r.slots - r.used - r.reserved) for r in open_),
                "min_free": pool.min_free,
                "max_devices": pool.max_devices,
                "boots_waiting": wanted[name],
                "stopped": None if name not in stopped else stopped[name].text,
            }
        )
    columns = [
        Column("function", "function"),
        Column("mode", "mode"),
        Column("devices", "devices", right=True),
        Column("becoming", "becoming", right=True),
        Column("slots", "slots", right=True),
        Column("used", "used", right=True),
        Column("free", "free", right=True),
        Column("min_free", "floor", right=True),
        Column("max_devices", "most", right=True),
        Column("boots_waiting", "waiting", right=True),
        Column("stopped", "stopped"),
    ]
    out.listing(rows, columns, empty="the catalog has no functions")
    if not out.as_json and offering[None]:
        out.line(f"{len(offering[None])} of {len(records)} devices are empty")


def devices(
    desk: Desk,
    out: Output,
    *,
    host: str | None = None,
    function: str | None = None,
    fresh: bool = False,
) -> None:
    """One line a device: what it offers and whether it is free to be changed."""
    if fresh:
        read_now(desk)
    rows = [
        row
        for row in _device_rows(desk, out)
        if (host is None or row["host"] == host)
        and (function is None or row["function"] == function)
    ]
    columns = [
        Column("name", "device"),
        Column("host", "host"),
        Column("model", "model"),
        Column("function", "offers"),
        Column("use", "used", right=True),
        Column("state", "state"),
        Column("programs", "programs", right=True),
        Column("read", "read", right=True),
        Column("note", "note"),
    ]
    shown = [
        {
            **r,
            "use": f"{r['used']}/{r['slots']}" if r["slots"] else None,
            "read": f"{span(r['read_seconds_ago'])} ago" if r["read_seconds_ago"] else None,
        }
        for r in rows
    ]
    out.listing(rows, columns, shown, empty="no such devices: see `changeover config check`")


def _catalog_or_note(desk: Desk, out: Output) -> Catalog | None:
    """The catalog; where it cannot be read, what is stored of it is shown, with a note."""
    try:
        return desk.catalog
    except Invalid as exc:
        problem, *more = exc.message.splitlines()
        said = f" (and {len(more)} more: see `changeover config check`)" if more else ""
        out.note(f"shown as last loaded, for the catalog cannot be read: {problem}{said}")
        return None


def _device_rows(desk: Desk, out: Output) -> list[dict[str, Any]]:
    """All devices of the catalog, with what the database knows of them."""
    now = desk.clock.now()
    with desk.database.read() as tx:
        records = {r.provider: r for r in tx.devices.all()}
        live = {c.device: c for c in tx.changeovers.live()}
    catalog = _catalog_or_note(desk, out)
    if catalog is None:
        return [device_row(None, r, live.get(r.provider), now) for r in records.values()]
    return [
        device_row(d, records.get(d.provider), live.get(d.provider), now) for d in catalog.devices
    ]


_ONLY_IN_CATALOG = ("card", "address", "owner", "pinned")


def device_row(
    device: Device | None, record: DeviceRecord | None, live: Changeover | None, now: float
) -> dict[str, Any]:
    """One device: its catalog entry and its row as one. One of both may be missing."""
    state, note = _device_state(device, record, live)
    called = device or record
    row: dict[str, Any] = {
        **{key: getattr(called, key) for key in ("name", "provider", "host", "model")},
        **{key: getattr(device, key, None) for key in _ONLY_IN_CATALOG},
        "function": None,
        "slots": 0,
        "used": 0,
        "reserved": 0,
        "programs": 0,
        "read_seconds_ago": None,
        "state": state,
        "changeover": None if live is None else live.id,
        "note": note,
    }
    if record is not None:
        row.update(
            function=record.function,
            slots=record.slots,
            used=record.used,
            reserved=record.reserved,
            programs=record.programs,
            read_seconds_ago=None if record.read_at is None else now - record.read_at,
        )
    return row


def _device_state(
    device: Device | None, record: DeviceRecord | None, live: Changeover | None
) -> tuple[str, str | None]:
    if live is not None:
        text = live.reason.text
        if live.state is not ChangeoverState.QUARANTINED:
            text = f"becomes {live.to_function}: {short(live.id)}"
        return str(live.state), text
    if record is None:
        return "unknown", "new in the catalog: the workers have not read it yet"
    if record.trouble is not None:
        return "trouble", record.trouble.text
    if record.read_at is None:
        return "unread", None
    note = "pinned" if device is not None and device.pinned else None
    if record.used:
        return "in use", note
    return ("empty" if record.function is None else "idle"), note


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


def functions(desk: Desk, out: Output) -> None:
    """One line a function of the catalog."""
    with desk.database.read() as tx:
        stored, stopped = tx.functions.known(), tx.functions.stopped()
    catalog = _catalog_or_note(desk, out)
    if catalog is not None:
        stored = {name: f.model_dump(mode="json") for name, f in catalog.functions.items()}
    rows = [{**f, "stopped": plain(stopped.get(name))} for name, f in stored.items()]
    columns = [
        Column("name", "function"),
        Column("resource_class", "class"),
        Column("traits", "traits"),
        Column("artifact", "artifact"),
        Column("fits", "slots by model"),
        Column("seconds", "seconds", right=True),
        Column("stopped", "stopped"),
    ]
    shown = (
        {
            "name": row["name"],
            "resource_class": row["resource_class"],
            "traits": ", ".join(row["traits"]),
            "artifact": row["artifact"]["image"] or row["artifact"]["vgpu_type"],
            "fits": ", ".join(f"{model} {n}" for model, n in row["fits"].items()),
            "seconds": f"{row['seconds']:g}",
            "stopped": row["stopped"] and row["stopped"]["text"],
        }
        for row in rows
    )
    out.listing(rows, columns, shown, empty="the catalog has no functions")


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


def audit(desk: Desk, out: Output, subject: str | None, *, limit: int = 100) -> None:
    """What was done, by whom, oldest first."""
    from changeover.console.explain import find_subject

    wanted = None if subject is None else find_subject(desk, subject).id
    with desk.database.read() as tx:
        found = tx.audit.latest(limit) if wanted is None else tx.audit.of(wanted, limit)
    history(out, found, desk.device_names)


def history(
    out: Output, deeds: list[dict[str, Any]], names: Mapping[str, str] | None = None
) -> None:
    """Deeds as a listing."""
    from changeover.console.render import moment

    columns = [
        Column("when", "when"),
        Column("actor", "by"),
        Column("action", "what"),
        Column("on", "on"),
        Column("facts", "facts"),
    ]
    names = names or {}
    shown = (
        {
            "when": moment(deed["at"]),
            "actor": deed["actor"],
            "action": deed["action"],
            "on": names.get(deed["subject"], short(deed["subject"])) if "subject" in deed else None,
            "facts": deed_facts(deed["facts"], names),
        }
        for deed in deeds
    )
    out.listing(deeds, columns, shown, empty="nothing was done")


def deed_facts(facts: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """A deed's facts as one line: its reason's sentence, else each fact."""
    reason = facts.get("reason")
    if isinstance(reason, dict):
        return str(reason.get("text", ""))
    return ", ".join(
        f"{key} {names.get(value, value) if isinstance(value, str) else value}"
        for key, value in facts.items()
        if value is not None and value != ""
    )
