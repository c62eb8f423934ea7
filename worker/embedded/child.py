"""Child processes that never outlive this one, whatever ends it.

The kernel sends the death signal when the *thread* that forked ends, not only when the process
does. All children are therefore forked by one thread that lives as long as the process; callers
may be of any thread. Only Linux has such a signal: elsewhere a child whose parent is killed
lives on until it is stopped by hand.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from changeover.models.errors import Unreachable

LAUNCHER = Path(__file__).with_name("launch.py")

_POLL_SECONDS = 0.01
_TAIL_BYTES = 2000


class Child:
    """One process that was started with :func:`start_child`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        name: str,
        log_path: Path | None = None,
        log_start: int = 0,
    ) -> None:
        self._process = process
        self._log_start = log_start
        self.name = name
        self.log_path = log_path

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status (negative: the signal that ended it), ``None`` while it runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end; ``None`` if it still runs after ``timeout`` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; to a process that has ended it is lost."""
        self._process.send_signal(number)

    def stop(self, timeout: float = 10.0, *, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, kill it and all that it started after ``timeout``; the exit status."""
        self.send(number)
        status = self.wait(timeout)
        return self.kill() if status is None else status

    def kill(self) -> int:
        """Kill it, and what it started in its session, at once; the exit status."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    def log_tail(self) -> str:
        """The last lines that it wrote, this time, for an error message."""
        if self.log_path is None:
            return ""
        with self.log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    def wait_until(self, ready: Callable[[], bool], *, timeout: float) -> None:
        """Poll until ``ready``; if it ends before or takes too long it is killed.

        Raises ``Unreachable`` with the end of its log then.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            status = self.poll()
            if status is not None:
                raise self._failed(f"ended with status {status} while starting")
            if time.monotonic() >= deadline:
                self.kill()
                raise self._failed(f"did not answer within {timeout:g} s and was killed")
            time.sleep(_POLL_SECONDS)

    def _failed(self, what: str) -> Unreachable:
        tail = self.log_tail()
        where = f" (log: {self.log_path})" if self.log_path else ""
        return Unreachable(
            f"{self.name} {what}{where}{': ' + tail if tail else ''}", name=self.name, pid=self.pid
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start_child(
    argv: Sequence[str | Path],
    *,
    name: str | None = None,
    env: Mapping[str, str] | None = None,
    log_path: Path | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    on_parent_death: signal.Signals = signal.SIGKILL,
) -> Child:
    """Start ``argv`` in a session of its own; it gets ``on_parent_death`` when this process ends.

    ``env`` replaces the environment (``None``: this process's). Output goes to the end of
    ``log_path`` (``None``: inherited). Standard input is empty. A session of its own means that
    Ctrl-C reaches only the process that stops the children in order.
    """
    command = [
        sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(int(on_parent_death)),
        "--", *map(str, argv),
    ]  # fmt: skip

    def popen() -> Child:
        with contextlib.ExitStack() as stack:
            log, log_start = None, 0
            if log_path is not None:
                log_path.parent.mkdir(parents=True, exist_ok=True)
                log = stack.enter_context(log_path.open("ab"))
                log_start = log.tell()
            process = subprocess.Popen(  # noqa: S603 - argv is this program's own, without a shell
                command,
                env=None if env is None else dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=None if log is None else subprocess.STDOUT,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )
        return Child(process, name or Path(argv[0]).name, log_path, log_start)

    return _forker.call(popen)


class _Forker:
    """The one thread that forks, made at first use, and anew in a forked process."""

    _lock: threading.Lock
    _thread: threading.Thread | None
    _work: queue.SimpleQueue[tuple[Callable[[], Child], Future[Child]]]

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def call(self, make: Callable[[], Child]) -> Child:
        future: Future[Child] = Future()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="forker", daemon=True)
                self._thread.start()
        self._work.put((make, future))
        return future.result()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._thread = None
        self._work = queue.SimpleQueue()

    def _run(self) -> None:
        while True:
            make, future = self._work.get()
            try:
                future.set_result(make())
            except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
                future.set_exception(error)


_forker = _Forker()
