"""Leases of Blazar, over its API v1.

A reservation of ``flavor:instance`` holds its flavor whole, as JSON in ``resource_properties``: so
what it will ask of Placement is known without asking Nova. ``virtual:instance`` and
``physical:host`` hold filters over properties of hosts; their words are handed on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from pydantic import ValidationError

from changeover.models.errors import Invalid
from changeover.models.flavor import Flavor
from changeover.models.placement import ResourceRequest
from changeover.models.reservation import Reservation
from changeover.policies.request import request_of_flavor
from changeover.worker.adapters.service_http import (
    HttpService,
    Timeouts,
    WrongFormError,
    a_text,
    an_array,
    an_object,
    failure,
    member,
)

log = structlog.get_logger(__name__)

_OVER: Final = {"TERMINATED", "TERMINATING", "DELETING", "ERROR"}
_MOST_WORDS: Final = 256


class BlazarReservations:
    """The port ``Reservations``. A service user with Blazar's admin role sees all projects'."""

    def __init__(self, blazar: HttpService) -> None:
        self._blazar = blazar

    @classmethod
    def from_cloud(
        cls, cloud: str | None, *, timeouts: Timeouts | None = None
    ) -> BlazarReservations:
        """For a cloud of clouds.yaml."""
        return cls(HttpService.from_cloud("Blazar", "reservation", cloud, timeouts=timeouts))

    def upcoming(self, now: float) -> list[Reservation]:
        """See :class:`~changeover.worker.ports.reservations.Reservations`."""
        answer = self._blazar.request("GET", "/leases", headers={"Accept": "application/json"})
        if not answer.ok:
            raise failure(answer)
        found = answer.parse(lambda body: list(reservations_of(body)))
        return [one for one in found if one.ends_at > now]


def reservations_of(body: Any) -> Iterator[Reservation]:
    """The reservations of an answer; raises ``WrongFormError``."""
    for item in an_array(member(body, "leases", "answer"), "leases"):
        lease = an_object(item, "lease")
        if lease.get("status") in _OVER:
            continue
        for one in an_array(member(lease, "reservations", "lease"), "reservations"):
            yield _reservation(lease, an_object(one, "reservation"))


def _reservation(lease: Mapping[str, Any], one: Mapping[str, Any]) -> Reservation:
    kind = a_text(member(one, "resource_type", "reservation"), "resource_type")
    units = one.get("amount", one.get("min", 1))
    if isinstance(units, bool) or not isinstance(units, int) or units < 0:
        raise WrongFormError("reservation: amount or min is no count")
    request, words = None, frozenset[str]()
    if kind == "flavor:instance":
        request = _request(one)
    else:
        words = frozenset(
            word
            for key in ("resource_properties", "hypervisor_properties")
            for word in _words(one.get(key))
        )
    return Reservation(
        id=a_text(member(one, "id", "reservation"), "id"),
        lease=a_text(member(lease, "id", "lease"), "id"),
        name=str(lease.get("name") or ""),
        project=str(lease.get("project_id") or ""),
        kind=kind,
        starts_at=_seconds(member(lease, "start_date", "lease")),
        ends_at=_seconds(member(lease, "end_date", "lease")),
        units=units,
        request=request,
        words=words,
    )


def _request(one: Mapping[str, Any]) -> ResourceRequest | None:
    """The request of the flavor that the reservation holds; a bad flavor is only that lease's."""
    try:
        flavor = an_object(json.loads(one.get("resource_properties") or ""), "flavor")
        named = Flavor.model_validate(
            {
                "name": flavor.get("name", flavor.get("original_name")),
                "flavorid": flavor.get("id", ""),
                "vcpus": flavor.get("vcpus"),
                "memory_mb": flavor.get("ram"),
                "root_gb": flavor.get("disk"),
                "ephemeral_gb": flavor.get("OS-FLV-EXT-DATA:ephemeral", 0),
                "swap": flavor.get("swap") or 0,
                "extra_specs": flavor.get("extra_specs"),
            }
        )
        return request_of_flavor(named).request
    except (ValueError, RecursionError, WrongFormError, ValidationError, Invalid) as exc:
        log.warning("blazar.flavor_not_understood", reservation=one.get("id"), why=str(exc)[:200])
        return None


def _words(text: object) -> Iterator[str]:
    """The words of a filter such as ``["==", "$trait", "CUSTOM_X"]``, without their marks."""
    try:
        level = [json.loads(text)] if isinstance(text, str) and text else []
    except (ValueError, RecursionError):
        return
    for _ in range(_MOST_WORDS):
        if not level:
            return
        item = level.pop()
        if isinstance(item, list):
            level.extend(item[:_MOST_WORDS])
        elif isinstance(item, str):
            yield item.removeprefix("$").removeprefix("trait:")


def _seconds(text: object) -> float:
    try:
        when = datetime.fromisoformat(text if isinstance(text, str) else "")
    except ValueError as exc:
        raise WrongFormError("lease: a date is none") from exc
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
