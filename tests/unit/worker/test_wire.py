"""The simulator's notifications have the form of the captured ones, key by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue

from changeover.models.flavor import Flavor, Image, ImageProperties, RequestSpec
from changeover.models.notification import (
    BuildFailed,
    ServerCreated,
    ServerDeleted,
    parse_notification,
)
from changeover.worker.simulator import wire

DATA = Path(__file__).parents[2] / "data" / "notifications"
UUID = "72cfa9ca-f3d9-450a-b7b5-5b500f6e8b8d"
MESSAGE_ID = "07c050a1-7826-42ff-aff5-4c83d6c53fa5"
FLAVOR = Flavor(
    name="fpga.aes", vcpus=1, memory_mb=64, root_gb=1, extra_specs={"resources:CUSTOM_FPGA": "1"}
)
SPEC = RequestSpec(flavor=FLAVOR, image=Image(id="tiny"), num_instances=3)
OPEN = {"extra_specs", "metadata", "properties"}


def instance(state: str, host: str | None = "cmp2", **more: Any) -> wire.Instance:
    return wire.Instance(
        uuid=UUID,
        name="s",
        project="p" * 32,
        user="u" * 32,
        flavor=FLAVOR,
        request_id="req-1",
        reservation_id="r-1",
        created=1.7e9,
        state=state,
        image="tiny",
        host=host,
        **more,
    )


def captured(name: str, event_type: str) -> dict[str, Any]:
    lines = (DATA / f"{name}.jsonl").read_text().splitlines()
    messages = [json.loads(line)["message"] for line in lines]
    found: dict[str, Any] = next(m for m in messages if m["event_type"] == event_type)
    return found


def form(value: Any) -> Any:
    """The keys, and the names and versions; not the values."""
    if isinstance(value, dict):
        kept = ("nova_object.name", "nova_object.namespace", "nova_object.version", "priority")
        return {
            key: item if key in kept else ("open" if key in OPEN else form(item))
            for key, item in value.items()
        }
    return "value"


def made(event_type: str) -> dict[str, Any]:
    match event_type:
        case "instance.create.end":
            return wire.create_end(instance("active", launched=1.7e9), MESSAGE_ID, 1.7e9)
        case "instance.delete.start":
            return wire.delete_start(instance("active", launched=1.7e9), MESSAGE_ID, 1.7e9)
        case "instance.delete.end":
            gone = instance("deleted", deleted=1.7e9, launched=1.7e9)
            return wire.delete_end(gone, MESSAGE_ID, 1.7e9)
        case "instance.update":
            return wire.update(instance("error", None), "building", MESSAGE_ID, 1.7e9)
        case _:
            failed = instance("error", None)
            said = "No valid host was found. "
            return wire.build_error(failed, UUID, SPEC, "NoValidHost", said, MESSAGE_ID, 1.7e9)


@pytest.mark.parametrize(
    ("name", "event_type"),
    [
        ("boot_succeeds", "instance.create.end"),
        ("delete_server", "instance.delete.start"),
        ("delete_server", "instance.delete.end"),
        ("novalidhost_one_server", "instance.update"),
        ("novalidhost_one_server", "compute_task.build_instances.error"),
    ],
)
def test_form_is_that_of_the_captures(name: str, event_type: str) -> None:
    assert form(made(event_type)) == form(captured(name, event_type))


def test_values_are_of_the_same_kind_as_in_the_captures() -> None:
    def kinds(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: "open" if k in OPEN else kinds(v) for k, v in value.items()}
        return type(value).__name__

    def compare(ours: Any, theirs: Any, path: str) -> list[str]:
        if isinstance(ours, dict) and isinstance(theirs, dict):
            return [p for k in theirs for p in compare(ours[k], theirs[k], f"{path}.{k}")]
        return [] if ours == theirs or "NoneType" in (ours, theirs) else [path]

    for name, event in (
        ("boot_succeeds", "instance.create.end"),
        ("delete_server", "instance.delete.end"),
        ("novalidhost_three_servers", "compute_task.build_instances.error"),
    ):
        assert compare(kinds(made(event)), kinds(captured(name, event)), event) == []


def test_ours_are_understood() -> None:
    def parsed(event_type: str) -> Any:
        return parse_notification(json.dumps(wire.envelope(made(event_type))))

    failed = parsed("compute_task.build_instances.error")
    assert isinstance(failed, BuildFailed)
    assert (failed.server, failed.num_instances, failed.request_id) == (UUID, 3, "req-1")
    assert failed.spec is not None
    assert failed.spec.flavor == FLAVOR
    assert isinstance(parsed("instance.create.end"), ServerCreated)
    assert isinstance(parsed("instance.delete.end"), ServerDeleted)


def test_image_traits_travel() -> None:
    image = Image(id="i", properties=ImageProperties(traits_required=("CUSTOM_X",)))
    spec = SPEC.model_copy(update={"image": image, "force_hosts": ("h1",)})
    message = wire.build_error(
        instance("error", None), UUID, spec, "NoValidHost", "said", MESSAGE_ID, 1.7e9
    )
    failed = parse_notification(json.dumps(message))
    assert isinstance(failed, BuildFailed)
    assert failed.spec is not None
    assert failed.spec.image is not None
    assert failed.spec.image.properties.traits_required == ("CUSTOM_X",)
    assert failed.spec.force_hosts == ("h1",)


def test_published_where_nova_publishes() -> None:
    url = "memory://"
    emitter = wire.KombuEmitter(url)
    message = made("compute_task.build_instances.error")
    exchange = Exchange("nova", type="topic", durable=False)
    queue = Queue("mine", exchange, routing_key="versioned_notifications.error")
    with Connection(url) as connection, connection.channel() as channel:
        queue(channel).declare()
        emitter(made("instance.create.end"))
        emitter(message)
        received = queue(channel).get()
        assert queue(channel).get() is None
    emitter.close()
    assert received is not None
    assert isinstance(received.body, str | bytes)
    assert json.loads(received.body)["oslo.version"] == "2.0"
    assert json.loads(json.loads(received.body)["oslo.message"]) == message
