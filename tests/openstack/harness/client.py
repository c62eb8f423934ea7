"""What a test holds of the cloud: connections, its services' switches, the cards' own journal."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openstack
import pymysql
from harness.config import REGION
from openstack.connection import Connection

from changeover.models.boot import Boot
from changeover.models.changeover import Changeover as ChangeoverRow
from changeover.models.states import BOOT_OVER, CHANGEOVER_MOVING
from changeover.worker.store import Database

T = TypeVar("T")

DEADLINE = 180.0
PLACEMENT = "1.39"
COMPUTE = "2.96"


def eventually(look: Callable[[], T], *, within: float = DEADLINE, every: float = 0.5) -> T:
    """The first truthy answer of ``look``; fails if there is none in time."""
    deadline = time.monotonic() + within
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:.0f} s: last answer {found!r}")
        time.sleep(every)


@dataclass(frozen=True)
class Cloud:
    """A cloud that runs. ``state`` is its runner's directory."""

    state: Path
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, state: Path) -> Cloud:
        """The cloud that a runner announced there."""
        return cls(state, json.loads((state / "cloud.json").read_text()))

    @property
    def clouds_yaml(self) -> Path:
        """Its clouds are ``admin``, ``alice``, ``bob`` and ``poolmgr``."""
        return Path(self.facts["clouds"])

    @property
    def notification_url(self) -> str:
        """Where Nova publishes."""
        return str(self.facts["notification_url"])

    @property
    def report_seconds(self) -> float:
        """How often Cyborg's agents report."""
        return float(self.facts["report_seconds"])

    def url(self, service: str) -> str:
        """A service's address."""
        return str(self.facts["urls"][service])

    def connect(self, user: str) -> Connection:
        """A connection as that user, in the user's project."""
        entry = json.loads(self.clouds_yaml.read_text())["clouds"][user]
        return openstack.connect(
            load_yaml_config=False,
            load_envvars=False,
            region_name=REGION,
            auth=entry["auth"],
            compute_default_microversion=COMPUTE,
            placement_default_microversion=PLACEMENT,
        )

    def stop(self, service: str, signal: str = "SIGTERM") -> None:
        """End a service, by that signal, and wait until it is gone."""
        (self.state / "down").mkdir(exist_ok=True)
        draft = self.state / f"down-{service}"
        draft.write_text(signal)
        draft.replace(self.state / "down" / service)
        eventually(lambda: not self._pid(service).exists(), within=60, every=0.05)
        if service in self.facts["urls"]:
            eventually(lambda: not self.listens(service), within=60, every=0.05)

    def start(self, service: str) -> None:
        """Start it again, and wait until it answers if it has an address."""
        (self.state / "down" / service).unlink(missing_ok=True)
        eventually(self._pid(service).exists, within=60, every=0.05)
        if service in self.facts["urls"]:
            eventually(lambda: self.listens(service), every=0.1)

    def listens(self, service: str) -> bool:
        """Whether anything takes connections at the service's address."""
        address = urlsplit(self.url(service))
        try:
            with socket.create_connection((address.hostname, address.port), timeout=2):
                return True
        except OSError:
            return False

    @contextlib.contextmanager
    def without(self, service: str, signal: str = "SIGTERM") -> Iterator[None]:
        """The service is down within."""
        self.stop(service, signal)
        try:
            yield
        finally:
            self.start(service)

    def rows(self, schema: str, sql: str, *values: object) -> list[dict[str, Any]]:
        """What a service's own database says: for judging, never for acting."""
        url = urlsplit(str(self.facts["database"]))
        connection = pymysql.connect(
            host=url.hostname,
            port=url.port or 0,
            user=url.username,
            password=url.password or "",
            database=schema,
            cursorclass=pymysql.cursors.DictCursor,
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall())

    def journal(self, *, since: float = 0.0) -> list[dict[str, Any]]:
        """What the cards themselves wrote down: see ``plugins/simcards/driver.py``."""
        path = self.state / "cards" / "journal.jsonl"
        if not path.exists():
            return []
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        return [entry for entry in entries if entry["at"] >= since]

    def _pid(self, service: str) -> Path:
        return self.state / "pid" / service


@dataclass(frozen=True)
class Card:
    """A simulated card: its provider in Placement and its deployable in Cyborg.

    ``key`` is what the cards' journal calls it.
    """

    name: str
    host: str
    key: str
    provider: str
    deployable: str


class Cards:
    """The cards, as an administrator sees them."""

    def __init__(self, cloud: Cloud, admin: Connection) -> None:
        self._cloud = cloud
        self._admin = admin

    def all(self) -> list[Card]:
        """All cards, by name."""
        listed = self._admin.accelerator.get("/deployables").json()["deployables"]
        cards = []
        for entry in listed:
            host, _, bus = entry["name"].partition("_simcard_")
            cards.append(
                Card(
                    entry["name"], host, f"{host}.{bus}",
                    self._provider(entry["name"]), entry["uuid"],
                )
            )  # fmt: skip
        return sorted(cards, key=lambda card: card.name)

    def of(self, host: str) -> list[Card]:
        """One host's cards."""
        return [card for card in self.all() if card.host == host]

    def loaded(self, card: Card) -> str:
        """The function that the card itself has: ``NONE`` if it was never programmed."""
        path = self._cloud.state / "cards" / f"{card.key}.json"
        return str(json.loads(path.read_text())["function"]) if path.exists() else "NONE"

    def traits(self, card: Card) -> set[str]:
        """The traits of its provider."""
        answer = self._admin.placement.get(
            f"/resource_providers/{card.provider}/traits", microversion=PLACEMENT
        )
        return set(answer.json()["traits"])

    def allocations(self, card: Card) -> dict[str, Any]:
        """Who uses it, in Placement."""
        answer = self._admin.placement.get(
            f"/resource_providers/{card.provider}/allocations", microversion=PLACEMENT
        )
        return dict(answer.json()["allocations"])

    def program(self, card: Card, image: str) -> None:
        """Program it as an operator would, past Changeover; waits for the trait."""
        body = [{"path": "/program", "op": "replace", "value": [{"image_uuid": image}]}]
        answer = self._admin.accelerator.patch(f"/deployables/{card.deployable}/program", json=body)
        assert answer.ok, answer.text
        trait = f"CUSTOM_FPGA_FUNCTION_{self.loaded(card)}"
        eventually(lambda: trait in self.traits(card))

    def load(self, functions: Mapping[Card, str]) -> None:
        """Put functions on cards as if they had always been there; waits for the traits.

        ``NONE`` empties a card. The cards must not be in use. This is a test's beginning: it
        passes by Cyborg and leaves nothing in the cards' journal.
        """
        for card, function in functions.items():
            path = self._cloud.state / "cards" / f"{card.key}.json"
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps({"function": function, "at": time.time()}))
            draft.replace(path)

        def reported() -> bool:
            return all(
                f"CUSTOM_FPGA_FUNCTION_{function}" in self.traits(card)
                for card, function in functions.items()
            )

        eventually(reported)

    def bitstream(self, function: str, **behaviour: object) -> tuple[str, str]:
        """An image of a bitstream: its id and sha256. ``behaviour``: ``seconds``, ``fail``..."""
        data = json.dumps({"function": function, "seconds": 1.0, **behaviour}).encode()
        image = self._admin.create_image(
            f"{function.lower()}-bitstream",
            data=data,
            disk_format="raw",
            container_format="bare",
            visibility="public",
            wait=True,
            allow_duplicates=True,
        )
        return image.id, hashlib.sha256(data).hexdigest()

    def _provider(self, name: str) -> str:
        answer = self._admin.placement.get(
            f"/resource_providers?name={name}", microversion=PLACEMENT
        )
        ((found),) = answer.json()["resource_providers"]
        return str(found["uuid"])


class Changeover:
    """A running ``changeover up``: spoken to through its command line, looked at in its database.

    A command costs a second of imports; what is polled is read from the database.
    """

    def __init__(self, home: Path, env: Mapping[str, str], database: Database) -> None:
        self.home = home
        self.env = dict(env)
        self.database = database

    def says(self, *words: str) -> Any:
        """What a command answers with ``--json``; fails if it refuses."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, f"changeover {' '.join(words)}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command."""
        return subprocess.run(
            [command(), *words],
            env=self.env,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def boot_of(self, server: str) -> Boot | None:
        """The boot of a failed server."""
        with self.database.read() as tx:
            return tx.boots.of_server(server)

    def outcome(self, server: str, *, within: float = DEADLINE) -> Boot:
        """The boot of a failed server once it is over."""

        def look() -> Boot | None:
            boot = self.boot_of(server)
            return boot if boot is not None and boot.state in BOOT_OVER else None

        return eventually(look, within=within)

    def changeovers(self) -> list[ChangeoverRow]:
        """All changeovers, newest first."""
        with self.database.read() as tx:
            return tx.changeovers.latest(1000)

    def settled(self) -> None:
        """Wait until no device is between two functions; a quarantined one waits for a person."""

        def look() -> bool:
            return all(row.state not in CHANGEOVER_MOVING for row in self.changeovers())

        eventually(look)


def checks(told: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """What ``doctor --json`` found, by the checks' ids."""
    assert told.returncode in {0, 3}, told.stdout + told.stderr
    return {check["id"]: check for check in json.loads(told.stdout)}


def command() -> Path:
    """The installed ``changeover``."""
    return Path(sys.executable).with_name("changeover")


def environment(cloud: Cloud, home: Path, **settings: object) -> dict[str, str]:
    """The environment of a deployment against the cloud."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OS_", "CHANGEOVER_"))}
    wanted = {
        "state_dir": home,
        "cloud": "poolmgr",
        "notification_url": cloud.notification_url,
        **settings,
    }
    return {
        **kept,
        "OS_CLIENT_CONFIG_FILE": str(cloud.clouds_yaml),
        **{
            f"CHANGEOVER_{name.upper()}": value if isinstance(value, str) else (
                str(value) if isinstance(value, Path) else json.dumps(value)
            )
            for name, value in wanted.items()
        },
    }  # fmt: skip
