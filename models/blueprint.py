"""A blueprint: all that is needed to create a server, in Nova's own words."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from changeover.models.errors import Invalid
from changeover.models.flavor import Text, TextMap
from changeover.models.limited_json import first_problem

MOST_USER_DATA = 65535
"""Characters of base64 that Nova takes as user data."""

MOST_TAGS = 50
MOST_NETWORKS = 64


def _is_base64(text: str) -> str:
    try:
        base64.b64decode(text.encode("ascii"), validate=False)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("is not base64") from None
    return text


def _is_tag(text: str) -> str:
    if "," in text or "/" in text:
        raise ValueError("a tag has neither ',' nor '/'")
    return text


Name = Annotated[Text, Field(min_length=1)]
Tag = Annotated[Text, Field(min_length=1, max_length=60), AfterValidator(_is_tag)]
UserData = Annotated[str, Field(strict=True, max_length=MOST_USER_DATA), AfterValidator(_is_base64)]
Hint = Name | Annotated[tuple[Name, ...], Field(max_length=1024)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Network(_Part):
    """One interface: a network of the project (``uuid``), or a port that is there already."""

    uuid: Name | None = None
    port: Name | None = None
    fixed_ip: Name | None = None
    tag: Name | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Network:
        if (self.uuid is None) == (self.port is None):
            raise ValueError("give either uuid (of a network) or port")
        if self.port is not None and self.fixed_ip is not None:
            raise ValueError("a port has its fixed_ip already")
        return self


class Blueprint(_Part):
    """What a server is created from. Fields are those of Nova's create request.

    ``flavor`` is a name or an id, ``image`` an id (``None``: it boots from ``block_devices``, in
    the form of Nova's ``block_device_mapping_v2``). ``host`` is where an administrator asked for.
    ``networks`` are ``"auto"``, ``"none"`` or interfaces; ``None`` says that nobody knows what
    was asked for. ``security_groups`` are names; none means the project's default. The server
    group is ``server_group``, not a hint. ``user_data`` is base64, and may hold secrets: it is in
    no ``repr``. An ``adminPass`` has no place here.
    """

    name: Name
    flavor: Name
    image: Name | None = None
    availability_zone: Name | None = None
    host: Name | None = None
    hostname: Name | None = None
    description: Text | None = None
    key_name: Name | None = None
    user_data: UserData | None = Field(default=None, repr=False)
    config_drive: bool | None = None
    metadata: TextMap = Field(default_factory=dict)
    tags: Annotated[tuple[Tag, ...], Field(max_length=MOST_TAGS)] = ()
    server_group: Name | None = None
    scheduler_hints: Annotated[Mapping[Name, Hint], Field(max_length=64)] = Field(
        default_factory=dict
    )
    networks: (
        Literal["auto", "none"] | Annotated[tuple[Network, ...], Field(max_length=MOST_NETWORKS)]
    ) | None = None
    security_groups: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    block_devices: Annotated[tuple[Mapping[Name, JsonValue], ...], Field(max_length=64)] = ()

    @classmethod
    def parse(cls, data: object) -> Blueprint:
        """The blueprint of outside data; raises ``Invalid`` naming the field, never its value."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise Invalid(first_problem(error, "blueprint")) from None

    def as_json(self) -> dict[str, Any]:
        """What is stored; see :meth:`from_json`."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def shown(self) -> dict[str, Any]:
        """For people and their tools: all but the user data, of which only the length is told."""
        known = self.model_dump(mode="json", exclude_defaults=True, exclude={"user_data"})
        if self.user_data is None:
            return known
        return {**known, "user_data": f"({len(self.user_data)} characters)"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Blueprint:
        """The blueprint of :meth:`as_json`."""
        return cls.model_validate(data)
