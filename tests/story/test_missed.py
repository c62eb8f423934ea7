"""Failures that no notification told of are found by looking, once, and not over and over."""

from __future__ import annotations

from pathlib import Path

import pytest
from story.test_recreate import boot_of, created
from story.world import Cloud

from changeover.models.notification import BuildFailed
from changeover.models.states import BootState
from changeover.worker import sweep as sweep_module
from changeover.worker.simulator.servers import ServersFault
from changeover.worker.sweep import LOOK_OVERLAP


class Looks:
    """Notes from when on each look was, and finds at most ``most`` failures in one."""

    def __init__(self, cloud: Cloud, most: int | None = None) -> None:
        self.since: list[float] = []
        self.most = most
        self._find = cloud.servers.failed_since
        cloud.servers.failed_since = self  # type: ignore[method-assign]  # a Nova that is watched

    def __call__(self, since: float) -> list[BuildFailed]:
        self.since.append(since)
        return self._find(since)[: self.most]


def look(cloud: Cloud) -> None:
    """Let it be time for a look, and sweep."""
    cloud.clock.advance(cloud.settings.look_seconds + 1.0)
    cloud.worker("a").sweep()


def test_a_lost_notification_costs_nothing(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        [server] = cloud.servers.boot("wanted", "vgpu.8q")
        late = list(cloud.notifications)
        cloud.notifications.clear()
        look(cloud)
        assert boot_of(cloud, server).state is BootState.RECEIVED
        for message in late:  # it was only slow
            cloud.tell(message)
        cloud.calm()
        assert boot_of(cloud, server).state is BootState.BOOTED
        assert created(cloud) == 1
        cloud.checker.finally_()
        assert not cloud.checker.violations


def test_a_look_begins_where_the_last_one_ended(tmp_path: Path) -> None:
    with Cloud(tmp_path, recreate="never") as cloud:
        looks = Looks(cloud)
        for _ in range(3):
            look(cloud)
        patience, every = cloud.settings.patience_seconds, cloud.settings.look_seconds
        assert looks.since[0] == pytest.approx(cloud.clock.now() - 2 * (every + 1.0) - patience)
        for before, after in zip(looks.since[1:], looks.since[2:], strict=False):
            assert after - before == pytest.approx(every + 1.0)
        assert looks.since[-1] == pytest.approx(
            cloud.clock.now() - (every + 1.0) - every - LOOK_OVERLAP
        )


def test_a_look_that_was_cut_off_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "FOUND_AT_ONCE", 2)
    with Cloud(tmp_path) as cloud:
        Looks(cloud, most=2)
        servers = []
        for _ in range(5):
            servers += cloud.servers.boot("wanted", "vgpu.8q")
            cloud.clock.advance(10.0)
        cloud.notifications.clear()
        for _ in range(8):
            look(cloud)
        with cloud.database.read() as tx:
            assert tx.boots.known_servers(servers) >= set(servers)


def test_nova_that_is_down_moves_no_mark(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        looks = Looks(cloud)
        look(cloud)
        [server] = cloud.servers.boot("wanted", "vgpu.8q")
        cloud.notifications.clear()
        cloud.servers.inject(ServersFault.API_DOWN, times=None)
        for _ in range(4):
            look(cloud)
        cloud.servers.clear_faults()
        look(cloud)
        assert looks.since[-1] == looks.since[-2]
        assert boot_of(cloud, server)
