"""What a user asked Nova for: the flavor and the request spec, as Nova's notifications carry them.

Both are pydantic models, so ``model_dump(mode="json")`` and ``model_validate`` store and restore
them. Unknown fields are ignored: Nova adds some with every release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _storable(text: str) -> str:
    try:
        if b"\x00" not in text.encode():
            return text
    except UnicodeEncodeError:  # a lone surrogate
        pass
    raise ValueError("has characters that no database stores (NUL or lone surrogates)")


def _empty_if_null(value: object) -> object:
    return {} if value is None else value


def _none_if_null(value: object) -> object:
    return () if value is None else value


MOST_CHARACTERS = 255
"""Of a text that is read: as long as Nova allows for what places a server."""

Text = Annotated[str, Field(strict=True, max_length=MOST_CHARACTERS), AfterValidator(_storable)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
TextMap = Annotated[Mapping[Text, Text], Field(max_length=1024), BeforeValidator(_empty_if_null)]
Texts = Annotated[tuple[Text, ...], Field(max_length=10_000), BeforeValidator(_none_if_null)]


class Wire(BaseModel):
    """A part of Nova's messages: typed where it is read, tolerant of everything else."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Flavor(Wire):
    """A flavor. Memory and swap are MiB, disks are GiB."""

    name: Text
    flavorid: Text = ""
    vcpus: Count
    memory_mb: Count
    root_gb: Count
    ephemeral_gb: Count = 0
    swap: Count = 0
    extra_specs: TextMap = Field(default_factory=dict)


class ImageProperties(Wire):
    """The image properties that place a server.

    ``texts`` are the single-valued ones as texts, ``true`` and ``false`` for flags: what Nova sends
    as ``hw_disk_bus``, ``os_secure_boot`` and the like. Longer ones than any setting (the
    ``img_signature`` of a signed image) place nothing, and are left out.
    """

    traits_required: Texts = ()
    texts: TextMap = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: object) -> object:
        if not isinstance(data, dict) or "texts" in data:
            return data
        single = {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in data.items()
            if isinstance(key, str) and key.startswith(("hw_", "os_", "img_"))
            if isinstance(value, str | int | float) and len(str(value)) <= MOST_CHARACTERS
        }
        return {**data, "texts": single}


class Image(Wire):
    """An image. Without an id the server boots from a volume."""

    id: Text | None = None
    disk_format: Text | None = None
    properties: Annotated[ImageProperties, BeforeValidator(_empty_if_null)] = ImageProperties()


class Destination(Wire):
    """Where an administrator asked for (microversion 2.74): checked by the scheduler."""

    host: Text | None = None
    node: Text | None = None


class RequestSpec(Wire):
    """What Nova's scheduler was asked for.

    ``server`` is *not* taken from here: in a multi-create it is the first server in every
    message. Scheduler hints and the server group are always empty on the wire, even when given.
    """

    project_id: Text | None = None
    user_id: Text | None = None
    flavor: Flavor
    image: Image | None = None
    availability_zone: Text | None = None
    force_hosts: Texts = ()
    force_nodes: Texts = ()
    ignore_hosts: Texts = ()
    requested_destination: Destination | None = None
    num_instances: Count = 1
