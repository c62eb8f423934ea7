"""Errors, sorted by what the caller does next.

Catch the four families, not the leaves: :class:`Retry` (the same call may work later),
:class:`Reread` (the world moved, or the answer was lost: look again, then decide anew),
:class:`Refuse` (the call is wrong or forbidden as it stands) and :class:`AskOperator`
(no program can decide this). Each carries a message that tells a person what to do and the
``facts`` that belong in a log line.
"""

from __future__ import annotations


class ChangeoverError(Exception):
    """Root of all errors that Changeover raises on purpose."""

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts


class Retry(ChangeoverError):
    """A passing condition: call again later, with back-off."""


class Unreachable(Retry):
    """A remote service did not answer, or answered 429 or 5xx, and provably did nothing else."""


class Busy(Retry):
    """Somebody else holds what is needed: a lease, a device's lock, the database."""


class Reread(ChangeoverError):
    """What the decision was made on is no longer known to be true: read again and decide anew."""


class Stale(Reread):
    """A generation compare-and-swap failed: another client wrote in between."""


class OutcomeUnknown(Reread):
    """A call that changes something was sent and not answered: it may have worked, or may yet."""


class Refuse(ChangeoverError):
    """The request is wrong or forbidden as it stands; repeating it changes nothing."""


class InUse(Refuse):
    """The resource is in use: allocations exist on it."""


class QuotaExceeded(Refuse):
    """The owner's quota is used up; what is deleted makes room."""


class NotFound(Refuse):
    """No such thing."""


class Invalid(Refuse):
    """Input that does not say what it must; the message names where."""


class Garbled(Refuse):
    """A remote service answered something that is not of its documented form."""


class AskOperator(ChangeoverError):
    """A person has to decide; nothing is touched until then."""
