"""Blazar's leases, as Blazar 18 really answered, over real HTTP and as the embedded cloud has them.

Both are the port ``Reservations``, and read the same form; and answers that are none.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from changeover.models.errors import AskOperator, Garbled, Unreachable
from changeover.worker.adapters.reservations_blazar import BlazarReservations
from changeover.worker.adapters.reservations_simulated import SimulatedReservations
from changeover.worker.adapters.service_http import HttpService, Timeouts
from changeover.worker.ports.reservations import Reservations

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "blazar" / "leases.json").read_text(encoding="utf-8")
)
LONG_AGO = 0.0


class Blazar:
    """Serves what it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = deepcopy(RECORDED)
        self.paths: list[str] = []
        self.port = 0

    def reservations(self) -> Reservations:
        service = HttpService.noauth(
            "Blazar",
            "reservation",
            f"http://127.0.0.1:{self.port}/v1",
            token="t",  # noqa: S106 - any will do
            timeouts=Timeouts(read=5.0),
        )
        return BlazarReservations(service)

    def lease(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = next(
            lease
            for lease in self.body["leases"]
            if lease["reservations"][0]["resource_type"] == kind
        )
        return found


class Embedded(Blazar):
    """The same, in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def reservations(self) -> Reservations:
        data = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        self.path.write_bytes(data)
        return SimulatedReservations(self.path)


@pytest.fixture(params=["blazar", "embedded"])
def leases(request: pytest.FixtureRequest, tmp_path: Path) -> Blazar:
    """Either; the tests of HTTP alone take ``blazar``."""
    if request.param == "embedded":
        return Embedded(tmp_path / "leases.json")
    served: Blazar = request.getfixturevalue("blazar")
    return served


@pytest.fixture
def blazar() -> Iterator[Blazar]:
    made = Blazar()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.paths.append(self.path)
            body = made.body if isinstance(made.body, bytes) else json.dumps(made.body).encode()
            self.send_response(made.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    made.port = server.server_port
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_three_kinds(leases: Blazar) -> None:
    found = {one.kind: one for one in leases.reservations().upcoming(LONG_AGO)}
    assert found.keys() == {"flavor:instance", "virtual:instance", "physical:host"}
    flavor, lease = found["flavor:instance"], leases.lease("flavor:instance")
    assert (flavor.lease, flavor.name, flavor.units) == (lease["id"], "requests-flavor", 1)
    assert flavor.project == lease["project_id"]
    start = datetime.fromisoformat(lease["start_date"]).replace(tzinfo=UTC)
    assert flavor.starts_at == start.timestamp()
    assert flavor.ends_at > flavor.starts_at
    assert flavor.request is not None
    [group] = flavor.request.groups
    assert group.resources == {"CUSTOM_FPGA": 1, "VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1}
    assert group.required == {"CUSTOM_FPGA_FUNCTION_AES"}
    for kind in ("virtual:instance", "physical:host"):
        assert (found[kind].request, found[kind].words, found[kind].units) == (None, frozenset(), 1)


def test_the_words_of_a_filter(leases: Blazar) -> None:
    [one] = leases.lease("virtual:instance")["reservations"]
    one["resource_properties"] = json.dumps(
        ["and", ["==", "$trait:CUSTOM_FPGA_FUNCTION_AES", "required"], [">=", "$vcpus", "8"]]
    )
    one["amount"] = 4
    [found] = [r for r in leases.reservations().upcoming(LONG_AGO) if r.kind == "virtual:instance"]
    assert found.units == 4
    assert {"CUSTOM_FPGA_FUNCTION_AES", "vcpus", "and"} <= found.words


def test_what_is_over_is_not_upcoming(leases: Blazar) -> None:
    leases.lease("physical:host")["status"] = "TERMINATED"
    found = leases.reservations().upcoming(LONG_AGO)
    assert {one.kind for one in found} == {"flavor:instance", "virtual:instance"}
    assert leases.reservations().upcoming(4e9) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"vcpus": "many"}', "[" * 5000])
def test_a_flavor_that_cannot_be_read_costs_only_its_own_lease(leases: Blazar, text: str) -> None:
    [one] = leases.lease("flavor:instance")["reservations"]
    one["resource_properties"] = text
    [other] = leases.lease("physical:host")["reservations"]
    other["resource_properties"] = text
    found = {one.kind: one for one in leases.reservations().upcoming(LONG_AGO)}
    assert len(found) == 3
    assert found["flavor:instance"].request is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        [],
        {},
        {"leases": {}},
        {"leases": [{"id": "x"}]},
        {"leases": [{"id": "x", "start_date": "soon", "end_date": "", "reservations": [{}]}]},
    ],
)
def test_an_answer_of_another_form_is_garbled(leases: Blazar, body: Any) -> None:
    leases.body = body
    with pytest.raises(Garbled):
        leases.reservations().upcoming(LONG_AGO)


def test_what_is_asked(blazar: Blazar) -> None:
    blazar.reservations().upcoming(LONG_AGO)
    assert blazar.paths == ["/v1/leases"]


@pytest.mark.parametrize(
    ("status", "error"), [(401, AskOperator), (403, AskOperator), (503, Unreachable)]
)
def test_refusals(blazar: Blazar, status: int, error: type[Exception]) -> None:
    blazar.status = status
    with pytest.raises(error):
        blazar.reservations().upcoming(LONG_AGO)


def test_nobody_answers(blazar: Blazar) -> None:
    blazar.port = 1
    with pytest.raises(Unreachable):
        blazar.reservations().upcoming(LONG_AGO)
