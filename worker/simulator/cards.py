"""Simulated programmable cards, shared by any number of processes through one directory.

Each device has a folder: ``lock`` (held by the kernel for the whole of a programming call, so
that a killed caller frees it at once and *busy* can be proven), ``state.json`` (what the hardware
holds) and ``journal.jsonl`` (append-only: what was programmed when; never read by the product,
only by those who check it). Times and faults are seeded: the n-th call on a device takes the same
time and meets the same fault in every run.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any, Literal

from changeover.models.errors import Busy, NotFound
from changeover.worker import flock
from changeover.worker.ports.clock import Clock
from changeover.worker.ports.programmer import (
    Entitled,
    Outcome,
    ProgramResult,
    Reading,
    always,
)

PROBE_SECONDS = 0.1
"""How long a call waits for the lock before it is busy: a probe holds it for microseconds."""


class FaultKind(StrEnum):
    """What can go wrong with one call.

    ``FAIL``                   takes its time and reports a failure
    ``HANG``                   does nothing for ``seconds`` and then gives up: unknown
    ``FAIL_AFTER_SUCCESS``     reports success, then loses what it loaded
    ``SUCCESS_AFTER_FAILURE``  reports a failure, but did it
    ``WRONG_FUNCTION``         reports success, but loaded ``other``
    ``DIE``                    breaks off half-way: unknown
    ``KILL``                   the calling process is killed half-way (SIGKILL to itself)
    ``LATE``                   is not answered, and completes ``seconds`` later: unknown
    ``CORRUPT``                the artifact is not as described: staging refuses it
    """

    FAIL = "fail"
    HANG = "hang"
    FAIL_AFTER_SUCCESS = "fail_after_success"
    SUCCESS_AFTER_FAILURE = "success_after_failure"
    WRONG_FUNCTION = "wrong_function"
    DIE = "die"
    KILL = "kill"
    LATE = "late"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that the next ``times`` fitting calls meet (``None``: every one, for ever).

    ``device`` and ``function`` restrict it. ``leaves`` says what a call that does not complete
    leaves in the device: nothing, or what was there.
    """

    kind: FaultKind
    device: str | None = None
    function: str | None = None
    times: int | None = 1
    leaves: Literal["empty", "old"] = "empty"
    other: str = ""
    seconds: float = 3600.0

    def fits(self, device: str, function: str) -> bool:
        return self.device in (None, device) and self.function in (None, function)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the cards behave when no fault is set.

    A call takes ``seconds[function]`` (else what the catalog expects) times ``scale``, give or
    take the share ``jitter``. ``rates`` maps kinds of faults to the share of calls that meet them.
    """

    seed: int = 0
    scale: float = 1.0
    jitter: float = 0.1
    seconds: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Late:
    """A call that nobody waits for any more and that completes at ``at``."""

    function: str
    token: str
    at: float


@dataclass(frozen=True, slots=True)
class _State:
    """What the hardware holds. ``call`` is the token of an unfinished call."""

    function: str = ""
    card: str | None = None
    resets: str = "self"
    users: tuple[str, ...] = ()
    readable: bool = True
    calls: int = 0
    call: str | None = None
    late: _Late | None = None


class SimulatedCards:
    """All simulated cards of one directory. Safe for several threads and processes."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        (root / "devices").mkdir(parents=True, exist_ok=True)

    # ------------------------------------------------------------ setting up

    def add(
        self,
        device: str,
        *,
        function: str = "",
        card: str | None = None,
        resets: Literal["self", "card"] = "self",
    ) -> bool:
        """Put a device into the cloud, holding ``function``; ``False`` if it is there already."""
        with flock.hold(self._root / "devices" / f"{device}.add", wait_seconds=10):
            if (self._home(device) / "state.json").exists():
                return False
            self._home(device).mkdir(exist_ok=True)
            self._write(device, _State(function=function, card=card, resets=resets))
            self._note(device, "installed", holds=function)
            return True

    def devices(self) -> list[str]:
        """The names of all devices, sorted."""
        homes = (self._root / "devices").iterdir()
        return sorted(home.name for home in homes if (home / "state.json").exists())

    def behave(self, behaviour: Behaviour) -> None:
        """Set how all cards behave."""
        self._replace(self._root / "behaviour.json", asdict(behaviour))

    def inject(self, *faults: Fault) -> None:
        """Add faults; the first that fits a call is met."""
        with self._faults() as plan:
            plan.extend(faults)

    def clear_faults(self) -> None:
        """Forget all faults."""
        with self._faults() as plan:
            plan.clear()

    def set_users(self, device: str, users: Sequence[str]) -> None:
        """Use of a device that only its driver sees."""
        with self._changing(device) as change:
            change(users=tuple(users))

    def set_readable(self, device: str, *, readable: bool) -> None:
        """Whether the device can be read back."""
        with self._changing(device) as change:
            change(readable=readable)

    # ------------------------------------------------------------ what drivers and checkers see

    def function(self, device: str) -> str:
        """What the device really holds now, ``""`` for nothing."""
        return self._settled(device).function

    def busy(self, device: str) -> bool:
        """Whether a programming call can still be running on it."""
        late = self._settled(device).late
        return late is not None or flock.held(self._home(device) / "lock")

    def read(self, device: str) -> Reading:
        """What a driver reads back."""
        try:
            state = self._settled(device)
        except NotFound:
            return Reading(readable=False)
        busy = self.busy(device)
        if not state.readable or busy:
            return Reading(readable=False, busy=busy, users=state.users)
        return Reading(readable=True, function=state.function, busy=False, users=state.users)

    def journal(self, device: str | None = None) -> list[dict[str, Any]]:
        """The journal of one device, or of all in order of time.

        Each line has ``t`` (seconds since the epoch), ``device``, ``event`` (``installed``,
        ``start``, ``end``, ``interrupted``, ``reset``), ``holds`` (the function in the device
        from then on), and of a call its ``token``, ``function``, ``outcome``, ``users``, ``pid``.
        Who is killed between two writes may leave an ``interrupted`` for a call that has no
        ``start``, or has its ``end`` already.
        """
        found: list[dict[str, Any]] = []
        for name in [device] if device else self.devices():
            text = (self._home(name) / "journal.jsonl").read_text(encoding="utf-8")
            found += [json.loads(line) for line in text.splitlines()]
        return sorted(found, key=lambda line: line["t"])

    def corrupt(self, device: str, function: str) -> bool:
        """Whether staging this function for this device finds a bad artifact."""
        return self._fault(device, function, staging=True) is not None

    # ------------------------------------------------------------ programming

    def program(
        self,
        device: str,
        function: str,
        token: str,
        seconds: float,
        entitled: Entitled = always,
    ) -> ProgramResult:
        """Program the device, which takes about ``seconds``; raises ``Busy`` if a call runs."""
        late = self._settled(device).late
        if late is not None:
            raise Busy(f"{device}: an earlier call is still at work", device=device)
        with flock.hold(self._home(device) / "lock", wait_seconds=PROBE_SECONDS):
            if not entitled():
                return ProgramResult(Outcome.SUPERSEDED)
            state = self._begin(device, function, token)
            behaviour = self._behaviour()
            chance = Random(f"{behaviour.seed}:{device}:{state.calls}")  # noqa: S311 - a simulation
            takes = behaviour.seconds.get(function, seconds) * behaviour.scale
            takes *= 1 + behaviour.jitter * (2 * chance.random() - 1)
            fault = self._fault(device, function) or _by_rate(behaviour, chance)
            if fault is not None:
                return self._go_wrong(device, function, token, takes, fault, old=state.function)
            self._clock.sleep(takes)
            return self._end(device, function, token, Outcome.PROGRAMMED, holds=function)

    def _begin(self, device: str, function: str, token: str) -> _State:
        """Note the start; from here until the end the device holds nothing of use."""
        with self._changing(device) as change:
            before = change()
            if before.call is not None:
                # Its caller was killed: the kernel has freed the lock, only the note is missing.
                self._note(device, "interrupted", token=before.call, holds=before.function)
            change(function="", call=token, calls=before.calls + 1)
        self._note(
            device,
            "start",
            token=token,
            function=function,
            was=before.function,
            holds="",
            users=list(before.users),
            pid=os.getpid(),
        )
        if before.resets == "card" and before.card is not None:
            self._reset_siblings(device, before.card, token)
        return before

    def _end(
        self,
        device: str,
        function: str,
        token: str,
        outcome: Outcome,
        *,
        holds: str,
        said: str = "",
    ) -> ProgramResult:
        with self._changing(device) as change:
            change(function=holds)
        # Killed here, the call counts as interrupted, and the journal says what it left.
        with self._changing(device) as change:
            self._note(
                device, "end", token=token, function=function, outcome=outcome.value, holds=holds
            )
            change(call=None)
        return ProgramResult(outcome, said or f"{device} {outcome}")

    def _go_wrong(
        self, device: str, function: str, token: str, takes: float, fault: Fault, *, old: str
    ) -> ProgramResult:
        left = old if fault.leaves == "old" else ""
        broken_off = fault.kind in {FaultKind.DIE, FaultKind.KILL}
        gives_up = fault.kind is FaultKind.HANG
        self._clock.sleep(fault.seconds if gives_up else takes / 2 if broken_off else takes)
        if fault.kind is FaultKind.KILL:
            with self._changing(device) as change:
                change(function=left)
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind is FaultKind.LATE:
            with self._changing(device) as change:
                change(late=_Late(function, token, self._clock.now() + fault.seconds))
            return ProgramResult(Outcome.UNKNOWN, "simulated: no answer")
        outcome, holds, said = {
            FaultKind.FAIL: (Outcome.FAILED, left, "the card refused the bitstream"),
            FaultKind.FAIL_AFTER_SUCCESS: (Outcome.PROGRAMMED, "", "done"),
            FaultKind.SUCCESS_AFTER_FAILURE: (Outcome.FAILED, function, "the tool failed"),
            FaultKind.WRONG_FUNCTION: (Outcome.PROGRAMMED, fault.other, "done"),
            FaultKind.HANG: (Outcome.UNKNOWN, left, "no answer, given up"),
            FaultKind.DIE: (Outcome.UNKNOWN, left, "the call broke off"),
        }[fault.kind]
        return self._end(device, function, token, outcome, holds=holds, said=f"simulated: {said}")

    def _reset_siblings(self, device: str, card: str, token: str) -> None:
        for sibling in self.devices():
            if sibling == device or self._load(sibling).card != card:
                continue
            with self._changing(sibling) as change:
                was = change().function
                change(function="")
                self._note(sibling, "reset", token=token, by=device, was=was, holds="")

    def _settled(self, device: str) -> _State:
        """The state, once a late call whose time has come has completed."""
        state = self._load(device)
        if state.late is None or state.late.at > self._clock.now():
            return state
        with self._changing(device) as change:
            late = change().late
            if late is not None:
                change(function=late.function, call=None, late=None)
                self._note(
                    device,
                    "end",
                    t=late.at,
                    token=late.token,
                    function=late.function,
                    outcome="late",
                    holds=late.function,
                )
            return change()

    # ------------------------------------------------------------ files

    def _home(self, device: str) -> Path:
        return self._root / "devices" / device

    def _load(self, device: str) -> _State:
        try:
            data = json.loads((self._home(device) / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NotFound(f"no simulated device {device}", device=device) from None
        late = data.pop("late")
        users = tuple(data.pop("users"))
        return _State(**data, users=users, late=_Late(**late) if late else None)

    def _write(self, device: str, state: _State) -> None:
        self._replace(self._home(device) / "state.json", asdict(state))

    @contextmanager
    def _changing(self, device: str) -> Iterator[_Change]:
        """Read, change and write the state under a short lock of its own."""
        with flock.hold(self._home(device) / "state.lock", wait_seconds=10):
            change = _Change(self._load(device))
            yield change
            if change.changed:
                self._write(device, change.state)

    @contextmanager
    def _faults(self) -> Iterator[list[Fault]]:
        path = self._root / "faults.json"
        with flock.hold(self._root / "faults.lock", wait_seconds=10):
            plan = [Fault(**{**f, "kind": FaultKind(f["kind"])}) for f in _read(path, [])]
            before = list(plan)
            yield plan
            if plan != before:
                self._replace(path, [asdict(fault) for fault in plan])

    def _fault(self, device: str, function: str, *, staging: bool = False) -> Fault | None:
        """The fault that this call meets, counted."""
        if not (self._root / "faults.json").exists():
            return None
        with self._faults() as plan:
            for index, fault in enumerate(plan):
                if (fault.kind is FaultKind.CORRUPT) is staging and fault.fits(device, function):
                    if fault.times is not None:
                        rest = replace(fault, times=fault.times - 1)
                        plan[index : index + 1] = [rest] if rest.times else []
                    return fault
        return None

    def _behaviour(self) -> Behaviour:
        return Behaviour(**_read(self._root / "behaviour.json", {}))

    def _note(self, device: str, event: str, *, t: float | None = None, **facts: object) -> None:
        when = self._clock.now() if t is None else t
        line = json.dumps({"t": when, "device": device, "event": event, **facts})
        # One write to a file opened for appending: lines of several processes never mix.
        path = self._home(device) / "journal.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)

    @staticmethod
    def _replace(path: Path, data: object) -> None:
        """Write all of the file or none of it, whenever the process is killed."""
        draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        draft.write_text(json.dumps(data), encoding="utf-8")
        draft.replace(path)


class _Change:
    """Read with ``change()``, set fields with ``change(field=...)``; returns the state then."""

    def __init__(self, state: _State) -> None:
        self.state = state
        self.changed = False

    def __call__(self, **fields: Any) -> _State:
        if fields:
            self.state = replace(self.state, **fields)
            self.changed = True
        return self.state


def _by_rate(behaviour: Behaviour, chance: Random) -> Fault | None:
    draw = chance.random()
    for kind, rate in sorted(behaviour.rates.items()):
        draw -= rate
        if draw < 0:
            return Fault(FaultKind(kind), seconds=60.0)
    return None


def _read(path: Path, default: Any) -> Any:
    with suppress(FileNotFoundError):
        return json.loads(path.read_text(encoding="utf-8"))
    return default
