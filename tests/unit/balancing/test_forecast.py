"""Forecasts are distributions, agree with simulation, and rise with demand."""

from __future__ import annotations

import numpy as np
import pytest

from changeover.policies.balancing.forecast import ForecastKnobs, forecast
from changeover.policies.balancing.history import DAY, DemandHistory


def rhythm(every: float, sizes: tuple[int, ...] = (1,), days: float = 6.0) -> DemandHistory:
    history = DemandHistory(["asked", "never"], program_seconds=10.0)
    at, number = 100.0, 0
    while at < days * DAY:
        history.observe(at, 0, sizes[number % len(sizes)])
        at, number = at + every, number + 1
    history.learn()
    return history


def test_exceedance_falls_with_slots_and_stays_a_probability() -> None:
    expected = forecast(rhythm(500.0, (1, 3, 6)), ForecastKnobs())
    assert np.all(np.diff(expected.exceed, axis=1) <= 1e-12)
    assert np.all((expected.exceed >= 0) & (expected.exceed <= 1))
    assert np.all((expected.remainder >= 0) & (expected.remainder <= 1))


def test_rate_comes_near_the_truth() -> None:
    history = rhythm(1800.0)
    history.advance(history.now + 900)
    rate = forecast(history, ForecastKnobs()).rates[0]
    assert rate == pytest.approx(1 / 1800, rel=0.5)


def test_a_function_nobody_asked_for_is_not_expected() -> None:
    assert forecast(rhythm(500.0), ForecastKnobs()).rates[1] == 0


def test_more_demand_is_worth_more_slots() -> None:
    rare, often = (forecast(rhythm(every), ForecastKnobs()) for every in (9000.0, 300.0))
    assert often.lost_boots(3600)[0, 0] > rare.lost_boots(3600)[0, 0]
    assert often.quantile(0.99)[0] >= rare.quantile(0.99)[0]


def test_a_boot_of_many_slots_is_lost_once() -> None:
    """Eight boots of one slot lose more than one boot of eight, though as many slots."""
    many = DemandHistory(["asked"], program_seconds=10.0)
    for at in np.arange(100.0, 6 * DAY, 9000.0):
        for _ in range(8):
            many.observe(float(at), 0, 1)
    many.learn()
    lost, alone = (
        forecast(history, ForecastKnobs()).lost_boots(DAY)[0]
        for history in (many, rhythm(9000.0, (8,)))
    )
    assert alone[:8] == pytest.approx(lost[:8] / 8, rel=0.05)


@pytest.mark.parametrize("every", [60.0, 4000.0])
def test_exceedance_agrees_with_simulation(every: float) -> None:
    history = rhythm(every, (1, 1, 4), days=3.0)
    expected = forecast(history, ForecastKnobs())
    shares = history.size_shares(ForecastKnobs().size_shrink)[0]
    chance = np.random.default_rng(5)
    bursts = chance.poisson(expected.rates[0] * expected.window, 20000)
    slots = np.array([chance.choice(len(shares), n, p=shares).sum() for n in bursts])
    for free in range(6):
        assert expected.exceed[0, free] == pytest.approx(np.mean(slots > free), abs=0.012)


def test_an_open_burst_expects_the_rest_of_it() -> None:
    history = rhythm(4000.0, (4,))
    history.advance(history.now + 1)
    still = forecast(history, ForecastKnobs()).remainder[0, 0]
    history.advance(history.now + 3000)
    assert forecast(history, ForecastKnobs()).remainder[0, 0] == 0
    assert still < 1
