"""Backing off: longer each time, never too long, and never all at once."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from changeover.policies.backoff import backoff

FIRST = st.floats(0.001, 60.0)
MOST = st.floats(60.0, 86_400.0)
JITTER = st.floats(0.0, 1.0, exclude_max=True)
FAILURES = st.integers(0, 10_000)


def test_it_doubles() -> None:
    waits = [backoff(n, first=1.0, most=100.0, jitter=0.0) for n in range(1, 10)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 100, 100]


@pytest.mark.parametrize("failures", [-5, 0, 1])
def test_the_first_try_waits_the_first_time(failures: int) -> None:
    assert backoff(failures, first=3.0, most=100.0, jitter=0.0) == 3.0


@example(0, 1.0, 60.0, math.nextafter(1.0, 0.0))  # rounds to the half
@given(FAILURES, FIRST, MOST, JITTER)
def test_bounds(failures: int, first: float, most: float, jitter: float) -> None:
    wait = backoff(failures, first=first, most=most, jitter=jitter)
    assert math.isfinite(wait)
    assert first / 2 <= wait <= most


@given(FAILURES, FIRST, MOST, JITTER)
def test_more_failures_never_wait_less(
    failures: int, first: float, most: float, jitter: float
) -> None:
    wait = backoff(failures, first=first, most=most, jitter=jitter)
    assert backoff(failures + 1, first=first, most=most, jitter=jitter) >= wait


@given(FAILURES, FIRST, MOST, JITTER, JITTER)
def test_jitter_only_shortens_and_at_most_by_half(
    failures: int, first: float, most: float, one: float, other: float
) -> None:
    whole = backoff(failures, first=first, most=most, jitter=0.0)
    low, high = sorted((one, other))
    less = backoff(failures, first=first, most=most, jitter=high)
    assert whole / 2 <= less <= backoff(failures, first=first, most=most, jitter=low) <= whole


def test_most_wins_over_first() -> None:
    assert backoff(1, first=10.0, most=5.0, jitter=0.0) == 5.0


def test_any_number_of_failures() -> None:
    assert backoff(10**9, first=1.0, most=60.0, jitter=0.0) == 60.0
