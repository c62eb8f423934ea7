"""The live picture: pools, devices, changeovers with progress, boots; or plain lines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from changeover.models.boot import Boot
from changeover.models.catalog import Catalog
from changeover.models.changeover import Changeover
from changeover.models.states import ChangeoverState
from changeover.worker.store import Database
from changeover.worker.store.devices import DeviceRecord

_S = ChangeoverState
PROGRESS = {
    _S.PLANNED: 0.0,
    _S.FENCING: 0.1,
    _S.SETTLING: 0.2,
    _S.PROGRAMMING: 0.5,
    _S.VERIFYING: 0.8,
    _S.PUBLISHING: 0.9,
    _S.DONE: 1.0,
}
"""How far along each state is, for a bar."""

SHOWN = 12


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is to see at one moment."""

    devices: Sequence[DeviceRecord]
    changeovers: Sequence[Changeover]
    boots: Sequence[Boot]
    at: float


def read_board(database: Database) -> Snapshot:
    """Read a snapshot."""
    with database.read() as tx:
        return Snapshot(
            tx.devices.all(),
            tx.changeovers.latest(SHOWN),
            tx.boots.listed(over=None, limit=SHOWN * 2),
            time.time(),
        )


@dataclass
class Board:
    """Shows snapshots; remembers what it has said already."""

    catalog: Catalog
    console: Console
    said: dict[str, str] = field(default_factory=dict)
    stories: list[str] = field(default_factory=list)

    def say(self, story: str) -> None:
        """Tell what somebody does."""
        self.stories.append(story)
        if not self.console.is_terminal:
            self._line(f"> {story}")

    def lines(self, snapshot: Snapshot) -> None:
        """Print what has changed since the last snapshot, a line each."""
        names = {d.provider: d.name for d in snapshot.devices}
        for changeover in reversed(snapshot.changeovers):
            came = changeover.from_function or "empty"
            self._changed(
                changeover.id,
                str(changeover.state),
                f"changeover {names.get(changeover.device, changeover.device)}: {came} -> "
                f"{changeover.to_function}: {changeover.state}",
            )
        for boot in reversed(snapshot.boots):
            self._changed(
                boot.id,
                f"{boot.state}{boot.reason.code}",
                f"boot {_server(boot)} ({boot.name}): {boot.state}: {boot.reason.text}",
            )

    def _changed(self, key: str, state: str, line: str) -> None:
        if self.said.get(key) != state:
            self.said[key] = state
            self._line(line)

    def _line(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    def picture(self, snapshot: Snapshot) -> RenderableType:
        """Everything at once."""
        stories = Text("\n".join(self.stories[-4:]), style="italic")
        return Group(
            stories,
            Columns([self._pools(snapshot), self._devices(snapshot)]),
            self._changeovers(snapshot),
            self._boots(snapshot),
        )

    def _pools(self, snapshot: Snapshot) -> Table:
        table = Table(title="pools", title_justify="left")
        for column in ("function", "devices", "slots"):
            table.add_column(column)
        devices, slots = Counter[str](), Counter[str]()
        for device in snapshot.devices:
            devices[device.function or "(empty)"] += 1
            slots[device.function or "(empty)"] += device.slots
        for name in (*self.catalog.functions, "(empty)"):
            table.add_row(name, str(devices[name]), str(slots[name]))
        return table

    def _devices(self, snapshot: Snapshot) -> Table:
        table = Table(title="devices", title_justify="left")
        for column in ("device", "host", "offers", "device", "host", "offers"):
            table.add_column(column)
        cells = [(d.name, d.host, d.function or "-") for d in snapshot.devices]
        half = (len(cells) + 1) // 2
        for left, right in zip(cells[:half], [*cells[half:], ("", "", "")], strict=False):
            table.add_row(*left, *right)
        return table

    def _changeovers(self, snapshot: Snapshot) -> Table:
        table = Table(title="changeovers", title_justify="left")
        for column in ("device", "from", "to", "state", "progress"):
            table.add_column(column)
        names = {d.provider: d.name for d in snapshot.devices}
        for changeover in snapshot.changeovers:
            table.add_row(
                names.get(changeover.device, changeover.device),
                changeover.from_function or "-",
                changeover.to_function,
                str(changeover.state),
                ProgressBar(total=1.0, completed=self._progress(changeover, snapshot), width=24),
            )
        return table

    def _progress(self, changeover: Changeover, snapshot: Snapshot) -> float:
        """By state; within programming by the seconds that it is expected to take."""
        done = PROGRESS.get(changeover.state, 0.0)
        function = self.catalog.functions.get(changeover.to_function)
        if changeover.state is _S.PROGRAMMING and changeover.sent_at and function:
            share = (snapshot.at - changeover.sent_at) / max(function.seconds, 0.1)
            done += 0.3 * min(1.0, max(0.0, share))
        return done

    def _boots(self, snapshot: Snapshot) -> Table:
        table = Table(title="boots", title_justify="left")
        for column in ("server", "flavor", "state", "why"):
            table.add_column(column)
        for boot in snapshot.boots:
            table.add_row(_server(boot), boot.name, str(boot.state), boot.reason.text)
        return table

    def summary(self, snapshot: Snapshot) -> None:
        """What became of each boot, at the end."""
        self._line("")
        for boot in reversed(snapshot.boots):
            took = (boot.finished_at or snapshot.at) - boot.received_at
            self._line(
                f"  {_server(boot)} {boot.name:<12} {boot.state:<10} after {took:5.1f} s: "
                f"{boot.reason.text}"
            )


def _server(boot: Boot) -> str:
    """The failed server; the boot itself where none failed."""
    return (boot.server or boot.id)[:8]
