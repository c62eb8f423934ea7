"""Who and what there is in the cloud: users, projects, roles, endpoints, a first image."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from typing import Any

import openstack
from harness.config import HOST, REGION, Place
from openstack.connection import Connection

PROJECTS = ("service", "tenant-a", "tenant-b")
USERS = {"admin": "admin", "alice": "tenant-a", "bob": "tenant-b", "poolmgr": "service"}
"""By name, with the project that ``clouds.yaml`` has for it. ``poolmgr`` runs Changeover."""

_SERVICE_USERS = ("nova", "placement", "glance", "cyborg", "neutron")
_ROLES = {
    **dict.fromkeys(_SERVICE_USERS, ("admin", "service")),
    "poolmgr": ("admin", "service"),
    "alice": ("member",),
    "bob": ("member",),
}
_SERVICES = (
    ("placement", "placement", ""),
    ("image", "glance", ""),
    ("compute", "nova-api", "/v2.1"),
    ("network", "neutron", ""),
    ("accelerator", "cyborg-api", "/v2"),
)
_SECONDS = 300.0


def bootstrap(place: Place) -> None:
    """Keystone's keys, and the first administrator with Keystone's own endpoint."""
    manage = [place.venv / "bin" / "keystone-manage",
              "--config-file", place.etc("keystone") / "keystone.conf"]  # fmt: skip
    urls = [
        word
        for kind in ("public", "internal", "admin")
        for word in (f"--bootstrap-{kind}-url", place.identity)
    ]
    for directory in ("fernet", "credential"):
        keys = place.etc("keystone") / directory
        keys.mkdir(mode=0o700, exist_ok=True)
        for name in ("0", "1"):  # a staged key and the primary one, as Keystone makes them
            (keys / name).write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
    words = ["bootstrap", "--bootstrap-password", place.password, "--bootstrap-region-id", REGION]
    done = subprocess.run(
        [*manage, *words, *urls], capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"keystone-manage bootstrap: {(done.stdout + done.stderr)[-2000:]}")


def connect(place: Place, user: str = "admin") -> Connection:
    """A connection as that user."""
    return openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        region_name=REGION,
        auth={
            "auth_url": place.identity,
            "username": user,
            "password": place.password,
            "project_name": USERS[user],
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
    )


def give_trust(trustor: Connection, trustee: Connection) -> str:
    """Let the one's servers be booted by the other in her name; the trust's id."""
    trust = {
        "trustor_user_id": trustor.current_user_id,
        "trustee_user_id": trustee.current_user_id,
        "project_id": trustor.current_project_id,
        "impersonation": True,
        "roles": [{"name": "member"}],
    }
    answer = trustor.identity.post("/OS-TRUST/trusts", json={"trust": trust})
    assert answer.ok, answer.text
    return str(answer.json()["trust"]["id"])


def fill(place: Place) -> None:
    """Roles, projects, users and the endpoints of all services."""
    keystone = connect(place).identity
    roles = {role.name: role for role in keystone.roles()}
    roles.setdefault("service", None)
    roles["service"] = roles["service"] or keystone.create_role(name="service")
    projects = {name: keystone.create_project(name=name, domain_id="default") for name in PROJECTS}
    for name, mine in _ROLES.items():
        project = projects[USERS.get(name, "service")]
        user = keystone.create_user(
            name=name, password=place.password, domain_id="default", default_project_id=project.id
        )
        for role in mine:
            keystone.assign_project_role_to_user(project, user, roles[role])
    for kind, name, path in _SERVICES:
        service = keystone.create_service(name=name, type=kind)
        keystone.create_endpoint(
            service_id=service.id,
            interface="public",
            region_id=REGION,
            url=f"http://{HOST}:{place.ports[name]}{path}",
        )


def wait_for_computes(place: Place, count: int) -> None:
    """Wait until Nova knows all hypervisors."""
    cloud = connect(place)
    _until("computes", count, lambda: len(list(cloud.compute.hypervisors())))


def wait_for_cards(place: Place, count: int) -> None:
    """Wait until Cyborg has all cards and Placement has their providers with traits."""
    cloud = connect(place)

    def known() -> int:
        answer = cloud.placement.get(
            "/resource_providers?resources=FPGA:1&required=CUSTOM_FPGA_FUNCTION_NONE",
            microversion="1.39",
        )
        return len(answer.json()["resource_providers"]) if answer.ok else 0

    _until("cards", count, known)


def quotas(place: Place) -> None:
    """Let tenant-a boot as much as it wants; tenant-b keeps Nova's defaults."""
    cloud = connect(place)
    project = cloud.identity.find_project("tenant-a", ignore_missing=False)
    unlimited = dict.fromkeys(("instances", "cores", "ram", "key_pairs"), -1)
    answer = cloud.compute.put(f"/os-quota-sets/{project.id}", json={"quota_set": unlimited})
    if not answer.ok:
        raise RuntimeError(f"quotas of tenant-a: {answer.text}")


def image(place: Place) -> None:
    """An image that everybody may boot."""
    connect(place).create_image(
        "tiny",
        data=bytes(1024),
        disk_format="raw",
        container_format="bare",
        visibility="public",
        wait=True,
    )


def _until(what: str, count: int, look: Any) -> None:
    deadline = time.monotonic() + _SECONDS
    while (seen := look()) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{seen} of {count} {what} after {_SECONDS:.0f} s")
        time.sleep(0.5)
