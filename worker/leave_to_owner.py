"""Leave to the owner: slots were made for a boot, and whoever owns it boots again by himself.

Reserved slots would be closed to the owner as to everybody else. So they are opened, but kept:
for a stated time no changeover takes the device away, and the planner counts them as promised.
"""

from __future__ import annotations

from changeover.models.boot import Boot
from changeover.models.keep import Keep
from changeover.models.reasons import Reason
from changeover.models.states import BootState
from changeover.policies.callback import CAPACITY_MADE
from changeover.worker.holds import devices_of, open_slots
from changeover.worker.queues import JUDGE, PLAN_QUEUE
from changeover.worker.world import World


def leave_to_owner(world: World, boot: Boot, why: str) -> Boot:
    """End a leased boot that is ready: its owner is told, and may boot as soon as he is.

    ``why`` says in words why it is not created here.

    Raises :class:`~changeover.models.errors.Stale` or
    :class:`~changeover.models.errors.Retry` if the slots cannot be opened now; until they are,
    the boot stays ready and its promises protect them.
    """
    with world.database.write() as tx:
        tx.boots.unhold(boot.id)
        promises = tx.boots.promises(boot=boot.id)
    devices = {device.provider: device for device in devices_of(world, promises)}
    for device in devices.values():
        open_slots(world, device)
    with world.database.write() as tx:
        now = world.clock.now()
        until = now + world.settings.keep_seconds
        for promise in promises:
            if promise.device not in devices:
                continue
            device = devices[promise.device]
            keep = Keep(
                subject=boot.id,
                device=device.provider,
                kind="owner",
                slots=promise.slots,
                until=until,
                project=boot.project,
                flavor=boot.name,
                host=device.host,
            )
            tx.keeps.put(keep)
        text = (
            f"its slots are free now, and its owner may boot again; it is not created here: {why}"
        )
        facts = {"kept_until": until} if promises else {}
        reason = Reason(CAPACITY_MADE, text, facts)
        left = tx.boots.move(boot, BootState.DECLINED, now, reason=reason)
        if tx.boots.wake(now):
            tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)
        return left
