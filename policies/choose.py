"""Choose which devices to program, for a whole batch of demand at once.

First every unit that free slots can serve gets them: that boot need only be tried again. Then
devices are programmed one after the other, always where a device brings most, counting all
waiting units that its slots would serve. Floors and forecasts come after everything else and
never take what a boot needs. Pure and deterministic: equal inputs give equal plans, in whatever
order they are listed.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Final

from changeover.models.planning import Intent, Plan, PlanInputs, Promise
from changeover.models.reasons import Reason
from changeover.policies.greedy import program, prune, use_free
from changeover.policies.improve import Improver
from changeover.policies.prefer import prefer
from changeover.policies.problem import NOBODY, Problem, Want, compile_problem
from changeover.policies.refuse import refused_devices, unmet_demands
from changeover.policies.score import Costs, Grant, State
from changeover.policies.serve import Server

WIDTH: Final = 16
"""How many devices of a model, and how many hosts, are compared for one unit, on small clouds."""

SMALL: Final = 400
"""Up to this many devices, ``WIDTH`` are compared; on larger clouds, the first that fits."""

EFFORT: Final = 5_000
"""How many devices the local search may look at, for urgent demand and then for the rest."""


def choose(inputs: PlanInputs) -> Plan:
    """Choose what to program and who is served by what."""
    # Nothing here makes cycles; the collector would only walk the inputs again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _choose(inputs)
    finally:
        if collecting:
            gc.enable()


def _choose(inputs: PlanInputs) -> Plan:
    problem = compile_problem(inputs)
    state = State(problem)
    small = len(problem.devices) <= SMALL
    server = Server(problem, state, WIDTH if small else 1)
    wants = [want for want in problem.wants if want.units]
    urgent = [want for want in wants if not want.low]
    low = [want for want in wants if want.low]
    if urgent and low and small:
        _adopt(server, urgent)
    elif urgent:
        _serve(server, urgent, small=small)
    if low:
        _let_rest(state)
        _serve(server, low, small=small)
    prefer(state)
    prune(state)
    return _plan(problem, state)


def _serve(server: Server, wants: list[Want], *, small: bool) -> None:
    server.admit(wants)
    use_free(server, wants)
    program(server, wants)
    if small:
        Improver(server).run(EFFORT)


def _adopt(server: Server, urgent: list[Want]) -> None:
    """Choose for ``urgent`` as if there were nothing else, and take that over.

    The search draws from what it is given: beside floors it would find other choices, now and
    then worse ones.
    """
    problem, state = server.problem, server.state
    demands = tuple(want.demand for want in urgent)
    alone = compile_problem(replace(problem.inputs, demands=demands))
    found = State(alone)
    _serve(Server(alone, found, server.width), [w for w in alone.wants if w.units], small=True)
    server.admit(urgent)
    device = {view.uuid: i for i, view in enumerate(problem.devices)}
    number = {name: n for n, name in enumerate(problem.functions)}
    wants = {want.demand.key: want for want in urgent}
    for i, function in enumerate(found.target):
        if function != NOBODY:
            state.program(device[alone.devices[i].uuid], number[alone.functions[function]])
    for grants in found.served:
        for grant in grants:
            parts = tuple(
                (device[alone.devices[i].uuid], number[alone.functions[function]], slots)
                for i, function, slots in grant.parts
            )
            host = problem.host[parts[0][0]]
            state.grant(Grant(wants[grant.want.demand.key], host, parts))


def _let_rest(state: State) -> None:
    """From now on, devices that rest are not programmed, unless a boot or a task has them be."""
    problem = state.problem
    for i, device in enumerate(problem.devices):
        if device.resting is not None and state.target[i] == NOBODY:
            problem.may[i] = False


def _plan(problem: Problem, state: State) -> Plan:
    """Write the state down as a plan, in canonical order."""
    promises = _promises(problem, state)
    intents = _intents(problem, state)
    value = sum(want.value[len(state.served[want.number])] for want in problem.wants)
    return Plan(
        intents=intents,
        promises=promises,
        rejected=refused_devices(problem, state),
        unmet=unmet_demands(problem, state),
        value=value,
        cost=sum(intent.cost for intent in intents),
    )


def _promises(problem: Problem, state: State) -> tuple[Promise, ...]:
    """The weightiest unit of each want gets the slots that are there soonest."""
    devices, functions = problem.devices, problem.functions
    rows = []
    for want in problem.wants:
        grants = state.served[want.number]
        if len(grants) > 1:
            grants = sorted(grants, key=lambda grant: _wait(problem, state, grant))
        key = want.demand.key
        for subject, grant in zip(want.demand.subjects, grants, strict=False):
            for i, function, slots in grant.parts:
                rows.append((key, subject, devices[i].uuid, functions[function], slots))
    rows.sort()
    return tuple(Promise(*row) for row in rows)


def _wait(problem: Problem, state: State, grant: Grant) -> tuple[float, tuple[int, ...]]:
    seconds = 0.0
    for i, function, _ in grant.parts:
        if state.target[i] != NOBODY:
            seconds = max(seconds, problem.seconds[function])
        else:
            seconds = max(seconds, problem.devices[i].ready_in)
    return (seconds, tuple(i for i, _, _ in grant.parts))


def _intents(problem: Problem, state: State) -> tuple[Intent, ...]:
    """What each programmed device brings: its share of the units it serves, and its costs.

    Costs that depend on the other intents (spreading, slots of one old function) are told in the
    order of the devices' numbers, so that they add up to the plan's.
    """
    replay = Costs(problem)
    replay.used = state.used
    hurdle = problem.inputs.weights.least_gain
    intents = []
    for i, function in enumerate(state.target):
        if function == NOBODY:
            continue
        device = problem.devices[i]
        cost = replay.price(i, function) - hurdle
        replay.counted(i, 1)
        gain = sum(_share(state, grant) for grant in state.on[i])
        units = sum(1 for _ in state.on[i])
        slots = problem.fits[function][device.model]
        reason = Reason(
            "intent.serves",
            f"{slots} slots of {problem.functions[function]} serve {units} waiting.",
            {"units": units, "slots": slots, "gain": round(gain, 6), "cost": round(cost, 6)},
        )
        intents.append(
            Intent(
                device=device.uuid,
                host=device.host,
                from_function=device.function,
                to_function=problem.functions[function],
                slots=slots,
                gain=gain,
                cost=cost,
                reasons=(reason,),
            )
        )
    intents.sort(key=lambda intent: intent.device)
    return tuple(intents)


def _share(state: State, grant: Grant) -> float:
    """The mean weight of a served unit of the want, shared by the devices programmed for it."""
    served = state.served[grant.want.number]
    programmed = {i for i, _, _ in grant.parts if state.target[i] != NOBODY}
    return grant.want.value[len(served)] / len(served) / len(programmed)
