"""A deployment's own past as a recorded workload: what its servers asked for, and its devices.

Nothing is known of how long a server would have held its devices that never got any, or still
holds them: those are taken to last as long as the middle one of their function, or as long as
they have lasted so far.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from changeover.models.errors import NotFound
from changeover.models.workload import RecordedBoot, RecordedFleet
from changeover.policies.offer import slots_of
from changeover.worker.history import functions_of
from changeover.worker.world import World

MOST = 2_000_000
"""Servers that are read at most."""

HELD = 3600.0
"""Seconds for which a slot is taken to be held where no server of a function has ended yet."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The workload and the fleet; ``began`` is second 0, since the epoch."""

    boots: tuple[RecordedBoot, ...]
    fleet: RecordedFleet
    began: float
    program_seconds: float


def recorded(world: World, days: float) -> Recorded:
    """What was recorded in the last ``days``. Raises :class:`NotFound` if nothing was."""
    now = world.clock.now()
    since = now - days * 86_400.0
    with world.database.read() as tx:
        servers = tx.demand.recorded(since, MOST)
        kinds = tx.demand.kinds()
    wanted = functions_of(world, kinds)
    held: dict[str, list[float]] = defaultdict(list)
    for server in servers:
        if server.placed_at is not None and server.ended_at is not None:
            for name, _ in wanted.get(server.kind, ()):
                held[name].append(server.ended_at - server.placed_at)
    boots = []
    for server in servers:
        for name, slots in wanted.get(server.kind, ()):
            usual = median(held[name]) if held[name] else HELD
            lasted = 0.0 if server.placed_at is None else now - server.placed_at
            seconds = max(usual, lasted)
            if server.placed_at is not None and server.ended_at is not None:
                seconds = server.ended_at - server.placed_at
            arrival = server.arrived_at - since
            if arrival <= 0:
                if server.placed_at is None:
                    continue  # it had no place when the recording began
                seconds = max(0.0, seconds + server.placed_at - since)
            boots.append(RecordedBoot(max(0.0, arrival), max(0.0, seconds), name, slots))
    if not boots:
        raise NotFound(
            f"no server that asked for devices was recorded in the last {days:g} day(s): "
            "the listener records them while `changeover up` runs"
        )
    expected = [function.seconds for function in world.catalog.functions.values()]
    return Recorded(
        boots=tuple(sorted(boots, key=lambda boot: boot.arrival)),
        fleet=fleet_of(world),
        began=since,
        program_seconds=median(expected) + world.settings.settle_seconds,
    )


def fleet_of(world: World) -> RecordedFleet:
    """The devices of the catalog that may be programmed, with the slots that each would yield."""
    catalog = world.catalog
    functions = tuple(sorted(catalog.functions))
    devices = [device for device in catalog.devices if not device.pinned]
    return RecordedFleet(
        devices=tuple(device.name for device in devices),
        functions=functions,
        slots=tuple(
            tuple(
                slots_of(catalog.functions[name], catalog.models[device.model])
                if device.model in catalog.functions[name].fits
                else 0
                for name in functions
            )
            for device in devices
        ),
    )
