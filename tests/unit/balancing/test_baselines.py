"""The baselines are what their names say."""

from __future__ import annotations

from itertools import product

import pytest
from unit.balancing.backtest_support import run

from changeover.models.workload import WorkloadError, parse_events, parse_fleet
from changeover.policies.backtest.bootstrap import (
    day_totals,
    draws_of_days,
    interval,
    resampled_loss,
)
from changeover.policies.backtest.score import score
from changeover.policies.balancing.registry import factory
from changeover.policies.balancing.static import Static, best_partition
from changeover.policies.balancing.synthetic import (
    SyntheticWorkload,
    events_csv,
    fleet_csv,
    generate,
)

SHAPE = SyntheticWorkload(days=1, functions=3, devices=4, residents=0, gang=0.0)


def test_no_fixed_partition_beats_static() -> None:
    boots, fleet = generate(SHAPE, 4)

    def loss(partition: tuple[int, ...]) -> float:
        journal = run(
            boots, fleet, lambda state, _p, _s: Static(state, partition), program_seconds=0.0
        ).journal
        scored = score(boots, journal, 60.0)
        return scored.loss

    # The partition is chosen over all boots, the loss leaves out the first: a little slack.
    best = loss(best_partition(boots, fleet, 60.0))
    every = [p for p in product(range(5), repeat=3) if sum(p) == 4]
    assert best <= min(map(loss, every)) * 1.03


def test_an_unknown_policy_is_refused_with_the_names() -> None:
    boots, fleet = generate(SHAPE, 1)
    with pytest.raises(KeyError, match="reactive"):
        factory("clairvoyant", boots, fleet, 60.0)


def test_generation_is_seeded_and_files_round_trip() -> None:
    boots, fleet = generate(SyntheticWorkload(), 9)
    assert (boots, fleet) == generate(SyntheticWorkload(), 9)
    assert boots != generate(SyntheticWorkload(), 10)[0]
    assert parse_events(events_csv(boots).splitlines()) == boots
    assert parse_fleet(fleet_csv(fleet).splitlines()) == fleet


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("x,2,f,1", "arrival_s is no time"),
        ("nan,2,f,1", "arrival_s is no time"),
        ("inf,2,f,1", "arrival_s is no time"),
        ("1,nan,f,1", "duration_s is no time"),
        ("1,-2,f,1", "must be positive"),
        ("1,2,f,0", "must be positive"),
        ("1,2,f,-1", "slots is no number"),
        ("1,2,f,1.5", "slots is no number"),
        ("1,2,f", "nothing in column 'slots'"),
        ("1,2,,1", "nothing in column 'function'"),
        ("1,2,f,1,p", "more values than columns"),
    ],
)
def test_a_row_that_is_no_boot_is_named(row: str, why: str) -> None:
    with pytest.raises(WorkloadError, match=f"line 3.*{why}"):
        parse_events(["arrival_s,duration_s,function,slots", "1,2,f,1", row])


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((), "lacks the column 'device'"),
        (("card,f", "d0,1"), "lacks the column 'device'"),
        (("device,f",), "there is no device"),
        (("device", "d0"), "there is no function"),
        (("device,f", "d0,1", "d0,1"), "a device is listed twice"),
        (("device,f,f", "d0,1,1"), "a function is listed twice"),
        (("device,f", "d0,many"), "line 2: f is no number"),
        (("device,f", "d0,-1"), "line 2: f is no number"),
        (("device,f", "d0"), "line 2: nothing in column 'f'"),
        (("device,f", ",1"), "line 2: nothing in column 'device'"),
        (("device,f", "d0,1,1"), "line 2: more values"),
    ],
)
def test_a_file_that_is_no_fleet_is_refused(lines: tuple[str, ...], why: str) -> None:
    with pytest.raises(WorkloadError, match=why):
        parse_fleet(lines)


def test_files_without_a_header_are_refused_and_a_header_alone_is_a_quiet_recording() -> None:
    with pytest.raises(WorkloadError, match="lacks the column 'arrival_s'"):
        parse_events([])
    with pytest.raises(WorkloadError, match="lacks the column 'duration_s'"):
        parse_events(["arrival_s,function,slots", "1,f,1"])
    assert parse_events(["arrival_s,duration_s,function,slots"]) == ()


def test_intervals_hold_the_measured_loss() -> None:
    boots, fleet = generate(SyntheticWorkload(days=5), 2)
    scored = score(boots, run(boots, fleet, factory("reactive", boots, fleet, 60.0)).journal, 60.0)
    totals = day_totals(scored, 60.0)
    assert totals.loss.sum() / totals.boots.sum() == pytest.approx(scored.loss)
    span = interval(resampled_loss(totals, draws_of_days(len(totals.loss), 300, 1)))
    assert span.low <= scored.loss <= span.high
