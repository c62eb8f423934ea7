"""The state of a fleet as a policy sees it: what each device offers, what is free, who waits.

Policies read it and never write it. The backtest keeps one up to date in virtual time; a worker
builds one from its rows. Devices and functions are numbered by their place in `devices` and
`functions`, because policies run over arrays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BLANK = -1
"""The function number of a device that has not been programmed."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A boot that found no room and waits, first in first out within its function."""

    boot: int
    since: float
    slots: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A boot as a policy sees it: no duration."""

    time: float
    boot: int
    """Names the boot, so that its departure can be told."""
    function: int
    slots: int
    failed: bool
    """It found no room at its first try."""


@dataclass(frozen=True, slots=True)
class Departure:
    """A server that ended and gave its slots back."""

    time: float
    boot: int
    function: int
    slots: int


@dataclass(frozen=True, slots=True)
class News:
    """What happened since a policy was last asked."""

    arrivals: Sequence[Arrival] = ()
    departures: Sequence[Departure] = ()
    abandoned: Sequence[int] = ()
    """Boots that gave up."""


@dataclass(frozen=True, slots=True)
class Program:
    """Program an idle device with a function; `reason` is for people."""

    device: int
    function: int
    reason: str


class FleetState:
    """Devices, their functions and use, free and coming slots, and the queues of waiting boots."""

    __slots__ = (
        "coming",
        "devices",
        "free",
        "function",
        "functions",
        "members",
        "program_seconds",
        "programming",
        "ready_at",
        "slots",
        "used",
        "waiting",
    )

    def __init__(
        self,
        devices: Sequence[str],
        functions: Sequence[str],
        slots: Sequence[Sequence[int]],
        program_seconds: float,
    ) -> None:
        """Make a fleet of blank, idle devices; `slots[device][function]` is what each yields."""
        self.devices = tuple(devices)
        self.functions = tuple(functions)
        self.slots = tuple(tuple(row) for row in slots)
        self.program_seconds = program_seconds
        self.function = [BLANK] * len(self.devices)
        self.used = [0] * len(self.devices)
        self.programming = [False] * len(self.devices)
        self.ready_at = [0.0] * len(self.devices)
        self.free = [0] * len(self.functions)
        self.coming = [0] * len(self.functions)
        self.members: list[list[int]] = [[] for _ in self.functions]
        self.waiting: list[deque[Waiting]] = [deque() for _ in self.functions]

    def idle(self) -> Iterator[int]:
        """Devices that may be programmed now: no slot in use, no program under way."""
        used, programming = self.used, self.programming
        return (d for d in range(len(self.devices)) if used[d] == 0 and not programming[d])

    def begin_program(self, device: int, function: int, now: float) -> None:
        """Take the idle device's slots away; it offers nothing until `finish_program`."""
        self._leave(device)
        self.function[device] = function
        self.programming[device] = True
        self.ready_at[device] = now + self.program_seconds
        self.coming[function] += self.slots[device][function]

    def finish_program(self, device: int) -> None:
        """The program has ended: the device offers its new function's slots."""
        function = self.function[device]
        self.programming[device] = False
        self.coming[function] -= self.slots[device][function]
        self._join(device, function)

    def install(self, device: int, function: int, now: float) -> None:
        """Set a device's function at once, without programming: a device as it was found."""
        self._leave(device)
        self.function[device] = function
        self.ready_at[device] = now
        self._join(device, function)

    def place(self, function: int, slots: int) -> dict[int, int] | None:
        """Take `slots` free slots, fullest devices first so that whole devices stay idle."""
        if self.free[function] < slots:
            return None
        used, yields = self.used, self.slots
        order = sorted(self.members[function], key=lambda d: (-used[d], d))
        taken: dict[int, int] = {}
        missing = slots
        for device in order:
            count = min(missing, yields[device][function] - used[device])
            if count > 0:
                taken[device] = count
                used[device] += count
                missing -= count
                if not missing:
                    break
        self.free[function] -= slots
        return taken

    def release(self, function: int, taken: dict[int, int]) -> None:
        """Give slots back."""
        for device, count in taken.items():
            self.used[device] -= count
            self.free[function] += count

    def _leave(self, device: int) -> None:
        old = self.function[device]
        if old != BLANK:
            self.free[old] -= self.slots[device][old]
            self.members[old].remove(device)

    def _join(self, device: int, function: int) -> None:
        self.free[function] += self.slots[device][function]
        self.members[function].append(device)
