"""Nova's filters reject what Placement has candidates for: that is said, nothing is programmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from story.test_aggregates import aggregate
from story.world import Cloud

from changeover.models.boot import Boot
from changeover.models.states import BootState
from changeover.worker.filtered import why_filtered
from changeover.worker.requested import requested


def declined(cloud: Cloud, flavor: str, **placing: Any) -> Boot:
    """The boot that fails, once everything has happened: it must have been declined."""
    cloud.fail_boot(flavor, **placing)
    cloud.calm()
    with cloud.database.read() as tx:
        (boot,) = tx.boots.in_states([BootState.DECLINED])
    return boot


def test_what_nova_rejects_again_and_again_is_declined_with_what_is_known(tmp_path: Path) -> None:
    with Cloud(tmp_path, max_attempts=2) as cloud:
        for host in cloud.shape.host_names:
            cloud.servers.set_host(host, zone="blue")
        boot = declined(cloud, "fpga.gzip", availability_zone="green")
        with cloud.database.read() as tx:
            assert not tx.changeovers.latest()
        assert boot.reason.code == "boot.filters_rejected"
        assert "reprogramming does not help" in boot.reason.text
        assert "it asks for availability zone green" in boot.reason.text
        assert set(boot.reason.facts["hosts"]) <= set(cloud.shape.host_names)


def test_a_host_that_is_down_is_named(tmp_path: Path) -> None:
    with Cloud(tmp_path, max_attempts=1) as cloud:
        for host in cloud.shape.host_names:
            cloud.set_host(host, up=False)
        boot = declined(cloud, "fpga.gzip")
        assert boot.reason.code == "boot.filters_rejected"
        assert "the compute service of host" in boot.reason.text


def test_isolation_that_is_not_set_here_is_named(tmp_path: Path) -> None:
    with Cloud(tmp_path, max_attempts=1) as cloud:
        for host in cloud.shape.host_names:
            aggregate(cloud, host, trait__CUSTOM_LICENSED="required")
        boot = declined(cloud, "fpga.gzip")
        assert boot.reason.code == "boot.filters_rejected"
        assert "set it here" in boot.reason.text


def test_pci_devices_are_named(tmp_path: Path) -> None:
    with Cloud(tmp_path, max_attempts=1) as cloud:
        plain = cloud.servers.flavor("fpga.gzip")
        specs = {**plain.extra_specs, "pci_passthrough:alias": "nic:1"}
        cloud.servers.add_flavor(plain.model_copy(update={"name": "nic", "extra_specs": specs}))
        for host in cloud.shape.host_names:
            cloud.set_host(host, up=False)
        boot = declined(cloud, "nic")
        assert "it asks for PCI devices nic:1" in boot.reason.text


@pytest.mark.parametrize("known", [False, True])
def test_a_tpm_is_asked_for_as_that_nova_does(tmp_path: Path, *, known: bool) -> None:
    with Cloud(tmp_path) as cloud:
        plain = cloud.servers.flavor("fpga.regex")
        specs = {**plain.extra_specs, "hw:tpm_version": "2.0", "hw:tpm_model": "tpm-crb"}
        cloud.servers.add_flavor(plain.model_copy(update={"name": "tpm", "extra_specs": specs}))
        trait = "COMPUTE_SECURITY_TPM_SECRET_SECURITY_USER"
        if known:
            cloud.placement.ensure_traits([trait])
            root = cloud.shape.uuid(cloud.shape.host_names[0])
            state = cloud.placement.state(root)
            cloud.placement.put_traits(root, state.generation, {*state.traits, trait})
        cloud.fail_boot("tpm")
        with cloud.database.read() as tx:
            (boot,) = tx.boots.in_states(list(BootState))
        asked = requested(cloud.worker("a").world, boot).request
        assert (trait in asked.root_required) is known


def test_without_candidates_no_filter_is_blamed(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        cloud.fail_boot("fpga.ipsec")
        with cloud.database.read() as tx:
            (boot,) = tx.boots.in_states(list(BootState))
        assert why_filtered(cloud.worker("a").world, boot) is None
