"""Make a choice better by taking parts of it back and choosing them anew.

The greedy choice never looks back: a device that two functions fit may have gone to the one that
had others. Each try ejects a few units, serves what was ejected and what waits again, overlooking
some devices at random, and is kept unless the score is worse: ways to a better choice often lead
over equal ones. Tries are drawn from a seeded generator and limited by counted work, never by a
clock: equal inputs give equal plans on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from changeover.policies.gangs import Option
from changeover.policies.greedy import program, use_free
from changeover.policies.problem import NOBODY, Want
from changeover.policies.score import EPSILON, Grant
from changeover.policies.serve import Server

COMPETITORS: Final = 6
"""How many waiting wants may compete for what a try takes back."""

Affected = dict[int, Want]
"""The wants, by number, that a try took something from or lets compete."""


class Improver:
    """Tries changes to a finished choice among ``wants``, and keeps what is no worse."""

    def __init__(self, server: Server, wants: list[Want]) -> None:
        problem = server.problem
        self.server = server
        self.state = server.state
        self.problem = problem
        self.wants = wants
        self.rng = Random(problem.inputs.seed)  # noqa: S311 - repeatable tries, no secret
        self.moves: tuple[tuple[Callable[[Affected], bool], float], ...] = (
            (self._turn, 0.40),
            (self._gather, 0.15),
            (self._claim, 0.15),
            (self._drop, 0.05),
            (self._ruin, 0.25),
        )
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

    def run(self, work: int) -> None:
        """Try changes until ``work`` devices were looked at."""
        server, state = self.server, self.state
        if not self.pairs:
            return
        end = server.work + work
        state.log = []
        server.blink = self.rng
        moves, shares = zip(*self.moves, strict=True)
        while server.work < end:
            server.work += 1
            score, urgent = state.score, state.urgent
            state.log.clear()
            affected: Affected = {}
            (move,) = self.rng.choices(moves, shares)
            if move(affected):
                wants = list(affected.values())
                use_free(server, wants)
                program(server, wants)
            if state.score < score - EPSILON or state.urgent < urgent - EPSILON:
                state.undo(0)
        server.blink = None
        state.log = None

    # Moves. Each says whether it changed anything.

    def _turn(self, affected: Affected) -> bool:
        """Give one device another function that is waited for, whatever it does now."""
        state, server = self.state, self.server
        i, function = self.rng.choice(self.pairs)
        if state.target[i] == function:
            return False
        if not server.fill(i, function, self.problem.fits[function][self.problem.model[i]]):
            return False
        self._eject(i, affected)
        self._make_way(i, function, affected)
        if state.allowed(i, function):
            state.program(i, function)
            server.fill_up(i, function)
        return True

    def _claim(self, affected: Affected) -> bool:
        """Give slots that others use to a unit that waits; the others may find another place."""
        rng, state, host = self.rng, self.state, self.problem.host
        unmet = [want for want in self.wants if state.waiting(want) > 0]
        if not unmet:
            return False
        want = rng.choice(unmet)
        if want.gang or want.whole:
            return False
        function = rng.choice(want.functions)
        places = [
            i
            for i in self.suppliers[function]
            if state.offer[i] == function
            and state.on[i]
            and (want.named is None or i in want.named)
            and state.room_at(want, host[i]) > 0
        ]
        if not places:
            return False
        i = rng.choice(places)
        for grant in dict.fromkeys(state.on[i]):
            if grant.want is not want and (state.left[i] < want.slots or rng.random() < 0.5):
                self._revoke(grant, affected, but=i)
        if state.left[i] >= want.slots:
            state.grant(Grant(want, host[i], ((i, function, want.slots),)))
            affected[want.number] = want
        elif state.target[i] != NOBODY and not state.on[i]:
            state.unprogram(i)
        return True

    def _gather(self, affected: Affected) -> bool:
        """Clear some devices of one host for a gang that waits."""
        rng, state, server = self.rng, self.state, self.server
        gangs = [want for want in self.wants if want.gang and state.waiting(want) > 0]
        if not gangs:
            return False
        want = rng.choice(gangs)
        hosts = [host for host in server.gang_hosts(want) if state.room_at(want, host) > 0]
        if not hosts:
            return False
        host = rng.choice(hosts)
        for _, ways in server.ways(want, host):
            if ways and rng.random() < 0.7:  # noqa: PLR2004 - most needs, not always all
                self._eject(rng.choice(ways)[0], affected)
        if state.total_left <= 0:
            self._eject_one_of(self._programmed(), affected)
        option: Option | None = server.gang_at(want, host)
        if option is not None:
            server.carry_out(option)
        return True

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

    # Taking back.

    def _programmed(self) -> list[int]:
        target = self.state.target
        return [i for i in self.turnable if target[i] != NOBODY]

    def _make_way(self, i: int, function: int, affected: Affected) -> None:
        """Where a budget is spent, take back another changeover that counts towards it."""
        state, host = self.state, self.problem.host
        if state.left_at(host[i]) <= 0:
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
