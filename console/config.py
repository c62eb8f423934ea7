"""Configuration: check all of it, show what is in force, print a commented example."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from changeover.console.desk import Desk
from changeover.console.failures import ASK_OPERATOR, REFUSED, TRY_AGAIN, status_of
from changeover.console.render import Column, Output
from changeover.models.errors import ChangeoverError

if TYPE_CHECKING:
    from changeover.worker.settings import Settings

Verdict = Literal["ok", "warning", "failed"]

CONNECT_SECONDS = 3
LEAST_SQLITE = (3, 35, 0)
LEAST_POSTGRESQL = 12

_SECRET_WORDS = ("pass", "secret", "token", "key")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. ``status``: the exit status if it failed."""

    name: str
    verdict: Verdict
    said: str
    status: int = 0


def check(desk: Desk, out: Output) -> int:
    """Look at everything; returns the exit status."""
    checks = list(_checks(desk))
    if out.as_json:
        out.document([{"check": c.name, "verdict": c.verdict, "said": c.said} for c in checks])
    else:
        for c in checks:
            first, *more = c.said.splitlines() or [""]
            out.line(f"{c.verdict:<8} {c.name:<14} {first}")
            for line in more:
                out.line(f"{'':<23} {line}")
    failed = {c.status for c in checks if c.verdict == "failed"}
    return next(
        (s for s in (REFUSED, ASK_OPERATOR, TRY_AGAIN) if s in failed), max(failed, default=0)
    )


def _checks(desk: Desk) -> Iterator[Check]:
    yield from _versions()
    first = _tried("settings", lambda: _settings(desk))
    yield first
    if first.verdict == "failed":
        return
    yield from _unknown()
    settings = desk.settings
    yield _tried("catalog", lambda: _catalog(desk), absent=_makes_catalog(settings))
    yield _tried("database", lambda: _database(desk), absent=_makes_database(settings))
    yield _tried("broker", lambda: _broker(_broker_url(desk)), absent=settings.broker_url is None)
    if (url := settings.notifications) is not None:
        yield _tried("notifications", lambda: _broker(url))
    embedded = settings.cloud is None and settings.placement_endpoint is None
    yield _tried("placement", lambda: _placement(desk), absent=embedded)


def _tried(name: str, look: Callable[[], str], *, absent: bool = False) -> Check:
    """A check. ``absent``: an embedded part that is not running yet is no failure."""
    from sqlalchemy.exc import SQLAlchemyError

    from changeover.console.failures import database_error

    try:
        return Check(name, "ok", look())
    except ChangeoverError as exc:
        verdict: Verdict = "warning" if absent else "failed"
        return Check(name, verdict, exc.message, status_of(exc))
    except SQLAlchemyError as exc:
        return Check(name, "failed", database_error(exc) or str(exc), TRY_AGAIN)


def _versions() -> Iterator[Check]:
    from changeover.worker.versions import KNOWN_BAD, installed

    found = installed()
    for package, number in found.items():
        if (package, number) in KNOWN_BAD:
            yield Check(f"{package} {number}", "warning", KNOWN_BAD[package, number])
    python = ".".join(map(str, sys.version_info[:3]))
    named = [f"{package} {number}" for package, number in found.items()]
    yield Check("versions", "ok", ", ".join([f"python {python}", *named]))
    if sqlite3.sqlite_version_info < LEAST_SQLITE:
        least = ".".join(map(str, LEAST_SQLITE))
        said = f"Python's SQLite is {sqlite3.sqlite_version}: {least} is needed, or PostgreSQL"
        yield Check("sqlite", "warning", said)


def _settings(desk: Desk) -> str:
    from changeover.worker.secret_files import secret_files, secrets_dir
    from changeover.worker.settings import config_file

    _ = desk.settings
    file = config_file()
    said = f"from {file} and the environment" if file else "defaults and the environment; no file"
    if found := secret_files():
        said += f"; {len(found)} secret files in {secrets_dir()}"
    return said


def _unknown() -> Iterator[Check]:
    from changeover.worker.settings import unknown

    for name, meant in unknown().items():
        said = f"{name}: there is no such setting, it has no effect"
        yield Check("settings", "warning", f"{said} (nearest: {meant})" if meant else said)


def _makes_catalog(settings: Settings) -> bool:
    """Whether ``changeover up`` would write the catalog that is missing."""
    if settings.cloud is not None or settings.catalog is not None:
        return False
    return not (settings.state_dir / "catalog.yaml").exists()


def _makes_database(settings: Settings) -> bool:
    """Whether ``changeover up`` would make the database that is missing."""
    return settings.database_url is None and not (settings.state_dir / "changeover.sqlite").exists()


def _catalog(desk: Desk) -> str:
    from changeover.worker.bootstrap import load_catalog

    catalog = load_catalog(desk.settings)
    path = desk.settings.catalog or desk.settings.state_dir / "catalog.yaml"
    return (
        f"{path}: {len(catalog.devices)} devices, {len(catalog.discover)} rules, "
        f"{len(catalog.functions)} functions, {len(catalog.models)} models, "
        f"{len(catalog.pools)} pools"
    )


def _database(desk: Desk) -> str:
    from sqlalchemy import text

    engine = desk.database.engine
    with desk.database.read() as tx:
        if engine.dialect.name == "sqlite":
            return f"SQLite {sqlite3.sqlite_version}, of this version's schema"
        number = str(tx.connection.execute(text("SHOW server_version")).scalar_one())
    if int(number.partition(".")[0]) < LEAST_POSTGRESQL:
        return f"PostgreSQL {number}: at least {LEAST_POSTGRESQL} was tested"
    return f"PostgreSQL {number}, of this version's schema"


def _broker_url(desk: Desk) -> str:
    from changeover.worker.bootstrap import broker_url

    return broker_url(desk.settings)


def _broker(url: str) -> str:
    from kombu import Connection
    from kombu.exceptions import KombuError

    from changeover.models.errors import Invalid, Unreachable

    options = {}
    if url.startswith("redis"):
        options = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": CONNECT_SECONDS}
    try:
        with Connection(url, connect_timeout=CONNECT_SECONDS, transport_options=options) as one:
            one.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
            return f"{mask(url)} answers{_server_version(one)}"
    except (KeyError, ValueError, ImportError) as exc:
        raise Invalid(f"{mask(url)}: is no broker's URL: redis://… or amqp://… ({exc})") from exc
    except (KombuError, OSError) as exc:
        raise Unreachable(
            f"{mask(url)} does not answer ({type(exc).__name__}): check that it runs and that "
            "the URL, user and password are right"
        ) from exc


def _server_version(connection: Any) -> str:
    if connection.transport.driver_type == "amqp":
        properties = connection.connection.server_properties
        return f": {properties.get('product', 'AMQP')} {properties.get('version', '')}".rstrip()
    client = getattr(connection.default_channel, "client", None)
    info = client.info("server") if client is not None else {}
    return f": {connection.transport.driver_type} {info.get('redis_version', '')}".rstrip()


def _placement(desk: Desk) -> str:
    _ = desk.placement
    return f"cloud {desk.settings.cloud}" if desk.settings.cloud else "answers"


# ---------------------------------------------------------------- show


def show(desk: Desk, out: Output) -> None:
    """Every setting in force and where it comes from; secrets are masked."""
    from pydantic import SecretStr

    from changeover.worker.settings import Settings, source_of

    settings = desk.settings
    rows = []
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = mask(value.get_secret_value())
        rows.append({"setting": name, "value": value, "source": source_of(name)})
    shown = (
        {**row, "value": "" if row["value"] is None else _as_toml(row["value"])} for row in rows
    )
    columns = [Column("setting", "setting"), Column("value", "value"), Column("source", "from")]
    out.listing(
        [{**row, "value": _jsonable(row["value"])} for row in rows], columns, shown, empty=""
    )


def _jsonable(value: Any) -> Any:
    from changeover.console.render import plain

    return plain(value)


def mask(url: str) -> str:
    """A URL without its password and without secrets in its query."""
    if "://" not in url:
        return "***"
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        user, colon, _ = parts.netloc.rpartition("@")[0].partition(":")
        login = f"{user}:***@" if colon else (f"{user}@" if user else "")
        query = [
            (key, "***" if any(word in key.lower() for word in _SECRET_WORDS) else value)
            for key, value in parse_qsl(parts.query, keep_blank_values=True)
        ]
    except ValueError:
        return "***"
    # Put together by hand: for schemes that it does not know, urlunsplit drops an empty host's //.
    asked = f"?{urlencode(query, safe='*/:')}" if query else ""
    return f"{parts.scheme}://{login}{host}{parts.path}{asked}"


# ---------------------------------------------------------------- example

SECTIONS = {
    "state_dir": "Where things are. What is not named is started by `changeover up` itself.",
    "settle_seconds": "Care and patience. Times are in seconds.",
    "enable_isolated_aggregate_filtering": "As in nova.conf of nova-scheduler, [scheduler]: it "
    "decides what Placement is asked.",
    "dwell_seconds": "Budgets: what may be changed at once. Without a number there is no bound.",
    "ageing_seconds": "Fairness, and how the work is done.",
    "callbacks": "Who is told what became of boots; secrets are better off in files.",
    "log_format": "Logs go to standard error.",
}
"""Headings of the example, each before the setting that it begins with."""

EXAMPLES: dict[str, Any] = {
    "state_dir": "/var/lib/changeover",
    "database_url": "postgresql://changeover@db.example.org/changeover",
    "database_password": "…",
    "broker_url": "redis://broker.example.org:6379/0",
    "broker_password": "…",
    "notification_url": "amqp://changeover@rabbit.example.org:5672//",
    "notification_password": "…",
    "cloud": "mycloud",
    "recreate": "opted-in",
    "placement_endpoint": "http://127.0.0.1:8778",
    "catalog": "/etc/changeover/catalog.yaml",
    "max_changeovers": 20,
    "max_changeovers_per_host": 2,
    "max_changeovers_per_function": 10,
    "max_changeovers_per_hour": 100,
    "project_shares": {"research": 2.0},
    "host": "compute1",
    "callbacks": {
        "default": {
            "url": "https://hooks.example.org/changeover",
            "key_id": "1",
            "secret_file": "/etc/changeover/callback.key",
        }
    },
}
"""What settings without a default could be."""


def example() -> str:
    """Every setting, commented out, with its meaning and its default."""
    from changeover.worker.settings import Settings

    lines = [
        "# Settings of Changeover. Each may also be given as an environment variable, which wins:",
        "# CHANGEOVER_ and the name in capitals. This file is the one that CHANGEOVER_CONFIG",
        "# names, else ./changeover.toml, else /etc/changeover/changeover.toml. Keep passwords out",
        "# of it: give each in a file of its own, for example changeover_database_password, in the",
        "# directory that CHANGEOVER_SECRETS_DIR names, else /run/secrets. What is commented out",
        "# is the default, or an example where there is none.",
    ]
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            lines += ["", f"# --- {SECTIONS[name]}"]
        value = EXAMPLES.get(name, field.get_default(call_default_factory=True))
        if value is None:
            value = _of_kind(field.annotation)
        said = field.description or ", ".join(_choices(field.annotation))
        lines += ["", f"# {said}", f"#{name} = {_as_toml(value)}"]
    return "\n".join(lines) + "\n"


def _of_kind(annotation: Any) -> Any:
    """What a setting could be that has neither default nor example."""
    from typing import get_args

    kinds = get_args(annotation) or (annotation,)
    return next(
        (value for kind, value in ((bool, True), (int, 10), (float, 60.0)) if kind in kinds), "name"
    )


def _choices(annotation: Any) -> list[str]:
    from typing import get_args

    return [f'"{choice}"' for choice in get_args(annotation)]


def _as_toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, int) else repr(value)
    if isinstance(value, (list, tuple, frozenset)):
        return f"[{', '.join(_as_toml(item) for item in value)}]"
    if isinstance(value, dict):
        inner = ", ".join(f"{key} = {_as_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
