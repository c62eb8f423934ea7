"""The listener: Nova's versioned notifications, from a queue of our own, into the intake.

Messages are acknowledged after the commit that stores them. What is waiting on the queue is
taken together and committed together, so that a storm costs one commit for many.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from kombu import Connection, Consumer, Exchange, Queue
from kombu.message import Message
from kombu.transport.virtual import Channel as PullingChannel

from changeover.models.errors import Retry
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.bootstrap import notification_url, open_database
from changeover.worker.celery_app import make_app
from changeover.worker.courier import Courier
from changeover.worker.intake import Intake
from changeover.worker.logs import configure_logs
from changeover.worker.settings import Settings, load_settings

log = structlog.get_logger(__name__)

QUEUE = "changeover.notifications"
AT_ONCE = 200
"""Messages committed together at most."""

IDLE_SECONDS = 1.0
REST_SECONDS = 0.002
"""How long to wait for a further message that may be on its way already."""

RECONNECT_SECONDS = 1.0
VISIBILITY_SECONDS = 30
"""On Redis: what a killed listener had taken comes back after so long."""

BEAT_SECONDS = 5.0
DECLARE_SECONDS = 5.0
"""How often the queue is bound anew: a broker that was emptied forgets that it ever was."""


def notification_queue(settings: Settings) -> Queue:
    """Our own durable queue, bound to Nova's exchange for versioned notifications alone.

    The legacy ones carry their tenant's token; nothing here ever binds to them.
    """
    exchange = Exchange(
        settings.notification_exchange,
        type="topic",
        durable=settings.notification_exchange_durable,
    )
    bindings = [exchange.binding(f"{topic}.#") for topic in settings.notification_topics]
    return Queue(QUEUE, bindings=bindings, durable=True)


class Listener:
    """Consumes until it is stopped; reconnects for ever."""

    def __init__(
        self, url: str, queue: Queue, intake: Intake, on_alive: Callable[[], None]
    ) -> None:
        self.url = url
        self.queue = queue
        self.intake = intake
        self.on_alive = on_alive
        self.waiting: list[Message] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        """Consume until :attr:`stopping` is set."""
        while not self.stopping.is_set():
            try:
                self._consume()
            except Retry as exc:
                # Nothing was acknowledged: closing the connection gives it all back.
                log.warning("listener.database_silent", why=exc.message)
            except self._connection_errors() as exc:
                log.warning("listener.broker_silent", error=type(exc).__name__, why=str(exc))
            finally:
                self.waiting.clear()
            self.stopping.wait(RECONNECT_SECONDS)

    def _connect(self) -> Connection:
        redis = self.url.startswith(("redis", "rediss", "sentinel"))
        options = {"visibility_timeout": VISIBILITY_SECONDS} if redis else {}
        heartbeat = 0 if redis else 30
        return Connection(
            self.url, heartbeat=heartbeat, connect_timeout=3, transport_options=options
        )

    def _connection_errors(self) -> tuple[type[Exception], ...]:
        connection = Connection(self.url)
        return (*connection.connection_errors, *connection.channel_errors, OSError)

    def _consume(self) -> None:
        with self._connect() as connection:
            connection.ensure_connection(max_retries=1, timeout=3)
            channel = connection.channel()
            with Consumer(
                channel,
                queues=[self.queue],
                on_message=self.waiting.append,
                prefetch_count=AT_ONCE,
            ):
                log.info("listener.listening", queue=self.queue.name)
                # Where messages are pulled one by one anyway, asking for the next is quicker than
                # to wait for it to be delivered.
                pull = self.queue(channel).get if isinstance(channel, PullingChannel) else None
                bound = self.queue(channel)
                declared = time.monotonic()
                while not self.stopping.is_set():
                    self._drain(connection, pull)
                    self._flush()
                    self.on_alive()
                    if time.monotonic() - declared >= DECLARE_SECONDS:
                        bound.declare()
                        declared = time.monotonic()
                    if connection.heartbeat:
                        connection.heartbeat_check()

    def _drain(self, connection: Connection, pull: Callable[[], Message | None] | None) -> None:
        """Wait for a message, then take what else is there."""
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=IDLE_SECONDS)
            while len(self.waiting) < AT_ONCE:
                if pull is None:
                    connection.drain_events(timeout=REST_SECONDS)
                elif (message := pull()) is not None:
                    self.waiting.append(message)
                else:
                    break

    def _flush(self) -> None:
        if not self.waiting:
            return
        self.intake.accept_all([_body(m) for m in self.waiting], source="listener")
        for message in self.waiting:
            message.ack()
        self.waiting.clear()


def _body(message: Message) -> bytes | str:
    body: Any = message.body
    return body if isinstance(body, (bytes, str)) else bytes(body)


def run(settings: Settings) -> None:
    """Listen until SIGTERM or SIGINT; what was taken is stored first."""
    configure_logs(settings)
    url, clock = notification_url(settings), SystemClock()
    database = open_database(settings)
    database.courier = Courier(make_app(settings), clock)
    process = f"listener:{socket.gethostname()}:{os.getpid()}"
    last = 0.0

    def alive() -> None:
        nonlocal last
        now = clock.now()
        if now - last >= BEAT_SECONDS:
            with database.write() as tx:
                tx.switches.beat(process, "listener", now)
            last = now

    listener = Listener(url, notification_queue(settings), Intake(database, clock, settings), alive)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: listener.stopping.set())
    listener.run()
    database.dispose()


if __name__ == "__main__":
    run(load_settings())
