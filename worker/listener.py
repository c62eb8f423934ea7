"""The listener: Nova's versioned notifications, from a queue of our own, into the intake.

Messages are acknowledged after the commit that stores them. What is waiting on the queue is
taken together and committed together, so that a storm costs one commit for many.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import structlog
from kombu import Exchange, Queue

from changeover.models.errors import Retry
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.bootstrap import notification_url, open_database
from changeover.worker.celery_app import make_app
from changeover.worker.courier import Courier
from changeover.worker.inbox import broker_errors, open_inbox
from changeover.worker.intake import Intake
from changeover.worker.logs import configure_logs
from changeover.worker.settings import Settings, load_settings

log = structlog.get_logger(__name__)

QUEUE = "changeover.notifications"
RECONNECT_SECONDS = 1.0
BEAT_SECONDS = 5.0
DECLARE_SECONDS = 5.0
"""How often the queue is bound anew."""


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
        self.stopping = threading.Event()

    def run(self) -> None:
        """Consume until :attr:`stopping` is set."""
        while not self.stopping.is_set():
            try:
                self._consume()
            except Retry as exc:
                # Nothing was acknowledged: closing the inbox gave it all back.
                log.warning("listener.database_silent", why=exc.message)
            except broker_errors(self.url) as exc:
                log.warning("listener.broker_silent", error=type(exc).__name__, why=str(exc))
            self.stopping.wait(RECONNECT_SECONDS)

    def _consume(self) -> None:
        with open_inbox(self.url, self.queue) as inbox:
            log.info("listener.listening", queue=self.queue.name)
            declared = time.monotonic()
            while not self.stopping.is_set():
                if bodies := inbox.take():
                    self.intake.accept_all(bodies, source="listener")
                    inbox.acknowledge()
                self.on_alive()
                if time.monotonic() - declared >= DECLARE_SECONDS:
                    inbox.declare()
                    declared = time.monotonic()


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
