"""The adapter of the port ``Servers`` on the real Nova: what recorded answers cannot show."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import pytest
from harness.client import COMPUTE, Cloud, eventually
from harness.identity import give_trust
from harness.servers import NOWHERE
from harness.servers import Servers as Booted
from kombu import Connection as Kombu
from openstack.connection import Connection

from changeover.models.errors import AskOperator, Invalid, QuotaExceeded
from changeover.models.notification import Notification, SchedulingBegan, parse_notification
from changeover.worker.adapters import servers_nova
from changeover.worker.adapters.servers_nova import NovaServers
from changeover.worker.listener import notification_queue
from changeover.worker.ports.servers import (
    MARKER,
    REPLACED_BY,
    REPLACES,
    Authority,
    Server,
    ServerStatus,
    request_id_of,
)
from changeover.worker.settings import Settings


def new_marker() -> str:
    return f"{uuid4()}.1"


def failed(nova: NovaServers, servers: Booted, owner: Connection, **more: Any) -> Server:
    """A server that failed for want of a host, as the adapter sees it."""
    found = nova.get(servers.fails(owner, servers.flavor(**NOWHERE), **more))
    assert found is not None
    assert found.status is ServerStatus.ERROR
    assert found.no_valid_host
    return found


def again(nova: NovaServers, server: Server, marker: str, **changes: Any) -> str:
    """Create its successor, without networks: there are none here."""
    assert server.blueprint is not None
    return nova.create(
        server.blueprint.model_copy(update={"networks": "none", **changes}),
        marker,
        project=server.project,
        user=server.user,
        replaces=server.uuid,
    )


def keypair(owner: Connection) -> str:
    kind = b"ssh-ed25519"
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (kind, os.urandom(32)))
    name = f"key-{uuid4().hex[:8]}"
    public = f"{kind.decode()} {base64.b64encode(blob).decode()}"
    owner.compute.create_keypair(name=name, public_key=public)
    return name


@pytest.mark.usefixtures("trust")
def test_by_trust_a_successor_is_what_the_failed_server_was(
    nova: NovaServers, servers: Booted, alice: Connection
) -> None:
    group = alice.compute.post(
        "/os-server-groups",
        json={"server_group": {"name": "g", "policy": "soft-anti-affinity"}},
        microversion=COMPUTE,
    ).json()["server_group"]["id"]
    given = {
        "key_name": keypair(alice),
        "user_data": base64.b64encode(b"#!/bin/sh\n").decode(),
        "metadata": {"team": "red"},
        "tags": ["t1"],
        "description": "a test",
        "config_drive": True,
        "os:scheduler_hints": {"group": group, "query": '[">=","$free_ram_mb",1]'},
    }
    before = failed(nova, servers, alice, **given)
    marker = new_marker()
    assert nova.authority(before.project, before.user) is Authority.OWNER
    uuid = again(nova, before, marker, flavor=servers.flavor())
    listing = nova.find(marker, before.project, time.time())
    assert [s.uuid for s in listing.servers] == [uuid], "found from the first moment on"
    assert listing.complete
    after = eventually(lambda: _active(nova, uuid))
    assert (after.user, after.project) == (alice.current_user_id, before.project)
    assert after.metadata == {"team": "red", MARKER: marker, REPLACES: before.uuid}
    assert before.blueprint is not None
    assert after.blueprint is not None
    same = {"flavor": after.blueprint.flavor}
    assert after.blueprint == before.blueprint.model_copy(update=same)
    assert after.blueprint.server_group == group
    nova.link(before.uuid, {REPLACED_BY: uuid})
    nova.link(before.uuid, {REPLACED_BY: uuid})
    raw = servers.get(before.uuid)
    assert raw is not None
    assert raw["description"] == f"a test {REPLACED_BY}={uuid}"
    nova.link(uuid, {"seen": "yes"})
    linked = nova.get(uuid)
    assert linked is not None
    assert linked.metadata["seen"] == "yes"
    assert nova.delete(before.uuid) is True
    eventually(lambda: nova.get(before.uuid) is None)
    assert nova.delete(before.uuid) is False


def _active(nova: NovaServers, uuid: str) -> Server | None:
    found = nova.get(uuid)
    assert found is not None
    assert found.status is not ServerStatus.ERROR, found.fault
    return found if found.status is ServerStatus.ACTIVE else None


def test_a_trust_that_was_made_for_a_request_is_taken_back(
    nova: NovaServers, alice: Connection, poolmgr: Connection
) -> None:
    trust = give_trust(alice, poolmgr)
    assert alice.identity.get(f"/OS-TRUST/trusts/{trust}").ok
    nova.withdraw(trust)
    assert alice.identity.get(f"/OS-TRUST/trusts/{trust}").status_code == HTTPStatus.NOT_FOUND
    nova.withdraw(trust)


def test_without_a_trust_the_role_serves_and_the_key_does_not(
    nova: NovaServers, servers: Booted, admin: Connection, bob: Connection, poolmgr: Connection
) -> None:
    before = failed(nova, servers, bob, key_name=keypair(bob))
    assert nova.authority(before.project, before.user) is Authority.NOBODY
    with pytest.raises(AskOperator, match="its owner gives a trust"):
        again(nova, before, new_marker())
    member = admin.identity.find_role("member")
    grant = {
        "project": bob.current_project_id, "user": poolmgr.current_user_id, "role": member
    }  # fmt: skip
    admin.identity.assign_project_role_to_user(**grant)
    try:
        assert nova.authority(before.project, before.user) is Authority.SERVICE
        with pytest.raises(Invalid, match="key_name"):
            again(nova, before, new_marker())
        uuid = again(nova, before, new_marker(), key_name=None, flavor=servers.flavor())
        after = eventually(lambda: _active(nova, uuid))
        assert (after.user, after.project) == (poolmgr.current_user_id, bob.current_project_id)
    finally:
        admin.identity.unassign_project_role_from_user(**grant)


@pytest.mark.usefixtures("trust")
def test_a_successor_that_its_owner_deleted_is_found(
    nova: NovaServers, servers: Booted, alice: Connection
) -> None:
    before = failed(nova, servers, alice)
    marker, since = new_marker(), time.time()
    uuid = again(nova, before, marker, flavor=servers.flavor())
    eventually(lambda: _active(nova, uuid))
    alice.compute.delete_server(uuid)
    eventually(lambda: nova.get(uuid) is None)
    found = nova.find(marker, before.project, since).servers
    assert [(s.uuid, s.status) for s in found] == [(uuid, ServerStatus.DELETED)]


@pytest.fixture
def told(cloud: Cloud) -> Iterator[Callable[[], list[Notification]]]:
    """What Nova tells from here on, as far as Changeover reads it."""
    settings = Settings(notification_url=cloud.notification_url)  # type: ignore[arg-type]  # pydantic makes the secret
    heard: list[Notification] = []
    with Kombu(cloud.notification_url, connect_timeout=5) as connection:
        queue = notification_queue(settings)(connection.channel())
        queue.name = f"test-{uuid4()}"
        queue.declare()

        def listen() -> list[Notification]:
            while (message := queue.get(no_ack=True)) is not None:
                heard.append(parse_notification(message.body))
            return heard

        yield listen
        queue.delete()


@pytest.mark.usefixtures("trust")
def test_of_a_successor_deleted_before_it_was_scheduled_a_notification_is_left(
    cloud: Cloud,
    nova: NovaServers,
    servers: Booted,
    alice: Connection,
    told: Callable[[], list[Notification]],
) -> None:
    before = failed(nova, servers, alice)
    flavor = servers.flavor()
    marker, since = new_marker(), time.time()
    with cloud.without("nova-scheduler"):
        uuid = again(nova, before, marker, flavor=flavor)
        assert [s.uuid for s in nova.find(marker, before.project, since).servers] == [uuid]
        alice.compute.delete_server(uuid)
        assert nova.get(uuid) is None

    def began() -> SchedulingBegan | None:
        mine = (n for n in told() if isinstance(n, SchedulingBegan) and n.server == uuid)
        return next(mine, None)

    found = eventually(began)
    assert (found.global_request_id, found.project) == (request_id_of(marker), before.project)
    assert nova.get(uuid) is None
    listing = nova.find(marker, before.project, since)
    assert (listing.servers, listing.complete) == ((), True), "Nova itself keeps nothing of it"
    actions = alice.compute.get(f"/servers/{uuid}/os-instance-actions", microversion=COMPUTE)
    assert actions.status_code == HTTPStatus.NOT_FOUND


@pytest.mark.usefixtures("trust")
def test_a_full_quota_is_told_from_other_refusals(
    nova: NovaServers, servers: Booted, admin: Connection, alice: Connection
) -> None:
    before = failed(nova, servers, alice)
    path = f"/os-quota-sets/{before.project}"
    shown = admin.compute.get(path, microversion=COMPUTE).json()["quota_set"]["instances"]

    def limit(instances: int) -> None:
        body = {"quota_set": {"instances": instances, "force": True}}
        assert admin.compute.put(path, json=body, microversion=COMPUTE).ok

    limit(1)
    try:
        with pytest.raises(QuotaExceeded, match="Quota exceeded for instances"):
            again(nova, before, new_marker())
    finally:
        limit(shown)


def test_failures_are_found_page_by_page(
    nova: NovaServers, servers: Booted, alice: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers_nova, "PAGE", 1)
    began = time.time() - 5.0
    made = [failed(nova, servers, alice).uuid for _ in range(2)]
    gone = failed(nova, servers, alice).uuid
    nova.delete(gone)
    eventually(lambda: nova.get(gone) is None)
    found = nova.failed_since(began)
    assert [f.server for f in found] == made
    spec = found[0].spec
    assert spec is not None
    assert (spec.flavor.extra_specs, spec.project_id) == (NOWHERE, alice.current_project_id)
    assert abs(found[0].timestamp - time.time()) < 600.0


def test_hosts(nova: NovaServers) -> None:
    assert nova.host_up("cmp1") is True
    assert nova.host_up("nowhere") is None
