"""Where servers are not created: the capacity is made, and the owner's own retry succeeds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.deployment import Deployment, deployed, eventually

from changeover.models.states import BootState
from changeover.worker.ports.servers import ServerStatus


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("capacity"), recreate="never") as deployment:
        yield deployment


def test_capacity_is_made_and_the_owner_boots_again(cloud: Deployment) -> None:
    [server] = cloud.servers.boot("x", "vgpu.8q")
    boot = cloud.outcome(server)
    assert boot.state is BootState.DECLINED
    assert boot.reason.code == "boot.capacity_made"
    assert boot.attempt == 0
    failed = cloud.servers.get(server)
    assert failed is not None
    assert failed.status is ServerStatus.ERROR, "nobody touched the owner's server"

    def free() -> bool:
        trait = "CUSTOM_VGPU_TYPE_NVIDIA_37"
        return bool(cloud.placement.providers(resources={"VGPU": 1}, required=[trait]))

    eventually(free)
    [again] = cloud.servers.boot("x", "vgpu.8q")
    built = cloud.servers.get(again)
    assert built is not None
    assert built.status is ServerStatus.ACTIVE
