"""What was found out about one class of failed requests: a verdict, and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from changeover.models.planning import Rejection
from changeover.models.reasons import Reason


class Verdict(StrEnum):
    """Whether reprogramming helps, and if not, which kind of obstacle is in the way."""

    CANDIDATES_NOW = "candidates exist now"
    """Boot again: nothing is to be done."""
    SOON = "soon"
    """A device is being programmed, or is about to be free: waiting beats acting."""
    CHANGEOVER = "a changeover helps"
    """The plan programs devices for it."""
    NO_DEVICE_MAY = "no device may"
    """Hosts could take it, but no device there may be programmed for it: each has its reason."""
    HOSTS_CANNOT = "the hosts cannot"
    """No host with a suitable device can take the rest of the request, whatever is programmed."""
    NOBODY_CAN = "nobody can"
    """No function of the catalog gives what it asks for."""
    UNKNOWN = "unknown"
    """Placement could not be asked, or what was asked for is not known."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One constraint of the request, and the hosts with suitable devices that it rules out."""

    constraint: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The verdict on one class. ``served`` of its ``units`` boots get slots by the plan.

    ``relaxing`` lists the smallest sets of constraints without which a host could take the rest,
    ``devices`` every device of a suitable model with the reason why it does not help,
    ``unsuitable`` counts the devices of other models. ``seconds``: until when to wait, if soon.
    """

    verdict: Verdict
    reason: Reason
    units: int
    served: int = 0
    obstacles: tuple[Obstacle, ...] = ()
    relaxing: tuple[tuple[str, ...], ...] = ()
    devices: tuple[Rejection, ...] = ()
    unsuitable: int = 0
    seconds: float | None = None
