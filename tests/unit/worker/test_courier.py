"""The courier sends what it can, and whatever the broker does is nobody else's trouble."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from changeover.worker import migrate
from changeover.worker.courier import SILENCE_SECONDS, Courier
from changeover.worker.queues import JUDGE, PLAN_QUEUE
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.store import Database, Hint


def hint(number: int, due_at: float = 0.0) -> Hint:
    return Hint(f"t:{number}", "t", (number,), f"q{number}", due_at)


class App:
    """A Celery app that only writes down, or fails."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.calls = 0
        self.error: Exception | None = None

    def send_task(self, name: str, **options: Any) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        self.sent.append((name, options))


def courier(app: App, clock: VirtualClock) -> Courier:
    return Courier(cast("Celery", app), clock)


def test_hints_are_sent_to_their_queues_and_times() -> None:
    app, clock = App(), VirtualClock(1000.0)
    courier(app, clock)([hint(1, 990.0), hint(2, 1000.0), hint(3, 1030.0)])
    assert [(o["args"], o["queue"], o["countdown"]) for _, o in app.sent] == [
        ([1], "q1", None),
        ([2], "q2", None),
        ([3], "q3", 30.0),
    ]
    assert all(name == "t" and o["ignore_result"] for name, o in app.sent)


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("no broker"),
        ConnectionRefusedError(),
        TimeoutError(),
        OSError("no route"),
    ],
)
def test_a_silent_broker_is_tried_once_and_then_left_alone_for_a_while(error: Exception) -> None:
    app, clock = App(), VirtualClock(1000.0)
    deliver = courier(app, clock)
    app.error = error
    deliver([hint(1), hint(2), hint(3)])
    assert app.calls == 1
    deliver([hint(4)])
    clock.advance(SILENCE_SECONDS - 0.01)
    deliver([hint(5)])
    assert app.calls == 1
    clock.advance(0.01)
    app.error = None
    deliver([hint(6)])
    assert [o["args"] for _, o in app.sent] == [[6]]
    deliver([hint(7)])
    assert app.calls == 3


def test_a_committed_transaction_stands_whatever_the_broker_does(tmp_path: Path) -> None:
    """And its hint stays in the outbox, for the sweep to send again."""
    url = f"sqlite:///{tmp_path}/db.sqlite"
    migrate.upgrade(url)
    database = Database(url)
    app, clock = App(), VirtualClock(1000.0)
    app.error = OperationalError("no broker")
    database.courier = courier(app, clock)
    with database.write() as tx:
        tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=clock.now())
    assert app.calls == 1
    with database.write() as tx:
        assert [h.task for h in tx.hints.overdue(1001.0, 1001.0, 10)] == [JUDGE]
    database.dispose()


def test_a_real_broker_that_is_not_there(tmp_path: Path) -> None:
    app = Celery(broker=f"redis+socket://{tmp_path}/no.sock", set_as_current=False)
    app.conf.update(task_publish_retry=False, broker_connection_timeout=0.1)
    Courier(app, VirtualClock())([hint(1)])
    app.close()


def test_what_a_real_app_puts_on_the_queue() -> None:
    app = Celery(broker="memory://", set_as_current=False)
    Courier(app, VirtualClock(1000.0))([hint(7)])
    with Connection("memory://") as connection, connection.SimpleQueue("q7") as queue:
        message = queue.get(timeout=5)
        assert message.headers["task"] == "t"
        assert message.payload[0] == [7]
        assert message.headers["eta"] is None
        message.ack()
    app.close()
