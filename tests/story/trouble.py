"""What a worker may meet at its boundaries: death, and remote services that fail it."""

from __future__ import annotations

from dataclasses import dataclass

from story.world import AFTER, BEFORE, EFFECTS, Worker

from changeover.models.errors import Garbled, OutcomeUnknown, Stale, Unreachable

KINDS = ("unreachable", "lost request", "lost answer", "lost commit", "stale", "garbage")
"""Failures of remote services: see :class:`Trouble`."""

READS = frozenset({
    "placement.providers", "placement.state", "placement.inventories", "placement.usage",
    "placement.candidates", "servers.get", "servers.find", "servers.host_up",
})  # fmt: skip
WRITES = frozenset(call for call in EFFECTS if call.startswith(("placement.", "servers.")))
CAS = frozenset({"placement.put_inventories", "placement.put_traits"})


@dataclass
class Trouble:
    """What a worker is to meet, once: at the boundary that comes after ``skip`` fitting ones.

    ``unreachable``: the call is not made. ``lost request`` and ``lost answer``: a write is not
    answered, and was not done or was done. ``stale``: a compare-and-swap fails. ``garbage``: an
    answer cannot be read. ``crash``: the worker is killed.
    """

    kind: str
    skip: int
    struck: tuple[str, str] | None = None

    def __call__(self, worker: Worker, when: str, call: str) -> None:
        if self.skip < 0 or not self._fits(worker, when, call):
            return
        self.skip -= 1
        if self.skip >= 0:
            return
        self.struck = (when, call)
        if self.kind == "crash":
            if call == "clock.sleep":
                worker.cloud.note_killed_calls()
            worker.die()
        if self.kind in {"unreachable", "lost commit"}:
            raise Unreachable("injected: not reached")
        if self.kind in {"lost request", "lost answer"}:
            raise OutcomeUnknown("injected: no answer")
        if self.kind == "stale":
            raise Stale("injected: stale")
        raise Garbled("injected: garbage")

    def _fits(self, worker: Worker, when: str, call: str) -> bool:
        if self.kind == "crash":
            return call in EFFECTS
        if self.kind == "unreachable":
            return when == BEFORE and call in READS | WRITES
        if self.kind == "lost request":
            return when == BEFORE and call in WRITES
        if self.kind == "lost answer":
            return when == AFTER and call in WRITES
        if self.kind == "lost commit":
            # Before what it announces is sent, if it announces anything.
            sent = worker.trace[-2:-1] == [(BEFORE, "courier.send")]
            return (when, call) == (BEFORE, "courier.send") or (
                (when, call) == (AFTER, "database.write") and not sent
            )
        if self.kind == "stale":
            return when == BEFORE and call in CAS
        return when == BEFORE and call in READS
