"""What operators do by hand: serve boots one by one, each by some idle device.

All three obey budgets, hosts and models, and use free slots first, as a person would. They differ
only in the device that they take: the first by name, any, or one of the function that is asked
for least.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from changeover.models.planning import DeviceView, Intent, Plan, PlanInputs, Promise
from changeover.policies.gangs import ways_at
from changeover.policies.problem import NOBODY, Want, compile_problem
from changeover.policies.score import Grant, State

Rank = Callable[[DeviceView], Any]


def first_by_name(inputs: PlanInputs) -> Plan:
    """The idle device whose name comes first."""
    return _one_by_one(inputs, lambda device: device.name)


def random_idle(inputs: PlanInputs, rng: Random) -> Plan:
    """Any idle device."""
    order = {device.uuid: rng.random() for device in inputs.devices}
    return _one_by_one(inputs, lambda device: order[device.uuid])


def least_demand(inputs: PlanInputs) -> Plan:
    """The idle device whose function fewest units of this batch ask for."""
    asked = Counter(
        name
        for demand in inputs.demands
        for need in demand.needs
        for name in need.functions
        for _ in demand.weights
    )
    return _one_by_one(inputs, lambda d: (asked[d.function or ""], d.name))


def _one_by_one(inputs: PlanInputs, rank: Rank) -> Plan:
    problem = compile_problem(inputs)
    state = State(problem)
    order = sorted(range(len(problem.devices)), key=lambda i: rank(problem.devices[i]))
    position = {i: k for k, i in enumerate(order)}
    for want in sorted(problem.wants, key=lambda want: (want.low, want.demand.key)):
        while state.waiting(want) > 0 and _serve(state, want, position):
            pass
    return _plan(state)


def _serve(state: State, want: Want, position: dict[int, int]) -> bool:
    """Serve one unit on the host whose devices come first, need after need."""
    problem = state.problem
    hosts: dict[int, None] = dict.fromkeys(problem.host[i] for i in position)
    for programming in (False, True):
        for host in hosts:
            if state.room_at(want, host) > 0:
                placed = _on_host(state, want, host, position, programming=programming)
                if placed is not None:
                    programs, parts = placed
                    for i, function in programs:
                        state.program(i, function)
                    state.grant(Grant(want, host, parts))
                    return True
    return False


def _on_host(
    state: State, want: Want, host: int, position: dict[int, int], *, programming: bool
) -> tuple[list[tuple[int, int]], tuple[tuple[int, int, int], ...]] | None:
    problem = state.problem
    taken: Counter[int] = Counter()
    target: dict[int, int] = {}
    parts: list[tuple[int, int, int]] = []
    needs = [(0, _whole_ways(state, want, host))] if want.whole else ways_at(problem, want, host)
    for slots, ways in needs:
        for i, function, after in sorted(ways, key=lambda way: position[way[0]]):
            if target.get(i, state.offer[i]) == function:
                slots_of = after if i in target else state.left[i]
                if slots_of - taken[i] < slots or (want.whole and state.serves(i, want)):
                    continue
            elif (
                programming
                and after
                and i not in target
                and not taken[i]
                and state.idle(i)
                and state.total_left > len(target)
                and state.host_left[host] > len(target)
                and state.function_left[function] > sum(f == function for f in target.values())
            ):
                target[i] = function
            else:
                continue
            taken[i] += slots
            parts.append((i, function, slots))
            break
        else:
            return None
    return list(target.items()), tuple(parts)


def _whole_ways(state: State, want: Want, host: int) -> list[tuple[int, int, int]]:
    problem = state.problem
    return [
        (i, function, problem.fits[function].get(problem.model[i], 0) if problem.may[i] else 0)
        for i in problem.at[host]
        if want.named is None or i in want.named
        for function in want.functions
    ]


def _plan(state: State) -> Plan:
    problem = state.problem
    intents = tuple(
        Intent(
            device=device.uuid,
            host=device.host,
            from_function=device.function,
            to_function=problem.functions[state.target[i]],
            slots=problem.fits[state.target[i]][device.model],
            gain=0.0,
            cost=0.0,
            reasons=(),
        )
        for i, device in enumerate(problem.devices)
        if state.target[i] != NOBODY
    )
    promises = tuple(
        Promise(
            demand=want.demand.key,
            subject=subject,
            device=problem.devices[i].uuid,
            function=problem.functions[function],
            slots=slots,
        )
        for want in problem.wants
        for subject, grant in zip(want.demand.subjects, state.served[want.number], strict=False)
        for i, function, slots in grant.parts
    )
    return Plan(intents, promises, (), ())
