"""Blueprints: what is taken, what is refused with the field's name, what is never shown."""

from __future__ import annotations

from typing import Any

import pytest

from changeover.console.render import plain
from changeover.models.blueprint import Blueprint, Network
from changeover.models.errors import Invalid

FULL: dict[str, Any] = {
    "name": "s",
    "flavor": "fpga.aes",
    "image": "70a599e0-31e7-49b7-b260-868f441e862b",
    "availability_zone": "az1",
    "host": "cmp1",
    "hostname": "s-1",
    "description": "a server",
    "key_name": "k",
    "user_data": "c2VjcmV0",
    "config_drive": True,
    "metadata": {"a": "b"},
    "tags": ["t"],
    "server_group": "g",
    "scheduler_hints": {"query": "[]", "different_host": ["x", "y"]},
    "networks": [{"uuid": "n", "fixed_ip": "10.0.0.4"}, {"port": "p", "tag": "fast"}],
    "security_groups": ["web"],
    "block_devices": [{"boot_index": 0, "uuid": "v", "source_type": "volume"}],
}


def test_stored_and_restored() -> None:
    full = Blueprint.parse(FULL)
    assert Blueprint.from_json(full.as_json()) == full
    assert full.networks == (
        Network(uuid="n", fixed_ip="10.0.0.4"),
        Network(port="p", tag="fast"),
    )
    least = Blueprint(name="s", flavor="f")
    assert least.as_json() == {"name": "s", "flavor": "f"}
    assert least.networks is None


def test_user_data_is_not_shown() -> None:
    full = Blueprint.parse(FULL)
    assert "c2VjcmV0" not in repr(full)
    assert "c2VjcmV0" not in str(full.shown())
    assert full.shown() == {**full.as_json(), "user_data": "(8 characters)"}
    assert plain({"boot": [full]}) == {"boot": [full.shown()]}
    assert Blueprint(name="s", flavor="f").shown() == {"name": "s", "flavor": "f"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"flavor": ""}, "flavor: "),
        ({"adminPass": "x"}, "adminPass: "),
        ({"user_data": "é"}, "user_data: is not base64"),
        ({"user_data": "a" * 65536}, "user_data: "),
        ({"tags": ["a,b"]}, "tags.0: a tag has neither"),
        ({"tags": ["t"] * 51}, "tags: "),
        ({"networks": "some"}, "networks."),
        ({"networks": [{"uuid": "n", "port": "p"}]}, "networks."),
        ({"networks": [{"port": "p", "fixed_ip": "10.0.0.4"}]}, "networks."),
        ({"metadata": {"a": 1}}, "metadata.a: "),
        ({"scheduler_hints": {"a": 1}}, "scheduler_hints.a."),
        ({"name": "a\x00"}, "name: "),
    ],
)
def test_refused_with_the_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid) as refused:
        Blueprint.parse({**FULL, **change})
    assert refused.value.message.startswith(said)
    assert "a" * 100 not in refused.value.message


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(Invalid, match="blueprint: "):
        Blueprint.parse([])
