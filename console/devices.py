"""Devices, the functions that they can have, and the pools that those of one function make."""

from __future__ import annotations

from collections import Counter, defaultdict
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


def pools(desk: Desk, out: Output, *, fresh: bool = False) -> None:
    """One line a function: what offers it, what is free of it, who waits for it."""
    from changeover.policies.understand import understand

    catalog = desk.catalog
    if fresh:
        desk.look()
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
        desk.look()
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
