"""What every programmer must do, held against the simulated cards and a real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from changeover.models.catalog import Artifact, Catalog, Device, Function, Model
from changeover.models.catalog import CommandProgrammer as Settings
from changeover.models.errors import Busy, Invalid, Refuse
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.adapters.programmer_command import DETAIL_CHARACTERS, CommandDriver
from changeover.worker.adapters.programmer_simulated import SimulatedDriver
from changeover.worker.ports.programmer import Outcome, Programmer, Reading
from changeover.worker.simulator.cards import Behaviour, Fault, FaultKind, SimulatedCards

CALLER = Path(__file__).with_name("program_caller.py")

TOOL = """#!/bin/sh
# A vendor's tool: $1 program|read, $2 the directory of its cards, $3 the address, $4 the function.
cd "$2" || exit 3
case "$1" in
read) [ ! -e broken ] || exit 1; cat "$3" 2>/dev/null || true ;;
program)
    echo "$CHANGEOVER_TOKEN $4" >> calls
    : > "$3"
    sleep "$(cat seconds)"
    [ ! -e detach ] || { setsid sleep "$(cat detach)" & }
    [ ! -e fail ] || { echo "bad bitstream" >&2; exit 7; }
    printf %s "$4" > "$3" ;;
esac
"""


class Rig:
    """A device behind a programmer, and the knobs of the world beneath it."""

    kind: str
    where: str
    programmer: Programmer
    device = Device(
        name="fpga-0", provider=str(uuid4()), model="u50", host="h", address="0000-3b-00.0"
    )

    def takes(self, seconds: float) -> None:
        raise NotImplementedError

    def fail_next(self) -> None:
        raise NotImplementedError

    def hang_next(self) -> None:
        raise NotImplementedError

    def break_reading(self) -> None:
        raise NotImplementedError

    @contextmanager
    def caller(self, name: str = "aes") -> Iterator[subprocess.Popen[bytes]]:
        """Another process that programs the device."""
        argv = [sys.executable, str(CALLER), self.kind, self.where]
        argv += [self.device.model_dump_json(), function(name).model_dump_json()]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            until(lambda: self.programmer.read(self.device).busy is True)
            yield process


class SimulatedRig(Rig):
    kind = "simulated"

    def __init__(self, home: Path) -> None:
        self.where = str(home)
        self.cards = SimulatedCards(home, SystemClock())
        self.cards.add(self.device.name)
        self.programmer = SimulatedDriver(self.cards)
        self.takes(0.05)

    def takes(self, seconds: float) -> None:
        self.cards.behave(Behaviour(seconds={"aes": seconds, "gzip": seconds}))

    def fail_next(self) -> None:
        self.cards.inject(Fault(FaultKind.FAIL))

    def hang_next(self) -> None:
        self.cards.inject(Fault(FaultKind.HANG, seconds=0.3))

    def break_reading(self) -> None:
        self.cards.set_readable(self.device.name, readable=False)


class CommandRig(Rig):
    kind = "command"

    def __init__(self, home: Path) -> None:
        tool = home / "tool"
        tool.write_text(TOOL)
        tool.chmod(0o755)
        self.home = home
        self.settings = Settings(
            kind="command",
            program=(str(tool), "program", str(home), "{address}", "{function}"),
            read=(str(tool), "read", str(home), "{address}"),
            timeout_seconds=1.0,
            lock_dir=str(home / "locks"),
        )
        self.where = self.settings.model_dump_json()
        self.programmer = CommandDriver(self.settings)
        self.takes(0.05)

    def takes(self, seconds: float) -> None:
        (self.home / "seconds").write_text(str(seconds))

    def fail_next(self) -> None:
        (self.home / "fail").touch()

    def hang_next(self) -> None:
        self.takes(30)

    def break_reading(self) -> None:
        (self.home / "broken").touch()


@pytest.fixture(params=[SimulatedRig, CommandRig], ids=["simulated", "command"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    made: Rig = request.param(tmp_path)
    return made


@pytest.fixture
def command(tmp_path: Path) -> CommandRig:
    return CommandRig(tmp_path)


def function(name: str = "aes") -> Function:
    return Function(
        name=name,
        traits=("CUSTOM_F",),
        resource_class="CUSTOM_FPGA",
        artifact=Artifact(image=f"{name}.bit", sha256="0" * 64),
        fits={"u50": 1},
    )


def until(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not become true"
        time.sleep(0.01)


# ---------------------------------------------------------------- the contract


def test_programs_and_reads_back(rig: Rig) -> None:
    assert rig.programmer.read(rig.device) == (
        Reading(
            readable=True, function="", busy=False, users=() if rig.kind == "simulated" else None
        )
    )
    rig.programmer.stage(rig.device, function())
    assert rig.programmer.program(rig.device, function(), "t1").outcome is Outcome.PROGRAMMED
    assert rig.programmer.read(rig.device).function == "aes"
    assert rig.programmer.program(rig.device, function("gzip"), "t2").outcome is Outcome.PROGRAMMED
    assert rig.programmer.read(rig.device).function == "gzip"


def test_a_failure_is_a_result(rig: Rig) -> None:
    rig.fail_next()
    result = rig.programmer.program(rig.device, function(), "t")
    assert result.outcome is Outcome.FAILED
    assert result.detail
    assert rig.programmer.read(rig.device).function == ""


def test_the_second_of_two_callers_is_told_busy(rig: Rig) -> None:
    rig.takes(0.7)
    outcomes: list[object] = []

    def call(name: str) -> None:
        try:
            outcomes.append(rig.programmer.program(rig.device, function(name), name).outcome)
        except Busy as busy:
            outcomes.append(type(busy))

    threads = [threading.Thread(target=call, args=(name,)) for name in ("aes", "gzip")]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    assert rig.programmer.read(rig.device).busy is True
    for thread in threads:
        thread.join()
    assert outcomes == [Busy, Outcome.PROGRAMMED]
    assert rig.programmer.read(rig.device).function == "aes"


def test_two_processes_exclude_each_other(rig: Rig) -> None:
    rig.takes(0.7)
    with rig.caller() as other:
        with pytest.raises(Busy):
            rig.programmer.program(rig.device, function("gzip"), "t")
        said, _ = other.communicate()
    assert json.loads(said)[0] == "programmed"
    assert rig.programmer.read(rig.device).function == "aes"


def test_who_is_entitled_no_more_sends_nothing(rig: Rig) -> None:
    rig.programmer.program(rig.device, function("gzip"), "t1")
    asked: list[bool | None] = []

    def entitled() -> bool:
        asked.append(rig.programmer.read(rig.device).busy)
        return False

    result = rig.programmer.program(rig.device, function(), "t2", entitled)
    assert result.outcome is Outcome.SUPERSEDED
    assert asked == [True]  # while the lock was held
    reading = rig.programmer.read(rig.device)
    assert (reading.function, reading.busy) == ("gzip", False)


def test_an_error_of_the_question_is_the_callers(rig: Rig) -> None:
    def entitled() -> bool:
        raise Refuse("the database says no")

    with pytest.raises(Refuse, match="says no"):
        rig.programmer.program(rig.device, function(), "t", entitled)
    assert rig.programmer.read(rig.device) == rig.programmer.read(rig.device)
    assert rig.programmer.read(rig.device).busy is False


def test_no_answer_is_never_a_success(rig: Rig) -> None:
    rig.hang_next()
    result = rig.programmer.program(rig.device, function(), "t")
    assert result.outcome is not Outcome.PROGRAMMED
    assert rig.programmer.read(rig.device).function != "aes"
    rig.takes(0.01)
    assert rig.programmer.program(rig.device, function(), "t2").outcome is Outcome.PROGRAMMED


def test_an_unreadable_device_is_a_reading(rig: Rig) -> None:
    rig.break_reading()
    reading = rig.programmer.read(rig.device)
    assert (reading.readable, reading.function, reading.busy) == (False, None, False)


def test_killed_caller_leaves_no_lock_once_nothing_runs(rig: Rig) -> None:
    rig.takes(1.0)
    with rig.caller() as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        killed = time.monotonic()
        # A tool runs on and its lock says so; a simulated call has died with its caller.
        assert rig.programmer.read(rig.device).busy is (rig.kind == "command")
        until(lambda: rig.programmer.read(rig.device).busy is False)
        if rig.kind == "command":
            assert time.monotonic() - killed > 0.3
            assert rig.programmer.read(rig.device).function == "aes"
        else:
            assert rig.programmer.read(rig.device).function == ""
    rig.takes(0.01)
    assert rig.programmer.program(rig.device, function("gzip"), "t").outcome is Outcome.PROGRAMMED


def test_reading_does_not_disturb_programming(rig: Rig) -> None:
    rig.takes(0.3)
    stop = threading.Event()
    wrong: list[Reading] = []

    def look() -> None:
        while not stop.is_set():
            reading = rig.programmer.read(rig.device)
            if reading.busy and reading.readable:
                wrong.append(reading)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        done = [_patiently(rig, name) for name in ("aes", "gzip")]
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()
    assert done == [Outcome.PROGRAMMED, Outcome.PROGRAMMED]
    assert not wrong


def _patiently(rig: Rig, name: str) -> Outcome:
    """Busy is a passing condition; a reader may hold the tool for a moment."""
    for _ in range(100):
        try:
            return rig.programmer.program(rig.device, function(name), name).outcome
        except Busy:
            time.sleep(0.05)
    raise AssertionError("never had the device")


# ---------------------------------------------------------------- the simulated cards


def test_simulated_staging_refuses_what_does_not_fit_or_is_corrupt(tmp_path: Path) -> None:
    rig = SimulatedRig(tmp_path)
    other = rig.device.model_copy(update={"model": "u280"})
    with pytest.raises(Refuse, match="does not fit"):
        rig.programmer.stage(other, function())
    rig.cards.inject(Fault(FaultKind.CORRUPT, function="aes"))
    with pytest.raises(Refuse, match="not the one that the catalog describes"):
        rig.programmer.stage(rig.device, function())
    rig.programmer.stage(rig.device, function())


def test_simulated_unknown_device(tmp_path: Path) -> None:
    rig = SimulatedRig(tmp_path)
    other = rig.device.model_copy(update={"name": "nowhere"})
    assert rig.programmer.program(other, function(), "t").outcome is Outcome.FAILED
    assert not rig.programmer.read(other).readable


# ---------------------------------------------------------------- the vendor's tool


def test_command_is_no_shell(command: CommandRig, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    nasty = command.device.model_copy(update={"address": f"$(touch {marker.name});{{function}} 'x"})
    assert command.programmer.program(nasty, function(), "t").outcome is Outcome.PROGRAMMED
    assert not marker.exists()
    assert (tmp_path / str(nasty.address)).read_text() == "aes"


def test_command_sees_a_minimal_environment_and_no_input(
    command: CommandRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_PASSWORD", "hunter2")
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\nenv\ncat\npwd\n")
    result = command.programmer.program(command.device, function(), "token-7")
    assert result.outcome is Outcome.PROGRAMMED
    assert "hunter2" not in result.detail
    assert "CHANGEOVER_TOKEN=token-7" in result.detail
    assert result.detail.endswith("/")


def test_command_output_is_bounded_and_is_the_tail(command: CommandRig, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text(
        "#!/bin/sh\nyes 0123456789 | head -c 5000000\necho the end; exit 1"
    )
    result = command.programmer.program(command.device, function(), "t")
    assert result.outcome is Outcome.FAILED
    assert "status 1" in result.detail
    assert len(result.detail) <= DETAIL_CHARACTERS


def test_command_timeout_ends_the_whole_group(command: CommandRig, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text(
        TOOL.replace('sleep "$(cat seconds)"', f"sleep 60 & echo $! > {tmp_path}/child; wait")
    )
    result = command.programmer.program(command.device, function(), "t")
    assert result.outcome is Outcome.FAILED
    assert "killed" in result.detail
    child = int((tmp_path / "child").read_text())
    until(lambda: _gone(child))
    assert command.programmer.read(command.device).busy is False


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_command_timeout_of_an_unreadable_device_is_unknown(command: CommandRig) -> None:
    command.hang_next()
    command.break_reading()
    result = command.programmer.program(command.device, function(), "t")
    assert result.outcome is Outcome.UNKNOWN


def test_command_with_a_part_that_runs_on_is_unknown(command: CommandRig, tmp_path: Path) -> None:
    (tmp_path / "detach").write_text("2.5")
    result = command.programmer.program(command.device, function(), "t")
    assert result.outcome is Outcome.UNKNOWN
    assert command.programmer.read(command.device).busy is True
    with pytest.raises(Busy):
        command.programmer.program(command.device, function(), "t2")
    (tmp_path / "detach").unlink()
    until(lambda: command.programmer.read(command.device).busy is False)
    assert (
        command.programmer.program(command.device, function(), "t3").outcome is Outcome.PROGRAMMED
    )
    assert (tmp_path / "calls").read_text().split() == ["t", "aes", "t3", "aes"]


def test_command_that_does_not_exist(command: CommandRig, tmp_path: Path) -> None:
    (tmp_path / "tool").unlink()
    result = command.programmer.program(command.device, function(), "t")
    assert result.outcome is Outcome.FAILED
    assert "cannot be started" in result.detail
    assert not command.programmer.read(command.device).readable


def test_command_without_what_it_needs(command: CommandRig) -> None:
    device = command.device.model_copy(update={"address": ""})
    with pytest.raises(Refuse, match=r"needs .address."):
        command.programmer.stage(device, function())
    assert command.programmer.program(device, function(), "t").outcome is Outcome.FAILED
    assert not command.programmer.read(device).readable


def test_command_whose_locks_cannot_be_made(command: CommandRig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = command.settings.model_copy(update={"lock_dir": str(tmp_path / "file" / "locks")})
    driver = CommandDriver(settings)
    result = driver.program(command.device, function(), "t")
    assert result.outcome is Outcome.FAILED
    assert "cannot lock" in result.detail
    assert driver.read(command.device) == Reading(readable=False, busy=None)


def test_command_with_an_unknown_placeholder() -> None:
    settings = Settings(kind="command", program=("tool", "{adress}"))
    with pytest.raises(Invalid, match=r"unknown placeholder .adress."):
        CommandDriver(settings)


def test_command_that_cannot_read_still_knows_whether_it_is_busy(tmp_path: Path) -> None:
    rig = CommandRig(tmp_path)
    blind = CommandDriver(rig.settings.model_copy(update={"read": None}))
    assert blind.read(rig.device) == Reading(readable=False, busy=False)
    rig.takes(0.5)
    with rig.caller():
        assert blind.read(rig.device) == Reading(readable=False, busy=True)


def test_command_that_the_catalog_cannot_fill(command: CommandRig) -> None:
    def catalog(device: Device, artifact: Artifact) -> Catalog:
        settings = command.settings.model_copy(update={"program": ("tool", "{image}")})
        return Catalog(
            programmers={"tool": settings},
            models={"u50": Model(name="u50", programmer="tool")},
            functions={"aes": function().model_copy(update={"artifact": artifact})},
            devices=(device,),
        )

    image, vgpu = function().artifact, Artifact(vgpu_type="nvidia-35")
    good = catalog(command.device, image)
    settings = good.programmers["tool"]
    assert isinstance(settings, Settings)
    CommandDriver(settings, good)
    with pytest.raises(Invalid, match=r"needs .image., which is not set for fpga-0 with aes"):
        CommandDriver(settings, catalog(command.device, vgpu))
    nowhere = command.device.model_copy(update={"address": ""})
    with pytest.raises(Invalid, match=r"needs .address., which is not set for fpga-0"):
        CommandDriver(settings, catalog(nowhere, image))
