"""Every scenario of ``make run``, with real worker processes, broker and Placement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.deployment import Deployment, deployed, eventually

from changeover.models.flavor import Flavor
from changeover.models.states import BootState, TaskState
from changeover.worker.ports.servers import REPLACES, ServerStatus
from changeover.worker.settings import as_environment


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("story")) as deployment:
        yield deployment


def test_a_boot_that_a_changeover_saves(cloud: Deployment) -> None:
    [server] = cloud.servers.boot("want-8q", "vgpu.8q")
    boot = cloud.outcome(server)
    assert boot.state is BootState.BOOTED, boot.reason.text
    assert boot.successor is not None
    successor = cloud.servers.get(boot.successor)
    assert successor is not None
    assert successor.status is ServerStatus.ACTIVE
    assert successor.metadata[REPLACES] == server
    assert cloud.servers.get(server) is None, (
        "the failed server is deleted after its successor runs"
    )


def test_a_server_that_is_asked_for_and_created_when_it_can_succeed(
    cloud: Deployment, tmp_path: Path
) -> None:
    """By the console script and Nova's own body; a changeover comes first, no server fails."""
    body = {
        "server": {
            "name": "asked",
            "flavorRef": "fpga.ipsec",
            "imageRef": "tiny",
            "networks": [{"uuid": "n1"}],
            "key_name": "k",
            "metadata": {"m": "v"},
        }
    }
    (tmp_path / "request.json").write_text(json.dumps(body), encoding="utf-8")
    script = Path(sys.executable).with_name("changeover")
    words = ["submit", "request.json", "--project", "p9", "--user", "bob", "--wait", "--json"]
    done = subprocess.run(
        [script, *words, "--idempotency-key", "once"],
        cwd=tmp_path,
        env={**os.environ, **as_environment(cloud.settings)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [boot] = json.loads(done.stdout)["boots"]
    assert (boot["state"], boot["server"], boot["attempt"]) == ("booted", None, 1)
    server = cloud.servers.get(boot["successor"])
    assert server is not None
    assert server.status is ServerStatus.ACTIVE
    assert (server.name, server.project, server.user) == ("asked", "p9", "bob")
    assert server.blueprint is not None
    assert server.blueprint.key_name == "k"
    assert [s.uuid for s in cloud.servers.servers("p9")] == [server.uuid], "none has failed"
    cloud.servers.user_delete(server.uuid)
    cloud.operator.program("sha3", device="fpga12")
    eventually(lambda: cloud.offers("fpga12") == "sha3")


def test_multi_create_of_three(cloud: Deployment) -> None:
    cloud.servers.boot("warm", "fpga.aes")
    failed = cloud.servers.boot("three", "fpga.aes", count=3)
    boots = [cloud.outcome(server) for server in failed]
    assert [b.state for b in boots] == [BootState.BOOTED] * 3
    assert len({b.successor for b in boots}) == 3
    assert len({b.group_id for b in boots}) == 1


def test_one_that_only_has_to_be_tried_again(cloud: Deployment) -> None:
    cloud.servers.set_host("host1", up=False)
    [server] = cloud.servers.boot("filtered", "vgpu.2q", host="host1")
    cloud.servers.set_host("host1", up=True)
    boot = cloud.outcome(server)
    assert boot.state is BootState.BOOTED
    with cloud.database.read() as tx:
        assert not [
            c for c in tx.changeovers.latest() if c.to_function == "gzip" and c.kind == "boot"
        ]


def test_one_that_no_changeover_can_help(cloud: Deployment) -> None:
    specs = {"resources:CUSTOM_FPGA": "1", "trait:CUSTOM_FPGA_FUNCTION_GZIPP": "required"}
    cloud.servers.add_flavor(
        Flavor(name="f.zstd", flavorid="z", vcpus=1, memory_mb=64, root_gb=1, extra_specs=specs)
    )
    [server] = cloud.servers.boot("zstd", "f.zstd")
    boot = cloud.outcome(server)
    assert boot.state is BootState.DECLINED
    assert "CUSTOM_FPGA_FUNCTION_GZIPP" in boot.reason.text
    assert "CUSTOM_FPGA_FUNCTION_GZIP" in boot.reason.facts["nearest"]["CUSTOM_FPGA_FUNCTION_GZIPP"]


def test_the_only_fitting_card_is_in_use_until_a_server_is_deleted(cloud: Deployment) -> None:
    provider = cloud.provider("fpga12")
    eventually(lambda: cloud.placement.state(provider).inventories["CUSTOM_FPGA"].capacity)
    programs = len(cloud.cards.journal("fpga12"))
    [holder] = cloud.servers.boot("holder", "fpga.sha3", host="host4")
    held = cloud.servers.get(holder)
    assert held is not None
    assert held.status is ServerStatus.ACTIVE
    [server] = cloud.servers.boot("ipsec", "fpga.ipsec")

    def waits() -> bool:
        boot = cloud.boot_of(server)
        return boot is not None and boot.state is BootState.WAITING

    eventually(waits)
    assert len(cloud.cards.journal("fpga12")) == programs
    cloud.servers.user_delete(holder)
    assert cloud.outcome(server).state is BootState.BOOTED
    assert cloud.offers("fpga12") == "ipsec"


def test_the_owner_deletes_what_waits(cloud: Deployment) -> None:
    specs = {"resources:CUSTOM_FPGA": "1", "trait:CUSTOM_FPGA_FUNCTION_IPSEC": "required"}
    cloud.servers.add_flavor(
        Flavor(name="f.big", flavorid="b", vcpus=1000, memory_mb=64, root_gb=1, extra_specs=specs)
    )
    [server] = cloud.servers.boot("too-big", "f.big")

    def waits() -> bool:
        boot = cloud.boot_of(server)
        return boot is not None and boot.state is BootState.WAITING

    eventually(waits)
    boot = cloud.boot_of(server)
    assert boot is not None
    assert boot.reason.code == "unmet.hosts_cannot"
    cloud.servers.user_delete(server)
    assert cloud.outcome(server).state is BootState.CANCELLED


def test_an_operators_task_on_a_region(cloud: Deployment) -> None:
    task = cloud.operator.program("aes", device="dyn1-r3")

    def done() -> bool:
        with cloud.database.read() as tx:
            now = tx.tasks.get(task.id)
        return now is not None and now.state is TaskState.DONE

    eventually(done)
    provider = cloud.provider("dyn1-r3")
    assert "CUSTOM_FPGA_FUNCTION_AES" in cloud.placement.state(provider).traits

    def is_open() -> bool:
        return cloud.placement.state(provider).inventories["CUSTOM_FPGA_REGION"].capacity == 1

    eventually(is_open)


def test_a_pools_floor_is_kept(cloud: Deployment) -> None:
    """The catalog keeps one slot of gzip free; servers take all that there are."""

    def free() -> bool:
        trait = "CUSTOM_FPGA_FUNCTION_GZIP"
        return bool(cloud.placement.providers(resources={"CUSTOM_FPGA": 1}, required=[trait]))

    eventually(free)
    with cloud.database.read() as tx:
        before = len(tx.changeovers.latest(1000))
    cloud.operator.pause("the floor is to be kept by the balancer, after this")
    cloud.settled()
    taken = 0
    while free():
        cloud.servers.boot(f"gzip-{taken}", "fpga.gzip")
        taken += 1
    cloud.operator.resume()
    eventually(free)
    with cloud.database.read() as tx:
        made = tx.changeovers.latest(1000)[: len(tx.changeovers.latest(1000)) - before]
    assert "floor" in {c.kind for c in made if c.to_function == "gzip"}


def test_nothing_is_programmed_in_use_and_no_fence_is_left(cloud: Deployment) -> None:
    cloud.settled()
    with cloud.database.read() as tx:
        assert tx.fences.all() == []
    for device in cloud.catalog.devices:
        for line in cloud.cards.journal(device.name):
            assert not line.get("users"), line
