"""How many events are stored durably in a second, against no-op Celery tasks on the same broker.

Both are published beforehand and then taken by one consumer: a listener process that stores each
event and its boot in the database and acknowledges after the commit; and a Celery worker, of as
many processes as there are processors, that does nothing with each message.
"""

from __future__ import annotations

import argparse
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
    with start_child(argv, name="listener", env=env, log_path=settings.state_dir / "l.log"):
        wait_until(lambda: stored() > 0)
        first, started = stored(), time.perf_counter()
        wait_until(lambda: stored() >= events)
        ended = time.perf_counter()
    database.dispose()
    return rate(started, ended, events - first)


def task_rate(settings: Settings, url: str, tasks: int) -> float:
    """No-op tasks a second, from the first taken to the last."""
    from noop import QUEUE, app, noop  # noqa: PLC0415 - reads the broker's URL at import

    with Connection(url) as connection:
        for _ in range(tasks):
            noop.apply_async(connection=connection)

        def left() -> int:
            return int(connection.default_channel.client.llen(QUEUE))

        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "BENCH_BROKER": url}
        argv = [
            sys.executable, "-m", "celery", "-A", "noop", "worker", "--queues", QUEUE,
            "--concurrency", str(os.cpu_count() or 1), "--loglevel", "ERROR",
            "--without-gossip", "--without-mingle", "--without-heartbeat",
        ]  # fmt: skip
        with start_child(argv, name="noop", env=env, log_path=settings.state_dir / "n.log"):
            wait_until(lambda: left() < tasks)
            before, started = left(), time.perf_counter()
            wait_until(lambda: left() == 0)
            ended = time.perf_counter()
    app.close()
    return rate(started, ended, before)


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
