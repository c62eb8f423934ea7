"""What the planner chooses, and what it says of the rest, in small examples."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.policies.choose_clouds import IN_USE, STOPPED, demand, device, inputs

from changeover.models.planning import (
    Budgets,
    DemandClass,
    FunctionView,
    Need,
    Plan,
    PlanInputs,
    Weights,
)
from changeover.policies.choose import choose
from changeover.policies.greedy import program, prune
from changeover.policies.problem import NOBODY, compile_problem
from changeover.policies.score import State
from changeover.policies.serve import Server

AES = FunctionView("aes", {"u": 1})
FFT = FunctionView("fft", {"u": 1})
WIDE = FunctionView("wide", {"u": 4, "v": 2})


def chosen(plan: Plan) -> dict[str, str]:
    return {intent.device: intent.to_function for intent in plan.intents}


def reasons(plan: Plan) -> dict[str, str]:
    return {rejection.subject: rejection.reason.code for rejection in plan.rejected}


def unmet(plan: Plan) -> dict[str, str]:
    return {rejection.subject: rejection.reason.code for rejection in plan.unmet}


def served(plan: Plan) -> set[str]:
    return {promise.subject for promise in plan.promises}


def test_nothing_waits_nothing_happens() -> None:
    plan = choose(inputs((AES,), (device("d1"), device("d2", blocked=IN_USE)), ()))
    assert plan.intents == plan.promises == plan.unmet == ()
    assert reasons(plan) == {"d1": "device.model", "d2": "device.in_use"}


def test_an_empty_cloud_says_why() -> None:
    plan = choose(inputs((AES,), (), (demand("c", "aes"),)))
    assert unmet(plan) == {"c": "unmet.no_device"}


def test_a_free_slot_is_used_before_anything_is_programmed() -> None:
    devices = (device("d1"), device("d2", function="aes", free=1))
    plan = choose(inputs((AES,), devices, (demand("c", "aes"),)))
    assert plan.intents == ()
    assert [promise.device for promise in plan.promises] == ["d2"]
    assert reasons(plan) == {"d1": "device.not_needed"}


def test_slots_under_way_are_used_before_anything_is_programmed() -> None:
    devices = (device("d1"), device("d2", becoming="aes", free=1, ready_in=20.0))
    plan = choose(inputs((AES,), devices, (demand("c", "aes"),)))
    assert plan.intents == ()
    assert [promise.device for promise in plan.promises] == ["d2"]


def test_a_blocked_device_serves_with_the_slots_it_has() -> None:
    devices = (device("d1", function="aes", free=1, blocked=IN_USE),)
    plan = choose(inputs((AES,), devices, (demand("c", "aes", units=2),)))
    assert len(plan.promises) == 1
    assert unmet(plan) == {"c": "unmet.no_device"}


def test_units_share_a_programmed_device() -> None:
    plan = choose(inputs((WIDE,), (device("d1"), device("d2")), (demand("c", "wide", units=4),)))
    assert len(plan.intents) == 1
    assert served(plan) == {"c-0", "c-1", "c-2", "c-3"}
    assert set(reasons(plan).values()) == {"device.costs_more"}


def test_the_whole_batch_is_weighed_not_boot_by_boot() -> None:
    """One device, one program: four ordinary boots go before one that weighs a little more."""
    demands = (demand("one", "aes", weight=1.5), demand("four", "wide", units=4))
    plan = choose(inputs((AES, WIDE), (device("d1"),), demands))
    assert chosen(plan) == {"d1": "wide"}
    assert unmet(plan) == {"one": "unmet.devices_taken"}


def test_a_choosy_demand_gets_the_only_device_that_fits() -> None:
    """``any`` fits both models, ``wide`` with enough slots only one: they must not collide."""
    anything = FunctionView("any", {"u": 1, "v": 1})
    devices = (device("d1", model="u"), device("d2", model="v"))
    for seed in range(5):
        cloud = inputs(
            (anything, WIDE), devices, (demand("a", "any"), demand("w", "wide", slots=3))
        )
        assert chosen(choose(replace(cloud, seed=seed))) == {"d1": "wide", "d2": "any"}


def test_units_change_places_so_that_one_more_is_served() -> None:
    """``either`` could sit on aes or fft; ``only`` needs aes, and no device may be programmed."""
    devices = (
        device("d1", function="aes", free=1, blocked=IN_USE),
        device("d2", function="fft", free=1, blocked=IN_USE),
    )
    either = DemandClass("either", "boot", (Need(("aes", "fft")),), (2.0,), ("e",))
    for seed in range(5):
        cloud = inputs((AES, FFT), (*devices, device("d3")), (either, demand("only", "aes")))
        plan = choose(replace(cloud, seed=seed))
        assert served(plan) == {"e", "only-0"}
        assert plan.intents == ()


def test_heavier_units_come_first() -> None:
    demands = (demand("light", "aes", weight=0.5), demand("heavy", "aes", weight=3.0))
    plan = choose(inputs((AES,), (device("d1"),), demands))
    assert served(plan) == {"heavy-0"}


def test_the_heaviest_unit_gets_the_slot_that_is_there_soonest() -> None:
    devices = (device("d1"), device("d2", function="aes", free=1))
    waiting = DemandClass("c", "boot", (Need(("aes",)),), (2.0, 1.0), ("old", "new"))
    plan = choose(inputs((AES,), devices, (waiting,)))
    assert {p.subject: p.device for p in plan.promises} == {"old": "d2", "new": "d1"}


def test_of_devices_under_way_the_heaviest_unit_gets_the_one_that_is_ready_first() -> None:
    waiting = DemandClass("c", "boot", (Need(("aes",)),), (2.0, 1.0), ("old", "new"))
    for soon, late in (("d1", "d2"), ("d2", "d1")):
        devices = (
            device(soon, becoming="aes", free=1, ready_in=5.0),
            device(late, becoming="aes", free=1, ready_in=50.0),
        )
        plan = choose(inputs((AES,), devices, (waiting,)))
        assert {p.subject: p.device for p in plan.promises} == {"old": soon, "new": late}


# Gangs.


def test_a_gang_is_served_on_one_host_or_not_at_all() -> None:
    apart = (device("d1", "h1"), device("d2", "h2"))
    together = (device("d1", "h1"), device("d2", "h1"))
    gang = (demand("g", "aes", "fft"),)
    assert choose(inputs((AES, FFT), apart, gang)).intents == ()
    plan = choose(inputs((AES, FFT), together, gang))
    assert sorted(chosen(plan).values()) == ["aes", "fft"]
    assert unmet(choose(inputs((AES, FFT), apart, gang))) == {"g": "unmet.gang"}


def test_two_needs_of_a_gang_may_share_a_device() -> None:
    plan = choose(inputs((WIDE,), (device("d1"),), (demand("g", "wide", "wide", slots=2),)))
    assert [promise.slots for promise in plan.promises] == [2, 2]


def test_a_gang_takes_part_of_what_is_there() -> None:
    devices = (device("d1", function="aes", free=1), device("d2"))
    plan = choose(inputs((AES, FFT), devices, (demand("g", "aes", "fft"),)))
    assert chosen(plan) == {"d2": "fft"}


# Hosts, names, budgets.


def test_hosts_bound_the_units_that_they_take() -> None:
    devices = tuple(device(f"d{k}", f"h{k % 2}") for k in range(6))
    waiting = demand("c", "aes", units=6, hosts={"h0": 1})
    plan = choose(inputs((AES,), devices, (waiting,)))
    assert {intent.host for intent in plan.intents} == {"h0"}
    assert len(plan.intents) == 1
    assert set(reasons(plan).values()) == {"device.host_cannot"}
    assert unmet(plan) == {"c": "unmet.hosts_cannot"}


@pytest.mark.parametrize(
    ("budgets", "count", "code", "why"),
    [
        (Budgets(total=2), 2, "device.budget_total", "unmet.budget"),
        (Budgets(total=0), 0, "device.budget_total", "unmet.budget"),
        (Budgets(per_host=1), 2, "device.budget_host", "unmet.budget"),
        (Budgets(host_left={"h0": 0, "h1": 0}), 0, "device.budget_host", "unmet.budget"),
        (Budgets(per_function=3), 3, "device.budget_function", "unmet.budget"),
        (
            Budgets(per_function=3, function_left={"aes": 0}),
            0,
            "device.budget_function",
            "unmet.budget",
        ),
    ],
)
def test_budgets_hold_and_are_named(budgets: Budgets, count: int, code: str, why: str) -> None:
    devices = tuple(device(f"d{k}", f"h{k % 2}") for k in range(8))
    plan = choose(inputs((AES,), devices, (demand("c", "aes", units=8),), budgets=budgets))
    assert len(plan.intents) == count
    assert set(reasons(plan).values()) == {code}
    assert unmet(plan) == {"c": why}


def test_a_tight_budget_goes_to_the_device_that_serves_most() -> None:
    demands = (demand("one", "aes", units=3, weight=1.2), demand("four", "wide", units=4))
    plan = choose(
        inputs(
            (AES, WIDE), tuple(device(f"d{k}") for k in range(4)), demands, budgets=Budgets(total=1)
        )
    )
    assert set(chosen(plan).values()) == {"wide"}


# Tasks and layouts: whole devices.


def test_a_task_programs_the_device_that_it_names() -> None:
    devices = tuple(device(f"d{k}") for k in range(5))
    task = demand("t", "aes", kind="task", devices=frozenset({"d3"}), whole_devices=True)
    plan = choose(inputs((AES,), devices, (task,)))
    assert chosen(plan) == {"d3": "aes"}
    assert [promise.slots for promise in plan.promises] == [0]


def test_a_task_is_served_where_its_device_has_the_function_already() -> None:
    devices = (device("d1", function="aes", blocked=IN_USE), device("d2"))
    task = demand("t", "aes", kind="task", devices=frozenset({"d1"}), whole_devices=True)
    plan = choose(inputs((AES,), devices, (task,)))
    assert plan.intents == plan.unmet == ()


def test_a_layout_counts_devices_not_slots() -> None:
    devices = tuple(device(f"d{k}") for k in range(3))
    layout = demand("l", "wide", units=2, kind="layout", whole_devices=True)
    plan = choose(inputs((WIDE,), devices, (layout,)))
    assert len(plan.intents) == 2
    assert len({promise.device for promise in plan.promises}) == 2


def test_boots_use_the_slots_of_a_device_that_a_task_wants() -> None:
    task = demand("t", "wide", kind="task", whole_devices=True)
    plan = choose(inputs((WIDE,), (device("d1"),), (task, demand("b", "wide", units=2))))
    assert len(plan.intents) == 1
    assert served(plan) == {"t-0", "b-0", "b-1"}


# Floors and forecasts.


def test_floors_take_only_what_boots_leave() -> None:
    floor = demand("f", "fft", units=20, weight=0.9, kind="floor")
    wide = FunctionView("fft", {"u": 20})
    plan = choose(inputs((AES, wide), (device("d1"),), (floor, demand("b", "aes"))))
    assert chosen(plan) == {"d1": "aes"}


def test_floors_fill_the_slots_that_boots_leave_over() -> None:
    floor = demand("f", "wide", units=5, weight=0.1, kind="floor")
    plan = choose(inputs((WIDE,), (device("d1"),), (floor, demand("b", "wide"))))
    assert len(served(plan)) == 4
    assert "b-0" in served(plan)


# What it costs.


def test_nothing_is_programmed_without_gain() -> None:
    cheap = demand("c", "aes", weight=0.02, kind="forecast")
    cloud = inputs((AES,), (device("d1"),), (cheap,))
    assert choose(cloud).intents == ()
    assert reasons(choose(cloud)) == {"d1": "device.not_worth"}
    assert unmet(choose(cloud)) == {"c": "unmet.not_worth"}
    assert choose(replace(cloud, weights=Weights(per_second=0.0001))).intents


def test_a_changeover_that_nothing_needs_any_more_is_taken_back() -> None:
    problem = compile_problem(inputs((AES,), (device("d1"), device("d2")), (demand("a", "aes"),)))
    state = State(problem)
    server = Server(problem, state, width=1)
    server.admit(list(problem.wants))
    program(server, list(problem.wants))
    [needed] = [i for i, function in enumerate(state.target) if function != NOBODY]
    state.program(1 - needed, state.target[needed])
    prune(state)
    assert [i for i, function in enumerate(state.target) if function != NOBODY] == [needed]


def test_least_gain_is_a_bar_and_no_cost() -> None:
    cloud = inputs((AES,), (device("d1"),), (demand("c", "aes"),))
    assert choose(replace(cloud, weights=Weights(least_gain=0.98))).intents == ()
    (intent,) = choose(replace(cloud, weights=Weights(least_gain=0.96))).intents
    assert intent.cost == pytest.approx(0.03)


def test_slots_that_are_wanted_are_kept() -> None:
    devices = (
        device("d1", function="fft", free=1),
        device("d2", function="gzip", free=1),
    )
    functions = (AES, FFT, FunctionView("gzip", {"u": 1}))
    for wanted, taken in (("fft", "d2"), ("gzip", "d1")):
        cloud = inputs(functions, devices, (demand("c", "aes"),), keep={wanted: (0.5,)})
        assert chosen(choose(cloud)) == {taken: "aes"}


def test_slots_worth_more_than_the_boot_stay() -> None:
    devices = (device("d1", function="fft", free=1),)
    cloud = inputs((AES, FFT), devices, (demand("c", "aes"),), keep={"fft": (2.0,)})
    assert reasons(choose(cloud)) == {"d1": "device.free_slots_wanted"}


def test_the_first_free_slot_is_worth_more_than_the_last() -> None:
    devices = tuple(device(f"d{k}", f"h{k}", function="fft", free=1) for k in range(3))
    cloud = inputs((AES, FFT), devices, (demand("c", "aes", units=3),), keep={"fft": (3.0, 0.1)})
    assert len(choose(cloud).intents) == 2


def test_changeovers_spread_over_hosts() -> None:
    devices = tuple(device(f"d{k}", f"h{k // 4}") for k in range(16))
    plan = choose(inputs((AES,), devices, (demand("c", "aes", units=4),)))
    assert len({intent.host for intent in plan.intents}) == 4


def test_worn_devices_rest() -> None:
    devices = tuple(device(f"d{k}", f"h{k}", programs=100 * (k != 2)) for k in range(4))
    assert chosen(choose(inputs((AES,), devices, (demand("c", "aes"),)))) == {"d2": "aes"}


def test_preferred_traits_rank_and_never_exclude() -> None:
    fast = frozenset({"FAST"})
    devices = tuple(
        device(f"d{k}", f"h{k}", traits=fast if k == 2 else frozenset(), programs=9 * (k == 2))
        for k in range(4)
    )
    waiting = demand("c", "aes", preferred=fast)
    assert chosen(choose(inputs((AES,), devices, (waiting,)))) == {"d2": "aes"}
    assert chosen(choose(inputs((AES,), devices[:1], (waiting,)))) == {"d0": "aes"}
    free = tuple(replace(d, function="aes", free=1) for d in devices)
    assert [p.device for p in choose(inputs((AES,), free, (waiting,))).promises] == ["d2"]


# Reasons.


def test_each_device_has_its_reason() -> None:
    devices = (
        device("model", model="x"),
        device("same", model="v", function="wide"),
        device("used", blocked=IN_USE),
        device("coming", becoming="aes"),
    )
    plan = choose(inputs((AES, WIDE), devices, (demand("c", "wide"), demand("d", "aes"))))
    assert reasons(plan) == {
        "model": "device.model",
        "same": "device.function_same",
        "used": "device.in_use",
        "coming": "device.becoming",
    }


def test_demand_that_no_function_serves() -> None:
    stopped = FunctionView("slow", {"u": 1}, stopped=STOPPED)
    demands = (
        demand("none", "unheard"),
        demand("stopped", "slow"),
        demand("big", "aes", slots=2),
    )
    plan = choose(inputs((AES, stopped), (device("d1"),), demands))
    assert unmet(plan) == {
        "none": "unmet.no_function",
        "stopped": "unmet.function_stopped",
        "big": "unmet.no_function",
    }
    (stop,) = (r.reason for r in plan.unmet if r.subject == "stopped")
    assert stop.facts["stopped"]["slow"]["code"] == "function.stopped"
    assert stop.facts["waiting"] == 1


def test_gains_and_costs_add_up() -> None:
    devices = tuple(device(f"d{k}", "h1", function="fft", free=2) for k in range(4))
    cloud = inputs((AES, FFT), devices, (demand("c", "aes", units=3),), keep={"fft": (0.2, 0.1)})
    plan = choose(cloud)
    assert sum(intent.gain for intent in plan.intents) == pytest.approx(plan.value)
    assert sum(intent.cost for intent in plan.intents) == pytest.approx(plan.cost)


# Chance and names.


def test_ties_follow_the_seed_and_not_the_name() -> None:
    devices = tuple(device(f"d{k}", f"h{k}") for k in range(10))
    cloud = inputs((AES,), devices, (demand("c", "aes"),))
    taken = [chosen(choose(replace(cloud, seed=seed))) for seed in range(30)]
    assert taken == [chosen(choose(replace(cloud, seed=seed))) for seed in range(30)]
    assert len({name for choice in taken for name in choice}) > 4


def test_a_large_cloud_is_planned_too() -> None:
    """Beyond the local search's reach: the greedy choice alone."""
    devices = tuple(
        device(f"d{k}", f"h{k // 4}", function="fft" if k % 3 else None, free=k % 3)
        for k in range(900)
    )
    demands = (
        demand("a", "aes", units=200),
        demand("g", "aes", "wide", units=20),
        demand("h", "wide", units=100, hosts={f"h{k}": 3 for k in range(40)}),
    )
    plan: Plan = choose(cloud := inputs((AES, FFT, WIDE), devices, demands))
    assert plan.unmet == ()
    assert plan == choose(replace(cloud, devices=devices[::-1], demands=demands[::-1]))


def test_inputs_are_left_alone() -> None:
    cloud: PlanInputs = inputs((AES,), (device("d1"),), (demand("c", "aes", hosts={"h1": 1}),))
    before = repr(cloud)
    choose(cloud)
    assert repr(cloud) == before
