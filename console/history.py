"""History: what was done, by whom and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from changeover.console.desk import Desk
from changeover.console.render import Column, Output, moment, short
from changeover.console.subject import find_subject


def audit(desk: Desk, out: Output, subject: str | None, *, limit: int = 100) -> None:
    """What was done, by whom, oldest first."""
    wanted = None if subject is None else find_subject(desk, subject).id
    with desk.database.read() as tx:
        found = tx.audit.latest(limit) if wanted is None else tx.audit.about(wanted, limit)
    history(out, found, desk.device_names)


def history(
    out: Output, deeds: list[dict[str, Any]], names: Mapping[str, str] | None = None
) -> None:
    """Deeds as a listing."""
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
