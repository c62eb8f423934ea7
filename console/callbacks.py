"""Callbacks: what was told to whom, and sending again what was given up."""

from __future__ import annotations

from changeover.console.desk import Desk, operator_name
from changeover.console.render import Column, Output, plain, short, span
from changeover.models.callback import Callback
from changeover.models.errors import Invalid, NotFound, Refuse
from changeover.models.states import CallbackState

COLUMNS = [
    Column("callback", "callback"),
    Column("kind", "tells"),
    Column("boot", "boot"),
    Column("target", "target"),
    Column("state", "state"),
    Column("tries", "tries", right=True),
    Column("age", "age", right=True),
    Column("next", "next", right=True),
    Column("error", "last error"),
]


def listing(desk: Desk, out: Output, *, state: str | None, limit: int) -> None:
    """One line a callback, newest first."""
    wanted = None if state is None else CallbackState(state)
    with desk.database.read() as tx:
        found = tx.callbacks.listed(state=wanted, limit=limit)
    now = desk.clock.now()
    out.listing(
        [plain(c) for c in found],
        COLUMNS,
        (callback_line(c, now) for c in found),
        empty="no such callbacks" if desk.settings.callbacks else "no callbacks are configured",
    )


def callback_line(callback: Callback, now: float) -> dict[str, object]:
    """A callback in a table."""
    pending = callback.state is CallbackState.PENDING
    return {
        "callback": short(callback.id),
        "kind": callback.kind,
        "boot": short(callback.boot),
        "target": callback.target,
        "state": str(callback.state),
        "tries": callback.tries,
        "age": span(now - callback.created_at),
        "next": f"in {span(max(0.0, callback.due_at - now))}" if pending else None,
        "error": callback.error,
    }


def retry(desk: Desk, out: Output, text: str | None) -> None:
    """Send one again, or all; only what was given up."""
    with desk.sending_database.write() as tx:
        wanted: Callback | None = None
        if text is not None:
            found = tx.callbacks.find(text)
            if len(found) > 1:
                raise Invalid(f"{text} may mean any of {', '.join(found)}: type more of it")
            wanted = tx.callbacks.get(found[0]) if found else None
            if wanted is None:
                raise NotFound(f"there is no callback {text}; see `changeover callbacks`")
            if wanted.state is not CallbackState.DEAD:
                raise Refuse(f"callback {wanted.id} is {wanted.state}: it was not given up")
        now = desk.clock.now()
        sent = tx.callbacks.retry(now, None if wanted is None else wanted.id)
        subject = "everything" if wanted is None else wanted.id
        tx.audit.add(now, operator_name(), "callback.retried", subject, count=sent)
    if out.as_json:
        out.document({"retried": sent})
        return
    out.line(f"{sent} callback(s) are sent again")
    if sent and (unsent := desk.unsent) is not None:
        out.note(unsent)
