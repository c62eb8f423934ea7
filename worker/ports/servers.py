"""Servers, as Nova has them: found, created again by marker, deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import UUID, uuid5

from changeover.models.aggregate import Aggregate
from changeover.models.blueprint import Blueprint
from changeover.models.flavor import RequestSpec
from changeover.models.notification import BuildFailed

MARKER = "changeover:boot"
"""The metadata key by which a create that was not answered is found again."""

NO_VALID_HOST = "No valid host"
"""How Nova begins to say that no host could take a server."""

NAMESPACE = UUID("5b7a1d0e-6f0c-4d55-9d0a-9a2c1c1f3b6e")


def request_id_of(marker: str) -> str:
    """How the create call with that marker names itself (``X-OpenStack-Request-ID``)."""
    return f"req-{uuid5(NAMESPACE, marker)}"


REPLACES = "changeover:replaces"
REPLACED_BY = "changeover:replaced_by"
"""Links both ways between a failed server and its successor."""

OWN_KEYS = frozenset({MARKER, REPLACES, REPLACED_BY})
"""Metadata that Changeover writes: no part of any blueprint."""


FOUND_AT_ONCE = 5000
"""How many failed servers one look finds at most."""


class Authority(StrEnum):
    """In whose name servers can be created in an owner's project."""

    OWNER = "owner"
    """As the owner: the right user, with the user's key pairs."""
    SERVICE = "service"
    """As the service user, in the owner's project: without the owner's key pairs."""
    NOBODY = "nobody"
    """Not at all."""


class ServerStatus(StrEnum):
    """The states that matter to Changeover."""

    BUILD = "BUILD"
    ACTIVE = "ACTIVE"
    ERROR = "ERROR"
    DELETED = "DELETED"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class Server:
    """A server as an administrator sees it.

    ``blueprint`` is all that can be recovered of its creation; ``lost`` names the fields of it
    that cannot be, though they may have been given. ``extra_specs`` are those of its flavor.
    ``fault`` is the message of an ERROR server, with the exception's name where Nova tells it.
    ``launched``: its guest was started once: whatever became of it since, its build succeeded.
    """

    uuid: str
    name: str
    project: str
    user: str
    status: ServerStatus
    fault: str = ""
    host: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    blueprint: Blueprint | None = None
    lost: tuple[str, ...] = ()
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    launched: bool = False

    @property
    def no_valid_host(self) -> bool:
        """It failed because no host could take it."""
        return self.status is ServerStatus.ERROR and NO_VALID_HOST in self.fault


@dataclass(frozen=True, slots=True)
class Listing:
    """Servers found by marker; ``complete`` is false when a cell was down or a page failed."""

    servers: tuple[Server, ...]
    complete: bool


class Servers(Protocol):
    """Creating, finding and deleting servers.

    Errors: ``Unreachable`` (nothing was done), ``OutcomeUnknown`` (a create or delete was sent
    and not answered), ``QuotaExceeded``, other ``Refuse`` (policy, a bad request: the message says
    which), ``NotFound``, ``AskOperator`` (credentials, roles), ``Garbled``.
    ``longest_request_seconds``: after that long no unanswered call can still be at work.
    """

    longest_request_seconds: float

    def get(self, uuid: str) -> Server | None:
        """The server, or ``None`` if there is none (deleted servers count as none)."""
        ...

    def asked(self, uuid: str) -> RequestSpec | None:
        """What the scheduler was asked for, as far as the API tells; ``None`` if it is gone.

        For failures that were told without their request.
        """
        ...

    def create(
        self,
        blueprint: Blueprint,
        marker: str,
        *,
        project: str,
        user: str,
        replaces: str | None = None,
    ) -> str:
        """Create a server from a blueprint, in the owner's project; returns its uuid.

        It carries metadata ``MARKER: marker`` and, for the successor of a failed server,
        ``REPLACES: replaces``. The call returns when the API accepted it: whether it builds is
        another matter, see :meth:`get`.
        """
        ...

    def authority(self, project: str, user: str) -> Authority:
        """In whose name :meth:`create` would create a server of that user's in that project."""
        ...

    def withdraw(self, trust: str) -> None:
        """Take back a trust that was made for a request; one that is gone is none."""
        ...

    def find(self, marker: str, project: str, since: float) -> Listing:
        """All servers with that marker, whatever their status, none of them older than ``since``.

        Deleted ones too, as far as the service still knows that they had it: their owner gave
        them up, so that none is to be made in their place.
        """
        ...

    def failed_since(self, since: float) -> list[BuildFailed]:
        """Servers that failed since then because no host could take them, as if told of each.

        At most :data:`FOUND_AT_ONCE` of them, those that changed first first.
        Notifications can be lost before anybody hears them; who looks from time to time does not
        depend on them. ``message_id`` is one of the adapter's own, the same at every look.
        """
        ...

    def link(self, uuid: str, metadata: Mapping[str, str]) -> None:
        """Add metadata to a server; where Nova allows none (ERROR), say it in its description."""
        ...

    def delete(self, uuid: str) -> bool:
        """Delete a server; ``False`` if it was gone already."""
        ...

    def aggregates(self) -> Sequence[Aggregate]:
        """All host aggregates; may be a minute old."""
        ...

    def host_up(self, host: str) -> bool | None:
        """Whether the host's compute service is up; ``None`` if it has none that Nova knows of."""
        ...
