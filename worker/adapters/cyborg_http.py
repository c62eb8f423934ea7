"""Cyborg over its HTTP API (v2): device profiles, deployables, and the call that programs one."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

from changeover.models.errors import Garbled, NotFound
from changeover.worker.adapters.service_http import (
    ALSO_OF_A_PROXY,
    DETAIL_CHARACTERS,
    Answer,
    HttpService,
    Timeouts,
    WrongFormError,
    a_count,
    a_text,
    an_array,
    an_object,
    failure,
    member,
)
from changeover.worker.ports.accelerators import Deployable

PROFILE_SECONDS: Final = 60.0
"""How long an answer about a device profile is believed."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class CyborgClient:
    """``Accelerators`` of a real cloud. Safe to call from several threads at once.

    The endpoint of the service catalog may end with ``/v2`` or not.
    """

    def __init__(
        self, service: HttpService, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._service = service
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._profiles: dict[str, tuple[float, tuple[Mapping[str, str], ...] | None]] = {}

    @classmethod
    def from_cloud(cls, cloud: str | None, *, timeouts: Timeouts | None = None) -> CyborgClient:
        """For a cloud of clouds.yaml (``None``: the one that the environment names)."""
        service = HttpService.from_cloud(
            "Cyborg", "accelerator", cloud, timeouts=timeouts, connections=8
        )
        return cls(service)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._service.close()

    def device_profile(self, name: str) -> Sequence[Mapping[str, str]] | None:
        """See :class:`~changeover.worker.ports.accelerators.Accelerators`."""
        now = self._monotonic()
        with self._lock:
            known = self._profiles.get(name)
        if known is not None and now - known[0] < PROFILE_SECONDS:
            return known[1]
        # Asked by Nova's own form: GET of one by name needs microversion 2.2.
        answer = self._get("/device_profiles", query=[("name", name)])
        found = checked(answer).parse(lambda value: _profiles(value, name))
        groups = found[0] if found else None
        with self._lock:
            self._profiles[name] = (now, groups)
        return groups

    def deployables(self) -> list[Deployable]:
        """See :class:`~changeover.worker.ports.accelerators.Accelerators`."""
        return checked(self._get("/deployables")).parse(_deployables)

    def deployable(self, uuid: str) -> Deployable:
        """See :class:`~changeover.worker.ports.accelerators.Accelerators`."""
        if _UUID.fullmatch(uuid) is None:
            raise NotFound(f"{uuid or 'an empty address'} is no uuid of a deployable", uuid=uuid)
        answer = self._get(f"/deployables/{quote(uuid)}")
        return checked(answer).parse(_deployable)

    def bound_to(self, provider: str) -> tuple[str, ...]:
        """The servers whose accelerator requests (ARQs) are bound to the provider."""
        users = checked(self._get("/accelerator_requests")).parse(_bound)
        return tuple(sorted(users.get(provider, ())))

    def _get(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Answer:
        return self._service.request("GET", self._service.version_path("/v2") + path, query=query)

    def program(self, uuid: str, image: str, *, wait_seconds: float) -> Answer:
        """Send one program call, whatever becomes of it; the answer is for the caller to judge.

        Cyborg answers when its agent has, or gives up after ``[DEFAULT] rpc_response_timeout``
        (60 s) with a 500 while the agent goes on. Raises what
        :meth:`~changeover.worker.adapters.service_http.HttpService.request` raises.
        """
        limits = replace(self._service.timeouts, read=wait_seconds, total=wait_seconds)
        value = [{"image_uuid": image}]
        return self._service.request(
            "PATCH",
            f"{self._service.version_path('/v2')}/deployables/{quote(uuid)}/program",
            body=[{"path": "/program", "op": "replace", "value": value}],
            timeouts=limits,
        )


def checked(answer: Answer) -> Answer:
    """The answer if it is a success; else what its status says."""
    if answer.ok:
        return answer
    if answer.status in ALSO_OF_A_PROXY and not own_words(answer):
        what = f"{answer.call}: {answer.status}: {answer.quoted()}"
        raise Garbled(f"{what} (not Cyborg's words, but those of something before it)")
    raise failure(answer, fault_of(answer))


def own_words(answer: Answer) -> bool:
    """Whether an error is Cyborg's own, not that of a proxy which did not find it."""
    try:
        return "error_message" in json.loads(answer.body)
    except (ValueError, TypeError, RecursionError):
        return False


def fault_of(answer: Answer) -> str:
    """What Cyborg says went wrong: its fault string without the agent's stack trace."""
    try:
        message = json.loads(answer.body)["error_message"]
        fault = json.loads(message) if isinstance(message, str) else message
        said = str(fault["faultstring"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return answer.quoted()
    first = re.split(r"\n(?:Traceback|\['Traceback)", said, maxsplit=1)[0]
    return " ".join(first.split())[:DETAIL_CHARACTERS]


def _profiles(value: Any, name: str) -> list[tuple[Mapping[str, str], ...]]:
    key = "device_profiles"
    return [
        tuple(_group(group) for group in an_array(member(item, "groups", name), "groups"))
        for item in an_array(member(value, key, "answer"), key)
        if member(item, "name", key) == name
    ]


def _group(value: Any) -> Mapping[str, str]:
    group = an_object(value, "group")
    for key, amount in group.items():
        if isinstance(amount, bool) or not isinstance(amount, str | int):
            raise WrongFormError(f"groups[{key}] is no text")
    return {key: str(amount) for key, amount in group.items()}


def _bound(value: Any) -> dict[str, set[str]]:
    """Servers by the provider of what is attached to them."""
    users: dict[str, set[str]] = {}
    for arq in an_array(member(value, "arqs", "answer"), "arqs"):
        provider, server = (member(arq, k, "arq") for k in ("device_rp_uuid", "instance_uuid"))
        if provider and server:
            users.setdefault(str(provider), set()).add(str(server))
    return users


def _deployables(value: Any) -> list[Deployable]:
    key = "deployables"
    return [_deployable(item) for item in an_array(member(value, key, "answer"), key)]


def _deployable(value: Any) -> Deployable:
    attributes = _attributes(member(value, "attributes_list", "deployable"))
    provider = member(value, "rp_uuid", "deployable")
    return Deployable(
        uuid=a_text(member(value, "uuid", "deployable"), "uuid"),
        name=a_text(member(value, "name", "deployable"), "name"),
        provider=None if provider is None else a_text(provider, "rp_uuid"),
        resource_class=next((v for k, v in attributes if k == "rc"), None),
        traits=frozenset(v for k, v in attributes if k.startswith("trait")),
        accelerators=a_count(member(value, "num_accelerators", "deployable"), "num_accelerators"),
        driver=str(member(value, "driver_name", "deployable") or ""),
    )


def _attributes(value: Any) -> list[tuple[str, str]]:
    """Cyborg sends this list as a text of JSON; each item has one key."""
    try:
        items = json.loads(value) if isinstance(value, str) else (value or [])
    except ValueError:
        raise WrongFormError("attributes_list is no JSON") from None
    return [
        (key, a_text(text, f"attributes_list[{key}]"))
        for item in an_array(items, "attributes_list")
        for key, text in an_object(item, "attributes_list").items()
    ]
