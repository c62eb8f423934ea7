"""What holds of every plan, on generated clouds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.policies.choose_clouds import IN_USE, clouds, crowded, device, targets

from changeover.models.planning import (
    Budgets,
    DemandClass,
    FunctionView,
    Intent,
    Need,
    Plan,
    PlanInputs,
    Promise,
)
from changeover.policies.audit import audit
from changeover.policies.choose import choose
from changeover.policies.problem import LOW

SOME = settings(max_examples=40, deadline=None, derandomize=True)


@SOME
@given(clouds())
def test_plans_are_allowed_and_priced_right(cloud: PlanInputs) -> None:
    """Budgets, blocked devices, models, slots, rooms, names, gangs: ``audit`` knows them all."""
    plan = choose(cloud)
    found = audit(cloud, plan)
    assert found.faults == ()
    assert found.value == pytest.approx(plan.value)
    assert found.cost == pytest.approx(plan.cost)


@pytest.mark.parametrize("part", range(4))
def test_plans_of_crowded_clouds_are_allowed_and_priced_right(part: int) -> None:
    for seed in range(60 * part, 60 * part + 60):
        cloud = crowded(seed)
        plan = choose(cloud)
        found = audit(cloud, plan)
        assert found.faults == (), seed
        assert found.value == pytest.approx(plan.value), seed
        assert found.cost == pytest.approx(plan.cost), seed
        mixed = replace(cloud, devices=cloud.devices[::-1], demands=cloud.demands[::-1])
        assert choose(replace(mixed, functions=cloud.functions[::-1])) == plan, seed


def test_boots_are_served_as_if_there_were_no_floors() -> None:
    for seed in range(60):
        cloud = crowded(seed)
        urgent = tuple(d for d in cloud.demands if d.kind not in LOW)
        alone = replace(cloud, demands=urgent)
        assert _weight(cloud, urgent) == pytest.approx(_weight(alone, urgent)), seed


def _weight(cloud: PlanInputs, demands: tuple[DemandClass, ...]) -> float:
    """What the served units of some of the demands weigh."""
    subjects = {(p.demand, p.subject) for p in choose(cloud).promises}
    served = Counter(key for key, _ in subjects)
    return sum(sum(d.weights[: served[d.key]]) for d in demands)


@SOME
@given(clouds(), st.sampled_from((0.0, 0.3)))
def test_no_intent_without_gain(cloud: PlanInputs, least: float) -> None:
    cloud = replace(cloud, weights=replace(cloud.weights, least_gain=least))
    plan = choose(cloud)
    for intent in plan.intents:
        without = _without(plan, intent)
        assert audit(cloud, without).faults == ()
        assert audit(cloud, without).score < audit(cloud, plan).score - least


def _without(plan: Plan, intent: Intent) -> Plan:
    """The plan less one intent and every unit that it serves."""
    lost = {(p.demand, p.subject) for p in plan.promises if p.device == intent.device}
    return replace(
        plan,
        intents=tuple(other for other in plan.intents if other is not intent),
        promises=tuple(p for p in plan.promises if (p.demand, p.subject) not in lost),
    )


@SOME
@given(clouds(), st.randoms(use_true_random=False))
def test_the_order_of_the_inputs_is_nothing(cloud: PlanInputs, rng: Random) -> None:
    def mixed(values: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(rng.sample(values, len(values)))

    def turned(demand: DemandClass) -> DemandClass:
        hosts = demand.hosts
        return replace(demand, hosts=hosts and dict(reversed(list(hosts.items()))))

    shuffled = replace(
        cloud,
        functions=mixed(cloud.functions),
        devices=mixed(cloud.devices),
        demands=mixed(tuple(turned(demand) for demand in cloud.demands)),
        keep=dict(reversed(list(cloud.keep.items()))),
    )
    assert choose(shuffled) == choose(cloud)


@SOME
@given(clouds())
def test_every_device_and_class_is_accounted_for(cloud: PlanInputs) -> None:
    plan = choose(cloud)
    used = {i.device for i in plan.intents} | {p.device for p in plan.promises}
    rejected = Counter(rejection.subject for rejection in plan.rejected)
    assert used.isdisjoint(rejected)
    assert used | set(rejected) == {d.uuid for d in cloud.devices}
    assert set(rejected.values()) <= {1}
    served = Counter(key for key, _ in {(p.demand, p.subject) for p in plan.promises})
    waiting = {d.key for d in cloud.demands if served[d.key] < len(d.weights)}
    assert {rejection.subject for rejection in plan.unmet} == waiting
    blocked = {d.uuid: d.blocked for d in cloud.devices if d.blocked is not None}
    for rejection in plan.rejected:
        assert rejection.reason is blocked.get(rejection.subject, rejection.reason)


@SOME
@given(clouds())
def test_boots_lose_nothing_to_floors(cloud: PlanInputs) -> None:
    urgent = replace(cloud, demands=tuple(d for d in cloud.demands if d.kind not in LOW))
    assert audit(cloud, choose(cloud)).urgent >= audit(urgent, choose(urgent)).value - 1e-9


@SOME
@given(clouds(), st.sampled_from(("u", "v")), st.sampled_from(("h1", "h4")))
def test_another_idle_device_never_serves_fewer(cloud: PlanInputs, model: str, host: str) -> None:
    """For demands of one slot and equal weight, without budgets."""
    cloud = _plain(cloud)
    more = replace(cloud, devices=(*cloud.devices, device("more", host, model)))
    assert len(choose(more).promises) >= len(choose(cloud).promises)


@pytest.mark.parametrize("kept", [False, True])
def test_another_idle_device_of_a_crowded_cloud_never_serves_fewer(*, kept: bool) -> None:
    """With hosts that take only so many, or with slots of old functions that are wanted."""
    for seed in range(25):
        cloud = crowded(seed)
        hosts = {demand.key: None if kept else demand.hosts for demand in cloud.demands}
        keep = cloud.keep if kept else {}
        cloud = _plain(cloud)
        demands = tuple(replace(demand, hosts=hosts[demand.key]) for demand in cloud.demands)
        cloud = replace(cloud, demands=demands, keep=keep)
        more = replace(cloud, devices=(*cloud.devices, device("more", "h2", "uv"[seed % 2])))
        assert len(choose(more).promises) >= len(choose(cloud).promises), seed


@pytest.mark.parametrize("seed", range(6))
def test_a_gang_gets_the_changeover_of_its_host_that_brings_more_there(seed: int) -> None:
    """Two boots together bring more by the only changeover that its host may start."""
    cloud = PlanInputs(
        now=0.0,
        seed=seed,
        functions=(
            FunctionView("aes", {"u": 2, "x": 1}, 60.0),
            FunctionView("fft", {"v": 1}, 60.0),
            FunctionView("gzip", {"w": 1}, 60.0),
        ),
        devices=(
            device("d0", "h1", "u"),
            device("d1", "h1", "v"),
            device("d2", "h1", "w", "gzip", 1, blocked=IN_USE),
            device("d3", "h2", "x", programs=9),
        ),
        demands=(
            DemandClass("boots", "boot", (Need(("aes",)),), (1.5, 1.5), ("a", "b")),
            DemandClass("gang", "boot", (Need(("fft",)), Need(("gzip",))), (2.0,), ("c",)),
        ),
        budgets=Budgets(per_host=1),
    )
    assert {promise.subject for promise in choose(cloud).promises} == {"a", "c"}


def _plain(cloud: PlanInputs) -> PlanInputs:
    demands = tuple(
        replace(
            d,
            kind="boot",
            needs=(replace(d.needs[0], slots=1, devices=None),),
            weights=(1.0,) * len(d.weights),
            hosts=None,
            devices=None,
            whole_devices=False,
        )
        for d in cloud.demands
    )
    return PlanInputs(cloud.now, cloud.seed, cloud.functions, cloud.devices, demands)


@settings(SOME, max_examples=50)
@given(clouds(devices=4, classes=2))
def test_small_clouds_are_planned_as_well_as_can_be(cloud: PlanInputs) -> None:
    """All programs and all placements of all units, gangs too, tried one by one."""
    cloud = replace(
        cloud,
        # Rest is for floors and forecasts, of which there are none here.
        devices=tuple(replace(d, resting=None) for d in cloud.devices),
        demands=tuple(_short(d) for d in cloud.demands if d.kind not in LOW),
    )
    assert choose(cloud).score == pytest.approx(_best(cloud), abs=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_the_smallest_cloud_is_looked_at_long_enough(seed: int) -> None:
    """The free slot serves the heavy boot; programmed, the device serves the light one too."""
    cloud = PlanInputs(
        now=0.0,
        seed=seed,
        functions=(FunctionView("sha", {"v": 1}, 300.0), FunctionView("fft", {"v": 2}, 60.0)),
        devices=(device("d0", model="v", function="sha", free=1),),
        demands=(DemandClass("c0", "boot", (Need(("sha", "fft")),), (7.0, 0.5), ("a", "b")),),
        keep={"sha": (0.2, 0.2)},
    )
    assert choose(cloud).score == pytest.approx(7.27)


def _short(demand: DemandClass) -> DemandClass:
    return replace(
        demand,
        weights=demand.weights[:2],
        subjects=demand.subjects[:2],
        preferred=frozenset(),
    )


def _best(cloud: PlanInputs) -> float:
    best = 0.0
    for programs in targets(cloud):
        intents = _intents(cloud, programs)
        if audit(cloud, Plan(intents, (), (), ())).faults:
            continue
        choices = [list(_units(cloud, demand, programs)) for demand in cloud.demands]
        for units in product(*choices):
            plan = Plan(intents, tuple(p for unit in units for p in unit), (), ())
            found = audit(cloud, plan)
            if found.score > best and not found.faults:
                best = found.score
    return best


def _intents(cloud: PlanInputs, programs: dict[str, str]) -> tuple[Intent, ...]:
    fits = {f.name: f.fits for f in cloud.functions}
    return tuple(
        Intent(d.uuid, d.host, d.function, to, fits[to][d.model], 0.0, 0.0, ())
        for d in cloud.devices
        if (to := programs.get(d.uuid)) is not None
    )


def _units(
    cloud: PlanInputs, demand: DemandClass, programs: dict[str, str]
) -> Iterator[tuple[Promise, ...]]:
    """Ways to serve some units of ``demand``; equal units are not told apart."""
    offers = {d.uuid: programs.get(d.uuid) or d.becoming or d.function for d in cloud.devices}
    host = {d.uuid: d.host for d in cloud.devices}
    one = [
        tuple(zip(uuids, names, demand.needs, strict=True))
        for uuids in product(offers, repeat=len(demand.needs))
        if len({host[uuid] for uuid in uuids}) == 1
        and all(
            offers[uuid] in need.functions and (need.devices is None or uuid in need.devices)
            for uuid, need in zip(uuids, demand.needs, strict=True)
        )
        for names in [tuple(offers[uuid] for uuid in uuids)]
    ]
    ways = [None, *one]
    for picked in product(range(len(ways)), repeat=len(demand.weights)):
        if list(picked) != sorted(picked, reverse=True):
            continue
        yield tuple(
            Promise(
                demand.key, subject, uuid, name or "", 0 if demand.whole_devices else need.slots
            )
            for subject, k in zip(demand.subjects, picked, strict=True)
            if (way := ways[k]) is not None
            for uuid, name, need in way
        )
