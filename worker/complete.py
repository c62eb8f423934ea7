"""Complete: a failure that was told without its request is asked for at Nova."""

from __future__ import annotations

import structlog

from changeover.models.errors import AskOperator, Refuse, Reread
from changeover.models.reasons import Reason
from changeover.models.states import BootState
from changeover.policies.request import request_of_spec
from changeover.worker.world import World

log = structlog.get_logger(__name__)


def complete(world: World) -> int:
    """Fill in the requests that are missing; returns how many.

    Nova may send no request spec. Raises :class:`~changeover.models.errors.Retry` if its API
    cannot be reached: then nothing is judged yet. A boot whose server is gone is cancelled.
    """
    with world.database.read() as tx:
        received = tx.boots.in_states([BootState.RECEIVED])
        silent = [(b, b.server) for b in received if not b.request.groups and b.server is not None]
    completed = 0
    for boot, server in silent:
        try:
            spec = world.servers.asked(server)
            asked = None if spec is None else request_of_spec(spec, world.settings.request_filters)
        except (Refuse, AskOperator) as exc:
            log.warning("complete.not_told", boot=boot.id, why=exc.message)
            continue
        with world.database.write() as tx:
            try:
                if asked is None:
                    gone = Reason("boot.owner_deleted", "its owner deleted the failed server")
                    tx.boots.move(boot, BootState.CANCELLED, world.clock.now(), reason=gone)
                else:
                    tx.boots.describe(boot, asked.request, asked.device_profile)
                    completed += 1
            except Reread as exc:
                log.info("complete.boot_moved", boot=boot.id, why=exc.message)
    return completed
