"""Sending a callback to where its owner listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Webhook(Protocol):
    """One POST. Safe to call from several threads at once."""

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send ``body``; returns if the receiver said 2xx.

        Raises :class:`~changeover.models.errors.Retry` in every other case, with a message that
        says what was met: nobody answered in time, another status, a redirect (none is followed).
        """
        ...
