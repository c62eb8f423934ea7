"""Callbacks: what is told to the owners of boots, and to whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from changeover.models.states import CallbackState

DEFAULT = "default"
"""The target of projects that have none of their own."""


class CallbackTarget(BaseModel):
    """Where a project's callbacks go. Anybody who knows the secret can sign as Changeover.

    ``key_id`` travels with each signature, so that a receiver can hold two keys while one is
    replaced. ``allow_http`` permits a URL without TLS that is not on this machine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str = Field(max_length=2048)
    key_id: str = Field(default="1", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    secret: SecretStr | None = None
    secret_file: Path | None = None
    allow_http: bool = False

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if (self.secret is None) == (self.secret_file is None):
            raise ValueError("name either a secret or a secret_file")
        if self.secret is not None and len(self.secret.get_secret_value()) < LEAST_SECRET:
            raise ValueError(f"the secret must have at least {LEAST_SECRET} characters")
        return self

    @model_validator(mode="after")
    def _safe_url(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in {"https", "http"} or not parts.hostname:
            raise ValueError("url: must be https://HOST/…")
        if parts.username is not None or parts.fragment or not self.url.isascii():
            raise ValueError("url: must have no user, password or fragment, and be ASCII")
        if any(c.isspace() or not c.isprintable() for c in self.url):
            raise ValueError("url: must have no blanks")
        _ = parts.port  # raises ValueError where it is no number
        if parts.scheme == "http" and not (self.allow_http or _is_loopback(parts.hostname)):
            raise ValueError("url: must be https, unless it is on loopback or allow_http is set")
        return self


LEAST_SECRET = 16
"""Characters of a secret that signs callbacks."""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Callback:
    """The row of a callback: one event for one target. Times are seconds since the epoch.

    ``id`` is the event's, the same at every sending; ``kind`` its type; ``data`` what it tells.
    ``tries`` counts sendings, ``error`` is what the last one met.
    """

    id: str
    kind: str
    target: str
    boot: str
    data: Mapping[str, Any]
    state: CallbackState
    created_at: float
    due_at: float
    tries: int = 0
    error: str | None = None
    finished_at: float | None = None
