"""The inbox on each broker: nothing that was taken is gone before it was acknowledged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection, Exchange, Queue
from pydantic import SecretStr

from changeover.models.errors import Busy
from changeover.worker import inbox as inboxes
from changeover.worker import listener as listening
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.bootstrap import open_database
from changeover.worker.inbox import AT_ONCE, Inbox, RedisInbox, broker_errors, open_inbox
from changeover.worker.intake import Accepted, Intake
from changeover.worker.listener import Listener, notification_queue
from changeover.worker.migrate import upgrade
from changeover.worker.settings import Settings, as_environment
from changeover.worker.simulator.wire import KombuEmitter
from changeover.worker.store import Database

TESTS = Path(__file__).resolve().parents[1]
BROKERS = ["broker_url", "redis_url", "rabbitmq_url"]


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def queue(url: str) -> Iterator[Queue]:
    name = f"inbox-{uuid4()}"
    exchange = Exchange(name, type="topic", durable=False, auto_delete=True)
    yield Queue(name, bindings=[exchange.binding("told.#")], durable=True)
    with Connection(url) as connection:
        Queue(name)(connection.channel()).delete()


def publish(url: str, queue: Queue, bodies: Sequence[Any], **options: Any) -> None:
    exchange = next(iter(queue.bindings)).exchange
    with Connection(url) as connection:
        producer = connection.Producer(exchange=exchange, serializer="json")
        for body in bodies:
            producer.publish(body, routing_key="told.error", **options)


def take(inbox: Inbox, number: int) -> list[Any]:
    """So many messages, each batch acknowledged."""
    got: list[Any] = []
    for _ in range(60):
        if len(got) >= number:
            break
        if bodies := inbox.take():
            got += [json.loads(body) for body in bodies]
            inbox.acknowledge()
    return got


def taken_by_the_dead(url: str, queue: Queue) -> None:
    """A process takes what is there and is killed before it acknowledges."""
    code = (
        "import os, signal, sys; from kombu import Queue; "
        "from changeover.worker.inbox import open_inbox\n"
        "with open_inbox(sys.argv[1], Queue(sys.argv[2], durable=True)) as inbox:\n"
        "    assert inbox.take(), 'nothing was there'\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    argv = [sys.executable, "-c", code, url, queue.name]
    killed = subprocess.run(argv, check=False, timeout=60, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def test_messages_are_taken_in_order_and_acknowledged_ones_are_gone(url: str, queue: Queue) -> None:
    with open_inbox(url, queue) as inbox:
        publish(url, queue, list(range(30)))
        assert take(inbox, 30) == list(range(30))
    with open_inbox(url, queue) as inbox:
        assert inbox.take() == []


def test_a_batch_is_bounded_and_the_rest_waits(url: str, queue: Queue) -> None:
    with open_inbox(url, queue) as inbox:
        publish(url, queue, list(range(AT_ONCE + 30)))
        first = inbox.take()
        assert 0 < len(first) <= AT_ONCE
        inbox.acknowledge()
        rest = take(inbox, AT_ONCE + 30 - len(first))
        assert [json.loads(body) for body in first] + rest == list(range(AT_ONCE + 30))


def test_who_waits_is_told_at_once(url: str, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxes, "IDLE_SECONDS", 50.0)
    monkeypatch.setattr(inboxes, "SILENCE_SECONDS", 60.0)
    with open_inbox(url, queue) as inbox:
        late = threading.Timer(0.2, publish, (url, queue, ["late"]))
        late.start()
        assert take(inbox, 1) == ["late"]
        late.join()


def test_what_was_not_acknowledged_comes_again_in_order(url: str, queue: Queue) -> None:
    with open_inbox(url, queue) as inbox:
        publish(url, queue, list(range(20)))
        assert inbox.take()
    with open_inbox(url, queue) as inbox:
        assert take(inbox, 20) == list(range(20))


@pytest.mark.parametrize("url", BROKERS[1:], indirect=True)
def test_what_a_killed_process_had_taken_comes_again(
    url: str, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_inbox(url, queue) as inbox:
        inbox.declare()
    publish(url, queue, list(range(20)))
    taken_by_the_dead(url, queue)
    with open_inbox(url, queue) as inbox:
        if isinstance(inbox, RedisInbox):
            inbox.declare()
            assert inbox.take() == []  # its taker might be at work on it yet
            monkeypatch.setattr(inboxes, "ABANDONED_SECONDS", 0.0)
            inbox.declare()
        assert take(inbox, 20) == list(range(20))


def test_both_of_two_takers_get_each_message_once(url: str, queue: Queue) -> None:
    number = 3 * AT_ONCE
    with open_inbox(url, queue) as one, open_inbox(url, queue) as other:
        publish(url, queue, list(range(number)))
        got: list[Any] = []
        for _ in range(60):
            for inbox in (one, other):
                if bodies := inbox.take():
                    got += [json.loads(body) for body in bodies]
                    inbox.acknowledge()
            if len(got) >= number:
                break
        assert sorted(got) == list(range(number))


@pytest.mark.parametrize("url", BROKERS[1:], indirect=True)
def test_a_broker_that_does_not_answer_is_one_of_its_errors(url: str, queue: Queue) -> None:
    nobody = {"redis": "redis://127.0.0.1:1/0", "amqp": "amqp://g:g@127.0.0.1:1//"}
    dead = next(other for kind, other in nobody.items() if url.startswith(kind))
    with pytest.raises(broker_errors(dead)), open_inbox(dead, queue):
        pass


# -- Redis ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", BROKERS[:2], indirect=True)
class TestRedis:
    def test_an_answer_that_was_lost_is_given_again(self, url: str, queue: Queue) -> None:
        """redis-py asks again by itself where a connection breaks."""
        with open_inbox(url, queue) as inbox:
            assert isinstance(inbox, RedisInbox)
            publish(url, queue, list(range(5)))
            asked = {"keys": [inbox.index, f"{inbox.index}.x", *inbox.lists], "args": [3]}
            first = inbox._take(**asked)
            assert len(first) == 3
            assert inbox._take(**asked) == first
            assert inbox.client.llen(queue.name) == 2

    def test_every_priority_is_taken(self, url: str, queue: Queue) -> None:
        with open_inbox(url, queue) as inbox:
            for priority in (9, 0, 3):
                publish(url, queue, [priority], priority=priority)
            assert sorted(take(inbox, 3)) == [0, 3, 9]

    @pytest.mark.parametrize(
        "item", [b"", b"\xff", b"{", b"7", b"[" * 100_000, b'{"properties": {}, "body": {}}']
    )
    def test_what_has_not_the_form_is_taken_as_it_is(
        self, url: str, queue: Queue, item: bytes
    ) -> None:
        """The intake keeps it as a dead letter; the listener goes on."""
        with open_inbox(url, queue) as inbox:
            assert isinstance(inbox, RedisInbox)
            inbox.client.lpush(queue.name, item)
            assert inbox.take() == [item]
            inbox.acknowledge()

    def test_nothing_stays_behind(self, url: str, queue: Queue) -> None:
        with open_inbox(url, queue) as inbox:
            assert isinstance(inbox, RedisInbox)
            publish(url, queue, [1, 2])
            assert take(inbox, 2) == [1, 2]
            assert inbox.client.keys(f"{queue.name}*") == []


# -- The listener --------------------------------------------------------------------------------


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Iterator[Settings]:
    name = f"nova-{uuid4()}"
    made = Settings(state_dir=tmp_path, broker_url=SecretStr(url), notification_exchange=name)
    upgrade(made.database)
    _empty(made)
    yield made
    _empty(made)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    found = open_database(settings)
    yield found
    found.dispose()


def _empty(settings: Settings) -> None:
    assert settings.broker_url is not None
    with Connection(settings.broker_url.get_secret_value()) as connection:
        notification_queue(settings)(connection.channel()).delete()


def fail_three_boots(url: str, settings: Settings) -> None:
    """Nova's own notifications of three servers that could not be built."""
    emit = KombuEmitter(url, settings.notification_exchange)
    captured = TESTS / "data" / "notifications" / "novalidhost_three_servers.jsonl"
    for line in captured.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)["message"]
        if told["event_type"] == "compute_task.build_instances.error":
            emit(told)
    emit.close()


def listen(url: str, settings: Settings, database: Database) -> None:
    """A listener, until it has stored and acknowledged all three."""
    rounds = 0

    def alive() -> None:
        nonlocal rounds
        rounds += 1
        with database.read() as tx:
            if tx.events.count() == 3 or rounds == 60:
                listener.stopping.set()

    intake = Intake(database, SystemClock(), settings)
    listener = Listener(url, notification_queue(settings), intake, alive)
    listener.run()


def assert_stored_once(url: str, settings: Settings, database: Database) -> None:
    """Three boots, and nothing more to be told of."""
    with database.read() as tx:
        assert tx.events.count() == len(tx.boots.listed(over=None, limit=10)) == 3
        assert tx.events.count_dead_letters() == 0
    with open_inbox(url, notification_queue(settings)) as inbox:
        inbox.declare()
        assert inbox.take() == []


DYING = """
import os, signal, sys
from changeover.worker.inbox import AmqpInbox, RedisInbox
from changeover.worker.intake import Accepted, Intake
from changeover.worker.listener import run
from changeover.worker.settings import load_settings
from changeover.worker.store.hints import Hints

def die(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

for kind, name in {
    "in the transaction": [(Hints, "add")],
    "before it is acknowledged": [(AmqpInbox, "acknowledge"), (RedisInbox, "acknowledge")],
}[sys.argv[1]]:
    setattr(kind, name, die)
run(load_settings())
"""


@pytest.mark.parametrize("url", BROKERS[1:], indirect=True)
@pytest.mark.parametrize(
    ("moment", "stored"),
    [("in the transaction", 0), ("before it is acknowledged", 3)],
)
def test_a_killed_listener_loses_nothing_and_stores_nothing_twice(
    url: str,
    settings: Settings,
    database: Database,
    moment: str,
    stored: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_inbox(url, notification_queue(settings)) as inbox:
        inbox.declare()
    fail_three_boots(url, settings)
    killed = subprocess.run(
        [sys.executable, "-c", DYING, moment],
        env={**os.environ, **as_environment(settings)},
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with database.read() as tx:
        # RabbitMQ may send the first of them alone.
        assert tx.events.count() in ({stored} if stored == 0 else {1, 2, 3})
    monkeypatch.setattr(inboxes, "ABANDONED_SECONDS", 0.0)
    listen(url, settings, database)
    assert_stored_once(url, settings, database)


@pytest.mark.parametrize("url", BROKERS[1:], indirect=True)
def test_while_the_database_is_silent_the_broker_keeps_what_it_has(
    url: str, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "RECONNECT_SECONDS", 0.01)
    store, asked = Intake.accept_all, 0

    def silent_at_first(self: Intake, bodies: Sequence[bytes | str], source: str) -> list[Accepted]:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise Busy("the database is busy")
        return store(self, bodies, source)

    monkeypatch.setattr(Intake, "accept_all", silent_at_first)
    with open_inbox(url, notification_queue(settings)) as inbox:
        inbox.declare()
    fail_three_boots(url, settings)
    listen(url, settings, database)
    assert asked >= 3
    assert_stored_once(url, settings, database)
