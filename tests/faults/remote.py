"""Remote services that misbehave: Placement behind a bad proxy, cards and servers with faults."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from faults.rig import drain, loaded, rigged
from faults.table import Row

from changeover.worker.embedded.placement_service import start_placement
from changeover.worker.simulator.cards import Behaviour, Fault, FaultKind
from changeover.worker.simulator.servers import ServersFault

RATES = {
    "slow": 0.03, "500": 0.02, "503": 0.02, "reset": 0.01, "lost": 0.02, "garbage": 0.02,
}  # fmt: skip
"""Share of requests that meet each fault. ``lost``: done, but the answer never arrives."""


class Proxy(ThreadingHTTPServer):
    """Passes requests on to Placement, and now and then does not."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, upstream: int, seed: int) -> None:
        self.upstream = upstream
        self.chance = Random(seed)
        self.rates: dict[str, float] = {}
        self.done = Counter[str]()
        self.local = threading.local()
        super().__init__(("127.0.0.1", 0), Handler)

    def draw(self) -> str:
        """Which fault the next request meets, if any."""
        value = self.chance.random()
        for kind, rate in self.rates.items():
            value -= rate
            if value < 0:
                self.done[kind] += 1
                return kind
        return ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""


class Handler(BaseHTTPRequestHandler):
    """One client's connection."""

    protocol_version = "HTTP/1.1"
    server: Proxy
    upstream: http.client.HTTPConnection | None = None
    hop: ClassVar[frozenset[str]] = frozenset({"connection", "transfer-encoding", "server", "date"})

    def handle_any(self) -> None:
        """Pass on, or misbehave."""
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length) if length else None
        # Claims are the simulated Nova's own, and what it notes of them must be believed.
        fault = "" if self.path.startswith("/allocations/") else self.server.draw()
        if fault == "slow":
            time.sleep(0.5 + 7.0 * self.server.chance.random())
        if fault in {"500", "503"}:
            self._answer(int(fault), b"no", {})
            return
        if fault == "reset":
            self._hang_up()
            return
        status, headers, answer = self._forward(body)
        if fault == "lost":
            self._hang_up()
        elif fault == "garbage":
            self._answer(status, b'{"resource_providers": 7, "<html>', {})
        else:
            self._answer(status, answer, headers)

    do_GET = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - the library's names

    def _forward(self, body: bytes | None) -> tuple[int, dict[str, str], bytes]:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in self.hop}
        for attempt in (1, 2):
            if self.upstream is None:
                self.upstream = http.client.HTTPConnection(
                    "127.0.0.1", self.server.upstream, timeout=30
                )
            try:
                self.upstream.request(self.command, self.path, body, headers)
                answer = self.upstream.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            except (OSError, http.client.HTTPException):
                self.upstream.close()
                self.upstream = None
                if attempt == 2 or self.command != "GET":
                    break
        return 503, {}, b"the proxy lost its upstream"

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in self.hop | {"content-length"}:
                self.send_header(name, value)
        if status != http.HTTPStatus.NO_CONTENT:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if status != http.HTTPStatus.NO_CONTENT:
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@contextmanager
def proxied(upstream: int, seed: int) -> Iterator[Proxy]:
    """A proxy on a free port of loopback; it behaves until it is given rates."""
    proxy = Proxy(upstream, seed)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


CARD_FAULTS = (
    FaultKind.FAIL, FaultKind.HANG, FaultKind.KILL, FaultKind.WRONG_FUNCTION, FaultKind.LATE,
    FaultKind.FAIL_AFTER_SUCCESS, FaultKind.SUCCESS_AFTER_FAILURE, FaultKind.DIE,
    FaultKind.CORRUPT,
)  # fmt: skip
SERVER_FAULTS = (
    ServersFault.CREATE_LOST, ServersFault.CREATE_DONE, ServersFault.CREATE_LATE,
    ServersFault.DELETE_DONE, ServersFault.CELL_DOWN, ServersFault.QUOTA, ServersFault.API_DOWN,
)  # fmt: skip


def placement(home: Path, *, seconds: float, seed: int = 6, **settings: Any) -> Row:
    """Placement slow, failing, resetting, lying, while boots fail and devices change."""
    row, started = Row("remote placement"), time.monotonic()
    with (
        start_placement(home / "placement") as service,
        proxied(service.port, seed) as proxy,
        rigged(
            home / "state",
            users_endpoint=service.url,
            placement_endpoint=f"http://127.0.0.1:{proxy.server_address[1]}",
            placement_database=f"sqlite:///{home / 'placement' / 'placement.sqlite'}",
            request_timeout_seconds=3.0,
            **settings,
        ) as rig,
    ):
        with loaded(rig, seed=seed) as load:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                proxy.rates = RATES
                time.sleep(5.0)
                proxy.rates = {"503": 1.0} if proxy.chance.random() < 0.3 else {}
                time.sleep(1.5)
        proxy.rates = {}
        ended = time.monotonic()
        if not drain(rig, load, 150.0):
            row.fails(f"{rig.unfinished()} boots or changeovers never ended")
        row.slowest = time.monotonic() - ended
        row.rounds, row.faults = load.booted, proxy.done.total()
        row.facts |= dict(proxy.done)
        row.note = ", ".join(f"{k} {n}" for k, n in sorted(proxy.done.items()))
        row.judged(rig.verdict())
    row.took = time.monotonic() - started
    return row


def cards_and_servers(home: Path, *, seconds: float, seed: int = 7, **settings: Any) -> Row:
    """Every fault of cards and of Nova's API in turn, several at once."""
    from faults.kills import release  # noqa: PLC0415 - both are sections

    row, started = Row("remote cards and nova"), time.monotonic()
    chance = Random(seed)
    done = Counter[str]()
    with rigged(home, behaviour=Behaviour(scale=0.02), **settings) as rig:
        with loaded(rig, seed=seed) as load:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                kind = CARD_FAULTS[done.total() % len(CARD_FAULTS)]
                rig.cards.inject(Fault(kind, other="sha3", seconds=1.5))
                done[kind.value] += 1
                trouble = SERVER_FAULTS[done.total() % len(SERVER_FAULTS)]
                rig.servers.inject(trouble, times=chance.choice((1, 1, 3)), seconds=1.0)
                done[trouble.value] += 1
                time.sleep(0.4 + 1.2 * chance.random())
                release(rig)
        rig.cards.clear_faults()
        rig.servers.clear_faults()
        ended = time.monotonic()
        if not drain(rig, load, 200.0, also=lambda: release(rig)):
            row.fails(f"{rig.unfinished()} boots or changeovers never ended")
        row.slowest = time.monotonic() - ended
        row.rounds, row.faults = load.booted, done.total()
        row.facts |= dict(done)
        row.note = f"{len(done)} kinds"
        row.judged(rig.verdict())
    row.took = time.monotonic() - started
    return row
