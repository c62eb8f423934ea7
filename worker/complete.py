"""Complete: a failure that was told without its request is asked for at Nova."""

from __future__ import annotations

import structlog

from changeover.models.errors import AskOperator, Garbled, Refuse, Reread, Retry
from changeover.models.reasons import Reason
from changeover.models.states import BootState
from changeover.policies.request import request_of_spec
from changeover.worker.world import World

log = structlog.get_logger(__name__)

LATER_SECONDS = 10.0
"""How soon Nova is asked again; the others are judged meanwhile."""


def complete(world: World) -> int:
    """Fill in the requests that are missing; returns how many.

    Nova may send no request spec. A boot whose server is gone is cancelled; one of which Nova tells
    nothing now, as its API or the server's cell does not answer, is looked at a little later.
    """
    with world.database.read() as tx:
        received = tx.boots.in_states([BootState.RECEIVED], wake_before=world.clock.now())
        silent = [(b, b.server) for b in received if not b.request.groups and b.server is not None]
    completed = 0
    for boot, server in silent:
        try:
            spec = world.servers.asked(server)
            asked = None if spec is None else request_of_spec(spec, world.settings.request_filters)
        except (Retry, Garbled, AskOperator) as exc:
            log.warning("complete.nova_silent", boot=boot.id, why=exc.message)
            with world.database.write() as tx:
                tx.boots.put_off(boot, world.clock.now() + LATER_SECONDS)
            continue
        except Refuse as exc:
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
