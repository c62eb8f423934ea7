"""Programming a device: the one act that cannot be undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from changeover.models.catalog import Device, Function

Entitled = Callable[[], bool]


def always() -> bool:
    """Whoever calls may send: for callers that nobody can take over from."""
    return True


class Outcome(StrEnum):
    """How a call to program a device ended, as far as the caller can know."""

    PROGRAMMED = "programmed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SUPERSEDED = "superseded"
    """Nothing was sent: by the time that the device was free, the caller was entitled no more."""


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """The outcome, and what the tool said (at most 2,000 characters, no secrets)."""

    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """A device read back through its driver; ``None`` means that the driver cannot know.

    ``function`` is the name of the loaded function, ``""`` for an empty device. ``busy`` says
    whether a programming call can still be running on it; ``users`` who uses it, as the driver
    sees it (guests, processes), empty for nobody.
    """

    readable: bool
    function: str | None = None
    busy: bool | None = None
    users: tuple[str, ...] | None = None


class Programmer(Protocol):
    """A driver. ``drain_seconds``: how long after it was sent a call may still be running.

    ``on_host``: the tool must run on the device's own host, hence on that host's queue.
    ``report_seconds``: a reading may be so old, as somebody else reports it; 0 if the device
    itself is read. Then what is read proves nothing before a report can have come.
    """

    drain_seconds: float
    on_host: bool
    report_seconds: float

    def stage(self, device: Device, function: Function) -> None:
        """Fetch and check the artifact ahead of programming. ``Refuse`` if it is not as described.

        ``AskOperator`` if the device is not; ``Unreachable`` if that cannot be known now.
        """
        ...

    def program(
        self, device: Device, function: Function, token: str, entitled: Entitled = always
    ) -> ProgramResult:
        """Program ``device`` with ``function``; blocks until it is known or given up.

        ``entitled`` is asked last, when the device's lock is held and before anything is sent: a
        caller that was paused for longer than its lease must not send what another has taken
        over meanwhile. A driver without a lock asks right before it sends.

        ``token`` names this call (changeover and attempt) in the device's own journal, where it
        has one. Never raises for what the tool does: that is a result. Raises ``Busy`` if an
        earlier call holds the device, ``Unreachable`` if its service does not answer, and
        ``AskOperator`` if that lets nobody in: then nothing was sent.
        """
        ...

    def read(self, device: Device) -> Reading:
        """What the device itself says. An unreadable device is a reading, not an error."""
        ...
