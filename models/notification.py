"""Nova's versioned notifications, parsed strictly: the values that intake stores.

Pure: bytes in, a value out, or :class:`~changeover.models.errors.Invalid` with one line that names
the field. Nothing else is ever raised, whatever the bytes are. What the message's context holds
of credentials (``_context_auth_token``) is never read, kept or shown.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from changeover.models.errors import Invalid
from changeover.models.flavor import RequestSpec, Text, TextMap, Wire

MAX_BYTES = 1024 * 1024
"""Longest body that is parsed, in bytes. Real ones have about 6 KB."""

MAX_DEPTH = 32
"""Deepest nesting of objects and lists. Real ones have about 12."""

CAPACITY_FAILURES = frozenset({"NoValidHost"})
"""Exceptions of a failed build that capacity could have prevented (``_Remote`` is cut off)."""

_INTEGER_DIGITS = 20  # more than 64 bits need; int() is quadratic in the number of digits
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
class ServerCreated:
    """A server was built. ``metadata`` may hold the marker of the boot that it succeeds.

    ``flavor`` is its flavor's name, empty where the message does not say it.
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


Notification = BuildFailed | ServerCreated | ServerDeleted | Ignored


def parse_notification(body: bytes | str) -> Notification:
    """The value of one notification: an oslo envelope or the bare message.

    Raises ``Invalid`` (one line, at most 300 characters) for whatever is not of the form.
    """
    message = _message(_load(body, "body"))
    event_type = _validate(_TypeWire, message).event_type
    if event_type == "compute_task.build_instances.error":
        return _build_failed(event_type, message)
    if event_type == "instance.create.end":
        wire = _validate(_ServerWire, _unwrapped(message))
        flavor = wire.payload.flavor
        return ServerCreated(**_server_facts(wire), flavor="" if flavor is None else flavor.name)
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
        return Ignored(event_type, f"failed by {_shown(exception)}, not for want of capacity")
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


class _ServerWire(_HeadWire):
    payload: _InstanceWire


_WireT = TypeVar("_WireT", bound=Wire)


def _validate(form: type[_WireT], message: Mapping[str, Any]) -> _WireT:
    try:
        return form.model_validate(message)
    except ValidationError as error:
        # Only the place and the rule are shown: inputs may hold what must not be logged.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        _refuse(f"{path}: {first['msg'].removeprefix('Value error, ')}")


def _unwrapped(message: Mapping[str, Any]) -> Mapping[str, Any]:
    payload = message.get("payload")
    if not isinstance(payload, dict) or "nova_object.data" not in payload:
        _refuse("payload: is not of the versioned form (no nova_object.data)")
    return {**message, "payload": _plain(payload)}


def _plain(value: Any) -> Any:
    """Nova's versioned objects without their wrapping."""
    if isinstance(value, dict):
        if "nova_object.data" in value:
            return _plain(value["nova_object.data"])
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


# ---------------------------------------------------------------- JSON, with limits


def _message(outer: object) -> Mapping[str, Any]:
    """The message itself, out of its envelope if it has one."""
    if isinstance(outer, dict) and "oslo.message" in outer:
        inner = outer["oslo.message"]
        outer = inner if isinstance(inner, dict) else _load(inner, "oslo.message")
    if not isinstance(outer, dict):
        _refuse("body: is not a JSON object")
    return outer


def _load(body: object, where: str) -> object:
    if not isinstance(body, bytes | str):
        _refuse(f"{where}: is neither bytes nor text")
    if len(body) > MAX_BYTES:
        _refuse(f"{where}: is longer than {MAX_BYTES} bytes")
    try:
        text = body if isinstance(body, str) else body.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        _refuse(f"{where}: is not UTF-8 at byte {error.start}")
    except RecursionError:
        _refuse(f"{where}: is nested deeper than {MAX_DEPTH}")
    except json.JSONDecodeError as error:
        _refuse(f"{where}: is not JSON: {error.msg} at character {error.pos}")
    except ValueError as error:  # the hooks below
        _refuse(f"{where}: {error}")
    _limit_depth(value, where)
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {_shown(twice)} is there twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _INTEGER_DIGITS:
        raise ValueError(f"holds an integer of more than {_INTEGER_DIGITS} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("holds a number that is too large")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is not JSON")


def _limit_depth(value: object, where: str) -> None:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    _refuse(f"{where}: is nested deeper than {MAX_DEPTH}")


def _shown(text: str) -> str:
    """Text from outside, fit for one line of ASCII."""
    return text[:80].encode("unicode_escape").decode("ascii")


def _refuse(reason: str) -> NoReturn:
    # Names in the reason may come from outside: keep it one line that every log can take.
    raise Invalid(reason.encode("unicode_escape").decode("ascii")[:300]) from None
