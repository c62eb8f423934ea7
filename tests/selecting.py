"""What Nova tells when its scheduler begins to choose hosts for a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from changeover.worker.ports.servers import request_id_of

CAPTURED = Path(__file__).parent / "data" / "notifications" / "boot_succeeds.jsonl"


def selecting(server: str, marker: str, project: str) -> dict[str, Any]:
    """A captured message, for the server that the create call with that marker made."""
    messages = [json.loads(line)["message"] for line in CAPTURED.read_text().splitlines()]
    [message] = [m for m in messages if m["event_type"] == "scheduler.select_destinations.start"]
    message["message_id"] = str(uuid4())
    message["_context_global_request_id"] = request_id_of(marker)
    message["payload"]["nova_object.data"] |= {"instance_uuid": server, "project_id": project}
    return dict(message)
