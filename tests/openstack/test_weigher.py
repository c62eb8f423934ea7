"""Nova's scheduler prefers hosts by traits, with nothing of Changeover's but the weigher."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness.client import Cloud
from harness.providers import Providers
from harness.servers import Servers
from openstack.connection import Connection

HINT = "CUSTOM_REGION_FUNCTION_HINTED"
HOSTS = ("cmp1", "cmp2", "cmp3")
REGION = {"resources:CUSTOM_REGION": "1"}
PREFERS = {**REGION, "changeover:preferred_traits": f"CUSTOM_NOBODY_HAS_IT, {HINT}"}

Regions = dict[str, list[str]]


@pytest.fixture
def regions(providers: Providers) -> Regions:
    """Two regions a host. Of one on cmp2 alone, the second, the function is loaded."""
    made = {
        host: [providers.below(host, f"{host}_region_{i}", CUSTOM_REGION=1) for i in range(2)]
        for host in HOSTS
    }
    providers.set_traits(made["cmp2"][1], [HINT])
    return made


@pytest.fixture
def crowded(admin: Connection, servers: Servers) -> None:
    """Nova's own weighers like cmp2 least: much of its memory is taken."""
    uuid = servers.boot(admin, servers.flavor(ram=40_000), availability_zone="nova:cmp2")
    server = servers.settles(uuid)
    assert server["OS-EXT-SRV-ATTR:host"] == "cmp2", server


@pytest.fixture
def host_of(alice: Connection, servers: Servers) -> Callable[[dict[str, str]], tuple[str, str]]:
    """Boots a server of such a flavor; its uuid, and the host that the scheduler chose."""

    def boot(specs: dict[str, str]) -> tuple[str, str]:
        server = servers.settles(servers.boot(alice, servers.flavor(**specs)))
        assert server["status"] == "ACTIVE", server
        return server["id"], server["OS-EXT-SRV-ATTR:host"]

    return boot


@pytest.mark.usefixtures("crowded")
def test_the_host_with_the_preferred_trait_wins(
    regions: Regions, providers: Providers, host_of: Callable[..., tuple[str, str]]
) -> None:
    _, host = host_of(REGION)
    assert host != "cmp2", "the control: without a preference Nova takes another host"
    uuid, host = host_of(PREFERS)
    assert host == "cmp2"
    # And of its two regions the one that has the function.
    assert list(providers.allocations(regions["cmp2"][1])) == [uuid]


@pytest.mark.usefixtures("crowded")
def test_a_preferred_trait_of_a_region_in_use_counts_for_nothing(
    host_of: Callable[..., tuple[str, str]], regions: Regions
) -> None:
    assert regions
    assert host_of(PREFERS)[1] == "cmp2"
    assert host_of(PREFERS)[1] != "cmp2"


@pytest.mark.usefixtures("regions")
def test_what_placement_cannot_understand_is_no_reason_to_fail(
    host_of: Callable[..., tuple[str, str]], cloud: Cloud
) -> None:
    host_of({**REGION, "changeover:preferred_traits": "no trait & at=all,ÄÖÜ"})
    log = (cloud.state / "log" / "nova-scheduler.log").read_text()
    assert "preferred traits are not looked at" not in log
