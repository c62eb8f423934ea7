"""The first choice for a batch: always the step that brings most, never looking back."""

from __future__ import annotations

from heapq import heappop, heappush

from changeover.policies.problem import NOBODY, Want
from changeover.policies.score import EPSILON, State
from changeover.policies.serve import Server


def use_free(server: Server, wants: list[Want]) -> None:
    """Serve by free slots, the weightiest unit first."""
    state = server.state
    spare = {want.number: server.spare(want) for want in wants}
    order = sorted(
        want.density(k) for want in wants for k in range(len(state.served[want.number]), want.units)
    )
    for _, _, number in order:
        grants = spare.get(number)
        if grants is not None:
            grant = next(grants, None)
            if grant is None:
                del spare[number]
            else:
                state.grant(grant)


def program(server: Server, wants: list[Want]) -> None:
    """Program where one device brings most, until nothing is worth its cost.

    What a step brings hardly ever grows as others are taken, so a stale gain is a bound: only the
    want that seems best is looked at again.
    """
    state = server.state
    heap = [(float("-inf"), want.number, -1, want) for want in wants if state.waiting(want) > 0]
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


def prune(state: State) -> None:
    """Take back every changeover that brings nothing in the finished choice.

    Costs that grow with company (spreading, slots of one old function) can make one worthless
    that paid when it was chosen.
    """
    again = True
    while again:
        again = False
        for i, function in enumerate(state.target):
            if function != NOBODY and state.marginal(i) <= EPSILON:
                for grant in dict.fromkeys(state.on[i]):
                    state.revoke(grant)
                state.unprogram(i)
                again = True
