"""A changeover: one device's move to one function; and the fences that it holds."""

from __future__ import annotations

from dataclasses import dataclass

from changeover.models.placement import ProviderState
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState


@dataclass(frozen=True, slots=True)
class Changeover:
    """The row of a changeover. Times are seconds since the epoch.

    ``due_at``: nothing is to be done before. ``tries`` counts calls to the driver, ``sent_at``
    and ``token`` belong to the last one and are cleared when its outcome is known.
    ``failures`` counts consecutive remote failures, for backing off. ``read_before`` is the
    function that the driver read before the last call (``None``: it could not say). ``undoes`` is
    the changeover whose program this one took away before it had served anybody.
    """

    id: str
    device: str
    host: str
    from_function: str | None
    to_function: str
    kind: str
    subject: str | None
    plan_id: str | None
    state: ChangeoverState
    reason: Reason
    priority: float
    created_at: float
    updated_at: float
    due_at: float
    tries: int
    failures: int
    cancel: bool
    token: str | None = None
    sent_at: float | None = None
    programmed_at: float | None = None
    read_before: str | None = None
    finished_at: float | None = None
    lease_owner: str | None = None
    lease_until: float = 0.0
    undoes: str | None = None


@dataclass(frozen=True, slots=True)
class Fence:
    """One provider that a changeover keeps closed, and what it offered before.

    The row exists from before the first write until the provider is published or restored: it
    is the write-ahead journal that suffices to undo the fence blind. Its key is the provider, so
    no two live changeovers can ever hold the same one.
    """

    provider: str
    changeover: str
    before: ProviderState | None
    generation: int | None
    fenced_at: float | None
