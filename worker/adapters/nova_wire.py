"""Nova's wire forms: servers as its API shows them, create requests as it takes them.

Of microversion 2.79 (Train) to 2.100 (Epoxy); what an older one does not show counts as lost.
Source: the Compute API reference, and answers of Nova 34.0.0 (tests/data/nova).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from changeover.models.aggregate import Aggregate
from changeover.models.blueprint import Blueprint, Hint, Name
from changeover.models.flavor import (
    Count,
    Flavor,
    Image,
    ImageProperties,
    RequestSpec,
    Text,
    TextMap,
    Wire,
)
from changeover.models.notification import BuildFailed
from changeover.worker.adapters.microversions import Version
from changeover.worker.adapters.service_http import (
    WrongFormError,
    a_text,
    an_array,
    an_object,
    member,
    texts,
)
from changeover.worker.ports.servers import (
    MARKER,
    NO_VALID_HOST,
    OWN_KEYS,
    REPLACES,
    Server,
    ServerStatus,
)

HOST: Final[Version] = (2, 74)
HOSTNAME: Final[Version] = (2, 90)
PINNED_ZONE: Final[Version] = (2, 96)
HINTS: Final[Version] = (2, 100)

UNKNOWN: Final = "UNKNOWN"
"""The status of a server whose cell does not answer: nothing else is known of it."""

GONE: Final = frozenset({"DELETED", "SOFT_DELETED"})

_TRAIT: Final = "trait:"
_HINT: TypeAdapter[Any] = TypeAdapter(Hint)


def _seconds(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError("is not a time")  # noqa: TRY004 - pydantic reports ValueError
    when = datetime.fromisoformat(value)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


Time = Annotated[float, BeforeValidator(_seconds)]
Maybe = Annotated[Text | None, BeforeValidator(_none_if_empty)]


class _FlavorWire(Wire):
    original_name: Name
    vcpus: Count
    ram: Count
    disk: Count
    ephemeral: Count = 0
    swap: Annotated[Count, BeforeValidator(lambda v: v or 0)] = 0
    extra_specs: TextMap = Field(default_factory=dict)


class _ImageWire(Wire):
    id: Name
    properties: Mapping[str, Any] = Field(default_factory=dict)


class _GroupWire(Wire):
    name: Name


class _VolumeWire(Wire):
    id: Name


class _FaultWire(Wire):
    message: str = ""
    created: Time


class _ServerWire(Wire):
    id: Name
    status: Text
    tenant_id: Text
    user_id: Text
    name: Text
    metadata: TextMap = Field(default_factory=dict)
    tags: tuple[Text, ...] = ()
    description: Maybe = None
    flavor: _FlavorWire
    image: Annotated[_ImageWire | None, BeforeValidator(_none_if_empty)] = None
    fault: _FaultWire | None = None
    key_name: Maybe = None
    config_drive: str | bool = ""
    host: Maybe = Field(default=None, alias="OS-EXT-SRV-ATTR:host")
    hostname: Maybe = Field(default=None, alias="OS-EXT-SRV-ATTR:hostname")
    reservation: Maybe = Field(default=None, alias="OS-EXT-SRV-ATTR:reservation_id")
    user_data: Annotated[str | None, BeforeValidator(_none_if_empty)] = Field(
        default=None, alias="OS-EXT-SRV-ATTR:user_data", repr=False
    )
    launched: Maybe = Field(default=None, alias="OS-SRV-USG:launched_at")
    zone: Maybe = Field(default=None, alias="OS-EXT-AZ:availability_zone")
    pinned_zone: Maybe = Field(default=None, alias="pinned_availability_zone")
    server_groups: tuple[Text, ...] = ()
    security_groups: tuple[_GroupWire, ...] = ()
    volumes: tuple[_VolumeWire, ...] = Field(
        default=(), alias="os-extended-volumes:volumes_attached"
    )
    scheduler_hints: Mapping[str, Any] | None = None


class ShownServer:
    """A server of an answer. Raises ``WrongFormError`` naming the field, never its value."""

    def __init__(self, value: Any, version: Version) -> None:
        try:
            self._wire = _ServerWire.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise WrongFormError(f"server.{where}: {first['msg']}") from None
        self._version = version

    @property
    def description(self) -> str:
        """What its owner wrote about it."""
        return self._wire.description or ""

    def server(self) -> Server:
        """The server as the port has it."""
        wire = self._wire
        known = ServerStatus.__members__.get(wire.status, ServerStatus.OTHER)
        hints, lost_hints = self._hints()
        lost = []
        if wire.host is None:  # which interfaces it was to have, only its host would know
            lost.append("networks")
            # Nova shows those of the ports that are bound: of a failed server there is mostly none.
            if not wire.security_groups:
                lost.append("security_groups")
        if wire.image is None or wire.volumes:
            lost.append("block_devices")
        if lost_hints:
            lost.append("scheduler_hints")
        return Server(
            uuid=wire.id,
            name=wire.name,
            project=wire.tenant_id,
            user=wire.user_id,
            status=known,
            fault=wire.fault.message.strip() if wire.fault is not None else "",
            host=wire.host,
            metadata=dict(wire.metadata),
            blueprint=self._blueprint(hints),
            lost=tuple(lost),
            extra_specs=dict(wire.flavor.extra_specs),
            launched=wire.launched is not None,
        )

    def spec(self) -> RequestSpec:
        """What Nova's scheduler was asked for, as far as the API tells."""
        wire = self._wire
        properties = {} if wire.image is None else wire.image.properties
        required = tuple(
            key.removeprefix(_TRAIT)
            for key, value in sorted(properties.items())
            if key.startswith(_TRAIT) and value == "required"
        )
        return RequestSpec(
            project_id=wire.tenant_id,
            user_id=wire.user_id,
            flavor=Flavor(
                name=wire.flavor.original_name,
                vcpus=wire.flavor.vcpus,
                memory_mb=wire.flavor.ram,
                root_gb=wire.flavor.disk,
                ephemeral_gb=wire.flavor.ephemeral,
                swap=wire.flavor.swap,
                extra_specs=wire.flavor.extra_specs,
            ),
            image=Image(
                id=None if wire.image is None else wire.image.id,
                properties=ImageProperties.model_validate(
                    {**properties, "traits_required": required}
                ),
            ),
            availability_zone=self._asked_zone(),
            num_instances=1,
        )

    def failure(self) -> BuildFailed | None:
        """Its failed build, if that is what became of it, and no host could take it.

        A server that ran may say the same if no host could take it when it was to be moved or
        evacuated. Raises ``WrongFormError`` where its host is not shown.
        """
        wire = self._wire
        if wire.status != "ERROR" or wire.host is not None or wire.fault is None:
            return None
        if wire.launched is not None:  # shelved since, and set to ERROR: its owner's disk is kept
            return None
        if "host" not in wire.model_fields_set:
            raise WrongFormError(
                "server.OS-EXT-SRV-ATTR:host is not shown: the service user needs "
                "os_compute_api:os-extended-server-attributes"
            )
        if NO_VALID_HOST not in wire.fault.message:
            return None
        return BuildFailed(
            message_id=f"found:{wire.id}",
            server=wire.id,
            project=wire.tenant_id,
            user=wire.user_id,
            request_id=wire.reservation or "",
            exception="NoValidHost",
            num_instances=1,
            timestamp=wire.fault.created,
            spec=self.spec(),
        )

    def _asked_zone(self) -> str | None:
        if self._version >= PINNED_ZONE:
            return self._wire.pinned_zone
        # Of a server without a host this is what was asked for; else it is where it is.
        return self._wire.zone if self._wire.host is None else None

    def _group(self) -> str | None:
        """Its server group: a listing shows it among the hints only."""
        hinted = (self._wire.scheduler_hints or {}).get("group")
        shown = [*self._wire.server_groups, *(hinted if isinstance(hinted, list) else [hinted])]
        return next((group for group in shown if isinstance(group, str)), None)

    def _hints(self) -> tuple[dict[str, Any], bool]:
        """The owner's hints without the group, and whether some of them cannot be had."""
        if self._wire.scheduler_hints is None:
            return {}, self._version < HINTS
        hints = {}
        for name, values in self._wire.scheduler_hints.items():
            if name in {"group", MARKER}:
                continue
            try:
                # Nova shows every hint as a list, also one that was given as a text.
                one = values[0] if isinstance(values, list) and len(values) == 1 else values
                hints[name] = _HINT.validate_python(one)
            except ValidationError:
                return hints, True
        return hints, False

    def _blueprint(self, hints: Mapping[str, Any]) -> Blueprint | None:
        wire = self._wire
        try:
            return Blueprint(
                name=wire.name,
                flavor=wire.flavor.original_name,
                image=None if wire.image is None else wire.image.id,
                availability_zone=self._asked_zone(),
                hostname=wire.hostname,
                description=wire.description,
                key_name=wire.key_name,
                user_data=wire.user_data,
                config_drive=str(wire.config_drive).lower() == "true" or None,
                metadata={k: v for k, v in wire.metadata.items() if k not in OWN_KEYS},
                tags=tuple(tag for tag in wire.tags if not tag.startswith(f"{MARKER}=")),
                server_group=self._group(),
                security_groups=tuple(dict.fromkeys(g.name for g in wire.security_groups)),
                scheduler_hints=hints,
            )
        except ValidationError:
            return None


def listed(value: Any) -> tuple[list[Any], bool]:
    """The servers of one page, not looked into, and whether there is a further page."""
    servers = an_array(member(value, "servers", "answer"), "servers")
    for server in servers:
        member(server, "id", "server")
    return servers, goes_on(value, "servers")


def goes_on(value: Any, kind: str) -> bool:
    """Whether a page of servers or flavors is followed by another."""
    key = f"{kind}_links"
    links = an_array(an_object(value, "answer").get(key, []), key)
    return any(member(link, "rel", "link") == "next" for link in links)


def aggregates(value: Any) -> tuple[Aggregate, ...]:
    """All host aggregates of a listing."""
    return tuple(
        Aggregate(
            uuid=a_text(member(one, "uuid", "aggregate"), "uuid"),
            metadata={
                key: text
                for key, text in an_object(member(one, "metadata", "aggregate"), "metadata").items()
                if isinstance(text, str)  # also an empty one, which Nova takes
            },
            name=a_text(member(one, "name", "aggregate"), "name"),
            hosts=texts(member(one, "hosts", "aggregate"), "hosts"),
        )
        for one in an_array(member(value, "aggregates", "answer"), "aggregates")
    )


def hinted(server: Any) -> object:
    """The marker among the scheduler hints of a listed server: they outlive it."""
    hints = server.get("scheduler_hints") if isinstance(server, dict) else None
    marker = hints.get(MARKER) if isinstance(hints, dict) else None
    return marker[0] if isinstance(marker, list) and len(marker) == 1 else marker


def created(value: Any) -> str:
    """The uuid of a server that was accepted."""
    uuid = member(member(value, "server", "answer"), "id", "server")
    if not isinstance(uuid, str) or not uuid:
        raise WrongFormError("server.id is no text")
    return uuid


def marker_tag(marker: str) -> str:
    """The tag by which a server is found again: Nova filters by tags, not by metadata."""
    return f"{MARKER}={marker}"


def create_body(
    blueprint: Blueprint,
    flavor_id: str,
    marker: str,
    replaces: str | None,
    version: Version,
) -> dict[str, Any]:
    """The body of a create request."""
    links = {MARKER: marker} if replaces is None else {MARKER: marker, REPLACES: replaces}
    server: dict[str, Any] = {
        "name": blueprint.name,
        "flavorRef": flavor_id,
        "networks": _networks(blueprint),
        "metadata": {**blueprint.metadata, **links},
        "tags": [*blueprint.tags, marker_tag(marker)],
    }
    given: dict[str, Any] = {
        "imageRef": blueprint.image,
        "availability_zone": blueprint.availability_zone,
        "description": blueprint.description,
        "key_name": blueprint.key_name,
        "user_data": blueprint.user_data,
        "config_drive": blueprint.config_drive,
        "host": blueprint.host if version >= HOST else None,
        "hostname": blueprint.hostname if version >= HOSTNAME else None,
        "security_groups": [{"name": name} for name in blueprint.security_groups] or None,
        "block_device_mapping_v2": [dict(d) for d in blueprint.block_devices] or None,
    }
    server.update({key: value for key, value in given.items() if value is not None})
    hints: dict[str, Any] = {
        name: hint if isinstance(hint, str) else list(hint)
        for name, hint in blueprint.scheduler_hints.items()
    }
    if blueprint.server_group is not None:
        hints["group"] = blueprint.server_group
    hints[MARKER] = marker
    return {"server": server, "os:scheduler_hints": hints}


def _networks(blueprint: Blueprint) -> Literal["auto", "none"] | list[dict[str, Any]]:
    if blueprint.networks is None:
        return "auto"
    if isinstance(blueprint.networks, str):
        return blueprint.networks
    return [network.model_dump(exclude_none=True) for network in blueprint.networks]
