"""The policy files of docs/openstack.md are all that a user without ``admin`` needs."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import openstack
import pytest
from harness.client import Cloud, checks, eventually
from harness.identity import give_trust
from harness.install import TREE
from harness.servers import NOWHERE, Servers
from openstack.connection import Connection

from changeover.models.errors import AskOperator
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.adapters.servers_nova import NovaServers
from changeover.worker.adapters.service_http import Timeouts
from changeover.worker.ports.servers import Authority, ServerStatus

ROLES = ("service", "reader")


@pytest.fixture
def policies(cloud: Cloud) -> Iterator[None]:
    """Nova and Cyborg have the policy files that the documentation says."""
    documented = (TREE / "docs" / "openstack.md").read_text()
    files = {}
    for service in ("nova", "cyborg"):
        [rules] = re.findall(
            rf"`/etc/{service}/policy\.yaml`:\s+```yaml\n(.*?)```", documented, re.DOTALL
        )
        files[cloud.state / "etc" / service / "policy.yaml"] = rules
    for path, rules in files.items():
        path.write_text(rules)
    yield
    for path in files:
        path.write_text("{}\n")


@pytest.fixture
def least(user_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[NovaServers]:
    """Nova as a user with no more than :data:`ROLES` uses it."""
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(user_with(*ROLES)))
    patient = Timeouts(connect=10.0, read=120.0, total=180.0)  # for a machine under load
    made = NovaServers.from_cloud(
        "poolmgr", SystemClock(), longest_request_seconds=60.0, timeouts=patient
    )
    yield made
    made.close()


@pytest.mark.usefixtures("policies")
def test_the_doctor_finds_nothing_missing(
    doctor: Callable[[Path], subprocess.CompletedProcess[str]], user_with: Callable[..., Path]
) -> None:
    found = checks(doctor(user_with(*ROLES)))
    asked = ("placement.reads", "placement.writes", "nova.lists_servers", "nova.finds_servers",
             "nova.services", "nova.aggregates", "glance", "cyborg", "cyborg.programs")  # fmt: skip
    assert {name: found[name]["verdict"] for name in asked} == dict.fromkeys(asked, "ok")


@pytest.mark.usefixtures("policies")
def test_servers_of_others_are_seen_found_created_and_deleted(
    least: NovaServers, servers: Servers, alice: Connection
) -> None:
    began = time.time()
    uuid = servers.fails(alice, servers.flavor(**NOWHERE), description="a test", tags=["t"])
    assert uuid in {failed.server for failed in least.failed_since(began - 60.0)}
    before = least.get(uuid)
    assert before is not None
    assert before.no_valid_host
    assert before.blueprint is not None
    assert (before.blueprint.description, before.blueprint.tags) == ("a test", ("t",))
    assert before.extra_specs == NOWHERE
    assert least.authority(before.project, before.user) is Authority.NOBODY
    give_trust(alice, openstack.connect(cloud="poolmgr"))
    assert least.authority(before.project, before.user) is Authority.OWNER
    marker, since = f"{uuid4()}.1", time.time()
    made = least.create(
        before.blueprint.model_copy(update={"networks": "none", "flavor": servers.flavor()}),
        marker,
        project=before.project,
        user=before.user,
        replaces=uuid,
    )
    assert [s.uuid for s in least.find(marker, before.project, since).servers] == [made]

    def comes_to(wanted: ServerStatus) -> bool:
        server = least.get(made)
        return wanted is (ServerStatus.DELETED if server is None else server.status)

    eventually(lambda: comes_to(ServerStatus.ACTIVE))
    assert least.delete(made) is True
    eventually(lambda: comes_to(ServerStatus.DELETED))
    [gone] = least.find(marker, before.project, since).servers
    assert (gone.uuid, gone.status) == (made, ServerStatus.DELETED)
    assert least.delete(uuid) is True
    assert least.host_up("cmp1") is True
    assert list(least.aggregates()) == []


def test_without_them_it_is_said(least: NovaServers, servers: Servers, alice: Connection) -> None:
    uuid = servers.boot(alice, servers.flavor())
    for ask in (
        lambda: least.get(uuid),
        lambda: least.failed_since(time.time()),
        lambda: least.host_up("cmp1"),
        least.aggregates,
    ):
        with pytest.raises(AskOperator):
            ask()
