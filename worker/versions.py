"""Versions with a defect that matters here, and what is done about it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType

PACKAGES = ("changeover", "celery", "kombu", "redis", "sqlalchemy", "openstack-placement")

KNOWN_BAD: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("celery", "5.7.0"): (
            "a worker on Redis that reconnects while it holds emulated acknowledgements dies: "
            "Changeover switches them off; run workers supervised, as `changeover up` does"
        ),
    }
)


def installed() -> dict[str, str]:
    """The versions of the packages that matter, of those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
