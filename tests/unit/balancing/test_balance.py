"""Balancing takes blanks first, then the least valuable; it robs nobody and wants a gain."""

from __future__ import annotations

import random

import numpy as np
import pytest

from changeover.policies.balancing.balance import BalanceKnobs, Balancer
from changeover.policies.balancing.fleet import BLANK, FleetState, Waiting
from changeover.policies.balancing.forecast import Forecast

NOW = 10_000.0


def fleet_of(functions: list[int], kinds: int = 3, slots: int = 2) -> FleetState:
    names = [f"f{i}" for i in range(kinds)]
    fleet = FleetState(
        [f"d{i}" for i in range(len(functions))], names, [[slots] * kinds] * len(functions), 10.0
    )
    for device, function in enumerate(functions):
        if function != BLANK:
            fleet.install(device, function, 0.0)
    return fleet


def expecting(*chances: float) -> Forecast:
    """Chance per window that one slot is asked for; further slots are ten times less likely."""
    exceed = np.array([[chance / 10**c for c in range(16)] for chance in chances])
    held = np.full(len(chances), 1e6)
    return Forecast(
        np.array(chances), exceed, np.zeros_like(exceed), np.ones_like(exceed), held, 40.0
    )


def balancer(fleet: FleetState, *chances: float) -> Balancer:
    return Balancer(NOW, fleet, expecting(*chances), 600.0, BalanceKnobs())


def test_blank_devices_are_taken_first() -> None:
    plan = balancer(fleet_of([0, BLANK, 0]), 0.001, 0.01, 0.0)
    plan.prepare(0.1, 1)
    assert [(p.device, p.function) for p in plan.programs] == [(1, 1)]


def test_the_least_valuable_device_goes_to_who_waits() -> None:
    fleet = fleet_of([0, 1])
    fleet.waiting[2].append(Waiting(7, NOW, 1))
    plan = balancer(fleet, 0.01, 0.001, 0.0)
    plan.serve_waiting()
    assert [(p.device, p.function) for p in plan.programs] == [(1, 2)]


def test_one_device_serves_as_many_as_it_has_slots() -> None:
    fleet = fleet_of([0, 0, 0, 0])
    for boot in range(3):
        fleet.waiting[2].append(Waiting(boot, NOW, 1))
    plan = balancer(fleet, 0.0, 0.0, 0.0)
    plan.serve_waiting()
    assert [p.function for p in plan.programs] == [2, 2]


def test_slots_that_a_waiting_gang_needs_are_never_taken() -> None:
    fleet = fleet_of([0, 1])
    fleet.waiting[0].append(Waiting(1, NOW - 1, 3))
    fleet.waiting[2].append(Waiting(2, NOW, 4))
    plan = balancer(fleet, 0.0, 0.0, 0.5)
    plan.serve_waiting()
    plan.prepare(0.0, 9)
    assert [(p.device, p.function) for p in plan.programs] == [(1, 0)]


def test_no_program_without_gain() -> None:
    plan = balancer(fleet_of([0, 1, 2]), 0.001, 0.001, 0.001)
    plan.prepare(0.1, 9)
    assert plan.programs == []


def test_a_device_rests_after_a_program() -> None:
    fleet = fleet_of([0])
    fleet.ready_at[0] = NOW - 5
    plan = balancer(fleet, 0.0, 0.5, 0.0)
    plan.prepare(0.1, 9)
    assert plan.programs == []


def test_a_boot_too_late_to_save_is_no_reason_by_itself() -> None:
    fleet = fleet_of([0])
    fleet.waiting[1].append(Waiting(1, NOW - 595, 1))
    plan = balancer(fleet, 0.01, 0.0, 0.0)
    plan.serve_waiting()
    plan.follow_failures()
    assert plan.programs == []


@pytest.mark.parametrize("seed", range(20))
def test_plans_are_legal_and_repeatable(seed: int) -> None:
    chance = random.Random(seed)
    fleet = fleet_of([chance.choice([BLANK, 0, 1, 2]) for _ in range(8)])
    for function in range(3):
        if chance.random() < 0.5:
            fleet.place(function, 1)
        if chance.random() < 0.5:
            fleet.waiting[function].append(Waiting(function, NOW - chance.random() * 500, 1))
    chances = [chance.random() / 50 for _ in range(3)]
    plans = []
    for _ in range(2):
        plan = balancer(fleet, *chances)
        plan.serve_waiting()
        plan.follow_failures()
        plan.prepare(0.3, 3)
        plans.append(plan.programs)
    assert plans[0] == plans[1]
    devices = [p.device for p in plans[0]]
    assert len(devices) == len(set(devices))
    assert set(devices) <= set(fleet.idle())
    assert all(fleet.function[p.device] != p.function for p in plans[0])
    assert sum(p.reason.startswith("forecast") for p in plans[0]) <= 3
