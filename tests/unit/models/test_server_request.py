"""Nova's create request: what can be kept as it is meant, and what is refused at the edge."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.models.blueprint import Network
from changeover.models.errors import Invalid
from changeover.models.server_request import ServerRequest, parse_server_request

LEAST: dict[str, Any] = {"name": "s", "flavorRef": "f", "imageRef": "i", "networks": "auto"}


def parsed(hints: dict[str, Any] | None = None, **server: Any) -> ServerRequest:
    body: dict[str, Any] = {"server": {**LEAST, **server}}
    if hints is not None:
        body["os:scheduler_hints"] = hints
    return parse_server_request(json.dumps(body))


def test_everything_is_kept() -> None:
    request = parsed(
        {"group": "g-1", "different_host": ["a", "b"]},
        availability_zone="az1",
        key_name="k",
        user_data="dTo=",
        metadata={"m": "v"},
        tags=["t"],
        description="d",
        config_drive=True,
        hostname="h",
        host="cmp1",
        networks=[{"uuid": "n1", "fixed_ip": "10.0.0.5"}, {"port": "p1"}],
        security_groups=[{"name": "web"}],
        min_count=1,
        max_count=1,
    )
    blueprint = request.blueprint
    assert request.count == 1
    assert (blueprint.flavor, blueprint.image) == ("f", "i")
    assert blueprint.networks == (Network(uuid="n1", fixed_ip="10.0.0.5"), Network(port="p1"))
    assert blueprint.security_groups == ("web",)
    assert (blueprint.server_group, blueprint.scheduler_hints) == (
        "g-1",
        {"different_host": ("a", "b")},
    )
    assert (blueprint.key_name, blueprint.user_data, blueprint.config_drive) == ("k", "dTo=", True)
    assert (blueprint.host, blueprint.hostname, blueprint.tags) == ("cmp1", "h", ("t",))


def test_from_a_volume_and_by_the_old_name_of_hints() -> None:
    volume = {"uuid": "v1", "source_type": "volume", "destination_type": "volume", "boot_index": 0}
    body = {
        "server": {**LEAST, "imageRef": "", "block_device_mapping_v2": [volume]},
        "OS-SCH-HNT:scheduler_hints": {"group": "g"},
    }
    request = parse_server_request(json.dumps(body).encode())
    assert request.blueprint.image is None
    assert request.blueprint.block_devices == (volume,)
    assert request.blueprint.server_group == "g"


def test_several_are_numbered() -> None:
    request = parsed(min_count=3)
    assert [b.name for b in request.blueprints()] == ["s-1", "s-2", "s-3"]
    assert [b.name for b in parsed().blueprints()] == ["s"]


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"name": ""}, "server.name: "),
        ({"name": 5}, "server.name: "),
        ({"flavorRef": None}, "server.flavorRef: "),
        ({"imageRef": ""}, "server.imageRef: is needed"),
        ({"networks": "some"}, "server.networks"),
        ({"networks": None}, "server.networks: say auto, none"),
        ({"networks": [{"uuid": "n", "port": "p"}]}, "server.networks"),
        ({"networks": [{"nett": "n"}]}, "server.networks"),
        ({"user_data": "not base64!"}, "server.user_data: is not base64"),
        ({"metadata": {"a": 1}}, "server.metadata"),
        ({"tags": ["a,b"]}, "server.tags"),
        ({"security_groups": ["web"]}, "server.security_groups.0"),
        ({"min_count": 0}, "server.min_count"),
        ({"min_count": 1, "max_count": 3}, "server.max_count: must equal min_count"),
        ({"min_count": 100_000}, "count: must be from 1 to"),
        ({"min_count": 2, "networks": [{"port": "p"}]}, "several servers cannot have one port"),
        ({"min_count": 2, "hostname": "h"}, "hostname: "),
        ({"adminPass": "hunter2"}, "adminPass is a password"),
        ({"personality": []}, "personality is not taken"),
        ({"block_device_mapping": []}, "use block_device_mapping_v2"),
        ({"accessIPv4": "1.2.3.4"}, "accessIPv4 cannot be kept"),
        ({"nonsense": 1}, "server.nonsense: Extra inputs"),
    ],
)
def test_what_is_refused_says_where(server: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid) as caught:
        parsed(**server)
    assert said in caught.value.message
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("field", ["name", "flavorRef", "networks"])
def test_what_must_be_there(field: str) -> None:
    server = {k: v for k, v in LEAST.items() if k != field}
    with pytest.raises(Invalid, match=f"server.{field}: Field required"):
        parse_server_request(json.dumps({"server": server}))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"server": []}', b'{"server": {}, "server": {}}', b"\xff"]
)
def test_what_is_no_request(body: bytes) -> None:
    with pytest.raises(Invalid):
        parse_server_request(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("body", "place"), [("[]", "request"), ("null", "request"), ('{"server": []}', "server")]
)
def test_what_is_no_object_is_refused(body: str, place: str) -> None:
    with pytest.raises(Invalid, match=rf"^{place}: must be a JSON object$"):
        parse_server_request(body)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*LEAST, "metadata", "tags", "min_count"]), JSON), JSON)
def test_whatever_comes_is_kept_whole_or_refused(server: dict[str, Any], hints: Any) -> None:
    body = json.dumps({"server": {**LEAST, **server}, "os:scheduler_hints": hints})
    request: ServerRequest | None = None
    try:
        request = parse_server_request(body)
    except Invalid as exc:
        said = exc.message
    if request is None:
        assert said.isascii()
        assert "\n" not in said
        return
    assert request.blueprint.from_json(request.blueprint.as_json()) == request.blueprint
