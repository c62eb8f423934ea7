"""The judge finds what it is there for. Needs no cloud."""

from __future__ import annotations

import pytest
from harness.judge import Span, spans_of_programs, spans_of_uses, violations

PROGRAM = [
    {"card": "cmp1.20", "function": "AES", "event": "begin", "call": "a", "at": 10.0},
    {"card": "cmp1.20", "function": "AES", "event": "end", "call": "a", "at": 12.0},
]


def use(begin: float, end: float | None, card: str = "cmp1.20") -> list[dict[str, object]]:
    came = {"card": card, "consumer": "server", "came": 1, "at": begin}
    return [came] if end is None else [came, came | {"came": 0, "at": end}]


@pytest.mark.parametrize(
    ("begin", "end", "wrong"),
    [(1, 10, False), (1, 10.001, True), (11, 11.5, True), (11.999, None, True), (12, None, False),
     (1, None, True)],
)  # fmt: skip
def test_a_card_that_is_programmed_in_use_is_found(
    begin: float,
    end: float | None,
    wrong: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    found = violations(spans_of_uses(use(begin, end)), spans_of_programs(PROGRAM))
    assert bool(found) is wrong
    assert not violations(spans_of_uses(use(begin, end, "cmp1.21")), spans_of_programs(PROGRAM))


def test_what_never_ended_still_runs() -> None:
    spans = spans_of_programs(PROGRAM[:1])
    assert violations(spans_of_uses(use(1000, None)), spans)


def test_two_uses_and_two_programs_at_once_are_found() -> None:
    spans = [Span("cmp1.20", "a", 1, 3), Span("cmp1.20", "b", 2, 4)]
    assert violations(spans, []) == ["cmp1.20 was used twice at once, for a and b"]
    assert violations([], spans) == ["cmp1.20 was programmed twice at once, for a and b"]
