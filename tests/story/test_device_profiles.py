"""Boots that ask by device profile: resolved in Cyborg, rescued as others are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from story.world import BEFORE, Cloud, Worker

from changeover.models.errors import Garbled, Unreachable
from changeover.models.states import BootState


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with Cloud(tmp_path) as cloud:
        yield cloud


def only_boot(cloud: Cloud) -> tuple[BootState, str, str]:
    with cloud.database.read() as tx:
        (boot,) = tx.boots.in_states(list(BootState))
    return boot.state, boot.reason.code, boot.reason.text


def test_a_profile_is_rescued_as_a_flavor_is(cloud: Cloud) -> None:
    cloud.fail_boot("profile.regex")
    cloud.calm()
    cloud.checker.finally_()
    cloud.checker.check()
    assert only_boot(cloud)[0] is BootState.BOOTED


def test_a_profile_that_is_gone_is_said(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.fail_boot("profile.regex")
    monkeypatch.setattr(cloud.accelerators, "device_profile", lambda _name: None)
    cloud.worker("a").judge()
    state, code, text = only_boot(cloud)
    assert (state, code) == (BootState.DECLINED, "demand.device_profile")
    assert "regex" in text


@pytest.mark.parametrize("error", [Unreachable("nobody there"), Garbled("what is this")])
def test_a_silent_cyborg_is_asked_again_and_stops_no_other(cloud: Cloud, error: Exception) -> None:
    cloud.fail_boot("profile.regex")
    silent = True

    def plan(_worker: Worker, when: str, call: str) -> None:
        if silent and when == BEFORE and call == "accelerators.device_profile":
            raise error

    cloud.worker("a").plan = plan
    cloud.fail_boot("vgpu.8q")
    cloud.worker("a").judge()
    with cloud.database.read() as tx:
        profile, other = sorted(
            tx.boots.in_states(list(BootState)), key=lambda boot: boot.device_profile is None
        )
    assert (profile.state, profile.reason.code) == (BootState.WAITING, "demand.cyborg_silent")
    assert other.state is BootState.PROMISED
    silent = False
    cloud.calm()
    cloud.checker.finally_()
    cloud.checker.check()
    with cloud.database.read() as tx:
        assert {boot.state for boot in tx.boots.in_states(list(BootState))} == {BootState.BOOTED}
