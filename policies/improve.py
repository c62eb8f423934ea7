"""Make a choice better by taking parts of it back and choosing them anew.

The greedy choice never looks back: a device that two functions fit may have gone to the one that
had others. Each try ejects a few units, serves what was ejected and what waits again, overlooking
some devices at random, and is kept unless the score is worse: ways to a better choice often lead
over equal ones, or a little below. The best one is what remains. Tries are drawn from a seeded
generator and limited by counted work, never by a clock: equal inputs give equal plans on any
machine.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Final

from changeover.policies.gangs import Way, place_gang, possible
from changeover.policies.greedy import program, use_free
from changeover.policies.problem import NOBODY, Want
from changeover.policies.score import EPSILON, Grant, State
from changeover.policies.serve import Server

COMPETITORS: Final = 6
"""How many waiting wants may compete for what a try takes back."""

SEATS: Final = 3
"""How many units may change places, one after the other, so that one more is served."""

STALL: Final = 7
"""A search stops when this part of its work brought nothing."""

HASTY: Final = 0.15
"""How often a try programs before it uses slots that are there, which may be wanted elsewhere."""

LENIENT: Final = 0.1
"""How far below the best score a search may walk on, at first; in units of score."""

SETTLED: Final = 0.3
"""How often what lost its place is left to find another by itself."""

CLAIMED: Final = 0.5
"""How often more of a device is claimed than a unit needs."""

GANGS: Final = 0.8
"""How often a gang that waits is placed by force, rather than another unit."""

FORCED: Final = 0.2
"""How often a gang's need gets any device, though one could be had: the cheapest may be wanted."""

Seat = tuple[int, int]
"""A device, and a function that it offers or could be programmed with."""

Affected = dict[int, Want]
"""The wants, by number, that a try took something from or lets compete."""


class Improver:
    """Tries changes to a finished choice, and keeps what is no worse."""

    def __init__(self, server: Server) -> None:
        problem, wants = server.problem, server.wants
        self.server = server
        self.state = server.state
        self.problem = problem
        self.wants = wants
        self.rng = Random(problem.inputs.seed)  # noqa: S311 - repeatable tries, no secret
        self.gangs = [want for want in wants if want.gang]
        self.singles = [want for want in wants if not want.gang]
        self.moves: tuple[Callable[[Affected], bool], ...] = (
            self._push,
            self._ruin,
            self._drop,
        )
        # What part of the tries each of these makes, added up.
        self.shares = (0.88, 0.96, 1.0)
        self.by_function: dict[int, list[Want]] = {}
        for want in wants:
            for functions, _ in want.needs:
                for function in functions:
                    self.by_function.setdefault(function, []).append(want)
        self.turnable = [i for i, may in enumerate(problem.may) if may]
        self.pairs = [
            (i, function)
            for i in self.turnable
            for function in problem.useful[problem.model[i]]
            if function != problem.offer[i] and function in self.by_function
        ]
        self.suppliers: dict[int, list[int]] = {function: [] for function in self.by_function}
        for i, offer in enumerate(problem.offer):
            if offer in self.suppliers and problem.free[i]:
                self.suppliers[offer].append(i)
        for i, function in self.pairs:
            self.suppliers[function].append(i)
        self.seats: dict[int, list[Seat]] = {}
        self.hosts: dict[int, list[int]] = {}
        self.blank: State | None = None

    def run(self, work: int) -> None:
        """Try changes until ``work`` devices were looked at, or a share of it brought nothing."""
        server, state = self.server, self.state
        if not self.pairs:
            return
        # The log reaches back to the best choice, which is what remains in the end.
        state.log = []
        server.blink = self.rng
        server.relist()
        moves, shares, draw = self.moves, self.shares, self.rng.random
        best, urgent = state.score, state.urgent
        low = any(want.low for want in self.wants)
        start = server.work
        patience = start + work // STALL
        while server.work < min(start + work, patience):
            server.work += 1
            mark, score = len(state.log), state.score
            affected: Affected = {}
            if moves[bisect(shares, draw())](affected):
                wants = list(affected.values())
                if draw() < HASTY:
                    program(server, wants)
                use_free(server, wants)
                self._reseat_all(wants)
                program(server, wants)
            floor = best - LENIENT * (1 - (server.work - start) / work)
            if state.score < min(score, floor) - EPSILON or (
                low and state.urgent < urgent - EPSILON
            ):
                state.undo(mark)
            elif state.score > best + EPSILON:
                best = state.score
                state.log.clear()
                patience = server.work + work // STALL
        state.undo(0)
        server.blink = None
        state.log = None

    # Moves. Each says whether it changed anything.

    def _push(self, affected: Affected) -> bool:
        """Serve a unit that waits, whatever is in its way; who lost a place to it may do the same.

        Gangs come first: placing one costs little, and is what large gaps to the optimum lack.
        """
        rng = self.rng
        unmet = self._unmet(self.gangs) if rng.random() < GANGS else []
        unmet = unmet or self._unmet(self.singles)
        while unmet:
            want = rng.choice(unmet)
            if self._place(want, affected):
                break
            unmet.remove(want)
        else:
            return False
        for _ in range(SEATS - 1):
            lost = [other for other in self._unmet(affected.values()) if other is not want]
            if not lost or rng.random() < SETTLED:
                break
            want = rng.choice(lost)
            if not self._place(want, affected):
                break
        return True

    def _place(self, want: Want, affected: Affected) -> bool:
        """Serve one unit by force, if there is a place where that could be."""
        self.server.work += 1
        mark = len(self.state.log or ())
        placed = self._settle(want, affected) if want.gang else self._seat(want, affected)
        if not placed:
            self.state.undo(mark)
        return placed

    def _seat(self, want: Want, affected: Affected) -> bool:
        """Give one device to ``want``: by another function, or slots that others have there."""
        rng, state, problem = self.rng, self.state, self.problem
        host, offer, on = problem.host, state.offer, state.on
        seats = [
            (i, function)
            for i, function in self._seats(want)
            if (offer[i] != function or (on[i] and on[i][0].want is not want))
            and state.room_at(want, host[i]) > 0
        ]
        if not seats:
            return False
        i, function = rng.choice(seats)
        slots = 0 if want.whole else want.slots
        if offer[i] == function:
            for grant in dict.fromkeys(on[i]):
                if grant.want is not want and (state.left[i] < slots or rng.random() < CLAIMED):
                    self._revoke(grant, affected, but=i)
        else:
            self._eject(i, affected)
            if problem.offer[i] != function:
                self._make_way(i, function, affected)
                if state.allowed(i, function):
                    state.program(i, function)
        if (
            offer[i] == function
            and state.left[i] >= slots
            and state.room_at(want, host[i]) > 0
            and not (want.whole and state.serves(i, want))
        ):
            state.grant(Grant(want, host[i], ((i, function, slots),)))
        self._use(i)
        return True

    def _settle(self, want: Want, affected: Affected) -> bool:
        """Serve a gang on any one host, whatever stands in its way there."""
        rng, state, server = self.rng, self.state, self.server
        hosts = [host for host in self._hosts(want) if state.room_at(want, host) > 0]
        if not hosts:
            return False
        host = rng.choice(hosts)
        needs = server.ways(want, host)
        forced = self._clear(host, needs, affected)
        option = server.gang_at(want, host)
        if option is None:
            # Two needs may have counted on one device.
            self._eject_one_of([i for _, ways in needs for i, _, _ in ways], affected)
            option = server.gang_at(want, host)
        if option is None:
            return False
        server.carry_out(option)
        for i in forced:
            self._use(i)
        return True

    def _clear(
        self, host: int, needs: list[tuple[int, list[Way]]], affected: Affected
    ) -> list[int]:
        """Let each need have a device of ``host``; those that were programmed for that."""
        rng, state = self.rng, self.state
        forced = []
        for slots, ways in needs:
            if rng.random() >= FORCED and possible(state, host, slots, ways):
                continue
            i, function, after = rng.choice(ways)
            if after and state.offer[i] == function:
                continue
            self._eject(i, affected)
            if after:
                self._make_way(i, function, affected)
                if state.allowed(i, function):
                    state.program(i, function)
                    forced.append(i)
        if state.total_left <= 0:
            self._eject_one_of(self._programmed(), affected)
        return forced

    def _use(self, i: int) -> None:
        """Let waiting units take what a device is programmed for, or take that back."""
        state = self.state
        if state.target[i] != NOBODY:
            self.server.fill_up(i, state.target[i])
            if not state.on[i]:
                state.unprogram(i)

    def _drop(self, affected: Affected) -> bool:
        """Do without one of the devices."""
        return self._eject_one_of(self._programmed(), affected)

    def _ruin(self, affected: Affected) -> bool:
        """Take back some neighbours, and let some of what waits compete for them."""
        rng, state, problem = self.rng, self.state, self.problem
        busy = [i for i in self.turnable if state.on[i]]
        if not busy:
            return False
        anchor = rng.choice(busy)
        kinds: tuple[Sequence[object], ...] = (problem.host, problem.model, state.offer)
        alike = rng.choice(kinds)
        near = [i for i in busy if alike[i] == alike[anchor]]
        chosen = dict.fromkeys((anchor, *rng.sample(near, min(len(near), rng.randint(1, 3)))))
        for i in chosen:
            self._eject(i, affected)
        unmet = {
            want.number: want
            for i in chosen
            for function in problem.useful[problem.model[i]]
            for want in self.by_function.get(function, ())
            if want.number not in affected and state.waiting(want) > 0
        }
        for number in rng.sample(list(unmet), min(len(unmet), COMPETITORS)):
            affected[number] = unmet[number]
        return True

    def _reseat_all(self, wants: list[Want]) -> None:
        for want in wants:
            if not (want.gang or want.whole):
                while self.state.waiting(want) > 0 and self._reseat(want, SEATS, set()):
                    pass

    def _reseat(self, want: Want, depth: int, seen: set[int]) -> bool:
        """Serve a unit by slots whose holder can take free ones elsewhere, or have another moved.

        An augmenting path, as in matching: nobody loses anything, one more is served.
        """
        state, host = self.state, self.problem.host
        for i, function in self._seats(want):
            if (
                i in seen
                or state.offer[i] != function
                or not state.on[i]
                or state.room_at(want, host[i]) <= 0
            ):
                continue
            seen.add(i)
            self.server.work += 1
            for grant in dict.fromkeys(state.on[i]):
                other = grant.want
                if (
                    other is want
                    or other.gang
                    or other.whole
                    or state.left[i] + other.slots < want.slots
                ):
                    continue
                mine = Grant(want, host[i], ((i, function, want.slots),))
                state.revoke(grant)
                state.grant(mine)
                seat = next(self.server.spare(other), None)
                if seat is not None:
                    state.grant(seat)
                    return True
                if depth > 1 and self._reseat(other, depth - 1, seen):
                    return True
                state.revoke(mine)
                state.grant(grant)
        return False

    def _hosts(self, want: Want) -> list[int]:
        """The hosts where a gang could be if nothing else were served."""
        hosts = self.hosts.get(want.number)
        if hosts is None:
            if self.blank is None:
                self.blank = State(self.problem)
            ways = self.server.ways
            hosts = self.hosts[want.number] = [
                host
                for host in self.server.gang_hosts(want)
                if place_gang(self.blank, want, host, ways(want, host)) is not None
            ]
        return hosts

    def _seats(self, want: Want) -> list[Seat]:
        """What could ever serve one unit of ``want`` alone, full hosts and budgets aside."""
        seats = self.seats.get(want.number)
        if seats is None:
            problem, named, hosts = self.problem, want.named, want.hosts
            host, offer, model, useful = problem.host, problem.offer, problem.model, problem.useful
            seats = self.seats[want.number] = [
                (i, function)
                for function in want.functions
                for i in self.suppliers[function]
                if (named is None or i in named)
                and (hosts is None or hosts.get(host[i], 0) > 0)
                and want.slots
                <= (problem.free[i] if offer[i] == function else useful[model[i]][function])
            ]
        return seats

    def _unmet(self, wants: Iterable[Want]) -> list[Want]:
        waiting = self.state.waiting
        return [want for want in wants if waiting(want) > 0]

    # Taking back.

    def _programmed(self) -> list[int]:
        target = self.state.target
        return [i for i in self.turnable if target[i] != NOBODY]

    def _make_way(self, i: int, function: int, affected: Affected) -> None:
        """Where a budget is spent, take back another changeover that counts towards it."""
        state, host = self.state, self.problem.host
        if state.host_left[host[i]] <= 0:
            mates = [k for k in self._programmed() if host[k] == host[i]]
            self._eject_one_of(mates, affected)
        if state.function_left[function] <= 0:
            mates = [k for k in self._programmed() if state.target[k] == function]
            self._eject_one_of(mates, affected)
        if state.total_left <= 0:
            self._eject_one_of(self._programmed(), affected)

    def _eject_one_of(self, devices: list[int], affected: Affected) -> bool:
        if not devices:
            return False
        self._eject(self.rng.choice(devices), affected)
        return True

    def _eject(self, i: int, affected: Affected) -> None:
        """Take back what is promised of ``i``, and the changeovers that nobody needs then."""
        for grant in dict.fromkeys(self.state.on[i]):
            self._revoke(grant, affected)
        if self.state.target[i] != NOBODY:
            self.state.unprogram(i)

    def _revoke(self, grant: Grant, affected: Affected, but: int = NOBODY) -> None:
        """Take back one unit, and the changeovers that nobody needs then, save that of ``but``."""
        state = self.state
        state.revoke(grant)
        affected[grant.want.number] = grant.want
        for i in dict.fromkeys(part[0] for part in grant.parts):
            if i != but and state.target[i] != NOBODY and not state.on[i]:
                state.unprogram(i)
