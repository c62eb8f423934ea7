"""Glance over its HTTP API (v2): whether an image is the bitstream that the catalog describes."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from changeover.models.errors import NotFound, Refuse, Unreachable
from changeover.worker.adapters.service_http import (
    HttpService,
    Timeouts,
    a_text,
    an_object,
    failure,
)

REMEMBERED: Final = 4096
"""Digests kept; an image's data never changes while it is active, so they hold for good."""


_NO_IMAGE: Final = b"No image found"
"""Glance's own words, on a page that looks like any proxy's."""


@dataclass(frozen=True, slots=True)
class _Image:
    """What Glance says of an image; ``key`` changes with its data."""

    status: str
    size: int | None
    algorithm: str | None
    value: str | None
    key: tuple[str, ...]


class GlanceImages:
    """Checks images. Safe to call from several threads at once."""

    def __init__(self, service: HttpService, *, most_bytes: int) -> None:
        """``most_bytes``: images that are larger are refused, not read."""
        self._service = service
        self._most = most_bytes
        self._lock = threading.Lock()
        self._digests: OrderedDict[tuple[str, ...], str] = OrderedDict()

    @classmethod
    def from_cloud(
        cls, cloud: str | None, *, most_bytes: int, timeouts: Timeouts | None = None
    ) -> GlanceImages:
        """For a cloud of clouds.yaml (``None``: the one that the environment names)."""
        service = HttpService.from_cloud("Glance", "image", cloud, timeouts=timeouts, connections=4)
        return cls(service, most_bytes=most_bytes)

    def check(self, image: str, sha256: str) -> None:
        """Raise ``Refuse`` unless the image is there, active and has that digest.

        Glance's own digest serves where it is sha256. Else the data is read once, piece by piece,
        and its digest remembered. Raises ``Unreachable`` and ``AskOperator`` too.
        """
        found = self._image(image)
        if found.status != "active":
            raise Refuse(f"image {image} is {found.status}, not active", image=image)
        if found.size is not None and found.size > self._most:
            raise Refuse(
                f"image {image} has {found.size} bytes, more than the {self._most} that a "
                "bitstream may have (largest_image_bytes)",
                image=image,
            )
        known = found.value if found.algorithm == "sha256" else self._remembered(found.key)
        digest = known or self._read(image, found.key)
        if digest != sha256:
            raise Refuse(
                f"image {image} is not the one that the catalog describes: its sha256 is {digest}, "
                f"not {sha256}",
                image=image,
            )

    def _image(self, image: str) -> _Image:
        answer = self._service.request("GET", self._path(image))
        if answer.status == HTTPStatus.NOT_FOUND and _NO_IMAGE in answer.body:
            raise NotFound(f"Glance has no image {image}", image=image)
        try:
            if not answer.ok:
                raise failure(answer)
            return answer.parse(_image)
        except Refuse as error:
            # A proxy's words, or none that mean anything: not the image's fault.
            raise Unreachable(error.message) from error

    def _path(self, image: str) -> str:
        return f"{self._service.version_path('/v2')}/images/{quote(image, safe='')}"

    def _remembered(self, key: tuple[str, ...]) -> str | None:
        with self._lock:
            return self._digests.get(key)

    def _read(self, image: str, key: tuple[str, ...]) -> str:
        digest = hashlib.sha256()
        path = f"{self._path(image)}/file"
        with self._service.stream(path, most_bytes=self._most) as (status, pieces):
            if status != HTTPStatus.OK:
                raise Unreachable(f"GET {path}: {status}: the data of the image cannot be read")
            for piece in pieces:
                digest.update(piece)
        with self._lock:
            self._digests[key] = digest.hexdigest()
            while len(self._digests) > REMEMBERED:
                self._digests.popitem(last=False)
        return digest.hexdigest()


def _image(value: Any) -> _Image:
    image = an_object(value, "image")
    size = image.get("size")
    names = ("id", "updated_at", "os_hash_algo", "os_hash_value", "checksum", "size")
    return _Image(
        status=a_text(image.get("status"), "status"),
        size=size if isinstance(size, int) else None,
        algorithm=image.get("os_hash_algo"),
        value=image.get("os_hash_value"),
        key=tuple(str(image.get(name)) for name in names),
    )
