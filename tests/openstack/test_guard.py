"""What a killed runner leaves behind is ended. Needs no cloud."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.install import FOLDER

STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork():
    print("ready", flush=True)
time.sleep(600)
"""


def stubborn(directory: Path) -> subprocess.Popen[str]:
    """A process, and a child of it, that do not end when they are asked to."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_groups_of_services_end_with_the_pipe_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "pid").mkdir()
    service, stranger = stubborn(tmp_path), stubborn(tmp_path)
    (tmp_path / "pid" / "service").write_text(str(service.pid))
    with stranger, service:
        guard = [sys.executable, FOLDER / "harness" / "guard.py", tmp_path]
        subprocess.run(guard, input="", text=True, check=True, timeout=60)
        assert service.wait(timeout=60) == -9
        assert service.stdout is not None
        assert service.stdout.read() == ""  # its child has closed it too
        assert stranger.poll() is None
        (tmp_path / "pid" / "service").write_text(str(stranger.pid))
        subprocess.run(guard, input="", text=True, check=True, timeout=60)
