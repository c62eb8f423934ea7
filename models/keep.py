"""Keeps: slots that are free for everybody, on devices that are not reprogrammed meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KeepKind = Literal["owner", "lease"]


@dataclass(frozen=True, slots=True)
class Keep:
    """Slots of a device that are left for somebody until ``until`` (seconds since the epoch).

    ``owner``: the boot ``subject`` was handed back to its owner, who boots again by himself.
    ``lease``: the reservation ``subject`` begins. Placement shows the slots as free, since whoever
    they are for could not take them otherwise; so others can be quicker, but no changeover takes
    the device away, and the planner counts the slots as promised. ``project``, ``flavor`` and
    ``host`` tell the server that they were left for, once it is built.
    """

    subject: str
    device: str
    kind: KeepKind
    slots: int
    until: float
    project: str
    flavor: str
    host: str
