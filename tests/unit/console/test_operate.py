"""What operators may do, and what they are told when they may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.console.conftest import Teller
from unit.console.home import Home

from changeover.console import operate
from changeover.models.states import BootState, ChangeoverState, TaskState


def test_program_and_cancel(tell: Teller, home: Home) -> None:
    told = tell("program", "--function", "sha3", "--device", "fpga1", "--json")
    assert told.status == 0, told.err
    task = told.json["id"]
    with home.database.read() as tx:
        stored = tx.tasks.get(task)
    assert stored is not None
    assert (stored.function, stored.device) == ("sha3", home.provider("fpga1"))
    said = tell("program", "--function", "gzip", "--count", "2", "--host", "host1")
    assert "gzip on 2 device(s) on host1" in said.out
    assert "no broker answers" in said.err
    assert "cancelled task" in tell("cancel", task[:13]).out
    with home.database.read() as tx:
        cancelled = tx.tasks.get(task)
    assert cancelled is not None
    assert cancelled.state is TaskState.CANCELLED
    again = tell("cancel", task, "--json")
    assert again.status == 2
    assert "already" in again.error["message"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["program", "--function", "nope"], "the catalog has no function nope"),
        (["program", "--function", "aes", "--device", "nope"], "no device nope"),
        (["program", "--function", "aes", "--device", "gpu1"], "does not fit gpu1"),
        (["program", "--function", "aes", "--count", "0"], "--count"),
        (["program", "--function", "aes", "--count", "9" * 25], "--count must be from 1 to 26"),
        (["program", "--function", "aes", "--host", "host1", "--count", "99"], "of host host1"),
        (["program", "--function", "aes", "--priority", "inf"], "--priority"),
        (["program", "--function", "aes", "--host", "mars"], "mars"),
        (["program", "--function", "aes", "--priority", "0"], "--priority"),
        (["program", "--function", "aes", "--when", "later"], "later"),
        (["program"], "function"),
        (["release", "fpga1"], "fpga1 is not quarantined"),
        (["release", "nope"], "no device nope"),
        (["retry", "nothing"], "there is no"),
        (["cancel", "nothing"], "there is no"),
        (["cancel", "fpga1"], "is a device"),
        (["functions", "--allow", "nope"], "no function nope"),
        (["frobnicate"], "frobnicate"),
        (["explain"], "subject"),
        (["apply", "missing.yaml", "--yes"], "missing.yaml: No such file"),
        (["replay", "missing.jsonl"], "missing.jsonl: No such file"),
        (["rank", "--wanted", ",", "x.json"], "--wanted"),
        (["rank", "--wanted", "X", "--required", "Y", "x.json"], "--resources, too"),
        (["rank", "--wanted", "X", "--resources", "=1"], "--resources =1"),
        (["dead-letters", "--replay", "77"], "no dead letter 77"),
        (["dead-letters", "--replay", "9" * 25], "no dead letter 9"),
        (["boots", "--limit", "9" * 25], "limit"),
        (["thrash", "--days", "inf"], "days"),
        (["backtest", "--from-db", "--patience", "1e308"], "patience"),
        (["explain", "\udcff"], "is not UTF-8"),
        (["plan", "--json", "refuse", "x"], "after refuse"),
        (["dead-letters", "--replay", "1", "--replay-all"], "not both"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(tell: Teller, words: list[str], said: str) -> None:
    told = tell(*words)
    assert told.status == 2
    assert said in told.err
    assert "Traceback" not in told.err
    as_json = tell(*words, "--json")
    assert as_json.status == 2
    assert said in as_json.error["message"]
    assert as_json.out == ""


def test_cancel_a_boot_and_a_changeover(tell: Teller, home: Home) -> None:
    assert "cancelled boot" in tell("cancel", home.waiting).out
    assert "asked changeover" in tell("cancel", home.live).out
    with home.database.read() as tx:
        boot, changeover = tx.boots.get(home.waiting), tx.changeovers.get(home.live)
    assert boot is not None
    assert boot.state is BootState.CANCELLED
    assert changeover is not None
    assert changeover.cancel


def test_release(tell: Teller, home: Home) -> None:
    told = tell("release", "fpga9", "--json")
    assert told.json["state"] == "released"
    with home.database.read() as tx:
        changeover = tx.changeovers.get(home.quarantined)
    assert changeover is not None
    assert changeover.state is ChangeoverState.RELEASED


def test_retry(tell: Teller, home: Home) -> None:
    with home.database.read() as tx:
        before = tx.boots.get(home.waiting)
    assert tell("retry", home.server).status == 0
    with home.database.read() as tx:
        after = tx.boots.get(home.waiting)
    assert before is not None
    assert after is not None
    assert after.wake_at < before.wake_at
    assert tell("retry", home.declined).status == 2


def test_pause_drain_resume(tell: Teller, home: Home) -> None:
    assert tell("pause", "--why", "moving racks", "--json").json == {"paused": "moving racks"}
    assert "moving racks" in tell("status").out
    assert tell("resume").out == "resumed\n"
    assert tell("status", "--json").json["paused"] is None
    assert tell("drain", "--json").json == {"paused": "draining", "asked_to_stop": 1}
    with home.database.read() as tx:
        changeover = tx.changeovers.get(home.live)
    assert changeover is not None
    assert changeover.cancel


def test_allow(tell: Teller, home: Home) -> None:
    with home.database.write() as tx:
        for device in "abc":
            tx.functions.failed("aes", device, 3, 0.0)
    assert tell("status", "--json").json["functions_stopped"] == ["aes"]
    assert "suspect" in tell("functions").out
    assert tell("functions", "--allow", "aes").status == 0
    assert tell("status", "--json").json["functions_stopped"] == []


# ---------------------------------------------------------------- layouts


def _layout(home: Home, text: str) -> str:
    path = home.path / "layout.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_layout_is_shown_first_applied_once_and_then_kept(tell: Teller, home: Home) -> None:
    path = _layout(home, "devices:\n  fpga1: aes\n  fpga2: sha3\n  gpu4: nvidia-35\n")
    dry = tell("apply", path, "--dry-run")
    assert dry.status == 0
    assert "2 to program, 0 queued already, 1 as wanted" in dry.out
    with home.database.read() as tx:
        assert len(tx.tasks.all()) == 1
    asked = tell("apply", path)
    assert asked.status == 2
    assert "--yes" in asked.err
    done = tell("apply", path, "--yes", "--json").json
    assert {t["function"] for t in done["tasks"]} == {"sha3", "nvidia-35"}
    again = tell("apply", path, "--yes", "--json").json
    assert again["tasks"] == []
    assert {d["action"] for d in again["differences"]} == {"keep", "queued"}


def test_on_a_terminal_it_asks(tell: Teller, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(operate, "_agreed", lambda _: next(answers))
    path = _layout(home, "devices: {fpga2: sha3}\n")
    assert tell("apply", path).err == "error: nothing was changed\n"
    assert "queued 1 task" in tell("apply", path).out


def test_json_cannot_ask(tell: Teller, home: Home) -> None:
    told = tell("apply", _layout(home, "devices: {fpga2: sha3}\n"), "--json")
    assert told.status == 2
    assert "--yes" in told.error["message"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devices:\n  fpga4: aess\n  nope: aes\n", [":2: fpga4: ", ":3: nope: "]),
        ("devices:\n  gpu4: aes\n", [":2: gpu4: aes does not fit model pgpu"]),
        (
            "devices:\n  fpga4: aes\n  fpga4: gzip\n",
            [":3: devices.fpga4: is there twice", "line 2"],
        ),
        ("devices:\n  fpga4:\n", [":2: devices.fpga4: names no function"]),
        ("devices:\n  - fpga4\n", [":1: devices: must map"]),
        ("devices:\n  fpga4: [aes]\n", [":2: devices: must be lines"]),
        ("device:\n  fpga4: aes\n", [":1: device: there is no such field"]),
        ("- fpga4\n", [":1: must be `devices:`"]),
        ("", [":1: must be `devices:`"]),
        ("{}", [":1: devices: is missing"]),
        ("devices: {fpga4: aes", [":1: is not YAML"]),
        ("devices: !!python/object:os.system {}\n", [":1: "]),
    ],
)
def test_a_bad_layout_names_its_lines(tell: Teller, home: Home, text: str, said: list[str]) -> None:
    told = tell("apply", _layout(home, text), "--yes")
    if "python/object" in text:  # no object is made: it is an empty mapping of devices
        assert told.status == 0
        return
    assert told.status == 2, told.out
    for part in said:
        assert part in told.err
    with home.database.read() as tx:
        assert len(tx.tasks.all()) == 1


def test_a_layout_that_is_not_text(tell: Teller, home: Home) -> None:
    path: Path = home.path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8" in tell("apply", str(path), "--yes").err
