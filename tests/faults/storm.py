"""A storm: thousands of boots fail within a minute while devices change hands.

One project floods, two others want little. Everybody gets an answer, nobody starves, no device
changes more often than its dwell time allows, and no process grows without bound.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from faults.checker import Cloud, programs_of
from faults.rig import FLAVORS, Rig, rigged
from faults.table import Row

from changeover.models.errors import ChangeoverError
from changeover.models.placement import Candidates
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.bootstrap import notification_url
from changeover.worker.simulator.servers import SimulatedServers
from changeover.worker.simulator.wire import KombuEmitter

FLOOD = {"red": 0.8, "green": 0.1, "blue": 0.1}
DWELL_SECONDS = 3.0
FREE_AT_FIRST = 50
"""Slots of the embedded fleet, roughly."""

MOST_MEBIBYTES = 400
"""No process may weigh more, however many boots wait."""


class FullCloud:
    """A Placement that has room for nobody: boots fail at once, and cost nothing."""

    def candidates(self, _request: object, limit: int | None = None) -> Candidates:
        del limit
        return Candidates((), {})

    def held(self, _consumer: str) -> Mapping[str, Any]:
        return {}

    def release(self, _consumer: str) -> None:
        """Nothing was claimed."""


def run(home: Path, *, boots: int, patience: float, seed: int = 8, **settings: Any) -> Row:
    """``boots`` fail as fast as they can be told of; then all wait for their answers."""
    row, started = Row("storm"), time.monotonic()
    settings = {
        "patience_seconds": patience, "dwell_seconds": DWELL_SECONDS, "lease_seconds": 15.0,
        "sweep_seconds": 1.0, "retry_seconds": 10.0, "hold_seconds": 120.0,
        "worker_concurrency": 3, **settings,
    }  # fmt: skip
    with rigged(home, workers=1, **settings) as rig:
        rig.weigh()
        idle = dict(rig.peak)
        stopping = threading.Event()
        users = threading.Thread(target=_churn, args=(rig, stopping), daemon=True)
        users.start()
        told = _flood(rig, boots, seed)
        deadline = time.monotonic() + patience * 2 + 60
        while time.monotonic() < deadline:
            time.sleep(1.0)
            rig.weigh()
            with contextlib.suppress(ChangeoverError):
                if rig.quiet(3.0):
                    break
        stopping.set()
        users.join()
        row.slowest = time.monotonic() - started
        if not rig.quiet(30.0):
            row.fails(f"{rig.unfinished()} boots or changeovers never ended")
        verdict = rig.verdict()
        row.judged(verdict)
        row.rounds = boots
        row.faults = boots
        saved = _saved_by_project(home / "servers.sqlite")
        _judge_fairness(row, saved, boots)
        _judge_thrash(row, home)
        heaviest = max(rig.peak.values(), default=0)
        if heaviest > MOST_MEBIBYTES:
            row.fails(f"a process grew to {heaviest} MiB: {rig.peak}")
        row.facts |= {"told_in": round(told, 1), "saved_by_project": dict(saved), "idle": idle}
        row.facts["peak_mib"] = dict(rig.peak)
        row.note = (
            f"{boots} failed in {told:.0f} s, {sum(saved.values())} saved "
            f"({', '.join(f'{p} {n}' for p, n in sorted(saved.items()))}), "
            f"{verdict.facts['answered']} answered, heaviest {heaviest} MiB"
        )
    row.took = time.monotonic() - started
    return row


def _flood(rig: Rig, boots: int, seed: int) -> float:
    chance = Random(seed)
    emit = KombuEmitter(notification_url(rig.settings), rig.settings.notification_exchange)
    full: Any = FullCloud()
    nova = SimulatedServers(rig.settings.state_dir / "servers.sqlite", full, SystemClock(), emit)
    started = time.monotonic()
    for number in range(boots):
        [project] = chance.choices(list(FLOOD), list(FLOOD.values()))
        nova.boot(f"storm{number}", chance.choice(FLAVORS), project=project)
        if number % 100 == 0:
            rig.weigh()
    emit.close()
    nova.close()
    return time.monotonic() - started


def _churn(rig: Rig, stopping: threading.Event) -> None:
    """Users delete what they have had for a moment, so that slots come free all the time."""
    chance = Random(1)
    path = str(rig.settings.state_dir / "servers.sqlite")
    while not stopping.wait(0.2):
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as db:
            active = [u for (u,) in db.execute("SELECT uuid FROM servers WHERE status = 'ACTIVE'")]
        for uuid in chance.sample(active, min(4, len(active) // 4)):
            with contextlib.suppress(ChangeoverError):
                rig.servers.user_delete(uuid)


def _saved_by_project(servers: Path) -> Counter[str]:
    """Successors that ran, by project, from Nova's journal."""
    with contextlib.closing(sqlite3.connect(servers, timeout=30)) as db:
        rows = db.execute(
            "SELECT s.project FROM journal j JOIN servers s ON s.uuid = j.server"
            " WHERE j.event = 'active' AND s.metadata LIKE '%changeover:replaces%'"
        ).fetchall()
    return Counter(project for (project,) in rows)


def _judge_fairness(row: Row, saved: Mapping[str, int], boots: int) -> None:
    """Who wants little gets a share: half of an equal one once there is something to share.

    What is free when the storm begins goes to whoever comes first.
    """
    later = max(0, sum(saved.values()) - FREE_AT_FIRST)
    for project, part in FLOOD.items():
        due = max(1.0, 0.5 * min(later / len(FLOOD), part * boots))
        if saved.get(project, 0) < due:
            row.fails(f"{project} starves: {saved.get(project, 0)} saved, {due:.0f} due")


def _judge_thrash(row: Row, home: Path) -> None:
    calls = defaultdict(list)
    for program in programs_of(home / "cards", Cloud.of(home / "catalog.yaml").devices):
        calls[program.device].append(program)
    row.facts["programs"] = sum(map(len, calls.values()))
    for device, made in calls.items():
        made.sort(key=lambda p: p.start)
        for first, second in pairwise(made):
            if second.start - first.end < DWELL_SECONDS * 0.9:
                row.fails(f"{device}: {first.function} for {second.start - first.end:.2f} s only")
