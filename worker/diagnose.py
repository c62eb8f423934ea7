"""Diagnose: why each class of failed requests can or cannot be helped, asked of Placement.

Only for explanations and previews: it asks more than a decision needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from changeover.models.diagnosis import Diagnosis, Verdict
from changeover.models.errors import ChangeoverError
from changeover.models.placement import SHARES, ResourceRequest
from changeover.models.planning import DeviceView, Plan, PlanInputs, Rejection
from changeover.models.reasons import Reason
from changeover.policies.diagnose import diagnose, hosts_cannot, suitable
from changeover.policies.relax import (
    Answers,
    Constraint,
    Relaxed,
    constraints_of,
    to_ask,
    without,
)
from changeover.worker.demand import Judged, allowed_of, everywhere
from changeover.worker.gather import Gathered
from changeover.worker.world import World

MOST_USERS = 64
"""Devices in use of which it is asked who uses them: one call each."""


def diagnoses(world: World, gathered: Gathered, plan: Plan) -> dict[str, Diagnosis]:
    """A diagnosis for every class that was judged, by its key."""
    found = {j.key: _diagnosis(world, j, gathered.inputs, plan) for j in gathered.judged}
    users = _users(world, gathered.inputs.devices, found)
    return {key: replace(d, devices=_named(d.devices, users)) for key, d in found.items()}


def _diagnosis(world: World, judged: Judged, inputs: PlanInputs, plan: Plan) -> Diagnosis:
    if judged.later is not None:
        return Diagnosis(Verdict.UNKNOWN, judged.later, len(judged.boots))
    answers = None
    understanding = judged.understanding
    key = judged.key
    if understanding.nobody is None and hosts_cannot(understanding, judged.hosts, inputs, key):
        hosts = frozenset(device.host for device in suitable(understanding, inputs, key))
        if hosts:
            answers = relaxations(world, understanding.relaxed, hosts)
    return diagnose(
        understanding,
        key=key,
        subjects=[boot.id for boot in judged.boots],
        fits_now=judged.elsewhere,
        hosts=judged.hosts,
        inputs=inputs,
        plan=plan,
        answers=answers,
    )


def relaxations(world: World, request: ResourceRequest, hosts: frozenset[str]) -> Answers:
    """Ask what each constraint rules out, and then which sets would help if relaxed."""
    constraints = constraints_of(request)
    alone = dict(
        zip(
            constraints,
            world.concurrently(lambda c: _ruled_out(world, request, c, hosts), list(constraints)),
            strict=True,
        )
    )
    known = Answers(request, hosts, alone, {})
    while asked := to_ask(known):
        given = world.concurrently(lambda relaxed: _given(world, request, relaxed, hosts), asked)
        known = replace(known, given={**known.given, **dict(zip(asked, given, strict=True))})
    return known


def _ruled_out(
    world: World, request: ResourceRequest, constraint: Constraint, hosts: frozenset[str]
) -> frozenset[str]:
    """The hosts where nothing satisfies the constraint, whatever else is asked."""
    names = frozenset(constraint.names)
    if constraint.kind in _OF_PLACE:
        others = [one for one in constraints_of(request) if one != constraint]
        return hosts - allowed_of(world, without(request, frozenset(others)), hosts)
    if constraint.kind == "resource":
        (rc,) = constraint.names
        amounts = {rc: constraint.amount}
        if world.placement.providers(resources=amounts, required=[SHARES]):
            return frozenset()  # whose hosts' it is only Placement knows
        found = world.placement.providers(resources=amounts)
    elif constraint.kind == "forbidden-host-trait":
        (trait,) = constraint.names
        found = world.placement.providers(required=[trait])
        return hosts & _names(world, (p.uuid for p in found if p.parent is None))
    elif constraint.kind in {"trait", "any-trait", "host-trait"}:
        if any(world.placement.providers(required=[trait, SHARES]) for trait in names):
            return frozenset()
        found = [p for trait in names for p in world.placement.providers(required=[trait])]
    else:
        return frozenset()
    return hosts - _names(world, (provider.root or provider.uuid for provider in found))


_OF_PLACE: Final = frozenset({"host", "excluded-host", "zone", "tenant", "isolated-aggregates"})
"""Constraints that say where a server may be, whatever there is."""


def _given(
    world: World, request: ResourceRequest, relaxed: Relaxed, hosts: frozenset[str]
) -> frozenset[str]:
    """The hosts that could take the request with ``relaxed`` not asked for."""
    rest = without(request, relaxed)
    if not rest.groups:
        return allowed_of(world, rest, hosts)
    return hosts & _names(world, everywhere(world, rest).roots)


def _names(world: World, roots: Iterable[str]) -> frozenset[str]:
    wanted = frozenset(roots)
    names = world.host_names(wanted)
    return frozenset(names[root] for root in wanted if root in names)


def _users(
    world: World, devices: Sequence[DeviceView], found: Mapping[str, Diagnosis]
) -> dict[str, tuple[str, ...]]:
    """Who uses the devices that are in use, as far as Placement answers."""
    in_use = {
        rejection.subject
        for diagnosis in found.values()
        for rejection in diagnosis.devices
        if rejection.reason.code == "device.in_use"
    }
    wanted = [device.uuid for device in devices if device.uuid in in_use][:MOST_USERS]
    answers = world.concurrently(lambda uuid: _consumers(world, uuid), wanted)
    return {uuid: answer for uuid, answer in zip(wanted, answers, strict=True) if answer}


def _consumers(world: World, provider: str) -> tuple[str, ...]:
    try:
        return tuple(sorted(world.placement.usage(provider).by_consumer))
    except ChangeoverError:
        return ()  # it may be gone or silent: that it is in use is known without it


def _named(
    devices: Sequence[Rejection], users: Mapping[str, tuple[str, ...]]
) -> tuple[Rejection, ...]:
    named = []
    for rejection in devices:
        who = users.get(rejection.subject)
        if who and rejection.reason.code == "device.in_use":
            reason = rejection.reason
            text = f"{reason.text} by {', '.join(who)}"
            reason = Reason(reason.code, text, {**reason.facts, "consumers": list(who)})
            named.append(Rejection(rejection.subject, reason))
        else:
            named.append(rejection)
    return tuple(named)
