"""What the catalog's rules found in Placement, and what they could not make sense of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from changeover.console.desk import Desk
from changeover.console.render import Column, Output, span

if TYPE_CHECKING:
    from changeover.worker.store.discovered import DiscoveredRecord


def discover(desk: Desk, out: Output, *, fresh: bool) -> None:
    """One line a provider that a rule is, was, or might be about. ``fresh`` looks first."""
    from changeover.models.states import FoundState

    if fresh:
        desk.look()
    with desk.database.read() as tx:
        records = [r for r in tx.discovered.all() if r.state is not FoundState.OTHER]
    now = desk.clock.now()
    rows = [_row(record, now) for record in records]
    columns = [
        Column("provider_name", "provider"),
        Column("state", "state"),
        Column("rule", "rule"),
        Column("model", "model"),
        Column("host", "host"),
        Column("for", "for"),
        Column("note", "note"),
    ]
    shown = [{**row, "for": span(row["for_seconds"])} for row in rows]
    empty = (
        "no rule of the catalog (under discover) has found anything yet: `changeover discover "
        "--fresh` looks; devices that it lists by name are in `changeover devices`"
    )
    out.listing(rows, columns, shown, empty=empty)


def _row(record: DiscoveredRecord, now: float) -> dict[str, Any]:
    device = record.device
    return {
        "provider": record.provider,
        "provider_name": record.name,
        "state": str(record.state),
        "for_seconds": max(0.0, now - record.since),
        "name": device.name if device is not None else None,
        "rule": device.rule if device is not None else None,
        "model": device.model if device is not None else None,
        "host": device.host if device is not None else None,
        "card": device.card if device is not None else None,
        "address": device.address if device is not None else None,
        "note": record.reason.text if record.reason is not None else None,
        "reason": record.reason.as_json() if record.reason is not None else None,
    }
