"""Replay: captured notifications, and dead letters, through the listener's own intake."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from changeover.console import given
from changeover.console.desk import Desk
from changeover.console.render import Output
from changeover.models.errors import Invalid, NotFound

if TYPE_CHECKING:
    from changeover.worker.intake import Accepted, Intake

AT_ONCE = 200
SHOWN = 20
MOST_ID = 2**31 - 1
"""No dead letter can have a greater id; databases fail on what they cannot hold."""

OTHER_TOPIC = "other_topic"
"""The outcome of a line that the listener would never be sent: legacy notifications, mostly."""


def replay(desk: Desk, out: Output, path: Path) -> None:
    """Feed a file of notifications in; raises ``Invalid`` if some of it was not understood."""
    intake = _intake(desk)
    counts = Counter[str]()
    letters: list[tuple[int, str]] = []
    boots: list[str] = []
    ends: list[str] = []
    topics = desk.settings.notification_topics
    with _opened(path) as file:
        numbered = _numbered(file, ends)
        while batch := list(islice(numbered, AT_ONCE)):
            lines = [(number, unwrapped(line, topics)) for number, line in batch]
            counts[OTHER_TOPIC] += sum(body is None for _, body in lines)
            told = [(number, body) for number, body in lines if body is not None]
            accepted = intake.accept_all([body for _, body in told], source="replay")
            for (number, _), one in zip(told, accepted, strict=True):
                counts[one.outcome] += 1
                if one.outcome == "dead_letter":
                    letters.append((number, one.reason))
                if one.outcome == "boot" and one.boot is not None:
                    boots.append(one.boot)
    outcomes = {outcome: n for outcome, n in sorted(counts.items()) if n}
    if out.as_json:
        out.document(
            {
                "lines": sum(outcomes.values()),
                "outcomes": outcomes,
                "boots": boots,
                "dead_letters": [{"line": n, "reason": reason} for n, reason in letters],
            }
        )
    else:
        said = ", ".join(f"{outcome.replace('_', ' ')} {n}" for outcome, n in outcomes.items())
        out.line(f"{sum(outcomes.values())} notifications: {said or 'none'}")
        for boot in boots[:SHOWN]:
            out.line(f"  boot {boot}: see `changeover explain {boot}`")
        if (unsent := desk.unsent) is not None and outcomes.keys() - {"ignored", OTHER_TOPIC}:
            out.note(unsent)
    if ends:
        raise Invalid(f"{path}: {ends[0]}")
    if not letters:
        return
    where = "\n".join(f"{path}:{n}: {reason}" for n, reason in letters[:SHOWN])
    raise Invalid(f"{len(letters)} kept as dead letters, see `changeover dead-letters`:\n{where}")


def _numbered(file: BinaryIO, ends: list[str]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank. Why they end early, if so, is added to ``ends``."""
    try:
        for number, line in enumerate(given.lines(file), 1):
            if body := line.strip():
                yield number, body
    except Invalid as exc:
        ends.append(exc.message)


def unwrapped(line: bytes, topics: Iterable[str]) -> bytes | str | None:
    """The notification of a line; ``None`` if its routing key is none that is listened to.

    A line is a notification itself, or a capture with ``exchange``, ``routing_key`` and
    ``message``. What is neither goes in as it is: the intake says what is wrong with it.
    """
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(data, dict) or "message" not in data or "event_type" in data:
        return line
    key = data.get("routing_key")
    if isinstance(key, str) and not any(key.startswith(f"{topic}.") for topic in topics):
        return None
    message = data["message"]
    return message if isinstance(message, str) else json.dumps(message)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except OSError as exc:
        raise Invalid(f"{path}: {exc.strerror}") from exc
    with file:
        yield file


def _intake(desk: Desk) -> Intake:
    from changeover.worker.intake import Intake

    return Intake(desk.sending_database, desk.clock, desk.settings)


def replay_letters(desk: Desk, out: Output, which: int | None) -> None:
    """Feed one dead letter in again, or all that were not replayed yet."""
    intake = _intake(desk)
    with desk.database.read() as tx:
        if which is None:
            letters = [x for x in tx.events.dead_letters(100_000) if x["replayed_at"] is None]
        else:
            one = tx.events.get_dead_letter(which) if 0 < which <= MOST_ID else None
            if one is None:
                raise NotFound(f"there is no dead letter {which}: see `changeover dead-letters`")
            letters = [one]
    done: list[dict[str, Any]] = []
    for letter in reversed(letters):
        accepted = _again(desk, intake, letter)
        done.append(
            {"id": letter["id"], "outcome": accepted.outcome, "reason": accepted.reason or None}
        )
    if out.as_json:
        out.document(done)
        return
    for entry in done:
        why = f": {entry['reason']}" if entry["reason"] else ""
        out.line(f"dead letter {entry['id']}: {entry['outcome'].replace('_', ' ')}{why}")
    if not done:
        out.line("no dead letter waits to be replayed")
    elif (unsent := desk.unsent) is not None:
        out.note(unsent)


def _again(desk: Desk, intake: Intake, letter: dict[str, Any]) -> Accepted:
    accepted = intake.accept(letter["body"], source=letter["source"])
    if accepted.outcome != "dead_letter":
        with desk.database.write() as tx:
            tx.events.replayed(letter["id"], desk.clock.now())
    return accepted
