"""The programmer that runs a vendor's tool on the device's own host."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from changeover.models.catalog import Catalog, CommandProgrammer, Device, Function
from changeover.models.errors import AskOperator, Busy, Invalid, Refuse
from changeover.worker import flock
from changeover.worker.ports.programmer import (
    Entitled,
    Outcome,
    ProgramResult,
    Reading,
    always,
)

DETAIL_CHARACTERS = 2_000
"""How much of the tool's output is kept: the last part, where tools say what went wrong."""

READ_SECONDS = 60.0
"""How long reading a device back may take at most."""

_LOG_BYTES = 1024 * 1024
_GRACE_SECONDS = 2.0
_PROBE_SECONDS = 0.1
_READINGS_SECONDS = 5.0
_GONE_SECONDS = 1.0
_POLL_SECONDS = 0.02
_NAME_CHARACTERS = 128
_PLACEHOLDER = re.compile(r"\{([a-z0-9_]+)\}")
_KNOWN = frozenset({"address", "device", "function", "image", "sha256", "vgpu_type"})
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}


class CommandDriver:
    """Runs a vendor's tool: argv only, no shell, a minimal environment, no standard input.

    A lock file per device is held by the tool itself, which inherits its descriptor: if the
    worker is killed, the tool runs on, and the lock tells how long. Therefore ``drain_seconds``
    is infinite: nobody would end such a tool, so that no time, only the free lock, proves that
    it is gone. The tool's output goes to a file and not to a pipe, which would break, and the
    tool with it, when the worker dies.
    """

    on_host = True
    report_seconds = 0.0
    drain_seconds = math.inf

    def __init__(self, settings: CommandProgrammer, catalog: Catalog | None = None) -> None:
        """Raises ``Invalid`` if the commands have an unknown placeholder.

        With a catalog, also if they need what one of its devices or functions does not say.
        """
        for word in (*settings.program, *(settings.read or ())):
            unknown = set(_PLACEHOLDER.findall(word)) - _KNOWN
            if unknown:
                raise Invalid(f"{word}: unknown placeholder {{{min(unknown)}}}")
        self._settings = settings
        self._home = Path(settings.lock_dir)
        if catalog is not None:
            self._check(catalog)

    def _check(self, catalog: Catalog) -> None:
        """Everything that may be programmed gives a whole command."""
        ours = {m.name for m in catalog.models.values() if self._is_of(catalog, m.programmer)}
        devices = [device for device in catalog.devices if device.model in ours]
        functions = [f for f in catalog.functions.values() if ours.intersection(f.fits)]
        try:
            for device in devices:
                _argv(self._settings.read or (), device, None)
            for function in functions if devices else []:
                _argv(self._settings.program, devices[0], function)
        except Refuse as error:
            raise Invalid(error.message) from error

    def _is_of(self, catalog: Catalog, programmer: str) -> bool:
        return catalog.programmers[programmer] == self._settings

    def stage(self, device: Device, function: Function) -> None:
        """Check that the command can be made; the tool itself fetches what ``{image}`` names."""
        if not device.address and any("{address}" in word for word in self._settings.program):
            raise AskOperator(f"the command needs {{address}}, which {device.name} lacks")
        _argv(self._settings.program, device, function)

    def program(
        self, device: Device, function: Function, token: str, entitled: Entitled = always
    ) -> ProgramResult:
        """See :class:`~changeover.worker.ports.programmer.Programmer`.

        ``UNKNOWN`` where a part of the tool may still be running. A timeout is never a success,
        whatever the device reads afterwards.
        """
        with ExitStack() as held:
            try:
                argv = _argv(self._settings.program, device, function)
                lock = held.enter_context(self._alone(device))
                log = held.enter_context(self._log(device))
            except Refuse as error:
                return ProgramResult(Outcome.FAILED, error.message)
            if not entitled():
                return ProgramResult(Outcome.SUPERSEDED)
            streams = _Streams(log, log, lock)
            limit = self._settings.timeout_seconds
            status = _run(argv, streams, limit, {"CHANGEOVER_TOKEN": token})
            detail = _tail(log)
        if status is None:
            return ProgramResult(Outcome.FAILED, f"the tool cannot be started: {argv[0]}")
        return self._judge(device, status, detail)

    def _judge(self, device: Device, status: int | str, detail: str) -> ProgramResult:
        """What the tool's end means; our own hold on the lock is gone by now."""
        if not self._nobody_holds(device):
            return _result(Outcome.UNKNOWN, "a part of the tool may still be running", detail)
        if status == 0:
            return ProgramResult(Outcome.PROGRAMMED, detail)
        if isinstance(status, int):
            return _result(Outcome.FAILED, f"the tool ended with status {status}", detail)
        reading = self.read(device)
        if not reading.readable:
            return _result(Outcome.UNKNOWN, f"{status}; the device cannot be read back", detail)
        return _result(Outcome.FAILED, f"{status}; the device holds {reading.function!r}", detail)

    def read(self, device: Device) -> Reading:
        """See :class:`~changeover.worker.ports.programmer.Programmer`."""
        if self._settings.read is None:
            return Reading(readable=False, busy=self._busy(device))
        try:
            argv = _argv(self._settings.read, device, None)
            with self._beside(device) as lock, tempfile.TemporaryFile() as out:
                limit = min(READ_SECONDS, self._settings.timeout_seconds)
                status = _run(argv, _Streams(out, subprocess.DEVNULL, lock), limit, {})
                said = _tail(out).strip()
        except (Busy, Refuse):
            return Reading(readable=False, busy=self._busy(device))
        if status != 0 or "\n" in said or len(said) > _NAME_CHARACTERS:
            return Reading(readable=False, busy=False)
        return Reading(readable=True, function=said, busy=False)

    def _busy(self, device: Device) -> bool | None:
        try:
            return flock.held(self._lock(device))
        except Refuse:
            return None

    def _lock(self, device: Device) -> Path:
        # By what stays the same: a tool may still run when the catalog renames its device.
        return self._home / f"{device.provider}.lock"

    def _gate(self, device: Device) -> Path:
        return self._home / f"{device.provider}.gate"

    @contextmanager
    def _alone(self, device: Device) -> Iterator[int]:
        """The device's lock, for programming; raises ``Busy``.

        Readings hold the lock together. They come in by a gate, which is shut while somebody
        waits to program, so that reading all the time cannot keep programming out.
        """
        with ExitStack() as stack:
            with flock.hold(self._gate(device), wait_seconds=_PROBE_SECONDS):
                if flock.held(self._lock(device)):
                    raise Busy(f"{device.name} is being programmed", device=device.name)
                lock = flock.hold(self._lock(device), wait_seconds=_READINGS_SECONDS)
                descriptor = stack.enter_context(lock)
            yield descriptor

    @contextmanager
    def _beside(self, device: Device) -> Iterator[int]:
        """The device's lock, for reading; raises ``Busy`` while it is being programmed."""
        with ExitStack() as stack:
            with flock.hold(self._gate(device), shared=True, wait_seconds=2 * _READINGS_SECONDS):
                lock = flock.hold(self._lock(device), shared=True)
                descriptor = stack.enter_context(lock)
            yield descriptor

    def _nobody_holds(self, device: Device) -> bool:
        """Whether all that inherited the lock is gone; what was killed takes a moment to go."""
        with (
            suppress(Busy, Refuse),
            flock.hold(self._lock(device), shared=True, wait_seconds=_GONE_SECONDS),
        ):
            return True
        return False

    @contextmanager
    def _log(self, device: Device) -> Iterator[IO[bytes]]:
        """The output of the last call, kept for operators."""
        path = self._home / f"{device.name}.log"
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            path.unlink(missing_ok=True)
            descriptor = os.open(path, flags, 0o640)
        except OSError as error:
            raise Refuse(f"cannot write {path}: {error.strerror}", path=str(path)) from error
        with os.fdopen(descriptor, "a+b") as log:
            yield log


def _argv(words: tuple[str, ...], device: Device, function: Function | None) -> list[str]:
    values: dict[str, str | None] = {"address": device.address, "device": device.name}
    if function is not None:
        artifact = function.artifact
        values |= {
            "function": function.name,
            "image": artifact.image,
            "sha256": artifact.sha256,
            "vgpu_type": artifact.vgpu_type,
        }

    def value(match: re.Match[str]) -> str:
        found = values.get(match[1])
        if not found:
            of = device.name if function is None else f"{device.name} with {function.name}"
            raise Refuse(f"the command needs {{{match[1]}}}, which is not set for {of}")
        return found

    return [_PLACEHOLDER.sub(value, word) for word in words]


@dataclass(frozen=True, slots=True)
class _Streams:
    """Where the tool's output goes, and the lock that it inherits."""

    out: IO[bytes]
    err: IO[bytes] | int
    lock: int


def _run(
    argv: list[str], streams: _Streams, limit: float, extra: Mapping[str, str]
) -> int | str | None:
    """The exit status; why it was ended; or ``None`` if it could not be started.

    The tool is the leader of a group of its own, which is ended with it.
    """
    try:
        tool = subprocess.Popen(  # noqa: S603 - argv of the operator's own catalog, no shell
            argv,
            stdin=subprocess.DEVNULL,
            stdout=streams.out,
            stderr=streams.err,
            env={**_ENVIRONMENT, **extra},
            cwd="/",
            start_new_session=True,
            pass_fds=(streams.lock,),
        )
    except (OSError, ValueError):
        return None
    # If the worker is told to stop in here, the tool runs on: a device half programmed is worse
    # than one that is busy a while longer, and the lock tells.
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            return tool.wait(_POLL_SECONDS)
        _bound(streams.out)
    _end(tool)
    return f"no end after {limit:g} s, killed"


def _end(tool: subprocess.Popen[bytes]) -> None:
    """End the whole process group, first kindly."""
    with suppress(ProcessLookupError):
        os.killpg(tool.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        tool.wait(_GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(tool.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        tool.wait(
            _GRACE_SECONDS
        )  # one in an uninterruptible call to its driver stays: the lock tells


def _bound(out: IO[bytes]) -> None:
    """Drop what a talkative tool wrote, so that the disk does not fill (it appends)."""
    if os.fstat(out.fileno()).st_size > _LOG_BYTES:
        os.ftruncate(out.fileno(), 0)


def _tail(out: IO[bytes]) -> str:
    size = os.fstat(out.fileno()).st_size
    start = max(0, size - 4 * DETAIL_CHARACTERS)
    text = os.pread(out.fileno(), size - start, start).decode("utf-8", errors="replace")
    return text.replace("\x00", "").strip()[-DETAIL_CHARACTERS:]


def _result(outcome: Outcome, why: str, detail: str) -> ProgramResult:
    return ProgramResult(outcome, f"{why}: {detail}"[:DETAIL_CHARACTERS] if detail else why)
