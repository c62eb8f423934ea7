"""Nova's own create request (``POST /servers``), as far as it can wait for capacity.

What cannot be kept as it is meant is refused here, at the edge, with the field that it is in: a
boot that is queued is created later exactly as asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from changeover.models.blueprint import Blueprint
from changeover.models.errors import Invalid
from changeover.models.limited_json import first_problem, load, refuse

MOST_SERVERS = 1000
"""Servers of one request; each waits by itself."""

_NOT_KEPT: Final[Mapping[str, str]] = {
    "adminPass": "is a password, which would be stored in the clear: leave it out",
    "personality": "is not taken by Nova any more: use user_data",
    "block_device_mapping": "is Nova's old form: use block_device_mapping_v2",
    "OS-DCF:diskConfig": "cannot be kept: leave it out",
    "accessIPv4": "cannot be kept: set it once the server is there",
    "accessIPv6": "cannot be kept: set it once the server is there",
    "hypervisor_hostname": "cannot be kept: name the host instead",
    "return_reservation_id": "has no meaning here: the answer names the boots",
    "trusted_image_certificates": "cannot be kept: leave it out",
}

_NOVAS: Final[Mapping[str, str]] = {
    "flavor": "server.flavorRef",
    "image": "server.imageRef",
    "block_devices": "server.block_device_mapping_v2",
    "scheduler_hints": "os:scheduler_hints",
    "server_group": "os:scheduler_hints.group",
}
"""What Nova calls the fields of a blueprint that have another name there."""


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """``count`` servers of one blueprint, in which flavor and image are named as the user did."""

    blueprint: Blueprint
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse what Nova refuses of several servers at once."""
        if not 1 <= self.count <= MOST_SERVERS:
            raise Invalid(f"count: must be from 1 to {MOST_SERVERS}")
        if self.blueprint.image is None and not self.blueprint.block_devices:
            raise Invalid("image: is needed where no block device boots the server")
        networks = self.blueprint.networks
        if networks is None:
            raise Invalid("networks: say auto, none, or which networks or ports")
        if self.count == 1:
            return
        if self.blueprint.hostname is not None:
            raise Invalid("hostname: several servers cannot have one")
        if not isinstance(networks, str) and any(n.port or n.fixed_ip for n in networks):
            raise Invalid("networks: several servers cannot have one port or address")

    def blueprints(self) -> list[Blueprint]:
        """One for each server; several are numbered as Nova numbers them."""
        if self.count == 1:
            return [self.blueprint]
        return [
            self.blueprint.model_copy(update={"name": f"{self.blueprint.name}-{place + 1}"})
            for place in range(self.count)
        ]


class _GroupWire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str


class _ServerWire(BaseModel):
    """Names only; what each may hold is the blueprint's business."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: JsonValue
    flavorRef: JsonValue  # noqa: N815 - Nova's name
    imageRef: JsonValue = None  # noqa: N815 - Nova's name
    networks: JsonValue
    availability_zone: JsonValue = None
    host: JsonValue = None
    hostname: JsonValue = None
    description: JsonValue = None
    key_name: JsonValue = None
    user_data: JsonValue = None
    config_drive: JsonValue = None
    metadata: JsonValue = Field(default_factory=dict)
    tags: JsonValue = Field(default_factory=list)
    security_groups: tuple[_GroupWire, ...] = ()
    block_device_mapping_v2: JsonValue = Field(default_factory=list)
    min_count: Annotated[int, Field(strict=True, ge=1)] | None = None
    max_count: Annotated[int, Field(strict=True, ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _says_what_is_not_kept(cls, data: Any) -> Any:
        for field in data if isinstance(data, dict) else ():
            if field in _NOT_KEPT:
                raise ValueError(f"{field} {_NOT_KEPT[field]}")
        return data


class _RequestWire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    server: _ServerWire
    hints: dict[str, JsonValue] = Field(default_factory=dict, alias="os:scheduler_hints")


def parse_server_request(body: bytes | str) -> ServerRequest:
    """The request of Nova's JSON body; raises ``Invalid`` that names the field, never its value."""
    data = load(body, "request")
    if isinstance(data, dict) and "OS-SCH-HNT:scheduler_hints" in data:
        hinted = data.pop("OS-SCH-HNT:scheduler_hints")
        data = {"os:scheduler_hints": hinted, **data}
    try:
        wire = _RequestWire.model_validate(data)
    except ValidationError as error:
        refuse(first_problem(error, "request"))
    server = wire.server
    counts = {count for count in (server.min_count, server.max_count) if count is not None}
    if len(counts) > 1:
        refuse("server.max_count: must equal min_count: each server that is asked for is created")
    hints = dict(wire.hints)
    named = {
        "name": server.name,
        "flavor": server.flavorRef,
        "image": server.imageRef or None,
        "networks": server.networks,
        "availability_zone": server.availability_zone,
        "host": server.host,
        "hostname": server.hostname,
        "description": server.description,
        "key_name": server.key_name,
        "user_data": server.user_data,
        "config_drive": server.config_drive,
        "metadata": server.metadata,
        "tags": server.tags,
        "security_groups": [group.name for group in server.security_groups],
        "block_devices": server.block_device_mapping_v2,
        "server_group": hints.pop("group", None),
        "scheduler_hints": hints,
    }
    return request_of(named, count=counts.pop() if counts else 1)


def request_of(fields: Mapping[str, Any], *, count: int = 1) -> ServerRequest:
    """The request of a blueprint's fields; ``Invalid`` names them as Nova does."""
    try:
        return ServerRequest(Blueprint.parse(fields), count)
    except Invalid as exc:
        field, colon, rest = exc.message.partition(":")
        first, dot, more = field.partition(".")
        refuse(f"{_NOVAS.get(first, f'server.{first}')}{dot}{more}{colon}{rest}")
