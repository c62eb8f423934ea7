"""Files without an end are refused, and what came before is taken."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from unit.console.conftest import Teller
from unit.console.home import Home

from changeover.console import given
from changeover.models.errors import Invalid

CAPTURED = Path(__file__).parents[2] / "data" / "notifications" / "novalidhost_one_server.jsonl"


@pytest.mark.parametrize(
    "words",
    [
        ["submit", "/dev/zero"],
        ["rank", "/dev/zero", "--wanted", "T"],
        ["apply", "/dev/zero", "--dry-run"],
        ["boot", "--flavor", "f", "--image", "i", "--network", "auto", "--user-data", "/dev/zero"],
    ],
    ids=lambda words: words[0],
)
def test_a_file_without_an_end_is_refused(tell: Teller, words: list[str]) -> None:
    told = tell(*words, "--json")
    assert told.status == 2
    assert "/dev/zero: is longer than" in told.error["message"]


def test_lines_are_taken_until_one_has_no_end(tell: Teller, home: Home) -> None:
    lines = CAPTURED.read_bytes().splitlines(keepends=True)
    path = home.path / "captured.jsonl"
    path.write_bytes(b"".join(lines) + b"x" * (given.LONGEST_LINE + 1) + b"\n" + lines[0])
    told = tell("replay", str(path), "--json")
    assert told.status == 2
    assert f"captured.jsonl: line {len(lines) + 1}: is longer than" in told.error["message"]
    assert json.loads(told.out)["lines"] == len(lines)


def test_lines_come_whole() -> None:
    text = "a\n\nbc"
    assert list(given.lines(io.StringIO(text), 2)) == ["a\n", "\n", "bc"]
    with pytest.raises(Invalid, match=r"^line 2: is longer than 2: what follows was not read$"):
        list(given.lines(io.BytesIO(b"a\nabc"), 2))
