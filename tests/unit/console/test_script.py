"""The real console script in a process of its own: status, streams, speed, broken parts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from unit.console.conftest import Teller
from unit.console.home import SCRIPT, Home

from changeover.console.serve import QUEUES, worker_command
from changeover.models.errors import Invalid

HEAVY = ("rich", "sqlalchemy", "celery", "kombu", "pydantic", "openstack", "alembic", "ruamel")


@pytest.mark.parametrize("words", [["--help"], ["--version"]], ids=" ".join)
def test_help_answers_without_what_takes_long_to_import(home: Home, words: list[str]) -> None:
    """What it loads decides how soon it answers, on any machine and beside any other work."""
    told = home.script(*words, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert told.returncode == 0
    assert told.stdout
    loaded = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert "changeover.console.cli" in loaded
    assert sorted(name for name in loaded if name.partition(".")[0] in HEAVY) == []


@pytest.mark.parametrize("words", [[], ["plan"], ["config"], ["db"]], ids=" ".join)
def test_no_summary_of_a_command_is_cut_off(tell: Teller, words: list[str]) -> None:
    told = tell(*words, "--help")
    assert told.status == 0
    assert "Commands:" in told.out
    assert "..." not in told.out.replace("ARGS]...", "")


def test_version(home: Home) -> None:
    assert re.fullmatch(r"changeover \d+\.\d+\.\d+\n", home.script("--version").stdout)


def test_no_words_are_wrong_usage_and_show_help(home: Home) -> None:
    told = home.script()
    assert told.returncode == 2
    assert "Commands:" in told.stdout + told.stderr


@pytest.mark.parametrize("words", [["status"], ["boots"], ["devices"], ["explain", "fpga1"]])
def test_listings_in_a_process(home: Home, words: list[str]) -> None:
    told = home.script(*words)
    assert told.returncode == 0, told.stderr
    assert told.stderr == ""
    json.loads(home.script(*words, "--json").stdout)


def test_a_reader_that_goes_away_is_no_error(home: Home) -> None:
    command = f"{SCRIPT} audit | head -n 1; exit ${{PIPESTATUS[0]}}"
    told = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **home.env},
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("WHEN")


@pytest.mark.parametrize("words", [["devices"], ["--help"]])
def test_nobody_reads_at_all(home: Home, words: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    told = subprocess.run(
        [SCRIPT, *words],
        stdout=theirs,
        stderr=subprocess.PIPE,
        check=False,
        env={**os.environ, **home.env},
    )
    os.close(theirs)
    assert (told.returncode, told.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("devices >/dev/full", 3, "error: what was to be written: No space left on device\n"),
        ("--help >/dev/full", 3, "error: what was to be written: No space left on device\n"),
        ("devices >&-", 0, ""),
    ],
)
def test_output_that_cannot_be_written(home: Home, command: str, status: int, said: str) -> None:
    told = subprocess.run(
        ["sh", "-c", f"{SCRIPT} {command}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **home.env},
    )
    assert (told.returncode, told.stderr) == (status, said)


def test_a_database_that_is_not_there_is_not_made_by_looking(home: Home) -> None:
    nowhere = home.path / "nowhere"
    told = home.script("status", env={"CHANGEOVER_STATE_DIR": str(nowhere)})
    assert told.returncode == 3
    assert "changeover db upgrade" in told.stderr
    assert not nowhere.exists()
    made = home.script("db", "upgrade", "--json", env={"CHANGEOVER_STATE_DIR": str(nowhere)})
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["before"] is None
    again = home.script("db", "upgrade", env={"CHANGEOVER_STATE_DIR": str(nowhere)})
    assert "already" in again.stdout


@pytest.mark.parametrize(
    ("env", "words", "status", "said"),
    [
        ({"CHANGEOVER_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/d"}, ["status"], 4,
         "the database does not answer"),
        ({"CHANGEOVER_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/d"}, ["db", "upgrade"], 4,
         "the database does not answer"),
        ({"CHANGEOVER_DATABASE_URL": "sqlite:///catalog.yaml"}, ["status"], 3, "not a database"),
        ({"CHANGEOVER_STATE_DIR": "/proc/nowhere"}, ["db", "upgrade"], 3, "/proc/nowhere: "),
        ({"CHANGEOVER_PLACEMENT_ENDPOINT": "http://127.0.0.1:1"}, ["plan"], 4,
         "Placement http://127.0.0.1:1 does not answer"),
        ({}, ["plan"], 4, "changeover up"),
        ({"CHANGEOVER_CLOUD": "nix"}, ["plan"], 3, "nix"),
        ({"CHANGEOVER_CATALOG": "none.yaml"}, ["pools"], 2, "none.yaml: no such catalog"),
    ],
)  # fmt: skip
def test_what_is_stopped_or_missing_is_one_clear_message(
    home: Home, env: dict[str, str], words: list[str], status: int, said: str
) -> None:
    for as_json in (False, True):
        told = home.script(*words, *(["--json"] if as_json else []), env=env)
        assert told.returncode == status, told.stderr
        assert told.stdout == ""
        assert said in (json.loads(told.stderr)["error"]["message"] if as_json else told.stderr)
        assert "Traceback" not in told.stderr
        assert "hunter2" not in told.stderr


def test_a_stopped_broker_loses_nothing(home: Home) -> None:
    told = home.script(
        "program", "--function", "sha3", env={"CHANGEOVER_BROKER_URL": "redis://127.0.0.1:1/0"}
    )
    assert told.returncode == 0, told.stderr
    assert "sweep" in told.stderr
    with home.database.read() as tx:
        assert "sha3" in {task.function for task in tx.tasks.all()}
        assert tx.hints.count_due(float("inf")) > 0


def test_a_database_of_another_version(home: Home) -> None:
    with home.database.write() as tx:
        tx.connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    told = home.script("status")
    assert told.returncode == 3
    assert "changeover db upgrade" in told.stderr
    with home.database.write() as tx:
        tx.connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'later'")
    for words in (["status"], ["db", "upgrade"]):
        told = home.script(*words)
        assert told.returncode == 3
        assert "a newer Changeover wrote it" in told.stderr
        assert "Traceback" not in told.stderr


def test_completion_names_devices_functions_and_boots(home: Home) -> None:
    def complete(*words: str) -> list[str]:
        env = {
            "_CHANGEOVER_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["changeover", *words]),
            "COMP_CWORD": str(len(words)),
        }
        told = home.script(env=env)
        assert told.stderr == ""
        return told.stdout.split()

    assert complete("expl") == ["explain"]
    assert complete("explain", "fpga1") == ["fpga1", "fpga10", "fpga11", "fpga12"]
    assert complete("explain", home.waiting[:8]) == [home.waiting]
    assert complete("program", "--function", "nvidia-3") == ["nvidia-35", "nvidia-36", "nvidia-37"]
    assert complete("release", "dyn2-") == ["dyn2-r1", "dyn2-r2", "dyn2-r3", "dyn2-r4"]
    (home.path / "catalog.yaml").write_text("nonsense", encoding="utf-8")
    assert complete("explain", "fpga12") == ["fpga12"]
    (home.path / "changeover.sqlite").write_text("nonsense", encoding="utf-8")
    assert complete("explain", "fpga12") == []


def test_on_a_terminal_tables_are_drawn_and_a_layout_asks(home: Home) -> None:
    """A pseudo-terminal, as a person has it."""
    pty = pytest.importorskip("pty")
    (home.path / "layout.yaml").write_text("devices: {fpga2: sha3}\n", encoding="utf-8")

    def on_a_terminal(words: list[str], typed: bytes) -> tuple[int, str]:
        pid, terminal = pty.fork()
        if pid == 0:  # pragma: no cover - the child
            os.chdir(home.path)
            env = {**os.environ, **home.env, "COLUMNS": "120"}
            os.execve(SCRIPT, [str(SCRIPT), *words], env)  # noqa: S606 - no shell is wanted
        os.write(terminal, typed)
        seen = b""
        while True:
            try:
                piece = os.read(terminal, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not piece:
                break
            seen += piece
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()

    status, seen = on_a_terminal(["devices"], b"")
    assert status == 0
    assert "─" in seen
    status, seen = on_a_terminal(["apply", "layout.yaml"], b"n\n")
    assert status == 2
    assert "program 1 device(s)?" in seen
    status, seen = on_a_terminal(["apply", "layout.yaml"], b"y\n")
    assert status == 0, seen
    assert "queued 1 task" in seen


def test_worker_words() -> None:
    argv, env = worker_command("plan, sweep", None)
    assert argv[:3] == ["worker", "--queues", "changeover.plan,changeover.sweep"]
    assert "CHANGEOVER_HOST" not in env
    argv, env = worker_command(None, "compute1")
    assert argv[2] == "changeover.host.compute1"
    assert env["CHANGEOVER_HOST"] == "compute1"
    assert worker_command("boot", "c1")[0][2] == "changeover.boot,changeover.host.c1"
    assert worker_command(None, None)[0][2].count(",") == len(QUEUES) - 1
    for wrong in ("plans", ","):
        with pytest.raises(Invalid, match="queue"):
            worker_command(wrong, None)


def test_a_worker_of_a_host_without_devices_says_so(tell: Teller) -> None:
    told = tell("worker", "--host", "hsot1")
    assert "no device is known on host hsot1 yet" in told.err
    assert "host1, host2" in told.err
    assert "no device is known" not in tell("worker", "--host", "host1").err


@pytest.mark.parametrize("words", [["worker"], ["beat"], ["listener"]])
def test_processes_say_what_is_missing(home: Home, words: list[str]) -> None:
    told = home.script(*words)
    assert told.returncode == 4
    assert "broker_url" in told.stderr


@pytest.mark.parametrize(
    ("words", "ready"),
    [
        (["worker", "--queues", "plan", "--concurrency", "1"], "ready"),
        (["beat"], "beat: Starting"),
        (["listener"], "listener.listening"),
    ],
    ids=["worker", "beat", "listener"],
)
def test_processes_start_and_end_on_sigterm(
    home: Home, broker_url: str, words: list[str], ready: str, tmp_path: Path
) -> None:
    env = {
        **os.environ,
        **home.env,
        "CHANGEOVER_BROKER_URL": broker_url,
        "CHANGEOVER_PLACEMENT_ENDPOINT": "http://127.0.0.1:1",
        "CHANGEOVER_LOG_LEVEL": "info",
    }
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([SCRIPT, *words], env=env, stdout=file, stderr=file)
    try:
        for _ in range(600):
            if ready in log.read_text(encoding="utf-8") or process.poll() is not None:
                break
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
        assert ready in log.read_text(encoding="utf-8"), log.read_text(encoding="utf-8")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "celery beat v" not in log.read_text(encoding="utf-8")
        assert "[config]" not in log.read_text(encoding="utf-8")
    finally:
        process.kill()
        process.wait()
