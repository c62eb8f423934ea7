"""Kill the worker at every boundary of a story, one after the other, and look what is left."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from story.trouble import KINDS, Trouble
from story.world import EFFECTS, Cloud, ReportedDriver, Worker

from changeover.worker.adapters.programmer_simulated import SimulatedDriver

LONG = os.environ.get("CHANGEOVER_LONG") == "1"


@dataclass(frozen=True)
class Scenario:
    """What is asked for, in which cloud."""

    name: str
    begin: Callable[[Cloud], object]
    resets: str = "self"
    driver: type[SimulatedDriver] = SimulatedDriver


SCENARIOS = [
    Scenario("fenced", lambda cloud: cloud.fail_boot("vgpu.8q")),
    Scenario("request", lambda cloud: cloud.request("vgpu.8q")),
    Scenario("several", lambda cloud: cloud.fail_boot("fpga.aes", count=2)),
    Scenario(
        "card",
        lambda cloud: cloud.operator.program("sha3", device="dyn1-r1", when="idle"),
        resets="card",
    ),
    Scenario("reported", lambda cloud: cloud.fail_boot("vgpu.8q"), driver=ReportedDriver),
]


def carry_on(cloud: Cloud, name: str, seconds: float = 60.0) -> None:
    """Work as one worker does, delivering what is due, until it is gone or time is up."""
    worker = cloud.worker(name)
    end = cloud.clock.now() + seconds
    worker.judge()
    while not worker.dead and cloud.clock.now() < end:
        cloud.tell_all()
        while not worker.dead and (due := cloud.due()):
            cloud.hints.remove(due[0])
            worker.take(due[0])
        coming = [hint.due_at for hint in cloud.hints]
        if not coming:
            return
        cloud.clock.advance(max(0.0, min(coming) - cloud.clock.now()))


def crash_at(number: int) -> Callable[[Worker, str, str], None]:
    """A plan that kills at the ``number``-th boundary that matters."""
    passed = 0

    def plan(worker: Worker, _when: str, call: str) -> None:
        nonlocal passed
        if call in EFFECTS:
            passed += 1
            if passed == number:
                worker.cloud.note_killed_calls()
                worker.die()

    return plan


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_killed_at_every_boundary(scenario: Scenario, tmp_path: Path) -> None:
    number = 0
    while True:
        number += 1
        home = tmp_path / str(number)
        with Cloud(home, resets=scenario.resets, driver=scenario.driver) as cloud:
            worker = cloud.worker("a")
            worker.plan = crash_at(number)
            scenario.begin(cloud)
            carry_on(cloud, "a")
            # Every other time all that was sent is lost as well.
            cloud.calm(drop_hints=number % 2 == 0)
            cloud.checker.finally_()
            what = worker.trace[-1] if worker.dead else "nowhere"
            assert not cloud.checker.violations, f"killed at {number}, {what}: " + "\n".join(
                [*cloud.checker.violations, cloud.describe(), *cloud.checker._story()]
            )
            if not worker.dead:
                break
    assert number > 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS if LONG else SCENARIOS[:1], ids=lambda s: s.name)
def test_one_fault_at_every_remote_call(scenario: Scenario, kind: str, tmp_path: Path) -> None:
    # In the short run every third commit.
    number, every = (2, 3) if kind == "lost commit" and not LONG else (0, 1)
    while True:
        home = tmp_path / str(number)
        with Cloud(home, resets=scenario.resets, driver=scenario.driver) as cloud:
            trouble = Trouble(kind, number)
            cloud.worker("a").plan = trouble
            scenario.begin(cloud)
            carry_on(cloud, "a")
            cloud.calm()
            cloud.checker.finally_()
            assert not cloud.checker.violations, f"{kind} at {number}, {trouble.struck}: " + (
                "\n".join([*cloud.checker.violations, cloud.describe(), *cloud.checker._story()])
            )
            if trouble.struck is None:
                break
            # One passing fault never costs a boot its rescue.
            for outcome, count in cloud.checker.seen.items():
                assert not outcome.startswith("boot ") or "booted" in outcome, (outcome, count)
        number += every
    assert number >= 2
