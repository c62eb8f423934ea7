"""Locks that the kernel owns: freed at once when the last process that holds one is gone."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from changeover.models.errors import Busy, Refuse

_RETRY_SECONDS = 0.005


@contextmanager
def hold(path: Path, *, shared: bool = False, wait_seconds: float = 0.0) -> Iterator[int]:
    """Hold the lock file ``path`` (made if missing, never removed); yields its descriptor.

    Who inherits the descriptor holds the lock too, until it is gone as well. Raises ``Busy`` if
    the lock cannot be had within ``wait_seconds``, ``Refuse`` if the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Refuse(f"cannot lock {path}: {error.strerror}", path=str(path)) from error
    try:
        _take(descriptor, path, shared=shared, wait_seconds=wait_seconds)
        yield descriptor
    finally:
        os.close(descriptor)


def held(path: Path) -> bool:
    """Whether somebody holds the lock alone, now. Shared holders do not count."""
    try:
        with hold(path, shared=True):
            return False
    except Busy:
        return True


def _take(descriptor: int, path: Path, *, shared: bool, wait_seconds: float) -> None:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Busy(f"{path.name} is locked", path=str(path)) from None
            time.sleep(_RETRY_SECONDS)
        else:
            return
