"""Choose which devices to program, for a whole batch of demand at once.

First every unit that free slots can serve gets them: that boot need only be tried again. Then
devices are programmed one after the other, always where a device brings most, counting all
waiting units that its slots would serve. Floors and forecasts come after everything else and
never take what a boot needs. Pure and deterministic: equal inputs give equal plans, in whatever
order they are listed.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from changeover.models.planning import Intent, Plan, PlanInputs, Promise
from changeover.models.reasons import Reason
from changeover.policies.problem import NOBODY, Problem, Want, compile_problem
from changeover.policies.refuse import refused_devices, unmet_demands
from changeover.policies.score import Grant, State
from changeover.policies.serve import EPSILON, Server, density_of

WIDTH: Final = 4
"""How many devices of a model, and how many hosts, are compared for one unit."""


def choose(inputs: PlanInputs) -> Plan:
    """Choose what to program and who is served by what."""
    problem = compile_problem(inputs)
    state = State(problem)
    server = Server(problem, state, WIDTH)
    wants = [want for want in problem.wants if want.units and want.needs]
    for low in (False, True):
        tier = [want for want in wants if want.low == low]
        server.admit(tier)
        _use_what_is_free(server, tier)
        _program(server, tier)
    return _plan(problem, state)


def _use_what_is_free(server: Server, wants: list[Want]) -> None:
    """Serve by free slots, the weightiest unit first."""
    heap = [(density_of(want), want.number, want) for want in wants]
    heapify(heap)
    while heap:
        _, number, want = heappop(heap)
        option = server.spare(want)
        if option is None:
            continue
        server.state.grant(option.grant)
        if server.state.waiting(want):
            _, places, _ = density_of(want)
            served = len(server.state.served[number])
            slots = sum(slots for _, slots in want.needs)
            heappush(heap, ((-want.weights[served] / slots, places, number), number, want))


def _program(server: Server, wants: list[Want]) -> None:
    """Program where one device brings most, until nothing is worth its cost."""
    state = server.state
    heap = [(float("-inf"), want.number, -1, want) for want in wants if state.waiting(want)]
    heapify(heap)
    changes = 0
    while heap:
        _, number, seen, want = heappop(heap)
        if not state.waiting(want):
            continue
        option = server.option(want)
        if option is None or option.gain <= EPSILON:
            continue
        if seen != changes and heap and -option.density > heap[0][0] + EPSILON:
            heappush(heap, (-option.density, number, changes, want))
            continue
        server.carry_out(option)
        changes += 1
        heappush(heap, (-option.density, number, -1, want))


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
    promises = []
    for want in problem.wants:
        grants = sorted(state.served[want.number], key=lambda grant: _wait(problem, state, grant))
        for subject, grant in zip(want.demand.subjects, grants, strict=False):
            for i, function, slots in grant.parts:
                promises.append(
                    Promise(
                        demand=want.demand.key,
                        subject=subject,
                        device=problem.devices[i].uuid,
                        function=problem.functions[function],
                        slots=slots,
                    )
                )
    promises.sort(key=lambda p: (p.demand, p.subject, p.device, p.function, p.slots))
    return tuple(promises)


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
    replay = State(problem)
    for want in problem.wants:
        for grant in state.served[want.number]:
            if all(state.target[i] == NOBODY for i, _, _ in grant.parts):
                replay.grant(grant)
    hurdle = problem.inputs.weights.least_gain
    intents = []
    for i, function in enumerate(state.target):
        if function == NOBODY:
            continue
        device = problem.devices[i]
        cost = replay.price(i, function) - hurdle
        replay.program(i, function)
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
