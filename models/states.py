"""The state tables: every state, what a crash in it means, and every allowed transition."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from changeover.models.errors import Refuse


class ChangeoverState(StrEnum):
    """One device's move to one function. The names are what happens next, not what was done."""

    PLANNED = "planned"
    """Nothing was touched. A crash means nothing."""
    FENCING = "fencing"
    """What the device offered is journaled; the fence may or may not be up. After a crash the
    device is read again and fenced if it is still idle."""
    SETTLING = "settling"
    """Fenced. Allocations that were admitted before the fence may still land until ``due_at``."""
    PROGRAMMING = "programming"
    """A call to the driver may be under way, under the token journaled before it was sent. After
    a crash nobody sends again before the earlier call is provably dead."""
    VERIFYING = "verifying"
    """Programmed. The device is read back."""
    PUBLISHING = "publishing"
    """Right. Its allocations are read before and after traits and reserved inventory are written;
    each write is idempotent."""
    DONE = "done"
    """The device offers its new function."""
    UNFENCING = "unfencing"
    """Given up before programming: what the journal holds is put back. Idempotent."""
    ABANDONED = "abandoned"
    """Given up; the device is as it was."""
    QUARANTINED = "quarantined"
    """Nobody knows what the device does, or it was used behind the fence. It stays fenced until
    an operator releases it."""
    RELEASED = "released"
    """An operator looked at a quarantined device: it counts as empty and may be programmed."""


_C = ChangeoverState

CHANGEOVER_TRANSITIONS: Mapping[ChangeoverState, frozenset[ChangeoverState]] = MappingProxyType(
    {
        _C.PLANNED: frozenset({_C.FENCING, _C.ABANDONED}),
        _C.FENCING: frozenset({_C.SETTLING, _C.PROGRAMMING, _C.UNFENCING, _C.ABANDONED}),
        _C.SETTLING: frozenset({_C.PROGRAMMING, _C.FENCING, _C.UNFENCING}),
        _C.PROGRAMMING: frozenset({_C.VERIFYING, _C.FENCING, _C.UNFENCING, _C.QUARANTINED}),
        _C.VERIFYING: frozenset({_C.PUBLISHING, _C.PROGRAMMING, _C.QUARANTINED}),
        _C.PUBLISHING: frozenset({_C.DONE, _C.QUARANTINED}),
        _C.UNFENCING: frozenset({_C.ABANDONED, _C.QUARANTINED}),
        _C.QUARANTINED: frozenset({_C.RELEASED}),
        _C.DONE: frozenset(),
        _C.ABANDONED: frozenset(),
        _C.RELEASED: frozenset(),
    }
)

CHANGEOVER_MOVING = frozenset(
    {
        _C.PLANNED,
        _C.FENCING,
        _C.SETTLING,
        _C.PROGRAMMING,
        _C.VERIFYING,
        _C.PUBLISHING,
        _C.UNFENCING,
    }
)
"""Some worker has to do something."""

CHANGEOVER_LIVE = CHANGEOVER_MOVING | {_C.QUARANTINED}
"""The device belongs to this changeover; the database allows one such row a device."""


class BootState(StrEnum):
    """One failed server build that is to be tried again."""

    RECEIVED = "received"
    """Accepted from an event, not judged yet."""
    WAITING = "waiting"
    """Judged; waits for capacity, until ``wake_at`` or an event."""
    PROMISED = "promised"
    """A changeover under way will give it slots."""
    READY = "ready"
    """Its slots are there: to be created now. After a crash it is simply taken up again."""
    CREATING = "creating"
    """A create may have been sent, under the marker journaled before. After a crash the marker
    is looked for; no second create before the first can no longer be at work."""
    BUILDING = "building"
    """The API accepted the successor; its build is being watched."""
    BOOTED = "booted"
    """The successor is active."""
    DECLINED = "declined"
    """Nothing that Changeover may do can help; the reason says why."""
    EXPIRED = "expired"
    """Its patience or its attempts ran out; the reason says what was missing to the end."""
    CANCELLED = "cancelled"
    """Its owner deleted the server, or an operator cancelled it."""


_B = BootState

_GIVE_UP = frozenset({_B.DECLINED, _B.EXPIRED, _B.CANCELLED})

BOOT_TRANSITIONS: Mapping[BootState, frozenset[BootState]] = MappingProxyType(
    {
        _B.RECEIVED: frozenset({_B.WAITING, _B.PROMISED, _B.READY}) | _GIVE_UP,
        _B.WAITING: frozenset({_B.WAITING, _B.PROMISED, _B.READY}) | _GIVE_UP,
        _B.PROMISED: frozenset({_B.WAITING, _B.READY}) | _GIVE_UP,
        _B.READY: frozenset({_B.CREATING, _B.READY, _B.WAITING}) | _GIVE_UP,
        _B.CREATING: frozenset({_B.BUILDING, _B.CREATING, _B.READY, _B.WAITING}) | _GIVE_UP,
        _B.BUILDING: frozenset({_B.BOOTED, _B.WAITING}) | _GIVE_UP,
        _B.BOOTED: frozenset(),
        _B.DECLINED: frozenset(),
        _B.EXPIRED: frozenset(),
        _B.CANCELLED: frozenset(),
    }
)

BOOT_OVER = frozenset({_B.BOOTED}) | _GIVE_UP
"""Outcomes: every accepted failed boot ends in exactly one."""

BOOT_WANTS = frozenset({_B.RECEIVED, _B.WAITING})
"""States in which a boot is demand for the planner."""


class TaskState(StrEnum):
    """An operator's programming task."""

    QUEUED = "queued"
    """Demand for the planner, until enough devices offer the function."""
    DONE = "done"
    """As many devices as asked for offer the function."""
    FAILED = "failed"
    """It cannot be done as asked; the reason says why."""
    CANCELLED = "cancelled"
    """An operator cancelled it; changeovers that were programming by then finish."""


_T = TaskState

TASK_TRANSITIONS: Mapping[TaskState, frozenset[TaskState]] = MappingProxyType(
    {
        _T.QUEUED: frozenset({_T.QUEUED, _T.DONE, _T.FAILED, _T.CANCELLED}),
        _T.DONE: frozenset(),
        _T.FAILED: frozenset(),
        _T.CANCELLED: frozenset(),
    }
)


class CallbackState(StrEnum):
    """What became of a callback."""

    PENDING = "pending"
    """To be sent at ``due_at``. After a crash it is sent again: at least once, under one id."""
    DELIVERED = "delivered"
    """The receiver said 2xx."""
    DEAD = "dead"
    """Given up; an operator may have it sent again."""


class PlanState(StrEnum):
    """A plan as an object: what became of the recommendation."""

    RECOMMENDED = "recommended"
    """Waits for a person (mode ``approve``), or is only advice (mode ``observe``)."""
    APPROVED = "approved"
    """A person said yes: what of it a fresh look still wants is started."""
    EXECUTED = "executed"
    """Its changeovers were started."""
    REFUSED = "refused"
    """A person said no."""
    EXPIRED = "expired"
    """Too old to be approved: the cloud has moved on."""


class FoundState(StrEnum):
    """What a provider is to the rules that find devices. Each look decides anew."""

    FOUND = "found"
    """A device."""
    GONE = "gone"
    """It was a device: Placement has it no more, or no rule matches it any more."""
    UNCLEAR = "unclear"
    """A rule wants it, but what it is cannot be said without guessing."""
    OTHER = "other"
    """Looked at, and no device. It is not looked at again at the same generation."""


S = TypeVar("S", bound=StrEnum)


class IllegalTransition(Refuse):
    """A transition that the state table does not have: a bug, or a lost race."""


def check_transition(table: Mapping[S, frozenset[S]], old: S, new: S) -> None:
    """Raise :class:`IllegalTransition` unless ``table`` allows ``old -> new``."""
    if new not in table[old]:
        raise IllegalTransition(f"{old} -> {new} is not in the state table", old=old, new=new)
