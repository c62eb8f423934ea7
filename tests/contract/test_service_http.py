"""What proves that a call was not sent, and what only looks like it: TLS, redirects, proxies."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from certificates import self_signed

from changeover.models.errors import (
    AskOperator,
    ChangeoverError,
    Garbled,
    OutcomeUnknown,
    Unreachable,
)
from changeover.worker.adapters.service_http import HttpService, Method, Timeouts, failure

FAST = Timeouts(connect=1.0, read=1.0, total=2.0)

Talk = Callable[[socket.socket, ssl.SSLContext], None]


@contextmanager
def listening(talk: Talk, context: ssl.SSLContext) -> Iterator[int]:
    """A port on which each connection is ``talk``'s."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            raw.settimeout(5.0)
            with raw, suppress(OSError):
                talk(raw, context)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def service_at(url: str, verify: str | None = None) -> HttpService:
    service = HttpService.noauth("Nova", "compute", url, token="t", timeouts=FAST)  # noqa: S106 - none
    if verify is not None:
        service._adapter.session.verify = verify
    return service


def raised(service: HttpService, method: Method) -> ChangeoverError:
    try:
        with pytest.raises(ChangeoverError) as caught:
            service.request(method, "/servers", body=None if method == "GET" else {})
        return caught.value
    finally:
        service.close()


def _request_of(stream: ssl.SSLSocket | socket.socket) -> bytes:
    taken = b""
    while b"\r\n\r\n" not in taken:
        piece = stream.recv(4096)
        if not piece:
            raise OSError("hung up")
        taken += piece
    return taken


def test_tls_that_breaks_after_the_request_proves_nothing(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    heard: list[bytes] = []

    def breaks(raw: socket.socket, context: ssl.SSLContext) -> None:
        # The server's bytes without their TLS: as a proxy that dies in the middle of a record.
        with socket.socket(fileno=socket.dup(raw.fileno())) as beside:
            tls = context.wrap_socket(raw, server_side=True)
            heard.append(_request_of(tls))
            beside.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            tls.close()

    with listening(breaks, context) as port:
        url = f"https://127.0.0.1:{port}"
        said = raised(service_at(url, str(certificate)), "POST")
        assert heard[0].startswith(b"POST /servers ")
        assert type(said) is OutcomeUnknown, said
        # A certificate that is refused is refused before anything is sent.
        heard.clear()
        assert type(raised(service_at(url), "POST")) is AskOperator
        assert heard == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_write_is_not_sent_once_more_to_wherever_it_says(status: int) -> None:
    heard: list[bytes] = []

    def sends_on(raw: socket.socket, _: ssl.SSLContext) -> None:
        heard.append(_request_of(raw))
        where = "http://{}:{}/elsewhere".format(*raw.getsockname())
        head = f"HTTP/1.1 {status} X\r\nLocation: {where}\r\nContent-Length: 0\r\n"
        raw.sendall(f"{head}Connection: close\r\n\r\n".encode())

    with listening(sends_on, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as port:
        service = service_at(f"http://127.0.0.1:{port}")
        answer = service.request("POST", "/servers", body={})
        said = failure(answer)
        assert type(said) is OutcomeUnknown
        assert "/elsewhere" in said.message
        assert len(heard) == 1
        heard.clear()
        # A read is: as often as makes sense.
        assert type(failure(service.request("GET", "/servers"))) is Garbled
        assert len(heard) == 6
        service.close()


def test_a_proxys_time_out_says_nothing_of_the_service() -> None:
    def late(raw: socket.socket, _: ssl.SSLContext) -> None:
        _request_of(raw)
        raw.sendall(b"HTTP/1.1 408 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with listening(late, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as port:
        service = service_at(f"http://127.0.0.1:{port}")
        assert type(failure(service.request("GET", "/servers"))) is Unreachable
        assert type(failure(service.request("POST", "/servers", body={}))) is OutcomeUnknown
        service.close()
