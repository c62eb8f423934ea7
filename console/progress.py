"""How far a long backtest is, for a person at a terminal; nobody else is told."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from changeover.console.render import Output
from changeover.policies.balancing.history import DAY

if TYPE_CHECKING:
    from changeover.models.workload import RecordedBoot
    from changeover.policies.balancing.fleet import FleetState, News
    from changeover.policies.balancing.policy import Decision, Policy, PolicyFactory

Follow = Callable[[str, "PolicyFactory"], "PolicyFactory"]
"""Takes a policy's name and its factory; the same policies, each followed by a bar."""

Tell = Callable[[float], None]
"""Is told the virtual time that a run has come to."""

EVERY = 256
"""Decisions between two looks at the time: a bar must cost a run nothing that can be felt."""


@contextmanager
def progress(out: Output, boots: Sequence[RecordedBoot]) -> Iterator[Follow]:
    """Bars on standard error while it is open, one a policy, by virtual time and boots come.

    Nothing is shown, and policies are left alone, with JSON or where standard error is no
    terminal.
    """
    if out.as_json or not sys.stderr.isatty():
        yield lambda _, make: make
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[come]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    last = max((boot.arrival for boot in boots), default=0.0)

    def follow(name: str, make: PolicyFactory) -> PolicyFactory:
        bar = bars.add_task(name, total=last or 1.0, come="")

        def tell(now: float) -> None:
            come = bisect_right(boots, now, key=lambda boot: boot.arrival)
            said = (
                f"day {min(now, last) / DAY:.1f} of {last / DAY:.1f}, {come} of {len(boots)} boots"
            )
            bars.update(bar, completed=min(now, last), come=said)

        return lambda fleet, patience, seed: _Followed(make(fleet, patience, seed), tell)

    with bars:
        yield follow


class _Followed:
    """A policy whose decisions are passed on untouched."""

    def __init__(self, policy: Policy, tell: Tell) -> None:
        self._policy = policy
        self._tell = tell
        self._asked = 0

    def decide(self, now: float, fleet: FleetState, news: News) -> Decision:
        """Tell how far it is now and then, and decide."""
        if self._asked % EVERY == 0:
            self._tell(now)
        self._asked += 1
        return self._policy.decide(now, fleet, news)
