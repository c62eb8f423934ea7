"""Session-wide servers, each started when the first test asks for it.

A test whose server is not installed is skipped with the reason; with
``CHANGEOVER_TEST_REQUIRE_SERVICES=1`` it fails instead.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
import services

from changeover.models.errors import AskOperator
from changeover.worker.embedded.broker import start_broker
from changeover.worker.embedded.placement_service import start_placement

T = TypeVar("T")

_MEMORY = "/dev/shm"  # noqa: S108 - only the parent of private directories
_ENOUGH_BYTES = 4 * 1024**3


def pytest_configure() -> None:
    """Keep the tests' files in memory where there is room.

    Every commit waits for the disk otherwise. Processes are killed here, not machines: what was
    written is there all the same. TMPDIR, where it is set, is obeyed.
    """
    if "TMPDIR" in os.environ or not Path(_MEMORY).is_dir():
        return
    runs = not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
    if runs and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ENOUGH_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = _MEMORY


@pytest.fixture(scope="session")
def placement_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a real Placement with noauth2, on SQLite; shared, so use random names."""
    for server in _served(lambda: start_placement(tmp_path_factory.mktemp("placement"))):
        yield server.url


@pytest.fixture(scope="session")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an embedded Valkey on a unix socket."""
    for server in _served(lambda: start_broker(tmp_path_factory.mktemp("broker"))):
        yield server.url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server's own database; make others beside it as needed."""
    yield from _served(services.postgres)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis."""
    yield from _served(services.redis)


@pytest.fixture(scope="session")
def rabbitmq_url() -> Iterator[str]:
    """The URL of a RabbitMQ."""
    yield from _served(services.rabbitmq)


@pytest.fixture(scope="session")
def mariadb_url() -> Iterator[str]:
    """The URL of a MariaDB's database ``test``, in the form that PyMySQL takes."""
    yield from _served(services.mariadb)


def _served(start: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(start())
        except (services.MissingError, AskOperator) as error:
            _missing(str(error))
        yield server


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CHANGEOVER_TEST_REQUIRE_SERVICES") == "1":
        pytest.fail(f"CHANGEOVER_TEST_REQUIRE_SERVICES=1, but {reason}", pytrace=False)
    pytest.skip(reason)
