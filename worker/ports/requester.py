"""Whoever asks for servers: what that person may use, and in whose name it is created."""

from __future__ import annotations

from typing import Protocol

from changeover.models.flavor import Flavor, Image


class Requester(Protocol):
    """A person's own view of the cloud.

    Lookups take a name or an id. They raise ``NotFound`` if there is none, ``Invalid`` if a name
    means several, ``AskOperator`` for credentials and roles, ``Unreachable`` and ``Garbled``.
    ``project`` and ``user`` are those that servers are created in.
    """

    project: str
    user: str

    def flavor(self, name_or_id: str) -> Flavor:
        """The flavor, with its extra specs and its id."""
        ...

    def image(self, name_or_id: str) -> Image:
        """The image, with its id and the traits that it requires."""
        ...

    def network(self, name_or_id: str) -> str:
        """The id of a network."""
        ...

    def check_key(self, name: str) -> None:
        """Raise unless servers of this requester can be given the key pair of that name."""
        ...

    def entrust(self, until: float) -> str | None:
        """Let the service user create servers in this person's name until then (epoch seconds).

        Returns the trust's id; ``None`` where the service user acts by a role of its own.
        """
        ...

    def withdraw(self, trust: str) -> None:
        """Take a trust back."""
        ...
