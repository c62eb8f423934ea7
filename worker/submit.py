"""Submit: boots that are asked for, queued until they can succeed.

No server has failed: the blueprint in the boot's row is all there is, and all that is needed. From
here on such a boot is judged, served and created like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from uuid import uuid4

from changeover.models.blueprint import Blueprint
from changeover.models.boot import Boot
from changeover.models.errors import Busy, Invalid, Unreachable
from changeover.models.flavor import Image, RequestSpec
from changeover.models.reasons import Reason
from changeover.models.server_request import ServerRequest
from changeover.models.states import BootState
from changeover.policies.hardware import RequestFilter
from changeover.policies.request import FlavorRequest, request_of_spec
from changeover.worker.ports.clock import Clock
from changeover.worker.ports.requester import Requester
from changeover.worker.queues import JUDGE, PLAN_QUEUE
from changeover.worker.store import Database, Tx

TRUST_MARGIN_SECONDS = 3600.0
"""A trust outlasts the patience by so much: what was begun in time is finished."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The queued boots, and whether they were queued now (or by an earlier call of that key)."""

    boots: tuple[Boot, ...]
    fresh: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """How a request is treated. ``key``: sent twice with it, a request counts once."""

    patience: float
    priority: float = 1.0
    key: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.patience < float("inf"):
            raise Invalid(f"--patience must be above 0 seconds, not {self.patience:g}")
        if not 0 < self.priority < float("inf"):
            raise Invalid(f"--priority must be above 0, not {self.priority:g}")
        if self.key is not None and not 0 < len(self.key) <= MOST_KEY:
            raise Invalid(f"--idempotency-key must have 1 to {MOST_KEY} characters")


MOST_KEY = 255


def submit(
    database: Database,
    clock: Clock,
    requester: Requester,
    request: ServerRequest,
    terms: Terms,
    filters: Collection[RequestFilter] = (),
) -> Submitted:
    """Queue the request's servers, all of them or none.

    Everything that can be looked up is looked up now, in the requester's name: raises
    :class:`~changeover.models.errors.NotFound` or :class:`Invalid` for what could never be
    created. ``filters``: those of Nova's that are switched on. Once this returns, nothing but the
    database is needed for the request to survive.
    """
    blueprint, asked, flavor = _resolved(requester, request.blueprint, filters)
    resolved = ServerRequest(blueprint, request.count)
    submission = _submission(requester, terms.key)
    with database.read() as tx:
        there = _there(tx, submission, resolved)
    if there is not None:
        return there
    now = clock.now()
    trust = requester.entrust(now + terms.patience + TRUST_MARGIN_SECONDS)
    group = f"request-{uuid4()}"
    boots = [
        Boot(
            id=str(uuid4()),
            server=None,
            project=requester.project,
            user=requester.user,
            name=flavor,
            group_id=group,
            request=asked.request,
            request_key=asked.request.key,
            device_profile=asked.device_profile,
            state=BootState.RECEIVED,
            reason=Reason("boot.received", "asked for, not judged yet"),
            priority=terms.priority,
            failed_at=now,
            received_at=now,
            expires_at=now + terms.patience,
            wake_at=now,
            attempt=0,
            blueprint=one,
            origin="request",
            trust=trust,
            submission=None if submission is None else f"{submission}.{place:04}",
        )
        for place, one in enumerate(resolved.blueprints())
    ]
    try:
        with database.write() as tx:
            there = _there(tx, submission, resolved)
            if there is None:
                _queue(tx, boots, now)
    except Unreachable:
        raise  # the commit may have worked, and then the trust is needed; else it expires by itself
    except BaseException:
        _withdraw(requester, trust)
        raise
    if there is not None:
        _withdraw(requester, trust)
        return there
    return Submitted(tuple(boots), fresh=True)


def _resolved(
    requester: Requester, blueprint: Blueprint, filters: Collection[RequestFilter]
) -> tuple[Blueprint, FlavorRequest, str]:
    """The blueprint with ids instead of names, and what it asks of Placement."""
    flavor = requester.flavor(blueprint.flavor)
    image = None if blueprint.image is None else requester.image(blueprint.image)
    if blueprint.key_name is not None:
        requester.check_key(blueprint.key_name)
    networks = blueprint.networks
    if networks is not None and not isinstance(networks, str):
        networks = tuple(
            network
            if network.uuid is None
            else network.model_copy(update={"uuid": requester.network(network.uuid)})
            for network in networks
        )
    spec = RequestSpec(
        flavor=flavor,
        image=Image() if image is None else image,
        availability_zone=blueprint.availability_zone,
        force_hosts=() if blueprint.host is None else (blueprint.host,),
    )
    asked = request_of_spec(spec, filters)
    named = {
        "flavor": flavor.flavorid or flavor.name,
        "image": None if image is None else image.id,
        "networks": networks,
    }
    return blueprint.model_copy(update=named), asked, flavor.name


def _submission(requester: Requester, key: str | None) -> str | None:
    """What makes a request the same: its key, among those of its project and user."""
    if key is None:
        return None
    whose = f"{requester.project}\x00{requester.user}\x00{key}"
    return hashlib.sha256(whose.encode()).hexdigest()[:40]


def _there(tx: Tx, submission: str | None, request: ServerRequest) -> Submitted | None:
    """The boots that were queued under that key before; raises :class:`Invalid` for others."""
    boots = [] if submission is None else tx.boots.of_submission(submission)
    if not boots:
        return None
    if [boot.blueprint for boot in boots] != request.blueprints():
        raise Invalid(
            "--idempotency-key: was used for another request of this user already: "
            f"see `changeover explain {boots[0].id}`"
        )
    return Submitted(tuple(boots), fresh=False)


def _queue(tx: Tx, boots: list[Boot], now: float) -> None:
    for boot in boots:
        if not tx.boots.add(boot):
            raise Busy("the same request is being submitted this moment: send it again")
        tx.audit.add(now, "request", "boot.requested", boot.id, user=boot.user, trust=boot.trust)
    tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)


def _withdraw(requester: Requester, trust: str | None) -> None:
    if trust is not None:
        requester.withdraw(trust)
