"""Locks that the kernel owns."""

from __future__ import annotations

from pathlib import Path

import pytest

from changeover.models.errors import Busy
from changeover.worker import flock


def test_one_holds_alone_and_many_hold_together(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / "lock"
    assert not flock.held(lock)
    with flock.hold(lock):
        assert flock.held(lock)
        with pytest.raises(Busy, match="lock is locked"), flock.hold(lock):
            pass
    with flock.hold(lock, shared=True), flock.hold(lock, shared=True):
        assert not flock.held(lock)
        with pytest.raises(Busy), flock.hold(lock, wait_seconds=0.02):
            pass
    with flock.hold(lock):
        pass
