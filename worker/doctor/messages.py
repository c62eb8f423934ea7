"""The brokers, and Nova's queues on one of them. Queues are declared passively: never consumed.

A passive declaration asks for a queue's length and makes none; reading a legacy notification would
be reading a tenant's token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from kombu import Connection
from kombu.exceptions import InconsistencyError, KombuError

from changeover.models.errors import Unreachable
from changeover.worker.doctor.check import Check, fail, ok, skipped, warn
from changeover.worker.doctor.site import Site
from changeover.worker.listener import QUEUE

CONNECT_SECONDS = 3
PRIORITIES = ("audit", "critical", "debug", "error", "info", "sample", "warn")
LEGACY = "notifications"
MANY_UNREAD = 1000
FALLEN_BEHIND = 1000


@dataclass(frozen=True, slots=True)
class Length:
    """What a passive declaration tells of a queue."""

    messages: int
    consumers: int


def broker(site: Site) -> Iterator[Check]:
    """Celery's broker answers."""
    with _connected(site.broker()) as connection:
        kind = connection.transport.driver_type
    yield ok("broker", f"{kind} answers", kind=kind)


def notification_queue(site: Site) -> Iterator[Check]:
    """Nova's broker answers, and our own queue is there, bound and read."""
    url, exchange = site.notifications(), site.settings.notification_exchange
    with _connected(url) as connection:
        amqp = connection.transport.driver_type == "amqp"
        there = not amqp or _has_exchange(connection, exchange)
        own = _length(connection, QUEUE) if amqp else _bound_length(connection, exchange)
    if not there:
        yield fail(
            "notifications.exchange",
            f"the broker has no exchange {exchange}",
            "check notification_url and notification_exchange (control_exchange in nova.conf), and "
            "that Nova publishes: [oslo_messaging_notifications] driver = messagingv2",
            exchange=exchange,
        )
    start = "start `changeover up`, or `changeover listener`, which binds it and reads it"
    facts = {} if own is None else {"messages": own.messages, "consumers": own.consumers}
    if own is None:
        said = f"nobody has bound the queue {QUEUE}: notifications are lost"
        yield fail("notifications.queue", said, start)
    elif amqp and own.consumers == 0:
        said = f"nobody reads {QUEUE}: {own.messages} message(s) wait"
        yield fail("notifications.queue", said, start, **facts)
    elif own.messages > FALLEN_BEHIND:
        said = f"{own.messages} messages wait in {QUEUE}"
        advice = "the listener is behind: see its log, and whether the database is slow"
        yield warn("notifications.queue", said, advice, **facts)
    else:
        yield ok("notifications.queue", f"{QUEUE} is there; {own.messages} wait", **facts)


def unread_queues(site: Site) -> Iterator[Check]:
    """Nova's own versioned queues do not fill up unread, and it sends no legacy ones."""
    versioned: dict[str, Length] = {}
    with _connected(site.notifications()) as connection:
        if connection.transport.driver_type != "amqp":
            why = "Nova publishes on RabbitMQ; this broker has only what Changeover bound"
            yield skipped("notifications.unread", why)
            yield skipped("notifications.legacy", why)
            return
        for topic in site.settings.notification_topics:
            versioned |= _lengths(connection, topic)
        legacy = _lengths(connection, LEGACY)
    yield _unread(versioned)
    yield _legacy(legacy)


def _unread(queues: Mapping[str, Length]) -> Check:
    unread = {
        name: found.messages
        for name, found in queues.items()
        if found.consumers == 0 and found.messages > MANY_UNREAD
    }
    depths = {name: found.messages for name, found in queues.items()}
    if not unread:
        return ok("notifications.unread", "Nova's own queues do not fill up", queues=depths)
    return warn(
        "notifications.unread",
        f"nobody reads {', '.join(sorted(unread))}: {sum(unread.values())} messages, and growing",
        "bound them: rabbitmqctl set_policy unread '^(versioned_)?notifications\\.' "
        "'{\"max-length\":10000}' --apply-to queues (Changeover reads a queue of its own)",
        queues=depths,
    )


def _legacy(queues: Mapping[str, Length]) -> Check:
    name = "notifications.legacy"
    if not queues:
        return ok(name, "Nova sends no legacy notifications")
    facts = {"queues": {queue: found.messages for queue, found in queues.items()}}
    waiting = sum(found.messages for found in queues.values())
    advice = (
        "set [notifications] notification_format = versioned in nova.conf unless something of "
        "yours needs the legacy form; then delete the queues notifications.*"
    )
    if waiting:
        return warn(
            name,
            f"{waiting} legacy notifications lie in {', '.join(sorted(queues))}: each carries its "
            "tenant's token",
            advice,
            **facts,
        )
    return warn(
        name,
        f"there are queues for legacy notifications ({', '.join(sorted(queues))}), which carry "
        "their tenants' tokens",
        advice,
        **facts,
    )


def _lengths(connection: Connection, topic: str) -> dict[str, Length]:
    found = {f"{topic}.{p}": _length(connection, f"{topic}.{p}") for p in PRIORITIES}
    return {name: length for name, length in found.items() if length is not None}


def _length(connection: Connection, queue: str) -> Length | None:
    """The queue's length; ``None`` if there is none. A refusal costs its channel."""
    try:
        with connection.channel() as channel:
            declared = _amqp(channel).queue_declare(queue=queue, passive=True)
            return Length(int(declared.message_count), int(declared.consumer_count))
    except connection.channel_errors:
        return None


def _bound_length(connection: Connection, exchange: str) -> Length | None:
    """Our queue's length where kombu keeps bindings itself: there an empty queue is no queue."""
    with connection.channel() as channel:
        pulled = _amqp(channel)
        try:
            bound = any(queue == QUEUE for *_, queue in pulled.get_table(exchange))
        except InconsistencyError:
            bound = False
        return Length(int(pulled._size(QUEUE)), 0) if bound else None  # noqa: SLF001 - no public one


def _amqp(channel: Any) -> Any:
    """A channel with AMQP's own methods, which kombu's interface does not declare."""
    return channel


def _has_exchange(connection: Connection, exchange: str) -> bool:
    try:
        with connection.channel() as channel:
            _amqp(channel).exchange_declare(exchange=exchange, type="topic", passive=True)
    except connection.channel_errors:
        return False
    return True


def _errors(connection: Connection) -> tuple[type[Exception], ...]:
    """What the transport raises when its connection is lost or refused."""
    errors: tuple[type[Exception], ...] = connection.connection_errors  # type: ignore[assignment]  # kombu-stubs are wider
    return (*errors, KombuError, OSError)


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    """A connection; :class:`Unreachable` names the broker without its password."""
    parts = urlsplit(url)
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    options: dict[str, Any] = {}
    if parts.scheme.startswith("redis"):
        options = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": CONNECT_SECONDS}
    connection = Connection(url, connect_timeout=CONNECT_SECONDS, transport_options=options)
    with connection:
        try:
            connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
            yield connection
        except _errors(connection) as exc:
            raise Unreachable(
                f"{where} does not answer ({type(exc).__name__}): check that it runs, and that "
                "URL, user and password are right"
            ) from exc
