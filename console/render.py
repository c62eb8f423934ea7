"""What is printed: JSON for programs, tables on a terminal, plain aligned lines on a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

SHORT = 8
"""Characters of an id in a table; commands take any beginning of one that is unique."""


UUID_CHARACTERS = 36


def plain(value: Any) -> Any:
    """JSON-able values of any of our own."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if hasattr(value, "shown"):  # what of it is fit to be shown
        return value.shown()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "as_json"):
        return value.as_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(plain(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    return [plain(item) for item in value]


def clean(text: object) -> str:
    """Text from outside, safe for a terminal: no control sequences, one line."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def short(identifier: str | None) -> str:
    """The beginning of an id."""
    if identifier is None:
        return "-"
    return identifier[:SHORT] if len(identifier) == UUID_CHARACTERS else identifier


def span(seconds: float | None) -> str:
    """A length of time as people say it."""
    if seconds is None:
        return "-"
    total = max(0, round(seconds))
    for size, unit, next_size, next_unit in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if total >= size:
            rest = total % size // next_size
            return f"{total // size}{unit}{rest}{next_unit}" if rest else f"{total // size}{unit}"
    return f"{total}s"


def due(at: float, now: float) -> str:
    """In what time something is due, in words."""
    return "now" if at <= now else f"in {span(at - now)}"


def moment(at: float) -> str:
    """A moment in local time."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True, slots=True)
class Column:
    """A column: ``key`` in the row, ``title`` above; numbers go to the right."""

    key: str
    title: str
    right: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command's answer goes."""

    as_json: bool = False

    def document(self, data: Any) -> None:
        """Print JSON."""
        self._print(json.dumps(plain(data), indent=2))

    def listing(
        self,
        rows: Sequence[Row],
        columns: Sequence[Column],
        shown: Iterable[Row] | None = None,
        *,
        empty: str,
    ) -> None:
        """Print rows: all of each as JSON, else ``shown`` (of as many) in a table."""
        if self.as_json:
            self.document(rows)
        elif rows:
            self.table(list(rows if shown is None else shown), columns)
        else:
            self.line(empty)

    def table(self, rows: Sequence[Row], columns: Sequence[Column]) -> None:
        """Print a table of what is there; columns that are empty everywhere are left out."""
        cells = [[_cell(row.get(column.key)) for column in columns] for row in rows]
        used = [i for i, _ in enumerate(columns) if any(line[i] != "-" for line in cells)]
        kept = [columns[i] for i in used]
        cells = [[line[i] for i in used] for line in cells]
        if sys.stdout is None or not sys.stdout.isatty() or not _rich_table(kept, cells):
            self._print("\n".join(_aligned(kept, cells)))

    def facts(self, title: str, facts: Mapping[str, Any]) -> None:
        """Print a title, and below it what is known, a line each; what is not is left out."""
        self.line(title)
        known = {
            key: value
            for key, value in facts.items()
            if value is not None and str(value) not in {"", "-"}
        }
        width = max(map(len, known), default=0)
        for key, value in known.items():
            self.line(f"  {key:<{width}}  {clean(value)}")

    def heading(self, text: str) -> None:
        """Print a heading."""
        self.line("")
        self.line(text)

    def line(self, text: str) -> None:
        """Print a line."""
        self._print(clean(text))

    def note(self, text: str) -> None:
        """Say something to a person beside the answer, on standard error."""
        print(clean(text), file=sys.stderr)

    def _print(self, text: str) -> None:
        print(text)


def _cell(value: Any) -> str:
    return "-" if value is None or value == "" else clean(value)


def _aligned(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[str]:
    titles = [column.title.upper() for column in columns]
    widths = [max(len(line[i]) for line in [titles, *cells]) for i in range(len(columns))]
    return [
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in [titles, *cells]
    ]


FOLDED = 24
"""Characters: text that is longer may go on in a line below, names and numbers do not."""


def _rich_table(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> bool:
    """Print a table as wide as the terminal; ``False`` where that is too narrow for one."""
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    titles = [column.title for column in columns]
    widths = [max(map(cell_len, column)) for column in zip(titles, *cells, strict=True)]
    if sum(min(width, FOLDED) for width in widths) + 3 * (len(widths) - 1) > console.width:
        return False
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=width <= FOLDED,
        )
    for line in cells:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in line))
    console.print(table)
    return True


_STYLES = {
    "booted": "green",
    "done": "green",
    "idle": "green",
    "ok": "green",
    "declined": "yellow",
    "expired": "yellow",
    "waiting": "yellow",
    "warning": "yellow",
    "in use": "cyan",
    "programming": "cyan",
    "failed": "red",
    "quarantined": "red",
    "trouble": "red",
}
