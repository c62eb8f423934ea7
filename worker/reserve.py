"""Reserve: read the leases, and have devices ready when they start.

The leases are stored as they were read: while the reservation service does not answer, what is
known of them counts. What was made for a lease is kept for it until it has begun.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import structlog

from changeover.models.errors import ChangeoverError
from changeover.models.keep import Keep
from changeover.models.planning import DemandClass, Promise
from changeover.models.reasons import Reason
from changeover.models.reservation import ReservationRecord
from changeover.models.states import CHANGEOVER_MOVING
from changeover.policies.reservations import Lead, Wanted, wanted
from changeover.worker.ports.reservations import Reservations
from changeover.worker.store import Tx
from changeover.worker.world import World

log = structlog.get_logger(__name__)

DEMAND = "lease:"
"""What the keys of such demand begin with."""


def reserve(world: World, service: Reservations) -> bool:
    """Read the leases and look after what is kept for them; whether a round should plan now."""
    now = world.clock.now()
    try:
        found = service.upcoming(now)
    except ChangeoverError as exc:
        log.warning("reserve.service_silent", why=exc.message)
        found = None
    with world.database.write() as tx:
        if found is not None:
            gone, changed = tx.reservations.sync(found, now)
            for one in (*gone, *changed):
                # A lease that moved or shrank is looked at anew; what still fits is kept again.
                tx.keeps.drop(one)
            if gone:
                tx.boots.wake(now)
        due = False
        for record in tx.reservations.all():
            due |= _look(world, tx, record, now)
        return due


def _lead(world: World) -> Lead:
    settings = world.settings
    return Lead(settings.settle_seconds, settings.reservation_margin_seconds, settings.keep_seconds)


def _look(world: World, tx: Tx, record: ReservationRecord, now: float) -> bool:
    """Drop what is not of use any more, and say how things are; whether units are missing."""
    want = wanted(record.reservation, world.catalog, _lead(world))
    if isinstance(want, Reason):
        tx.reservations.explain(record.id, want)
        return False
    if not want.is_due(now):
        tx.keeps.drop(record.id)
        over = now >= want.until
        text = (
            "it has begun: its slots are not kept any more"
            if over
            else f"changeovers for it begin {want.due_at - now:.0f} s from now"
        )
        code = "reservation.begun" if over else "reservation.not_yet"
        tx.reservations.explain(record.id, Reason(code, text, {"due_at": want.due_at}))
        return False
    _drop_lost(tx, record, want)
    ready = _units(want, tx.keeps.standing(now, subject=record.id))
    if ready >= want.units:
        text = f"devices for all {want.units} unit(s) are ready or under way"
        tx.reservations.explain(record.id, Reason("reservation.ready", text))
    return ready < want.units


def _drop_lost(tx: Tx, record: ReservationRecord, want: Wanted) -> None:
    """Keeps on devices that neither offer what is wanted nor are becoming it."""
    functions = {name for need in want.needs for name in need.functions}
    live = {c.device: c for c in tx.changeovers.live()}
    for keep in tx.keeps.standing(0.0, subject=record.id):
        device, changeover = tx.devices.get(keep.device), live.get(keep.device)
        moving = changeover is not None and changeover.state in CHANGEOVER_MOVING
        offers = changeover.to_function if changeover is not None and moving else None
        if offers is None and changeover is None and device is not None:
            offers = device.function
        if offers not in functions:
            tx.keeps.drop(record.id, keep.device)


def _units(want: Wanted, keeps: Iterable[Keep]) -> int:
    """How many units the kept slots serve."""
    slots = sum(keep.slots for keep in keeps)
    return slots // max(1, sum(need.slots for need in want.needs))


def lease_demands(world: World, tx: Tx, now: float) -> list[DemandClass]:
    """What leases that are due still lack."""
    demands = []
    for record in tx.reservations.all():
        want = wanted(record.reservation, world.catalog, _lead(world))
        if isinstance(want, Reason) or not want.is_due(now):
            continue
        missing = want.units - _units(want, tx.keeps.standing(now, subject=record.id))
        if missing > 0:
            demands.append(
                DemandClass(
                    key=f"{DEMAND}{record.id}",
                    kind="lease" if want.is_near(now) else "early-lease",
                    needs=want.needs,
                    weights=(want.weight(now),) * missing,
                    subjects=tuple(f"{record.id}/{place}" for place in range(missing)),
                )
            )
    return demands


def answer_leases(
    world: World,
    tx: Tx,
    promises: Iterable[Promise],
    there: Mapping[str, bool],
    unmet: Mapping[str, Reason],
    now: float,
) -> None:
    """Keep what a plan gives to leases, and say what it does not.

    ``there``: by device, whether its slots are free now or coming; the others wait for a person.
    """
    given: dict[str, Counter[str]] = {}
    waits: set[str] = set()
    for promise in promises:
        if promise.demand.startswith(DEMAND):
            one = promise.demand.removeprefix(DEMAND)
            if there.get(promise.device, False):
                given.setdefault(one, Counter())[promise.device] += promise.slots
            else:
                waits.add(one)
    for record in tx.reservations.all():
        want = wanted(record.reservation, world.catalog, _lead(world))
        if isinstance(want, Reason):
            continue
        for device, slots in given.get(record.id, Counter()).items():
            before = sum(k.slots for k in tx.keeps.standing(now, device=device, subject=record.id))
            keep = Keep(
                subject=record.id,
                device=device,
                kind="lease",
                slots=before + slots,
                until=want.until,
                project=record.reservation.project,
                flavor="",
                host=world.device(device).host,
            )
            tx.keeps.put(keep)
        why = unmet.get(f"{DEMAND}{record.id}")
        if record.id in given:
            text = f"{sum(given[record.id].values())} slot(s) are kept or being made for it"
            tx.reservations.explain(record.id, Reason("reservation.served", text))
        elif record.id in waits:
            text = "a plan would help, but waits for a person: see `changeover plans`"
            tx.reservations.explain(record.id, Reason("reservation.waits", text))
        elif why is not None:
            tx.reservations.explain(record.id, why)
