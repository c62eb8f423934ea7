"""Logs: one form for our own lines, Celery's and every library's; no secrets in any."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from changeover.worker.settings import Settings

_NAME = r"(?:(?:auth|subject)[_-]?token|password|passwd|admin_?pass|secret)"
_IS_SECRET = re.compile(_NAME, re.IGNORECASE)

_SECRET = re.compile(
    # scheme://user:PASSWORD@host, the user perhaps empty and the password perhaps with an @
    # (of bounded length: a log line must not take time that grows with its square);
    r"(?P<url>://[^:/@\s]{0,255}:)[^@\s]{1,512}+(?:@[^@/\s,\"']*(?=@))*(?=@)"
    # name="PASSWORD with blanks", quoted once or within a quoted text;
    rf"|(?P<quoted>{_NAME}\\*[\"']?\s*[=:]\s*(?P<quote>\\*[\"'])).*?(?=(?<!\\)(?P=quote)|$)"
    # name=PASSWORD, name: PASSWORD, --name PASSWORD and Bearer TOKEN.
    rf"|(?P<plain>{_NAME}\\*[\"']?\s*[=:]\s*|--{_NAME}\s+|\bbearer\s+)[^\s\"',}}\\]+",
    re.IGNORECASE | re.DOTALL,
)

NOISY = ("amqp", "kombu", "urllib3", "keystoneauth", "celery.redirected", "alembic")


def _hide(value: Any, name: object = "") -> Any:
    """The value without secrets: in its text, and whatever is called by a secret's name."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(name, str) and _IS_SECRET.search(name):
        return "***"
    if isinstance(value, str):
        return _SECRET.sub(lambda m: f"{m['url'] or m['quoted'] or m['plain']}***", value)
    if isinstance(value, Mapping):
        return {key: _hide(item, key) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_hide(item) for item in value]
    return _hide(repr(value))


def hide_secrets(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Mask credentials in URLs, in ``key=value`` text and by name, whoever logged them."""
    return {key: _hide(value, key) for key, value in event.items()}


def configure_logs(settings: Settings) -> None:
    """Send everything to standard error, as JSON lines or for reading."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                hide_secrets,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
