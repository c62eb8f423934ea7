"""A check: one thing that was looked at, what it is like, and what to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    """It works, but something is better changed."""
    FAIL = "fail"
    """Something that Changeover needs does not work."""
    SKIPPED = "skipped"
    """It could not be looked at, or there is nothing to look at: ``said`` tells why."""


@dataclass(frozen=True, slots=True)
class Check:
    """``id`` is a static dotted name, ``said`` one sentence, ``advice`` what a person does next.

    ``facts`` are JSON-able values that the sentence was made from.
    """

    id: str
    verdict: Verdict
    said: str
    advice: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "id": self.id,
            "verdict": str(self.verdict),
            "said": self.said,
            "advice": self.advice,
            "facts": dict(self.facts),
        }


def ok(name: str, said: str, **facts: Any) -> Check:
    """All is well."""
    return Check(name, Verdict.OK, said, None, facts)


def warn(name: str, said: str, advice: str, **facts: Any) -> Check:
    """Something is better changed."""
    return Check(name, Verdict.WARN, said, advice, facts)


def fail(name: str, said: str, advice: str, **facts: Any) -> Check:
    """Something does not work."""
    return Check(name, Verdict.FAIL, said, advice, facts)


def skipped(name: str, why: str, advice: str | None = None) -> Check:
    """It was not looked at."""
    return Check(name, Verdict.SKIPPED, why, advice)


def some(names: list[str], most: int = 5) -> str:
    """A few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
