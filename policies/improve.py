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
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from changeover.policies.gangs import possible
from changeover.policies.greedy import program, use_free
from changeover.policies.problem import NOBODY, Want
from changeover.policies.score import EPSILON, Grant
from changeover.policies.serve import BLINK, Server

COMPETITORS: Final = 6
"""How many waiting wants may compete for what a try takes back."""

SEATS: Final = 3
"""How many units may change places so that one more is served."""

EACH: Final = 100
"""How many looks a device and a function that it could have are worth at most."""

LEAST: Final = 1_000
"""How many looks even the smallest cloud is worth: few tries there miss what one change away is."""

STALL: Final = 3
"""A search stops when this part of its work brought nothing."""

HASTY: Final = 0.15
"""How often a try programs before it uses slots that are there, which may be wanted elsewhere."""

LENIENT: Final = 0.1
"""How far below the best score a search may walk on, at first; in units of score."""

SETTLED: Final = 0.5
"""How often what lost its device is left to find another by itself."""

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
        # Gathering costs little where no gang waits, and is what large gaps to the optimum lack.
        self.moves: tuple[Callable[[Affected], bool], ...] = (
            self._gather,
            self._turn,
            self._claim,
            self._ruin,
            self._drop,
        )
        # What part of the tries each of these makes, added up.
        self.shares = (0.65, 0.80, 0.88, 0.96, 1.0)
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
        self.holders: dict[int, list[int]] = {function: [] for function in self.by_function}
        for i, offer in enumerate(problem.offer):
            if offer in self.suppliers and problem.free[i]:
                self.suppliers[offer].append(i)
                if problem.may[i]:
                    self.holders[offer].append(i)
        for i, function in self.pairs:
            self.suppliers[function].append(i)
            self.holders[function].append(i)

    def run(self, work: int) -> None:
        """Try changes until ``work`` devices were looked at, or a share of it brought nothing."""
        server, state = self.server, self.state
        work = min(work, max(LEAST, EACH * len(self.pairs)))
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

    def _turn(self, affected: Affected) -> bool:
        """Give a device to a unit that waits, whatever it does now; who lost it may do the same."""
        unmet = self._unmet(self.singles)
        if not unmet:
            return False
        want = self.rng.choice(unmet)
        turned = False
        for _ in range(SEATS):
            if not self._seat(want, affected):
                break
            turned = True
            lost = [w for w in self._unmet(affected.values()) if not w.gang and w is not want]
            if not lost or self.rng.random() < SETTLED:
                break
            want = self.rng.choice(lost)
        return turned

    def _seat(self, want: Want, affected: Affected) -> bool:
        """Give one device to ``want``: by another function, or by the one that it had."""
        rng, state, problem = self.rng, self.state, self.problem
        function = rng.choice(want.functions)
        others = (i for i in self.holders[function] if state.offer[i] != function)
        places = self._open_to(want, others)
        if not places:
            return False
        i = rng.choice(places)
        self._eject(i, affected)
        slots = 0 if want.whole else want.slots
        if problem.offer[i] == function:
            host = problem.host[i]
            if state.left[i] >= slots and state.waiting(want) and state.room_at(want, host) > 0:
                state.grant(Grant(want, host, ((i, function, slots),)))
            return True
        self._make_way(i, function, affected)
        if state.allowed(i, function):
            state.program(i, function)
            self.server.fill_up(i, function)
        return True

    def _claim(self, affected: Affected) -> bool:
        """Give slots that others use to a unit that waits; the others may find another place."""
        rng, state = self.rng, self.state
        unmet = self._unmet(self.wants)
        if not unmet:
            return False
        want = rng.choice(unmet)
        if want.gang or want.whole:
            return False
        function = rng.choice(want.functions)
        used = (i for i in self.suppliers[function] if state.offer[i] == function and state.on[i])
        places = self._open_to(want, used)
        if not places:
            return False
        i = rng.choice(places)
        for grant in dict.fromkeys(state.on[i]):
            if grant.want is not want and (state.left[i] < want.slots or rng.choice((False, True))):
                self._revoke(grant, affected, but=i)
        if state.left[i] >= want.slots:
            state.grant(Grant(want, self.problem.host[i], ((i, function, want.slots),)))
            affected[want.number] = want
        elif state.target[i] != NOBODY and not state.on[i]:
            state.unprogram(i)
        return True

    def _gather(self, affected: Affected) -> bool:
        """Clear devices of one host for a gang that waits; a gang that had them may do the same."""
        gangs = self._unmet(self.gangs)
        if not gangs:
            return False
        want = self.rng.choice(gangs)
        mark = len(self.state.log or ())
        for _ in range(SEATS):
            if not self._settle(want, affected):
                self.state.undo(mark)
                return False
            gangs = [w for w in self._unmet(affected.values()) if w.gang and w is not want]
            if not gangs or self.rng.random() < BLINK:
                break
            want = self.rng.choice(gangs)
        return True

    def _settle(self, want: Want, affected: Affected) -> bool:
        """Serve a gang on any one host, whatever stands in its way there."""
        rng, state, server = self.rng, self.state, self.server
        hosts = [host for host in server.gang_hosts(want) if state.room_at(want, host) > 0]
        if not hosts:
            return False
        host = rng.choice(hosts)
        needs = server.ways(want, host)
        if not all(ways for _, ways in needs):
            return False
        for slots, ways in needs:
            if not possible(state, host, slots, ways):
                self._eject(rng.choice(ways)[0], affected)
        if state.total_left <= 0:
            self._eject_one_of(self._programmed(), affected)
        option = server.gang_at(want, host)
        if option is None:
            # Two needs may have counted on one device.
            self._eject_one_of([i for _, ways in needs for i, _, _ in ways], affected)
            option = server.gang_at(want, host)
        if option is not None:
            server.carry_out(option)
        return option is not None

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
        alike: list[object]
        alike = rng.choice((problem.host, problem.model, state.offer))  # type: ignore[arg-type]
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
        for function in want.functions:
            for i in self.suppliers[function]:
                if (
                    i in seen
                    or state.offer[i] != function
                    or not state.on[i]
                    or (want.named is not None and i not in want.named)
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

    def _open_to(self, want: Want, devices: Iterable[int]) -> list[int]:
        """Those that ``want`` may have, whatever they do now."""
        named, host, room_at = want.named, self.problem.host, self.state.room_at
        return [i for i in devices if (named is None or i in named) and room_at(want, host[i]) > 0]

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
