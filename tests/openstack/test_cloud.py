"""The cloud itself is what the other tests take it for."""

from __future__ import annotations

from harness.client import Cards, Cloud, eventually
from harness.servers import Servers
from openstack.connection import Connection

NOVA_TOPIC = "versioned_notifications"


def test_a_server_boots_and_is_deleted(alice: Connection, servers: Servers) -> None:
    uuid = servers.boot(alice, servers.flavor())
    server = servers.settles(uuid)
    assert server["status"] == "ACTIVE", server
    assert server["OS-EXT-SRV-ATTR:host"].startswith("cmp")


def test_a_function_that_no_card_has_fails_in_placement(
    alice: Connection, servers: Servers
) -> None:
    flavor = servers.flavor(resources__FPGA="1", trait__CUSTOM_FPGA_FUNCTION_NONE="forbidden")
    servers.fails(alice, flavor)


def test_cyborg_programs_a_card_and_placement_hears_of_it(
    cloud: Cloud, cards: Cards, alice: Connection, servers: Servers
) -> None:
    card = cards.of("cmp1")[0]
    image, sha256 = cards.bitstream("SMOKE", seconds=0.5)
    cards.program(card, image)
    mine = [entry for entry in cloud.journal() if entry["sha256"] == sha256]
    assert [entry["event"] for entry in mine] == ["begin", "end"]
    assert {entry["card"] for entry in mine} == {card.key}
    assert mine[0]["user"] is not None
    uuid = servers.boot(
        alice,
        servers.flavor(resources__FPGA="1", trait__CUSTOM_FPGA_FUNCTION_SMOKE="required"),
    )
    assert servers.settles(uuid)["status"] == "ACTIVE"
    assert list(cards.allocations(card)) == [uuid]
    cards.load({card: "NONE"})


def test_a_service_stops_and_starts_again(cloud: Cloud, admin: Connection) -> None:
    with cloud.without("placement", "SIGKILL"):
        assert not cloud.listens("placement")
    eventually(lambda: admin.placement.get("/resource_providers").ok, within=30)
