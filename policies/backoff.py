"""How long to wait before the next try."""

from __future__ import annotations

from zlib import crc32


def backoff(failures: int, *, first: float, most: float, jitter: float) -> float:
    """Seconds until try ``failures + 1``: doubling from ``first`` up to ``most``.

    ``jitter`` in [0, 1) takes away up to half of it, so that what failed together does not come
    back together (equal jitter, AWS Architecture Blog 2015).
    """
    whole = min(most, first * 2.0 ** max(0, min(failures - 1, 32)))
    return whole * (1.0 - 0.5 * jitter)


def jitter_of(key: str) -> float:
    """A jitter in [0, 1) that differs by ``key`` and repeats in every process."""
    return (crc32(key.encode()) % 1000) / 1000.0
