"""Logs: one JSON line each, whoever wrote it, and no secret in any."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changeover.worker.logs import hide_secrets

SECRET = "hunter2"  # noqa: S105 - a made-up one


def hidden(**event: Any) -> dict[str, Any]:
    return dict(hide_secrets(None, "info", dict(event)))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://nova:hunter2@host:5672//", "amqp://nova:***@host:5672//"),
        ("redis://:hunter2@host/0", "redis://:***@host/0"),
        ("redis+socket://:hunter2@/run/x.sock", "redis+socket://:***@/run/x.sock"),
        ("postgresql+psycopg://u:hunt@er2@h/db", "postgresql+psycopg://u:***@h/db"),
        ("a://u:hunter2@h1,a://v:hunter2@h2", "a://u:***@h1,a://v:***@h2"),
        ("two a://u:hunter2@h b://v:hunter2@i.", "two a://u:***@h b://v:***@i."),
        ("password=hunter2 host=h", "password=*** host=h"),
        ("OS_PASSWORD=hunter2", "OS_PASSWORD=***"),
        ("password: hunter2, next", "password: ***, next"),
        ("X-Auth-Token: hunter2", "X-Auth-Token: ***"),
        ("X-Subject-Token: hunter2", "X-Subject-Token: ***"),
        ("Authorization: Bearer hunter2", "Authorization: Bearer ***"),
        ("load --password hunter2 -v", "load --password *** -v"),
        ("{'password': 'hunter2', 'x': 1}", "{'password': '***', 'x': 1}"),
        ('{"auth_token": "hunter2"}', '{"auth_token": "***"}'),
        ('{"adminPass": "hunter2"}', '{"adminPass": "***"}'),
        ('{"secret": "two words hunter2"}', '{"secret": "***"}'),
        (r'{"secret": "quo\"te hunter2"}', '{"secret": "***"}'),
        (r"{\"secret\": \"hunter2\", \"x\": 1}", r"{\"secret\": \"***\", \"x\": 1}"),
        ('password="hunter2', 'password="***'),
        ("client_secret=hunter2&x=1", "client_secret=***"),
        # what is none
        ("http://host:8080/path", "http://host:8080/path"),
        ("no password was given", "no password was given"),
        ("mail to a@b.c", "mail to a@b.c"),
        ("amqp://host//", "amqp://host//"),
        ("", ""),
    ],
)
def test_secrets_in_text(text: str, shown: str) -> None:
    assert hidden(event=text, other=text) == {"event": shown, "other": shown}


@pytest.mark.parametrize(
    "value",
    [
        f"amqp://u:{SECRET}@h",
        {"url": f"amqp://u:{SECRET}@h"},
        {"deep": [{"password": SECRET}]},
        [f"password={SECRET}"],
        (f"password={SECRET}",),
        {f"password={SECRET}"},
        ValueError(f"cannot connect to amqp://u:{SECRET}@h"),
        f"amqp://u:{SECRET}@h".encode(),
    ],
)
def test_secrets_in_any_value(value: object) -> None:
    assert SECRET not in repr(hidden(event="x", value=value))


@pytest.mark.parametrize("name", ["password", "auth_token", "adminPass", "client_secret", "Secret"])
def test_secrets_by_name(name: str) -> None:
    assert hidden(**{name: SECRET}) == {name: "***"}
    assert hidden(facts={name: SECRET, "x": 1}) == {"facts": {name: "***", "x": 1}}
    assert hidden(facts={name: [SECRET]}) == {"facts": {name: "***"}}


def test_everything_else_is_left_alone() -> None:
    event = {"event": "a.b", "n": 1, "f": 1.5, "b": True, "none": None, "l": [1, {"x": "y"}]}
    assert hidden(**event) == event
    assert hidden(token_count=3, password=None) == {"token_count": 3, "password": None}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=10), JSON, max_size=4))
def test_any_event_is_shown(event: dict[str, Any]) -> None:
    shown = hide_secrets(None, "info", dict(event))
    assert set(shown) == set(event)
    json.dumps(shown)


@pytest.mark.parametrize(
    "text",
    [
        "://" * 20_000,
        "a://b:" + "@" * 50_000,
        "password" * 10_000,
        'password="' * 5_000,
        "password=" + "\\" * 50_000,
        "a://u:p" + "@x" * 20_000,
    ],
    ids=range(6),
)
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    hidden(event=text)
    assert time.process_time() - started < 2.0


PROGRAM = """
import logging, sys, warnings
import structlog
from changeover.worker.logs import configure_logs
from changeover.worker.settings import Settings

configure_logs(Settings(log_format=sys.argv[1], log_level=sys.argv[2]))
log = structlog.get_logger("own")
log.info("own.line", url="amqp://u:hunter2@h", n=1)
log.debug("own.detail")
with structlog.contextvars.bound_contextvars(boot="b1"):
    log.info("own.bound")
    logging.getLogger("library").warning("library %s\\nsecond line", "password=hunter2")
try:
    raise ValueError("cannot reach redis://:hunter2@h/0")
except ValueError as error:
    log.exception("own.failed", error=error)
    logging.getLogger("library").exception("library failed")
logging.getLogger("library").warning("extra", extra={"password": "hunter2", "x": 1})
logging.getLogger("kombu.connection").info("noise")
logging.getLogger("kombu.connection").warning("kombu warns")
log.info("odd", value=object, text="\\ud800 \\x00 ☃", facts={"auth_token": "hunter2"})
"""


def lines(form: str, level: str) -> list[str]:
    """What a process of its own wrote: logging is global."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, form, level], capture_output=True, text=True, check=True
    )
    assert run.stdout == ""
    assert SECRET not in run.stderr
    assert "Logging error" not in run.stderr
    return run.stderr.splitlines()


def test_every_line_is_json() -> None:
    found = [json.loads(line) for line in lines("json", "info")]
    assert [f["event"] for f in found] == [
        "own.line",
        "own.bound",
        "library password=***\nsecond line",
        "own.failed",
        "library failed",
        "extra",
        "kombu warns",
        "odd",
    ]
    for line in found:
        assert {"event", "level", "logger", "timestamp"} <= set(line)
        assert line["timestamp"].endswith("Z")
    first, bound, library, failed, library_failed, extra, _, odd = found
    assert (first["logger"], first["level"], first["n"]) == ("own", "info", 1)
    assert first["url"] == "amqp://u:***@h"
    assert bound["boot"] == library["boot"] == "b1"
    assert "boot" not in failed
    for line in (failed, library_failed):
        assert line["level"] == "error"
        assert "ValueError: cannot reach redis://:***@h/0" in line["exception"]
    assert (extra["x"], extra["password"]) == (1, "***")
    assert odd["facts"] == {"auth_token": "***"}


def test_lines_for_reading() -> None:
    text = "\n".join(lines("console", "warning"))
    assert "own.failed" in text
    assert "library failed" in text
    assert "own.line" not in text
    assert "\x1b[" not in text
