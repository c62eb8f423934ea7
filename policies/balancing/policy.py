"""What a policy is: a pure decision from the fleet, the news and its own explicit state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from changeover.policies.balancing.fleet import FleetState, News, Program


@dataclass(frozen=True, slots=True)
class Decision:
    """Programs to begin now, in this order, and when to ask again if nothing happens before."""

    programs: Sequence[Program] = ()
    wake_at: float | None = None


class Policy(Protocol):
    """Asked after everything that happened at one time has been applied.

    A policy has no clock, no I/O and no chance but its seed; whatever it remembers it holds itself,
    so that one object serves one run.
    """

    def decide(self, now: float, fleet: FleetState, news: News) -> Decision:
        """Say what to program now."""
        ...


class PolicyFactory(Protocol):
    """Makes the policy of one run over a fleet."""

    def __call__(self, fleet: FleetState, patience: float, seed: int) -> Policy:
        """Make a policy with an empty memory; `patience` is in seconds."""
        ...
