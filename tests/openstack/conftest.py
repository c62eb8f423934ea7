"""Fixtures of the tests against a real OpenStack: see docs/openstack.md, "Testing".

``cloud`` is the one that ``tests/openstack/up.py`` runs already (in ``build/openstack``, or where
``$CHANGEOVER_OPENSTACK`` says), else one that is started for this run and ends with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from harness import judge
from harness.catalogs import catalog_of_rules
from harness.client import Cards, Changeover, Cloud, command, environment, eventually
from harness.deployment import deployed
from harness.identity import give_trust
from harness.install import FOLDER, TREE
from harness.providers import Providers
from harness.servers import Servers, sweep
from harness.timing import Rescue, table, write
from openstack.connection import Connection
from psycopg import sql

from changeover.worker import flock
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.adapters.servers_nova import NovaServers
from changeover.worker.embedded.child import start_child

START_SECONDS = 1500.0
"""How long the first start may take: it installs OpenStack."""

TEST_SECONDS = 900


_PASSWORD = "secret"  # noqa: S105 - of users that live as long as the test

_RESCUES: list[Rescue] = []
_NOTES: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print where the time of rescues went."""
    if _RESCUES:
        path = TREE / "build" / "openstack-timing.json"
        write(_RESCUES, path)
        terminalreporter.section("rescues")
        for line in (*table(_RESCUES), *_NOTES, f"as JSON: {path}"):
            terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test time to wait for the cloud; let the SDK warn of its own plans."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))
            for warning in ("RemovedInSDK50Warning", "RemovedInSDK60Warning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::openstack.warnings.{warning}"))


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """The real OpenStack."""
    state = Path(os.environ.get("CHANGEOVER_OPENSTACK") or TREE / "build" / "openstack").resolve()
    ready = state / "cloud.json"
    with ExitStack() as stack:
        if not flock.held(state / "lock"):
            ready.unlink(missing_ok=True)
            runner = stack.enter_context(
                start_child(
                    [sys.executable, FOLDER / "up.py", "--state", state],
                    name="up.py",
                    log_path=state.parent / "openstack.log",
                    on_parent_death=signal.SIGTERM,
                )
            )
            runner.wait_until(ready.exists, timeout=START_SECONDS)
        eventually(ready.exists, within=START_SECONDS)
        found = Cloud.of(state)
        yield found
        # Whatever the tests were about: this must never have happened.
        assert judge.judge_cards(found) == []


@pytest.fixture(scope="session")
def admin(cloud: Cloud) -> Connection:
    """The administrator."""
    return cloud.connect("admin")


@pytest.fixture(scope="session")
def alice(cloud: Cloud) -> Connection:
    """A user: member of the project tenant-a."""
    return cloud.connect("alice")


@pytest.fixture(scope="session")
def bob(cloud: Cloud) -> Connection:
    """A user: member of the project tenant-b, with Nova's default quotas."""
    return cloud.connect("bob")


@pytest.fixture(scope="session")
def poolmgr(cloud: Cloud) -> Connection:
    """The user that Changeover runs as."""
    return cloud.connect("poolmgr")


@pytest.fixture(scope="session")
def cards(cloud: Cloud, admin: Connection) -> Cards:
    """The simulated cards that Cyborg programs."""
    return Cards(cloud, admin)


@pytest.fixture(scope="session")
def trust(alice: Connection, poolmgr: Connection) -> str:
    """Alice trusts Changeover to boot servers in her name; the trust's id."""
    return give_trust(alice, poolmgr)


@pytest.fixture(scope="session")
def rescues() -> list[Rescue]:
    """What was measured: tests append to it."""
    return _RESCUES


@pytest.fixture(scope="session")
def notes() -> list[str]:
    """Lines for the summary: tests append to it."""
    return _NOTES


@pytest.fixture
def servers(admin: Connection) -> Iterator[Servers]:
    """Boots servers; every server of the cloud is deleted when the test is over."""
    yield Servers(admin)
    sweep(admin)


@pytest.fixture
def providers(admin: Connection) -> Iterator[Providers]:
    """Makes providers below compute hosts, gone when the test and its servers are."""
    made = Providers(admin)
    yield made
    sweep(admin)
    made.remove()


@pytest.fixture
def nova(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[NovaServers]:
    """Nova as Changeover uses it."""
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(cloud.clouds_yaml))
    made = NovaServers.from_cloud("poolmgr", SystemClock(), longest_request_seconds=60.0)
    yield made
    made.close()


@pytest.fixture
def doctor(
    cloud: Cloud, cards: Cards, tmp_path: Path
) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    """Runs ``doctor --json`` as the user that a clouds.yaml names, with a catalog for all cards."""

    def ask(clouds: Path) -> subprocess.CompletedProcess[str]:
        catalog = tmp_path / "catalog.yaml"
        catalog.write_text(
            json.dumps(catalog_of_rules(cards, "EXAMINED", all={"source": "cyborg"}))
        )
        env = environment(cloud, tmp_path, catalog=catalog, request_timeout_seconds=60.0)
        env["OS_CLIENT_CONFIG_FILE"] = str(clouds)
        return subprocess.run(
            [command(), "doctor", "--json"],
            env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    return ask


@pytest.fixture
def user_with(admin: Connection, cloud: Cloud, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes a user with some roles in the project service; gives the clouds.yaml that names it."""
    made = []

    def make(*roles: str) -> Path:
        name = f"user-{uuid4().hex[:8]}"
        user = admin.identity.create_user(name=name, password=_PASSWORD)
        made.append(user)
        project = admin.identity.find_project("service")
        for role in roles:
            found = admin.identity.find_role(role)
            admin.identity.assign_project_role_to_user(project, user, found)
        clouds = json.loads(cloud.clouds_yaml.read_text())
        auth = clouds["clouds"]["poolmgr"]["auth"]
        clouds["clouds"]["poolmgr"]["auth"] = {**auth, "username": name, "password": _PASSWORD}
        path = tmp_path / "clouds.yaml"
        path.write_text(json.dumps(clouds))
        return path

    yield make
    for user in made:
        admin.identity.delete_user(user)


@pytest.fixture(scope="session")
def new_database(postgres_url: str) -> Callable[[], str]:
    """Makes an empty PostgreSQL database; its URL."""

    def make() -> str:
        name = f"changeover_{uuid4().hex[:8]}"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return f"{postgres_url.rpartition('/')[0]}/{name}"

    return make


@pytest.fixture
def changeover(
    cloud: Cloud, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Changeover]]:
    """Starts ``changeover up`` against the cloud: ``changeover(catalog, **settings)``.

    ``catalog`` is the catalog's content; ``postgresql=True`` for that database, else SQLite.
    """
    with ExitStack() as stack:

        def start(
            catalog: dict[str, Any], *, postgresql: bool = False, **settings: object
        ) -> Changeover:
            if postgresql:
                settings["database_url"] = request.getfixturevalue("new_database")()
            return stack.enter_context(deployed(cloud, tmp_path / "up", catalog, **settings))

        yield start
