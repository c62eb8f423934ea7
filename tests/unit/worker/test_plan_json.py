"""A plan and its inputs are stored so that the very same plan can be made again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from changeover.models.planning import (
    Budgets,
    DemandClass,
    DeviceView,
    FunctionView,
    Intent,
    Need,
    Plan,
    PlanInputs,
    Promise,
    Rejection,
    Weights,
)
from changeover.models.reasons import Reason
from changeover.policies.choose import choose
from changeover.worker.plan_json import inputs_as_json, inputs_from_json, plan_as_json
from changeover.worker.simulator.fleet import describe_fleet

TEXT = st.text(max_size=6)
AMOUNT = st.integers(0, 10**6)
TIME = st.floats(0, 4e9)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
REASON = st.builds(
    Reason, TEXT, TEXT, st.dictionaries(TEXT, st.none() | st.integers() | TEXT, max_size=2)
)
MODE = st.sampled_from(["single_program", "fully_dynamic"])
KIND = st.sampled_from(["boot", "task", "layout", "floor", "forecast"])
MAYBE = st.none() | AMOUNT
BY_NAME = st.dictionaries(TEXT, AMOUNT, max_size=2)


def several(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=2).map(tuple)


NAMES = several(TEXT)
INPUTS = st.builds(
    PlanInputs,
    now=TIME,
    seed=st.integers(),
    functions=several(st.builds(FunctionView, TEXT, BY_NAME, TIME, st.none() | REASON)),
    devices=several(
        st.builds(
            DeviceView,
            uuid=TEXT,
            name=TEXT,
            host=TEXT,
            model=TEXT,
            mode=MODE,
            function=st.none() | TEXT,
            free=AMOUNT,
            becoming=st.none() | TEXT,
            ready_in=TIME,
            blocked=st.none() | REASON,
            programs=AMOUNT,
            idle_seconds=TIME,
            traits=st.frozensets(TEXT, max_size=3),
        )
    ),
    demands=several(
        st.builds(
            DemandClass,
            key=TEXT,
            kind=KIND,
            needs=several(st.builds(Need, NAMES, AMOUNT)),
            weights=several(NUMBER),
            subjects=NAMES,
            hosts=st.none() | BY_NAME,
            devices=st.none() | st.frozensets(TEXT, max_size=2),
            preferred=st.frozensets(TEXT, max_size=2),
            whole_devices=st.booleans(),
        )
    ),
    budgets=st.builds(Budgets, MAYBE, MAYBE, MAYBE, BY_NAME, BY_NAME),
    weights=st.builds(Weights, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER),
    keep=st.dictionaries(TEXT, several(NUMBER), max_size=2),
)
PLANS = st.builds(
    Plan,
    intents=several(
        st.builds(
            Intent, TEXT, TEXT, st.none() | TEXT, TEXT, AMOUNT, NUMBER, NUMBER, several(REASON)
        )
    ),
    promises=several(st.builds(Promise, TEXT, TEXT, TEXT, TEXT, AMOUNT)),
    rejected=several(st.builds(Rejection, TEXT, REASON)),
    unmet=several(st.builds(Rejection, TEXT, REASON)),
    value=NUMBER,
    cost=NUMBER,
)


@given(INPUTS)
def test_inputs_come_back_the_same(inputs: PlanInputs) -> None:
    stored = json.dumps(inputs_as_json(inputs), allow_nan=False)
    assert inputs_from_json(json.loads(stored)) == inputs


@given(PLANS)
def test_plans_come_back_the_same(plan: Plan) -> None:
    stored = json.dumps(plan_as_json(plan), allow_nan=False)
    assert TypeAdapter(Plan).validate_python(json.loads(stored)) == plan


def test_the_same_plan_is_made_again() -> None:
    fleet = describe_fleet()
    devices = tuple(
        DeviceView(
            uuid=d.provider,
            name=d.name,
            host=d.host,
            model=d.model,
            mode=fleet.catalog.models[d.model].mode,
            function=fleet.initial[d.name] or None,
            traits=frozenset(fleet.catalog.models[d.model].traits),
        )
        for d in fleet.catalog.devices
    )
    demands = tuple(
        DemandClass(
            key=name,
            kind="boot",
            needs=(Need((name,)),),
            weights=(1.5, 1.0, 0.75),
            subjects=tuple(f"{name}-{k}" for k in range(3)),
            hosts={"host1": 2, "host2": 1, "host4": 3},
        )
        for name in ("aes", "ipsec", "nvidia-37")
    )
    functions = tuple(
        FunctionView(f.name, dict(f.fits), f.seconds) for f in fleet.catalog.functions.values()
    )
    inputs = PlanInputs(
        now=1.7e9,
        seed=3,
        functions=functions,
        devices=devices,
        demands=demands,
        budgets=Budgets(total=6, per_host=3, host_left={"host1": 1}),
        keep={"gzip": (0.2, 0.1)},
    )
    plan = choose(inputs)
    assert plan.intents
    stored = json.loads(json.dumps([inputs_as_json(inputs), plan_as_json(plan)]))
    again = choose(inputs_from_json(stored[0]))
    assert again == plan
    assert plan_as_json(again) == stored[1]
    assert choose(replace(inputs, demands=())).intents == ()


@pytest.mark.parametrize("data", [{}, {"now": "x"}, {"intents": 1}])
def test_what_is_neither(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        inputs_from_json(data)
