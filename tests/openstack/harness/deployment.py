"""``changeover up`` against the cloud, as an operator runs it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.client import Changeover, Cloud, command, environment, eventually
from kombu import Connection

from changeover.models.errors import ChangeoverError
from changeover.worker.embedded.child import start_child
from changeover.worker.listener import notification_queue
from changeover.worker.settings import Settings
from changeover.worker.store import Database

_START_SECONDS = 180.0
_STOP_SECONDS = 60.0

SETTINGS: dict[str, object] = {
    "settle_seconds": 2.0,
    "sweep_seconds": 2.0,
    "retry_seconds": 5.0,
    "look_seconds": 20.0,
    "balance_seconds": 5.0,
    "worker_concurrency": 3,
    "lost_networks": "none",
}
"""Quicker than by default, so that the suite ends: none is shorter than production allows.

There are no networks: the cloud's Neutron is a stand-in.
"""


@contextlib.contextmanager
def deployed(
    cloud: Cloud, home: Path, catalog: dict[str, Any], **settings: object
) -> Iterator[Changeover]:
    """A deployment; its files, and ``up.log``, are in ``home``."""
    home.mkdir(parents=True)
    path = home / "catalog.yaml"
    path.write_text(json.dumps(catalog, indent=1))  # JSON is YAML
    env = environment(cloud, home, catalog=path, **{**SETTINGS, **settings})
    url = env.get("CHANGEOVER_DATABASE_URL", f"sqlite:///{home / 'changeover.sqlite'}")
    database = Database(url)
    with _no_leftovers(cloud):
        began = time.time()
        child = start_child(
            [command(), "up"], name="changeover", env=env, cwd=home, log_path=home / "up.log"
        )
        try:
            child.wait_until(lambda: _alive(database, began), timeout=_START_SECONDS)
            deployment = Changeover(home, env, database)
            yield deployment
            # The next deployment has a database of its own, which would not explain a fence.
            drained = deployment.run("drain")
            assert drained.returncode == 0, drained.stderr
            deployment.settled()
        finally:
            status = child.stop(_STOP_SECONDS)
            database.dispose()
    assert status == 0, child.log_tail()


def _alive(database: Database, since: float) -> bool:
    """Whether a worker and a listener have said so in the database."""
    try:
        with database.read() as tx:
            roles = {process["role"] for process in tx.switches.alive(since)}
    except ChangeoverError:  # its tables are still being made
        return False
    return {"worker", "listener"} <= roles


@contextlib.contextmanager
def _no_leftovers(cloud: Cloud) -> Iterator[None]:
    """Remove the listener's queue at the end: what nobody heard is not for the next deployment."""
    try:
        yield
    finally:
        settings = Settings(notification_url=cloud.notification_url)  # type: ignore[arg-type]  # pydantic makes the secret
        with Connection(cloud.notification_url, connect_timeout=5) as connection:
            queue = notification_queue(settings)(connection.channel())
            eventually(lambda: queue.delete() is not None or True, within=10)
