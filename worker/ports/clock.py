"""Time as a port, so that tests own it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol


class Clock(Protocol):
    """Wall time in seconds since the epoch, UTC, and waiting."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; a virtual clock moves instead."""
        ...

    def every(self, seconds: float, action: Callable[[], object]) -> AbstractContextManager[None]:
        """Do ``action`` regularly in the background, for as long as the block runs."""
        ...
