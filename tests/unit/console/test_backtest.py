"""Backtests from the command line: files, the deployment's own past, plots, others' policies."""

from __future__ import annotations

import builtins
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from unit.console.conftest import Teller
from unit.console.home import SCRIPT, Home

from changeover.models.placement import ResourceRequest
from changeover.policies.request import request_of_flavor
from changeover.worker.history import learn
from changeover.worker.settings import Settings
from changeover.worker.simulator.fleet import describe_fleet
from changeover.worker.world import World

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data" / "workloads"
FILES = (
    "--events", str(DATA / "small.events.csv"), "--fleet", str(DATA / "small.fleet.csv"),
    "--program-seconds", "10", "--patience", "60",
)  # fmt: skip

HOUR = 3600.0


def _request(name: str) -> ResourceRequest:
    flavor = next(f for f in describe_fleet().flavors if f.name == name)
    return request_of_flavor(flavor).request


def _record(home: Home) -> None:
    """Ten days of demand: aes every hour, for half an hour; gzip in the morning, failing."""
    now = home.operator.clock.now()
    with home.database.write() as tx:
        aes = tx.demand.kind(_request("fpga.aes"), None)
        gzip = tx.demand.kind(_request("fpga.gzip"), None)
        for hour in range(240):
            at = now - (240 - hour) * HOUR
            tx.demand.built(f"aes-{hour}", aes, at)
            tx.demand.ended(f"aes-{hour}", at + HOUR / 2)
            if hour % 24 == 9:
                tx.demand.failed([(f"gzip-{hour}", gzip, at)])
                tx.demand.succeeded(f"gzip-{hour}", f"again-{hour}", at + 60.0)
                tx.demand.ended(f"again-{hour}", at + 2 * HOUR)


def test_policies_are_compared_on_the_deployments_own_past(tell: Teller, home: Home) -> None:
    told = tell("backtest", "--from-db", "--json")
    assert told.status == 2
    assert "no server that asked for devices was recorded" in told.error["message"]
    _record(home)
    runs = tell("backtest", "--from-db", "--patience", "600", "--json").json["policies"]
    assert [run["policy"] for run in runs] == ["reactive", "newsvendor", "default"]
    assert {run["scored"] for run in runs} == {runs[0]["scored"]}
    assert runs[0]["scored"] > 200
    text = tell("backtest", "--from-db", "--policy", "static", "--policy", "reactive").out
    assert "static" in text
    assert "250 boots" in text


def test_the_outlook_is_shown_as_it_was_learnt(tell: Teller, home: Home) -> None:
    _record(home)
    world = World(
        database=home.database,
        placement=None,  # type: ignore[arg-type]  # what is recorded is all that is asked
        servers=None,  # type: ignore[arg-type]  # nor of this
        programmers={},
        clock=home.operator.clock,
        catalog=home.catalog,
        settings=Settings(state_dir=home.path),
        owner="test",
    )
    assert learn(world) == 500
    assert learn(world) == 0
    found = {row["function"]: row for row in tell("forecast", "--json").json["functions"]}
    assert found["aes"]["bursts_a_day"] == pytest.approx(24.0, rel=0.3)
    assert found["aes"]["holding_seconds"] == pytest.approx(HOUR / 2, rel=0.1)
    assert found["gzip"]["holding_seconds"] == pytest.approx(2 * HOUR, rel=0.2)
    assert found["sha3"]["slots_wanted"] == 0
    assert tell("thrash", "--json").json["programs"] == 0


def test_what_does_not_go_together_is_refused(tell: Teller) -> None:
    for words in (
        ("--from-db", "--events", "x.csv"),
        ("--events", "x.csv"),
        (*FILES, "--policy", "nonsense"),
        (*FILES, "--policy", "static", "--policy", "reactive", "--journal", "j.jsonl"),
        (*FILES, "--plot", "picture.gif"),
        (*FILES, "--plot", "/nowhere/at/all.png"),
        (*FILES, "--journal", "/nowhere/at/all.jsonl"),
        (*FILES, "--journal", str(DATA)),
        (*FILES, "--patience", "inf"),
        (*FILES, "--program-seconds", "inf"),
    ):
        assert tell("backtest", *words).status == 2, words


def test_files_of_spreadsheets_are_read_and_broken_ones_named(tell: Teller, tmp_path: Path) -> None:
    def replayed(data: bytes, name: str = "events.csv") -> tuple[int, str]:
        path = tmp_path / name
        path.write_bytes(data)
        told = tell("backtest", "--events", str(path), *FILES[2:], "--policy", "reactive")
        return told.status, told.err

    plain = (DATA / "small.events.csv").read_bytes()
    assert replayed(b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n"))[0] == 0
    packed = gzip.compress(plain)
    assert replayed(packed, "events.csv.gz")[0] == 0
    for broken in (packed[:200], packed[:100] + b"\x00" * 50 + packed[150:], plain):
        status, said = replayed(broken, "events.csv.gz")
        assert status == 2
        assert "events.csv.gz: cannot be read" in said


HEAD = "arrival_s,duration_s,function,slots,project,priority\n"


@pytest.mark.parametrize(
    ("events", "fleet", "said"),
    [
        (f"{HEAD}0,1,a,9999999,p,1\n", "device,a\nd0,1\n", "line 2: slots is no number of slots"),
        (f"{HEAD}0,1,a,1,p,1\n", f"device,a\nd0,{10**19}\n", "line 2: a is no number of slots"),
        (f"slots,{HEAD}1,0,1,a,1,p,1\n", "device,a\nd0,1\n", "the column 'slots' twice"),
    ],
)
def test_numbers_and_columns_that_cannot_be_meant(
    tell: Teller, tmp_path: Path, events: str, fleet: str, said: str
) -> None:
    (tmp_path / "e.csv").write_text(events)
    (tmp_path / "f.csv").write_text(fleet)
    files = ("--events", str(tmp_path / "e.csv"), "--fleet", str(tmp_path / "f.csv"))
    told = tell("backtest", *files, "--program-seconds", "10", "--patience", "60")
    assert told.status == 2
    assert said in told.err


def test_a_journal_does_not_replace_what_is_read(tell: Teller, tmp_path: Path) -> None:
    files = {"--events": tmp_path / "e.csv", "--fleet": tmp_path / "f.csv"}
    for path, name in zip(files.values(), ("small.events.csv", "small.fleet.csv"), strict=True):
        path.write_bytes((DATA / name).read_bytes())
    words = [word for option, path in files.items() for word in (option, str(path))]
    for path in files.values():
        before = path.read_bytes()
        told = tell("backtest", *words, *FILES[4:], "--journal", str(path))
        assert (told.status, path.read_bytes()) == (2, before)
        assert "would be written over what is read" in told.err


def test_what_makes_the_figures_doubtful_is_said(tell: Teller, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(f"{HEAD}0,1,b,4,p,1\n1,1,b,5,p,1\n2,1,a,1,p,1\n3,1,x,1,p,1\n")
    (tmp_path / "f.csv").write_text("device,a,b\nd0,1,2\nd1,0,2\n")
    files = ("--events", str(tmp_path / "e.csv"), "--fleet", str(tmp_path / "f.csv"))
    words = ("backtest", *files, "--program-seconds", "10", "--patience", "60")
    told = tell(*words)
    assert "the whole fleet could never serve 2 boots: b (1), x (1)\n" in told.out
    assert "no boot is scored" in told.out
    assert (tell(*words, "--json").json["beyond_fleet"], told.status) == (2, 0)
    good = tell("backtest", *FILES, "--policy", "reactive")
    assert "never serve" not in good.out
    assert "no boot is scored" not in good.out


def _beside_a_terminal(*words: str) -> tuple[int, bytes, str]:
    """Status, standard output to a pipe, and what a person sees on a terminal meanwhile."""
    pty = pytest.importorskip("pty")
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [SCRIPT, "backtest", *FILES, *words],
        stdout=subprocess.PIPE,
        stderr=end,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(end)
        seen = b""
        while True:
            try:
                seen += os.read(terminal, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
        out, _ = process.communicate(timeout=60)
    os.close(terminal)
    return process.returncode, out, seen.decode()


def test_a_person_sees_how_far_it_is_and_nothing_else_changes(tell: Teller, tmp_path: Path) -> None:
    journals = [tmp_path / name for name in ("seen.jsonl", "quiet.jsonl", "json.jsonl")]
    words = [("--policy", "reactive", "--journal", str(journal)) for journal in journals]
    status, out, seen = _beside_a_terminal(*words[0])
    assert status == 0
    boots = len((DATA / "small.events.csv").read_text(encoding="utf-8").splitlines()) - 1
    assert "reactive" in seen
    assert f"of {boots} boots" in seen
    quiet = tell("backtest", *FILES, *words[1])
    assert (quiet.err, quiet.out) == ("", out.decode())
    status, out, seen = _beside_a_terminal(*words[2], "--json")
    assert (status, seen) == (0, "")
    assert json.loads(out)["policy"] == "reactive"
    first, *others = (journal.read_bytes() for journal in journals)
    assert first
    assert others == [first, first]


@pytest.mark.parametrize("form", ["png", "svg"])
def test_a_plot_is_drawn(tell: Teller, tmp_path: Path, form: str) -> None:
    pytest.importorskip("matplotlib", reason="the extra changeover[plot] is not installed")
    path = tmp_path / f"picture.{form}"
    words = ("--policy", "reactive", "--policy", "default", "--plot", str(path))
    told = tell("backtest", *FILES, *words)
    assert told.status == 0, told.err
    data = path.read_bytes()
    if form == "png":
        assert data.startswith(b"\x89PNG")
        assert len(data) > 10_000
    else:
        text = "".join(ET.fromstring(data).itertext())  # noqa: S314 - our own file
        assert "svg" in ET.fromstring(data).tag  # noqa: S314 - our own file
        assert len(data) > 10_000, text


def test_without_matplotlib_a_plot_is_refused_before_the_run(
    tell: Teller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    told = tell("backtest", *FILES, "--plot", str(tmp_path / "picture.png"))
    assert told.status == 2
    assert "changeover[plot]" in told.err


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The example package of docs/policies.md, really installed; the environment that has it."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "example-policy"
    source.mkdir()
    for file in (ROOT / "docs" / "example-policy").iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
            "--no-build-isolation", "--disable-pip-version-check", "--target", target, source,
        ],
        check=True,
    )  # fmt: skip
    return {**os.environ, "PYTHONPATH": str(target)}


def test_a_policy_of_an_installed_package_is_listed_and_runs(installed: dict[str, str]) -> None:
    script = Path(sys.executable).with_name("changeover")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [script, "backtest", *FILES, *words],
            env=installed, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    told = run("--policy", "nonsense")
    assert told.returncode == 2
    assert "static, reactive, newsvendor, default, oldest" in told.stderr
    told = run("--policy", "oldest", "--json")
    assert told.returncode == 0, told.stderr
    assert '"policy": "oldest"' in told.stdout
