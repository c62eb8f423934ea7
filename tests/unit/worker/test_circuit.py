"""The circuit: opens where a service only fails, says so, lets one call through, closes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from changeover.models.errors import (
    Garbled,
    NotFound,
    OutcomeUnknown,
    Stale,
    Unreachable,
)
from changeover.worker.circuit import (
    FAILURES,
    FIRST_OPEN,
    MOST_OPEN,
    TOLD_SECONDS,
    Circuit,
    Trip,
    guarded,
    open_circuits,
)
from changeover.worker.migrate import upgrade
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.store import Database


class Service:
    """Fails as it is told, and counts what reaches it."""

    longest = 7.0

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.reached = 0

    def read(self, word: str) -> str:
        """Say it again."""
        self.reached += 1
        if self.fails is not None:
            raise self.fails
        return word


class Told(list[Trip | None]):
    def __call__(self, _service: str, trip: Trip | None) -> None:
        self.append(trip)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


def fail(circuit: Circuit, error: Exception, times: int = 1) -> None:
    def do() -> None:
        raise error

    for _ in range(times):
        with pytest.raises(type(error)):
            circuit.call(do)


@pytest.mark.parametrize("error", [Unreachable("no"), OutcomeUnknown("?"), Garbled("<html>")])
def test_it_opens_after_failures_in_a_row_and_sends_nothing_then(
    clock: VirtualClock, error: Exception
) -> None:
    told = Told()
    circuit = Circuit("Placement", clock, told)
    fail(circuit, error, FAILURES - 1)
    assert circuit.call(lambda: "answered") == "answered"
    fail(circuit, error, FAILURES - 1)
    assert (circuit.trip, told) == (None, [])
    fail(circuit, error)
    assert circuit.trip is not None
    assert told == [circuit.trip]
    with pytest.raises(Unreachable, match=r"Placement is left alone .* 5 calls in a row failed"):
        circuit.call(lambda: pytest.fail("sent through an open circuit"))


def test_one_call_is_let_through_and_its_answer_closes_it(clock: VirtualClock) -> None:
    told = Told()
    circuit = Circuit("Nova", clock, told)
    fail(circuit, Unreachable("down"), FAILURES)
    clock.advance(FIRST_OPEN)

    def probe() -> str:
        # While it is on its way, nothing else is sent.
        with pytest.raises(Unreachable):
            circuit.call(lambda: pytest.fail("a second probe"))
        return "up"

    assert circuit.call(probe) == "up"
    assert circuit.trip is None
    assert told[-1] is None
    fail(circuit, Unreachable("down"), FAILURES - 1)
    assert circuit.trip is None


def test_each_failed_probe_keeps_it_open_longer(clock: VirtualClock) -> None:
    circuit = Circuit("Nova", clock, Told())
    fail(circuit, Unreachable("down"), FAILURES)
    since, waits = clock.now(), []
    for _ in range(8):
        trip = circuit.trip
        assert trip is not None
        assert trip.since == since
        waits.append(trip.until - clock.now())
        clock.advance(waits[-1])
        fail(circuit, Unreachable("down"))
    assert waits[0] <= FIRST_OPEN
    assert MOST_OPEN / 2 <= waits[-1] <= MOST_OPEN


@pytest.mark.parametrize("error", [Stale("409"), NotFound("404")])
def test_a_refusal_is_an_answer(clock: VirtualClock, error: Exception) -> None:
    circuit = Circuit("Placement", clock, Told())
    fail(circuit, Unreachable("down"), FAILURES - 1)
    fail(circuit, error)
    fail(circuit, Unreachable("down"), FAILURES - 1)
    assert circuit.trip is None
    fail(circuit, Unreachable("down"))
    clock.advance(FIRST_OPEN)
    fail(circuit, error)
    assert circuit.trip is None


def test_a_caller_that_dies_as_the_probe_leaves_the_next_one_to_try(clock: VirtualClock) -> None:
    circuit = Circuit("Placement", clock, Told())
    fail(circuit, Unreachable("down"), FAILURES)
    clock.advance(FIRST_OPEN)
    fail(circuit, RuntimeError("the caller's own"))
    assert circuit.trip is not None
    assert circuit.call(lambda: "up") == "up"


def test_what_was_on_its_way_when_it_opened_does_not_close_it(clock: VirtualClock) -> None:
    circuit = Circuit("Placement", clock, Told())
    sent, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        sent.set()
        assert go_on.wait(30)

    thread = threading.Thread(target=lambda: circuit.call(slow))
    thread.start()
    assert sent.wait(30)
    fail(circuit, Unreachable("down"), FAILURES)
    go_on.set()
    thread.join(30)
    assert circuit.trip is not None


def test_a_guarded_port_is_the_port(tmp_path: Path, clock: VirtualClock) -> None:
    service = Service()
    database = _database(tmp_path)
    port = guarded(service, "Cyborg", clock, database)
    assert (port.read("word"), port.longest, port.read.__doc__) == ("word", 7.0, "Say it again.")
    service.fails = Unreachable("no route")
    for _ in range(FAILURES + 3):
        with pytest.raises(Unreachable):
            port.read("word")
    assert service.reached == 1 + FAILURES
    [trip] = open_circuits(database, clock.now())
    assert (trip.service, trip.failures, trip.why) == ("Cyborg", FAILURES, "no route")
    assert open_circuits(database, trip.until + TOLD_SECONDS) == []
    service.fails = None
    clock.advance(FIRST_OPEN)
    assert port.read("again") == "again"
    assert open_circuits(database, clock.now()) == []


def test_a_silent_database_does_not_hide_the_services_failure(
    tmp_path: Path, clock: VirtualClock
) -> None:
    service = Service()
    service.fails = Unreachable("no route")
    port = guarded(service, "Nova", clock, Database(f"sqlite:///{tmp_path / 'none' / 'x'}"))
    for _ in range(FAILURES):
        with pytest.raises(Unreachable, match="no route"):
            port.read("word")
    with pytest.raises(Unreachable, match="left alone"):
        port.read("word")


def _database(tmp_path: Path) -> Database:
    url = f"sqlite:///{tmp_path / 'changeover.sqlite'}"
    upgrade(url)
    return Database(url)
