"""The real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    @contextmanager
    def every(self, seconds: float, action: Callable[[], object]) -> Iterator[None]:
        """In a thread of its own: it goes on while the block waits for a tool or a network."""
        done = threading.Event()

        def run() -> None:
            while not done.wait(seconds):
                action()

        thread = threading.Thread(target=run, name="every", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
