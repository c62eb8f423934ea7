"""Kills: SIGKILL at every boundary, and inside every step, of every kind of process.

Each point that any process came by is armed in turn, the least visited first; half of the deaths
take the pool's process only, half the whole worker. Beat, listener and workers are also killed
from outside at any moment.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from faults import again
from faults.rig import Rig, drain, loaded, rigged
from faults.table import Row

from changeover.models.changeover import Changeover
from changeover.models.errors import ChangeoverError
from changeover.models.states import CHANGEOVER_MOVING
from changeover.worker.simulator.cards import Behaviour

AGAIN = 4
"""Of the points at which somebody died already, so many are armed again, least visited first."""

ARMED_SECONDS = 4.0
DEATHS_A_ROUND = 6
BREATH_SECONDS = 1.0
"""How long points wait for somebody to come by; how many may die; how long all may go on then."""

PAUSES = 0.1
"""How often a process is stopped beyond its leases, and let go on."""

OUTSIDE = 0.15
"""How often, between two rounds of arming, a process is killed wherever it is."""

RATES = {"fail": 0.04, "die": 0.03, "wrong_function": 0.01, "kill": 0.05}
"""Cards that fail make the ways out be walked; ``kill`` dies in the middle of a call."""

SLACK_SECONDS = 2.0
"""Of starting a worker again, on a machine that has other things to do."""


@dataclass
class Orphan:
    """A changeover whose worker was killed, as it was then."""

    changeover: str
    killed_at: float
    then: tuple[Any, ...]
    due_at: float
    point: str


def _sign(changeover: Changeover) -> tuple[Any, ...]:
    return changeover.state, changeover.lease_owner, changeover.updated_at


class Recovery:
    """Measures how long killed changeovers lie until another worker has them.

    Several processes die in one burst; the time counts from the last death of it, as whoever was
    about to take over may be among them.
    """

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.seen = 0
        self.last_death = 0.0
        self.orphans: dict[str, Orphan] = {}
        self.times: list[tuple[float, str]] = []

    def look(self) -> None:
        """Take in new deaths, and see who was taken over from."""
        killed = self.rig.points.killed()
        for note in killed[self.seen :]:
            self.last_death = note["t"]
            if note["changeover"]:
                found = self._get(note["changeover"])
                if found is not None and found.lease_owner is not None:
                    self.orphans[found.id] = Orphan(
                        found.id, note["t"], _sign(found), found.due_at, note["point"]
                    )
        self.seen = len(killed)
        for orphan in list(self.orphans.values()):
            found = self._get(orphan.changeover)
            if found is None or found.state not in CHANGEOVER_MOVING or _sign(found) != orphan.then:
                took = time.time() - max(self.last_death, orphan.due_at)
                self.times.append((max(0.0, took), orphan.point))
                del self.orphans[orphan.changeover]

    def _get(self, changeover: str) -> Changeover | None:
        with self.rig.database.read() as tx:
            return tx.changeovers.get(changeover)

    @property
    def slowest(self) -> tuple[float, str]:
        return max(self.times, default=(0.0, ""))


def run(state_dir: Path, *, kills: int, seconds: float, seed: int = 1, **settings: Any) -> Row:
    """At least ``kills`` deaths at points, unless ``seconds`` are over first."""
    row = Row("kills")
    started = time.monotonic()
    with rigged(
        state_dir, behaviour=Behaviour(seed=seed, scale=0.02, rates=RATES), **settings
    ) as rig:
        with loaded(rig, seed=seed) as load:
            recovery, outside = _kill_all_over(rig, kills, time.monotonic() + seconds, seed)
        rig.points.disarm()
        rig.cards.behave(Behaviour(scale=0.02))
        if not drain(rig, load, 120.0, also=lambda: release(rig)):
            row.fails(f"{rig.unfinished()} boots or changeovers never ended")
        recovery.look()
        deaths = rig.points.killed()
        row.rounds, row.faults = load.booted, len(deaths) + outside
        at = Counter(note["point"] for note in deaths)
        seen = rig.points.all_seen()
        row.slowest, where = recovery.slowest
        bound = 2 * rig.settings.lease_seconds + SLACK_SECONDS
        if row.slowest > bound:
            row.fails(f"taken over {row.slowest:.1f} s after a death at {where}")
        if recovery.orphans:
            row.fails(f"{len(recovery.orphans)} changeovers were never taken over")
        row.judged(rig.verdict())
        row.facts |= {
            "points": len(seen),
            "points_hit": len(at),
            "not_hit": sorted(set(seen) - set(at)),
            "deaths_at_points": len(deaths),
            "deaths_from_outside": outside,
            "recoveries": len(recovery.times),
            "lease_seconds": rig.settings.lease_seconds,
            "at": dict(at),
        }
        row.note = f"{len(at)} of {len(seen)} points, lease {rig.settings.lease_seconds:g} s"
    row.took = time.monotonic() - started
    return row


def run_on_postgresql(state_dir: Path, *, kills: int, seconds: float, seed: int = 9) -> Row:
    """The same, with Changeover's rows in PostgreSQL."""
    with again.postgres() as server:
        row = run(state_dir, kills=kills, seconds=seconds, seed=seed, database_url=server.url)
    row.section = "kills (postgresql)"
    return row


def _kill_all_over(rig: Rig, kills: int, until: float, seed: int) -> tuple[Recovery, int]:
    chance = Random(seed)
    recovery, outside = Recovery(rig), 0
    time.sleep(3.0)  # until the load has made most points known
    hit = Counter[str]()
    while recovery.seen < kills and time.monotonic() < until:
        seen = rig.points.all_seen()
        chance.shuffle(seen)
        seen.sort(key=lambda point: hit[point])
        fresh = [point for point in seen if not hit[point]]
        # Who dies at every door never gets into the rooms: few of those that were hit before.
        for point in {*fresh, *seen[len(fresh) : len(fresh) + AGAIN]}:
            rig.points.arm(point, chance.choice(("self",) * 5 + ("all",)))
        before, armed_at = recovery.seen, time.monotonic()
        while (
            time.monotonic() - armed_at < ARMED_SECONDS and recovery.seen < before + DEATHS_A_ROUND
        ):
            time.sleep(0.05)
            with suppress(ChangeoverError):
                recovery.look()
        rig.points.disarm()
        hit = Counter(note["point"] for note in rig.points.killed())
        _until_recovered(rig, recovery)
        if chance.random() < OUTSIDE:
            outside += rig.kill(chance.choice(("beat", "listener", "worker0", "worker1")))
            recovery.last_death = time.time()
        if chance.random() < PAUSES:
            outside += _pause(rig, chance)
            recovery.last_death = time.time()
        release(rig)
    return recovery, outside


def _pause(rig: Rig, chance: Random) -> int:
    """Stop a pool's process for longer than its leases, and let it go on as if nothing had been."""
    children = rig.children(chance.choice(("worker0", "worker1")))
    if not children:
        return 0
    pid = chance.choice(children)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(rig.settings.lease_seconds * 1.5)
        os.kill(pid, signal.SIGCONT)
    return 1


def _until_recovered(rig: Rig, recovery: Recovery) -> None:
    """All go on, until what was orphaned is in somebody's hands again."""
    until = time.monotonic() + 3 * rig.settings.lease_seconds + SLACK_SECONDS
    time.sleep(BREATH_SECONDS)
    while time.monotonic() < until:
        with suppress(ChangeoverError):
            recovery.look()
        if not recovery.orphans:
            return
        time.sleep(0.05)


def release(rig: Rig) -> None:
    """An operator looks at what was quarantined or stopped, so that nothing runs out."""
    try:
        with rig.database.read() as tx:
            live, stopped = tx.changeovers.live(), tx.functions.stopped()
        for function in stopped:
            rig.operator.allow(function)
        for changeover in live:
            if changeover.state.value == "quarantined":
                device = rig.catalog.device(changeover.device)
                if device is not None:
                    rig.operator.release(device.name)
    except ChangeoverError:
        return
