"""Notifications: the captured ones are understood, anything else is Invalid and nothing worse."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from selecting import selecting

from changeover.models.errors import Invalid
from changeover.models.flavor import RequestSpec
from changeover.models.limited_json import MAX_BYTES, MAX_DEPTH
from changeover.models.notification import (
    BuildFailed,
    Ignored,
    SchedulingBegan,
    ServerCreated,
    ServerDeleted,
    parse_notification,
)
from changeover.worker.ports.servers import request_id_of

DATA = Path(__file__).parents[2] / "data" / "notifications"


def captured(name: str) -> list[dict[str, Any]]:
    lines = (DATA / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line)["message"] for line in lines]


def build_error() -> dict[str, Any]:
    return captured("novalidhost_one_server")[2]


def enveloped(message: object) -> str:
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)})


@pytest.mark.parametrize("form", [json.dumps, enveloped, lambda m: json.dumps(m).encode()])
def test_failed_build(form: Any) -> None:
    value = parse_notification(form(build_error()))
    assert isinstance(value, BuildFailed)
    assert value.message_id == "07c050a1-7826-42ff-aff5-4c83d6c53fa5"
    assert value.server == "c28a7a66-4a03-47ed-a90c-3d5011bdb73e"
    assert value.project == "9b04663e9e72432fb50f0403147c1e60"
    assert value.user == "bf63a64ae0784c029b69bca542e856e5"
    assert value.request_id == "req-1eef534b-cf28-44a3-b0ed-ccad846d2189"
    assert value.exception == "NoValidHost"
    assert value.num_instances == 1
    assert value.timestamp == pytest.approx(1795416644.515492)
    assert value.spec is not None
    assert value.spec.flavor.name == "fpga.aes"
    assert value.spec.flavor.extra_specs["trait:CUSTOM_FPGA_FUNCTION_AES"] == "required"
    assert value.spec.availability_zone == "nova"
    assert value.spec.image is not None
    assert value.spec.image.id == "ac37e49c-289b-4b74-ae39-55a91d32c7dc"


def test_the_spec_survives_storage() -> None:
    value = parse_notification(json.dumps(build_error()))
    assert isinstance(value, BuildFailed)
    assert value.spec is not None
    stored = json.dumps(value.spec.model_dump(mode="json"))
    assert RequestSpec.model_validate(json.loads(stored)) == value.spec


def test_multi_create_names_each_failed_server() -> None:
    values = [parse_notification(json.dumps(m)) for m in captured("novalidhost_three_servers")]
    failed = [v for v in values if isinstance(v, BuildFailed)]
    assert [v.server[:8] for v in failed] == ["4f9d8fe4", "f3f2e48c", "cad4488f"]
    assert {v.num_instances for v in failed} == {3}
    assert len({v.request_id for v in failed}) == 1
    assert len({v.message_id for v in failed}) == 3


def test_created_and_deleted() -> None:
    created = [parse_notification(json.dumps(m)) for m in captured("boot_succeeds")][-1]
    assert isinstance(created, ServerCreated)
    deleted = [parse_notification(json.dumps(m)) for m in captured("delete_server")][-1]
    assert isinstance(deleted, ServerDeleted)
    assert created.server == deleted.server == "72cfa9ca-f3d9-450a-b7b5-5b500f6e8b8d"
    assert created.host == "cmp2"


@pytest.mark.parametrize("properties", [{"hw_disk_bus": "virtio"}, None])
def test_an_image_may_be_signed_or_say_nothing(properties: dict[str, str] | None) -> None:
    message = build_error()
    image = message["payload"]["nova_object.data"]["request_spec"]["nova_object.data"]["image"]
    if properties is None:
        image["nova_object.data"]["properties"] = None
    else:
        signed = {**properties, "img_signature": "x" * 344}
        image["nova_object.data"]["properties"]["nova_object.data"].update(signed)
    value = parse_notification(json.dumps(message))
    assert isinstance(value, BuildFailed)
    assert value.spec is not None
    assert value.spec.image is not None
    texts = value.spec.image.properties.texts
    assert "img_signature" not in texts
    assert texts.get("hw_disk_bus") == (properties or {}).get("hw_disk_bus")


def test_everything_else_is_ignored() -> None:
    for name in ("boot_succeeds", "delete_server", "novalidhost_one_server"):
        for message in captured(name):
            value = parse_notification(json.dumps(message))
            kinds = ("create.end", "delete.end", "build_instances.error")
            if not message["event_type"].endswith(kinds):
                assert isinstance(value, Ignored)
                assert value.event_type == message["event_type"]


def test_a_create_call_that_named_itself_is_told_of() -> None:
    server = str(uuid4())
    value = parse_notification(json.dumps(selecting(server, "m", "p")))
    assert isinstance(value, SchedulingBegan)
    assert (value.server, value.project) == (server, "p")
    assert value.global_request_id == request_id_of("m")


def payload(message: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = message["payload"]["nova_object.data"]
    return data


def test_without_a_request_spec() -> None:
    message = build_error()
    payload(message)["request_spec"] = None
    value = parse_notification(json.dumps(message))
    assert isinstance(value, BuildFailed)
    assert value.spec is None
    assert value.project == "9b04663e9e72432fb50f0403147c1e60"
    assert value.num_instances == 1


@pytest.mark.parametrize(
    ("exception", "counts"),
    [
        ("NoValidHost", True),
        ("NoValidHost_Remote", True),
        ("MaxRetriesExceeded", False),
        ("BuildAbortException", False),
        ("NoValidHost_Remote\n", False),
    ],
)
def test_only_want_of_capacity_counts(exception: str, *, counts: bool) -> None:
    message = build_error()
    payload(message)["reason"]["nova_object.data"]["exception"] = exception
    value = parse_notification(json.dumps(message))
    assert isinstance(value, BuildFailed if counts else Ignored)
    if isinstance(value, Ignored):
        assert exception.strip() in value.reason
        assert "\n" not in value.reason


def test_without_a_reason() -> None:
    message = build_error()
    payload(message)["reason"] = None
    assert isinstance(parse_notification(json.dumps(message)), Ignored)


def test_uuids_are_canonical() -> None:
    message = build_error()
    payload(message)["instance_uuid"] = "C28A7A664A0347EDA90C3D5011BDB73E"
    value = parse_notification(json.dumps(message))
    assert isinstance(value, BuildFailed)
    assert value.server == "c28a7a66-4a03-47ed-a90c-3d5011bdb73e"


def test_no_token_is_kept_or_shown() -> None:
    message = build_error()
    message["_context_auth_token"] = "s3cr3t"  # noqa: S105 - a made-up token is what is tested
    assert "s3cr3t" not in repr(parse_notification(json.dumps(message)))
    message["message_id"] = "s3cr3t"
    with pytest.raises(Invalid) as caught:
        parse_notification(json.dumps(message))
    assert "s3cr3t" not in caught.value.message


def at(message: dict[str, Any], path: str, value: object) -> str:
    """The message with one place changed; ``DROP`` removes it."""
    message = copy.deepcopy(message)
    *parents, last = path.split("/")
    here: Any = message
    for part in parents:
        here = here[part]
        here = here.get("nova_object.data", here)
    if value is DROP:
        del here[last]
    else:
        here[last] = value
    return json.dumps(message)


DROP = object()

BROKEN = [
    ("event_type", None, "event_type"),
    ("event_type", DROP, "event_type"),
    ("event_type", "x" * 300, "event_type"),
    ("event_type", ["x"], "event_type"),
    ("message_id", "not-a-uuid", "message_id"),
    ("message_id", 7, "message_id"),
    ("message_id", DROP, "message_id"),
    ("timestamp", "yesterday", "timestamp"),
    ("timestamp", 12, "timestamp"),
    ("payload", None, "payload"),
    ("payload", [], "payload"),
    ("payload", {"nova_object.data": 3}, "payload"),
    ("payload/instance_uuid", "c28a7a66", "payload.instance_uuid"),
    ("payload/instance_uuid", "c28a7a66-4a03-47ed-a90c-3d5011bdb73e\n", "payload.instance_uuid"),
    ("payload/instance_uuid", DROP, "payload.instance_uuid"),
    ("payload/request_spec", [], "payload.request_spec"),
    ("payload/request_spec/flavor", None, "payload.request_spec.flavor"),
    ("payload/request_spec/flavor/vcpus", "1", "payload.request_spec.flavor.vcpus"),
    ("payload/request_spec/flavor/vcpus", True, "payload.request_spec.flavor.vcpus"),
    ("payload/request_spec/flavor/vcpus", -1, "payload.request_spec.flavor.vcpus"),
    ("payload/request_spec/flavor/memory_mb", 2**40, "payload.request_spec.flavor.memory_mb"),
    ("payload/request_spec/flavor/extra_specs", {"a": 1}, "extra_specs.a"),
    ("payload/request_spec/flavor/name", "\x00", "payload.request_spec.flavor.name"),
    ("payload/request_spec/flavor/name", "\ud800", "payload.request_spec.flavor.name"),
    ("payload/request_spec/force_hosts", "host", "payload.request_spec.force_hosts"),
    ("payload/request_spec/num_instances", None, "payload.request_spec.num_instances"),
    ("_context_project_id", 3, "_context_project_id"),
]


@pytest.mark.parametrize(("path", "value", "named"), BROKEN)
def test_what_is_wrong_is_named(path: str, value: object, named: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_notification(at(build_error(), path, value))
    assert named in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{", "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": 1, "a": 2}', "'?a'? is there twice"),
        (b"[" * 100_000, "nested deeper"),
        (b"[" * 40 + b"]" * 40, "nested deeper"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested deeper"),
        (b'{"oslo.message": 3}', "oslo.message: is neither"),
        (b'{"oslo.message": "{"}', "oslo.message: is not JSON"),
        (b'{"oslo.message": "[1]"}', "not a JSON object"),
        (b" " * (MAX_BYTES + 1), "longer than"),
    ],
)
def test_bodies_that_are_no_message(body: bytes, named: str) -> None:
    with pytest.raises(Invalid, match=named):
        parse_notification(body)


def test_a_body_of_another_type() -> None:
    with pytest.raises(Invalid, match="neither"):
        parse_notification(None)  # type: ignore[arg-type] # a broker's decoder may hand over more


def test_real_messages_are_far_from_the_limits() -> None:
    deep = {"event_type": "x", "a": json.loads("[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2))}
    assert parse_notification(json.dumps(deep)) == Ignored("x")


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(exclude_categories=()), max_size=40),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)

PLACES = [path for path, _, _ in BROKEN]


def check(body: bytes | str) -> None:
    """Whatever it is, it is a value or one line of reason; both can be stored and logged."""
    try:
        said = repr(parse_notification(body))
    except Invalid as invalid:
        said = invalid.message
        assert len(said) <= 300
    assert len(said.splitlines()) == 1
    said.encode()


@given(st.one_of(st.binary(), st.text(), JSON.map(json.dumps)))
@example('{"oslo.message": "\\ud800"}')
@example("\ud800")
def test_fuzz_bodies(body: bytes | str) -> None:
    check(body)


@given(st.sampled_from(PLACES), JSON)
def test_fuzz_fields_of_a_failed_build(path: str, value: object) -> None:
    check(at(build_error(), path, value))


@given(st.sampled_from(["uuid", "metadata", "host", "tenant_id"]), JSON)
def test_fuzz_fields_of_a_created_server(field: str, value: object) -> None:
    check(at(captured("boot_succeeds")[-1], f"payload/{field}", value))


@given(st.data())
def test_fuzz_cut_and_flipped_bytes(data: st.DataObject) -> None:
    body = bytearray(enveloped(build_error()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(body) - 1))
        body[index] = data.draw(st.integers(0, 255))
    check(bytes(body[: data.draw(st.integers(0, len(body))) or None]))
