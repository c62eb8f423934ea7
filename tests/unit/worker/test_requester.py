"""What is looked up for somebody who asks for servers: to the end of the listing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from changeover.models.errors import Invalid, NotFound
from changeover.worker.adapters.requester_openstack import OpenStackRequester, _flavor
from changeover.worker.adapters.service_http import Answer, HttpService


class ShortPages(HttpService):
    """A Nova whose pages have one flavor each, whatever is asked for (``[api] max_limit``)."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def request(self, method: str, path: str, **of: Any) -> Answer:
        status, body = 404, {"itemNotFound": {"code": 404, "message": "no"}}
        if path == "/flavors/detail":
            asked = dict(of["query"])
            at = int(asked.get("marker", -1)) + 1
            sizes = {"vcpus": 1, "ram": 1, "disk": 1, "extra_specs": {}}
            page: dict[str, Any] = {"flavors": [{"id": str(at), "name": self.names[at], **sizes}]}
            if at + 1 < len(self.names):
                page["flavors_links"] = [{"rel": "next", "href": "http://elsewhere/"}]
            status, body = 200, page
        return Answer(f"{method} {path}", False, status, json.dumps(body).encode(), {})  # noqa: FBT003 - it reads


def flavor(names: Sequence[str], wanted: str) -> str:
    requester = object.__new__(OpenStackRequester)  # its cloud is not asked
    return requester._find(
        ShortPages(names), wanted, "flavor", _flavor, "/flavors", details="/flavors/detail"
    ).flavorid


def test_short_pages_are_followed() -> None:
    assert flavor(["a", "b", "fpga"], "fpga") == "2"
    with pytest.raises(NotFound):
        flavor(["a", "b"], "fpga")
    with pytest.raises(Invalid, match="2 flavors"):
        flavor(["fpga", "b", "fpga"], "fpga")
