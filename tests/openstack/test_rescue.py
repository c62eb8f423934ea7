"""Boots that fail for want of a function, rescued on a real Nova through a real Cyborg.

One deployment serves all of them, as it would an operator; each has functions of its own.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from harness.catalogs import CardCatalog
from harness.client import Cards, Changeover, Cloud, eventually
from harness.deployment import deployed
from harness.servers import Servers, sweep
from harness.timing import Rescue, measure
from openstack.connection import Connection

from changeover.models.boot import Boot
from changeover.models.states import BootState, ChangeoverState

SLOW_SECONDS = 12.0
"""Long enough for something to happen while a card is being programmed."""

OPTED_IN = {"changeover:recreate": "true"}
FUNCTIONS = ("AES", "PROFILE", "GANG", "CPU", "TASK")
SLOW = ("DELETED", "NOVADOWN", "PLACEMENTDOWN")


class Scene:
    """What every scenario needs."""

    def __init__(
        self, cloud: Cloud, cards: Cards, catalog: CardCatalog, deployment: Changeover
    ) -> None:
        self.cloud = cloud
        self.cards = cards
        self.catalog = catalog
        self.deployment = deployment
        self.began = time.time()

    def wants(self, function: str) -> dict[str, str]:
        """Extra specs of a flavor that asks for the function, and may be created again."""
        return {
            "resources:FPGA": "1",
            f"trait:CUSTOM_FPGA_FUNCTION_{function}": "required",
            **OPTED_IN,
        }

    def programs(self, function: str) -> list[str]:
        """The cards that were programmed with it, by their own journal."""
        return [
            entry["card"]
            for entry in self.cloud.journal(since=self.began)
            if entry["function"] == function and entry["event"] == "begin"
        ]

    def programming(self, function: str) -> None:
        """Wait until a card is being programmed with the function."""
        eventually(lambda: self.programs(function), every=0.1)


@pytest.fixture(scope="module")
def scene(
    cloud: Cloud,
    cards: Cards,
    admin: Connection,
    trust: str,  # noqa: ARG001 - it is there before anything fails
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], str],
) -> Iterator[Scene]:
    """One deployment on PostgreSQL. Two cards are kept apart, for a function of their own each."""
    sweep(admin)
    cards.load(dict.fromkeys(cards.all(), "NONE"))
    catalog = CardCatalog(
        cards, models={"lone": ["cmp2_simcard_27"], "floored": ["cmp2_simcard_2[56]"]}
    )
    for name in FUNCTIONS:
        catalog.add(name)
    for name in SLOW:
        catalog.add(name, seconds=SLOW_SECONDS)
    catalog.add("LONEA", fits="lone")
    catalog.add("LONEB", fits="lone")
    catalog.add("FLOOR", fits="floored")
    catalog.pools["FLOOR"] = {"min_free": 1}
    home = tmp_path_factory.mktemp("rescue") / "up"
    with deployed(cloud, home, catalog.content(), database_url=new_database()) as deployment:
        yield Scene(cloud, cards, catalog, deployment)
        deployment.settled()


@pytest.fixture
def settled(scene: Scene) -> Iterator[None]:
    """No device is between two functions when a scenario is over."""
    yield
    scene.deployment.settled()


pytestmark = pytest.mark.usefixtures("settled")


def public_key() -> str:
    """A key of the right form, to which there is no private one."""
    kind = b"ssh-ed25519"
    parts = (kind, os.urandom(32))
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return f"{kind.decode()} {base64.b64encode(blob).decode()}"


def successor_of(boot: Boot, servers: Servers) -> dict[str, Any]:
    """The successor of a boot that was rescued."""
    assert boot.state is BootState.BOOTED, boot.reason.text
    assert boot.successor is not None
    server = servers.get(boot.successor)
    assert server is not None
    assert server["status"] == "ACTIVE"
    return server


def test_a_missing_function_is_programmed_and_the_server_is_as_it_was_asked_for(
    scene: Scene, alice: Connection, servers: Servers, rescues: list[Rescue]
) -> None:
    key = f"key-{uuid4().hex[:8]}"
    alice.compute.create_keypair(name=key, public_key=public_key())
    user_data = base64.b64encode(b"#!/bin/sh\necho hello\n").decode()
    failed = servers.fails(
        alice,
        servers.flavor(**scene.wants("AES")),
        name="crypto",
        key_name=key,
        user_data=user_data,
        metadata={"team": "red"},
    )
    before = servers.get(failed)
    assert before is not None
    boot = scene.deployment.outcome(failed)
    after = successor_of(boot, servers)
    assert after["metadata"]["team"] == "red"
    for field in ("name", "tenant_id", "user_id", "key_name", "OS-EXT-SRV-ATTR:user_data"):
        assert after[field] == before[field], field
    assert after["user_id"] == alice.current_user_id
    assert len(scene.programs("AES")) == 1
    eventually(lambda: servers.get(failed) is None)
    rescues.append(measure("a function was missing", scene.cloud, scene.deployment, boot))


def test_a_device_profile_is_resolved_in_cyborg(
    scene: Scene, admin: Connection, alice: Connection, servers: Servers, rescues: list[Rescue]
) -> None:
    name = f"profile-{uuid4().hex[:8]}"
    group = {"resources:FPGA": "1", "trait:CUSTOM_FPGA_FUNCTION_PROFILE": "required"}
    answer = admin.accelerator.post("/device_profiles", json=[{"name": name, "groups": [group]}])
    assert answer.ok, answer.text
    failed = servers.fails(alice, servers.flavor(**{"accel:device_profile": name, **OPTED_IN}))
    boot = scene.deployment.outcome(failed)
    after = successor_of(boot, servers)
    (bound,) = admin.accelerator.get(f"/accelerator_requests?instance={after['id']}").json()["arqs"]
    assert bound["state"] == "Bound"
    assert len(scene.programs("PROFILE")) == 1
    rescues.append(measure("a device profile", scene.cloud, scene.deployment, boot))


def test_three_servers_of_one_request_are_all_rescued(
    scene: Scene, alice: Connection, servers: Servers, rescues: list[Rescue]
) -> None:
    flavor = servers.flavor(**scene.wants("GANG"))
    servers.boot(alice, flavor, name="gang", min_count=3, max_count=3)
    mine = [s["id"] for s in servers.of(alice) if s["name"].startswith("gang")]
    assert len(mine) == 3
    for uuid in mine:
        assert servers.settles(uuid)["status"] == "ERROR"
    boots = [scene.deployment.outcome(uuid) for uuid in mine]
    after = [successor_of(boot, servers) for boot in boots]
    assert len({server["id"] for server in after}) == 3
    assert sorted(server["name"] for server in after) == ["gang-1", "gang-2", "gang-3"]
    assert len(scene.programs("GANG")) == 3
    rescues += [measure("three at once", scene.cloud, scene.deployment, boot) for boot in boots]


def test_a_function_that_nobody_has_is_declined_with_the_reason(
    scene: Scene, admin: Connection, alice: Connection, servers: Servers
) -> None:
    answer = admin.placement.put("/traits/CUSTOM_FPGA_FUNCTION_AESS", microversion="1.39")
    assert answer.ok, answer.text
    programmed = len(scene.cloud.journal())
    failed = servers.fails(alice, servers.flavor(**scene.wants("AESS")))
    boot = scene.deployment.outcome(failed)
    assert boot.state is BootState.DECLINED
    assert "CUSTOM_FPGA_FUNCTION_AESS" in boot.reason.text
    assert len(scene.cloud.journal()) == programmed
    server = servers.get(failed)
    assert server is not None
    assert server["status"] == "ERROR"


def test_where_the_hosts_are_full_nothing_is_programmed(
    scene: Scene, alice: Connection, servers: Servers
) -> None:
    hog = servers.flavor(vcpus=1000)
    hogs = [servers.boot(alice, hog, name=f"hog{i}") for i in range(3)]
    on = {servers.settles(uuid)["OS-EXT-SRV-ATTR:host"]: uuid for uuid in hogs}
    assert sorted(on) == ["cmp1", "cmp2", "cmp3"]
    failed = servers.fails(alice, servers.flavor(**scene.wants("CPU")))

    def waits() -> Boot | None:
        boot = scene.deployment.boot_of(failed)
        return boot if boot is not None and boot.state is BootState.WAITING else None

    boot = eventually(waits)
    assert boot.reason.code == "unmet.hosts_cannot", boot.reason
    said = scene.deployment.says("explain", failed)
    assert "VCPU" in str(said), said
    assert not [c for c in scene.deployment.changeovers() if c.to_function == "CPU"]
    assert not scene.programs("CPU")
    # There is room again where there are cards: now a changeover helps, and is made.
    alice.compute.delete(f"/servers/{on['cmp1']}")
    successor_of(scene.deployment.outcome(failed), servers)
    assert len(scene.programs("CPU")) == 1


def test_a_card_in_use_is_left_alone_until_its_server_is_deleted(
    scene: Scene, alice: Connection, servers: Servers, rescues: list[Rescue]
) -> None:
    first = servers.fails(alice, servers.flavor(**scene.wants("LONEA")), name="first")
    user = successor_of(scene.deployment.outcome(first), servers)
    second = servers.fails(alice, servers.flavor(**scene.wants("LONEB")), name="second")

    def waits() -> Boot | None:
        boot = scene.deployment.boot_of(second)
        return boot if boot is not None and boot.state is BootState.WAITING else None

    boot = eventually(waits)
    said = scene.deployment.says("explain", second)
    assert user["id"] in str(said), said
    assert not scene.programs("LONEB")
    alice.compute.delete(f"/servers/{user['id']}")
    boot = scene.deployment.outcome(second)
    successor_of(boot, servers)
    rescues.append(measure("a card in use, until deleted", scene.cloud, scene.deployment, boot))


def test_a_server_deleted_during_the_changeover_is_not_created_again(
    scene: Scene, alice: Connection, servers: Servers
) -> None:
    failed = servers.fails(alice, servers.flavor(**scene.wants("DELETED")), name="gone")
    scene.programming("DELETED")
    alice.compute.delete(f"/servers/{failed}")
    boot = scene.deployment.outcome(failed)
    assert boot.state is BootState.CANCELLED, boot.reason.text
    scene.deployment.settled()
    assert not [server for server in servers.of(alice) if server["name"] == "gone"]
    (changeover,) = [c for c in scene.deployment.changeovers() if c.to_function == "DELETED"]
    assert changeover.state is ChangeoverState.DONE
    again = servers.boot(alice, servers.flavor(**scene.wants("DELETED")))
    assert servers.settles(again)["status"] == "ACTIVE"


def test_nova_is_down_when_the_boot_is_to_be_created_again(
    scene: Scene, alice: Connection, servers: Servers, rescues: list[Rescue]
) -> None:
    failed = servers.fails(alice, servers.flavor(**scene.wants("NOVADOWN")), name="patient")
    scene.programming("NOVADOWN")
    with scene.cloud.without("nova-api"):
        scene.deployment.settled()
        boot = scene.deployment.boot_of(failed)
        assert boot is not None
        assert boot.successor is None
    boot = scene.deployment.outcome(failed)
    successor_of(boot, servers)
    eventually(lambda: len([s for s in servers.of(alice) if s["name"] == "patient"]) == 1)
    rescues.append(measure("Nova was down meanwhile", scene.cloud, scene.deployment, boot))


def test_placement_is_killed_and_started_again_during_a_changeover(
    scene: Scene, alice: Connection, servers: Servers, rescues: list[Rescue]
) -> None:
    failed = servers.fails(alice, servers.flavor(**scene.wants("PLACEMENTDOWN")))
    scene.programming("PLACEMENTDOWN")
    with scene.cloud.without("placement", "SIGKILL"):
        eventually(lambda: _ended(scene, "PLACEMENTDOWN"))
    boot = scene.deployment.outcome(failed)
    successor_of(boot, servers)
    assert len(scene.programs("PLACEMENTDOWN")) == 1
    rescues.append(measure("Placement was killed meanwhile", scene.cloud, scene.deployment, boot))


def _ended(scene: Scene, function: str) -> bool:
    return any(
        entry["function"] == function and entry["event"] == "end" for entry in scene.cloud.journal()
    )


def test_an_operators_task_programs_idle_cards(scene: Scene) -> None:
    said = scene.deployment.says("program", "--function", "TASK", "--count", "2", "--host", "cmp1")
    assert said

    def done() -> bool:
        tasks = scene.deployment.says("tasks")
        return bool(tasks) and all(task["state"] == "done" for task in tasks)

    eventually(done, every=3.0)
    programmed = scene.programs("TASK")
    assert len(set(programmed)) == len(programmed) == 2
    assert all(key.startswith("cmp1.") for key in programmed)


def test_a_pools_floor_is_kept_and_kept_again(
    scene: Scene, alice: Connection, servers: Servers
) -> None:
    eventually(lambda: len(scene.programs("FLOOR")) == 1)
    scene.deployment.settled()
    # The floor's slot is there at once: this boot does not even fail. The next slot follows it.
    uuid = servers.boot(alice, servers.flavor(**scene.wants("FLOOR")))
    assert servers.settles(uuid)["status"] == "ACTIVE"
    eventually(lambda: len(scene.programs("FLOOR")) == 2)
    assert len(set(scene.programs("FLOOR"))) == 2
