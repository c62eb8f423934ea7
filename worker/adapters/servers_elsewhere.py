"""Servers that Changeover neither sees nor creates: their owners boot again by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from changeover.models.blueprint import Blueprint
from changeover.models.errors import AskOperator
from changeover.models.notification import BuildFailed
from changeover.policies.request import FlavorRequest
from changeover.worker.ports.servers import Listing, Server


def _refuse() -> NoReturn:
    raise AskOperator(
        "creating servers in a real Nova is not built yet: leave `recreate` off, capacity is made "
        "and owners boot again by themselves"
    )


class ServersElsewhere:
    """The port ``Servers`` where only capacity is made. It never guesses what it cannot see."""

    longest_request_seconds = 0.0

    def get(self, uuid: str) -> Server | None:  # noqa: ARG002 - the port's signature
        """Raise: nobody here can see servers."""
        _refuse()

    def asked(self, uuid: str) -> FlavorRequest | None:  # noqa: ARG002 - the port's signature
        """Raise: nobody here can see servers."""
        _refuse()

    def create(
        self,
        blueprint: Blueprint,  # noqa: ARG002 - the port's signature
        marker: str,  # noqa: ARG002 - the port's signature
        *,
        project: str,  # noqa: ARG002 - the port's signature
        user: str,  # noqa: ARG002 - the port's signature
        replaces: str | None = None,  # noqa: ARG002 - the port's signature
    ) -> str:
        """Raise: nothing is created."""
        _refuse()

    def find(self, marker: str, project: str) -> Listing:  # noqa: ARG002 - the port's signature
        """No server here carries a marker, as none was created."""
        return Listing((), complete=True)

    def failed_since(self, since: float) -> list[BuildFailed]:  # noqa: ARG002 - the port's signature
        """See no server, hence no failed one."""
        return []

    def link(self, uuid: str, metadata: Mapping[str, str]) -> None:  # noqa: ARG002 - the port's signature
        """Raise: nothing is changed."""
        _refuse()

    def delete(self, uuid: str) -> None:  # noqa: ARG002 - the port's signature
        """Raise: nothing is deleted."""
        _refuse()

    def host_up(self, host: str) -> bool | None:  # noqa: ARG002 - the port's signature
        """Nobody knows."""
        return None
