"""Choose which devices to program, for a whole batch of demand at once.

First every unit that free slots can serve gets them: that boot need only be tried again. Then
devices are programmed one after the other, always where a device brings most, counting all
waiting units that its slots would serve. Floors and forecasts come after everything else and
never take what a boot needs. Pure and deterministic: equal inputs give equal plans, in whatever
order they are listed.
"""

from __future__ import annotations

import gc
from typing import Final

from changeover.models.planning import Intent, Plan, PlanInputs, Promise
from changeover.models.reasons import Reason
from changeover.policies.greedy import program, prune, use_free
from changeover.policies.improve import Improver
from changeover.policies.prefer import prefer
from changeover.policies.problem import NOBODY, Problem, compile_problem
from changeover.policies.refuse import refused_devices, unmet_demands
from changeover.policies.score import Costs, Grant, State
from changeover.policies.serve import Server

WIDTH: Final = 16
"""How many devices of a model, and how many hosts, are compared for one unit, on small clouds."""

SMALL: Final = 400
"""Up to this many devices, ``WIDTH`` are compared; on larger clouds, the first that fits."""

EFFORT: Final = 5_000
"""How many devices the local search may look at."""


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
    tiers = [tier for low in (False, True) if (tier := [w for w in wants if w.low == low])]
    for tier in tiers:
        if tier[0].low:
            _let_rest(state)
        server.admit(tier)
        use_free(server, tier)
        program(server, tier)
        if small:
            Improver(server).run(EFFORT // len(tiers))
    prefer(state)
    prune(state)
    return _plan(problem, state)


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
