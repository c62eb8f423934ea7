"""What a callback says, and how it is signed: CloudEvents 1.0, structured JSON, HMAC-SHA256."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

from changeover.models.boot import Boot
from changeover.models.callback import Callback
from changeover.models.states import BootState

CAPACITY_MADE = "boot.capacity_made"
"""The reason's code, and the event's kind, where slots are there and their owner may boot."""

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
SIGNATURE = "Changeover-Signature"


def kind_of(boot: Boot) -> str:
    """What is told of a boot that is over: that its owner may boot now, or what became of it."""
    made = boot.state is BootState.DECLINED and boot.reason.code == CAPACITY_MADE
    return CAPACITY_MADE if made else f"boot.{boot.state}"


def data_of(boot: Boot) -> dict[str, Any]:
    """What is told of a boot that is over.

    Not the facts of its reason: they may name other projects' servers.
    """
    kept_until = boot.reason.facts.get("kept_until")
    return {
        "boot": boot.id,
        "server": boot.server,
        "successor": boot.successor,
        "project": boot.project,
        "user": boot.user,
        "flavor": boot.name,
        "outcome": kind_of(boot).removeprefix("boot."),
        "reason": {"code": boot.reason.code, "text": boot.reason.text},
        "attempts": boot.attempt,
        "failed_at": moment(boot.failed_at),
        "finished_at": None if boot.finished_at is None else moment(boot.finished_at),
        "kept_until": None if kept_until is None else moment(float(kept_until)),
    }


def cloud_event(callback: Callback, source: str) -> bytes:
    """The body of a callback: the same bytes at every sending."""
    event = {
        "specversion": "1.0",
        "id": callback.id,
        "source": source,
        "type": f"changeover.{callback.kind}",
        "subject": callback.boot,
        "time": moment(callback.created_at),
        "datacontenttype": "application/json",
        "data": dict(callback.data),
    }
    return json.dumps(event, sort_keys=True, separators=(",", ":")).encode()


def signature(secret: bytes, key_id: str, timestamp: int, body: bytes) -> str:
    """The value of the header :data:`SIGNATURE`.

    ``v1`` is the HMAC-SHA256 of the timestamp in decimal, a full stop and the body, as hex.
    """
    digest = hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},kid={key_id},v1={digest}"


def moment(seconds: float) -> str:
    """A time as RFC 3339, UTC, to the millisecond."""
    when = datetime.fromtimestamp(seconds, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
