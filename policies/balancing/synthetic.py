"""A seeded generator of workloads: drifting Zipf popularity, daily waves, batches, gangs.

Made for tests and sanity checks; a policy that is only good here proves little.
"""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from changeover.models.workload import RecordedBoot, RecordedFleet
from changeover.policies.balancing.history import DAY


@dataclass(frozen=True, slots=True)
class SyntheticWorkload:
    """What to generate."""

    days: float = 3.0
    functions: int = 12
    devices: int = 10
    bursts_per_day: float = 300.0
    zipf: float = 1.1
    """Exponent of popularity over rank."""
    drift_days: float = 1.0
    """After so many days two functions change places in popularity."""
    wave: float = 0.8
    """Depth of the daily wave, 0 (flat) to 1."""
    batch: float = 0.25
    """Chance that a burst has a further boot, again and again (geometric)."""
    gang: float = 0.05
    """Chance that a boot asks for two slots."""
    residents: int = 2
    median_seconds: float = 1800.0
    """Median duration; durations are lognormal with sigma 1."""
    slots: tuple[int, ...] = (1, 2, 4)
    """Slots that a device yields, by function in turn."""


def generate(shape: SyntheticWorkload, seed: int) -> tuple[tuple[RecordedBoot, ...], RecordedFleet]:
    """Generate boots sorted by arrival, and a fleet of one model."""
    chance = random.Random(seed)  # noqa: S311 - a seeded workload, no secret
    names = [f"fn{i:02d}" for i in range(shape.functions)]
    popularity = [1 / (rank + 1) ** shape.zipf for rank in range(shape.functions)]
    boots = [_boot(chance, shape, 0.0, chance.choice(names)) for _ in range(shape.residents)]
    now, next_drift = 0.0, shape.drift_days * DAY
    peak = shape.bursts_per_day / DAY * (1 + shape.wave)
    while True:
        # Thinning (Lewis and Shedler 1979): propose at the peak rate, keep by the wave.
        now += chance.expovariate(peak)
        if now >= shape.days * DAY:
            break
        if now >= next_drift:
            next_drift += shape.drift_days * DAY
            a, b = chance.randrange(shape.functions), chance.randrange(shape.functions)
            popularity[a], popularity[b] = popularity[b], popularity[a]
        level = (1 - shape.wave * math.cos(2 * math.pi * now / DAY)) / (1 + shape.wave)
        if chance.random() > level:
            continue
        name = chance.choices(names, popularity)[0]
        at = round(now, 1)
        boots.append(_boot(chance, shape, at, name))
        while chance.random() < shape.batch:
            at = round(at + chance.expovariate(1 / 10), 1)
            boots.append(_boot(chance, shape, at, name))
    row = tuple(shape.slots[i % len(shape.slots)] for i in range(shape.functions))
    devices = tuple(f"d{i:03d}" for i in range(shape.devices))
    fleet = RecordedFleet(devices, tuple(names), (row,) * shape.devices)
    return tuple(sorted(boots, key=lambda boot: boot.arrival)), fleet


def _boot(chance: random.Random, shape: SyntheticWorkload, at: float, name: str) -> RecordedBoot:
    duration = round(chance.lognormvariate(math.log(shape.median_seconds), 1.0), 1)
    return RecordedBoot(at, duration, name, 2 if chance.random() < shape.gang else 1)


def events_csv(boots: Sequence[RecordedBoot]) -> str:
    """The events file of these boots."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arrival_s", "duration_s", "function", "slots", "project", "priority"])
    for boot in boots:
        writer.writerow([boot.arrival, boot.duration, boot.function, boot.slots, "p0", 1])
    return text.getvalue()


def fleet_csv(fleet: RecordedFleet) -> str:
    """The fleet file of this fleet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["device", *fleet.functions])
    for device, row in zip(fleet.devices, fleet.slots, strict=True):
        writer.writerow([device, *(count or "" for count in row)])
    return text.getvalue()
