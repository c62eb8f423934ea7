"""Recorded workloads: what boots asked for and when, and the fleet that was there to serve them.

The file formats are those of the journal checker (`tests/tools/check_journal.py`). Everything
here is a value or a pure parser over lines; opening files is the caller's business.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
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

    def most(self, function: str) -> int:
        """The slots that all devices together would yield for a function; 0 for one unknown."""
        if function not in self.functions:
            return 0
        column = self.functions.index(function)
        return sum(row[column] for row in self.slots)


MOST_SLOTS = 1_000_000
"""Of one device or boot: what is more is no number of slots."""

_EVENT_COLUMNS = ("arrival_s", "duration_s", "function", "slots")


def parse_events(lines: Iterable[str]) -> tuple[RecordedBoot, ...]:
    """Read an events file; boots come back by arrival, equal times in order of the file.

    Raises :class:`WorkloadError` where a column is missing, and for a row that is no boot.
    """
    boots = [_boot(row) for row in _rows("events", csv.DictReader(lines), _EVENT_COLUMNS)]
    return tuple(sorted(boots, key=lambda boot: boot.arrival))


def parse_fleet(lines: Iterable[str]) -> RecordedFleet:
    """Read a fleet file: a row for each device, a column for each function, empty where unfit.

    Raises :class:`WorkloadError` for a row that is no device, for names that are listed twice,
    and where there is no device or no function.
    """
    reader = csv.DictReader(lines)
    functions = tuple(name for name in reader.fieldnames or () if name != "device")
    devices: list[str] = []
    slots: list[tuple[int, ...]] = []
    for row in _rows("fleet", reader, ("device",)):
        devices.append(row.text("device"))
        slots.append(tuple(row.count(name) if row.has(name) else 0 for name in functions))
    for what, names in (("device", devices), ("function", functions)):
        if not names:
            raise WorkloadError(f"fleet: there is no {what}")
        if len(set(names)) != len(names):
            raise WorkloadError(f"fleet: a {what} is listed twice")
    return RecordedFleet(tuple(devices), functions, tuple(slots))


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a file. Raises :class:`WorkloadError` that names line and column."""

    place: str
    values: Mapping[str, str | None]

    def has(self, column: str) -> bool:
        return self.values[column] != ""

    def text(self, column: str) -> str:
        value = self.values[column]
        if not value:
            raise WorkloadError(f"{self.place}: nothing in column {column!r}")
        return value

    def seconds(self, column: str) -> float:
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise WorkloadError(f"{self.place}: {column} is no time in seconds: {text!r}")
        return value

    def count(self, column: str) -> int:
        text = self.text(column)
        try:
            value = int(text)
        except ValueError:
            value = -1
        if not 0 <= value <= MOST_SLOTS:
            raise WorkloadError(f"{self.place}: {column} is no number of slots: {text!r}")
        return value


def _rows(what: str, reader: csv.DictReader[str], columns: Iterable[str]) -> Iterator[_Row]:
    try:
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise WorkloadError(f"{what}: the first line lacks the column {missing[0]!r}")
        if twice := [name for name in columns if (reader.fieldnames or []).count(name) > 1]:
            raise WorkloadError(f"{what}: the first line has the column {twice[0]!r} twice")
        for values in reader:
            row = _Row(f"{what}, line {reader.line_num}", values)
            if None in values:
                raise WorkloadError(f"{row.place}: more values than columns")
            yield row
    except csv.Error as error:
        raise WorkloadError(f"{what}, line {reader.line_num}: {error}") from error


def _boot(row: _Row) -> RecordedBoot:
    boot = RecordedBoot(
        arrival=row.seconds("arrival_s"),
        duration=row.seconds("duration_s"),
        function=row.text("function"),
        slots=row.count("slots"),
    )
    if boot.slots < 1 or boot.duration < 0:
        raise WorkloadError(f"{row.place}: slots and duration must be positive")
    return boot
