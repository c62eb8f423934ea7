"""The port ``Servers``, held against the simulated Nova and the adapter of a real one.

The adapter speaks over HTTP to a loopback Nova whose servers are those of the simulated one.
Below that, the simulated Nova as its users see it.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from nova_service import NovaService, running

from changeover.models.blueprint import Blueprint
from changeover.models.errors import Invalid, NotFound, OutcomeUnknown, QuotaExceeded, Unreachable
from changeover.models.flavor import Flavor
from changeover.models.notification import (
    BuildFailed,
    Notification,
    ServerCreated,
    ServerDeleted,
    parse_notification,
)
from changeover.policies.request import request_of_spec
from changeover.worker.adapters.servers_nova import NovaServers
from changeover.worker.ports.placement import PlacementTenant
from changeover.worker.ports.servers import (
    MARKER,
    REPLACED_BY,
    REPLACES,
    Authority,
    Server,
    Servers,
    ServerStatus,
)
from changeover.worker.simulator.cards import SimulatedCards
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.simulator.fleet import Shape, build_fleet, describe_fleet
from changeover.worker.simulator.placement import MemoryPlacement
from changeover.worker.simulator.servers import ServersFault, SimulatedServers

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::openstack.warnings.{name}")
    for name in ("RemovedInSDK50Warning", "RemovedInSDK60Warning")  # of the SDK's, about itself
]

DATA = Path(__file__).parents[1] / "data" / "notifications"
SHAPE = Shape(hosts=2, fpga_cards=2, gpus=1, dynamic_cards=1, regions=2)
AES, GZIP = "fpga1", "fpga2"
NOWHERE = "00000000-0000-0000-0000-00000000dead"


class Cloud:
    """A small cloud: a card with aes, one with gzip, a GPU, two regions."""

    def __init__(self, path: str | Path = ":memory:", **knobs: Any) -> None:
        self.clock = VirtualClock()
        self.placement: PlacementTenant = MemoryPlacement()
        self.heard: list[Notification] = []
        self.servers = SimulatedServers(
            path, self.placement, self.clock, self.hear, seed=1, **knobs
        )
        self.fleet = build_fleet(self.placement, None, self.servers, SHAPE)

    def hear(self, message: Mapping[str, Any]) -> None:
        self.heard.append(parse_notification(json.dumps(message)))

    def failed(self, flavor: str = "fpga.sha3", **more: Any) -> Server:
        (uuid,) = self.servers.boot("s", flavor, **more)
        found = self.servers.get(uuid)
        assert found is not None
        assert found.no_valid_host
        return found

    def events(self, kind: type[Notification]) -> list[Any]:
        return [event for event in self.heard if isinstance(event, kind)]

    def provider(self, device: str) -> str:
        found = self.fleet.catalog.device(device)
        assert found is not None
        return found.provider


def create_like(servers: Servers, failed: Server, marker: str) -> str:
    """Create the failed server's successor."""
    assert failed.blueprint is not None
    return servers.create(
        failed.blueprint,
        marker,
        project=failed.project,
        user=failed.user,
        replaces=failed.uuid,
    )


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud()
    yield made
    made.servers.close()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Cloud]:
    """A cloud whose servers are in a file."""
    made = Cloud(tmp_path / "servers.sqlite")
    yield made
    made.servers.close()


@dataclass
class Api:
    """The port as the simulator has it, or as the adapter of a real Nova has it over HTTP."""

    servers: Servers
    cloud: Cloud
    nova: NovaService | None = None

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nothing reaches it."""
        if self.nova is None:
            self.cloud.servers.inject(ServersFault.API_DOWN, times=None)
        else:
            self.servers.host_up("host1")  # its version and endpoint are known: Keystone still is
            self.nova.close()
        yield
        if self.nova is None:
            self.cloud.servers.clear_faults()
        else:
            self.nova.open(self.nova.port)

    @contextmanager
    def cell_down(self) -> Iterator[None]:
        """The cell that the hosts are in does not answer."""
        if self.nova is None:
            self.cloud.servers.inject(ServersFault.CELL_DOWN)
            yield
        else:
            self.nova.faults.cell_down = True
            yield
            self.nova.faults.cell_down = False


@pytest.fixture(params=["simulated", "nova"])
def api(
    request: pytest.FixtureRequest,
    cloud: Cloud,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Api]:
    if request.param == "simulated":
        yield Api(cloud.servers, cloud)
        return
    with running(cloud.servers) as service:
        service.trust("bob", "p1")
        service.trust("alice", "demo")
        clouds = tmp_path / "clouds.yaml"
        clouds.write_text(service.clouds_yaml(), encoding="utf-8")
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(clouds))
        servers = NovaServers.from_cloud(
            "loop", cloud.clock, longest_request_seconds=cloud.servers.longest_request_seconds
        )
        yield Api(servers, cloud, service)
        servers.close()


@pytest.fixture
def servers(api: Api) -> Servers:
    return api.servers


def seen(servers: Servers, server: Server) -> Server:
    """The server as the port shows it."""
    found = servers.get(server.uuid)
    assert found is not None
    return found


# ---------------------------------------------------------------- the contract


def test_a_server_that_is_not_there(servers: Servers) -> None:
    assert servers.get(NOWHERE) is None
    servers.delete(NOWHERE)
    with pytest.raises(NotFound):
        servers.link(NOWHERE, {"a": "b"})
    assert servers.find("m", "demo", 0.0).servers == ()


def test_create_makes_a_successor_with_its_links(cloud: Cloud, servers: Servers) -> None:
    more = {"key_name": "k", "user_data": "dTo=", "tags": ["t"], "networks": [{"uuid": "n1"}]}
    failed = seen(servers, cloud.failed(project="p1", user="bob", metadata={"m": "v"}, **more))
    assert "networks" in failed.lost
    assert failed.blueprint is not None
    assert failed.blueprint.networks is None
    uuid = create_like(servers, failed, "marker-1")
    made = servers.get(uuid)
    assert made is not None
    assert made.uuid != failed.uuid
    assert (made.name, made.project, made.user) == ("s", "p1", "bob")
    assert made.metadata == {"m": "v", MARKER: "marker-1", REPLACES: failed.uuid}
    assert made.blueprint == failed.blueprint
    listing = servers.find("marker-1", "p1", 0.0)
    assert listing.complete
    assert [s.uuid for s in listing.servers] == [uuid]
    assert servers.find("marker-1", "p2", 0.0).servers == ()
    assert servers.find("marker-2", "p1", 0.0).servers == ()


def test_a_successor_builds_once_there_is_capacity(cloud: Cloud, servers: Servers) -> None:
    (holder,) = cloud.servers.boot("holder", "fpga.aes")
    failed = seen(servers, cloud.failed("fpga.aes"))
    cloud.servers.user_delete(holder)
    successor = servers.get(create_like(servers, failed, "m"))
    assert successor is not None
    assert successor.status is ServerStatus.ACTIVE
    assert successor.host == "host1"
    created = cloud.events(ServerCreated)[-1]
    assert created.server == successor.uuid
    assert created.metadata[MARKER] == "m"


def test_link_and_delete(cloud: Cloud, servers: Servers) -> None:
    (uuid,) = cloud.servers.boot("s", "plain", metadata={"a": "1"})
    servers.link(uuid, {"b": "2"})
    linked = servers.get(uuid)
    assert linked is not None
    assert linked.metadata == {"a": "1", "b": "2"}
    assert servers.delete(uuid) is True
    assert servers.get(uuid) is None
    assert servers.delete(uuid) is False
    assert [event.server for event in cloud.events(ServerDeleted)] == [uuid]
    with pytest.raises(NotFound):
        servers.link(uuid, {"c": "3"})


def test_a_failed_server_takes_a_link(cloud: Cloud, servers: Servers) -> None:
    """Nova takes no metadata in ERROR: what matters is that it is said, and harms nothing."""
    failed = cloud.failed(metadata={"a": "1"})
    for _ in range(2):
        servers.link(failed.uuid, {REPLACED_BY: "x"})
    linked = seen(servers, failed)
    assert linked.blueprint is not None
    said = linked.blueprint.description or ""
    assert linked.metadata.get(REPLACED_BY) == "x" or said == f"{REPLACED_BY}=x"


def test_in_whose_name(servers: Servers) -> None:
    assert servers.authority("demo", "alice") is Authority.OWNER


def test_hosts(cloud: Cloud, servers: Servers) -> None:
    assert servers.host_up("host1") is True
    assert servers.host_up("nowhere") is None
    cloud.servers.set_host("host1", up=False)
    assert servers.host_up("host1") is False


def test_api_down_does_nothing(cloud: Cloud, api: Api) -> None:
    servers = api.servers
    failed = seen(servers, cloud.failed())
    calls: list[Callable[[], object]] = [
        lambda: servers.get(failed.uuid),
        lambda: create_like(servers, failed, "m"),
        lambda: servers.find("m", "demo", 0.0),
        lambda: servers.link(failed.uuid, {"a": "b"}),
        lambda: servers.delete(failed.uuid),
        lambda: servers.host_up("host1"),
    ]
    with api.down():
        for call in calls:
            with pytest.raises(Unreachable):
                call()
    assert servers.find("m", "demo", 0.0).servers == ()
    assert servers.get(failed.uuid) == failed


@pytest.mark.parametrize(
    ("fault", "at_once", "later"),
    [
        (ServersFault.CREATE_LOST, 0, 0),
        (ServersFault.CREATE_DONE, 1, 1),
        (ServersFault.CREATE_LATE, 0, 1),
    ],
)
def test_an_unanswered_create(
    cloud: Cloud, servers: Servers, fault: ServersFault, at_once: int, later: int
) -> None:
    failed = seen(servers, cloud.failed())
    cloud.servers.inject(fault)
    with pytest.raises(OutcomeUnknown):
        create_like(servers, failed, "m")
    assert len(servers.find("m", "demo", 0.0).servers) == at_once
    cloud.clock.sleep(servers.longest_request_seconds)
    assert len(servers.find("m", "demo", 0.0).servers) == later


def test_a_deleted_successor_is_found(cloud: Cloud, servers: Servers) -> None:
    failed = seen(servers, cloud.failed())
    since = cloud.clock.now()
    uuid = create_like(servers, failed, "m")
    cloud.clock.advance(10.0)
    cloud.servers.user_delete(uuid)
    cloud.clock.advance(10.0)
    listing = servers.find("m", "demo", since)
    assert [(s.uuid, s.status) for s in listing.servers] == [(uuid, ServerStatus.DELETED)]
    assert listing.complete
    assert servers.find("n", "demo", since).servers == ()


def test_an_unanswered_delete(cloud: Cloud, servers: Servers) -> None:
    failed = cloud.failed()
    cloud.servers.inject(ServersFault.DELETE_DONE)
    with pytest.raises(OutcomeUnknown):
        servers.delete(failed.uuid)
    assert servers.get(failed.uuid) is None


def test_a_listing_says_when_a_cell_is_down(cloud: Cloud, api: Api) -> None:
    servers = api.servers
    failed = seen(servers, cloud.failed())
    plain = Blueprint(name="plain", flavor="plain")
    built = servers.create(plain, "m", project="demo", user="alice")
    again = create_like(servers, failed, "m")
    with api.cell_down():
        listing = servers.find("m", "demo", 0.0)
    assert not listing.complete
    assert [s.uuid for s in listing.servers] == [again]
    listing = servers.find("m", "demo", 0.0)
    assert listing.complete
    assert {s.uuid for s in listing.servers} == {built, again}


def test_failures_are_found_without_being_told(cloud: Cloud, servers: Servers) -> None:
    before = cloud.clock.now()
    cloud.clock.advance(1.0)
    failed = cloud.failed()
    cloud.servers.boot("fits", "fpga.aes")
    gone = cloud.failed()
    cloud.servers.user_delete(gone.uuid)
    [found] = servers.failed_since(before)
    [told] = [n for n in cloud.heard if isinstance(n, BuildFailed) and n.server == failed.uuid]
    assert (found.server, found.project, found.exception) == (
        told.server,
        told.project,
        "NoValidHost",
    )
    assert found.spec is not None
    assert told.spec is not None
    assert request_of_spec(found.spec) == request_of_spec(told.spec)
    assert servers.failed_since(cloud.clock.now() + 1.0) == []


def test_quota_counts_failed_servers(cloud: Cloud, servers: Servers) -> None:
    failed = seen(servers, cloud.failed())
    cloud.servers.set_quota("demo", 1)
    with pytest.raises(QuotaExceeded, match="Quota exceeded"):
        create_like(servers, failed, "m")
    servers.delete(failed.uuid)
    create_like(servers, failed, "m")
    cloud.servers.set_quota("demo", 9)
    cloud.servers.inject(ServersFault.QUOTA)
    with pytest.raises(QuotaExceeded, match="Quota exceeded"):
        create_like(servers, failed, "m")


# ---------------------------------------------------------------- as users see it


def test_a_boot_claims_and_notifies(cloud: Cloud) -> None:
    (uuid,) = cloud.servers.boot("s", "fpga.aes")
    held = cloud.placement.held(uuid)
    assert held[cloud.provider(AES)] == {"CUSTOM_FPGA": 1}
    (created,) = cloud.events(ServerCreated)
    assert (created.server, created.host) == (uuid, "host1")
    cloud.servers.user_delete(uuid)
    assert not cloud.placement.held(uuid)
    assert [event.server for event in cloud.events(ServerDeleted)] == [uuid]


def test_a_failed_boot_is_told_as_nova_tells_it(cloud: Cloud) -> None:
    failed = cloud.failed("fpga.sha3")
    (event,) = cloud.events(BuildFailed)
    assert event.server == failed.uuid
    assert event.spec.flavor.name == "fpga.sha3"
    assert not cloud.placement.held(failed.uuid)


def test_multi_create_fails_together_and_names_the_first(cloud: Cloud) -> None:
    raw: list[Mapping[str, Any]] = []
    cloud.servers._emit = raw.append
    uuids = cloud.servers.boot("s", "fpga.aes", count=3)  # there is room for one
    errors = [m for m in raw if m["event_type"] == "compute_task.build_instances.error"]
    payloads = [m["payload"]["nova_object.data"] for m in errors]
    specs = [p["request_spec"]["nova_object.data"] for p in payloads]
    assert [p["instance_uuid"] for p in payloads] == uuids
    assert {s["instance_uuid"] for s in specs} == {uuids[0]}
    assert {s["num_instances"] for s in specs} == {3}
    assert len({m["_context_request_id"] for m in errors}) == 1
    assert len({m["message_id"] for m in raw}) == len(raw)
    assert not any(cloud.placement.held(uuid) for uuid in uuids)
    assert [s.name for s in cloud.servers.servers()] == ["s-1", "s-2", "s-3"]


def test_preferred_traits_rank_regions(cloud: Cloud) -> None:
    """Region 1 holds aes, region 2 gzip: each boot gets the one that it prefers, then any."""
    first = [cloud.servers.boot("s", "region.gzip")[0] for _ in range(2)]
    held = [next(p for p in cloud.placement.held(u) if p != SHAPE.uuid("host1")) for u in first]
    assert held == [cloud.provider("dyn1-r2"), cloud.provider("dyn1-r1")]
    assert cloud.failed("region.gzip")


def test_down_hosts_and_zones(cloud: Cloud) -> None:
    cloud.servers.set_host("host1", up=False)
    assert cloud.failed("fpga.aes")
    cloud.servers.set_host("host1", up=True, zone="az1")
    assert cloud.failed("fpga.aes", availability_zone="az2")
    (uuid,) = cloud.servers.boot("s", "fpga.aes", availability_zone="az1")
    assert cloud.placement.held(uuid)


def test_forced_hosts(cloud: Cloud) -> None:
    assert cloud.failed("fpga.aes", host="host2")
    (uuid,) = cloud.servers.boot("s", "plain", host="host2")
    made = cloud.servers.get(uuid)
    assert made is not None
    assert made.host == "host2"


def test_bad_requests_are_refused_at_once(cloud: Cloud) -> None:
    with pytest.raises(NotFound, match="no flavor nope"):
        cloud.servers.boot("s", "nope")
    cloud.servers.add_flavor(
        Flavor(name="p", vcpus=1, memory_mb=1, root_gb=1, extra_specs={"accel:device_profile": "x"})
    )
    with pytest.raises(Invalid, match="no device profile x"):
        cloud.servers.boot("s", "p")
    assert cloud.servers.servers() == []


def test_seeded_choices_repeat() -> None:
    def run() -> list[tuple[str, str | None]]:
        cloud = Cloud()
        for _ in range(8):
            cloud.servers.boot("s", "plain")
        found = [(s.uuid, s.host) for s in cloud.servers.servers()]
        cloud.servers.close()
        return found

    first = run()
    assert first == run()
    assert {host for _, host in first} == {"host1", "host2"}


def test_a_lost_notification_is_journaled(cloud: Cloud) -> None:
    def broken(_: Mapping[str, Any]) -> None:
        raise ConnectionError

    cloud.servers._emit = broken
    cloud.failed()
    lost = [e for e in cloud.servers.journal() if e["event"] == "notification_lost"]
    assert [e["event_type"] for e in lost] == [
        "instance.update",
        "compute_task.build_instances.error",
    ]


def test_the_journal_tells_all_and_is_kept(cloud: Cloud) -> None:
    (uuid,) = cloud.servers.boot("s", "fpga.aes")
    cloud.servers.user_delete(uuid)
    cloud.failed()
    assert cloud.servers.journal()[-1]["event"] == "failed"
    journal = cloud.servers.journal()[:-2]
    assert [e["event"] for e in journal] == ["create", "claimed", "active", "deleted"]
    assert journal[1]["allocations"][cloud.provider(AES)] == {"CUSTOM_FPGA": 1}
    with pytest.raises(sqlite3.IntegrityError, match="append-only"), cloud.servers._tx() as db:
        db.execute("DELETE FROM journal")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"), cloud.servers._tx() as db:
        db.execute("UPDATE journal SET t = 0")


def test_a_captured_failure_can_be_tried_again(cloud: Cloud) -> None:
    lines = (DATA / "novalidhost_three_servers.jsonl").read_text().splitlines()
    parsed = [parse_notification(json.dumps(json.loads(line)["message"])) for line in lines]
    failures = [event for event in parsed if isinstance(event, BuildFailed)]
    for failure in [*failures, failures[0]]:
        cloud.servers.add_failed(failure)
    assert len(cloud.servers.servers()) == 3
    failed = cloud.servers.get(failures[0].server)
    assert failed is not None
    assert failed.no_valid_host
    successor = cloud.servers.get(create_like(cloud.servers, failed, "m"))
    assert successor is not None
    assert successor.status is ServerStatus.ACTIVE  # fpga1 has aes
    assert successor.user == failures[0].user
    with pytest.raises(Invalid, match="request_spec"):
        cloud.servers.add_failed(replace(failures[0], spec=None))


# ---------------------------------------------------------------- several at once


def test_threads_never_share_a_slot(cloud: Cloud) -> None:
    threads = [
        threading.Thread(target=cloud.servers.boot, args=("s", "fpga.gzip")) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = Counter(s.status for s in cloud.servers.servers())
    assert statuses == {ServerStatus.ACTIVE: 2, ServerStatus.ERROR: 10}


def test_processes_share_one_file(shared: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "servers.sqlite"
    cloud = shared
    (uuid,) = cloud.servers.boot("mine", "plain")
    script = """
import sys
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.simulator.placement import MemoryPlacement
from changeover.worker.simulator.servers import SimulatedServers
servers = SimulatedServers(sys.argv[1], MemoryPlacement(), SystemClock())
assert servers.get(sys.argv[2]).name == "mine"
servers.boot("theirs", "plain")
servers.close()
"""
    subprocess.run([sys.executable, "-c", script, str(path), uuid], check=True)
    theirs = cloud.servers.servers()[-1]
    assert (theirs.name, theirs.no_valid_host) == ("theirs", True)
    assert len({s.uuid for s in cloud.servers.servers()}) == 2


FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child uses no thread


@FORKS
def test_a_fork_opens_the_file_anew(shared: Cloud) -> None:
    cloud = shared
    child = os.fork()
    if child == 0:
        try:
            cloud.servers.boot("child", "plain")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert [s.name for s in cloud.servers.servers()] == ["child"]


@FORKS
@pytest.mark.parametrize("claimed", [False, True])
def test_who_dies_while_building_is_succeeded(shared: Cloud, *, claimed: bool) -> None:
    cloud = shared
    child = os.fork()
    if child == 0:
        try:
            cloud.servers._placement = Deadly()
            cloud.servers.boot("s", "fpga.aes")
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    (building,) = cloud.servers.servers()
    assert building.status is ServerStatus.BUILD
    if claimed:
        given = {cloud.provider(AES): {"CUSTOM_FPGA": 1}}
        assert cloud.placement.claim(building.uuid, given, project="demo", user="u")
    found = cloud.servers.get(building.uuid)
    assert found is not None
    assert (found.status, found.host) == (ServerStatus.ACTIVE, "host1")
    assert [e.server for e in cloud.events(ServerCreated)] == [building.uuid]


BUILDER = """
import sys
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.simulator.placement import MemoryPlacement
from changeover.worker.simulator.servers import SimulatedServers

class Slow(MemoryPlacement):
    def held(self, consumer):
        print("building", flush=True)
        sys.stdin.read()
        raise AssertionError

SimulatedServers(sys.argv[1], Slow(), SystemClock()).boot("s", "fpga.aes")
"""


def test_a_builder_is_known_to_live_where_its_process_is_not_seen(
    shared: Cloud, tmp_path: Path
) -> None:
    """As between containers: they have the files in common, and no process ids."""
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("no process namespaces can be made here")
    builder = subprocess.Popen(
        [*apart, sys.executable, "-c", BUILDER, tmp_path / "servers.sqlite"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == b"building\n"
        (building,) = shared.servers.servers()
        found = shared.servers.get(building.uuid)
        assert found is not None
        assert found.status is ServerStatus.BUILD
        builder.kill()
        assert builder.stdout.read() == b""  # it is gone, not only the one that was killed
    found = shared.servers.get(building.uuid)
    assert found is not None
    assert (found.status, found.host) == (ServerStatus.ACTIVE, "host1")
    assert not list((tmp_path / "servers.builds").iterdir())


class Deadly(MemoryPlacement):
    """Kills the process that asks it for a server's allocations."""

    def held(self, consumer: str) -> Mapping[str, Mapping[str, int]]:
        del consumer
        os.kill(os.getpid(), 9)
        raise AssertionError


# ---------------------------------------------------------------- the fleet


def test_the_fleet_is_built_once_and_left_alone(tmp_path: Path) -> None:
    placement: PlacementTenant = MemoryPlacement()
    cards = SimulatedCards(tmp_path, VirtualClock())
    fleet = build_fleet(placement, cards)
    devices = fleet.catalog.devices
    assert len(placement.providers()) == 4 + len(devices)
    for device in devices:
        function = fleet.initial[device.name]
        assert cards.function(device.name) == function
        state = placement.state(device.provider)
        model = fleet.catalog.models[device.model]
        wanted = set(model.traits)
        if function:
            wanted |= set(fleet.catalog.functions[function].traits)
        assert state.traits == wanted
        if model.mode == "single_program":
            assert bool(state.inventories) is bool(function)
        else:
            assert state.inventories["CUSTOM_FPGA_REGION"].capacity == 1

    changed = devices[0]
    state = placement.state(changed.provider)
    placement.put_inventories(changed.provider, state.generation, {})
    before = {d.provider: placement.state(d.provider) for d in devices}
    assert build_fleet(placement, cards) == fleet
    assert {d.provider: placement.state(d.provider) for d in devices} == before


def test_an_interrupted_build_of_the_fleet_is_completed() -> None:
    class Tired(MemoryPlacement):
        left = 20

        def put_traits(self, *args: Any, **more: Any) -> int:
            self.left -= 1
            if not self.left:
                raise Unreachable("tired")
            return super().put_traits(*args, **more)

    placement = Tired()
    with pytest.raises(Unreachable):
        build_fleet(placement)
    build_fleet(placement)
    other: PlacementTenant = MemoryPlacement()
    build_fleet(other)
    for device in describe_fleet().catalog.devices:
        ours, theirs = placement.state(device.provider), other.state(device.provider)
        assert (ours.inventories, ours.traits) == (theirs.inventories, theirs.traits)
