"""What the HTTP adapter says when the answer is late, broken, cut off or none at all."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from changeover.models.errors import (
    AskOperator,
    ChangeoverError,
    Garbled,
    InUse,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Stale,
    Unreachable,
)
from changeover.models.placement import Inventory, RequestGroup, ResourceRequest
from changeover.worker.adapters import service_http
from changeover.worker.adapters.placement_http import HttpPlacement
from changeover.worker.adapters.service_http import Timeouts
from changeover.worker.bootstrap import open_placement
from changeover.worker.settings import Settings

P = "/resource_providers/u"
FAST = Timeouts(connect=1.0, read=0.3, total=1.0)
VERSIONS = {"versions": [{"id": "v1.0", "min_version": "1.0", "max_version": "1.39"}]}

Reply = Callable[[socket.socket], None]


class Placement:
    """A server that answers each path as it is told, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.heads: list[str] = []
        self.replies: dict[str, Reply] = {"GET /": answer(200, VERSIONS)}
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for connection in self._open:
            with suppress(OSError):  # ended already
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            connection.settimeout(10.0)
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                while line := stream.readline().decode():
                    length, head = 0, line
                    while (header := stream.readline().decode()) not in {"\r\n", ""}:
                        head += header
                        if header.lower().startswith("content-length:"):
                            length = int(header.split(":")[1])
                    stream.read(length)
                    method, target, _ = line.split()
                    call = f"{method} {target.split('?')[0]}"
                    self.heads.append(head)
                    self.asked[call] += 1
                    self.replies[call](connection)
        except (OSError, ValueError):
            return


def answer(status: int, body: object = None, *, form: str = "application/json") -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def reply(connection: socket.socket) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {form}\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)

    return reply


def error(status: int, code: str = "", detail: str = "said why") -> Reply:
    return answer(status, {"errors": [{"status": status, "code": code, "detail": detail}]})


def silence(connection: socket.socket) -> None:
    """Read the request, say nothing."""


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RD)
    raise OSError


def hang_up(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)
    raise OSError


def cut(status: int) -> Reply:
    """Promise more than is sent, then hang up."""

    def reply(connection: socket.socket) -> None:
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
        )
        connection.sendall(head.encode() + b'{"resource_provider_generation": 7')
        hang_up(connection)

    return reply


def dribble(connection: socket.socket) -> None:
    """A byte now and then: no silence is long, the answer never ends."""
    connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        connection.sendall(b" ")
        time.sleep(0.1)


@pytest.fixture
def server() -> Iterator[Placement]:
    server = Placement()
    yield server
    server.close()


@pytest.fixture
def placement(server: Placement) -> Iterator[HttpPlacement]:
    with placement_at(server.url) as placement:
        yield placement


class placement_at:  # noqa: N801 - reads as what it gives
    """An adapter whose connections are closed at the end."""

    def __init__(self, url: str) -> None:
        self.placement = HttpPlacement.noauth(url, timeouts=FAST)

    def __enter__(self) -> HttpPlacement:
        return self.placement

    def __exit__(self, *_: object) -> None:
        self.placement.close()


INVENTORY = {"VGPU": Inventory(1)}
C = "6a4a2f3c-0000-4000-8000-000000000000"
REQUEST = ResourceRequest((RequestGroup("1", {"FPGA": 1}),))

READS: dict[str, tuple[str, Callable[[HttpPlacement], Any]]] = {
    "providers": ("GET /resource_providers", lambda p: p.providers()),
    "state": (f"GET {P}/inventories", lambda p: p.state("u")),
    "usage": (f"GET {P}/allocations", lambda p: p.usage("u")),
    "candidates": ("GET /allocation_candidates", lambda p: p.candidates(REQUEST)),
    "held": (f"GET /allocations/{C}", lambda p: p.held(C)),
    "classes": ("GET /resource_classes", lambda p: p.ensure_resource_classes(["CUSTOM_A"])),
    "traits": ("GET /traits", lambda p: p.ensure_traits(["CUSTOM_A"])),
}
WRITES: dict[str, tuple[str, Callable[[HttpPlacement], Any]]] = {
    "put_inventories": (f"PUT {P}/inventories", lambda p: p.put_inventories("u", 1, INVENTORY)),
    "put_traits": (f"PUT {P}/traits", lambda p: p.put_traits("u", 1, ["CUSTOM_A"])),
    "claim": (
        f"PUT /allocations/{C}",
        lambda p: p.claim(C, {"u": {"FPGA": 1}}, project="p", user="u"),
    ),
    "release": (f"DELETE /allocations/{C}", lambda p: p.release(C)),
    "create": ("POST /resource_providers", lambda p: p.create_provider(C, "name")),
}
CALLS = READS | WRITES
LOST = {"silence": silence, "reset": reset, "hang up": hang_up, "cut off": cut(200)}


def raised(call: Callable[[], object]) -> ChangeoverError:
    with pytest.raises(ChangeoverError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("how", [*LOST, "500", "502", "504", "507"])
@pytest.mark.parametrize("name", CALLS)
def test_unanswered(server: Placement, placement: HttpPlacement, name: str, how: str) -> None:
    call, make = CALLS[name]
    server.replies[call] = LOST[how] if how in LOST else error(int(how))
    said = raised(lambda: make(placement))
    assert type(said) is (OutcomeUnknown if name in WRITES else Unreachable), said
    assert call in said.message
    assert server.asked[call] == 1, "nothing is sent twice on its own account"


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", [429, 503])
def test_turned_away(server: Placement, placement: HttpPlacement, name: str, status: int) -> None:
    call, make = CALLS[name]
    server.replies[call] = answer(status, b"<html>busy</html>", form="text/html")
    assert type(raised(lambda: make(placement))) is Unreachable
    assert server.asked[call] == 1


@pytest.mark.parametrize("name", CALLS)
def test_refused_connection(server: Placement, placement: HttpPlacement, name: str) -> None:
    placement._versions.spoken()
    server.close()
    server.close = lambda: None  # type: ignore[method-assign]  # closed already
    placement.close()
    assert type(raised(lambda: CALLS[name][1](placement))) is Unreachable


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "placement.undefined_code", Invalid),
        (401, "", AskOperator),
        (403, "", AskOperator),
        (404, "", NotFound),
        (406, "", AskOperator),
        (413, "", Invalid),
        (409, "placement.concurrent_update", Stale),
        (409, "placement.inventory.inuse", InUse),
        (409, "placement.undefined_code", Stale),
        (409, "", Stale),
    ],
)
def test_statuses(
    server: Placement, placement: HttpPlacement, status: int, code: str, kind: type
) -> None:
    for name in ("put_inventories", "put_traits", "usage"):
        call, make = CALLS[name]
        server.replies[call] = error(status, code)
        said = raised(lambda make=make: make(placement))
        assert type(said) is kind
        assert "said why" in said.message
        assert said.facts["status"] == status


def test_refusal_without_a_form_is_a_refusal_still(
    server: Placement, placement: HttpPlacement
) -> None:
    call, make = CALLS["put_inventories"]
    for status, kind in ((400, Invalid), (404, NotFound), (409, Stale)):
        for body in (b"<html>no</html>", b"", b"[]", b'{"errors": []}', b"\xff\xfe", b"[" * 99999):
            server.replies[call] = answer(status, body)
            assert type(raised(lambda: make(placement))) is kind
        server.replies[call] = cut(status)
        assert type(raised(lambda: make(placement))) is kind


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("status", [400, 404])
def test_what_a_proxy_does_not_find_placement_may_have(
    server: Placement, placement: HttpPlacement, name: str, status: int
) -> None:
    call, make = CALLS[name]
    for body in (b"default backend - 404", b"<html>no</html>", b""):
        server.replies[call] = answer(status, body, form="text/html")
        assert type(raised(lambda: make(placement))) is Garbled


def test_claim_that_is_refused_is_no_error(server: Placement, placement: HttpPlacement) -> None:
    call, make = CALLS["claim"]
    server.replies[call] = error(409, "placement.undefined_code")
    assert make(placement) is False
    server.replies[call] = error(409, "placement.concurrent_update")
    assert type(raised(lambda: make(placement))) is Stale


def test_release_of_nothing_is_fine(server: Placement, placement: HttpPlacement) -> None:
    call, make = CALLS["release"]
    server.replies[call] = error(404)
    make(placement)


GARBAGE = [
    b"",
    b"<html>Welcome</html>",
    b"{",
    b"null",
    b"[]",
    b'{"resource_provider_generation": "7"}',
    b'{"resource_provider_generation": true, "inventories": {}, "traits": [], "allocations": {}}',
    b'{"resource_provider_generation": -1, "inventories": {}, "traits": [], "allocations": {}}',
    b"\xff\xfe\x00",
    b"[" * 200_000,
    b'{"resource_provider_generation": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("name", ["state", "usage", "candidates", "put_inventories", "put_traits"])
def test_garbage(server: Placement, placement: HttpPlacement, name: str, garbage: bytes) -> None:
    """What cannot be read tells nothing: of a write, not even whether it worked."""
    call, make = CALLS[name]
    server.replies[call] = answer(200, garbage)
    said = raised(lambda: make(placement))
    assert type(said) is (OutcomeUnknown if name in WRITES else Garbled)
    assert len(said.message) < 2000


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("providers", {"resource_providers": [{"uuid": "u"}]}),
        ("providers", {"resource_providers": {}}),
        ("state", {"resource_provider_generation": 1, "inventories": {"FPGA": {"total": 1}}}),
        ("usage", {"resource_provider_generation": 1, "allocations": {"c": {"resources": []}}}),
        ("usage", {"resource_provider_generation": 1, "allocations": {"c": {}}}),
        ("held", {"allocations": {"u": {"resources": {"FPGA": 1.5}}}}),
        ("classes", {"resource_classes": [{"nom": "VCPU"}]}),
        ("traits", {"traits": [1]}),
        (
            "candidates",
            {
                "allocation_requests": [
                    {"allocations": {"u": {"resources": {"FPGA": 1}}}, "mappings": {"1": ["u"]}}
                ],
                "provider_summaries": {},
            },
        ),
        ("candidates", {"allocation_requests": [{}], "provider_summaries": {}}),
        ("candidates", {"allocation_requests": [], "provider_summaries": {"u": {}}}),
    ],
)
def test_other_forms(server: Placement, placement: HttpPlacement, name: str, body: object) -> None:
    call, make = CALLS[name]
    server.replies[call] = answer(200, body)
    assert type(raised(lambda: make(placement))) is Garbled


def test_the_setting_bounds_a_whole_answer_too() -> None:
    settings = Settings(placement_endpoint="http://127.0.0.1:1", request_timeout_seconds=100.0)
    placement = open_placement(settings)
    assert isinstance(placement, HttpPlacement)
    assert placement._service.timeouts == Timeouts(read=100.0, total=600.0)


def test_endless_answers_end(
    server: Placement, placement: HttpPlacement, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.replies[f"GET {P}/allocations"] = dribble
    began = time.monotonic()
    assert type(raised(lambda: placement.usage("u"))) is Unreachable
    assert time.monotonic() - began < 3 * FAST.total
    monkeypatch.setattr(service_http, "LONGEST_ANSWER_BYTES", 1000)
    server.replies[f"GET {P}/traits"] = answer(200, b" " * 1001)
    server.replies[f"GET {P}/inventories"] = answer(200, b" " * 1001)
    assert type(raised(lambda: placement.state("u"))) is Garbled


# --- microversions ----------------------------------------------------------------------------


def versions(least: str, most: str) -> Reply:
    return answer(200, {"versions": [{"id": "v1.0", "min_version": least, "max_version": most}]})


USAGE = {"resource_provider_generation": 1, "allocations": {}}


@pytest.mark.parametrize(
    ("most", "spoken"), [("1.36", "1.36"), ("1.39", "1.39"), ("1.99", "1.39"), ("2.1", "1.39")]
)
def test_speaks_the_best_that_both_know(
    server: Placement, placement: HttpPlacement, most: str, spoken: str
) -> None:
    server.replies["GET /"] = versions("1.0", most)
    server.replies[f"GET {P}/allocations"] = answer(200, USAGE)
    for _ in range(3):
        placement.usage("u")
    assert server.asked["GET /"] == 1
    assert f"OpenStack-API-Version: placement {spoken}\r\n" in server.heads[-1]
    assert "X-Auth-Token: admin\r\n" in server.heads[-1]


@pytest.mark.parametrize(("least", "most"), [("1.0", "1.25"), ("1.0", "1.35"), ("1.40", "1.50")])
def test_too_old_or_too_new(
    server: Placement, placement: HttpPlacement, least: str, most: str
) -> None:
    server.replies["GET /"] = versions(least, most)
    said = raised(lambda: placement.usage("u"))
    assert type(said) is AskOperator
    assert most in said.message


def test_older_placement_takes_claims_but_no_any_of(
    server: Placement, placement: HttpPlacement
) -> None:
    server.replies["GET /"] = versions("1.0", "1.36")
    call, make = CALLS["claim"]
    server.replies[call] = answer(204, b"")
    assert make(placement) is True
    group = RequestGroup("1", {"FPGA": 1}, any_of=(frozenset({"CUSTOM_A", "CUSTOM_B"}),))
    said = raised(lambda: placement.candidates(ResourceRequest((group,))))
    assert type(said) is AskOperator
    assert "1.39" in said.message


def test_unreachable_at_first_is_asked_again(server: Placement, placement: HttpPlacement) -> None:
    server.replies["GET /"] = error(503)
    server.replies[f"GET {P}/allocations"] = answer(200, USAGE)
    assert type(raised(lambda: placement.usage("u"))) is Unreachable
    server.replies["GET /"] = answer(200, {"nothing": "of the kind"})
    assert type(raised(lambda: placement.usage("u"))) is Garbled
    server.replies["GET /"] = answer(200, VERSIONS)
    assert placement.usage("u").idle


# --- reading again ----------------------------------------------------------------------------


def test_state_is_read_until_its_halves_agree(server: Placement, placement: HttpPlacement) -> None:
    at = {"inventories": iter([1, 3, 3]), "traits": iter([2, 3])}

    def changing(part: str, body: dict[str, object]) -> Reply:
        def reply(connection: socket.socket) -> None:
            answer(200, body | {"resource_provider_generation": next(at[part])})(connection)

        return reply

    server.replies[f"GET {P}/inventories"] = changing("inventories", {"inventories": {}})
    server.replies[f"GET {P}/traits"] = changing("traits", {"traits": ["CUSTOM_A"]})
    state = placement.state("u")
    assert (state.generation, state.traits) == (3, {"CUSTOM_A"})
    assert server.asked[f"GET {P}/inventories"] == 2
    assert server.asked[f"GET {P}/traits"] == 2


def test_state_that_never_agrees_is_stale(server: Placement, placement: HttpPlacement) -> None:
    server.replies[f"GET {P}/inventories"] = answer(
        200, {"resource_provider_generation": 1, "inventories": {}}
    )
    server.replies[f"GET {P}/traits"] = answer(
        200, {"resource_provider_generation": 2, "traits": []}
    )
    assert type(raised(lambda: placement.state("u"))) is Stale
    assert sum(server.asked.values()) < 10


def test_host_that_was_made_anew_is_found(server: Placement, placement: HttpPlacement) -> None:
    """A remembered uuid that has no candidates any more is looked up again."""

    def root(uuid: str) -> Reply:
        found = {
            "uuid": uuid, "name": "h", "generation": 0,
            "parent_provider_uuid": None, "root_provider_uuid": uuid,
        }  # fmt: skip
        return answer(200, {"resource_providers": [found]})

    def candidates(connection: socket.socket) -> None:
        there = "in_tree1=old" in server.heads[-1]
        summary = {
            "resources": {}, "traits": [], "parent_provider_uuid": None,
            "root_provider_uuid": "new",
        }  # fmt: skip
        request = {"allocations": {"new": {"resources": {"FPGA": 1}}}, "mappings": {"1": ["new"]}}
        answer(
            200,
            {
                "allocation_requests": [] if there else [request],
                "provider_summaries": {} if there else {"new": summary},
            },
        )(connection)

    server.replies["GET /allocation_candidates"] = candidates
    request = ResourceRequest(REQUEST.groups, hosts=("h",))
    server.replies["GET /resource_providers"] = root("old")
    assert not placement.candidates(request).candidates
    server.replies["GET /resource_providers"] = root("new")
    assert placement.candidates(request).roots == {"new"}


def test_connections_are_kept_and_shared(server: Placement, placement: HttpPlacement) -> None:
    server.replies[f"GET {P}/allocations"] = answer(200, USAGE)
    server.replies[f"PUT {P}/traits"] = error(409, "placement.concurrent_update")
    for _ in range(5):
        placement.usage("u")
        raised(lambda: CALLS["put_traits"][1](placement))
    assert server.connections == 1
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: placement.usage("u"), range(40)))
    assert server.connections <= 5
    assert placement.calls["usage"] == 45


# --- Keystone ---------------------------------------------------------------------------------


def token(server: Placement, *services: str) -> Reply:
    """A token whose catalog names the services, all at this server's ``/there``."""
    endpoint = {"url": f"{server.url}/there", "interface": "public", "region_id": "R"}
    catalog = [{"type": kind, "name": kind, "endpoints": [endpoint]} for kind in services]
    body = {
        "token": {
            "methods": ["password"],
            "expires_at": "2999-01-01T00:00:00.000000Z",
            "user": {"id": "u", "name": "u", "domain": {"id": "default", "name": "Default"}},
            "catalog": catalog,
        }
    }

    def reply(connection: socket.socket) -> None:
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 201 X\r\nX-Subject-Token: secret\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)

    return reply


@pytest.fixture
def cloud(
    server: Placement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HttpPlacement]:
    """A cloud of clouds.yaml whose Keystone and Placement are the server."""
    auth = {
        "auth_url": f"{server.url}/v3", "username": "u", "password": "p", "project_name": "p",
        "user_domain_name": "Default", "project_domain_name": "Default",
    }  # fmt: skip
    clouds = {"clouds": {"c": {"auth_type": "v3password", "auth": auth, "region_name": "R"}}}
    (tmp_path / "clouds.yaml").write_text(json.dumps(clouds))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    server.replies["GET /there/"] = answer(200, VERSIONS)
    server.replies[f"GET /there{P}/allocations"] = answer(200, USAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # openstacksdk, of itself
        placement = HttpPlacement.from_cloud("c", timeouts=FAST)
    yield placement
    placement.close()


def test_cloud_of_clouds_yaml(server: Placement, cloud: HttpPlacement) -> None:
    server.replies["POST /v3/auth/tokens"] = token(server, "placement")
    for _ in range(2):
        assert cloud.usage("u").idle
    assert server.asked["POST /v3/auth/tokens"] == 1
    assert "X-Auth-Token: secret\r\n" in server.heads[-1]


def test_token_that_ran_out_is_fetched_anew(server: Placement, cloud: HttpPlacement) -> None:
    server.replies["POST /v3/auth/tokens"] = token(server, "placement")
    assert cloud.usage("u").idle
    call = f"PUT /there{P}/traits"
    replies = [error(401), answer(200, {"resource_provider_generation": 2, "traits": []})]

    def in_turn(connection: socket.socket) -> None:
        replies.pop(0)(connection)

    server.replies[call] = in_turn
    assert cloud.put_traits("u", 1, []) == 2
    assert server.asked["POST /v3/auth/tokens"] == 2


@pytest.mark.parametrize(
    ("keystone", "kind"),
    [(error(401), AskOperator), (error(403), AskOperator), (error(503), Unreachable),
     (hang_up, Unreachable), (error(404), AskOperator), (error(429), Unreachable),
     (silence, Unreachable)],
)  # fmt: skip
def test_keystone_fails_before_anything_is_sent(
    server: Placement, cloud: HttpPlacement, keystone: Reply, kind: type
) -> None:
    server.replies["POST /v3/auth/tokens"] = keystone
    assert type(raised(lambda: cloud.put_traits("u", 1, []))) is kind
    assert not [call for call in server.asked if "there" in call]


def test_catalog_without_placement(server: Placement, cloud: HttpPlacement) -> None:
    server.replies["POST /v3/auth/tokens"] = token(server, "compute")
    said = raised(lambda: cloud.usage("u"))
    assert type(said) is AskOperator
    assert "placement" in said.message


def test_cloud_that_nobody_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    assert type(raised(lambda: HttpPlacement.from_cloud(f"no-such-cloud-{uuid4()}"))) is AskOperator
