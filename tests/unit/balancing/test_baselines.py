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
        make = lambda state, patience, seed: Static(state, partition)  # noqa: E731
        journal = run(boots, fleet, make, program_seconds=0.0).journal
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


def test_unreadable_rows_are_named() -> None:
    with pytest.raises(WorkloadError, match="line 2"):
        parse_events(["arrival_s,duration_s,function,slots", "1,x,f,1"])
    with pytest.raises(WorkloadError, match="line 2"):
        parse_fleet(["device,f", "d0,many"])


def test_intervals_hold_the_measured_loss() -> None:
    boots, fleet = generate(SyntheticWorkload(days=5), 2)
    scored = score(boots, run(boots, fleet, factory("reactive", boots, fleet, 60.0)).journal, 60.0)
    totals = day_totals(scored, 60.0)
    assert totals.loss.sum() / totals.boots.sum() == pytest.approx(scored.loss)
    span = interval(resampled_loss(totals, draws_of_days(len(totals.loss), 300, 1)))
    assert span.low <= scored.loss <= span.high
