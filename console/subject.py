"""Subjects: what a person means by a name, an id, or the beginning of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from changeover.console.desk import Desk
from changeover.models.errors import Invalid, NotFound

if TYPE_CHECKING:
    from changeover.worker.store.lookup import Found


def find_subject(desk: Desk, text: str) -> Found:
    """The one thing that ``text`` means: a device's name, or an id or the beginning of one."""
    from changeover.worker.store.lookup import Found, Lookup

    with desk.database.read() as tx:
        record = tx.devices.get(text)
        found = Lookup(tx).find(text)
    if record is not None:
        return Found("device", record.provider)
    if not found:
        return _new_device(desk, text)
    if len(found) > 1:
        many = ", ".join(f"{f.kind} {f.id}" for f in found)
        raise Invalid(f"{text} may mean any of {many}: type more of it")
    return found[0]


def _new_device(desk: Desk, text: str) -> Found:
    """A device that the catalog names and the workers do not know yet."""
    from changeover.worker.store.lookup import LEAST_CHARACTERS, Found

    few = ""
    if len(text) < LEAST_CHARACTERS:
        few = f" (of an id at least {LEAST_CHARACTERS} characters are needed)"
    missing = (
        f"there is no device, boot, server, changeover, task or plan {text}{few}: see "
        "`changeover devices`, `boots`, `changeovers`, `tasks` and `plans`"
    )
    try:
        device = desk.catalog.device(text)
    except Invalid as exc:
        raise NotFound(
            f"{missing}; whether the catalog names a new device so cannot be said:\n{exc.message}"
        ) from exc
    if device is None:
        raise NotFound(missing)
    return Found("device", device.provider)


def find_id(desk: Desk, text: str, *kinds: str) -> str:
    """The id of what must be one of ``kinds``."""
    found = find_subject(desk, text)
    if found.kind not in kinds:
        raise Invalid(f"{text} is a {found.kind}; wanted is a {' or '.join(kinds)}")
    return found.id
