"""A home for each test, and a runner of the command line in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog
from typer.testing import CliRunner, Result
from unit.console.home import Home, copy_of, fill, make_home

from changeover.console.cli import app
from changeover.models.errors import AskOperator
from changeover.worker.adapters.placement_http import HttpPlacement
from changeover.worker.embedded.placement_service import start_placement
from changeover.worker.simulator.fleet import build_fleet


@dataclass
class Told:
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.err)["error"]
        return found


@dataclass
class Teller:
    """Runs commands in this process."""

    home: Home

    def __call__(self, *words: str, stdin: str = "") -> Told:
        result: Result = CliRunner().invoke(app, list(words), input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Told(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def _filled(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = make_home(tmp_path_factory.mktemp("filled"))
    fill(made)
    made.database.dispose()
    return made


@pytest.fixture
def home(_filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A filled database and a catalog; no broker and no Placement."""
    yield from _in_it(copy_of(_filled, tmp_path), monkeypatch)


@pytest.fixture(scope="session")
def fleet_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Placement of these tests' own: providers' names are there only once."""
    try:
        server = start_placement(tmp_path_factory.mktemp("fleet"))
    except AskOperator as error:
        pytest.skip(str(error))
    with server:
        build_fleet(HttpPlacement.noauth(server.url))
        yield server.url


@pytest.fixture
def home_with_placement(
    _filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fleet_url: str
) -> Iterator[Home]:
    """The same, and its devices are in Placement."""
    yield from _in_it(copy_of(_filled, tmp_path, fleet_url), monkeypatch)


@pytest.fixture
def holder(fleet_url: str) -> Iterator[str]:
    """A consumer that holds nothing afterwards."""
    consumer = str(uuid4())
    yield consumer
    HttpPlacement.noauth(fleet_url).release(consumer)


def _in_it(made: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.chdir(made.path)
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    yield made
    made.database.dispose()


@pytest.fixture
def tell(home: Home) -> Teller:
    """Run a command in the home."""
    return Teller(home)
