"""How many events are stored durably in a second, against no-op Celery tasks on the same broker.

Both are published beforehand and then taken by as many processes as there are processors:
listeners that store each event and its boot in the database and acknowledge after the commit; and
a Celery worker's, which do nothing with each message.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from kombu import Connection, Exchange

from changeover.models.flavor import Flavor, RequestSpec
from changeover.worker.bootstrap import open_database
from changeover.worker.embedded.broker import start_broker
from changeover.worker.embedded.child import start_child
from changeover.worker.listener import notification_queue
from changeover.worker.migrate import upgrade
from changeover.worker.settings import Settings, as_environment
from changeover.worker.simulator.wire import Instance, build_error, envelope, routing_key

DEADLINE = 180.0
PROCESSES = os.cpu_count() or 1
FLAVOR = Flavor(
    name="fpga.aes",
    flavorid="fpga.aes",
    vcpus=1,
    memory_mb=64,
    root_gb=1,
    extra_specs={"resources:CUSTOM_FPGA": "1", "trait:CUSTOM_FPGA_FUNCTION_AES": "required"},
)


def wait_until(done: Any) -> None:
    """Poll until ``done``."""
    deadline = time.monotonic() + DEADLINE
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit("not done in time: the figures would mean nothing")
        time.sleep(0.01)


def publish(url: str, settings: Settings, events: int) -> None:
    """Put failed builds into the listener's queue, in Nova's wire form."""
    exchange = Exchange("nova", type="topic", durable=False)
    with Connection(url) as connection:
        notification_queue(settings)(connection.channel()).declare()
        producer = connection.Producer(serializer="json")
        for _ in range(events):
            server = str(uuid4())
            now = time.time()
            instance = Instance(
                uuid=server,
                name="bench",
                project="p",
                user="u",
                flavor=FLAVOR,
                request_id=f"req-{server}",
                reservation_id="r-bench",
                created=now,
                state="error",
            )
            spec = RequestSpec(flavor=FLAVOR, project_id="p", user_id="u")
            said = "No valid host was found. "
            message = build_error(instance, server, spec, "NoValidHost", said, str(uuid4()), now)
            producer.publish(envelope(message), exchange=exchange, routing_key=routing_key(message))


def rate(started: float, ended: float, number: int) -> float:
    """Number in a second."""
    return number / (ended - started)


def intake_rate(settings: Settings, url: str, events: int) -> float:
    """Events a second, from the first stored to the last."""
    upgrade(settings.database)
    publish(url, settings, events)
    database = open_database(settings)

    def stored() -> int:
        with database.read() as tx:
            return tx.events.count()

    env = {**os.environ, **as_environment(settings)}
    argv = [sys.executable, "-m", "changeover.worker.listener"]
    with contextlib.ExitStack() as listeners:
        for number in range(PROCESSES):
            log = settings.state_dir / f"l{number}.log"
            listeners.enter_context(start_child(argv, name="listener", env=env, log_path=log))
        wait_until(lambda: stored() > 0)
        first, started = stored(), time.perf_counter()
        wait_until(lambda: stored() >= events)
        ended = time.perf_counter()
    database.dispose()
    return rate(started, ended, events - first)


def task_rate(settings: Settings, url: str, tasks: int) -> float:
    """No-op tasks a second, from the first carried out to the last.

    The queue's length says less: a worker takes all that there is before it has done any of it.
    """
    from noop import QUEUE, app, noop  # noqa: PLC0415 - reads the broker's URL at import

    with Connection(url) as connection:
        marks = settings.state_dir / "first", settings.state_dir / "last"
        noop.apply_async((str(marks[0]),), connection=connection)
        for _ in range(tasks - 2):
            noop.apply_async(connection=connection)
        noop.apply_async((str(marks[1]),), connection=connection)
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "BENCH_BROKER": url}
        argv = [
            sys.executable, "-m", "celery", "-A", "noop", "worker", "--queues", QUEUE,
            "--concurrency", str(PROCESSES), "--loglevel", "ERROR",
            "--without-gossip", "--without-mingle", "--without-heartbeat",
        ]  # fmt: skip
        with start_child(argv, name="noop", env=env, log_path=settings.state_dir / "n.log"):
            wait_until(lambda: marks[1].exists() and marks[1].read_text(encoding="utf-8"))
    app.close()
    first, last = (float(mark.read_text(encoding="utf-8")) for mark in marks)
    return rate(first, last, tasks - 1)


def measure(number: int) -> dict[str, Any]:
    """Run both on one broker."""
    with (
        tempfile.TemporaryDirectory(prefix="changeover-bench-") as home,
        start_broker(Path(home) / "broker") as broker,
    ):
        settings = Settings(
            state_dir=Path(home), broker_url=broker.url, log_level="warning", catalog=None
        )
        os.environ["BENCH_BROKER"] = broker.url
        events = intake_rate(settings, broker.url, number)
        tasks = task_rate(settings, broker.url, number)
    return {
        "events": number,
        "events_per_second": round(events),
        "tasks_per_second": round(tasks),
        "ratio": round(events / tasks, 2),
    }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args.events)
    if args.json:
        print(json.dumps(result))
        return 0
    print(f"intake: {result['events']} failed builds, already queued")
    print(f"  durable events     {result['events_per_second']:6d} /s")
    print(f"  no-op Celery tasks {result['tasks_per_second']:6d} /s")
    print(f"  ratio              {result['ratio']:6.2f}    (goal: at least 0.5)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
