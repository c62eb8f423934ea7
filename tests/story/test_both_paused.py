"""Two workers, two pauses: one stops, the other stops, the first goes on, then the other.

With one pause (`test_interleavings`) all that the other does falls between two steps of the first.
With two, what each of them has read may be older than what the other wrote.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import count, permutations
from pathlib import Path

import pytest
from story.test_crashes import SCENARIOS, Scenario
from story.world import BEFORE, Cloud, Stepper, Worker, seeded

from changeover.worker.refresh import look

LONG = os.environ.get("CHANGEOVER_LONG") == "1"

HINTS = 4
"""Each scenario is carried on by at least so many."""

Work = Callable[[Worker], object]


PAIRS = [
    *SCENARIOS,
    Scenario("two slots", lambda cloud: cloud.fail_boot("vgpu.8q", count=2)),
    Scenario("two requests", lambda cloud: cloud.request("vgpu.8q", count=2)),
    Scenario(
        "mixed",
        lambda cloud: (
            cloud.fail_boot("vgpu.8q"),
            cloud.request("vgpu.8q"),
            cloud.fail_boot("fpga.aes"),
        ),
    ),
    Scenario(
        "crowd",
        lambda cloud: (
            cloud.fail_boot("vgpu.8q", count=3),
            cloud.request("fpga.aes", count=2),
            cloud.operator.program("sha3", device="dyn1-r1", when="idle"),
        ),
    ),
    Scenario(
        "boot and task",
        lambda cloud: (
            cloud.fail_boot("fpga.aes"),
            cloud.operator.program("sha3", device="dyn1-r1", when="idle"),
        ),
        resets="card",
    ),
]


@pytest.mark.parametrize("scenario", PAIRS, ids=lambda s: s.name)
def test_two_works_are_paused(scenario: Scenario, tmp_path: Path) -> None:
    """In the short run, some of all the places where the two may be paused."""
    chance = seeded(1)
    stopped = 0
    for number in range(3):
        taken, seconds = chance.randrange(HINTS), chance.choice([0.0, 25.0])
        works = chance.choice(pairs(scenario, tmp_path / f"{number}", taken))
        where = (chance.randrange(1, 9), chance.randrange(1, 9))
        stopped += any(run(scenario, tmp_path / f"{number} run", taken, works, where, seconds))
    assert stopped


@pytest.mark.skipif(not LONG, reason="the long run: CHANGEOVER_LONG=1")
@pytest.mark.timeout(0)  # minutes each, some half an hour
@pytest.mark.parametrize("seconds", [0.0, 25.0], ids=["a moment", "longer than a lease"])
@pytest.mark.parametrize("scenario", PAIRS, ids=lambda s: s.name)
def test_two_works_are_paused_everywhere(
    scenario: Scenario, seconds: float, tmp_path: Path
) -> None:
    tried = 0
    for taken in count():
        at_once = pairs(scenario, tmp_path / f"{taken}", taken)
        if not at_once:
            break
        for works in at_once:
            if not all(work.startswith("hint") for work in works):
                continue  # with the long sweep it would take days
            first = second = 1
            while True:
                tried += 1
                home = tmp_path / f"{tried} run"
                stopped = run(scenario, home, taken, works, (first, second), seconds)
                if stopped[1]:
                    second += 1
                elif second == 1:
                    break
                else:
                    first, second = first + 1, 1
                if not stopped[0]:
                    break
    assert taken >= HINTS


def carry(cloud: Cloud, scenario: Scenario, taken: int) -> dict[str, Work]:
    """Begin the scenario and take so many hints; what may be done then, by what it is called.

    That is each hint that is due, and what is done now and then: a sweep, a plan, a reading of
    every device. Nothing if the scenario is over before.
    """
    scenario.begin(cloud)
    worker = cloud.worker("before")
    worker.judge()
    for left in range(taken, -1, -1):
        cloud.tell_all()
        if not cloud.hints:
            return {}
        cloud.clock.advance(max(0.0, min(h.due_at for h in cloud.hints) - cloud.clock.now()))
        if left:
            hint = cloud.due()[0]
            cloud.hints.remove(hint)
            worker.take(hint)
    return {
        "sweep": Worker.sweep,
        "judge": Worker.judge,
        "look": lambda worker: worker.do(partial(look, full=True)),
        **{f"hint {n}: {h.task}": partial(Worker.take, hint=h) for n, h in enumerate(cloud.due())},
    }


def pairs(scenario: Scenario, home: Path, taken: int) -> list[tuple[str, str]]:
    """What may be done at once after so many hints; one of the two is always a hint's."""
    with Cloud(home, resets=scenario.resets, driver=scenario.driver) as cloud:
        works = carry(cloud, scenario, taken)
    return [two for two in permutations(works, 2) if any("hint" in one for one in two)]


def run(
    scenario: Scenario,
    home: Path,
    taken: int,
    works: tuple[str, str],
    where: tuple[int, int],
    seconds: float,
) -> list[bool]:
    """Pause each of the two before so many calls, for so long; whether it came so far."""
    with Cloud(home, resets=scenario.resets, driver=scenario.driver) as cloud:
        possible = carry(cloud, scenario, taken)
        with Stepper(cloud) as stepper:
            runs = []
            stopped = []
            for name, work, calls in zip("ab", works, where, strict=True):
                worker = cloud.worker(name)
                runs.append(stepper.start(worker, partial(possible[work], worker)))
                stopped.append(runs[-1].step_calls(calls))
                if seconds and worker.trace[-1:] == [(BEFORE, "servers.create")]:
                    cloud.checker.paused_creates = True
                cloud.clock.advance(seconds)
            at = [one.worker.trace[-1:] for one in runs]
            for one in runs:
                one.step()
        cloud.calm()
        cloud.checker.finally_()
        told = f"after {taken} hints, {works} paused for {seconds} s before {where} {at}: "
        assert not cloud.checker.violations, told + "\n".join(
            [*cloud.checker.violations, cloud.describe(), *cloud.checker._story()]
        )
        return stopped
