"""What commands have in common: options, and the desk that they work at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer

from changeover.console.desk import Desk

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(metavar="N", help="How many at most.", min=1, max=1_000_000)]
Days = Annotated[
    float, typer.Option(metavar="DAYS", help="So many days back.", min=0.001, max=36_500)
]
When = Annotated[
    Literal["idle", "now-or-fail"],
    typer.Option(help="Wait until devices are idle, or fail at once if they are not."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Read every device from Placement first.")]


@contextmanager
def open_desk() -> Iterator[Desk]:
    """A desk, closed at the end."""
    from changeover.console.desk import quiet

    quiet()
    desk = Desk()
    try:
        yield desk
    finally:
        desk.close()
