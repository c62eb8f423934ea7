"""Absorb: a failed server may be the successor of a boot that did not know it yet.

The failure of a successor can be told before its create call was answered, or after a worker was
killed between the two. Its marker says whose it is; were it taken for a boot of its own, one
owner's server would be created twice.
"""

from __future__ import annotations

import structlog

from changeover.models.boot import Boot
from changeover.models.errors import ChangeoverError, Reread
from changeover.models.reasons import Reason
from changeover.models.states import BootState
from changeover.worker.ports.servers import MARKER
from changeover.worker.queues import BOOT_QUEUE, REBOOT
from changeover.worker.world import World

log = structlog.get_logger(__name__)


def absorb(world: World) -> int:
    """End boots that are another boot's successor; returns how many."""
    with world.database.read() as tx:
        received = tx.boots.in_states([BootState.RECEIVED])
        fresh = [(b, b.server) for b in received if b.server is not None]
        creating = {b.project for b in tx.boots.in_states([BootState.CREATING])}
        owners = {b.id: tx.boots.of_successor(server) for b, server in fresh}
    absorbed = 0
    for boot, server in fresh:
        owner = owners[boot.id]
        # Only while a create of the same project is unanswered may a marker say what no row does.
        owner_id = owner.id if owner is not None else None
        if owner_id is None and boot.project in creating:
            owner_id = _by_marker(world, server)
        if owner_id is not None and owner_id != boot.id:
            absorbed += _end(world, boot, owner_id)
    return absorbed


def _by_marker(world: World, uuid: str) -> str | None:
    try:
        server = world.servers.get(uuid)
    except ChangeoverError as exc:
        log.warning("absorb.servers_silent", why=exc.message)
        return None
    marker = None if server is None else server.metadata.get(MARKER)
    return marker.partition(".")[0] if marker else None


def _end(world: World, boot: Boot, owner_id: str) -> int:
    reason = Reason(
        "boot.absorbed", f"its server is the successor of boot {owner_id}", {"boot": owner_id}
    )
    with world.database.write() as tx:
        now = world.clock.now()
        if tx.boots.get(owner_id) is None:
            return 0
        try:
            tx.boots.move(boot, BootState.CANCELLED, now, reason=reason)
        except Reread:
            return 0
        tx.hints.add(REBOOT, owner_id, queue=BOOT_QUEUE, now=now)
    log.info("boot.absorbed", boot=boot.id, into=owner_id)
    return 1
