"""The adapter of a real Nova, where the port's contract does not reach: statuses, pages, names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nova_service import SERVICE_USER, NovaService, running
from structlog.testing import capture_logs

from changeover.models.blueprint import Blueprint
from changeover.models.errors import (
    AskOperator,
    ChangeoverError,
    Garbled,
    Invalid,
    NotFound,
    OutcomeUnknown,
    QuotaExceeded,
    Refuse,
    Unreachable,
)
from changeover.models.flavor import Flavor
from changeover.policies.aggregates import of_tenant, of_zone
from changeover.policies.consent import Losses, successor
from changeover.worker.adapters import nova_wire, servers_nova
from changeover.worker.adapters.nova_wire import ShownServer, create_body
from changeover.worker.adapters.owners import trusts_of
from changeover.worker.adapters.servers_nova import NovaServers
from changeover.worker.adapters.service_http import WrongFormError
from changeover.worker.ports.servers import MARKER, Authority, ServerStatus, request_id_of
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.simulator.placement import MemoryPlacement
from changeover.worker.simulator.servers import SimulatedServers

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::openstack.warnings.{name}")
    for name in ("RemovedInSDK50Warning", "RemovedInSDK60Warning")  # of the SDK's, about itself
]

RECORDED = Path(__file__).parents[1] / "data" / "nova"
BLUEPRINT = Blueprint(name="s", flavor="nowhere", image="tiny")
NOWHERE = Flavor(
    name="nowhere", vcpus=1, memory_mb=1, root_gb=1, extra_specs={"resources:CUSTOM_X": "1"}
)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def nova(clock: VirtualClock) -> Iterator[NovaService]:
    simulated = SimulatedServers(":memory:", MemoryPlacement(), clock, seed=1)
    simulated.add_flavor(NOWHERE)
    with running(simulated) as service:
        service.trust("alice", "demo")
        yield service
    simulated.close()


@pytest.fixture
def servers(
    nova: NovaService, clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[NovaServers]:
    clouds = tmp_path / "clouds.yaml"
    clouds.write_text(nova.clouds_yaml(), encoding="utf-8")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(clouds))
    made = NovaServers.from_cloud("loop", clock, longest_request_seconds=5.0)
    yield made
    made.close()


def create(servers: NovaServers, blueprint: Blueprint = BLUEPRINT, marker: str = "m") -> str:
    return servers.create(blueprint, marker, project="demo", user="alice")


def recorded(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- what a status means


@pytest.mark.parametrize(
    ("status", "name", "read", "write"),
    [
        (400, "create_key_of_other", Invalid, Invalid),
        (401, None, AskOperator, AskOperator),
        (403, "quota", QuotaExceeded, QuotaExceeded),
        (403, None, AskOperator, Refuse),
        (409, "metadata_on_error", Refuse, Refuse),
        (400, None, Garbled, OutcomeUnknown),
        (404, None, Garbled, OutcomeUnknown),
        (408, None, Unreachable, OutcomeUnknown),
        (413, None, Invalid, Invalid),
        (429, None, Unreachable, Unreachable),
        (500, "networks_auto", Unreachable, OutcomeUnknown),
        (502, None, Unreachable, OutcomeUnknown),
        (503, None, Unreachable, OutcomeUnknown),
        (504, None, Unreachable, OutcomeUnknown),
    ],
)
def test_errors_are_sorted(
    nova: NovaService,
    servers: NovaServers,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    name: str | None,
    read: type[ChangeoverError],
    write: type[ChangeoverError],
) -> None:
    uuid = create(servers)
    monkeypatch.setattr(servers, "_flavor_id", lambda flavor, _: f"id-of-{flavor}")
    nova.faults.status = status
    if name is not None:
        nova.faults.body = json.dumps(recorded(name)["body"]).encode()
    with pytest.raises(read) as found:
        servers.get(uuid)
    assert type(found.value) is read
    with pytest.raises(write) as found:
        create(servers, marker="m2")
    assert type(found.value) is write
    if name is not None:
        said = next(iter(recorded(name)["body"].values()))["message"]
        assert " ".join(said.split()) in found.value.message


def test_a_create_is_sent_once_and_an_answer_that_means_nothing_is_unknown(
    nova: NovaService, servers: NovaServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(servers, marker="m1")
    monkeypatch.setattr(servers, "_flavor_id", lambda flavor, _: f"id-of-{flavor}")
    nova.faults.status, nova.faults.body = 202, b"<html>"
    with pytest.raises(OutcomeUnknown):
        create(servers, marker="m2")
    nova.faults.body = b'{"server": {}}'
    with pytest.raises(OutcomeUnknown):
        create(servers, marker="m2")
    nova.faults.status = None
    nova.faults.silent = {"POST"}
    with pytest.raises(OutcomeUnknown):
        create(servers, marker="m3")
    assert nova.asked["POST /v2.1/servers"] == 4
    assert len(servers.find("m3", "demo", 0.0).servers) == 1


def test_an_answer_to_a_read_that_means_nothing(nova: NovaService, servers: NovaServers) -> None:
    uuid = create(servers)
    nova.faults.status, nova.faults.body = 200, b'{"server": {"status": "ACTIVE", "id": 7}}'
    with pytest.raises(Garbled, match=r"server\.id"):
        servers.get(uuid)


def test_keystone_down_sends_nothing(nova: NovaService, servers: NovaServers) -> None:
    nova.close()
    try:
        with pytest.raises(Unreachable, match="Keystone does not answer"):
            create(servers)
    finally:
        nova.open(nova.port)
    assert create(servers)


def test_a_create_that_took_too_long_to_prepare_is_not_sent(
    nova: NovaService, servers: NovaServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert servers.longest_request_seconds == 5.0 + servers_nova.PREPARING
    monkeypatch.setattr(servers_nova, "PREPARING", -1.0)
    with pytest.raises(Unreachable, match="nothing was sent"):
        create(servers)
    assert nova.bodies == []


# ---------------------------------------------------------------- in whose name


def test_a_trust_makes_the_server_its_owners(nova: NovaService, servers: NovaServers) -> None:
    uuid = create(servers, BLUEPRINT.model_copy(update={"key_name": "k"}))
    made = servers.get(uuid)
    assert made is not None
    assert (made.user, made.project) == ("alice", "demo")
    assert nova.bodies[-1]["server"]["key_name"] == "k"
    assert nova.bodies[-1]["server"]["tags"] == [f"{MARKER}=m"]


@pytest.mark.parametrize(
    "change",
    [
        {"impersonation": False},
        {"expires_at": "2020-01-01T00:00:00.000000Z"},
        {"project_id": "other"},
        {"trustor_user_id": "bob"},
    ],
)
def test_other_trusts_do_not_count(
    nova: NovaService, servers: NovaServers, change: dict[str, Any]
) -> None:
    nova.trusts[0].update(change)
    assert servers.authority("demo", "alice") is Authority.NOBODY
    with pytest.raises(AskOperator, match="its owner gives a trust"):
        create(servers)
    nova.roles.add("demo")
    assert servers.authority("demo", "alice") is Authority.SERVICE
    made = servers.get(create(servers))
    assert made is not None
    assert (made.user, made.project) == (SERVICE_USER, "demo")
    with pytest.raises(Invalid, match="Invalid key_name"):
        create(servers, BLUEPRINT.model_copy(update={"key_name": "k"}))


def test_the_recorded_trust() -> None:
    [trust] = trusts_of(recorded("trusts")["body"])
    owner, project = "80880f09516549d29f3dbf2945b6fad0", "67700118ecef4da99b044f9b5f2b852d"
    assert trust.covers(project, owner, 0.0)
    assert not trust.covers(project, SERVICE_USER, 0.0)


def test_a_trust_that_was_taken_back(nova: NovaService, servers: NovaServers) -> None:
    assert servers.authority("demo", "alice") is Authority.OWNER
    nova.trusts.clear()
    assert servers.authority("demo", "alice") is Authority.NOBODY


def test_a_trust_is_withdrawn_in_its_givers_name(nova: NovaService, servers: NovaServers) -> None:
    made = nova.trust("bob", "p1")
    expired = nova.trust("bob", "p2", expires_at="1970-01-01T00:00:00.000000Z")
    assert servers.authority("p1", "bob") is Authority.OWNER
    nova.forbid.add("DELETE")
    with pytest.raises(AskOperator, match="403"):
        servers.withdraw(made["id"])
    nova.forbid.clear()
    for _ in range(2):  # the second time it is gone
        servers.withdraw(made["id"])
    servers.withdraw(expired["id"])
    assert made not in nova.trusts
    assert servers.authority("p1", "bob") is Authority.NOBODY
    assert servers.authority("demo", "alice") is Authority.OWNER


def test_owners_servers_are_deleted_in_their_names(
    nova: NovaService, servers: NovaServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = create(servers)
    assert servers.delete(uuid)
    assert nova.callers["DELETE"] == [("alice", "demo")]
    hidden = create(servers, marker="m2")
    nova.trusts.clear()
    monkeypatch.setattr(nova, "forbid", {"DELETE"})
    with pytest.raises(Refuse, match="may see this server, not delete it"):
        servers.delete(hidden)
    assert nova.callers["DELETE"][-1][0] == SERVICE_USER


# ---------------------------------------------------------------- listings


def test_a_server_that_is_only_listed_is_not_gone(nova: NovaService, servers: NovaServers) -> None:
    create(servers)
    uuid = create(servers)
    nova.forbid.add("GET")
    found = servers.get(uuid)
    assert found is not None
    assert found.uuid == uuid
    assert servers.asked(uuid) is not None
    nova.filters = False
    with pytest.raises(AskOperator, match="allow_all_filters"):
        servers.get(uuid)
    nova.filters = True
    nova.servers.user_delete(uuid)
    assert servers.get(uuid) is None


def test_a_server_of_others_is_listed_before_it_is_scheduled(
    nova: NovaService, servers: NovaServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = create(servers)
    nova.deny.add("GET")
    found = servers.get(uuid)
    assert found is not None
    assert found.uuid == uuid
    # It is there, and who may not see it must not take it for gone.
    monkeypatch.setattr(nova, "listing", lambda *_, **__: {"servers": []})
    with pytest.raises(AskOperator, match="servers:show"):
        servers.get(uuid)


def test_short_pages_of_flavors_are_followed(nova: NovaService, servers: NovaServers) -> None:
    nova.page = 1  # [api] max_limit
    for name in ("a", "b", "zz"):
        nova.servers.add_flavor(NOWHERE.model_copy(update={"name": name}))
    assert create(servers)


def test_pages_are_followed(nova: NovaService, servers: NovaServers, clock: VirtualClock) -> None:
    nova.page = 2
    made = {create(servers, marker=f"m{n}") for n in range(5)}
    assert {found.server for found in servers.failed_since(clock.now() - 1.0)} == made
    assert [s.uuid in made for s in servers.find("m3", "demo", 0.0).servers] == [True]


def test_one_strange_server_hides_no_other(
    nova: NovaService, servers: NovaServers, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange, fine = create(servers, marker="m1"), create(servers, marker="m2")
    real = nova.shown

    def shown(server: Any) -> dict[str, Any]:
        value = real(server)
        return {**value, "flavor": None} if server.uuid == strange else value

    monkeypatch.setattr(nova, "shown", shown)
    assert [f.server for f in servers.failed_since(clock.now() - 1.0)] == [fine]


@pytest.mark.parametrize(
    ("shown", "warned"),
    [
        ({"OS-SRV-USG:launched_at": None}, False),
        # It ran, was shelved or is to be evacuated, and no host could take it then.
        ({"OS-SRV-USG:launched_at": "2026-11-26T00:57:59.000000"}, False),
        # Where it is, this user may not see.
        ({"OS-EXT-SRV-ATTR:host": ...}, True),
    ],
)
def test_a_server_that_ran_is_no_failed_build(
    nova: NovaService,
    servers: NovaServers,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
    shown: dict[str, Any],
    *,
    warned: bool,
) -> None:
    create(servers)
    real = nova.shown

    def shows(server: Any) -> dict[str, Any]:
        return {k: v for k, v in {**real(server), **shown}.items() if v is not ...}

    monkeypatch.setattr(nova, "shown", shows)
    with capture_logs() as logs:
        found = servers.failed_since(clock.now() - 1.0)
    assert len(found) == (shown.get("OS-SRV-USG:launched_at", "") is None)
    assert ["os-extended-server-attributes" in log["why"] for log in logs] == [True] * warned


def test_a_signed_image_hides_no_failed_server(
    nova: NovaService, servers: NovaServers, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(servers)
    real = nova.shown
    signed = {"hw_disk_bus": "virtio", "img_signature": "x" * 344}

    def shows(server: Any) -> dict[str, Any]:
        return {**real(server), "image": {"id": "tiny", "properties": signed}}

    monkeypatch.setattr(nova, "shown", shows)
    (found,) = servers.failed_since(clock.now() - 1.0)
    assert found.spec is not None
    assert found.spec.image is not None
    assert found.spec.image.properties.texts == {"hw_disk_bus": "virtio"}


def test_a_nova_of_two_releases_is_asked_in_what_both_speak(
    nova: NovaService, servers: NovaServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = create(servers)
    nova.faults.status = 406
    monkeypatch.setattr(servers, "_flavor_id", lambda flavor, _: f"id-of-{flavor}")
    with pytest.raises(Unreachable, match="asked anew"):
        create(servers, marker="m2")
    nova.faults.status, nova.version = None, "2.96"
    assert servers.get(uuid) is not None
    assert servers._versions.spoken() == (2, 96)


def test_a_host_is_known_by_its_full_name_too(nova: NovaService, servers: NovaServers) -> None:
    nova.servers.set_host("cmp1", up=False)
    nova.servers.set_host("cmp2.example.org", up=False)
    assert servers.host_up("cmp1.example.org") is False
    assert servers.host_up("cmp2") is False
    assert servers.host_up("cmp3") is None


def test_a_keystone_in_trouble_is_no_refusal(
    nova: NovaService, servers: NovaServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    nova.trusts.clear()
    assert servers.authority("demo", "alice") is Authority.NOBODY
    real = nova.issue
    for status in (429, 503):
        monkeypatch.setattr(nova, "issue", lambda _, status=status: (status, {}, ""))
        with pytest.raises(Unreachable):
            servers.authority("another", "alice")
    monkeypatch.setattr(nova, "issue", lambda _: (404, {}, ""))
    with pytest.raises(AskOperator):
        servers.authority("another", "alice")
    monkeypatch.setattr(nova, "issue", real)
    assert servers.authority("another", "alice") is Authority.NOBODY


def test_a_full_page_asks_the_hosts_whether_cells_are_down(
    nova: NovaService, servers: NovaServers
) -> None:
    nova.servers.set_host("cmp1", up=True)
    create(servers)
    nova.page = 1
    assert servers.find("m", "demo", 0.0).complete
    nova.faults.cell_down = True
    assert not servers.find("m", "demo", 0.0).complete
    with pytest.raises(Unreachable, match="the cell of cmp1 is down"):
        servers.host_up("cmp1")
    assert servers.host_up("cmp2") is None


def test_a_server_in_a_cell_that_is_down_is_neither_there_nor_gone(
    nova: NovaService, servers: NovaServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = create(servers)
    monkeypatch.setattr(nova, "hidden", lambda _: True)
    with pytest.raises(Unreachable, match="cell"):
        servers.get(uuid)


def test_a_server_that_is_only_listed_is_not_gone_while_a_cell_is_down(
    nova: NovaService, servers: NovaServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid, other = create(servers, marker="m1"), create(servers, marker="m2")
    nova.forbid.add("GET")
    nova.servers.user_delete(uuid)
    assert servers.get(uuid) is None
    monkeypatch.setattr(nova, "hidden", lambda _: True)
    for each in (uuid, other):
        with pytest.raises(Unreachable, match="cell"):
            servers.get(each)


def test_a_create_names_itself_by_its_marker(nova: NovaService, servers: NovaServers) -> None:
    create(servers, marker="m.1")
    create(servers, marker="m.2")
    assert nova.request_ids == [request_id_of("m.1"), request_id_of("m.2")]
    # Nova takes no other form for such an id.
    assert all(
        re.fullmatch(r"req-\w{8}(-\w{4}){3}-\w{12}", each or "") for each in nova.request_ids
    )


# ---------------------------------------------------------------- versions, flavors, forms


@pytest.mark.parametrize(("version", "fits"), [("2.78", False), ("2.79", True), ("2.999", True)])
def test_microversions(nova: NovaService, servers: NovaServers, version: str, fits: bool) -> None:  # noqa: FBT001 - a column of the table
    nova.version = version
    if fits:
        assert create(servers)
        return
    with pytest.raises(AskOperator, match="Train"):
        create(servers)


def test_a_flavor_that_is_gone(servers: NovaServers) -> None:
    with pytest.raises(NotFound, match="no flavor gone any more"):
        create(servers, BLUEPRINT.model_copy(update={"flavor": "gone"}))
    with pytest.raises(Invalid, match="tag"):
        create(servers, marker="a/b")


def test_the_recorded_failed_server() -> None:
    shown = ShownServer(recorded("show_failed")["body"]["server"], (2, 100))
    server = shown.server()
    assert server.status is ServerStatus.ERROR
    assert server.no_valid_host
    assert server.host is None
    assert server.lost == ("networks", "security_groups")
    assert server.extra_specs["resources:FPGA"] == "1"
    assert server.blueprint is not None
    assert server.blueprint.as_json() == {
        "name": "nova-s",
        "flavor": "nova-fpga",
        "image": "4a69b285-6b7b-46d1-a9e1-4ad5635d0915",
        "hostname": "nova-s",
        "description": "a test",
        "key_name": "nova-key",
        "user_data": "IyEvYmluL3NoCmVjaG8gaGkK",
        "config_drive": True,
        "metadata": {"team": "red"},
        "tags": ["t1"],
        "server_group": "78b63ce3-3879-46e0-a880-c700186d47c4",
        "scheduler_hints": {"query": '[">=","$free_ram_mb",1]'},
    }
    failure = shown.failure()
    assert failure is not None
    assert failure.spec is not None
    assert failure.spec.flavor.memory_mb == 64
    assert failure.timestamp == 1795654668.0


def test_a_listing_shows_the_server_group_among_the_hints() -> None:
    value = dict(recorded("show_failed")["body"]["server"])
    [group] = value.pop("server_groups")
    value["scheduler_hints"] = {**value["scheduler_hints"], "group": [group]}
    listed = ShownServer(value, (2, 100)).server()
    assert listed.blueprint == ShownServer(
        recorded("show_failed")["body"]["server"], (2, 100)
    ).server().blueprint  # fmt: skip


def test_a_blueprint_survives_the_wire() -> None:
    blueprint = ShownServer(recorded("show_failed")["body"]["server"], (2, 100)).server().blueprint
    assert blueprint is not None
    body = create_body(blueprint, "nova-fpga", "b.1", "old", (2, 100))
    assert body["os:scheduler_hints"] == {
        "query": '[">=","$free_ram_mb",1]',
        "group": "78b63ce3-3879-46e0-a880-c700186d47c4",
        "changeover:boot": "b.1",
    }
    assert body["server"]["metadata"] == {
        "team": "red",
        "changeover:boot": "b.1",
        "changeover:replaces": "old",
    }
    assert body["server"]["tags"] == ["t1", "changeover:boot=b.1"]
    assert body["server"]["networks"] == "auto"
    assert "hostname" not in create_body(blueprint, "f", "b.1", None, (2, 79))["server"]


def test_recorded_servers_that_did_not_fail() -> None:
    for name, status in (("show_active", ServerStatus.ACTIVE), ("show_building", "BUILD")):
        shown = ShownServer(recorded(name)["body"]["server"], (2, 100))
        assert shown.server().status == status
        assert shown.server().launched is (name == "show_active")
        assert shown.failure() is None
    servers, more = nova_wire.listed(recorded("failed_since")["body"])
    assert more
    assert ShownServer(servers[0], (2, 100)).failure() is not None
    assert not ShownServer(servers[0], (2, 100)).server().launched
    ran = {**servers[0], "OS-SRV-USG:launched_at": "2026-11-26T00:57:59.000000"}
    assert ShownServer(ran, (2, 100)).failure() is None


def test_what_an_old_nova_does_not_show_is_lost() -> None:
    value = dict(recorded("show_failed")["body"]["server"])
    del value["scheduler_hints"], value["pinned_availability_zone"]
    value["OS-EXT-AZ:availability_zone"] = "az1"
    server = ShownServer(value, (2, 79)).server()
    assert "scheduler_hints" in server.lost
    assert server.blueprint is not None
    assert server.blueprint.availability_zone == "az1"
    from_volume = ShownServer({**value, "image": ""}, (2, 100)).server()
    assert "block_devices" in from_volume.lost


def test_security_groups_are_kept_where_nova_shows_them(
    nova: NovaService, servers: NovaServers
) -> None:
    value = recorded("show_failed")["body"]["server"]
    shown = ShownServer({**value, "security_groups": [{"name": "web"}] * 2}, (2, 100)).server()
    assert shown.lost == ("networks",)
    assert shown.blueprint is not None
    assert shown.blueprint.security_groups == ("web",)
    uuid = create(servers, BLUEPRINT.model_copy(update={"security_groups": ("web", "db")}))
    assert nova.bodies[-1]["server"]["security_groups"] == [{"name": "web"}, {"name": "db"}]
    failed = servers.get(uuid)
    assert failed is not None
    assert "security_groups" in failed.lost


def test_a_server_with_volumes_is_left_to_its_owner(
    nova: NovaService, servers: NovaServers
) -> None:
    data = {"source_type": "volume", "destination_type": "volume", "uuid": "v1", "boot_index": -1}
    for image, index in (("tiny", -1), (None, 0)):
        devices = ({**data, "boot_index": index},)
        uuid = create(
            servers, BLUEPRINT.model_copy(update={"image": image, "block_devices": devices})
        )
        assert nova.bodies[-1]["server"]["block_device_mapping_v2"] == list(devices)
        failed = servers.get(uuid)
        assert failed is not None
        made_of = successor(
            failed.blueprint,
            lost=failed.lost,
            as_owner=True,
            losses=Losses(networks="auto", key="drop"),
        )
        assert isinstance(made_of, str)
        assert "has volumes" in made_of


def test_a_form_that_is_wrong_is_named_without_its_value() -> None:
    value = {**recorded("show_failed")["body"]["server"], "user_id": ["s3cret"]}
    with pytest.raises(WrongFormError, match=r"server\.user_id") as found:
        ShownServer(value, (2, 100))
    assert "s3cret" not in str(found.value)


def test_nothing_secret_is_shown(servers: NovaServers) -> None:
    uuid = create(servers, BLUEPRINT.model_copy(update={"user_data": "c2VjcmV0"}))
    made = servers.get(uuid)
    assert made is not None
    assert made.blueprint is not None
    assert made.blueprint.user_data == "c2VjcmV0"
    assert "c2VjcmV0" not in repr(replace(made, name="x"))


def test_aggregates(
    nova: NovaService, servers: NovaServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def aggregate(uuid: str, **metadata: str) -> dict[str, Any]:
        zone = metadata.get("availability_zone")
        facts = {"uuid": uuid, "name": f"aggregate {uuid}", "hosts": ["cmp1"]}
        return {**facts, "metadata": metadata, "availability_zone": zone}

    nova.aggregates = [
        aggregate("one", availability_zone="green"),
        aggregate("two", availability_zone="green", ssd="true"),
        aggregate("three", availability_zone="blue"),
        aggregate("four", filter_tenant_id="demo", note=""),
    ]
    found = servers.aggregates()
    assert of_zone(found, "green") == {"one", "two"}
    assert of_zone(found, "nova") == set()
    assert of_tenant(found, "demo") == {"four"}
    assert (found[3].name, found[3].hosts) == ("aggregate four", {"cmp1"})
    nova.aggregates = []
    assert servers.aggregates() == found  # known for a minute
    monkeypatch.setattr(servers_nova, "AGGREGATES_KNOWN", 0.0)
    assert list(servers.aggregates()) == []
    nova.aggregates = [{"name": "no uuid"}]
    with pytest.raises(Garbled):
        servers.aggregates()
