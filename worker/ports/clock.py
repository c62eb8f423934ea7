"""Time as a port, so that tests own it."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall time in seconds since the epoch, UTC, and waiting."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; a virtual clock moves instead."""
        ...
