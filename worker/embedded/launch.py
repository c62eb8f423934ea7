"""Become another program that dies with its parent: ``launch.py PARENT SIGNAL -- ARGV...``.

Started by :mod:`changeover.worker.embedded.child` as a script, with the standard library only.
The death signal is asked for here, after the fork and before the exec, because code that runs
between the two in the parent's own interpreter (``preexec_fn``) may deadlock once that parent has
threads.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def _main(arguments: list[str]) -> None:
    parent, signal_number, dashes, *argv = arguments
    if dashes != "--" or not argv:
        raise SystemExit("usage: launch.py PARENT SIGNAL -- ARGV...")
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != int(parent):
            raise SystemExit("the parent ended while this process was starting")
    os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted: argv is the caller's, as it is


if __name__ == "__main__":
    _main(sys.argv[1:])
