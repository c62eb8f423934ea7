"""The weight of a boot: it grows with age and priority, and no project can starve another."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changeover.policies.weigh import Fairness, weight

PRIORITIES = st.floats(0.01, 1000.0)
AGES = st.floats(0.0, 1e7)
AHEAD = st.integers(0, 100_000)
SHARES = st.floats(0.001, 1000.0)


def of(
    *,
    priority: float = 1.0,
    age: float = 0.0,
    ahead: int = 0,
    share: float = 1.0,
    ageing: float = 300.0,
) -> float:
    fairness = Fairness(ageing_seconds=ageing, shares={"p": share})
    return weight(priority=priority, age=age, project="p", ahead=ahead, fairness=fairness)


def test_an_ordinary_boot_that_just_failed_is_the_unit() -> None:
    assert weight(priority=1.0, age=0.0, project="any", ahead=0, fairness=Fairness()) == 1.0


def test_after_the_ageing_time_it_counts_twice() -> None:
    assert of(age=300.0) == pytest.approx(2.0)
    assert of(age=60.0, ageing=60.0) == pytest.approx(2.0)


def test_a_clock_that_went_back_makes_nothing_worth_less() -> None:
    assert of(age=-1e9) == of(age=0.0)


@given(PRIORITIES, AGES, AHEAD, SHARES, st.floats(0.1, 1e5))
def test_never_less_than_half_of_its_age_and_priority(
    priority: float, age: float, ahead: int, share: float, ageing: float
) -> None:
    """Half is the floor: the last of many boots is still worth a changeover of its own."""
    whole = priority * (1.0 + age / ageing)
    value = of(priority=priority, age=age, ahead=ahead, share=share, ageing=ageing)
    assert math.isfinite(value)
    assert 0.5 * whole <= value <= whole * (1 + 1e-12)


@given(PRIORITIES, AGES, AHEAD, SHARES)
def test_more_of_anything_in_its_favour_is_never_worth_less(
    priority: float, age: float, ahead: int, share: float
) -> None:
    value = of(priority=priority, age=age, ahead=ahead, share=share)
    assert of(priority=priority * 2, age=age, ahead=ahead, share=share) > value
    assert of(priority=priority, age=age + 60, ahead=ahead, share=share) > value
    assert of(priority=priority, age=age, ahead=ahead, share=share * 2) >= value
    assert of(priority=priority, age=age, ahead=ahead + 1, share=share) <= value


def test_each_further_boot_of_a_project_is_worth_less() -> None:
    values = [of(ahead=k) for k in range(100)]
    assert all(first > second for first, second in pairwise(values))


def test_one_boot_comes_before_the_second_of_a_hundred() -> None:
    assert of() > of(ahead=1)


def test_a_greater_share_gives_way_later() -> None:
    assert of(share=10.0, ahead=5) > of(share=1.0, ahead=1)


@given(st.integers(1, 500), st.floats(1.0, 600.0), st.floats(0.01, 100.0), st.floats(0.01, 100.0))
def test_nobody_starves_for_ever(
    boots: int, refill: float, ahead_share: float, own_share: float
) -> None:
    """However many boots another project keeps failing anew, one old boot outranks them all."""
    fairness = Fairness(shares={"many": ahead_share, "one": own_share})
    best = max(
        weight(priority=1.0, age=refill, project="many", ahead=k, fairness=fairness)
        for k in range(boots)
    )
    # Its age alone brings it to the front, at the latest when it is as old as all theirs and more.
    old = weight(priority=1.0, age=refill + 1.0, project="one", ahead=0, fairness=fairness)
    assert old > best


def test_a_boot_of_low_priority_is_served_in_the_end() -> None:
    urgent = of(priority=100.0)
    assert of(priority=1.0, age=99.0 * 300.0 + 1.0) > urgent
