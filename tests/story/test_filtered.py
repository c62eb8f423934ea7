"""Nova's filters reject what Placement has candidates for: that is said, nothing is programmed."""

from __future__ import annotations

from pathlib import Path

from story.world import Cloud

from changeover.models.states import BootState
from changeover.worker.filtered import why_filtered


def test_what_nova_rejects_again_and_again_is_declined_with_what_is_known(tmp_path: Path) -> None:
    with Cloud(tmp_path, max_attempts=2) as cloud:
        for host in cloud.shape.host_names:
            cloud.servers.set_host(host, zone="blue")
        cloud.fail_boot("fpga.gzip", availability_zone="green")
        cloud.calm()
        with cloud.database.read() as tx:
            (boot,) = tx.boots.in_states([BootState.DECLINED])
            assert not tx.changeovers.latest()
        assert boot.reason.code == "boot.filters_rejected"
        assert "reprogramming does not help" in boot.reason.text
        assert "it asks for availability zone green" in boot.reason.text
        assert set(boot.reason.facts["hosts"]) <= set(cloud.shape.host_names)


def test_a_host_that_is_down_is_named(tmp_path: Path) -> None:
    with Cloud(tmp_path, max_attempts=1) as cloud:
        for host in cloud.shape.host_names:
            cloud.set_host(host, up=False)
        cloud.fail_boot("fpga.gzip")
        cloud.calm()
        with cloud.database.read() as tx:
            (boot,) = tx.boots.in_states([BootState.DECLINED])
        assert boot.reason.code == "boot.filters_rejected"
        assert "the compute service of host" in boot.reason.text


def test_without_candidates_no_filter_is_blamed(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        cloud.fail_boot("fpga.ipsec")
        with cloud.database.read() as tx:
            (boot,) = tx.boots.in_states(list(BootState))
        assert why_filtered(cloud.worker("a").world, boot) is None
