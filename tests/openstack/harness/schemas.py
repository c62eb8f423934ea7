"""The databases' schemas: made by each service's own command once, then loaded from a dump."""

from __future__ import annotations

import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import services
from harness.config import Place
from harness.install import cache, fingerprint

NAMES = ("keystone", "placement", "glance", "nova_api", "nova_cell0", "nova_cell1", "cyborg")

_SECONDS = 900

# Filled in by each service from its own settings: a dump that holds no port fits every run.
_CELL = "{scheme}://{username}:{password}@{hostname}:{port}/"


def make(place: Place) -> None:
    """Make all schemas."""
    client = _client("mariadb", place)
    dump = cache() / f"schemas-{fingerprint()}.sql"
    if dump.exists():
        with dump.open("rb") as lines:
            _run(client, stdin=lines.fileno())
        return
    for name in NAMES:
        _run([*client, "-e", f"create database {name}"])
    keystone = ["keystone-manage", "--config-file", place.etc("keystone") / "keystone.conf"]
    nova = ["nova-manage", "--config-file", place.etc("nova") / "nova.conf"]
    cell1 = ["nova-manage", "--config-file", place.etc("nova") / "cell1.conf"]
    placement = ["placement-manage", "--config-dir", place.etc("placement")]
    glance = ["glance-manage", "--config-file", place.etc("glance") / "glance-api.conf"]
    cyborg = ["cyborg-dbsync", "--config-file", place.etc("cyborg") / "cyborg.conf"]
    create_cell = [
        "create_cell", "--name", "cell1",
        "--database_connection", f"{_CELL}nova_cell1", "--transport-url", f"{_CELL}",
    ]  # fmt: skip
    steps: list[list[list[str | Path]]] = [
        [[*keystone, "db_sync"]],
        [[*placement, "db", "sync"]],
        [[*glance, "db_sync"]],
        [
            [*nova, "api_db", "sync"],
            [*nova, "cell_v2", "map_cell0", "--database_connection", f"{_CELL}nova_cell0"],
            [*nova, "db", "sync", "--local_cell"],
            [*nova, "cell_v2", *create_cell],
        ],
        [[*cell1, "db", "sync", "--local_cell"]],
        [[*cyborg, "upgrade"]],
    ]

    def one(commands: list[list[str | Path]]) -> None:
        for program, *arguments in commands:
            _run([place.venv / "bin" / program, *arguments])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, steps))
    _keep(dump, place)


def _client(program: str, place: Place) -> list[str | Path]:
    url = urlsplit(place.database)
    return [
        services.find(program), "--no-defaults", "--protocol=tcp", f"--host={url.hostname}",
        f"--port={url.port}", f"--user={url.username}", f"--password={url.password}",
    ]  # fmt: skip


def _keep(dump: Path, place: Place) -> None:
    command = [*_client("mariadb-dump", place), "--databases", *NAMES]
    with tempfile.NamedTemporaryFile(dir=dump.parent, delete=False) as draft:
        subprocess.run(command, stdout=draft, check=True, timeout=_SECONDS)
    os.replace(draft.name, dump)  # noqa: PTH105 - two runs may keep it at once, the last one wins


def _run(argv: list[str | Path], stdin: int = subprocess.DEVNULL) -> None:
    done = subprocess.run(
        argv, stdin=stdin, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{argv} failed: {(done.stdout + done.stderr)[-2000:]}")
