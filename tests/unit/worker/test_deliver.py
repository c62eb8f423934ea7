"""Callbacks are signed, sent at least once, tried again later, and given up where all can see."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from certificates import self_signed

from changeover.models.boot import Boot
from changeover.models.callback import Callback
from changeover.models.errors import Invalid, Retry, Unreachable
from changeover.models.placement import RequestGroup, ResourceRequest
from changeover.models.reasons import Reason
from changeover.models.states import BootState, CallbackState
from changeover.models.tables import Base
from changeover.worker import deliver as deliver_module
from changeover.worker.adapters.webhook_http import HttpWebhook
from changeover.worker.deliver import deliver
from changeover.worker.settings import Settings, as_environment, load_settings
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.store import Database
from changeover.worker.sweep import sweep
from changeover.worker.world import World

SECRET = "correct horse battery staple"  # noqa: S105 - of this test alone
DOCUMENT = Path(__file__).parents[3] / "docs" / "callbacks.md"
TARGETS = {"default": {"url": "http://127.0.0.1:9/", "key_id": "k1", "secret": SECRET}}


def documented_verify() -> Callable[..., None]:
    """The example of the documentation, as it stands there."""
    [example] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, Any] = {}
    exec(example, found)  # noqa: S102 - our own document, so that it stays true
    return cast("Callable[..., None]", found["verify"])


@dataclass
class Receiver:
    """A real HTTP server; ``answers`` are taken one after the other, then 204."""

    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?x=1"

    @property
    def ids(self) -> list[str]:
        return [json.loads(body)["id"] for _, _, body in self.got]


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append((self.path, dict(self.headers), body))
            status, headers, said = receiver.answers.pop(0) if receiver.answers else (204, {}, b"")
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # whoever had enough is gone
                self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    receiver.port = server.server_port
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


class Told:
    """A database with boots that end, and a worker that delivers."""

    def __init__(self, targets: dict[str, Any], **settings: Any) -> None:
        self.clock = VirtualClock()
        self.settings = Settings(callbacks=targets, **settings)
        self.database = Database("sqlite://", self.settings.callback_target)
        Base.metadata.create_all(self.database.engine)
        self.hints: list[Any] = []
        self.database.courier = self.hints.extend

    def world(self, owner: str = "one") -> World:
        return World(
            database=self.database,
            placement=cast("Any", None),
            servers=cast("Any", None),
            programmers={},
            clock=self.clock,
            catalog=cast("Any", None),
            settings=self.settings,
            owner=owner,
        )

    def end(self, state: BootState = BootState.DECLINED, project: str = "p") -> Boot:
        request = ResourceRequest(groups=(RequestGroup(resources={"CUSTOM_FPGA": 1}),))
        now = self.clock.now()
        boot = Boot(
            id=str(uuid4()), server=str(uuid4()), project=project, user="u", name="fpga.aes",
            group_id="g", request=request, request_key=request.key, device_profile=None,
            state=BootState.RECEIVED, reason=Reason("a", "b"), priority=1.0, failed_at=now,
            received_at=now, expires_at=now + 60, wake_at=now, attempt=0,
        )  # fmt: skip
        with self.database.write() as tx:
            assert tx.boots.add(boot)
            return tx.boots.move(boot, state, now, reason=Reason("test.why", "because"))

    def deliver(self, target: str = "default") -> int:
        return deliver(self.world(), HttpWebhook(2.0, 2.0), target)

    def rows(self) -> list[Callback]:
        with self.database.read() as tx:
            return list(reversed(tx.callbacks.listed()))


@pytest.fixture
def told(receiver: Receiver) -> Iterator[Told]:
    made = Told({"default": {**TARGETS["default"], "url": receiver.url}}, callback_tries=3)
    yield made
    made.database.dispose()


# ---------------------------------------------------------------- what is sent


def test_a_callback_is_a_signed_cloud_event(told: Told, receiver: Receiver) -> None:
    boot = told.end(BootState.EXPIRED)
    assert told.deliver() == 1
    [(path, headers, body)] = receiver.got
    assert path == "/hook?x=1"
    assert headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    event = json.loads(body)
    [row] = told.rows()
    assert row.state is CallbackState.DELIVERED
    assert {k: event[k] for k in ("specversion", "id", "source", "type", "subject")} == {
        "specversion": "1.0",
        "id": row.id,
        "source": "/changeover/embedded",
        "type": "changeover.boot.expired",
        "subject": boot.id,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
    assert event["data"]["server"] == boot.server
    assert event["data"]["reason"] == {"code": "test.why", "text": "because"}
    verify = documented_verify()
    header, keys, any_age = headers["Changeover-Signature"], {"k1": SECRET.encode()}, 1e12
    verify(header, body, keys, any_age)
    with pytest.raises(ValueError, match="wrong"):
        verify(header, body + b" ", keys, any_age)
    with pytest.raises(ValueError, match="wrong"):
        verify(header.replace("t=", "t=1"), body, keys, any_age)
    with pytest.raises(ValueError, match="wrong"):
        verify(header, body, {"k1": b"another key altogether"}, any_age)
    with pytest.raises(KeyError):
        verify(header, body, {}, any_age)


def test_an_old_signature_is_refused_by_the_documented_example(
    told: Told, receiver: Receiver
) -> None:
    told.end()
    told.deliver()  # in virtual time, long ago
    [(_, headers, body)] = receiver.got
    with pytest.raises(ValueError, match="too old"):
        documented_verify()(headers["Changeover-Signature"], body, {"k1": SECRET.encode()})


def test_each_project_has_its_own_target(receiver: Receiver) -> None:
    with receiving() as own:
        targets = {
            "default": {**TARGETS["default"], "url": receiver.url},
            "mine": {"url": own.url, "key_id": "m", "secret": "another secret, long"},
        }
        told = Told(targets)
        told.end(project="mine")
        told.end(project="else")
        assert [told.deliver("mine"), told.deliver("default")] == [1, 1]
        assert len(own.got) == len(receiver.got) == 1
        assert "kid=m," in own.got[0][1]["Changeover-Signature"]
        told.database.dispose()


# ---------------------------------------------------------------- delivery


def test_what_fails_is_sent_again_later_and_the_same(told: Told, receiver: Receiver) -> None:
    receiver.answers = [(503, {}, b"busy\x1b[31m"), (500, {}, b"")]
    told.end()
    assert told.deliver() == 0
    [row] = told.rows()
    assert (row.state, row.tries) == (CallbackState.PENDING, 1)
    assert (row.error or "").startswith("answered 503: busy")
    first = row.due_at - told.clock.now()
    assert 1.0 <= first <= 2.0
    assert told.deliver() == 0
    assert len(receiver.got) == 1, "not before it is due"
    told.clock.advance(first)
    assert told.deliver() == 0
    [row] = told.rows()
    assert row.due_at - told.clock.now() > first
    told.clock.advance(10.0)
    assert told.deliver() == 1
    assert len({body for _, _, body in receiver.got}) == 1
    assert len({h["Changeover-Signature"] for _, h, _ in receiver.got}) == 3, "signed at sending"
    [row] = told.rows()
    assert (row.state, row.tries, row.error) == (CallbackState.DELIVERED, 3, None)


def test_it_is_given_up_visibly_and_sent_again_when_asked(told: Told, receiver: Receiver) -> None:
    receiver.answers = [(404, {}, b"no")] * 3
    told.end()
    for _ in range(5):
        told.deliver()
        told.clock.advance(1000.0)
    [row] = told.rows()
    assert (row.state, row.tries, len(receiver.got)) == (CallbackState.DEAD, 3, 3)
    with told.database.write() as tx:
        assert tx.callbacks.retry(told.clock.now(), row.id) == 1
    assert told.deliver() == 1
    assert len(set(receiver.ids)) == 1
    assert told.rows()[0].state is CallbackState.DELIVERED


def test_one_that_fails_does_not_hold_up_the_next(told: Told, receiver: Receiver) -> None:
    receiver.answers = [(500, {}, b"")]
    told.end()
    told.clock.advance(0.001)
    told.end()
    assert told.deliver() == 1
    assert [row.state for row in told.rows()] == [CallbackState.PENDING, CallbackState.DELIVERED]


def test_a_sender_that_dies_after_sending_sends_again(told: Told, receiver: Receiver) -> None:
    """At least once: what was sent and not noted is sent again, under the same id."""
    told.end()

    class Dies(HttpWebhook):
        def post(self, *args: Any) -> None:
            super().post(*args)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deliver(told.world(), Dies(2.0), "default")
    assert told.deliver() == 1
    assert len(receiver.got) == 2
    assert len(set(receiver.ids)) == 1


def test_one_process_at_a_time_sends_to_a_target(told: Told, receiver: Receiver) -> None:
    told.end()
    inner: list[int] = []

    class Meets(HttpWebhook):
        def post(self, *args: Any) -> None:
            inner.append(deliver(told.world("another"), self, "default"))
            super().post(*args)

    assert deliver(told.world(), Meets(2.0), "default") == 1
    assert inner == [0]
    assert len(receiver.got) == 1


def test_a_lost_hint_is_made_up_for(told: Told, receiver: Receiver) -> None:
    told.end()
    with told.database.write() as tx:
        tx.callbacks.take_hint("default")
    told.hints.clear()
    told.clock.advance(10.0)
    world = told.world()
    sweep(
        World(**{**{f: getattr(world, f) for f in world.__dataclass_fields__},
                 "servers": _NoServers(), "catalog": _NoDevices()})
    )  # fmt: skip
    assert ("changeover.deliver", ("default",)) in [(h.task, h.args) for h in told.hints]
    assert told.deliver() == 1
    assert receiver.got


class _NoServers:
    def failed_since(self, since: float) -> list[Any]:  # noqa: ARG002 - the port's signature
        return []


class _NoDevices:
    devices = ()
    pools: dict[str, Any] = {}  # noqa: RUF012 - a stand-in


def test_a_task_stops_after_its_budget_and_leaves_a_hint(
    told: Told, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        told.end()
        told.clock.advance(0.001)
    monkeypatch.setattr(deliver_module, "BUDGET_SECONDS", 5.0)

    class Slow(HttpWebhook):
        def post(self, *args: Any) -> None:
            super().post(*args)
            told.clock.advance(3.0)

    told.hints.clear()
    assert deliver(told.world(), Slow(2.0), "default") == 2
    assert [h.args for h in told.hints] == [("default",)]
    assert len(receiver.got) == 2


def test_a_target_that_is_gone_and_a_secret_that_cannot_be_read(
    told: Told, receiver: Receiver, tmp_path: Path
) -> None:
    told.end()
    told.settings = Settings(
        callbacks={"default": {"url": receiver.url, "secret_file": str(tmp_path / "key")}}
    )
    told.deliver()
    assert "secret_file" in (told.rows()[0].error or "")
    (tmp_path / "key").write_text("short\n", encoding="utf-8")
    told.clock.advance(60.0)
    told.deliver()
    assert "fewer than 16" in (told.rows()[0].error or "")
    (tmp_path / "key").write_text(SECRET + "\n", encoding="utf-8")
    told.clock.advance(60.0)
    assert told.deliver() == 1
    _, headers, body = receiver.got[0]
    documented_verify()(headers["Changeover-Signature"], body, {"1": SECRET.encode()}, 1e12)
    told.settings = Settings()
    told.end()
    assert told.rows()[-1].state is CallbackState.PENDING, "told under the settings of before"
    told.deliver()
    assert told.rows()[-1].state is CallbackState.DEAD


# ---------------------------------------------------------------- the wire


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    with receiving() as inner:
        receiver.answers = [(302, {"Location": inner.url}, b"")]
        with pytest.raises(Unreachable, match="redirects are not followed"):
            HttpWebhook(2.0).post(receiver.url, {}, b"{}")
        assert inner.got == []


def test_a_receiver_that_drips_is_cut_off() -> None:
    """Each byte comes in time, the answer never ends: only a bound on the whole helps."""
    listening = socket.create_server(("127.0.0.1", 0))
    cut = threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not cut.wait(0.01):
                connection.sendall(b"y")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    with pytest.raises(Unreachable):
        HttpWebhook(30.0, 0.3).post(url, {}, b"{}")
    cut.set()
    thread.join(10)
    listening.close()


def test_of_a_huge_answer_only_the_beginning_is_read(receiver: Receiver) -> None:
    receiver.answers = [(400, {}, b"y" * 5_000_000)]
    with pytest.raises(Retry) as caught:
        HttpWebhook(2.0).post(receiver.url, {}, b"{}")
    assert len(caught.value.message) <= 300


def test_nobody_answers() -> None:
    with pytest.raises(Unreachable, match="ConnectionRefusedError"):
        HttpWebhook(2.0).post("http://127.0.0.1:1/", {}, b"{}")


def test_a_receiver_that_drips_its_certificate_is_cut_off() -> None:
    told_all: list[bool] = []

    def drip(raw: socket.socket) -> None:
        with raw, suppress(OSError):
            raw.sendall(b"\x16\x03\x03\x40\x00")  # a record of TLS that takes an hour to come
            for _ in range(100):
                raw.sendall(b"x")
                time.sleep(0.05)
            told_all.append(True)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: drip(listener.accept()[0]))
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(Unreachable):
            HttpWebhook(5.0, total=0.3).post(f"https://127.0.0.1:{port}/", {}, b"{}")
        thread.join()
    assert not told_all, "it was the receiver that ended it"


def test_certificates_are_checked(tmp_path: Path) -> None:
    trustme = self_signed(tmp_path)
    with receiving_tls(trustme) as port, pytest.raises(Unreachable, match="CERTIFICATE_VERIFY"):
        HttpWebhook(2.0).post(f"https://127.0.0.1:{port}/", {}, b"{}")


@contextmanager
def receiving_tls(certificate: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        raw, _ = listening.accept()
        with raw:
            try:
                context.wrap_socket(raw, server_side=True).close()
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    thread.join(5)
    listening.close()


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"url": "http://hooks.example.org/"}, "must be https"),
        ({"url": "http://10.0.0.1/"}, "must be https"),
        ({"url": "ftp://h/"}, "must be https"),
        ({"url": "https:///path"}, "must be https"),
        ({"url": "https://u:hunter2hunter2@h/"}, "no user"),
        ({"url": "https://h/#x"}, "fragment"),
        ({"url": "https://h/a b"}, "no blanks"),
        ({"url": "https://h/\r\nX: y"}, "no blanks"),
        ({"url": "https://h:x/"}, "ort"),
        ({"url": "https://h/", "secret": "short"}, "at least 16"),
        ({"url": "https://h/", "secret": None}, "secret or a secret_file"),
        ({"url": "https://h/", "secret_file": "/f"}, "secret or a secret_file"),
        ({"url": "https://h/", "key_id": "a,b"}, "key_id"),
        ({"url": "https://h/", "extra": 1}, "extra"),
    ],
)
def test_targets_that_are_refused(target: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said) as caught:
        load_settings(callbacks={"default": {"secret": SECRET, **target}})
    assert "hunter2" not in caught.value.message
    assert SECRET not in caught.value.message


def test_targets_that_are_allowed_and_never_show_their_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    targets = {
        "default": {"url": "https://h/x", "secret": SECRET},
        "a": {"url": "http://localhost:1/", "secret": SECRET},
        "b": {"url": "http://[::1]/", "secret": SECRET},
        "c": {"url": "http://h/", "secret": SECRET, "allow_http": True},
    }
    settings = Settings(callbacks=targets)
    assert SECRET not in repr(settings)
    assert SECRET not in settings.model_dump_json()
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings().callbacks == settings.callbacks, "processes of `changeover up` need it"
    assert settings.callback_target("a") == "a"
    assert settings.callback_target("z") == "default"
    with pytest.raises(Invalid, match="callbacks"):
        load_settings(callbacks={"no/name": targets["default"]})
