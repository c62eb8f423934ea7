"""Renewed: a lease that lasts for as long as its work does, and no longer than its process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from changeover.models.errors import Retry
from changeover.worker.store import Tx
from changeover.worker.world import World

log = structlog.get_logger(__name__)


@contextmanager
def renewed(
    world: World, seconds: float, renew: Callable[[Tx, float], object], failed: str
) -> Iterator[None]:
    """Renew a lease of so many seconds while the block runs.

    ``renew`` is told until when it is to last. ``failed`` is logged where the database does
    not answer: then the next turn tries again.
    """

    def turn() -> None:
        try:
            with world.database.write() as tx:
                renew(tx, world.clock.now() + seconds)
        except Retry as exc:
            log.warning(failed, why=exc.message)

    with world.clock.every(seconds / 3.0, turn):
        yield
