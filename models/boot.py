"""A boot: one failed server build that is to be tried again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from changeover.models.blueprint import Blueprint
from changeover.models.placement import ResourceRequest
from changeover.models.reasons import Reason
from changeover.models.states import BootState

Origin = Literal["failure", "request"]
"""Whether a server failed, or somebody asked for one that is created when it can succeed."""


@dataclass(frozen=True, slots=True)
class Boot:
    """The row of a boot. Times are seconds since the epoch.

    ``server`` is the failed server, which stays until its ``successor`` is active; ``None`` where
    there is none, since the boot was asked for: then ``origin`` is ``request``. ``attempt``
    counts creates; together with ``id`` it makes the marker of each. ``failed_at`` is when the
    owner's boot failed first: its age counts from there, however often it is put back.
    ``blueprint`` is what its server is created from, kept from before the first create on.
    ``removed_at`` is when Changeover set out to delete the failed server ahead of its successor:
    from then on its absence says nothing about its owner's wish. ``trust`` is the Keystone trust
    that was made for a request, ``trust_withdrawn_at`` when it was taken back, ``submission`` what
    makes a request the same if it is sent twice.
    """

    id: str
    server: str | None
    project: str
    user: str
    name: str
    group_id: str
    request: ResourceRequest
    request_key: str
    device_profile: str | None
    state: BootState
    reason: Reason
    priority: float
    failed_at: float
    received_at: float
    expires_at: float
    wake_at: float
    attempt: int
    successor: str | None = None
    sent_at: float | None = None
    finished_at: float | None = None
    lease_owner: str | None = None
    lease_until: float = 0.0
    blueprint: Blueprint | None = None
    removed_at: float | None = None
    origin: Origin = "failure"
    trust: str | None = None
    trust_withdrawn_at: float | None = None
    submission: str | None = None

    @property
    def marker(self) -> str:
        """The marker of the current attempt's create call."""
        return f"{self.id}.{self.attempt}"


@dataclass(frozen=True, slots=True)
class BootPromise:
    """Slots of a device that are meant for one boot.

    ``changeover`` makes them (``None``: they were free). While ``held_until`` is not ``None``
    they are reserved in Placement for this boot, at the latest until then.
    """

    boot: str
    device: str
    slots: int
    changeover: str | None
    held_until: float | None
