"""Files that people give. Never more of one is held than can be meant: some have no end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, AnyStr

from changeover.models.errors import Invalid

MOST_BYTES = 64 * 1024 * 1024
LONGEST_LINE = 16 * 1024 * 1024


def read(path: Path, most: int = MOST_BYTES) -> bytes:
    """All of a file; ``-`` is standard input. Raises :class:`Invalid` that names it."""
    name = "standard input" if str(path) == "-" else str(path)
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(most + 1)
        else:
            with path.open("rb") as file:
                data = file.read(most + 1)
    except OSError as exc:
        raise Invalid(f"{name}: {exc.strerror}") from exc
    if len(data) > most:
        raise Invalid(f"{name}: is longer than {most} bytes")
    return data


def lines(file: IO[AnyStr], longest: int = LONGEST_LINE) -> Iterator[AnyStr]:
    """The lines of a file. Raises :class:`Invalid` for one that is longer."""
    number = 0
    while line := file.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise Invalid(f"line {number}: is longer than {longest}: what follows was not read")
        yield line
