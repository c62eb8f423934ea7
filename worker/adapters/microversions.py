"""Microversions: which of them a service and this program both speak, and how a call names it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from changeover.models.errors import AskOperator
from changeover.worker.adapters.service_http import WrongFormError, a_text, member

Version = tuple[int, int]


class Microversions:
    """The newest that both sides speak, asked for until it is known; threads may ask at once.

    ``service_type`` names the service in headers and ``name`` in messages; ``least`` is what is
    needed and ``wanted`` the newest that is known here. ``ask`` gets the range that the service
    speaks.
    """

    def __init__(
        self,
        service_type: str,
        name: str,
        *,
        least: Version,
        wanted: Version,
        ask: Callable[[], tuple[Version, Version]],
    ) -> None:
        self._service_type = service_type
        self._name = name
        self._least = least
        self._wanted = wanted
        self._ask = ask
        self._spoken: Version | None = None

    def spoken(self) -> Version:
        """What both speak. Raises :class:`AskOperator` if there is none."""
        # Without a lock: behind one, all threads would wait for a silent service in turn.
        if self._spoken is None:
            least, most = self._ask()
            if most < self._least or least > self._wanted:
                raise AskOperator(
                    f"{self._name} speaks microversions {dotted(least)} to {dotted(most)}; "
                    f"Changeover needs {dotted(self._least)} (OpenStack Train) or later, best "
                    f"{dotted(self._wanted)}: upgrade {self._name}, or name another endpoint"
                )
            self._spoken = min(most, self._wanted)
        return self._spoken

    def forget(self) -> None:
        """Ask again: the service refused the version. Its processes may be of several releases."""
        self._spoken = None

    def header(self) -> dict[str, str]:
        """The header by which a call is made in that version."""
        return {"OpenStack-API-Version": f"{self._service_type} {dotted(self.spoken())}"}


def range_of(version: Any, newest: str) -> tuple[Version, Version]:
    """The range in a version document, whose member ``newest`` holds the upper end."""
    return (
        _version(member(version, "min_version", "version")),
        _version(member(version, newest, "version")),
    )


def dotted(version: Version) -> str:
    """As services write it: ``1.39``."""
    return f"{version[0]}.{version[1]}"


def _version(value: Any) -> Version:
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", a_text(value, "version"))
    if match is None:
        raise WrongFormError(f"{value!r} is no version")
    return int(match[1]), int(match[2])
