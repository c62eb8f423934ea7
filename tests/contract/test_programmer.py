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
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from cyborg_service import CyborgService, _Reply

from changeover.models.catalog import Artifact, Catalog, CyborgProgrammer, Device, Function, Model
from changeover.models.catalog import CommandProgrammer as Settings
from changeover.models.errors import AskOperator, Busy, Invalid, Refuse, Unreachable
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.adapters.cyborg_http import CyborgClient
from changeover.worker.adapters.glance_http import GlanceImages
from changeover.worker.adapters.programmer_command import DETAIL_CHARACTERS, CommandDriver
from changeover.worker.adapters.programmer_cyborg import CyborgDriver
from changeover.worker.adapters.programmer_simulated import SimulatedDriver
from changeover.worker.adapters.service_http import HttpService, Timeouts
from changeover.worker.ports.programmer import Outcome, Programmer, Reading
from changeover.worker.simulator.cards import Behaviour, Fault, FaultKind, SimulatedCards

TOKEN = "t"  # noqa: S105 - nobody's
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
    locks = True
    """Whether the driver has a lock of its own."""
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

    def function(self, name: str = "aes") -> Function:
        return function(name)

    def report(self) -> None:
        """Somebody else says what the device holds, where the driver cannot read it itself."""

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


class CyborgRig(Rig):
    """Cyborg's wire form on loopback; where it gives up waiting, its 60 s are 0.3 s here."""

    kind = "cyborg"
    locks = False

    def __init__(self, _home: Path) -> None:
        self.service = CyborgService()
        self.card = self.service.card(self.device.provider)
        self.device = self.device.model_copy(update={"address": self.card.uuid, "owner": "cyborg"})
        self.images: dict[str, tuple[str, str]] = {}
        catalog = Catalog(
            programmers={"cyborg": CyborgProgrammer(kind="cyborg")},
            models={"u50": Model(name="u50", programmer="cyborg", traits=("CUSTOM_FPGA_SIM",))},
            functions={name: self.function(name) for name in ("aes", "gzip")},
            devices=(self.device,),
        )
        settings = CyborgProgrammer(kind="cyborg", answer_seconds=5.0, largest_image_bytes=4096)
        self.programmer = CyborgDriver(
            settings,
            CyborgClient(self._http("accelerator")),
            GlanceImages(self._http("image"), most_bytes=settings.largest_image_bytes),
            catalog,
        )

    def _http(self, service_type: str) -> HttpService:
        limits = Timeouts(connect=1.0, read=5.0, total=5.0)
        return HttpService.noauth(
            service_type, service_type, f"{self.service.url}/v2", token=TOKEN, timeouts=limits
        )

    def function(self, name: str = "aes") -> Function:
        if name not in self.images:
            self.images[name] = self.service.bitstream(name.upper())
        image, sha256 = self.images[name]
        return function(name).model_copy(
            update={
                "traits": (f"CUSTOM_FPGA_FUNCTION_{name.upper()}",),
                "artifact": Artifact(image=image, sha256=sha256),
            }
        )

    def takes(self, seconds: float) -> None:
        self.service.rpc_seconds = 5.0
        self.service.program_hook = lambda _card, _spec: time.sleep(seconds)

    def fail_next(self) -> None:
        self.service.program_hook = lambda _card, spec: spec.update(fail=True)

    def hang_next(self) -> None:
        self.takes(1.0)
        self.service.rpc_seconds = 0.3

    def break_reading(self) -> None:
        self.service.status = 503

    def report(self) -> None:
        self.service.report(self.card)


@pytest.fixture(params=[SimulatedRig, CommandRig, CyborgRig], ids=lambda rig: rig.kind)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made: Rig = request.param(tmp_path)
    yield made
    if isinstance(made, CyborgRig):
        made.service.close()


@pytest.fixture(params=[SimulatedRig, CommandRig], ids=lambda rig: rig.kind)
def locking(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    """Those with a lock of their own; for Cyborg the changeover's lease and drain time stand."""
    made: Rig = request.param(tmp_path)
    return made


@pytest.fixture
def cyborg(tmp_path: Path) -> Iterator[CyborgRig]:
    rig = CyborgRig(tmp_path)
    yield rig
    rig.service.close()


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
    assert rig.programmer.read(rig.device) == Reading(
        readable=True,
        function="",
        busy=False if rig.locks else None,
        users=None if rig.kind == "command" else (),
    )
    aes, gzip = rig.function(), rig.function("gzip")
    rig.programmer.stage(rig.device, aes)
    assert rig.programmer.program(rig.device, aes, "t1").outcome is Outcome.PROGRAMMED
    rig.report()
    assert rig.programmer.read(rig.device).function == "aes"
    assert rig.programmer.program(rig.device, gzip, "t2").outcome is Outcome.PROGRAMMED
    rig.report()
    assert rig.programmer.read(rig.device).function == "gzip"


def test_a_failure_is_a_result(rig: Rig) -> None:
    rig.fail_next()
    result = rig.programmer.program(rig.device, rig.function(), "t")
    assert result.outcome is Outcome.FAILED
    assert result.detail
    rig.report()
    assert rig.programmer.read(rig.device).function == ""


def test_the_second_of_two_callers_is_told_busy(locking: Rig) -> None:
    rig = locking
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


def test_two_processes_exclude_each_other(locking: Rig) -> None:
    rig = locking
    rig.takes(0.7)
    with rig.caller() as other:
        with pytest.raises(Busy):
            rig.programmer.program(rig.device, function("gzip"), "t")
        said, _ = other.communicate()
    assert json.loads(said)[0] == "programmed"
    assert rig.programmer.read(rig.device).function == "aes"


def test_who_is_entitled_no_more_sends_nothing(rig: Rig) -> None:
    rig.programmer.program(rig.device, rig.function("gzip"), "t1")
    rig.report()
    asked: list[bool | None] = []

    def entitled() -> bool:
        asked.append(rig.programmer.read(rig.device).busy)
        return False

    result = rig.programmer.program(rig.device, rig.function(), "t2", entitled)
    assert result.outcome is Outcome.SUPERSEDED
    assert asked == [True if rig.locks else None]  # while the lock was held
    rig.report()
    reading = rig.programmer.read(rig.device)
    assert (reading.function, reading.busy) == ("gzip", False if rig.locks else None)


def test_an_error_of_the_question_is_the_callers(rig: Rig) -> None:
    def entitled() -> bool:
        raise Refuse("the database says no")

    with pytest.raises(Refuse, match="says no"):
        rig.programmer.program(rig.device, rig.function(), "t", entitled)
    assert rig.programmer.read(rig.device) == rig.programmer.read(rig.device)
    assert not rig.programmer.read(rig.device).busy


def test_no_answer_is_never_a_success(rig: Rig) -> None:
    rig.hang_next()
    result = rig.programmer.program(rig.device, rig.function(), "t")
    assert result.outcome is not Outcome.PROGRAMMED
    assert rig.programmer.read(rig.device).function != "aes"
    rig.takes(0.01)
    assert rig.programmer.program(rig.device, rig.function(), "t2").outcome is Outcome.PROGRAMMED


def test_an_unreadable_device_is_a_reading(rig: Rig) -> None:
    rig.break_reading()
    reading = rig.programmer.read(rig.device)
    busy = False if rig.locks else None
    assert (reading.readable, reading.function, reading.busy) == (False, None, busy)


def test_killed_caller_leaves_no_lock_once_nothing_runs(locking: Rig) -> None:
    rig = locking
    rig.takes(1.0)
    with rig.caller() as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        killed = time.monotonic()
        # A tool runs on and its lock says so; a simulated call has died with its caller.
        assert rig.programmer.read(rig.device).busy is (rig.kind == "command")
        if rig.kind == "command":
            renamed = rig.device.model_copy(update={"name": "another"})
            assert rig.programmer.read(renamed).busy is True
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
            return rig.programmer.program(rig.device, rig.function(name), name).outcome
        except Busy:
            time.sleep(0.05)
    raise AssertionError("never had the device")


# ---------------------------------------------------------------- through Cyborg


def test_cyborg_that_gave_up_waiting_is_unknown_and_may_be_done_later(cyborg: CyborgRig) -> None:
    cyborg.hang_next()
    result = cyborg.programmer.program(cyborg.device, cyborg.function(), "t")
    assert result.outcome is Outcome.UNKNOWN
    assert "Timed out waiting for a reply" in result.detail
    assert cyborg.programmer.read(cyborg.device).function == ""
    until(lambda: cyborg.card.function == "AES")
    cyborg.report()
    assert cyborg.programmer.read(cyborg.device).function == "aes"


def test_cyborg_with_a_dead_agent_is_found_before_anything_is_sent(cyborg: CyborgRig) -> None:
    cyborg.service.agent_up = False
    with pytest.raises(Unreachable, match="agent of h does not answer"):
        cyborg.programmer.stage(cyborg.device, cyborg.function())
    assert not cyborg.service.calls
    cyborg.service.agent_up = True
    cyborg.programmer.stage(cyborg.device, cyborg.function())
    assert not cyborg.service.calls  # the probe reaches no card


@pytest.mark.parametrize("status", [502, 503, 504])
def test_cyborg_behind_a_proxy_that_gives_up_is_unknown(cyborg: CyborgRig, status: int) -> None:
    with patch.object(cyborg.service, "call_agent", return_value=(status, "upstream")):
        result = cyborg.programmer.program(cyborg.device, cyborg.function(), "t")
    assert result.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("status", [302, 400, 404, 408])
def test_a_proxys_refusal_says_nothing_of_the_call(
    cyborg: CyborgRig, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = _Reply(status, b"<html>no</html>", "text/html")
    monkeypatch.setattr(cyborg.service, "_program", lambda _card, _body: page)
    result = cyborg.programmer.program(cyborg.device, cyborg.function(), "t")
    assert result.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("status", [200, 400, 404])
@pytest.mark.parametrize("what", ["images", "deployables"])
def test_a_proxys_page_is_not_the_artifacts_fault(
    cyborg: CyborgRig, what: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cyborg.service.answer

    def answer(method: str, path: str, *more: Any) -> _Reply:
        if f"/{what}/" in path:
            page = f"<html>404 Not Found: the requested URL {path} was not found here</html>"
            return _Reply(status, page.encode(), "text/html")
        return real(method, path, *more)

    monkeypatch.setattr(cyborg.service, "answer", answer)
    with pytest.raises(Unreachable):
        cyborg.programmer.stage(cyborg.device, cyborg.function())
    assert not cyborg.service.calls


def test_cyborg_that_is_down_or_lets_nobody_in_was_sent_nothing(cyborg: CyborgRig) -> None:
    cyborg.service.status = 403
    with pytest.raises(AskOperator, match="lacks the role"):
        cyborg.programmer.program(cyborg.device, cyborg.function(), "t")
    cyborg.service.status = 503
    with pytest.raises(Unreachable):
        cyborg.programmer.program(cyborg.device, cyborg.function(), "t")
    assert not cyborg.service.calls


def test_cyborg_without_the_image_has_failed(cyborg: CyborgRig) -> None:
    aes = cyborg.function()
    del cyborg.service.images[aes.artifact.image or ""]
    result = cyborg.programmer.program(cyborg.device, aes, "t")
    assert (result.outcome, result.detail[:21]) == (Outcome.FAILED, "404: Image not found ")
    assert "Traceback" not in result.detail
    with pytest.raises(Refuse, match="Glance has no image"):
        cyborg.programmer.stage(cyborg.device, aes)


def test_cyborg_whose_driver_raises_has_failed(cyborg: CyborgRig) -> None:
    image, sha256 = cyborg.service.image(b"no bitstream")
    odd = cyborg.function().model_copy(update={"artifact": Artifact(image=image, sha256=sha256)})
    cyborg.programmer.stage(cyborg.device, odd)
    result = cyborg.programmer.program(cyborg.device, odd, "t")
    assert (result.outcome, "Remote error" in result.detail) == (Outcome.FAILED, True)


@pytest.mark.parametrize("address", ["", "0000:3b:00.0", "11111111-2222-4333-8444-555555555555"])
def test_cyborg_with_an_unknown_deployable_is_for_the_operator(
    cyborg: CyborgRig, address: str
) -> None:
    device = cyborg.device.model_copy(update={"address": address})
    with pytest.raises(AskOperator, match="has no deployable"):
        cyborg.programmer.stage(device, cyborg.function())
    with pytest.raises(AskOperator, match="has no deployable"):
        cyborg.programmer.program(device, cyborg.function(), "t")
    assert not cyborg.programmer.read(device).readable
    assert not cyborg.service.calls


def test_cyborg_never_programs_another_card_than_the_providers(cyborg: CyborgRig) -> None:
    other = cyborg.service.card(str(uuid4()), "other")
    device = cyborg.device.model_copy(update={"address": other.uuid})
    with pytest.raises(AskOperator, match="stands for provider"):
        cyborg.programmer.program(device, cyborg.function(), "t")
    assert not cyborg.programmer.read(device).readable
    assert not cyborg.service.calls


def test_cyborg_names_who_its_accelerator_requests_are_bound_to(cyborg: CyborgRig) -> None:
    server = str(uuid4())
    cyborg.service.arqs = [
        {"device_rp_uuid": cyborg.device.provider, "instance_uuid": server},
        {"device_rp_uuid": str(uuid4()), "instance_uuid": str(uuid4())},
        {"device_rp_uuid": None, "instance_uuid": None},
    ]
    assert cyborg.programmer.read(cyborg.device).users == (server,)


@pytest.mark.parametrize("algorithm", ["sha512", "sha256", None])
def test_cyborg_checks_the_image_and_reads_it_once(
    cyborg: CyborgRig, algorithm: str | None
) -> None:
    aes = cyborg.function()
    image = aes.artifact.image or ""
    cyborg.service.images[image].hash_algo = algorithm
    for _ in range(3):
        cyborg.programmer.stage(cyborg.device, aes)
    # The image itself and its data: Glance's own sha256 saves reading it.
    assert cyborg.service.asked["GET images"] == (3 if algorithm == "sha256" else 4)
    wrong = aes.model_copy(update={"artifact": Artifact(image=image, sha256="0" * 64)})
    with pytest.raises(Refuse, match="not the one that the catalog describes"):
        cyborg.programmer.stage(cyborg.device, wrong)


def test_cyborg_image_that_changed_is_read_again(cyborg: CyborgRig) -> None:
    aes = cyborg.function()
    cyborg.programmer.stage(cyborg.device, aes)
    found = cyborg.service.images[aes.artifact.image or ""]
    found.data, found.updated_at = b'{"function": "EVIL"}', "2026-11-26T09:09:09Z"
    with pytest.raises(Refuse, match="not the one that the catalog describes"):
        cyborg.programmer.stage(cyborg.device, aes)


def test_cyborg_image_that_is_too_large_is_not_read(cyborg: CyborgRig) -> None:
    image, sha256 = cyborg.service.image(b"x" * 5000)
    large = cyborg.function().model_copy(update={"artifact": Artifact(image=image, sha256=sha256)})
    with pytest.raises(Refuse, match="more than the 4096"):
        cyborg.programmer.stage(cyborg.device, large)
    # One that says that it is small is read no further than it may be.
    cyborg.service.images[image].size = 10
    with pytest.raises(Refuse, match="larger than 4096"):
        cyborg.programmer.stage(cyborg.device, large)


def test_cyborg_image_that_is_not_active_is_refused(cyborg: CyborgRig) -> None:
    aes = cyborg.function()
    cyborg.service.images[aes.artifact.image or ""].status = "queued"
    with pytest.raises(Refuse, match="is queued, not active"):
        cyborg.programmer.stage(cyborg.device, aes)


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
    with pytest.raises(AskOperator, match=r"needs .address."):
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
