"""Senders and their broker: a connection that the broker dropped is made anew at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from changeover.worker.celery_app import make_app
from changeover.worker.queues import PLAN_QUEUE
from changeover.worker.settings import Settings


class Proxy:
    """Passes connections on, until they are cut as a broker that restarts cuts them."""

    def __init__(self, port: int) -> None:
        self.to = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.to))
                self.sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        for one in self.sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.close()
        self.cut()
        for one in self.sockets:
            one.close()


@contextmanager
def proxied(url: str) -> Iterator[tuple[Proxy, str]]:
    port = urlsplit(url).port
    assert port is not None
    proxy = Proxy(port)
    try:
        yield proxy, url.replace(f":{port}", f":{proxy.port}", 1)
    finally:
        proxy.close()


@pytest.mark.parametrize("broker", ["rabbitmq_url", "redis_url"])
def test_what_sends_goes_on_after_its_connection_was_cut(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Beat keeps one producer for ever; it must not keep a dead connection with it."""
    with proxied(request.getfixturevalue(broker)) as (proxy, url):
        app = make_app(Settings(state_dir=tmp_path, broker_url=SecretStr(url)))
        connection = app.connection_for_write()
        beat = app.amqp.Producer(connection, auto_declare=False)
        with app.connection_for_read() as mine, mine.SimpleQueue(PLAN_QUEUE) as queue:
            queue.clear()
        sent = 0
        for _ in range(3):
            for producer in (beat, None):
                app.send_task("t", producer=producer, queue=PLAN_QUEUE, ignore_result=True)
                sent += 1
            proxy.cut()
        with app.connection_for_read() as mine, mine.SimpleQueue(PLAN_QUEUE) as queue:
            for _ in range(sent):
                queue.get(timeout=30).ack()
        connection.close()
        app.close()
