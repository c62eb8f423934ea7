"""A boot that asks for a zone is asked of Placement by the zone's aggregates, as Nova does."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from story.world import Cloud

from changeover.models.errors import Unreachable
from changeover.models.states import BootState


def test_only_hosts_of_the_zone_are_programmed_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cloud(tmp_path) as cloud:
        first, second = cloud.shape.host_names[:2]
        zone = str(uuid4())
        root = cloud.shape.uuid(second)
        generation = cloud.placement.state(root).generation
        cloud.placement.put_aggregates(root, generation, [zone])
        cloud.servers.set_host(first, zone="blue")
        cloud.servers.set_host(second, zone="green")
        monkeypatch.setattr(
            cloud.servers,
            "zone_aggregates",
            lambda name: frozenset({zone}) if name == "green" else frozenset(),
        )
        cloud.fail_boot("fpga.regex", availability_zone="green")
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        with cloud.database.read() as tx:
            (boot,) = tx.boots.in_states(list(BootState))
            (done,) = tx.changeovers.latest()
        assert boot.state is BootState.BOOTED
        assert done.host == second


def test_a_silent_nova_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cloud(tmp_path) as cloud:
        cloud.fail_boot("fpga.regex", availability_zone="green")

        def silent(_zone: str) -> frozenset[str]:
            raise Unreachable("nobody there")

        monkeypatch.setattr(cloud.servers, "zone_aggregates", silent)
        cloud.worker("a").judge()
        with cloud.database.read() as tx:
            (boot,) = tx.boots.in_states(list(BootState))
        assert (boot.state, boot.reason.code) == (BootState.WAITING, "demand.nova_silent")
