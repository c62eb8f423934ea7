"""The engine keeps the checker's rules, scores as it does, and lets no policy see the future."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from unit.balancing.backtest_support import check, example, run

from changeover.models.workload import RecordedBoot, RecordedFleet
from changeover.policies.backtest.engine import IllegalProgramError
from changeover.policies.backtest.journal import Abandoned, Programmed, Started
from changeover.policies.backtest.score import score
from changeover.policies.balancing.fleet import FleetState, News, Program
from changeover.policies.balancing.policy import Decision
from changeover.policies.balancing.reactive import Reactive
from changeover.policies.balancing.registry import CAUSAL, factory
from changeover.policies.balancing.synthetic import SyntheticWorkload, generate

CELLS = [(10.0, 60.0), (10.0, 600.0), (120.0, 60.0), (120.0, 600.0)]


@pytest.mark.parametrize("name", ["static", *CAUSAL])
@pytest.mark.parametrize("cell", CELLS)
def test_checker_passes_and_scores_alike(
    name: str, cell: tuple[float, float], tmp_path: Path
) -> None:
    boots, fleet = example()
    result = run(boots, fleet, factory(name, boots, fleet, cell[1]), *cell)
    said = check(boots, fleet, result, tmp_path, *cell)
    assert "broken" not in said, said
    ours = score(boots, result.journal, cell[1])
    assert said["loss"] == pytest.approx(ours.loss)
    assert said["abandoned"] == pytest.approx(ours.abandoned)
    assert said["programs"] == ours.programs
    assert said["wait_p95"] == pytest.approx(ours.wait_p95)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("seed", range(4))
def test_checker_passes_on_generated_workloads(name: str, seed: int, tmp_path: Path) -> None:
    shape = SyntheticWorkload(days=0.5, devices=6, batch=0.5, gang=0.2, residents=3)
    boots, fleet = generate(shape, seed)
    result = run(boots, fleet, factory(name, boots, fleet, 60.0))
    assert "broken" not in check(boots, fleet, result, tmp_path)


@pytest.mark.parametrize("name", CAUSAL)
def test_cutting_the_future_changes_nothing_before(name: str) -> None:
    """At any time: as a boot arrives, and in the quiet after one, when only the clock goes on."""
    boots, fleet = example()
    make = factory(name, boots, fleet, 60.0)
    whole = run(boots, fleet, make).journal
    chance = Random(7)
    quiet = sorted(pairwise(boots), key=lambda two: two[0].arrival - two[1].arrival)[:4]
    cuts = [boots[len(boots) // 3].arrival, boots[-1].arrival]
    cuts += [later.arrival for _, later in quiet]
    cuts += [chance.uniform(0.0, boots[-1].arrival) for _ in range(6)]
    for cut in cuts:
        part = run([b for b in boots if b.arrival < cut], fleet, make).journal
        assert [e for e in part if e.time < cut] == [e for e in whole if e.time < cut], cut


@pytest.mark.parametrize("name", CAUSAL)
def test_durations_after_the_cut_change_nothing_before(name: str) -> None:
    boots, fleet = example()
    cut = boots[len(boots) // 2].arrival
    longer = [
        RecordedBoot(b.arrival, b.duration + 1e7, b.function, b.slots)
        if b.arrival + b.duration > cut
        else b
        for b in boots
    ]
    make = factory(name, boots, fleet, 60.0)
    before = [e for e in run(boots, fleet, make).journal if e.time < cut]
    assert before == [e for e in run(longer, fleet, make).journal if e.time < cut]


def test_equal_runs_are_equal() -> None:
    boots, fleet = example()
    make = factory("default", boots, fleet, 60.0)
    assert run(boots, fleet, make).journal == run(boots, fleet, make).journal


ONE = RecordedFleet(("d0", "d1"), ("f", "g"), ((2, 1), (2, 1)))


def test_a_gang_is_served_over_two_devices(tmp_path: Path) -> None:
    boots = (RecordedBoot(5.0, 50.0, "f", 4), RecordedBoot(6.0, 50.0, "f", 1))
    result = run(boots, ONE, Reactive)
    starts = [e for e in result.journal if isinstance(e, Started)]
    assert starts[0].taken == {0: 2, 1: 2}
    # The second waits behind the gang and until its slots are free again.
    assert starts[1].time == pytest.approx(65.0)
    assert "broken" not in check(boots, ONE, result, tmp_path)


def test_nobody_overtakes_a_gang(tmp_path: Path) -> None:
    boots = (
        RecordedBoot(1.0, 40.0, "f", 1),
        RecordedBoot(2.0, 40.0, "g", 1),
        RecordedBoot(20.0, 40.0, "f", 2),
        RecordedBoot(21.0, 40.0, "f", 1),
    )
    result = run(boots, ONE, Reactive)
    order = [e.boot for e in result.journal if isinstance(e, Started)]
    assert order == [0, 1, 2, 3]
    assert "broken" not in check(boots, ONE, result, tmp_path)


def test_a_boot_gives_up_after_its_patience(tmp_path: Path) -> None:
    boots = (RecordedBoot(1.0, 5.0, "f", 1), RecordedBoot(3.0, 5.0, "nobody-has-it", 1))
    result = run(boots, ONE, Reactive, program_seconds=100.0)
    gone = [e for e in result.journal if isinstance(e, Abandoned)]
    assert [(e.time, e.boot) for e in gone] == [(61.0, 0), (63.0, 1)]
    assert "broken" not in check(boots, ONE, result, tmp_path, program_seconds=100.0)


def test_residents_are_free_or_dropped(tmp_path: Path) -> None:
    boots = (
        RecordedBoot(0.0, 100.0, "g", 1),
        RecordedBoot(0.0, 100.0, "f", 3),
        RecordedBoot(0.0, 100.0, "f", 2),
        RecordedBoot(7.0, 1.0, "f", 1),
    )
    result = run(boots, ONE, Reactive)
    programs = [e for e in result.journal if isinstance(e, Programmed)]
    assert [p.resident for p in programs if p.time == 0] == [True, True]
    assert score(boots, result.journal, 60.0).programs == 0
    assert "broken" not in check(boots, ONE, result, tmp_path)


def test_a_boot_of_no_duration_frees_its_slot_at_once(tmp_path: Path) -> None:
    boots = tuple(RecordedBoot(1.0, 0.0, "g", 1) for _ in range(3))
    result = run(boots, ONE, Reactive)
    assert [e.time for e in result.journal if isinstance(e, Started)] == [11.0, 11.0, 11.0]
    assert "broken" not in check(boots, ONE, result, tmp_path)


class _Thief:
    """Programs the first device whatever its state."""

    def decide(self, now: float, fleet: FleetState, news: News) -> Decision:
        del now, fleet, news
        return Decision([Program(0, 0, "because")])


def test_an_illegal_program_is_refused() -> None:
    boots = (RecordedBoot(1.0, 5.0, "f", 1), RecordedBoot(2.0, 5.0, "f", 1))
    with pytest.raises(IllegalProgramError):
        run(boots, ONE, lambda fleet, patience, seed: _Thief())


def test_wasted_programs_are_those_undone_unserved() -> None:
    boots = (RecordedBoot(1.0, 5.0, "f", 1),)
    journal = [
        Programmed(0.0, 0, 0, resident=False),
        Programmed(20.0, 0, 1, resident=False),
        Programmed(40.0, 0, 0, resident=False),
        Started(60.0, 0, {0: 1}),
        Programmed(80.0, 0, 1, resident=False),
    ]
    assert score(boots, journal, 60.0).wasted_programs == 2
