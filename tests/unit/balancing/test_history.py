"""The history forgets as told, stays bounded, and survives a round trip through JSON."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from changeover.policies.balancing.history import DAY, DemandHistory, HistoryKnobs


def fed(count: int = 400, seed: int = 3) -> DemandHistory:
    chance = random.Random(seed)
    history = DemandHistory(["a", "b", "c"], program_seconds=10.0)
    now = 50.0
    for _ in range(count):
        now += chance.expovariate(1 / 900)
        history.observe(now, chance.choice([0, 0, 1]), chance.choice([1, 1, 2]))
    history.learn()
    return history


def test_round_trip_through_json() -> None:
    history = fed()
    other = DemandHistory(["a", "b", "c"], program_seconds=10.0)
    other.restore(json.loads(json.dumps(history.to_dict())))
    assert other.to_dict() == history.to_dict()
    for each in (history, other):
        each.advance(each.now + 5000)
    assert np.array_equal(other.evidence(3600), history.evidence(3600))


def test_what_was_saved_before_boots_were_counted_takes_each_slot_for_one() -> None:
    saved = json.loads(json.dumps(fed().to_dict()))
    for kept in saved["by_function"].values():
        del kept["boots"], kept["burst_boots"]
    other = DemandHistory(["a", "b", "c"], program_seconds=10.0)
    other.restore(saved)
    assert np.array_equal(other.boots_a_slot(), np.ones_like(other.boots_a_slot()))


def test_functions_are_found_again_by_name() -> None:
    history = fed()
    other = DemandHistory(["new", "b", "a"], program_seconds=10.0)
    other.restore(history.to_dict())
    assert not other.seen[0]
    assert np.array_equal(other.bursts[:, 2], history.bursts[:, 0])
    assert np.array_equal(other.season[:, 1], history.season[:, 1])


def test_size_does_not_grow_with_time() -> None:
    few, many = (len(json.dumps(fed(n).to_dict())) for n in (200, 2000))
    assert many < 2 * few


def test_time_may_pass_in_any_steps() -> None:
    one, other = fed(), fed()
    one.advance(one.now + 3 * DAY)
    for _ in range(300):
        other.advance(other.now + 3 * DAY / 300)
    assert one.bursts == pytest.approx(other.bursts, abs=1e-9)
    assert one.season == pytest.approx(other.season, abs=1e-9)


def test_boots_that_come_together_are_one_burst() -> None:
    history = DemandHistory(["a"], program_seconds=10.0)
    for at in (100.0, 101.0, 112.0):
        history.observe(at, 0, 1)
    history.observe(500.0, 0, 1)
    assert history.sizes[0, 3] == 1
    assert history.burst_open[0]
    assert history.bursts[-1, 0] == pytest.approx(2.0, abs=1e-2)


def test_evidence_that_explains_gains_weight() -> None:
    """With a strict daily rhythm the function's own time of day must come to count for more."""
    history = DemandHistory(["a", "b"], program_seconds=10.0)
    before = history.weights[-2] / history.weights.sum()
    for day in range(40):
        for hour, function in ((3.0, 0), (15.0, 1)):
            at = day * DAY + hour * 3600
            while history.began is not None and history.now < at - 600:
                history.advance(min(history.now + 600, at - 600))
                history.learn()
            history.observe(at, function, 1)
    assert history.weights[-2] / history.weights.sum() > 1.3 * before


def test_a_function_that_keeps_a_rhythm_of_its_own_is_believed_more_than_others() -> None:
    """One function comes at three each night, twenty others come at random: it is foreseen."""
    chance = random.Random(5)
    arrivals = [(day * DAY + 3 * 3600.0, 0) for day in range(1, 12)]
    arrivals += [(chance.uniform(0, 12 * DAY), chance.randint(1, 20)) for _ in range(600)]
    shared, own = (
        DemandHistory([str(n) for n in range(21)], 10.0, HistoryKnobs(own_bursts=prior))
        for prior in (1e6, HistoryKnobs().own_bursts)
    )
    for history in (shared, own):
        for at, function in sorted(arrivals):
            history.observe(at, function, 1)
            history.learn()
        history.advance(12 * DAY + 2.5 * 3600)
    assert own.rates(3600)[0] > 1.5 * shared.rates(3600)[0]


def test_sizes_of_bursts_that_follow_soon_are_told_apart_from_those_that_come_late() -> None:
    """A function that nobody knows well: more is expected of it within the hour than tomorrow."""
    history = DemandHistory(["rolls out", "new"], program_seconds=10.0)
    for day in range(8):
        history.observe(day * DAY + 1000, 0, 1)
        history.observe(day * DAY + 1600, 0, 6)
    history.observe(8 * DAY, 1, 1)
    soon = history.size_shares(16.0)[1]
    history.advance(8 * DAY + 600)
    later = history.size_shares(16.0)[1]
    history.advance(9 * DAY)
    late = history.size_shares(16.0)[1]
    assert soon[6] < 0.1
    assert later[6] > 0.3
    assert late[6] < 0.1
