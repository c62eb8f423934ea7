"""Where notifications wait to be taken: a queue of our own on Nova's broker.

One batch at a time is taken, of what is there just then, and acknowledged as a whole. Until then it
is the broker's: what somebody took and did not acknowledge before he died, another gets.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from uuid import uuid4

from kombu import Connection, Consumer, Queue
from kombu.exceptions import OperationalError
from kombu.message import Message
from kombu.transport.redis import Channel as RedisChannel

AT_ONCE = 200
"""Messages taken at once at most."""

IDLE_SECONDS = 1.0
"""How long to wait for a first message."""

REST_SECONDS = 0.002
"""How long to wait for a further message that RabbitMQ may have sent already."""

CONNECT_SECONDS = 3
SILENCE_SECONDS = 10.0
"""Redis: an answer that takes longer than this, and what was waited for, never comes."""

ABANDONED_SECONDS = 30.0
"""Redis: what was taken so long ago and not acknowledged is anyone's again."""


class Inbox(Protocol):
    """A queue, and the one batch that was taken from it."""

    def declare(self) -> None:
        """Bind the queue anew: a broker that was emptied forgets that it ever was."""

    def take(self) -> list[bytes | str]:
        """Wait a moment for a message, then take what is there; bodies, oldest first.

        What was taken before must be acknowledged.
        """

    def acknowledge(self) -> None:
        """The batch that was taken last is stored: the broker may forget it."""


@contextmanager
def open_inbox(url: str, queue: Queue) -> Iterator[Inbox]:
    """The queue, bound, at the broker of that URL; at the end what was not acknowledged goes back.

    Raises one of :func:`broker_errors` where the broker does not answer, then or later.
    """
    with _connect(url) as connection:
        connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
        channel = connection.channel()
        if isinstance(channel, RedisChannel):
            with contextlib.closing(RedisInbox(channel, queue)) as inbox:
                yield inbox
        else:
            # Closing the connection gives back what is left.
            yield AmqpInbox(connection, channel, queue)


def broker_errors(url: str) -> tuple[type[Exception], ...]:
    """What a broker that does not answer raises; while connecting, kombu's own error."""
    connection = Connection(url)
    known = (*connection.connection_errors, *connection.channel_errors)
    return (*known, OperationalError, OSError)


def _connect(url: str) -> Connection:
    redis = url.startswith("redis")
    options = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": SILENCE_SECONDS,
        "socket_keepalive": True,
    }
    return Connection(
        url,
        heartbeat=0 if redis else 30,
        connect_timeout=CONNECT_SECONDS,
        transport_options=options if redis else {},
    )


class AmqpInbox:
    """A queue on RabbitMQ, which sends ahead what it has."""

    def __init__(self, connection: Connection, channel: Any, queue: Queue) -> None:
        self.connection = connection
        self.queue = queue(channel)
        self.waiting: list[Message] = []
        Consumer(
            channel, queues=[queue], on_message=self.waiting.append, prefetch_count=AT_ONCE
        ).consume()

    def declare(self) -> None:
        self.queue.declare()

    def take(self) -> list[bytes | str]:
        with contextlib.suppress(TimeoutError):
            self.connection.drain_events(timeout=IDLE_SECONDS)
            while len(self.waiting) < AT_ONCE:
                self.connection.drain_events(timeout=REST_SECONDS)
        self.connection.heartbeat_check()
        return [_body(message) for message in self.waiting]

    def acknowledge(self) -> None:
        # All that this channel was ever sent, up to this one: it has no other consumer.
        self.waiting[-1].ack(multiple=True)
        self.waiting.clear()


# Kombu takes messages from Redis one by one, with three round trips for each, and loses the one
# that it has taken and not noted yet if it is killed just then. These scripts do both in one step.

_TAKE = """
-- Move up to ARGV[1] messages from the queue (KEYS[3], then its higher priorities) to the batch
-- KEYS[2], which the index KEYS[1] holds with the time. Asked again, it answers them again.
for i = 3, #KEYS do
  local room = ARGV[1] - redis.call('LLEN', KEYS[2])
  while room > 0 and redis.call('LMOVE', KEYS[i], KEYS[2], 'RIGHT', 'RIGHT') do
    room = room - 1
  end
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('ZADD', KEYS[1], 'NX', redis.call('TIME')[1], KEYS[2])
end
return redis.call('LRANGE', KEYS[2], 0, -1)
"""

_GIVE_BACK = """
-- Put the messages of the batch KEYS[2] back where they came from: the oldest is the next again.
while redis.call('LMOVE', KEYS[2], KEYS[3], 'RIGHT', 'RIGHT') do end
redis.call('ZREM', KEYS[1], KEYS[2])
"""


class RedisInbox:
    """A queue on Redis as kombu keeps it: a list for each priority, the oldest at its right end."""

    def __init__(self, channel: RedisChannel, queue: Queue) -> None:
        self.channel = channel
        self.queue = queue(channel)
        self.client = channel.client
        # Hardly anything has another priority than the first.
        steps = channel.priority_steps
        self.lists = [f"{queue.name}{channel.sep}{step}" if step else queue.name for step in steps]
        self.index = f"{queue.name}.taken"
        self.batch: str | None = None
        self._take = self.client.register_script(_TAKE)
        self._give_back = self.client.register_script(_GIVE_BACK)
        self.declare()

    def declare(self) -> None:
        """Also gives back what somebody took and can hardly be at work on any more."""
        self.queue.declare()
        seconds, _ = self.client.time()
        last = seconds - ABANDONED_SECONDS
        for batch in self.client.zrange(self.index, "-inf", last, byscore=True):
            self._give_back(keys=[self.index, batch, self.lists[0]])

    def take(self) -> list[bytes | str]:
        taken = self._taken()
        # Moved to where it is: waits until there is something, and takes nothing.
        if not taken and self.client.blmove(
            self.lists[0], self.lists[0], IDLE_SECONDS, "RIGHT", "RIGHT"
        ):
            taken = self._taken()
        return [self._body(item) for item in taken]

    def _taken(self) -> list[bytes]:
        self.batch = f"{self.index}.{uuid4()}"
        taken: list[bytes] = self._take(keys=[self.index, self.batch, *self.lists], args=[AT_ONCE])
        return taken

    def _body(self, item: bytes) -> bytes:
        try:
            body = self.channel.Message(json.loads(item), channel=self.channel).body
        except Exception:  # noqa: BLE001 - not kombu's form: whatever it is, the intake keeps it
            return item
        return body if isinstance(body, bytes) else item

    def acknowledge(self) -> None:
        with self.client.pipeline() as pipe:
            pipe.delete(self.batch).zrem(self.index, self.batch).execute()
        self.batch = None

    def close(self) -> None:
        """Give back what was not acknowledged."""
        if self.batch is not None:
            self._give_back(keys=[self.index, self.batch, self.lists[0]])


def _body(message: Message) -> bytes | str:
    body: Any = message.body
    return body if isinstance(body, (bytes, str)) else bytes(body)
