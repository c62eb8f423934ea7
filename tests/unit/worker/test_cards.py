"""The simulated cards: seeded, faulty on demand, and honest in their journal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from changeover.models.errors import Busy, NotFound
from changeover.worker.ports.programmer import Outcome
from changeover.worker.simulator.cards import Behaviour, Fault, FaultKind, SimulatedCards
from changeover.worker.simulator.clock import VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


@pytest.fixture
def cards(tmp_path: Path, clock: VirtualClock) -> SimulatedCards:
    made = SimulatedCards(tmp_path, clock)
    made.add("a", function="old")
    made.behave(Behaviour(jitter=0.0))
    return made


def brief(cards: SimulatedCards, device: str) -> list[tuple[Any, ...]]:
    return [(line["event"], line["t"], line["holds"]) for line in cards.journal(device)]


def test_what_is_programmed_when_is_journaled(cards: SimulatedCards) -> None:
    cards.set_users("a", ["guest-1"])
    assert cards.program("a", "new", "t1", 5.0).outcome is Outcome.PROGRAMMED
    assert brief(cards, "a") == [
        ("installed", 1000.0, "old"),
        ("start", 1000.0, ""),
        ("end", 1005.0, "new"),
    ]
    start, end = cards.journal("a")[1:]
    assert (start["token"], start["function"], start["was"]) == ("t1", "new", "old")
    assert start["users"] == ["guest-1"]
    assert (end["token"], end["outcome"]) == ("t1", "programmed")


def test_adding_again_changes_nothing(cards: SimulatedCards, tmp_path: Path) -> None:
    assert not cards.add("a", function="other")
    again = SimulatedCards(tmp_path, VirtualClock(1000.0))
    assert again.function("a") == "old"
    assert again.devices() == ["a"]


def test_times_are_seeded(tmp_path: Path) -> None:
    def times(home: Path, seed: int) -> list[float]:
        clock = VirtualClock(1000.0)
        cards = SimulatedCards(home, clock)
        cards.add("a")
        cards.behave(Behaviour(seed=seed, scale=0.5, jitter=0.2, seconds={"f": 100.0}))
        taken = []
        for index in range(3):
            start = clock.now()
            cards.program("a", "f", str(index), 1.0)
            taken.append(clock.now() - start)
        return taken

    first = times(tmp_path / "1", 7)
    assert first == times(tmp_path / "2", 7)
    assert first != times(tmp_path / "3", 8)
    assert all(40.0 <= seconds <= 60.0 for seconds in first)
    assert len(set(first)) == 3


@pytest.mark.parametrize(
    ("fault", "outcome", "holds", "seconds"),
    [
        (Fault(FaultKind.FAIL), Outcome.FAILED, "", 4.0),
        (Fault(FaultKind.FAIL, leaves="old"), Outcome.FAILED, "old", 4.0),
        (Fault(FaultKind.HANG, seconds=60.0), Outcome.UNKNOWN, "", 60.0),
        (Fault(FaultKind.FAIL_AFTER_SUCCESS), Outcome.PROGRAMMED, "", 4.0),
        (Fault(FaultKind.SUCCESS_AFTER_FAILURE), Outcome.FAILED, "new", 4.0),
        (Fault(FaultKind.WRONG_FUNCTION, other="wrong"), Outcome.PROGRAMMED, "wrong", 4.0),
        (Fault(FaultKind.DIE), Outcome.UNKNOWN, "", 2.0),
        (Fault(FaultKind.DIE, leaves="old"), Outcome.UNKNOWN, "old", 2.0),
    ],
)
def test_faults(
    cards: SimulatedCards,
    clock: VirtualClock,
    fault: Fault,
    outcome: Outcome,
    holds: str,
    seconds: float,
) -> None:
    cards.inject(fault)
    assert cards.program("a", "new", "t", 4.0).outcome is outcome
    assert cards.function("a") == holds
    assert clock.now() == 1000.0 + seconds
    assert cards.program("a", "new", "t2", 4.0).outcome is Outcome.PROGRAMMED


def test_a_late_call_keeps_the_device_busy_until_it_completes(
    cards: SimulatedCards, clock: VirtualClock
) -> None:
    cards.inject(Fault(FaultKind.LATE, seconds=30.0))
    assert cards.program("a", "new", "t", 5.0).outcome is Outcome.UNKNOWN
    assert cards.read("a").busy is True
    with pytest.raises(Busy):
        cards.program("a", "other", "t2", 5.0)
    clock.sleep(31.0)
    assert cards.read("a").busy is False
    assert cards.read("a").function == "new"
    assert brief(cards, "a")[-1] == ("end", 1035.0, "new")


def test_faults_are_for_those_whom_they_fit_and_run_out(cards: SimulatedCards) -> None:
    cards.add("b")
    cards.inject(
        Fault(FaultKind.FAIL, device="b", times=2), Fault(FaultKind.FAIL, function="x", times=None)
    )
    assert cards.program("a", "new", "t", 1.0).outcome is Outcome.PROGRAMMED
    outcomes = [cards.program("b", "new", str(i), 1.0).outcome.value for i in range(3)]
    assert outcomes == ["failed", "failed", "programmed"]
    assert [cards.program("a", "x", str(i), 1.0).outcome.value for i in range(2)] == ["failed"] * 2
    cards.clear_faults()
    assert cards.program("a", "x", "t", 1.0).outcome is Outcome.PROGRAMMED


def test_rates_of_faults_are_seeded(cards: SimulatedCards) -> None:
    cards.behave(Behaviour(seed=1, rates={"fail": 0.3, "die": 0.2}))
    outcomes = [cards.program("a", "new", str(i), 1.0).outcome for i in range(60)]
    assert 8 <= outcomes.count(Outcome.FAILED) <= 30
    assert 4 <= outcomes.count(Outcome.UNKNOWN) <= 24


def test_programming_a_card_wipes_its_siblings(cards: SimulatedCards) -> None:
    for region in ("r1", "r2"):
        cards.add(region, function="f", card="c", resets="card")
    cards.add("r3", function="f", card="other", resets="card")
    cards.program("r1", "g", "t", 1.0)
    assert [cards.function(r) for r in ("r1", "r2", "r3")] == ["g", "", "f"]
    reset = cards.journal("r2")[-1]
    assert (reset["event"], reset["by"], reset["token"], reset["was"]) == ("reset", "r1", "t", "f")


def test_reading(cards: SimulatedCards) -> None:
    cards.set_users("a", ["guest"])
    assert cards.read("a").users == ("guest",)
    cards.set_readable("a", readable=False)
    assert not cards.read("a").readable
    assert not cards.read("nowhere").readable
    with pytest.raises(NotFound):
        cards.program("nowhere", "f", "t", 1.0)


def test_a_killed_caller_frees_the_card_and_is_noted(cards: SimulatedCards, tmp_path: Path) -> None:
    cards.inject(Fault(FaultKind.KILL))
    script = """
import sys
from pathlib import Path
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.simulator.cards import SimulatedCards
SimulatedCards(Path(sys.argv[1]), SystemClock()).program("a", "new", "t1", 0.1)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert cards.read("a").busy is False
    assert cards.function("a") == ""
    assert cards.program("a", "new", "t2", 1.0).outcome is Outcome.PROGRAMMED
    events = [(line["event"], line.get("token")) for line in cards.journal("a")]
    assert sorted(events[1:], key=str) == sorted(
        [("start", "t1"), ("interrupted", "t1"), ("start", "t2"), ("end", "t2")], key=str
    )
