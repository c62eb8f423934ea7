"""Trusts that were made for requests: each is taken back once all its boots are over."""

from __future__ import annotations

import structlog

from changeover.models.errors import ChangeoverError
from changeover.worker.world import World

log = structlog.get_logger(__name__)

TRUSTS = "trusts"
"""The lease under which one process at a time takes trusts back."""

AT_ONCE = 50


def withdraw_trusts(world: World) -> int:
    """Take back what nobody needs any more; returns how many.

    One that cannot be taken back now is tried again at the next look: the boots are over all the
    same. Only trusts that Changeover made are known here, not those that owners gave themselves.
    """
    now = world.clock.now()
    with world.database.write() as tx:
        due = tx.leases.due(TRUSTS, now, world.settings.look_seconds)
        spent = tx.boots.trusts_spent(AT_ONCE) if due else []
    withdrawn = 0
    for trust in spent:
        try:
            world.servers.withdraw(trust)
        except ChangeoverError as exc:
            log.warning("trust.not_withdrawn", trust=trust, why=exc.message)
            continue
        with world.database.write() as tx:
            tx.boots.trust_withdrawn(trust, now)
        withdrawn += 1
    return withdrawn
