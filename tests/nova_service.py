"""A small Nova with a Keystone, on loopback: their wire forms, and their traps.

Recorded from nova 34.0.0 and keystone 30.0.0 (see tests/data/nova). What becomes of servers is the
simulated Nova's business; this speaks for it as the real one does: filters, pages, cells that are
down, metadata that a failed server does not take, answers that never come.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from changeover.models.blueprint import Blueprint
from changeover.models.errors import NotFound, OutcomeUnknown, QuotaExceeded, Refuse
from changeover.worker.ports.servers import MARKER, REPLACES, Server, ServerStatus
from changeover.worker.simulator.servers import SimulatedServers

SERVICE_USER = "05846e8932f7486ba9ad4e1db1513efe"
SERVICE_PROJECT = "c97cf399372b4a42b0a7b8dbbe0b935d"
PASSWORD = "only-for-tests"  # noqa: S105 - of a service on loopback
DEFAULT_PAGE = 1000
_MORE = {"servers_links": [{"rel": "next", "href": "http://elsewhere/"}]}


@dataclass
class Faults:
    """What goes wrong. ``status``: answered to everything of Nova's instead, if set."""

    status: int | None = None
    body: bytes | None = None
    cell_down: bool = False
    silent: set[str] = field(default_factory=set)
    """Methods that are done and not answered."""


class NovaService:
    """The service. Its knobs may be turned while it runs; close it after use."""

    def __init__(self, servers: SimulatedServers, port: int = 0) -> None:
        self.servers = servers
        self.faults = Faults()
        self.version = "2.104"
        self.page = DEFAULT_PAGE
        self.trusts: list[dict[str, Any]] = []
        self.roles: set[str] = {SERVICE_PROJECT}
        """Projects in which the service user has a role."""
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        """Bodies of create requests."""
        self.callers: dict[str, list[tuple[str, str]]] = defaultdict(list)
        """Users and projects by which each method was called."""
        self.aggregates: list[dict[str, Any]] = []
        self.request_ids: list[str | None] = []
        """How create requests named themselves."""
        self.filters = True
        """Whether the service user may filter by what only administrators may by default."""
        self.forbid: set[str] = set()
        """Methods that find no server, as Nova hides those that one may not touch."""
        self.deny: set[str] = set()
        """Methods that are refused, as for servers of others that are not scheduled yet."""
        self.tokens: dict[str, tuple[str, str]] = {}
        self.described: dict[str, str] = {}
        self.open(port)

    def open(self, port: int = 0) -> None:
        """Listen; on a port that it had before, if given."""
        self._server = _Server(self, port)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """Stop listening: connections are refused."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in list(self._server.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def clouds_yaml(self) -> str:
        """What an operator would write."""
        auth = (
            f"auth_url: '{self.url}/v3', username: changeover, password: {PASSWORD}, "
            "project_name: service, user_domain_name: Default, project_domain_name: Default"
        )
        return f"clouds:\n  loop: {{region_name: RegionOne, auth: {{{auth}}}}}\n"

    def trust(self, user: str, project: str, **more: Any) -> dict[str, Any]:
        """The user gives the service user a trust."""
        trust = {
            "id": f"trust{len(self.trusts)}",
            "trustor_user_id": user,
            "trustee_user_id": SERVICE_USER,
            "project_id": project,
            "impersonation": True,
            "expires_at": None,
            "remaining_uses": None,
            "deleted_at": None,
            **more,
        }
        self.trusts.append(trust)
        return trust

    # --- Keystone --------------------------------------------------------------------------

    def issue(self, body: dict[str, Any]) -> tuple[int, dict[str, Any], str]:
        """A token for an authentication request."""
        auth = body["auth"]
        if auth["identity"]["password"]["user"]["password"] != PASSWORD:
            return 401, _error("unauthorized", 401, "The request requires authentication."), ""
        user, project = SERVICE_USER, SERVICE_PROJECT
        scope = auth.get("scope", {})
        if "OS-TRUST:trust" in scope:
            given = [t for t in self.trusts if t["id"] == scope["OS-TRUST:trust"]["id"]]
            if not given:
                return 401, _error("unauthorized", 401, "The request requires authentication."), ""
            user, project = given[0]["trustor_user_id"], given[0]["project_id"]
        elif "id" in scope.get("project", {}):
            project = scope["project"]["id"]
            if project not in self.roles:
                return 401, _error("unauthorized", 401, "The request requires authentication."), ""
        token = f"token-{len(self.tokens)}"
        self.tokens[token] = (user, project)
        endpoints = {"compute": f"{self.url}/v2.1", "identity": f"{self.url}/v3"}
        catalog = [
            {
                "type": kind,
                "name": kind,
                "id": kind,
                "endpoints": [
                    {
                        "id": kind,
                        "interface": "public",
                        "region": "RegionOne",
                        "region_id": "RegionOne",
                        "url": url,
                    }
                ],
            }
            for kind, url in endpoints.items()
        ]
        return (
            201,
            {
                "token": {
                    "methods": ["password"],
                    "user": {
                        "id": user,
                        "name": user,
                        "domain": {"id": "default", "name": "Default"},
                    },
                    "project": {
                        "id": project,
                        "name": project,
                        "domain": {"id": "default", "name": "Default"},
                    },
                    "roles": [{"id": "member", "name": "member"}],
                    "catalog": catalog,
                    "expires_at": "2999-01-01T00:00:00.000000Z",
                    "issued_at": "2026-11-26T00:00:00.000000Z",
                }
            },
            token,
        )

    # --- Nova ------------------------------------------------------------------------------

    def shown(self, server: Server) -> dict[str, Any]:
        """A server as microversion 2.100 shows it."""
        blueprint = server.blueprint
        assert blueprint is not None
        flavor = self.servers.flavor(blueprint.flavor)
        events = [e for e in self.servers.journal() if e["server"] == server.uuid]
        changed = max((e["t"] for e in events), default=0.0)
        failed = max((e["t"] for e in events if e["event"] == "failed"), default=0.0)
        hints = {k: [v] if isinstance(v, str) else v for k, v in blueprint.scheduler_hints.items()}
        if MARKER in server.metadata:
            hints[MARKER] = [server.metadata[MARKER]]
        value: dict[str, Any] = {
            "id": server.uuid,
            "name": server.name,
            "status": str(server.status),
            "tenant_id": server.project,
            "user_id": server.user,
            "created": _time(changed),
            "updated": _time(changed),
            "metadata": dict(server.metadata),
            "tags": sorted([*blueprint.tags, *_mark(server.metadata)]),
            "description": self.described.get(server.uuid, blueprint.description),
            "flavor": {
                "original_name": flavor.name,
                "vcpus": flavor.vcpus,
                "ram": flavor.memory_mb,
                "disk": flavor.root_gb,
                "ephemeral": flavor.ephemeral_gb,
                "swap": flavor.swap,
                "extra_specs": dict(flavor.extra_specs),
            },
            "image": {"id": blueprint.image, "properties": {}} if blueprint.image else "",
            "os-extended-volumes:volumes_attached": [
                {"id": device["uuid"], "delete_on_termination": False}
                for device in blueprint.block_devices
                if device.get("source_type") == "volume"
            ],
            "key_name": blueprint.key_name,
            "config_drive": "True" if blueprint.config_drive else "",
            "addresses": {},
            "OS-EXT-AZ:availability_zone": blueprint.availability_zone or "",
            "pinned_availability_zone": blueprint.availability_zone,
            "OS-EXT-SRV-ATTR:host": server.host,
            "OS-EXT-SRV-ATTR:hostname": blueprint.hostname or server.name,
            "OS-EXT-SRV-ATTR:reservation_id": "r-wueuqjw0",
            "OS-EXT-SRV-ATTR:user_data": blueprint.user_data,
            "OS-EXT-STS:vm_state": str(server.status).lower(),
            "server_groups": [blueprint.server_group] if blueprint.server_group else [],
            "scheduler_hints": hints,
        }
        groups = blueprint.security_groups or ("default",)
        if server.host is not None:  # they are its ports', which only its host makes
            value["security_groups"] = [{"name": name} for name in groups]
        if server.status is ServerStatus.ERROR:
            value["fault"] = {
                "code": 500,
                "created": _time(failed),
                "message": server.fault.partition(": ")[2],
            }
        if server.status is ServerStatus.DELETED:  # with it go its tags and metadata
            value.update(tags=[], metadata={})
        return value

    def hidden(self, server: Server) -> bool:
        """Whether it lies in the cell that is down: cell0, where failed ones are, never is."""
        return self.faults.cell_down and server.host is not None

    def listing(self, query: dict[str, str], *, detail: bool) -> dict[str, Any]:
        """A page of servers, filtered as Nova does."""
        rows = self.servers.servers(query.get("project_id"))
        if set(query) <= {"all_tenants"}:
            alive = [s for s in rows if s.status is not ServerStatus.DELETED]
            down = [{"id": s.uuid, "status": "UNKNOWN"} for s in alive if self.hidden(s)]
            known = [{"id": s.uuid, "name": s.name} for s in alive if not self.hidden(s)]
            every = [*down, *known] if len(known) < self.page else known[: self.page]
            links = (
                [{"rel": "next", "href": "http://elsewhere/"}] if len(every) >= self.page else []
            )
            return {"servers": every, "servers_links": links}
        values = [self.shown(s) for s in rows if not self.hidden(s)]
        values = [v for v in values if "changes-since" in query or v["status"] != "DELETED"]
        if "uuid" in query and self.filters:
            values = [v for v in values if v["id"] == query["uuid"]]
        if "tags" in query:
            values = [v for v in values if query["tags"] in v["tags"]]
        if "status" in query:
            values = [v for v in values if v["status"] == query["status"]]
        if "changes-since" in query:
            since = datetime.fromisoformat(query["changes-since"]).timestamp()
            values = [
                v for v in values if datetime.fromisoformat(v["updated"]).timestamp() >= since
            ]
        ids = [v["id"] for v in values]
        start = ids.index(query["marker"]) + 1 if "marker" in query else 0
        size = min(self.page, int(query.get("limit", self.page)))
        answer: dict[str, Any] = {"servers": values[start : start + size]}
        if start + size < len(values) or len(answer["servers"]) == size:
            answer.update(_MORE)
        assert detail
        return answer

    def create(self, body: dict[str, Any], user: str, project: str) -> tuple[int, dict[str, Any]]:
        """Nova's ``POST /servers``."""
        self.bodies.append(body)
        asked = dict(body["server"])
        hints = dict(body.get("os:scheduler_hints", {}))
        if asked.get("key_name") and user == SERVICE_USER:
            return 400, _error("badRequest", 400, "Invalid key_name provided.")
        metadata = dict(asked["metadata"])
        marks = _mark(metadata)
        if not set(marks) <= set(asked["tags"]) or hints.pop(MARKER, None) != metadata[MARKER]:
            return 400, _error("badRequest", 400, "a marker that no listing could find")
        blueprint = Blueprint.parse(
            {
                "name": asked["name"],
                "flavor": asked["flavorRef"].removeprefix("id-of-"),
                "image": asked.get("imageRef"),
                "metadata": {k: v for k, v in metadata.items() if k not in (MARKER, REPLACES)},
                "tags": [t for t in asked["tags"] if t not in marks],
                "server_group": hints.pop("group", None),
                "scheduler_hints": hints,
                # The simulated Nova forgets what a failed server was to have; this one never knew.
                "networks": None if asked["networks"] == "auto" else asked["networks"],
                "security_groups": [g["name"] for g in asked.get("security_groups", [])],
                "block_devices": asked.get("block_device_mapping_v2", []),
                **{
                    name: asked[name]
                    for name in (
                        "availability_zone", "hostname", "description", "key_name", "user_data",
                        "config_drive", "host",
                    )
                    if name in asked
                },
            }
        )  # fmt: skip
        try:
            uuid = self.servers.create(
                blueprint,
                metadata[MARKER],
                project=project,
                user=user,
                replaces=metadata.get(REPLACES),
            )
        except QuotaExceeded as exc:
            return 403, _error("forbidden", 403, exc.message)
        except Refuse as exc:
            return 400, _error("badRequest", 400, exc.message)
        return 202, {"server": {"id": uuid, "links": [], "adminPass": "x"}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, service: NovaService, port: int) -> None:
        self.service = service
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's signature
        """Say nothing."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        service = self.server.service
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        body = json.loads(raw) if raw else {}
        path = urlsplit(self.path).path.rstrip("/")
        if path.startswith("/v3"):
            self._keystone(path, body)
            return
        service.asked[f"{self.command} {path}"] += 1
        if service.faults.status is not None:
            self._send(service.faults.status, service.faults.body or b"{}")
            return
        who = service.tokens.get(self.headers.get("X-Auth-Token", ""))
        if who is None and path != "/v2.1":
            self._answer(401, _error("unauthorized", 401, "Authentication required"))
            return
        service.callers[self.command].append(who or ("", ""))
        if (self.command, path) == ("POST", "/v2.1/servers"):
            service.request_ids.append(self.headers.get("X-OpenStack-Request-ID"))
        try:
            status, value = self._nova(path, body, who or ("", ""))
        except OutcomeUnknown:
            status = 0
        if status == 0 or self.command in service.faults.silent:
            self.close_connection = True
            return
        self._answer(status, value)

    def _keystone(self, path: str, body: dict[str, Any]) -> None:
        service = self.server.service
        if path == "/v3/auth/tokens":
            status, value, token = service.issue(body)
            self._answer(status, value, {"X-Subject-Token": token} if token else {})
        elif path == "/v3/OS-TRUST/trusts":
            self._answer(200, {"trusts": service.trusts, "links": {"next": None}})
        elif self.command == "DELETE" and path.startswith("/v3/OS-TRUST/trusts/"):
            user, _ = service.tokens.get(self.headers.get("X-Auth-Token", ""), ("", ""))
            given = [t for t in service.trusts if t["id"] == path.rpartition("/")[2]]
            if not given:
                self._answer(404, _error("itemNotFound", 404, "Could not find trust."))
            elif "DELETE" in service.forbid or user != given[0]["trustor_user_id"]:
                self._answer(403, _error("forbidden", 403, "You are not authorized."))
            else:
                service.trusts.remove(given[0])
                self._answer(204, None)
        else:
            link = {"rel": "self", "href": f"{service.url}/v3/"}
            version = {"id": "v3.14", "status": "stable", "links": [link]}
            self._answer(200, {"version": version})

    def _nova(self, path: str, body: dict[str, Any], who: tuple[str, str]) -> tuple[int, Any]:
        service = self.server.service
        query = {k: v[-1] for k, v in parse_qs(urlsplit(self.path).query).items()}
        parts = path.removeprefix("/v2.1").strip("/").split("/")
        match (self.command, parts):
            case ("GET", [""]):
                return 200, {"version": {"version": service.version, "min_version": "2.1"}}
            case ("GET", ["servers"]):
                return 200, service.listing(query, detail=False)
            case ("GET", ["servers", "detail"]):
                return 200, service.listing(query, detail=True)
            case ("POST", ["servers"]):
                return service.create(body, *who)
            case (_, ["servers", uuid, *rest]):
                return self._one(uuid, rest, body)
            case ("GET", ["os-services"]):
                return 200, {"services": self._services(query)}
            case ("GET", ["os-aggregates"]):
                return 200, {"aggregates": service.aggregates}
            case ("GET", ["flavors"]):
                with service.servers._tx() as db:
                    names = [r["name"] for r in db.execute("SELECT name FROM flavors")]
                flavors = [{"id": f"id-of-{n}", "name": n} for n in sorted(names)]
                after = [f for f in flavors if f["id"] > query.get("marker", "")]
                page = after[: service.page]
                more = len(page) == service.page
                return 200, {
                    "flavors": page,
                    **({"flavors_links": _MORE["servers_links"]} if more else {}),
                }
        return 404, _error("itemNotFound", 404, "not here")

    def _one(self, uuid: str, rest: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        service = self.server.service
        server = service.servers.get(uuid)
        if server is None or self.command in service.forbid:
            return 404, _error("itemNotFound", 404, f"Instance {uuid} could not be found.")
        if self.command in service.deny:
            said = "Policy doesn't allow os_compute_api:servers:show to be performed."
            return 403, _error("forbidden", 403, said)
        if service.hidden(server):
            return 200, {"server": {"id": uuid, "status": "UNKNOWN", "tenant_id": server.project}}
        match (self.command, rest):
            case ("GET", []):
                return 200, {"server": service.shown(server)}
            case ("DELETE", []):
                service.servers.delete(uuid)
                return 204, None
            case ("PUT", []):
                service.described[uuid] = body["server"]["description"]
                return 200, {"server": service.shown(server)}
            case ("POST", ["metadata"]):
                if server.status is ServerStatus.ERROR:
                    said = f"Cannot 'update metadata' instance {uuid} while it is in vm_state error"
                    return 409, _error("conflictingRequest", 409, said)
                try:
                    service.servers.link(uuid, body["metadata"])
                except NotFound:
                    return 404, _error("itemNotFound", 404, "gone")
                return 200, {"metadata": body["metadata"]}
        return 404, _error("itemNotFound", 404, "not here")

    def _services(self, query: dict[str, str]) -> list[dict[str, Any]]:
        service = self.server.service
        with service.servers._tx() as db:
            hosts = {r["name"]: bool(r["up"]) for r in db.execute("SELECT * FROM hosts")}
        down = service.faults.cell_down
        return [
            {
                "binary": "nova-compute",
                "host": host,
                **(
                    {"status": "UNKNOWN"}
                    if down
                    else {"status": "enabled", "state": "up" if up else "down"}
                ),
            }
            for host, up in hosts.items()
            if query.get("host", host) == host
        ]

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"" if value is None else json.dumps(value).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def running(servers: SimulatedServers) -> Iterator[NovaService]:
    """The service, for as long as the block runs."""
    service = NovaService(servers)
    try:
        yield service
    finally:
        service.close()


def _mark(metadata: Mapping[str, str]) -> list[str]:
    return [f"{MARKER}={metadata[MARKER]}"] if MARKER in metadata else []


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _error(name: str, code: int, message: str) -> dict[str, Any]:
    return {name: {"code": code, "message": message}}
