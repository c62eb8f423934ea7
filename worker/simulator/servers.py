"""A simulated Nova, shared by any number of processes through one SQLite file.

A boot asks Placement for candidates, ranks them by preferred traits, claims one and ends ACTIVE,
or in ERROR with NoValidHost as Nova's fault; then it notifies as Nova does. Who dies while it
builds a server is succeeded by the next process that looks at it: a build holds a lock beside the
file, which the kernel frees, also where processes do not see each other. The table ``journal`` is
append-only: what was asked, claimed, built, released, for those who check the whole.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4, uuid5

from changeover.models.aggregate import Aggregate
from changeover.models.blueprint import Blueprint
from changeover.models.errors import (
    Busy,
    ChangeoverError,
    Invalid,
    NotFound,
    OutcomeUnknown,
    QuotaExceeded,
    Refuse,
    Unreachable,
)
from changeover.models.flavor import Flavor, Image, ImageProperties, RequestSpec
from changeover.models.notification import BuildFailed
from changeover.models.placement import AllocationCandidate, ResourceRequest
from changeover.policies.aggregates import within
from changeover.policies.device_profile import profile_groups, with_profile
from changeover.policies.rank import rank
from changeover.policies.request import request_of_spec
from changeover.worker import flock
from changeover.worker.ports.accelerators import Accelerators
from changeover.worker.ports.clock import Clock
from changeover.worker.ports.placement import PlacementTenant
from changeover.worker.ports.servers import (
    FOUND_AT_ONCE,
    MARKER,
    OWN_KEYS,
    REPLACES,
    Authority,
    Listing,
    Server,
    ServerStatus,
)
from changeover.worker.simulator import wire

NO_VALID_HOST = "No valid host was found. There are not enough hosts available."

_CANDIDATES = 1000  # as Nova asks for at most
_CLAIMS = 10
_SCHEMA = """
CREATE TABLE IF NOT EXISTS servers (
    uuid TEXT PRIMARY KEY, name TEXT NOT NULL, project TEXT NOT NULL, user TEXT NOT NULL,
    status TEXT NOT NULL, fault TEXT NOT NULL DEFAULT '', host TEXT, metadata TEXT NOT NULL,
    blueprint TEXT NOT NULL, request_id TEXT NOT NULL, place INTEGER NOT NULL,
    created REAL NOT NULL, launched REAL, deleted REAL
);
CREATE INDEX IF NOT EXISTS servers_by_request ON servers (request_id);
CREATE INDEX IF NOT EXISTS servers_by_project ON servers (project);
CREATE TABLE IF NOT EXISTS journal (
    id INTEGER PRIMARY KEY AUTOINCREMENT, t REAL NOT NULL, event TEXT NOT NULL,
    server TEXT, facts TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS journal_is_kept BEFORE UPDATE ON journal
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER IF NOT EXISTS journal_is_whole BEFORE DELETE ON journal
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TABLE IF NOT EXISTS flavors (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, traits TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS hosts (name TEXT PRIMARY KEY, up INTEGER NOT NULL, zone TEXT);
CREATE TABLE IF NOT EXISTS aggregates (uuid TEXT PRIMARY KEY, metadata TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS quotas (project TEXT PRIMARY KEY, servers INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS faults (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, times INTEGER, seconds REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS late (
    id INTEGER PRIMARY KEY AUTOINCREMENT, due REAL NOT NULL, orders TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

Emit = Callable[[dict[str, Any]], None]


class ServersFault(StrEnum):
    """What can go wrong with Nova's API.

    ``API_DOWN``       no call reaches it
    ``CREATE_LOST``    a create is not answered, and was not done
    ``CREATE_DONE``    a create is not answered, but was done
    ``CREATE_LATE``    a create is not answered, and is done ``seconds`` later
    ``DELETE_DONE``    a delete is not answered, but was done
    ``CELL_DOWN``      listings lack all servers that have a host
    ``QUOTA``          a create is refused for quota
    """

    API_DOWN = "api_down"
    CREATE_LOST = "create_lost"
    CREATE_DONE = "create_done"
    CREATE_LATE = "create_late"
    DELETE_DONE = "delete_done"
    CELL_DOWN = "cell_down"
    QUOTA = "quota"


@dataclass(frozen=True, slots=True)
class _Option:
    """One way to place a server."""

    host: str
    candidate: AllocationCandidate
    traits: frozenset[str]


class SimulatedServers:
    """The port ``Servers``, and what users and operators of the simulated cloud do.

    ``path`` is the SQLite file, or ``:memory:`` for one process. ``emit`` takes each notification
    (see :class:`~changeover.worker.simulator.wire.KombuEmitter`); what it raises is journaled as a
    lost notification, as in Nova. With a ``seed`` all ids and choices repeat in a new file.
    """

    def __init__(
        self,
        path: Path | str,
        placement: PlacementTenant,
        clock: Clock,
        emit: Emit | None = None,
        *,
        seed: int | None = None,
        longest_request_seconds: float = 5.0,
        accelerators: Accelerators | None = None,
    ) -> None:
        self.longest_request_seconds = longest_request_seconds
        self._accelerators = accelerators
        self._path = str(path)
        self._builds = None if self._path == ":memory:" else Path(path).with_suffix(".builds")
        self._placement = placement
        self._clock = clock
        self._emit = emit
        self._lock = threading.RLock()
        self._roots: dict[str, str] = {}
        self._left_to_parent: list[sqlite3.Connection] = []
        self._open()
        namespace = uuid4() if seed is None else uuid5(UUID(int=0), f"servers:{seed}")
        with self._tx() as db:
            db.execute("INSERT OR IGNORE INTO facts VALUES ('namespace', ?)", (str(namespace),))
            db.execute("INSERT OR IGNORE INTO facts VALUES ('ids', '0')")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # ------------------------------------------------------------ the cloud's operators

    def add_flavor(self, *flavors: Flavor) -> None:
        """Add flavors, or replace those of the same name."""
        with self._tx() as db:
            db.executemany(
                "INSERT OR REPLACE INTO flavors VALUES (?, ?)",
                [(flavor.name, flavor.model_dump_json()) for flavor in flavors],
            )

    def flavor(self, name: str) -> Flavor:
        """The flavor of that name or id; raises ``NotFound``."""
        with self._tx() as db:
            row = db.execute(
                "SELECT body FROM flavors WHERE name = ? OR json_extract(body, '$.flavorid') = ?"
                " ORDER BY name = ? DESC",
                (name, name, name),
            ).fetchone()
        if row is None:
            raise NotFound(f"no flavor {name}", flavor=name)
        return Flavor.model_validate_json(row["body"])

    def add_image(self, image: str, traits: Sequence[str]) -> None:
        """An image whose servers need these traits; one that nobody added needs none."""
        with self._tx() as db:
            db.execute(
                "INSERT OR REPLACE INTO images VALUES (?, ?)", (image, json.dumps(list(traits)))
            )

    def image_traits(self, image: str) -> tuple[str, ...]:
        """The traits that the image's servers need; see :meth:`add_image`."""
        with self._tx() as db:
            row = db.execute("SELECT traits FROM images WHERE id = ?", (image,)).fetchone()
        return () if row is None else tuple(json.loads(row["traits"]))

    def set_host(self, host: str, *, up: bool = True, zone: str | None = None) -> None:
        """Whether the host's compute service is up, and its availability zone."""
        with self._tx() as db:
            db.execute("INSERT OR REPLACE INTO hosts VALUES (?, ?, ?)", (host, up, zone))

    def set_aggregate(self, uuid: str, metadata: Mapping[str, str]) -> None:
        """Make a host aggregate, or give it other metadata; its hosts are Placement's to know.

        Projects are kept to aggregates, and aggregates from requests, as in a Nova with
        ``limit_tenants_to_placement_aggregate`` and ``enable_isolated_aggregate_filtering``.
        """
        with self._tx() as db:
            db.execute(
                "INSERT OR REPLACE INTO aggregates VALUES (?, ?)",
                (uuid, json.dumps(dict(metadata))),
            )

    def set_quota(self, project: str, servers: int) -> None:
        """How many servers the project may have; failed ones count."""
        with self._tx() as db:
            db.execute("INSERT OR REPLACE INTO quotas VALUES (?, ?)", (project, servers))

    def inject(
        self, kind: ServersFault, *, times: int | None = 1, seconds: float | None = None
    ) -> None:
        """Let the next ``times`` calls meet a fault (``None``: all until :meth:`clear_faults`)."""
        late = self.longest_request_seconds if seconds is None else seconds
        with self._tx() as db:
            db.execute(
                "INSERT INTO faults (kind, times, seconds) VALUES (?, ?, ?)", (kind, times, late)
            )

    def clear_faults(self) -> None:
        """Forget all faults."""
        with self._tx() as db:
            db.execute("DELETE FROM faults")

    def add_failed(self, failed: BuildFailed) -> None:
        """Add a server that failed elsewhere, so that a captured notification can be replayed.

        Its flavor is added if there is none of that name. Raises ``Invalid`` without a spec.
        """
        spec = failed.spec
        if spec is None:
            raise Invalid("request_spec: is null, so that nothing is known of the server")
        blueprint = Blueprint(
            name=f"captured-{failed.server[:8]}",
            flavor=spec.flavor.name,
            image=spec.image.id if spec.image else None,
            availability_zone=spec.availability_zone,
            host=next(iter(spec.force_hosts), None),
        )
        if spec.image is not None and spec.image.id is not None:
            self.add_image(spec.image.id, spec.image.properties.traits_required)
        with self._tx() as db:
            db.execute(
                "INSERT OR IGNORE INTO flavors VALUES (?, ?)",
                (spec.flavor.name, spec.flavor.model_dump_json()),
            )
            _insert(
                db,
                uuid=failed.server,
                name=blueprint.name,
                project=failed.project,
                user=failed.user,
                status=ServerStatus.ERROR,
                fault=f"{failed.exception}: {NO_VALID_HOST}",
                metadata="{}",
                blueprint=json.dumps(blueprint.as_json()),
                request_id=failed.request_id,
                place=0,
                created=self._clock.now(),
            )
            self._note(db, "captured", failed.server)

    def servers(self, project: str | None = None) -> list[Server]:
        """All servers, deleted ones too, in order of creation."""
        self._ripen()
        with self._tx() as db:
            rows = db.execute("SELECT * FROM servers ORDER BY rowid").fetchall()
        return [self._server(row) for row in rows if project in (None, row["project"])]

    def journal(self) -> list[dict[str, Any]]:
        """All that happened, in order: ``t``, ``event``, ``server`` and the event's facts.

        Events: ``create`` (by whom, marker), ``claimed`` (allocations), ``active`` (host),
        ``failed`` (exception), ``deleted`` (by whom), ``link``, ``captured``,
        ``withdrawn`` (a trust), ``notification_lost``. ``since`` is when the call to Placement
        began.
        """
        with self._tx() as db:
            rows = db.execute("SELECT * FROM journal ORDER BY id").fetchall()
        return [
            {"t": r["t"], "event": r["event"], "server": r["server"], **json.loads(r["facts"])}
            for r in rows
        ]

    # ------------------------------------------------------------ the cloud's users

    def boot(
        self,
        name: str,
        flavor: str,
        *,
        project: str = "demo",
        user: str = "alice",
        count: int = 1,
        image: str | None = "tiny",
        **more: Any,
    ) -> list[str]:
        """A user creates ``count`` servers; returns their uuids once they are built or failed.

        They succeed or fail together. ``more`` are further fields of their blueprint. Raises
        ``Refuse`` for quota, a bad flavor or a bad request.
        """
        blueprint = Blueprint.parse({"name": name, "flavor": flavor, "image": image, **more})
        return self._create(_order("user", blueprint, project, user, count=count))

    def user_delete(self, uuid: str) -> None:
        """The server's owner deletes it."""
        self._delete(uuid, by="user")

    # ------------------------------------------------------------ the port

    def get(self, uuid: str) -> Server | None:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        self._called()
        row = self._row(uuid)
        if row is not None and row["status"] == ServerStatus.BUILD:
            self._succeed(row["request_id"])
            row = self._row(uuid)
        if row is None or row["status"] == ServerStatus.DELETED:
            return None
        return self._server(row)

    def asked(self, uuid: str) -> RequestSpec | None:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        server = self.get(uuid)
        if server is None or server.blueprint is None:
            return None
        return self._spec(server.blueprint, 1)

    def create(
        self,
        blueprint: Blueprint,
        marker: str,
        *,
        project: str,
        user: str,
        replaces: str | None = None,
    ) -> str:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        self._called()
        links = {MARKER: marker} if replaces is None else {MARKER: marker, REPLACES: replaces}
        order = _order("changeover", blueprint, project, user, links=links)
        if self._meets(ServersFault.QUOTA) is not None:
            raise QuotaExceeded("Quota exceeded for instances: Requested 1")
        late = self._meets(ServersFault.CREATE_LATE)
        if late is not None:
            with self._tx() as db:
                due = self._clock.now() + late
                db.execute("INSERT INTO late (due, orders) VALUES (?, ?)", (due, json.dumps(order)))
        if late is not None or self._meets(ServersFault.CREATE_LOST) is not None:
            raise OutcomeUnknown("the create was not answered", marker=marker)
        created = self._create(order)[0]
        if self._meets(ServersFault.CREATE_DONE) is not None:
            raise OutcomeUnknown("the create was not answered", marker=marker)
        return created

    def authority(self, project: str, user: str) -> Authority:  # noqa: ARG002 - the port's signature
        """See :class:`~changeover.worker.ports.servers.Servers`: here everybody gave a trust."""
        self._called()
        return Authority.OWNER

    def withdraw(self, trust: str) -> None:
        """See :class:`~changeover.worker.ports.servers.Servers`: here nobody needs trusts."""
        self._called()
        with self._tx() as db:
            self._note(db, "withdrawn", None, trust=trust)

    def find(self, marker: str, project: str, since: float) -> Listing:  # noqa: ARG002 - nothing is forgotten
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        self._called()
        with self._tx() as db:
            rows = db.execute(
                "SELECT * FROM servers WHERE project = ? AND json_extract(metadata, ?) = ?"
                " ORDER BY rowid",
                (project, f'$."{MARKER}"', marker),
            ).fetchall()
        found = [self._server(row) for row in rows]
        if self._meets(ServersFault.CELL_DOWN) is not None:
            return Listing(tuple(s for s in found if s.host is None), complete=False)
        return Listing(tuple(found), complete=True)

    def failed_since(self, since: float) -> list[BuildFailed]:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        self._called()
        with self._tx() as db:
            rows = db.execute(
                "SELECT s.*, max(j.t) AS failed_at FROM journal j JOIN servers s"
                " ON s.uuid = j.server WHERE j.event IN ('failed', 'captured') AND j.t >= ?"
                " AND s.status = 'ERROR' AND s.fault LIKE 'NoValidHost:%' GROUP BY s.uuid"
                " ORDER BY j.id LIMIT ?",
                (since, FOUND_AT_ONCE),
            ).fetchall()
        return [
            BuildFailed(
                message_id=f"found:{row['uuid']}",
                server=row["uuid"],
                project=row["project"],
                user=row["user"],
                request_id=row["request_id"],
                exception="NoValidHost",
                num_instances=1,
                timestamp=row["failed_at"],
                spec=self._spec(_blueprint(row), 1),
            )
            for row in rows
        ]

    def link(self, uuid: str, metadata: Mapping[str, str]) -> None:
        """See :class:`~changeover.worker.ports.servers.Servers`; raises ``NotFound``."""
        self._called()
        with self._tx() as db:
            changed = db.execute(
                "UPDATE servers SET metadata = json_patch(metadata, ?)"
                " WHERE uuid = ? AND status != 'DELETED'",
                (json.dumps(dict(metadata)), uuid),
            ).rowcount
            if not changed:
                raise NotFound(f"no server {uuid}", server=uuid)
            self._note(db, "link", uuid, metadata=dict(metadata))

    def delete(self, uuid: str) -> bool:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        self._called()
        there = self._delete(uuid, by="changeover")
        if self._meets(ServersFault.DELETE_DONE) is not None:
            raise OutcomeUnknown("the delete was not answered", server=uuid)
        return there

    def aggregates(self) -> Sequence[Aggregate]:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        self._called()
        return self._aggregates()

    def host_up(self, host: str) -> bool | None:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        self._called()
        with self._tx() as db:
            row = db.execute("SELECT up FROM hosts WHERE name = ?", (host,)).fetchone()
        return None if row is None else bool(row["up"])

    # ------------------------------------------------------------ creating and building

    def _create(self, order: Mapping[str, Any]) -> list[str]:
        blueprint = Blueprint.from_json(order["blueprint"])
        self._request_of(self._spec(blueprint, 1))  # what it refuses is not created
        count = int(order["count"])
        now = self._clock.now()
        with ExitStack() as building:
            with self._tx() as db:
                self._check_quota(db, order["project"], count)
                request_id = f"req-{self._new_id(db)}"
                uuids = [self._new_id(db) for _ in range(count)]
                building.enter_context(self._building(request_id))  # before anybody sees them
                for place, uuid in enumerate(uuids):
                    name = blueprint.name + (f"-{place + 1}" if count > 1 else "")
                    _insert(
                        db,
                        uuid=uuid,
                        name=name,
                        project=order["project"],
                        user=order["user"],
                        status=ServerStatus.BUILD,
                        metadata=json.dumps(order["metadata"]),
                        blueprint=json.dumps(order["blueprint"]),
                        request_id=request_id,
                        place=place,
                        created=now,
                    )
                    marks = {k: v for k, v in order["metadata"].items() if k in (MARKER, REPLACES)}
                    self._note(db, "create", uuid, by=order["by"], **marks)
            self._build(request_id)
        return uuids

    def _check_quota(self, db: sqlite3.Connection, project: str, count: int) -> None:
        row = db.execute("SELECT servers FROM quotas WHERE project = ?", (project,)).fetchone()
        if row is None:
            return
        used: int = db.execute(
            "SELECT count(*) FROM servers WHERE project = ? AND status != 'DELETED'", (project,)
        ).fetchone()[0]
        if used + count > row["servers"]:
            raise QuotaExceeded(
                f"Quota exceeded for instances: Requested {count}, "
                f"but already used {used} of {row['servers']} instances"
            )

    def _spec(self, blueprint: Blueprint, count: int) -> RequestSpec:
        traits = () if blueprint.image is None else self.image_traits(blueprint.image)
        return RequestSpec(
            flavor=self.flavor(blueprint.flavor),
            image=Image(id=blueprint.image, properties=ImageProperties(traits_required=traits)),
            availability_zone=blueprint.availability_zone,
            force_hosts=() if blueprint.host is None else (blueprint.host,),
            num_instances=count,
        )

    def _build(self, request_id: str) -> None:
        """Build the servers of one request: all of them, or none."""
        rows = self._request(request_id)
        spec = self._spec(_blueprint(rows[0]), len(rows))
        request = self._request_of(spec)
        failure: tuple[str, str] | None = None
        hosts: dict[str, str] = {}
        try:
            for row in rows:
                host = self._place(row, request)
                if host is None:
                    failure = ("NoValidHost", NO_VALID_HOST)
                    break
                hosts[row["uuid"]] = host
        except ChangeoverError as error:
            failure = (type(error).__name__, error.message)
        for row in rows:
            if failure is None:
                self._became_active(row["uuid"], hosts[row["uuid"]])
            else:
                self._became_error(row["uuid"], rows[0]["uuid"], spec, *failure)

    def _request_of(self, spec: RequestSpec) -> ResourceRequest:
        """The request with the groups of the device profile, as Nova makes it."""
        asked = request_of_spec(spec)
        name = asked.device_profile
        if name is None:
            return asked.request
        groups = None if self._accelerators is None else self._accelerators.device_profile(name)
        if groups is None:
            raise Invalid(f"no device profile {name}", profile=name)
        return with_profile(asked.request, profile_groups(name, groups))

    def _place(self, row: sqlite3.Row, request: ResourceRequest) -> str | None:
        """Claim a place for the server; returns its host, or ``None`` if there is none."""
        uuid = row["uuid"]
        held = self._placement.held(uuid)
        if held:  # claimed by a process that died before it could say so
            return self._host_of(next(iter(held)))
        since = self._clock.now()
        there = self._aggregates()
        options = self._options(within(request, there, project=row["project"], isolating=True))
        with self._tx() as db:
            namespace = db.execute("SELECT value FROM facts WHERE name = 'namespace'").fetchone()
        Random(f"{namespace['value']}:{uuid}").shuffle(options)  # noqa: S311 - a simulation
        for option in rank(options, request.preferred)[:_CLAIMS]:
            allocations = option.candidate.allocations
            if self._placement.claim(uuid, allocations, project=row["project"], user=row["user"]):
                with self._tx() as db:
                    given = {provider: dict(amounts) for provider, amounts in allocations.items()}
                    self._note(
                        db, "claimed", uuid, host=option.host, allocations=given, since=since
                    )
                return option.host
        return None

    def _options(self, request: ResourceRequest) -> list[_Option]:
        answer = self._placement.candidates(request, limit=_CANDIDATES)
        with self._tx() as db:
            hosts = {row["name"]: row for row in db.execute("SELECT * FROM hosts")}
        options = []
        for candidate in answer.candidates:
            providers = [answer.summaries[uuid] for uuid in candidate.allocations]
            host = self._host_of(providers[0].root)
            known = hosts.get(host)
            zone = request.availability_zone
            if known is not None and (not known["up"] or zone not in (None, known["zone"], "nova")):
                continue
            traits = frozenset[str]().union(*(provider.traits for provider in providers))
            options.append(_Option(host, candidate, traits))
        return options

    def _aggregates(self) -> Sequence[Aggregate]:
        with self._tx() as db:
            rows = db.execute("SELECT * FROM aggregates ORDER BY rowid").fetchall()
        return [Aggregate(row["uuid"], json.loads(row["metadata"])) for row in rows]

    def _host_of(self, provider: str) -> str:
        """The name of the root provider of the provider's tree."""
        if provider not in self._roots:
            for found in self._placement.providers(in_tree=provider):
                if found.parent is None:
                    self._roots[provider] = found.name
        return self._roots[provider]

    def _became_active(self, uuid: str, host: str) -> None:
        now = self._clock.now()
        with self._tx() as db:
            built = db.execute(
                "UPDATE servers SET status = 'ACTIVE', host = ?, launched = ?"
                " WHERE uuid = ? AND status = 'BUILD'",
                (host, now, uuid),
            ).rowcount
            if built:
                self._note(db, "active", uuid, host=host)
        if not built:  # deleted while it was built
            self._placement.release(uuid)
            return
        self._notify(uuid, wire.create_end)

    def _became_error(
        self, uuid: str, first: str, spec: RequestSpec, exception: str, said: str
    ) -> None:
        with suppress(ChangeoverError):
            self._placement.release(uuid)
        with self._tx() as db:
            failed = db.execute(
                "UPDATE servers SET status = 'ERROR', fault = ?"
                " WHERE uuid = ? AND status = 'BUILD'",
                (f"{exception}: {said}", uuid),
            ).rowcount
            if failed:
                self._note(db, "failed", uuid, exception=exception, said=said)
        if not failed:
            return

        def changed(instance: wire.Instance, message_id: str, now: float) -> dict[str, Any]:
            return wire.update(instance, "building", message_id, now)

        def error(instance: wire.Instance, message_id: str, now: float) -> dict[str, Any]:
            return wire.build_error(instance, first, spec, exception, said, message_id, now)

        self._notify(uuid, changed)
        self._notify(uuid, error)

    @contextmanager
    def _building(self, request_id: str) -> Iterator[None]:
        """Be the one who builds a request's servers; raises ``Busy`` if somebody else is."""
        if self._builds is None:
            yield
            return
        lock = self._builds / request_id
        with flock.hold(lock):
            yield
            lock.unlink()  # whoever has it open, or makes it anew, finds nothing left to build

    def _succeed(self, request_id: str) -> None:
        """Go on with servers whose builder was killed, unless somebody builds them."""
        if self._builds is None:  # whoever builds them is a thread of this process
            return
        with ExitStack() as building:
            try:
                building.enter_context(self._building(request_id))
            except Busy:
                return
            if any(row["status"] == ServerStatus.BUILD for row in self._request(request_id)):
                self._build(request_id)

    def _ripen(self) -> None:
        """Do the late creates whose time has come."""
        while True:
            with self._tx() as db:
                row = db.execute(
                    "DELETE FROM late WHERE id = (SELECT id FROM late WHERE due <= ? LIMIT 1)"
                    " RETURNING orders",
                    (self._clock.now(),),
                ).fetchone()
            if row is None:
                return
            with suppress(Refuse):
                self._create(json.loads(row["orders"]))

    def _delete(self, uuid: str, *, by: str) -> bool:
        row = self._row(uuid)
        if row is None or row["status"] == ServerStatus.DELETED:
            return False
        self._notify(uuid, wire.delete_start)
        since = self._clock.now()
        self._placement.release(uuid)
        with self._tx() as db:
            now = self._clock.now()
            gone = db.execute(
                "UPDATE servers SET status = 'DELETED', deleted = ?"
                " WHERE uuid = ? AND status != 'DELETED'",
                (now, uuid),
            ).rowcount
            if gone:
                self._note(db, "deleted", uuid, by=by, since=since)
        if gone:
            self._notify(uuid, wire.delete_end)
        return bool(gone)

    # ------------------------------------------------------------ telling

    def _notify(
        self, uuid: str, make: Callable[[wire.Instance, str, float], dict[str, Any]]
    ) -> None:
        if self._emit is None:
            return
        with self._tx() as db:
            row = db.execute("SELECT * FROM servers WHERE uuid = ?", (uuid,)).fetchone()
            message_id = self._new_id(db)
        message = make(self._instance(row), message_id, self._clock.now())
        try:
            self._emit(message)
        except Exception as error:  # noqa: BLE001 - whatever the broker's client raises: it is lost
            with self._tx() as db:
                self._note(
                    db,
                    "notification_lost",
                    uuid,
                    event_type=message["event_type"],
                    error=type(error).__name__,
                )

    def _instance(self, row: sqlite3.Row) -> wire.Instance:
        blueprint = _blueprint(row)
        return wire.Instance(
            uuid=row["uuid"],
            name=row["name"],
            project=row["project"],
            user=row["user"],
            flavor=self.flavor(blueprint.flavor),
            request_id=row["request_id"],
            reservation_id=f"r-{row['request_id'][4:12]}",
            created=row["created"],
            state={"BUILD": "building"}.get(row["status"], row["status"].lower()),
            image=blueprint.image,
            availability_zone=blueprint.availability_zone,
            host=row["host"],
            key_name=blueprint.key_name,
            launched=row["launched"],
            deleted=row["deleted"],
            metadata=json.loads(row["metadata"]),
            tags=blueprint.tags,
        )

    def _server(self, row: sqlite3.Row) -> Server:
        return replace(_server(row), extra_specs=self.flavor(_blueprint(row).flavor).extra_specs)

    # ------------------------------------------------------------ the file

    def _open(self) -> None:
        self._pid = os.getpid()
        self._db = sqlite3.connect(
            self._path, timeout=30, isolation_level=None, check_same_thread=False
        )
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        # What must survive is the death of processes, not of the machine.
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_SCHEMA)

    @contextmanager
    def _tx(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._pid != os.getpid():
                # SQLite's connections must not be used, nor closed, on both sides of a fork.
                self._left_to_parent.append(self._db)
                self._open()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _row(self, uuid: str) -> sqlite3.Row | None:
        with self._tx() as db:
            row: sqlite3.Row | None = db.execute(
                "SELECT * FROM servers WHERE uuid = ?", (uuid,)
            ).fetchone()
        return row

    def _request(self, request_id: str) -> list[sqlite3.Row]:
        with self._tx() as db:
            return db.execute(
                "SELECT * FROM servers WHERE request_id = ? ORDER BY place", (request_id,)
            ).fetchall()

    def _called(self) -> None:
        """What happens at every call of the API."""
        if self._meets(ServersFault.API_DOWN) is not None:
            raise Unreachable("the compute API does not answer")
        self._ripen()

    def _meets(self, kind: ServersFault) -> float | None:
        """The fault's seconds, if this call meets one of that kind; it is counted."""
        with self._tx() as db:
            row = db.execute(
                "SELECT * FROM faults WHERE kind = ? ORDER BY id LIMIT 1", (kind,)
            ).fetchone()
            if row is None:
                return None
            if row["times"] is not None:
                db.execute("UPDATE faults SET times = times - 1 WHERE id = ?", (row["id"],))
                db.execute("DELETE FROM faults WHERE times <= 0")
            return float(row["seconds"])

    def _note(
        self, db: sqlite3.Connection, event: str, server: str | None, **facts: object
    ) -> None:
        db.execute(
            "INSERT INTO journal (t, event, server, facts) VALUES (?, ?, ?, ?)",
            (self._clock.now(), event, server, json.dumps(facts)),
        )

    @staticmethod
    def _new_id(db: sqlite3.Connection) -> str:
        count = db.execute(
            "UPDATE facts SET value = value + 1 WHERE name = 'ids' RETURNING value"
        ).fetchone()["value"]
        namespace = db.execute("SELECT value FROM facts WHERE name = 'namespace'").fetchone()
        return str(uuid5(UUID(namespace["value"]), str(count)))


def _insert(db: sqlite3.Connection, **values: object) -> None:
    """Insert a server; the names are those of columns, and ours."""
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    db.execute(
        f"INSERT OR IGNORE INTO servers ({columns}) VALUES ({marks})",  # noqa: S608 - our names
        tuple(values.values()),
    )


def _order(
    by: str,
    blueprint: Blueprint,
    project: str,
    user: str,
    *,
    count: int = 1,
    links: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A create request, JSON-able: a late one is kept until its time has come."""
    return {
        "by": by,
        "project": project,
        "user": user,
        "count": count,
        "metadata": {**blueprint.metadata, **(links or {})},
        "blueprint": blueprint.as_json(),
    }


def _blueprint(row: sqlite3.Row) -> Blueprint:
    return Blueprint.from_json(json.loads(row["blueprint"]))


def _server(row: sqlite3.Row) -> Server:
    metadata = json.loads(row["metadata"])
    blueprint = _blueprint(row)
    status = ServerStatus(row["status"])
    # As in Nova: which interfaces a server was to have is known only to the host that builds it.
    lost = status is ServerStatus.ERROR and blueprint.networks is not None
    return Server(
        uuid=row["uuid"],
        name=row["name"],
        project=row["project"],
        user=row["user"],
        status=status,
        fault=row["fault"],
        host=row["host"],
        metadata=metadata,
        blueprint=blueprint.model_copy(
            update={
                "name": row["name"],
                "metadata": {k: v for k, v in metadata.items() if k not in OWN_KEYS},
                **({"networks": None} if lost else {}),
            }
        ),
        lost=("networks",) if lost else (),
        launched=row["launched"] is not None,
    )
