"""Status: everything at a glance, and whether a process lives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from changeover.console.desk import Desk
from changeover.console.render import Output, plain, span
from changeover.models.states import ChangeoverState

ALIVE_SECONDS = 20.0
"""A process that said nothing for so long is not counted as running."""

LATE_SECONDS = 30.0
"""Hints that wait longer than this show that no worker takes them up."""

MISSED_TICKS = 4
"""So many sweeps may be late before the clock counts as stopped."""


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
