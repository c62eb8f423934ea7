"""A small Cyborg with a Glance beside it, on loopback: their wire form, and their traps.

Recorded from openstack-cyborg 17.0.0 and glance 33.0.0. What a call to program does is the agent's:
it goes on when the API has given up after ``rpc_seconds`` (60 in Cyborg). What a card holds shows
only after :meth:`report`, first in Cyborg's own records, then in Placement, written as Cyborg
writes: at whatever generation is there.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from changeover.models.placement import Inventory
from changeover.worker.ports.placement import PlacementTenant

FUNCTION = "CUSTOM_FPGA_FUNCTION_"
SIM = "CUSTOM_FPGA_SIM"
NONE = "NONE"


@dataclass
class Card:
    """One card: ``function`` is what it holds, ``reported`` what the agent last said it holds."""

    provider: str
    uuid: str = field(default_factory=lambda: str(uuid4()))
    name: str = "host_card"
    function: str = NONE
    reported: str = NONE
    resource_class: str = "FPGA"
    accelerators: int = 1
    running: int = 0


@dataclass
class Image:
    """An image of Glance; ``updated_at`` changes with what it holds."""

    data: bytes
    status: str = "active"
    updated_at: str = "2026-11-26T00:50:56Z"
    hash_algo: str | None = "sha512"
    size: int | None = None


class CyborgService:
    """The service. Its knobs may be turned while it runs; close it after use."""

    def __init__(self, placement: PlacementTenant | None = None) -> None:
        self.placement = placement
        self.cards: dict[str, Card] = {}
        self.images: dict[str, Image] = {}
        self.profiles: dict[str, list[dict[str, str]]] = {}
        self.arqs: list[dict[str, str | None]] = []
        self.asked: Counter[str] = Counter()
        self.rpc_seconds = 5.0
        self.agent_up = True
        self.status: int | None = None
        """Answered to everything instead, if set."""
        self.program_hook: Callable[[Card, dict[str, Any]], None] | None = None
        self.calls: list[tuple[str, str]] = []
        """Deployable and image of each call that reached a card."""
        self._lock = threading.Lock()
        self._agents: list[threading.Thread] = []
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """End it, and all that its agent still does."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for agent in self._agents:
            agent.join()

    def card(self, provider: str, name: str = "host_card") -> Card:
        """Add a card; its provider is reported as Cyborg does, if Placement has it."""
        card = Card(provider=provider, name=name)
        self.cards[card.uuid] = card
        return card

    def image(self, data: bytes) -> tuple[str, str]:
        """Add an image; its id and sha256."""
        uuid = str(uuid4())
        self.images[uuid] = Image(data)
        return uuid, hashlib.sha256(data).hexdigest()

    def bitstream(self, function: str, **spec: Any) -> tuple[str, str]:
        """Add a bitstream of the simulated cards."""
        return self.image(json.dumps({"function": function, **spec}).encode())

    # --- the agent -----------------------------------------------------------------------------

    def report(self, card: Card, *, placement_fails: bool = False) -> None:
        """The agent's periodic run for one card: Cyborg's records, then Placement.

        Cyborg compares with its records only: what it failed to tell Placement it never tells.
        """
        old, card.reported = card.reported, card.function
        if self.placement is None or old == card.reported or placement_fails:
            return
        self._retrait(card, lambda traits: traits - {FUNCTION + old})
        self._retrait(card, lambda traits: traits | {FUNCTION + card.reported})

    def introduce(self, card: Card) -> None:
        """The agent's first report of a card: the count before the traits."""
        assert self.placement is not None
        self.reinventory(card)
        self._retrait(card, lambda traits: traits | {SIM, FUNCTION + card.reported})

    def reinventory(self, card: Card) -> None:
        """What Cyborg writes when the count or the class changes: without ``reserved``."""
        assert self.placement is not None
        generation = self.placement.state(card.provider).generation
        count = card.accelerators
        inventory = {card.resource_class: Inventory(total=count, max_unit=count)}
        self.placement.put_inventories(card.provider, generation, inventory)

    def _retrait(self, card: Card, change: Callable[[frozenset[str]], frozenset[str]]) -> None:
        assert self.placement is not None
        state = self.placement.state(card.provider)
        wanted = change(state.traits)
        self.placement.ensure_traits(wanted)
        self.placement.put_traits(card.provider, state.generation, wanted)

    def run(self, card: Card, image: str, done: dict[str, Any]) -> None:
        """The agent's side of one call to program."""
        found = self.images.get(image)
        if found is None:
            trace = '\nTraceback (most recent call last):\n\n  File "/x/glance.py", line 202\n'
            done["error"] = (404, f"Image not found with uuid={image}{trace}")
            return
        with self._lock:
            card.running += 1
            self.calls.append((card.uuid, image))
        try:
            spec = json.loads(found.data)
            if self.program_hook is not None:
                self.program_hook(card, spec)
            time.sleep(float(spec.get("seconds", 0.0)))
            if spec.get("fail"):
                done["error"] = (500, "FPGA programming failed with return False.")
                return
            card.function = spec["function"]
            done["ok"] = True
        except ValueError as error:
            done["error"] = (
                500,
                f"Remote error: JSONDecodeError {error}\n['Traceback (most recent call last):\\n']",
            )
        finally:
            with self._lock:
                card.running -= 1

    def call_agent(self, card: Card, image: str) -> tuple[int, str] | None:
        """Over RPC: the error, or ``None``. The agent goes on when the API has given up."""
        done: dict[str, Any] = {}
        lost = (500, f"Timed out waiting for a reply to message ID {uuid4().hex}")
        if not self.agent_up:
            return lost
        agent = threading.Thread(target=self.run, args=(card, image, done))
        self._agents.append(agent)
        agent.start()
        agent.join(self.rpc_seconds)
        if agent.is_alive():
            return lost
        return done.get("error")

    # --- the API -------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> _Reply:
        """One request."""
        parts = path.strip("/").split("/")[1:]
        self.asked[f"{method} {parts[0] if parts else ''}"] += 1
        if self.status is not None:
            return _fault(self.status, "out of order")
        if parts[:1] == ["device_profiles"]:
            return self._profiles(query.get("name"))
        if parts == ["accelerator_requests"]:
            return _json(200, {"arqs": self.arqs})
        if parts[:1] == ["images"]:
            return self._image(parts[1], whole=parts[2:] == ["file"])
        if parts == ["deployables"]:
            return _json(200, {"deployables": [_deployable(c) for c in self.cards.values()]})
        card = self.cards.get(parts[1])
        if card is None:
            return _fault(404, f"Deployable not found with uuid={parts[1]}")
        if method == "GET":
            return _json(200, _deployable(card))
        return self._program(card, body)

    def _profiles(self, names: list[str] | None) -> _Reply:
        wanted = None if names is None else names[0].split(",")
        found = [
            {"uuid": str(uuid4()), "name": name, "description": None, "groups": groups}
            for name, groups in self.profiles.items()
            if wanted is None or name in wanted
        ]
        return _json(200, {"device_profiles": found})

    def _image(self, uuid: str, *, whole: bool) -> _Reply:
        image = self.images.get(uuid)
        if image is None:
            page = f"<html><h1>404 Not Found</h1>No image found with ID {uuid}</html>"
            return _Reply(404, page.encode(), "text/html")
        if whole:
            return _Reply(200, image.data, "application/octet-stream")
        algorithm = image.hash_algo
        return _json(
            200,
            {
                "id": uuid,
                "status": image.status,
                "size": len(image.data) if image.size is None else image.size,
                "updated_at": image.updated_at,
                "os_hash_algo": algorithm,
                "os_hash_value": algorithm and hashlib.new(algorithm, image.data).hexdigest(),
            },
        )

    def _program(self, card: Card, body: bytes) -> _Reply:
        try:
            image = json.loads(body)[0]["value"][0]["image_uuid"]
        except (ValueError, LookupError, TypeError) as error:
            return _fault(500, str(error), "Server")
        if len(image) != 36:
            return _fault(400, f"Expected a uuid but received {image}.")
        error = self.call_agent(card, image)
        if error is not None:
            return _fault(*error)
        return _json(200, _deployable(card))


def _deployable(card: Card) -> dict[str, Any]:
    attributes = [
        {"rc": card.resource_class},
        {"trait0": SIM},
        {"trait1": FUNCTION + card.reported},
    ]
    return {
        "uuid": card.uuid,
        "parent_id": None,
        "root_id": None,
        "name": card.name,
        "num_accelerators": card.accelerators,
        "device_id": 1,
        "attributes_list": json.dumps(attributes),
        "rp_uuid": card.provider,
        "driver_name": "sim",
        "bitstream_id": None,
    }


@dataclass(frozen=True)
class _Reply:
    status: int
    body: bytes
    content_type: str = "application/json"


def _json(status: int, value: object) -> _Reply:
    return _Reply(status, json.dumps(value).encode())


def _fault(status: int, text: str, code: str | None = None) -> _Reply:
    """Cyborg's errors: JSON in a text of JSON, with the agent's stack trace in it."""
    code = code or ("Client" if status < 500 else "Server")
    fault = {"faultcode": code, "faultstring": text, "debuginfo": None}
    return _json(status, {"error_message": json.dumps(fault)})


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, service: CyborgService) -> None:
        self.service = service
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        url = urlsplit(self.path)
        reply = self.server.service.answer(self.command, url.path, parse_qs(url.query), body)
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    do_GET = do_PATCH = _answer  # noqa: N815 - the names that http.server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's
        """Say nothing."""
