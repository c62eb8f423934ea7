"""An operator's programming task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from changeover.models.reasons import Reason
from changeover.models.states import TaskState

When = Literal["idle", "now-or-fail"]


@dataclass(frozen=True, slots=True)
class Task:
    """The row of a task: ``count`` devices (or the one named) shall offer ``function``.

    ``when``: wait until devices are idle, or fail at once if they are not. ``done`` counts the
    devices that this task has had programmed, or found offering the function already.
    """

    id: str
    function: str
    device: str | None
    host: str | None
    count: int
    when: When
    priority: float
    state: TaskState
    reason: Reason
    done: int
    created_at: float
    created_by: str
    finished_at: float | None = None
