"""Diagnoses agree with brute force: all single and double changes, all constraints relaxed."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import pytest
from unit.worker.generated import (
    CARD_TRAIT,
    changed,
    fits,
    fits_on,
    make_world,
    possible_changes,
    some_boot,
    some_request,
)

from changeover.models.diagnosis import Diagnosis, Verdict
from changeover.models.placement import RequestGroup, ResourceRequest
from changeover.models.planning import Plan
from changeover.models.reasons import Reason
from changeover.policies.offer import class_of
from changeover.policies.relax import MOST_TOGETHER, constraints_of, smallest, without
from changeover.policies.understand import understand
from changeover.worker.diagnose import relaxations
from changeover.worker.judge import preview
from changeover.worker.world import World

CLOUDS = range(12)
REQUESTS = 5


def _diagnosed(world: World, request: ResourceRequest) -> tuple[Diagnosis, Plan]:
    seen = preview(world, [some_boot(request, world.clock.now())])
    return seen.diagnoses[request.key], seen.plan


def _helping(world: World, request: ResourceRequest) -> int:
    """The fewest changes, of at most two, that give a candidate; 0 if nothing does."""
    for together in (1, 2):
        for changes in possible_changes(world, together):
            with changed(world, changes):
                if fits(world, request):
                    return together
    return 0


@pytest.mark.parametrize("seed", CLOUDS)
def test_a_verdict_agrees_with_all_single_and_double_changes(seed: int) -> None:
    chance = random.Random(seed)
    world = make_world(chance)
    for _ in range(REQUESTS):
        request = some_request(chance)
        diagnosis, plan = _diagnosed(world, request)
        told = f"{diagnosis.reason.text}; {request.as_json()}"
        if fits(world, request):
            assert diagnosis.verdict is Verdict.CANDIDATES_NOW, told
            assert not plan.intents
            continue
        helping = _helping(world, request)
        assert (diagnosis.verdict is Verdict.CHANGEOVER) == bool(helping), told
        assert len(plan.intents) == helping, told
        own = any(CARD_TRAIT in group.required for group in request.groups)
        if not helping and diagnosis.verdict is not Verdict.NOBODY_CAN and not own:
            # What the hosts cannot, they cannot whatever their devices offer. (Which devices have
            # a trait of their own, the oracle does not look at.)
            cannot = diagnosis.verdict is Verdict.HOSTS_CANNOT
            assert cannot != _hosts_could(world, request), told
        if helping:
            changes = [
                (world.device(i.device), world.function(i.to_function)) for i in plan.intents
            ]
            with changed(world, changes):
                assert fits(world, request), told


def test_a_region_without_a_function_serves_whoever_wants_any() -> None:
    tried = 0
    for seed in range(200):
        world = make_world(random.Random(seed))
        for device in world.catalog.devices:
            here = [d for d in world.catalog.devices if d.host == device.host]
            regions = [d for d in here if world.model(d).resource_class]
            if device.model != "region" or len(regions) > 1:
                continue
            group = RequestGroup(resources={"CUSTOM_REGION": 1, "VCPU": 1})
            request = ResourceRequest((group,), hosts=(device.host,))
            if world.placement.state(device.provider).traits or not fits(world, request):
                continue
            diagnosis, plan = _diagnosed(world, request)
            assert diagnosis.verdict is Verdict.CANDIDATES_NOW
            assert not plan.intents
            tried += 1
        if tried > 1:
            return
    raise AssertionError("no such cloud")


def _hosts_could(world: World, request: ResourceRequest) -> bool:
    """Whether a host with a device that could offer the function takes the rest of ``request``."""
    understanding = understand(request, world.catalog)
    hosts = frozenset(d.host for d in world.catalog.devices if d.model in understanding.models)
    rest = understanding.relaxed
    if not hosts or not rest.groups:
        return bool(not hosts or (hosts & set(rest.hosts or hosts)) - set(rest.excluded_hosts))
    return fits_on(world, rest, hosts)


def _brute_force(world: World, request: ResourceRequest, hosts: frozenset[str]) -> set[frozenset]:
    """The smallest of all sets of constraints without which one of ``hosts`` has a candidate."""
    constraints = constraints_of(request)
    helping = set()
    for relaxed in chain(*(combinations(constraints, n) for n in range(1, MOST_TOGETHER + 1))):
        rest = without(request, frozenset(relaxed))
        if rest.groups:
            found = world.placement.candidates(rest)
            able = {world.host_names(found.roots)[root] for root in found.roots} & hosts
        else:
            able = (hosts & set(rest.hosts or hosts)) - set(rest.excluded_hosts)
        if able:
            helping.add(frozenset(relaxed))
    least = {one for one in helping if not any(other < one for other in helping)}
    few = {one for one in least if len(one) < MOST_TOGETHER}
    return few or least


@pytest.mark.parametrize("seed", CLOUDS)
def test_what_would_have_to_be_relaxed_agrees_with_all_sets(seed: int) -> None:
    chance = random.Random(1000 + seed)
    world = make_world(chance)
    hosts = frozenset(device.host for device in world.catalog.devices)
    for _ in range(2 * REQUESTS):
        asked = some_request(chance)
        request = understand(asked, world.catalog).relaxed
        if not request.groups or fits_on(world, request, hosts):
            continue
        known = relaxations(world, request, hosts)
        assert set(smallest(known)) == _brute_force(world, request, hosts), request.as_json()
        for constraint, out in known.alone.items():
            if constraint.kind == "resource":
                (rc,) = constraint.names
                able = {
                    p.name for p in world.placement.providers(resources={rc: constraint.amount})
                }
                assert out == hosts - able


def _one_card(chance: random.Random, **settings: Any) -> World:
    """A world of which just one card may be programmed."""
    while True:
        world = make_world(chance)
        changes = list(possible_changes(world, 1))
        if len({device.provider for ((device, _),) in changes}) == 1:
            return replace(world, settings=world.settings.model_copy(update=settings))


def test_a_device_that_is_about_to_be_free_is_waited_for() -> None:
    chance = random.Random(1)
    told = Counter[Verdict]()
    for _ in range(6):
        world = _one_card(chance, dwell_seconds=100.0)
        ((device, function),) = next(possible_changes(world, 1))
        group = RequestGroup(
            "_0",
            {class_of(function, world.model(device)): 1},
            frozenset(function.traits)
            if world.model(device).resource_class is None
            else frozenset(),
        )
        request = ResourceRequest((group,))
        if fits(world, request):
            continue
        idle, _ = _diagnosed(world, request)
        with world.database.write() as tx:
            tx.devices.update(device.provider, changed_at=world.clock.now() - 40.0)
        rests, plan = _diagnosed(world, request)
        assert idle.verdict is Verdict.CHANGEOVER
        assert not plan.intents
        assert (rests.verdict, rests.seconds) == (Verdict.SOON, pytest.approx(60.0))
        with world.database.write() as tx:
            tx.devices.update(device.provider, trouble=Reason("device.unreadable", "gone"))
        broken, _ = _diagnosed(world, request)
        assert broken.verdict is Verdict.NO_DEVICE_MAY
        assert {r.subject for r in broken.devices} >= {device.provider}
        told[rests.verdict] += 1
    assert told[Verdict.SOON]
