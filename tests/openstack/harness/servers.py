"""Servers and flavors of the real Nova."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from harness.client import COMPUTE, eventually
from openstack.connection import Connection

NOWHERE: Final = {"trait:HW_CPU_X86_AVX512F": "required"}
"""Extra specs of a flavor that no host here can take: a trait that Placement knows all the same."""


@dataclass
class Servers:
    """Boots servers for tests."""

    admin: Connection
    _image: str | None = field(default=None, init=False)

    def flavor(self, *, vcpus: int = 1, ram: int = 64, **specs: str) -> str:
        """A new flavor with these extra specs; its id. In names, ``__`` stands for ``:``.

        >>> servers.flavor(resources__FPGA="1", trait__CUSTOM_FPGA_FUNCTION_AES="required")
        """
        flavor = self.admin.compute.create_flavor(
            name=f"flavor-{uuid4().hex[:8]}", ram=ram, vcpus=vcpus, disk=1
        )
        if specs:
            self.admin.compute.create_flavor_extra_specs(
                flavor, {key.replace("__", ":"): value for key, value in specs.items()}
            )
        return str(flavor.id)

    def boot(self, owner: Connection, flavor: str, name: str = "server", **more: Any) -> str:
        """Ask for a server without networks; its uuid. ``more`` as in Nova's API."""
        return self.boot_many(owner, flavor, name, **more)

    def boot_many(self, owner: Connection, flavor: str, name: str, **more: Any) -> str:
        """The same, with ``min_count`` and ``max_count`` in ``more``; the first one's uuid."""
        body = {
            "name": name,
            "flavorRef": flavor,
            "imageRef": self.image(),
            "networks": "none",
            **more,
        }
        hints = body.pop("os:scheduler_hints", None)
        asked = {"server": body, **({"os:scheduler_hints": hints} if hints else {})}
        answer = owner.compute.post("/servers", json=asked, microversion=COMPUTE)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["server"]["id"])

    def image(self) -> str:
        """The image that everybody may boot."""
        if self._image is None:
            self._image = self.admin.image.find_image("tiny", ignore_missing=False).id
        return self._image

    def get(self, uuid: str) -> dict[str, Any] | None:
        """A server as an administrator sees it, ``None`` if it is gone."""
        answer = self.admin.compute.get(f"/servers/{uuid}", microversion=COMPUTE)
        return None if answer.status_code == 404 else dict(answer.json()["server"])

    def of(self, owner: Connection) -> list[dict[str, Any]]:
        """The servers of the owner's project, oldest first."""
        answer = owner.compute.get(
            "/servers/detail?sort_key=created_at&sort_dir=asc", microversion=COMPUTE
        )
        return list(answer.json()["servers"])

    def settles(self, uuid: str, *, within: float = 120.0) -> dict[str, Any]:
        """The server once it is no longer being built."""

        def look() -> dict[str, Any] | None:
            server = self.get(uuid)
            assert server is not None
            # Nova writes the fault after the status.
            half = server["status"] == "ERROR" and "fault" not in server
            return None if half or server["status"] == "BUILD" else server

        return eventually(look, within=within)

    def fails(self, owner: Connection, flavor: str, name: str = "server", **more: Any) -> str:
        """Boot a server for which there is no host; its uuid once it has failed."""
        uuid = self.boot(owner, flavor, name, **more)
        server = self.settles(uuid)
        assert server["status"] == "ERROR", server
        assert "No valid host" in server["fault"]["message"], server["fault"]
        return uuid


def sweep(admin: Connection) -> None:
    """Delete every server, and wait until they and their allocations are gone."""

    def look() -> list[str]:
        listed = admin.compute.get("/servers?all_tenants=1&limit=500", microversion=COMPUTE)
        return [entry["id"] for entry in listed.json()["servers"]]

    for uuid in look():
        admin.compute.delete(f"/servers/{uuid}", microversion=COMPUTE)
    eventually(lambda: not look(), within=120)
