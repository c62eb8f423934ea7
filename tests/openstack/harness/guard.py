"""Ends what a killed runner leaves behind: ``guard.py STATE`` with a pipe from the runner.

The kernel tells only a dead process's own children, and some of the services ignore a request to
end while their broker is gone. When the pipe closes, whatever the cause, the process groups noted
in ``STATE/pid`` that work in ``STATE`` are killed. After an orderly end there are none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path


def kill_all(state: Path) -> None:
    """Kill every noted group whose leader, or a member of it, works in ``state``."""
    noted = {int(path.read_text()) for path in (state / "pid").iterdir()}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == state and os.getpgid(int(process.name)) in noted:
                os.kill(int(process.name), signal.SIGKILL)


if __name__ == "__main__":
    sys.stdin.read()
    kill_all(Path(sys.argv[1]))
