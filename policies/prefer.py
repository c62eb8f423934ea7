"""Preferred traits: looked at last, among devices that serve as well.

They never decide who is served, and never cause a changeover: a unit moves to a device that has
more of what it prefers where that has the slots too, or can be programmed in the other's place
for hardly more.
"""

from __future__ import annotations

from typing import Final

from changeover.policies.problem import NOBODY, Want
from changeover.policies.rank import liking
from changeover.policies.score import Grant, State

BEARABLE: Final = 0.05
"""What a device with preferred traits may cost more than the one chosen, in waiting boots."""


def prefer(state: State) -> None:
    """Move units to devices that they prefer."""
    having: dict[frozenset[str], list[int]] = {}
    devices = state.problem.devices
    for want in state.problem.wants:
        if not want.preferred or want.gang:
            continue
        if want.preferred not in having:
            liked = [i for i, device in enumerate(devices) if device.traits & want.preferred]
            liked.sort(key=lambda i: (-liking(devices[i].traits, want.preferred), i))
            having[want.preferred] = liked
        for grant in list(state.served[want.number]):
            if grant in state.served[want.number]:
                _move(state, grant, having[want.preferred])


def _move(state: State, grant: Grant, liked: list[int]) -> None:
    """Move one unit, and where its device is to be programmed, all that it serves."""
    devices = state.problem.devices
    preferred = grant.want.preferred
    ((i, function, slots),) = grant.parts
    has = liking(devices[i].traits, preferred)
    for k in liked:
        if liking(devices[k].traits, preferred) <= has:
            return
        if state.target[i] != NOBODY:
            if _reprogram(state, i, k, function):
                return
        elif (
            state.offer[k] == function
            and state.target[k] == NOBODY
            and devices[k].ready_in <= devices[i].ready_in
            and _takes(state, grant.want, i, k)
            and (not state.serves(k, grant.want) if grant.want.whole else state.left[k] >= slots)
        ):
            state.revoke(grant)
            state.grant(Grant(grant.want, state.problem.host[k], ((k, function, slots),)))
            return


def _takes(state: State, want: Want, i: int, k: int) -> bool:
    """Whether a unit of ``want`` on ``i`` could be on ``k``, as far as host and name go."""
    host = state.problem.host
    if want.named is not None and k not in want.named:
        return False
    return host[i] == host[k] or state.room_at(want, host[k]) > 0


def _reprogram(state: State, i: int, k: int, function: int) -> bool:
    """Program ``k`` in the place of ``i``, if it may be and costs hardly more."""
    problem = state.problem
    grants = list(state.on[i])
    if (
        not state.idle(k)
        or problem.model[k] != problem.model[i]
        or problem.offer[k] == function
        or (problem.host[i] != problem.host[k] and state.host_left[problem.host[k]] <= 0)
        or any(grant.want.gang for grant in grants)
    ):
        return False
    cost = state.cost
    state.log = []
    for grant in grants:
        state.revoke(grant)
    state.unprogram(i)
    state.program(k, function)
    moved = True
    for grant in grants:
        moved = moved and _takes(state, grant.want, i, k)
        if moved:
            ((_, _, slots),) = grant.parts
            state.grant(Grant(grant.want, problem.host[k], ((k, function, slots),)))
    if not moved or state.cost > cost + BEARABLE or state.marginal(k) <= 0:
        state.undo(0)
        moved = False
    state.log = None
    return moved
