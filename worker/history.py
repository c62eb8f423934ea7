"""History: all demand is learnt from once, by whoever balances, and an outlook is made from it.

Intake and boots only record who asked and who left (``tx.demand``). Here is the one place where
the history learns: rows that were not counted are marked and learnt from in one transaction, so
that each counts once whatever is killed, delivered twice, or done by several workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import Any

import structlog

from changeover.models.demand import RecordedServer, RequestKind
from changeover.models.errors import ChangeoverError
from changeover.policies.balancing.history import DAY, DemandHistory
from changeover.policies.balancing.outlook import Prior, Prospect, outlook
from changeover.policies.offer import slots_of
from changeover.policies.understand import understand
from changeover.worker.requested import with_groups
from changeover.worker.store import Tx
from changeover.worker.store.demand import ids_of
from changeover.worker.world import World

log = structlog.get_logger(__name__)

AT_ONCE = 5000
"""Arrivals and ends learnt in one transaction."""

STALE = 3600.0
"""Seconds after which an outlook says nothing about now."""

Wanted = Mapping[str, tuple[tuple[str, int], ...]]
"""By kind of request: the functions that it asks for, each with its slots."""


def learn(world: World) -> int:
    """Learn from all demand recorded since, and make the outlook anew; returns how much."""
    learnt = 0
    while True:
        with world.database.read() as tx:
            arrivals, ends = tx.demand.uncounted(AT_ONCE)
            kinds = tx.demand.kinds() if arrivals or ends else {}
        wanted = functions_of(world, kinds)
        with world.database.write() as tx:
            learnt += _learn(world, tx, arrivals, ends, wanted)
        if len(arrivals) < AT_ONCE and len(ends) < AT_ONCE:
            return learnt


def functions_of(world: World, kinds: Mapping[str, RequestKind]) -> Wanted:
    """The functions that each kind of request asks for; none where the catalog has none."""
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for key, kind in kinds.items():
        try:
            request = with_groups(world, kind.request, kind.device_profile).request
        except ChangeoverError as exc:
            log.warning("history.kind_unknown", kind=key, why=exc.message)
            continue
        made = []
        for need in understand(request, world.catalog).needs:
            # Where any of several will do, that which it prefers; else the first, always the same.
            likes = request.preferred
            best = max(
                need.functions,
                key=lambda name: len(likes.intersection(world.catalog.functions[name].traits)),
            )
            made.append((best, need.slots))
        found[key] = tuple(made)
    return found


def _learn(
    world: World,
    tx: Tx,
    arrivals: list[RecordedServer],
    ends: list[RecordedServer],
    wanted: Wanted,
) -> int:
    now = world.clock.now()
    new, gone = tx.demand.count(ids_of(arrivals), ids_of(ends))
    state, _, _ = tx.demand.history()
    history = restored(world, state)
    number = {name: i for i, name in enumerate(history.functions)}
    in_use = history.in_use.copy()
    told = [(s.arrived_at, 0, s) for s in arrivals if s.id in new]
    told += [(s.ended_at or now, 1, s) for s in ends if s.id in gone]
    for at, ended, server in sorted(told, key=lambda one: (one[0], one[1], one[2].id)):
        for name, slots in wanted.get(server.kind, ()):
            i = number[name]
            if not ended:
                history.observe(at, i, slots)
            elif server.placed_at is None:
                continue  # given up: it held nothing
            elif server.failed:
                # It was placed later than it asked: its use is counted at its end, at once.
                history.use_seconds[i] += slots * max(0.0, at - server.placed_at)
            if not server.failed:
                in_use[i] = max(0.0, in_use[i] + (-slots if ended else slots))
            history.account(at, [int(n) for n in in_use], [(i, slots)] if ended else [])
    history.advance(now)
    history.learn()
    made = outlook(history, priors_of(world), most_of(world))
    pools = {name: world.catalog.pool(name) for name in made}
    seen = {
        "began": history.began if history.began is not None else now,
        "functions": {name: prospect.as_json() for name, prospect in made.items()},
        "pools": {name: {"mode": p.mode, "floor": p.min_free} for name, p in pools.items()},
        "window": history.burst_window,
    }
    tx.demand.learnt(history.to_dict(), seen, now)
    return len(new) + len(gone)


def restored(world: World, state: dict[str, Any] | None) -> DemandHistory:
    """The history as it was stored; functions that left the catalog are forgotten."""
    functions = sorted(world.catalog.functions)
    seconds = [world.catalog.functions[name].seconds for name in functions]
    window = median(seconds) + world.settings.settle_seconds if seconds else 60.0
    history = DemandHistory(functions, window)
    if state is not None:
        history.restore(state)
    return history


def priors_of(world: World) -> dict[str, Prior]:
    """What the catalog expects, where it says so."""
    return {
        function.name: Prior(function.expected.arrivals_a_day / DAY, function.expected.burst_slots)
        for function in world.catalog.functions.values()
        if function.expected is not None
    }


def most_of(world: World) -> dict[str, int]:
    """Slots of each function if all devices that it fits had it: more cannot be wanted."""
    models = Counter(device.model for device in world.catalog.devices)
    return {
        function.name: sum(
            models[name] * slots_of(function, world.catalog.models[name]) for name in function.fits
        )
        for function in world.catalog.functions.values()
    }


def prospects(world: World, tx: Tx, now: float) -> dict[str, Prospect]:
    """The outlook as it was made last; nothing while too little was seen, or long not looked."""
    stored, at = tx.demand.outlook()
    if not stored or now - at > STALE:
        return {}
    young = now - float(stored["began"]) < world.settings.forecast_after_seconds
    made = {name: Prospect.from_json(data) for name, data in stored["functions"].items()}
    return {
        name: prospect
        for name, prospect in made.items()
        if name in world.catalog.functions and (not young or prospect.prior > 0)
    }
