"""Reasons travel as JSON and come back the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import changeover
from changeover.models.reasons import Reason

TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(TEXT, TEXT, st.dictionaries(TEXT, JSON, max_size=3))
def test_round_trip(code: str, text: str, facts: dict[str, object]) -> None:
    reason = Reason(code, text, facts)
    stored = json.dumps(reason.as_json())
    assert Reason.from_json(json.loads(stored)) == reason


def test_without_facts() -> None:
    reason = Reason("a.b", "said")
    assert reason.as_json() == {"code": "a.b", "text": "said", "facts": {}}
    assert Reason.from_json({"code": "a.b", "text": "said"}) == reason


def test_no_two_reasons_share_their_facts() -> None:
    made = Reason("a.b", "said").as_json()
    made["facts"]["x"] = 1
    assert Reason("a.b", "said").facts == {}
    one = Reason("a.b", "said", {"x": 1})
    one.as_json()["facts"]["y"] = 2
    assert one.facts == {"x": 1}


def codes() -> Iterator[tuple[str, str]]:
    root = Path(changeover.__file__).parent
    for part in ("models", "policies", "worker", "console"):
        for path in (root / part).resolve().rglob("*.py"):
            for code in re.findall(r'\bReason\(\s*"([^"]*)"', path.read_text(encoding="utf-8")):
                yield path.name, code


def test_every_code_is_static_and_dotted() -> None:
    found = list(codes())
    assert len(found) > 30
    for path, code in found:
        assert re.fullmatch(r"[a-z]+(\.[a-z]+(_[a-z]+)*)+", code), f"{path}: {code}"
