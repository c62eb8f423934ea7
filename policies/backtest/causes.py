"""Why boots failed at their first try: what was there at that moment, and what could be known.

Three of the causes are out of reach for a policy without foresight: no device was idle; the boot
came on the heels of another failure of its function, before any program could be ready; nobody
had asked for the function for a day (or ever). The rest is what a better forecast could still
win.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from changeover.policies.backtest.score import Score
from changeover.policies.balancing.fleet import FleetState, News
from changeover.policies.balancing.history import DAY
from changeover.policies.balancing.policy import Decision, Policy, PolicyFactory


class Cause(StrEnum):
    """What stood in the way of one failed boot."""

    FULL = "no idle device"
    FOLLOWER = "followed a failure of its function sooner than a program takes"
    COLD = "function not asked for within a day"
    OTHER = "function asked for within a day, a device was idle"


class Watched:
    """A policy together with a note of the cause of every first-try failure it saw."""

    def __init__(self, policy: Policy) -> None:
        """Watch the policy; its decisions are passed on untouched."""
        self._policy = policy
        self._asked: dict[int, float] = {}
        self._failed: dict[int, float] = {}
        self.causes: dict[int, Cause] = {}

    def decide(self, now: float, fleet: FleetState, news: News) -> Decision:
        """Note, then decide."""
        for arrival in news.arrivals:
            function = arrival.function
            if arrival.failed:
                self.causes[arrival.boot] = self._cause(now, function, fleet)
                self._failed[function] = now
            self._asked[function] = now
        return self._policy.decide(now, fleet, news)

    def _cause(self, now: float, function: int, fleet: FleetState) -> Cause:
        if now - self._failed.get(function, -DAY) <= fleet.program_seconds:
            return Cause.FOLLOWER
        if not any(True for _ in fleet.idle()):
            return Cause.FULL
        return Cause.COLD if now - self._asked.get(function, -2 * DAY) > DAY else Cause.OTHER


def watching(make: PolicyFactory, into: list[Watched]) -> PolicyFactory:
    """The same policies, each watched and put into the list."""

    def build(fleet: FleetState, patience: float, seed: int) -> Policy:
        into.append(Watched(make(fleet, patience, seed)))
        return into[-1]

    return build


def failure_shares(score: Score, causes: Mapping[int, Cause]) -> dict[Cause, float]:
    """Share of the scored boots that failed at first try for each cause."""
    counts = Counter(causes[boot.boot] for boot in score.boots if boot.boot in causes)
    return {cause: counts[cause] / max(1, score.scored) for cause in Cause}
