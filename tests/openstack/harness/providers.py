"""Resource providers that tests put below a compute host, as its driver would report them."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import uuid4

from harness.client import PLACEMENT
from openstack.connection import Connection


class Providers:
    """Makes and removes providers, as an administrator."""

    def __init__(self, admin: Connection) -> None:
        self._admin = admin
        self._made: list[str] = []

    def host(self, name: str) -> str:
        """The uuid of a compute host's own provider."""
        ((found),) = self._get(f"/resource_providers?name={name}")["resource_providers"]
        return str(found["uuid"])

    def below(self, host: str, name: str, *, traits: Iterable[str] = (), **inventory: int) -> str:
        """A new child of the host's provider, with these traits and totals by class; its uuid."""
        uuid = str(uuid4())
        body = {"name": name, "uuid": uuid, "parent_provider_uuid": self.host(host)}
        self._send("POST", "/resource_providers", body)
        self._made.append(uuid)
        for resource_class in inventory:
            if resource_class.startswith("CUSTOM_"):
                self._send("PUT", f"/resource_classes/{resource_class}")
        if inventory:
            self._send(
                "PUT",
                f"/resource_providers/{uuid}/inventories",
                {
                    "resource_provider_generation": self._generation(uuid),
                    "inventories": {name: {"total": total} for name, total in inventory.items()},
                },
            )
        self.set_traits(uuid, traits)
        return uuid

    def set_traits(self, uuid: str, traits: Iterable[str]) -> None:
        """Give a provider these traits and no others."""
        names = sorted(traits)
        for name in names:
            if name.startswith("CUSTOM_"):
                self._send("PUT", f"/traits/{name}")
        self._send(
            "PUT",
            f"/resource_providers/{uuid}/traits",
            {"resource_provider_generation": self._generation(uuid), "traits": names},
        )

    def traits(self, uuid: str) -> set[str]:
        """A provider's traits."""
        return set(self._get(f"/resource_providers/{uuid}/traits")["traits"])

    def allocations(self, uuid: str) -> dict[str, object]:
        """Who uses it, by consumer."""
        return dict(self._get(f"/resource_providers/{uuid}/allocations")["allocations"])

    def inventory(self, uuid: str) -> dict[str, dict[str, int]]:
        """Its inventories by class."""
        return dict(self._get(f"/resource_providers/{uuid}/inventories")["inventories"])

    def remove(self) -> None:
        """Remove all that were made here."""
        for uuid in self._made:
            self._send("DELETE", f"/resource_providers/{uuid}")
        self._made.clear()

    def _generation(self, uuid: str) -> int:
        return int(self._get(f"/resource_providers/{uuid}")["generation"])

    def _get(self, path: str) -> dict[str, object]:
        answer = self._admin.placement.get(path, microversion=PLACEMENT)
        assert answer.ok, answer.text
        return dict(answer.json())

    def _send(self, method: str, path: str, body: object = None) -> None:
        answer = self._admin.placement.request(
            path, method, microversion=PLACEMENT, json=body, raise_exc=False
        )
        assert answer.ok, f"{method} {path}: {answer.text}"
