"""Time that moves only when it is told to."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class VirtualClock:
    """A clock that a test owns: sleeping moves it, and runs what was scheduled meanwhile."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._scheduled: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._lock = threading.RLock()

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move on; what is due is run in its order, each at its own time."""
        if seconds < 0:
            raise ValueError("time does not go back")
        with self._lock:
            target = self._now + seconds
            while self._scheduled and self._scheduled[0][0] <= target:
                at, _, action = heapq.heappop(self._scheduled)
                self._now = max(self._now, at)
                action()  # may sleep or schedule in turn
            self._now = max(self._now, target)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Run ``action`` when the clock comes past that time."""
        with self._lock:
            heapq.heappush(self._scheduled, (self._now + seconds, next(self._order), action))

    @contextmanager
    def every(self, seconds: float, action: Callable[[], object]) -> Iterator[None]:
        """Do ``action`` each time that the clock comes past so many seconds more."""
        running = True

        def run() -> None:
            if running:
                action()
                self.after(seconds, run)

        self.after(seconds, run)
        try:
            yield
        finally:
            running = False
