"""Nova's versioned notifications, in the exact form of the captured ones; and their publisher."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kombu import Connection, Exchange

from changeover.models.flavor import Flavor, RequestSpec

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Instance:
    """A server as Nova's notifications describe it. Times are seconds since the epoch."""

    uuid: str
    name: str
    project: str
    user: str
    flavor: Flavor
    request_id: str
    reservation_id: str
    created: float
    state: str
    image: str | None = None
    availability_zone: str | None = None
    host: str | None = None
    key_name: str | None = None
    launched: float | None = None
    deleted: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


def create_end(instance: Instance, message_id: str, now: float) -> Message:
    """``instance.create.end``: the server is built."""
    data = {
        "keypairs": [],
        "tags": list(instance.tags),
        "trusted_image_certificates": None,
        "instance_name": f"instance-{instance.uuid[:8]}",
        "fault": None,
        **_described(instance),
    }
    payload = _object("InstanceCreatePayload", "1.13", data)
    publisher = f"nova-compute:{instance.host}"
    return _message("instance.create.end", publisher, payload, instance, message_id, now)


def delete_start(instance: Instance, message_id: str, now: float) -> Message:
    """``instance.delete.start``: its owner, or Changeover, deletes the server."""
    return _action("instance.delete.start", instance, message_id, now)


def delete_end(instance: Instance, message_id: str, now: float) -> Message:
    """``instance.delete.end``: the server is gone, and so are its allocations."""
    return _action("instance.delete.end", instance, message_id, now)


def update(instance: Instance, old_state: str, message_id: str, now: float) -> Message:
    """``instance.update``: the server went from ``old_state`` to the state that it has."""
    month = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0)
    states = {
        "old_state": old_state,
        "state": instance.state,
        "old_task_state": "scheduling",
        "new_task_state": None,
    }
    period = {
        "audit_period_beginning": _moment(month.timestamp()),
        "audit_period_ending": _moment(now),
    }
    data = {
        "state_update": _object("InstanceStateUpdatePayload", "1.0", states),
        "audit_period": _object("AuditPeriodPayload", "1.0", period),
        "old_display_name": None,
        "tags": list(instance.tags),
        **_described(instance),
        "block_devices": None,
    }
    payload = _object("InstanceUpdatePayload", "2.1", data)
    return _message("instance.update", "nova-compute:ctl", payload, instance, message_id, now)


def build_error(
    instance: Instance,
    first: str,
    spec: RequestSpec,
    exception: str,
    said: str,
    message_id: str,
    now: float,
) -> Message:
    """``compute_task.build_instances.error``: the server could not be built.

    ``first`` is the first server of the request, which a multi-create names in every message.
    """
    reason = {
        "module_name": "oslo_messaging._drivers.amqpdriver",
        "function_name": "_send",
        "exception": f"{exception}_Remote",
        "exception_message": said,
        "traceback": f"nova.exception_Remote.{exception}_Remote: {said}\n",
    }
    data = {
        "instance_uuid": instance.uuid,
        "request_spec": _object("RequestSpecPayload", "1.1", _spec(instance, first, spec)),
        "state": "error",
        "reason": _object("ExceptionPayload", "1.1", reason),
    }
    payload = _object("ComputeTaskPayload", "1.0", data)
    event = "compute_task.build_instances.error"
    return _message(event, "nova-conductor:ctl", payload, instance, message_id, now, "ERROR")


def _action(event: str, instance: Instance, message_id: str, now: float) -> Message:
    payload = _object("InstanceActionPayload", "1.9", {"fault": None, **_described(instance)})
    publisher = f"nova-compute:{instance.host or 'ctl'}"
    return _message(event, publisher, payload, instance, message_id, now)


def _described(instance: Instance) -> dict[str, Any]:
    gone = instance.state == "deleted"
    return {
        "request_id": instance.request_id,
        "uuid": instance.uuid,
        "user_id": instance.user,
        "tenant_id": instance.project,
        "reservation_id": instance.reservation_id,
        "display_name": instance.name,
        "display_description": None,
        "host_name": instance.name,
        "host": instance.host,
        "node": instance.host,
        "os_type": None,
        "architecture": None,
        "availability_zone": instance.availability_zone,
        "flavor": _flavor(instance.flavor),
        "image_uuid": instance.image or "",
        "key_name": instance.key_name,
        "kernel_id": "",
        "ramdisk_id": "",
        "created_at": _moment(instance.created),
        "launched_at": _moment(instance.launched),
        "terminated_at": _moment(instance.deleted),
        "deleted_at": _moment(instance.deleted),
        "updated_at": _moment(instance.launched),
        "state": instance.state,
        "power_state": "running" if instance.launched and not gone else "pending",
        "task_state": None,
        "progress": 0,
        "ip_addresses": [],
        "block_devices": [],
        "metadata": dict(instance.metadata),
        "locked": False,
        "auto_disk_config": "MANUAL",
        "action_initiator_user": instance.user,
        "action_initiator_project": instance.project,
        "locked_reason": None,
        "shares": [],
    }


def _flavor(flavor: Flavor) -> Message:
    data = {
        "flavorid": flavor.flavorid,
        "memory_mb": flavor.memory_mb,
        "vcpus": flavor.vcpus,
        "root_gb": flavor.root_gb,
        "ephemeral_gb": flavor.ephemeral_gb,
        "name": flavor.name,
        "swap": flavor.swap,
        "rxtx_factor": 1.0,
        "vcpu_weight": 0,
        "disabled": False,
        "is_public": True,
        "extra_specs": dict(flavor.extra_specs),
        "projects": None,
        "description": None,
    }
    return _object("FlavorPayload", "1.4", data)


def _image(instance: Instance, spec: RequestSpec) -> Message:
    traits = spec.image.properties.traits_required if spec.image else ()
    properties = {"traits_required": list(traits)} if traits else {}
    data = {
        "id": instance.image,
        "name": instance.image,
        "status": "active",
        "visibility": None,
        "protected": None,
        "checksum": None,
        "owner": None,
        "size": 1024,
        "virtual_size": None,
        "container_format": "bare",
        "disk_format": "raw",
        "created_at": None,
        "updated_at": None,
        "tags": None,
        "direct_url": None,
        "min_ram": 0,
        "min_disk": 0,
        "properties": _object("ImageMetaPropsPayload", "1.20", properties),
    }
    return _object("ImageMetaPayload", "1.0", data)


def _spec(instance: Instance, first: str, spec: RequestSpec) -> dict[str, Any]:
    return {
        "instance_uuid": first,
        "project_id": instance.project,
        "user_id": instance.user,
        "availability_zone": spec.availability_zone,
        "flavor": _flavor(spec.flavor),
        "force_hosts": list(spec.force_hosts) or None,
        "force_nodes": list(spec.force_nodes) or None,
        "ignore_hosts": list(spec.ignore_hosts) or None,
        "instance_group": None,
        "image": _image(instance, spec),
        "numa_topology": None,
        "pci_requests": _object(
            "InstancePCIRequestsPayload", "1.0", {"instance_uuid": first, "requests": []}
        ),
        "num_instances": spec.num_instances,
        "requested_destination": None,
        "retry": None,
        "scheduler_hints": {},
        "security_groups": [],
    }


def _object(name: str, version: str, data: dict[str, Any]) -> Message:
    return {
        "nova_object.name": name,
        "nova_object.namespace": "nova",
        "nova_object.version": version,
        "nova_object.data": data,
    }


def _message(
    event_type: str,
    publisher: str,
    payload: Message,
    instance: Instance,
    message_id: str,
    now: float,
    priority: str = "INFO",
) -> Message:
    context = {
        "user": instance.user,
        "project_id": instance.project,
        "system_scope": None,
        "project": instance.project,
        "domain": None,
        "user_domain": "default",
        "project_domain": "default",
        "is_admin": False,
        "read_only": False,
        "show_deleted": False,
        "auth_token": None,
        "request_id": instance.request_id,
        "global_request_id": None,
        "resource_uuid": None,
        "roles": ["member", "reader"],
        "user_identity": f"{instance.user} {instance.project} - default default",
        "is_admin_project": True,
        "user_id": instance.user,
        "read_deleted": "no",
        "remote_address": None,
        "timestamp": datetime.fromtimestamp(now, UTC).replace(tzinfo=None).isoformat(),
        "quota_class": None,
        "user_name": instance.user,
        "service_catalog": [],
        "project_name": instance.project,
    }
    return {
        "message_id": message_id,
        "publisher_id": publisher,
        "event_type": event_type,
        "priority": priority,
        "payload": payload,
        "timestamp": str(datetime.fromtimestamp(now, UTC).replace(tzinfo=None)),
        "_unique_id": message_id.replace("-", ""),
        **{f"_context_{key}": value for key, value in context.items()},
    }


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---------------------------------------------------------------- publishing


def envelope(message: Mapping[str, Any]) -> dict[str, str]:
    """The message as oslo.messaging puts it on the wire."""
    return {"oslo.version": "2.0", "oslo.message": json.dumps(message)}


def routing_key(message: Mapping[str, Any]) -> str:
    """Where Nova publishes it: by its priority."""
    return f"versioned_notifications.{str(message['priority']).lower()}"


class KombuEmitter:
    """Publishes notifications to Nova's exchange on the broker at ``url``; thread-safe.

    Connects at the first message. Raises kombu's ``OperationalError`` if the broker cannot be
    reached after a few tries: a notification that Nova could not send either.
    """

    def __init__(self, url: str, exchange: str = "nova") -> None:
        self._connection = Connection(url)
        self._exchange = Exchange(exchange, type="topic", durable=False)
        self._producer = self._connection.Producer(exchange=self._exchange, serializer="json")
        self._lock = threading.Lock()

    def __call__(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            self._producer.publish(
                envelope(message),
                routing_key=routing_key(message),
                retry=True,
                retry_policy={"max_retries": 3, "interval_start": 0.1, "interval_max": 1.0},
            )

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            self._connection.release()
