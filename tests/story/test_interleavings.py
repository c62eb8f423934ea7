"""Two workers, and one pause: one stops at a boundary, the other works, the first goes on.

Every boundary, reads included, with both kinds of pause: a moment, in which both are entitled to
what they hold, and one for longer than a lease, after which the first is a ghost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from story.test_crashes import SCENARIOS, Scenario, carry_on
from story.world import BEFORE, BlindDriver, Cloud, SimulatedDriver, Worker

LONG = os.environ.get("CHANGEOVER_LONG") == "1"

Act = Callable[[Cloud], object]


def works(cloud: Cloud) -> None:
    """The other worker sweeps, plans, and does all that is due."""
    other = cloud.worker("b")
    other.sweep()
    other.judge()
    cloud.tell_all()
    for _ in range(30):
        if not cloud.deliver_due("b"):
            break
        cloud.tell_all()


def works_long(cloud: Cloud) -> None:
    """The other one goes on until nothing is left."""
    for _ in range(8):
        works(cloud)
        cloud.clock.advance(5.0)


def cancels(cloud: Cloud) -> None:
    """An operator gives everything up, and the other worker sees to it."""
    cloud.operator.drain()
    works(cloud)
    cloud.operator.resume()


def owner_deletes(cloud: Cloud) -> None:
    """The owner deletes what failed, and what was made for it."""
    for server in cloud.servers.servers():
        if cloud.checker.status.get(server.uuid) == "ERROR":
            cloud.servers.user_delete(server.uuid)
    works(cloud)


MEANWHILE: dict[str, tuple[float, Act]] = {
    "at once": (0.0, works),
    "after the lease": (25.0, works),
    "long after the lease": (25.0, works_long),
    "drained": (25.0, cancels),
    "drained at once": (0.0, cancels),
    "deleted": (0.0, owner_deletes),
}


class Pause:
    """Pauses a worker once, at its ``number``-th boundary, while something else happens."""

    def __init__(self, number: int, seconds: float, act: Act) -> None:
        self.left = number
        self.seconds = seconds
        self.act = act
        self.where: tuple[str, str] | None = None

    def __call__(self, worker: Worker, when: str, call: str) -> None:
        self.left -= 1
        if self.left != 0:
            return
        self.where = (when, call)
        cloud = worker.cloud
        if (when, call) == (BEFORE, "servers.create") and self.seconds:
            cloud.checker.paused_creates = True
        worker.stalled = self.seconds > 0
        cloud.clock.advance(self.seconds)
        self.act(cloud)
        worker.stalled = False


def explore(
    tmp_path: Path,
    scenario: Scenario,
    meanwhile: str,
    driver: type[SimulatedDriver] = SimulatedDriver,
    every: int = 1,
    first: int = 1,
) -> int:
    """Every ``every``-th boundary; returns how many were tried."""
    seconds, act = MEANWHILE[meanwhile]
    number, tried = first, 0
    while True:
        with Cloud(tmp_path / str(number), resets=scenario.resets, driver=driver) as cloud:
            pause = Pause(number, seconds, act)
            cloud.worker("a").plan = pause
            scenario.begin(cloud)
            carry_on(cloud, "a")
            cloud.calm()
            cloud.checker.finally_()
            assert not cloud.checker.violations, f"{meanwhile}, at {number} {pause.where}: " + (
                "\n".join([*cloud.checker.violations, cloud.describe(), *cloud.checker._story()])
            )
            if pause.where is None:
                return tried
        tried += 1
        number += every


@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_paused_at_every_boundary(scenario: Scenario, meanwhile: str, tmp_path: Path) -> None:
    """In the short run, each combination tries every tenth boundary, beginning at another one."""
    every = 1 if LONG else 10
    first = 1 + list(MEANWHILE).index(meanwhile) if every > 1 else 1
    tried = explore(tmp_path, scenario, meanwhile, every=every, first=first)
    assert tried >= (50 if LONG else 5)


@pytest.mark.skipif(not LONG, reason="the long run: CHANGEOVER_LONG=1")
@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_paused_with_a_driver_that_shows_no_lock(meanwhile: str, tmp_path: Path) -> None:
    explore(tmp_path, SCENARIOS[0], meanwhile, driver=BlindDriver)
