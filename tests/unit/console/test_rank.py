"""Ranking candidates by preferred traits."""

from __future__ import annotations

import json

import pytest
from unit.console.conftest import Teller
from unit.console.home import Home

OWN = [
    {"name": "a", "traits": []},
    {"name": "b", "traits": ["T1", "T2"]},
    {"uuid": "c", "traits": ["T2"]},
    {"traits": ["T1"]},
]

PLACEMENT = {
    "allocation_requests": [
        {"allocations": {"p1": {"resources": {"VGPU": 1}}}},
        {"allocations": {"p1": {"resources": {}}, "p2": {"resources": {"VGPU": 1}}}},
    ],
    "provider_summaries": {"p1": {"traits": ["T1"]}, "p2": {"traits": ["T2"]}},
}


def test_own_candidates_from_a_file(tell: Teller, home: Home) -> None:
    path = home.path / "candidates.json"
    path.write_text(json.dumps(OWN), encoding="utf-8")
    told = tell("rank", "--wanted", "T1,T2", str(path), "--json").json
    assert [row["name"] for row in told] == ["b", "c", "#4", "a"]
    assert told[0]["candidate"] == OWN[1]
    assert told[1]["missing"] == ["T1"]
    head, first, *_ = tell("rank", "--wanted", "T1,T2", str(path)).out.splitlines()
    assert head.split()[:2] == ["RANK", "CANDIDATE"]
    assert first.split()[:3] == ["1", "b", "2/2"]


def test_placements_answer_on_standard_input(tell: Teller) -> None:
    told = tell("rank", "--wanted", "T2, T1", stdin=json.dumps(PLACEMENT)).out
    assert told.splitlines()[1].split("2/2")[0].split() == ["1", "p1,", "p2"]


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[1]", "{}", '[{"name": "a"}]', '[{"traits": "T1"}]', "3", "[" * 100_000],
)
def test_what_are_no_candidates(tell: Teller, text: str) -> None:
    told = tell("rank", "--wanted", "T1", "-", stdin=text)
    assert told.status == 2
    assert "standard input: " in told.err


def test_no_candidates(tell: Teller) -> None:
    assert tell("rank", "--wanted", "T1", stdin="[]").out == "no candidates\n"


def test_resources_are_written_as_class_and_amount(tell: Teller) -> None:
    for text in ("VGPU", "VGPU=", "VGPU=0", "VGPU=many", "VGPU=²"):
        told = tell("rank", "--wanted", "T1", "--resources", text, "--json")
        assert told.status == 2 or told.error["kind"] == "Unreachable"
        assert told.status != 0
