"""Nova's versioned notifications, parsed strictly: the values that intake stores.

Pure: bytes in, a value out, or :class:`~changeover.models.errors.Invalid` with one line that names
the field. Nothing else is ever raised, whatever the bytes are. What the message's context holds
of credentials (``_context_auth_token``) is never read, kept or shown.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from changeover.models.flavor import Flavor, RequestSpec, Text, TextMap, Wire
from changeover.models.limited_json import NESTING, first_problem, load, refuse, shown

CAPACITY_FAILURES = frozenset({"NoValidHost"})
"""Exceptions of a failed build that capacity could have prevented (``_Remote`` is cut off)."""

_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class BuildFailed:
    """A server could not be built because no host could take it.

    ``server`` is the failed one (of a multi-create each has its own message; ``request_id`` groups
    them, ``num_instances`` counts them). ``spec`` is ``None`` where Nova did not send it: then the
    server itself has to be asked. ``project`` and ``user`` are empty if the message does not say.
    ``timestamp``: seconds since the epoch.
    """

    message_id: str
    server: str
    project: str
    user: str
    request_id: str
    exception: str
    num_instances: int
    timestamp: float
    spec: RequestSpec | None = None


@dataclass(frozen=True, slots=True)
class SchedulingBegan:
    """Hosts are being chosen for a server of a create call that named itself.

    ``global_request_id`` is what its caller sent as ``X-OpenStack-Request-ID``. Of a server that is
    deleted before it has a host, this is all that is left.
    """

    message_id: str
    server: str
    project: str
    user: str
    request_id: str
    timestamp: float
    global_request_id: str


@dataclass(frozen=True, slots=True)
class ServerCreated:
    """A server was built. ``metadata`` may hold the marker of the boot that it succeeds.

    ``flavor`` is its flavor's name, empty where the message does not say it; ``asked`` the whole of
    it, where the message has it.
    """

    message_id: str
    server: str
    project: str
    user: str
    request_id: str
    timestamp: float
    host: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    flavor: str = ""
    asked: Flavor | None = None


@dataclass(frozen=True, slots=True)
class ServerDeleted:
    """A server is gone: what it held may be free now. ``host`` is where it ran, if anywhere."""

    message_id: str
    server: str
    project: str
    user: str
    request_id: str
    timestamp: float
    host: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ignored:
    """A notification that means nothing to Changeover, and why."""

    event_type: str
    reason: str = "not an event that Changeover acts on"


Notification = BuildFailed | SchedulingBegan | ServerCreated | ServerDeleted | Ignored


def parse_notification(body: bytes | str) -> Notification:
    """The value of one notification: an oslo envelope or the bare message.

    Raises ``Invalid`` (one line, at most 300 characters) for whatever is not of the form.
    """
    message = _message(load(body, "body"))
    event_type = _validate(_TypeWire, message).event_type
    if event_type == "compute_task.build_instances.error":
        return _build_failed(event_type, message)
    if event_type == "scheduler.select_destinations.start":
        return _scheduling_began(event_type, message)
    if event_type == "instance.create.end":
        wire = _validate(_ServerWire, _unwrapped(message))
        flavor = wire.payload.flavor
        return ServerCreated(
            **_server_facts(wire),
            flavor="" if flavor is None else flavor.name,
            asked=_whole_flavor(message),
        )
    if event_type == "instance.delete.end":
        return ServerDeleted(**_server_facts(_validate(_ServerWire, _unwrapped(message))))
    return Ignored(event_type)


def _build_failed(event_type: str, message: Mapping[str, Any]) -> Notification:
    wire = _validate(_BuildErrorWire, _unwrapped(message))
    payload = wire.payload
    if payload.reason is None:
        return Ignored(event_type, "no exception is given: not known to be for want of capacity")
    exception = payload.reason.exception.removesuffix("_Remote")
    if exception not in CAPACITY_FAILURES:
        return Ignored(event_type, f"failed by {shown(exception)}, not for want of capacity")
    spec = payload.request_spec
    return BuildFailed(
        message_id=wire.message_id,
        server=payload.instance_uuid,
        project=(spec and spec.project_id) or wire.context_project or "",
        user=(spec and spec.user_id) or wire.context_user or "",
        request_id=wire.request_id or "",
        exception=exception,
        num_instances=max(1, spec.num_instances) if spec else 1,
        timestamp=wire.timestamp,
        spec=spec,
    )


def _scheduling_began(event_type: str, message: Mapping[str, Any]) -> Notification:
    if message.get("_context_global_request_id") is None:
        return Ignored(event_type, "its create call did not name itself")
    wire = _validate(_SchedulingWire, _unwrapped(message))
    return SchedulingBegan(
        message_id=wire.message_id,
        server=wire.payload.instance_uuid,
        project=wire.payload.project_id or wire.context_project or "",
        user=wire.payload.user_id or wire.context_user or "",
        request_id=wire.request_id or "",
        timestamp=wire.timestamp,
        global_request_id=wire.global_request_id,
    )


def _whole_flavor(message: Mapping[str, Any]) -> Flavor | None:
    """The flavor, if it is whole: what is built needs nothing of it, only statistics do."""
    try:
        return Flavor.model_validate(_unwrapped(message)["payload"].get("flavor"))
    except ValidationError:
        return None


def _server_facts(wire: _ServerWire) -> dict[str, Any]:
    return {
        "message_id": wire.message_id,
        "server": wire.payload.uuid,
        "project": wire.payload.tenant_id or wire.context_project or "",
        "user": wire.payload.user_id or wire.context_user or "",
        "request_id": wire.request_id or "",
        "timestamp": wire.timestamp,
        "host": wire.payload.host,
        "metadata": wire.payload.metadata,
    }


# ---------------------------------------------------------------- the form on the wire


def _canonical_uuid(text: str) -> str:
    if not _UUID.fullmatch(text):
        raise ValueError("is not a uuid")
    return str(uuid.UUID(text))


def _seconds(text: object) -> float:
    try:
        when = datetime.fromisoformat(text if isinstance(text, str) else "")
    except ValueError:
        raise ValueError("is not a time of the form 2026-01-31 12:00:00.000000") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


Uuid = Annotated[Text, AfterValidator(_canonical_uuid)]
Timestamp = Annotated[float, BeforeValidator(_seconds)]


class _TypeWire(Wire):
    event_type: Text


class _ReasonWire(Wire):
    exception: Text


class _ComputeTaskWire(Wire):
    instance_uuid: Uuid
    request_spec: RequestSpec | None = None
    reason: _ReasonWire | None = None


class _FlavorNameWire(Wire):
    name: Text


class _InstanceWire(Wire):
    uuid: Uuid
    tenant_id: Text | None = None
    user_id: Text | None = None
    host: Text | None = None
    metadata: TextMap = Field(default_factory=dict)
    flavor: _FlavorNameWire | None = None


class _HeadWire(Wire):
    message_id: Uuid
    timestamp: Timestamp
    request_id: Text | None = Field(default=None, alias="_context_request_id")
    context_project: Text | None = Field(default=None, alias="_context_project_id")
    context_user: Text | None = Field(default=None, alias="_context_user_id")


class _BuildErrorWire(_HeadWire):
    payload: _ComputeTaskWire


class _SpecWire(Wire):
    instance_uuid: Uuid
    project_id: Text | None = None
    user_id: Text | None = None


class _SchedulingWire(_HeadWire):
    payload: _SpecWire
    global_request_id: Text = Field(alias="_context_global_request_id")


class _ServerWire(_HeadWire):
    payload: _InstanceWire


_WireT = TypeVar("_WireT", bound=Wire)


def _validate(form: type[_WireT], message: Mapping[str, Any]) -> _WireT:
    try:
        return form.model_validate(message)
    except ValidationError as error:
        refuse(first_problem(error, "body"))


def _unwrapped(message: Mapping[str, Any]) -> Mapping[str, Any]:
    payload = message.get("payload")
    if not isinstance(payload, dict) or "nova_object.data" not in payload:
        refuse("payload: is not of the versioned form (no nova_object.data)")
    return {**message, "payload": _plain(payload)}


def _plain(value: Any) -> Any:
    """Nova's versioned objects without their wrapping."""
    if isinstance(value, dict):
        if "nova_object.data" in value:
            return _plain(value["nova_object.data"])
        return {k: _plain(v) if isinstance(v, NESTING) else v for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _message(outer: object) -> Mapping[str, Any]:
    """The message itself, out of its envelope if it has one."""
    if isinstance(outer, dict) and "oslo.message" in outer:
        inner = outer["oslo.message"]
        outer = inner if isinstance(inner, dict) else load(inner, "oslo.message")
    if not isinstance(outer, dict):
        refuse("body: is not a JSON object")
    return outer
