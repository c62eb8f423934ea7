"""Callbacks over HTTP: one connection, one request, no redirects, no proxies, bounded all over.

What a receiver answers is of no interest but for its status: at most its first bytes are read,
to tell an operator why it refuses.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from changeover.models.errors import Unreachable

TOTAL_SECONDS = 15.0
"""From the connection to the last byte read; a receiver that drips is cut off then."""

ANSWER_BYTES = 512


class HttpWebhook:
    """The port ``Webhook``. ``timeout``: seconds for connecting, and for each answer's part."""

    def __init__(self, timeout: float = 10.0, total: float = TOTAL_SECONDS) -> None:
        self._timeout = timeout
        self._total = total
        self._tls = ssl.create_default_context()

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """See :class:`~changeover.worker.ports.webhook.Webhook`."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                host, parts.port, timeout=self._timeout, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=self._timeout)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            status, said = self._exchange(connection, path, headers, body)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise Unreachable(f"no answer: {type(exc).__name__}: {exc}"[:300]) from exc
        finally:
            connection.close()
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            raise Unreachable(f"answered {status}: redirects are not followed, set the final URL")
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise Unreachable(f"answered {status}: {said}"[:300])

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> tuple[int, str]:
        raw = socket.create_connection((connection.host, connection.port), self._timeout)
        connection.sock = raw
        if isinstance(connection, http.client.HTTPSConnection):
            connection.sock = raw = self._tls.wrap_socket(
                raw, server_hostname=connection.host, do_handshake_on_connect=False
            )
        # Timeouts of a socket are for each read: only this bounds the whole.
        late = threading.Event()
        cut = threading.Timer(self._total, _cut, [raw, late])
        cut.daemon = True
        cut.start()
        try:
            if isinstance(raw, ssl.SSLSocket):
                raw.do_handshake()
            connection.request("POST", path, body, dict(headers))
            # Closed here: where the receiver closes, the connection lets go of its answer.
            with connection.getresponse() as answer:
                good = HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES
                said = b"" if good else answer.read(ANSWER_BYTES)
        finally:
            cut.cancel()
        if late.is_set():  # an answer that was cut off may still look like one
            raise TimeoutError(f"not over within {self._total:g} s")
        return answer.status, " ".join(said.decode("utf-8", "replace").split())


def _cut(raw: socket.socket, late: threading.Event) -> None:
    late.set()
    try:
        raw.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended by itself
