"""Replay: captured notifications and dead letters go through the listener's intake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unit.console.conftest import Teller
from unit.console.home import Home

DATA = Path(__file__).parents[2] / "data" / "notifications"


def test_a_multi_create_of_three_makes_three_boots_once(tell: Teller, home: Home) -> None:
    path = str(DATA / "novalidhost_three_servers.jsonl")
    told = tell("replay", path, "--json")
    assert told.status == 0, told.err
    assert told.json["outcomes"]["boot"] == 3
    assert len(told.json["boots"]) == 3
    again = tell("replay", path, "--json").json
    assert again["boots"] == []
    assert again["outcomes"]["duplicate"] == 3
    with home.database.read() as tx:
        assert tx.boots.get(told.json["boots"][0]) is not None


@pytest.mark.parametrize("path", sorted(DATA.glob("*.jsonl")), ids=lambda p: p.stem)
def test_every_capture_goes_in(tell: Teller, path: Path) -> None:
    told = tell("replay", str(path))
    assert told.status == 0, told.err
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert told.out.startswith(f"{lines} notifications: ")


def test_legacy_topics_are_not_taken_in(tell: Teller, home: Home) -> None:
    captured = json.loads((DATA / "novalidhost_one_server.jsonl").read_text().splitlines()[-1])
    lines = home.path / "legacy.jsonl"
    lines.write_text(json.dumps({**captured, "routing_key": "notifications.error"}) + "\n")
    assert tell("replay", str(lines), "--json").json["outcomes"] == {"other_topic": 1}


def test_bare_notifications_and_standard_input(home: Home) -> None:
    bare = "\n".join(
        json.dumps(json.loads(line)["message"])
        for line in (DATA / "novalidhost_one_server.jsonl").read_text().splitlines()
    )
    told = home.script("replay", "-", "--json", stdin=f"{bare}\n\n")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["outcomes"]["boot"] == 1


def test_what_is_not_understood_is_kept_and_named_by_line(tell: Teller, home: Home) -> None:
    path = home.path / "bad.jsonl"
    deep = "[" * 100_000
    path.write_text(f'{{"foo": 1}}\nnot json\n{deep}\n', encoding="utf-8")
    told = tell("replay", str(path))
    assert told.status == 2
    assert "3 kept as dead letters" in told.err
    for number in (1, 2, 3):
        assert f"bad.jsonl:{number}: " in told.err
    assert len(tell("dead-letters", "--json").json) == 4


def test_a_dead_letter_is_taken_in_again(tell: Teller, home: Home) -> None:
    [before] = tell("dead-letters", "--json").json
    again = tell("dead-letters", "--replay", str(before["id"]), "--json").json
    assert again == [{"id": before["id"], "outcome": "dead_letter", "reason": again[0]["reason"]}]
    assert "dead letter" in tell("dead-letters", "--replay-all").out
    good = (DATA / "novalidhost_one_server.jsonl").read_text().splitlines()[-1]
    body = json.dumps(json.loads(good)["message"])
    with home.database.write() as tx:
        tx.events.dead_letter(
            digest="0" * 64, source="listener", reason="too new", body=body, size=1, now=1.0
        )
    outcomes = {entry["outcome"] for entry in tell("dead-letters", "--replay-all", "--json").json}
    assert outcomes == {"dead_letter", "boot"}
    waiting = [x for x in tell("dead-letters", "--json").json if x["replayed_at"] is None]
    assert [x["id"] for x in waiting] == [before["id"]]
