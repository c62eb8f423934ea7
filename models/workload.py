"""Recorded workloads: what boots asked for and when, and the fleet that was there to serve them.

The file formats are those of the journal checker (`tests/tools/check_journal.py`). Everything
here is a value or a pure parser over lines; opening files is the caller's business.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from changeover.models.errors import Invalid


class WorkloadError(Invalid):
    """A recorded workload or fleet that cannot be read; the message names the row."""


@dataclass(frozen=True, slots=True)
class RecordedBoot:
    """One server that was asked for: `slots` slots of `function`, all at once."""

    arrival: float
    """Seconds since the recording began; 0 or less marks a resident."""
    duration: float
    """Seconds from start to end. Known to the engine only, never to a policy."""
    function: str
    slots: int


@dataclass(frozen=True, slots=True)
class RecordedFleet:
    """The devices of a backtest and the slots that each would yield for each function."""

    devices: tuple[str, ...]
    functions: tuple[str, ...]
    slots: tuple[tuple[int, ...], ...]
    """`slots[device][function]`; 0 where the device cannot be programmed with the function."""


def parse_events(lines: Iterable[str]) -> tuple[RecordedBoot, ...]:
    """Read an events file; boots come back by arrival, equal times in order of the file."""
    boots = []
    for number, row in enumerate(csv.DictReader(lines), 2):
        try:
            boot = RecordedBoot(
                float(row["arrival_s"]),
                float(row["duration_s"]),
                row["function"],
                int(row["slots"]),
            )
        except KeyError as error:
            raise WorkloadError(f"events, line {number}: no column {error}") from error
        except (TypeError, ValueError) as error:
            raise WorkloadError(f"events, line {number}: {error!r}") from error
        if boot.slots < 1 or boot.duration < 0:
            raise WorkloadError(f"events, line {number}: slots and duration must be positive")
        boots.append(boot)
    return tuple(sorted(boots, key=lambda boot: boot.arrival))


def parse_fleet(lines: Iterable[str]) -> RecordedFleet:
    """Read a fleet file: a row for each device, a column for each function, empty where unfit."""
    reader = csv.DictReader(lines)
    functions = tuple(name for name in reader.fieldnames or () if name != "device")
    devices: list[str] = []
    slots: list[tuple[int, ...]] = []
    for number, row in enumerate(reader, 2):
        try:
            devices.append(row["device"])
            slots.append(tuple(_count(row, name) for name in functions))
        except KeyError as error:
            raise WorkloadError(f"fleet, line {number}: no column {error}") from error
        except (TypeError, ValueError) as error:
            raise WorkloadError(f"fleet, line {number}: {error!r}") from error
    if len(set(devices)) != len(devices):
        raise WorkloadError("fleet: a device is listed twice")
    return RecordedFleet(tuple(devices), functions, tuple(slots))


def _count(row: Mapping[str, str], name: str) -> int:
    return int(row[name]) if row[name] != "" else 0
