"""A circuit between Changeover and one remote service: it opens where the service only fails.

While it is open nothing is sent: each call is answered at once with ``Unreachable``, as nothing
was done. When its time is over one call is let through; if that is answered, the circuit closes.
Its state is told in the log and in the database, for ``changeover status``.

A refusal, a conflict or a 404 is an answer. One device that fails opens nothing: devices have
their own tries, backing off and quarantine.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

import structlog

from changeover.models.errors import ChangeoverError, Garbled, OutcomeUnknown, Unreachable
from changeover.policies.backoff import backoff, jitter_of
from changeover.worker.ports.clock import Clock
from changeover.worker.store import Database

log = structlog.get_logger(__name__)

P = TypeVar("P")
R = TypeVar("R")

FAILURES = 5
"""Calls in a row that were not sensibly answered."""

FIRST_OPEN = 1.0
MOST_OPEN = 15.0
"""Seconds for which it stays open, doubling with each probe that fails."""

SWITCH = "circuit."
"""How the names of the switches begin that tell of open circuits."""

TOLD_SECONDS = 60.0
"""An open circuit that nobody told of for so long was that of a process that is gone."""


@dataclass(frozen=True, slots=True)
class Trip:
    """Why a circuit is open. Times are seconds since the epoch."""

    service: str
    since: float
    until: float
    failures: int
    why: str


class Circuit:
    """One service's circuit in this process. Safe to use from several threads at once."""

    def __init__(
        self, service: str, clock: Clock, tell: Callable[[str, Trip | None], None]
    ) -> None:
        self.service = service
        self.clock = clock
        self.tell = tell
        self._lock = threading.Lock()
        self._failures = 0
        self._trip: Trip | None = None
        self._probing = False

    @property
    def trip(self) -> Trip | None:
        """Why it is open, if it is."""
        return self._trip

    def call(self, do: Callable[[], R]) -> R:
        """``do()``, unless the circuit is open: then :class:`Unreachable`, and nothing was done."""
        probe = self._enter()
        try:
            answer = do()
        except (Unreachable, OutcomeUnknown, Garbled) as exc:
            self._failed(exc, probe=probe)
            raise
        except BaseException as exc:
            # Any other error of ours is an answer; a death of the caller says nothing.
            self._answered(probe=probe, really=isinstance(exc, ChangeoverError))
            raise
        self._answered(probe=probe, really=True)
        return answer

    def _enter(self) -> bool:
        """Whether this call is the probe of an open circuit."""
        with self._lock:
            trip = self._trip
            if trip is None:
                return False
            left = trip.until - self.clock.now()
            if left > 0 or self._probing:
                raise Unreachable(
                    f"{self.service} is left alone for {max(0.0, left):.1f} s: {trip.failures} "
                    f"calls in a row failed, the last with: {trip.why}",
                    service=self.service,
                )
            self._probing = True
            return True

    def _failed(self, exc: ChangeoverError, *, probe: bool) -> None:
        with self._lock:
            self._failures += 1
            if probe:
                self._probing = False
            if self._failures < FAILURES or (self._trip is not None and not probe):
                return  # not yet; or sent before it opened
            now = self.clock.now()
            wait = backoff(
                1 + self._failures - FAILURES,
                first=FIRST_OPEN,
                most=MOST_OPEN,
                jitter=jitter_of(f"{self.service}.{now}"),
            )
            since = now if self._trip is None else self._trip.since
            self._trip = trip = Trip(
                self.service, since, now + wait, self._failures, exc.message[:300]
            )
        log.error("circuit.opened", wait=round(wait, 2), **_facts(trip))
        self.tell(self.service, trip)

    def _answered(self, *, probe: bool, really: bool) -> None:
        with self._lock:
            if probe:
                self._probing = False
            if not really or (self._trip is not None and not probe):
                return
            closed, self._trip, self._failures = self._trip, None, 0
        if closed is not None:
            log.warning("circuit.closed", **_facts(closed))
            self.tell(self.service, None)


def _facts(trip: Trip) -> dict[str, Any]:
    return {"service": trip.service, "failures": trip.failures, "why": trip.why}


class _Guarded:
    """A port whose calls go through a circuit; what is no call is handed on."""

    def __init__(self, port: object, circuit: Circuit) -> None:
        self._port = port
        self._circuit = circuit

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not callable(found) or name.startswith("_"):
            return found

        @functools.wraps(found)
        def called(*args: object, **named: object) -> object:
            return self._circuit.call(lambda: found(*args, **named))

        # Found at once the next time: a port's methods do not change.
        self.__dict__[name] = called
        return called


def guarded(port: P, service: str, clock: Clock, database: Database) -> P:
    """The port, with a circuit before each of its calls."""
    return cast("P", _Guarded(port, Circuit(service, clock, functools.partial(_tell, database))))


def _tell(database: Database, service: str, trip: Trip | None) -> None:
    """Note it for ``changeover status``; a database that is silent, too, is told of elsewhere."""
    try:
        with database.write() as tx:
            if trip is None:
                tx.switches.drop(SWITCH + service)
            else:
                tx.switches.set(SWITCH + service, asdict(trip), trip.until)
    except ChangeoverError as exc:
        log.warning("circuit.not_told", service=service, why=exc.message)


def open_circuits(database: Database, now: float) -> list[Trip]:
    """Open circuits of any process, by service."""
    with database.read() as tx:
        told = tx.switches.under(SWITCH)
    trips = [Trip(**value) for _, value in sorted(told.items())]
    return [trip for trip in trips if trip.until > now - TOLD_SECONDS]
