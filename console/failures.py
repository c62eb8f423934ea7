"""How a command fails: one clear message on standard error and a status by family of errors."""

from __future__ import annotations

import errno
import json
import sys
from typing import Final

from changeover.models.errors import AskOperator, ChangeoverError, Refuse, Reread, Retry

REFUSED: Final = 2
"""The request is wrong or forbidden as it stands; wrong usage of the command has it too."""
ASK_OPERATOR: Final = 3
"""A person has to do something first."""
TRY_AGAIN: Final = 4
"""Something does not answer or is busy: the same command may work later."""
CHANGED: Final = 5
"""The world moved meanwhile: look again, then decide."""

INTERRUPTED: Final = 130

_FAMILIES: Final = (
    (Refuse, REFUSED),
    (AskOperator, ASK_OPERATOR),
    (Retry, TRY_AGAIN),
    (Reread, CHANGED),
)


def status_of(error: ChangeoverError) -> int:
    """The exit status of an error: static, by family."""
    return next((status for family, status in _FAMILIES if isinstance(error, family)), 1)


def report(error: ChangeoverError, *, as_json: bool) -> int:
    """Say what went wrong; returns the exit status."""
    status = status_of(error)
    say(error.message, kind=type(error).__name__, status=status, as_json=as_json)
    return status


def say(message: str, *, kind: str, status: int, as_json: bool) -> None:
    """Write an error to standard error, for people or as JSON."""
    from changeover.console.render import clean

    if as_json:
        text = json.dumps({"error": {"kind": kind, "message": message, "status": status}})
    else:
        lines = message.splitlines() or [kind]
        text = "\n".join(clean(line) for line in [f"error: {lines[0]}", *lines[1:]])
    print(text, file=sys.stderr)


BEYOND_US: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
)
"""What a disk or a directory may answer at any time, and only a person can change."""


def foreign(error: Exception) -> tuple[str, int] | None:
    """Message and exit status for an error of a file or the database; ``None``: a defect."""
    if isinstance(error, OSError) and (error.errno in BEYOND_US or error.filename is not None):
        return f"{error.filename or 'what was to be written'}: {error.strerror}", ASK_OPERATOR
    said = database_error(error)
    return None if said is None else (said, TRY_AGAIN)


def database_error(error: Exception) -> str | None:
    """A message for what the database's driver raises itself, if that is what it is."""
    if type(error).__module__ == "sqlite3":
        return f"a file of the simulated cloud answers: {error}: check that its disk has room"
    if not type(error).__module__.startswith("sqlalchemy."):
        return None
    said = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
    return (
        f"the database answers: {said[0]}: check database_url and that "
        "`changeover db upgrade` has run"
    )
