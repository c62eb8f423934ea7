"""The worker's entry with points armed: ``celery -A faults.armed_app worker``."""

from __future__ import annotations

from faults.points import from_environment

points = from_environment()

from changeover.worker.app import app  # noqa: E402 - only once the points are in

__all__ = ["app", "points"]
