"""Reasons: why something was decided, in a form for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason of a decision.

    ``code`` is a static dotted name (``device.in_use``), ``text`` one sentence for a person,
    ``facts`` JSON-able values that the text was made from.
    """

    code: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The reason as JSON-able values."""
        return {"code": self.code, "text": self.text, "facts": dict(self.facts)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reason:
        """The reason that :meth:`as_json` wrote."""
        return cls(str(data["code"]), str(data["text"]), dict(data.get("facts", {})))
