"""The journal of a backtest: its entries, and their lines as the checker reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Programmed:
    """A device was given a function; free of charge where a resident was found on it at 0."""

    time: float
    device: int
    function: int
    resident: bool


@dataclass(frozen=True, slots=True)
class Started:
    """A boot got its slots: device number to count."""

    time: float
    boot: int
    taken: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A boot's patience ended."""

    time: float
    boot: int


Entry = Programmed | Started | Abandoned


def journal_lines(
    journal: Iterable[Entry], devices: Sequence[str], functions: Sequence[str]
) -> Iterator[str]:
    """Write each entry as one JSON line, without the line's end."""
    for entry in journal:
        yield json.dumps(_as_json(entry, devices, functions))


def _as_json(entry: Entry, devices: Sequence[str], functions: Sequence[str]) -> dict[str, object]:
    match entry:
        case Programmed(time, device, function, resident):
            line: dict[str, object] = {
                "t": time,
                "do": "program",
                "device": devices[device],
                "function": functions[function],
            }
            if resident:
                line["resident"] = True
            return line
        case Started(time, boot, taken):
            on = {devices[device]: count for device, count in taken.items()}
            return {"t": time, "do": "start", "boot": boot, "on": on}
        case Abandoned(time, boot):
            return {"t": time, "do": "abandon", "boot": boot}
