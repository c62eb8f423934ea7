"""What a real Placement answers, judged: shapes of clouds that the generated ones do not have."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest
from unit.worker.generated import some_boot, world_over

from changeover.models.catalog import Catalog
from changeover.models.diagnosis import Diagnosis, Verdict
from changeover.models.placement import SHARES, Inventory, RequestGroup, ResourceRequest
from changeover.models.planning import Plan
from changeover.worker import demand
from changeover.worker.adapters.placement_http import HttpPlacement
from changeover.worker.judge import preview
from changeover.worker.world import World

FPGA, AES, GZIP = "CUSTOM_FPGA", "CUSTOM_FUNCTION_AES", "CUSTOM_FUNCTION_GZIP"


class Cloud:
    """Hosts in the real Placement, which is shared: all names are new."""

    def __init__(self, url: str) -> None:
        self.placement = HttpPlacement.noauth(url)
        self.placement.ensure_traits([AES, GZIP])
        self.placement.ensure_resource_classes([FPGA])
        self.devices: list[dict[str, str]] = []
        # Of a class of their own memory: no other test's hosts have any.
        self.memory = f"CUSTOM_MEMORY_{uuid4().hex[:8].upper()}"
        self.placement.ensure_resource_classes([self.memory])

    def provider(
        self,
        inventories: dict[str, Inventory],
        *,
        parent: str | None = None,
        aggregates: tuple[str, ...] = (),
        traits: tuple[str, ...] = (),
    ) -> str:
        uuid = str(uuid4())
        generation = self.placement.create_provider(uuid, f"p-{uuid}", parent).generation
        generation = self.placement.put_inventories(uuid, generation, inventories)
        generation = self.placement.put_traits(uuid, generation, traits)
        self.placement.put_aggregates(uuid, generation, aggregates)
        return uuid

    def host(self, *, card: bool = True, aggregates: tuple[str, ...] = ()) -> str:
        """A host with room for two servers, and a card that can be programmed."""
        root = self.provider({self.memory: Inventory(2, max_unit=2)}, aggregates=aggregates)
        if card:
            device = self.provider({}, parent=root)
            self.devices.append(
                {"name": f"card-{device}", "provider": device, "model": "card", "host": f"p-{root}"}
            )
        return root

    def world(self) -> World:
        image = {"image": "some.bit", "sha256": "0" * 64}
        functions = {
            name: {
                "traits": [trait], "resource_class": FPGA, "artifact": image, "fits": {"card": 1},
            }
            for name, trait in (("aes", AES), ("gzip", GZIP))
        }  # fmt: skip
        catalog = Catalog.model_validate(
            {
                "programmers": {"sim": {"kind": "simulated"}},
                "models": {"card": {"programmer": "sim"}},
                "functions": functions,
                "devices": self.devices,
            }
        )
        return world_over(self.placement, catalog)


@pytest.fixture
def cloud(placement_url: str) -> Cloud:
    return Cloud(placement_url)


def judged(world: World, request: ResourceRequest) -> tuple[Diagnosis, Plan]:
    seen = preview(world, [some_boot(request, world.clock.now())])
    return seen.diagnoses[request.key], seen.plan


def asks(cloud: Cloud, **more: int) -> ResourceRequest:
    rest = RequestGroup(resources={cloud.memory: 1, **more})
    return ResourceRequest((rest, RequestGroup("1", {FPGA: 1}, frozenset({AES}))))


def test_what_hosts_share_is_theirs(cloud: Cloud) -> None:
    shared = str(uuid4())
    cloud.host(aggregates=(shared,))
    cloud.provider(
        {"DISK_GB": Inventory(100, max_unit=100)}, aggregates=(shared,), traits=(SHARES,)
    )
    world = cloud.world()
    diagnosis, plan = judged(world, asks(cloud, DISK_GB=10))
    assert diagnosis.verdict is Verdict.CHANGEOVER, diagnosis.reason.text
    assert len(plan.intents) == 1
    diagnosis, _ = judged(world, asks(cloud, DISK_GB=1000))
    assert diagnosis.verdict is Verdict.HOSTS_CANNOT
    assert ("1000 DISK_GB",) in diagnosis.relaxing
    # Nova looks for all of it in the tree of the host that is named; of two it names none.
    hosts = (world.catalog.devices[0].host, "another")
    request = replace(asks(cloud, DISK_GB=10), hosts=hosts)
    assert judged(world, request)[0].verdict is Verdict.CHANGEOVER


def test_a_host_is_named_as_nova_calls_it(cloud: Cloud) -> None:
    cloud.host()
    [device] = cloud.devices
    named = replace(asks(cloud), hosts=(f"{device['host']}.example.org",))
    diagnosis, plan = judged(cloud.world(), named)
    assert diagnosis.verdict is Verdict.CHANGEOVER, diagnosis.reason.text
    assert len(plan.intents) == 1
    other = replace(named, hosts=(f"{device['host']}-2.example.org",))
    assert judged(cloud.world(), other)[0].verdict is Verdict.HOSTS_CANNOT


def test_a_listing_that_was_cut_off_rules_no_host_out(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        cloud.host(card=False)
    cloud.host()
    for _ in range(4):
        cloud.host(card=False)
    monkeypatch.setattr(demand, "CANDIDATES_LIMIT", 3)
    diagnosis, plan = judged(cloud.world(), asks(cloud))
    assert diagnosis.verdict is Verdict.CHANGEOVER, diagnosis.reason.text
    assert len(plan.intents) == 1
