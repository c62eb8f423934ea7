"""Zones, projects and isolation: we ask Placement what the real scheduler asks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import pytest
from harness.client import COMPUTE, Cloud, eventually
from harness.servers import NOWHERE, Servers, sweep
from openstack.connection import Connection

from changeover.models.placement import ResourceRequest
from changeover.policies.aggregates import within
from changeover.policies.request import request_of_spec
from changeover.worker.adapters.placement_http import HttpPlacement
from changeover.worker.adapters.servers_nova import NovaServers

Aggregate = Callable[..., str]


@pytest.fixture
def aggregate(admin: Connection) -> Iterator[Aggregate]:
    """Makes aggregates: ``aggregate(*hosts, key="value")``; in keys, ``__`` stands for ``:``."""
    made: list[tuple[int, tuple[str, ...]]] = []

    def act(number: int, **action: Any) -> None:
        path = f"/os-aggregates/{number}/action"
        answer = admin.compute.post(path, json=action, microversion=COMPUTE)
        assert answer.ok, answer.text

    def make(*hosts: str, **metadata: str) -> str:
        body = {"aggregate": {"name": f"aggregate-{uuid4().hex[:8]}"}}
        answer = admin.compute.post("/os-aggregates", json=body, microversion=COMPUTE)
        assert answer.ok, answer.text
        found = answer.json()["aggregate"]
        made.append((found["id"], hosts))
        for host in hosts:
            act(found["id"], add_host={"host": host})
        named = {key.replace("__", ":"): value for key, value in metadata.items()}
        act(found["id"], set_metadata={"metadata": named})
        return str(found["uuid"])

    yield make
    sweep(admin)  # a host with servers does not change its zone
    for number, hosts in made:
        for host in hosts:
            act(number, remove_host={"host": host})
        admin.compute.delete(f"/os-aggregates/{number}", microversion=COMPUTE)


@pytest.fixture
def placement(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpPlacement]:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(cloud.clouds_yaml))
    made = HttpPlacement.from_cloud("poolmgr")
    yield made
    made.close()


def queries(cloud: Cloud) -> list[set[tuple[str, frozenset[str]]]]:
    """What Placement was asked for candidates, oldest first; without limits and the owner."""
    log = (cloud.state / "log" / "placement.log").read_text()
    return [
        {
            (key, frozenset(value.split(",")) - {"OWNER_NOVA"})
            for key, value in parse_qsl(urlsplit(path).query)
            if key != "limit"
        }
        for path in re.findall(r'"GET (/allocation_candidates\?\S+)"', log)
    ]


def as_asked(nova: NovaServers, uuid: str) -> ResourceRequest:
    """What the scheduler asks of Placement for a server, as Changeover works it out."""
    spec = nova.asked(uuid)
    assert spec is not None
    request = request_of_spec(spec).request
    return within(request, nova.aggregates(), project=spec.project_id, isolating=True)


def test_what_the_scheduler_asks(
    cloud: Cloud,
    nova: NovaServers,
    placement: HttpPlacement,
    servers: Servers,
    aggregate: Aggregate,
    alice: Connection,
) -> None:
    mine = str(alice.current_project_id)
    zone = aggregate("cmp1", "cmp2", availability_zone="green")
    one = aggregate("cmp2", filter_tenant_id=mine)
    two = aggregate("cmp3", filter_tenant_id_2=mine)
    aggregate("cmp1", filter_tenant_id="another")
    licensed = aggregate("cmp1", trait__CUSTOM_LICENSED="required")
    aggregate("cmp2", trait__HW_CPU_X86_AVX512F="required")
    before = len(queries(cloud))
    uuid = servers.fails(alice, servers.flavor(**NOWHERE), availability_zone="green")
    [theirs] = queries(cloud)[before:]
    assert theirs >= {
        ("member_of", frozenset({f"in:{zone}"})),
        ("member_of", frozenset({f"!in:{licensed}"})),
    }
    kept_to = {part.removeprefix("in:") for key, parts in theirs for part in parts
               if key == "member_of" and len(parts) == 2}  # fmt: skip
    assert kept_to == {one, two}
    assert not placement.candidates(as_asked(nova, uuid), 1000).candidates
    ours = eventually(lambda: queries(cloud)[before + 1 :])
    assert ours == [theirs]


def test_where_the_scheduler_goes(
    nova: NovaServers,
    placement: HttpPlacement,
    servers: Servers,
    aggregate: Aggregate,
    alice: Connection,
) -> None:
    mine = str(alice.current_project_id)
    aggregate("cmp1", "cmp2", filter_tenant_id=mine)
    aggregate("cmp1", trait__CUSTOM_LICENSED="required")
    flavor = servers.flavor()
    hosts = {servers.settles(servers.boot(alice, flavor))["OS-EXT-SRV-ATTR:host"] for _ in "123"}
    assert hosts == {"cmp2"}
    uuid = servers.boot(alice, flavor)
    roots = placement.candidates(as_asked(nova, uuid), 1000).roots
    assert {p.name for p in placement.providers() if p.uuid in roots} == hosts
