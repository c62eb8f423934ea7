"""Reservations: upcoming leases, what is being done for them, and why."""

from __future__ import annotations

from changeover.console.desk import Desk
from changeover.console.render import Column, Output, plain, short, span

COLUMNS = [
    Column("reservation", "reservation"),
    Column("lease", "lease"),
    Column("kind", "kind"),
    Column("units", "units", right=True),
    Column("starts", "starts"),
    Column("kept", "devices kept"),
    Column("why", "what is done"),
]


def listing(desk: Desk, out: Output) -> None:
    """One line a reservation, the next to start first."""
    now = desk.clock.now()
    with desk.database.read() as tx:
        records = tx.reservations.all()
        keeps = {record.id: tx.keeps.standing(now, subject=record.id) for record in records}
    names = desk.device_names
    rows = [{**plain(record), "kept": plain(keeps[record.id])} for record in records]
    shown = (
        {
            "reservation": short(record.id),
            "lease": record.reservation.name or short(record.reservation.lease),
            "kind": record.reservation.kind,
            "units": record.reservation.units,
            "starts": (
                f"in {span(record.starts_at - now)}"
                if record.starts_at > now
                else f"{span(now - record.starts_at)} ago"
            ),
            "kept": ", ".join(names.get(k.device, k.device) for k in keeps[record.id]),
            "why": record.reason.text,
        }
        for record in records
    )
    empty = "no leases" if desk.settings.blazar else "leases are not read: set blazar = true"
    out.listing(rows, COLUMNS, shown, empty=empty)
