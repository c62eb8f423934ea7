"""Servers of a real, unpatched Nova.

The service user reads in its own name; it creates, links and deletes in the owner's project, see
:mod:`changeover.worker.adapters.owners`. What Nova cannot tell or do is said, never guessed.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import structlog

from changeover.models.aggregate import Aggregate
from changeover.models.blueprint import Blueprint
from changeover.models.errors import (
    AskOperator,
    ChangeoverError,
    Garbled,
    Invalid,
    NotFound,
    OutcomeUnknown,
    QuotaExceeded,
    Refuse,
    Unreachable,
)
from changeover.models.flavor import RequestSpec
from changeover.models.notification import BuildFailed
from changeover.worker.adapters import nova_wire
from changeover.worker.adapters.host_names import same_host
from changeover.worker.adapters.microversions import Microversions, Version, range_of
from changeover.worker.adapters.nova_wire import ShownServer
from changeover.worker.adapters.owners import Owners
from changeover.worker.adapters.service_http import (
    ALSO_OF_A_PROXY,
    Answer,
    HttpService,
    Method,
    Timeouts,
    WrongFormError,
    a_text,
    an_array,
    failure,
    member,
    open_region,
)
from changeover.worker.ports.clock import Clock
from changeover.worker.ports.servers import (
    FOUND_AT_ONCE,
    Authority,
    Listing,
    Server,
    request_id_of,
)

log = structlog.get_logger(__name__)

WANTED: Final[Version] = (2, 100)
"""Scheduler hints; OpenStack Epoxy (2025)."""

LEAST: Final[Version] = (2, 79)
"""Tags, flavors and server groups shown, servers of cells that are down; Train (2019)."""

CREATE_TIMEOUTS: Final = Timeouts(connect=3.0, read=60.0, total=90.0)
"""A create is slow under load; to wait is cheaper than to look for it."""

AGGREGATES_KNOWN: Final = 60.0
"""Seconds for which it is believed which aggregates there are."""

PREPARING: Final = 60.0
"""Seconds that a create may spend on tokens and names before it is sent."""

SKEW: Final = 300.0
"""Seconds by which Nova's clock may be behind."""

PAGE: Final = 500
MOST_PAGES: Final = 200
_MOST_DESCRIPTION: Final = 255
_TAG: Final = re.compile(r"[A-Za-z0-9:._=-]{1,60}")


class NovaServers:
    """The port ``Servers``. Safe to call from several threads at once.

    Connections are kept: make one in each process, after it was forked.
    """

    def __init__(
        self, nova: HttpService, owners: Owners, *, longest_request_seconds: float
    ) -> None:
        # Counted from the beginning of the call, as whoever makes it journals that.
        self.longest_request_seconds = longest_request_seconds + PREPARING
        self._nova = nova
        self._owners = owners
        self._lock = threading.Lock()
        self._versions = Microversions(
            "compute", "Nova", least=LEAST, wanted=WANTED, ask=self._ask_versions
        )
        self._aggregates: tuple[float, tuple[Aggregate, ...]] = (-AGGREGATES_KNOWN, ())

    @classmethod
    def from_cloud(
        cls,
        cloud: str | None,
        clock: Clock,
        *,
        longest_request_seconds: float,
        timeouts: Timeouts | None = None,
    ) -> NovaServers:
        """For a cloud of clouds.yaml."""
        region, session = open_region(cloud)
        nova = HttpService.of_region("Nova", "compute", region, session, timeouts=timeouts)
        owners = Owners(region, session, clock.now, timeouts=timeouts)
        return cls(nova, owners, longest_request_seconds=longest_request_seconds)

    def close(self) -> None:
        """Close the connections that are kept; a later call opens new ones."""
        self._owners.close()
        self._nova.close()

    # --- reading ----------------------------------------------------------------------------

    def get(self, uuid: str) -> Server | None:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        shown = self._shown(uuid)
        return None if shown is None else shown.server()

    def asked(self, uuid: str) -> RequestSpec | None:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        shown = self._shown(uuid)
        return None if shown is None else shown.spec()

    def _shown(self, uuid: str) -> ShownServer | None:
        answer = self._call("GET", f"/servers/{quote(uuid, safe='')}")
        if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN}:
            # Of a server that is still to be scheduled Nova says that it is there, but not ours.
            listed = self._listed(uuid)
            if listed is not None or answer.status == HTTPStatus.NOT_FOUND:
                return listed
        server = _checked(answer).parse(lambda body: member(body, "server", "answer"))
        status = answer.parse(lambda _: member(server, "status", "server"))
        if status == nova_wire.UNKNOWN:
            raise Unreachable(f"the cell of server {uuid} is down: Nova knows only that it exists")
        if status in nova_wire.GONE:
            return None
        return self._read(server, answer)

    def _listed(self, uuid: str) -> ShownServer | None:
        """A server that Nova does not show by its uuid, if it is in its listing all the same.

        To a user that is no administrator of Nova's it shows other projects' servers in listings
        only, whatever its policy says. Absence ends boots, so it must be certain.
        """
        query = [("all_tenants", "1"), ("uuid", uuid), ("limit", "1")]
        answer = _checked(self._call("GET", "/servers/detail", query=query))
        servers, _ = answer.parse(nova_wire.listed)
        if not servers:
            # A filtered listing lacks the servers of cells that are down, and does not say so.
            if not self._every_cell_answers():
                raise Unreachable(f"a cell is down: whether server {uuid} is there is not known")
            return None
        if servers[0]["id"] != uuid:
            raise AskOperator(
                f"whether server {uuid} is there cannot be known: to look for it by its uuid the "
                "service user needs os_compute_api:servers:allow_all_filters, see "
                "docs/openstack.md"
            )
        return self._read(servers[0], answer)

    def _read(self, value: Any, answer: Answer) -> ShownServer:
        """A server of an answer. Raises :class:`Garbled` if it has not its form."""
        return answer.parse(lambda _: ShownServer(value, self._versions.spoken()))

    def authority(self, project: str, user: str) -> Authority:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        return self._owners.authority(project, user)

    def withdraw(self, trust: str) -> None:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        self._owners.withdraw(trust)

    def find(self, marker: str, project: str, since: float) -> Listing:
        """See :class:`~changeover.worker.ports.servers.Servers`.

        Nova leaves out the servers of cells that are down as soon as a listing is filtered, and
        says nothing; hence the cells are looked at before and after. With a server Nova deletes
        its tags and metadata, but not its scheduler hints (shown from microversion 2.100 on).
        """
        up = self._every_cell_answers()
        there = [("all_tenants", "1"), ("project_id", project)]
        tagged = [*there, ("tags", nova_wire.marker_tag(marker))]
        changed = [*there, ("changes-since", _iso(since - SKEW))]
        found: dict[str, Server] = {}
        for value, answer in self._pages("/servers/detail", tagged):
            found[value["id"]] = self._read(value, answer).server()
        for value, answer in self._pages("/servers/detail", changed):
            if nova_wire.hinted(value) == marker and value["id"] not in found:
                found[value["id"]] = self._read(value, answer).server()
        return Listing(tuple(found.values()), complete=up and self._every_cell_answers())

    def failed_since(self, since: float) -> list[BuildFailed]:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        query = [
            ("all_tenants", "1"),
            ("status", "ERROR"),
            ("changes-since", _iso(since)),
            ("sort_key", "updated_at"),
            ("sort_dir", "asc"),
        ]
        found: list[BuildFailed] = []
        for value, _ in self._pages("/servers/detail", query):
            try:
                failed = ShownServer(value, self._versions.spoken()).failure()
            except WrongFormError as exc:  # one strange server must not hide the others
                log.warning("nova.server_garbled", server=str(value["id"])[:64], why=str(exc))
                continue
            if failed is not None:
                found.append(failed)
                if len(found) >= FOUND_AT_ONCE:
                    break
        return found

    def aggregates(self) -> Sequence[Aggregate]:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        with self._lock:
            asked_at, aggregates = self._aggregates
        if time.monotonic() - asked_at >= AGGREGATES_KNOWN:
            aggregates = _checked(self._call("GET", "/os-aggregates")).parse(nova_wire.aggregates)
            with self._lock:
                self._aggregates = (time.monotonic(), aggregates)
        return aggregates

    def host_up(self, host: str) -> bool | None:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        computes = [("binary", "nova-compute")]
        of_host = [s for s in self._services([*computes, ("host", host)]) if s.get("host") == host]
        if not of_host:
            of_host = [
                service
                for service in self._services(computes)
                if same_host(str(service.get("host") or ""), host)
            ]
        if any(service.get("status") == nova_wire.UNKNOWN for service in of_host):
            raise Unreachable(f"the cell of {host} is down: whether its host is up is not known")
        states = [service.get("state") for service in of_host]
        if not states or not all(isinstance(state, str) for state in states):
            return None
        return all(state == "up" for state in states)

    def _services(self, query: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        answer = _checked(self._call("GET", "/os-services", query=query))
        return answer.parse(lambda value: an_array(member(value, "services", "answer"), "services"))

    def _every_cell_answers(self) -> bool:
        """Whether Nova sees all cells: only an unfiltered listing shows those that it does not."""
        answer = _checked(self._call("GET", "/servers", query=[("all_tenants", "1")]))
        servers, more = answer.parse(nova_wire.listed)
        if any(server.get("status") == nova_wire.UNKNOWN for server in servers):
            return False
        if not more:
            return True
        # A full page leaves no room for them; the hosts of such a cell are shown in any case.
        return all(s.get("status") != nova_wire.UNKNOWN for s in self._services([]))

    def _pages(self, path: str, query: Sequence[tuple[str, str]]) -> Iterator[tuple[Any, Answer]]:
        """All servers of a listing, each with the answer that it came in."""
        last: str | None = None
        for _ in range(MOST_PAGES):
            paged = [*query, ("limit", str(PAGE))]
            if last is not None:
                paged.append(("marker", last))
            answer = _checked(self._call("GET", path, query=paged))
            servers, more = answer.parse(nova_wire.listed)
            for server in servers:
                yield server, answer
            if not more or not servers:
                return
            last = str(servers[-1]["id"])
        raise Garbled(f"GET {path}: no end of the listing after {MOST_PAGES} pages")

    # --- changing ---------------------------------------------------------------------------

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
        if not _TAG.fullmatch(nova_wire.marker_tag(marker)):
            raise Invalid(f"{marker!r} cannot be part of a tag of at most 60 characters")
        began = time.monotonic()
        in_project = self._owners.compute(project, user)
        in_project.authenticate()
        flavor = self._flavor_id(blueprint.flavor, in_project)
        body = nova_wire.create_body(blueprint, flavor, marker, replaces, self._versions.spoken())
        if time.monotonic() - began > PREPARING:
            raise Unreachable(f"no token and flavor within {PREPARING:g} s: nothing was sent")
        answer = self._call(
            "POST",
            "/servers",
            body=body,
            service=in_project,
            timeouts=CREATE_TIMEOUTS,
            request_id=request_id_of(marker),
        )
        return _checked(answer).parse(nova_wire.created)

    def link(self, uuid: str, metadata: Mapping[str, str]) -> None:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        shown = self._shown(uuid)
        if shown is None:
            raise NotFound(f"no server {uuid}", server=uuid)
        path, in_project = f"/servers/{quote(uuid, safe='')}", self._in_project(shown.server())
        body: dict[str, Any] = {"metadata": dict(metadata)}
        answer = self._call("POST", f"{path}/metadata", body=body, service=in_project)
        if answer.status != HTTPStatus.CONFLICT:
            _checked(answer)
            return
        said = shown.description
        note = " ".join(f"{key}={value}" for key, value in sorted(metadata.items()))
        if note in said:
            return
        kept = said[: max(0, _MOST_DESCRIPTION - len(note) - 1)]
        described = f"{kept} {note}".strip()[:_MOST_DESCRIPTION]
        body = {"server": {"description": described}}
        _checked(self._call("PUT", path, body=body, service=in_project))

    def delete(self, uuid: str) -> bool:
        """See :class:`~changeover.worker.ports.servers.Servers`."""
        shown = self._shown(uuid)
        if shown is None:
            return False
        path, in_project = f"/servers/{quote(uuid, safe='')}", self._in_project(shown.server())
        answer = self._call("DELETE", path, service=in_project)
        if answer.status != HTTPStatus.NOT_FOUND or not _own_words(answer):
            _checked(answer)
            return True
        # Nova says the same of a server that is gone and of one that is not shown to the asker.
        if self._shown(uuid) is not None:
            raise Refuse(f"DELETE {path}: the service user may see this server, not delete it")
        return False

    def _in_project(self, server: Server) -> HttpService:
        """Nova in the owner's project, or as an administrator where nobody lets us in there."""
        try:
            return self._owners.compute(server.project, server.user)
        except AskOperator:
            return self._nova

    def _flavor_id(self, name: str, service: HttpService) -> str:
        """The id of a flavor that its project may use, given its name or id."""
        last: str | None = None
        for _ in range(MOST_PAGES):
            query = [("is_public", "None"), ("limit", str(PAGE))]
            if last is not None:
                query.append(("marker", last))
            answer = _checked(self._call("GET", "/flavors", query=query, service=service))
            flavors, more = answer.parse(_flavors)
            for named in (1, 0):
                for flavor in flavors:
                    if flavor[named] == name:
                        return flavor[0]
            if not more or not flavors:  # Nova's own pages may be shorter than asked for
                break
            last = flavors[-1][0]
        raise NotFound(f"Nova has no flavor {name} any more", flavor=name)

    # --- the wire ---------------------------------------------------------------------------

    def _ask_versions(self) -> tuple[Version, Version]:
        return _checked(self._nova.request("GET", "/")).parse(_versions)

    def _call(
        self,
        method: Method,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        service: HttpService | None = None,
        timeouts: Timeouts | None = None,
        request_id: str | None = None,
    ) -> Answer:
        headers = dict(self._versions.header())
        if request_id is not None:
            headers["X-OpenStack-Request-ID"] = request_id
        answer = (service or self._nova).request(
            method, path, query=query, body=body, headers=headers, timeouts=timeouts
        )
        if answer.status == HTTPStatus.NOT_ACCEPTABLE:
            self._versions.forget()
            raise Unreachable(
                f"{answer.call}: {_detail(answer)}: nothing was done, it is asked anew"
            )
        return answer


# --- what the statuses mean -----------------------------------------------------------------


def _checked(answer: Answer) -> Answer:
    """The answer if it is a success; else what its status and words say."""
    if not answer.ok:
        raise _error(answer)
    return answer


def _error(answer: Answer) -> ChangeoverError:
    detail = _detail(answer)
    what = f"{answer.call}: {answer.status}: {detail}"
    if answer.status in ALSO_OF_A_PROXY and not _own_words(answer):
        what += " (these are not Nova's words, but those of something before it)"
        kind = OutcomeUnknown if answer.writes else Garbled
        return kind(what, status=answer.status)
    # 413 is only for a body that is too long, which no quota's room makes any shorter.
    if answer.status == HTTPStatus.FORBIDDEN and "quota" in detail.lower():
        return QuotaExceeded(what, status=answer.status)
    if answer.status == HTTPStatus.FORBIDDEN and answer.writes:
        return Refuse(f"{what} (Nova's policy forbids it to this user)", status=answer.status)
    if answer.status == HTTPStatus.CONFLICT:
        return Refuse(what, status=answer.status)
    return failure(answer, detail)


def _detail(answer: Answer) -> str:
    """What it says went wrong: Nova's own words, or else the start of the body."""
    return _own_words(answer) or answer.quoted() or "(no detail)"


def _own_words(answer: Answer) -> str:
    """Nova's own words, of the form ``{"badRequest": {"code": 400, "message": ...}}``."""
    try:
        fault = next(iter(json.loads(answer.body).values()))
        return " ".join(str(fault["message"]).split())[:500]
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError):
        return ""


def _flavors(value: Any) -> tuple[list[tuple[str, str]], bool]:
    """Ids and names of one page, and whether there is a further page."""
    flavors = [
        (
            a_text(member(flavor, "id", "flavor"), "flavor.id"),
            a_text(member(flavor, "name", "flavor"), "flavor.name"),
        )
        for flavor in an_array(member(value, "flavors", "answer"), "flavors")
    ]
    return flavors, nova_wire.goes_on(value, "flavors")


def _versions(value: Any) -> tuple[Version, Version]:
    return range_of(member(value, "version", "answer"), "version")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(max(0.0, seconds), UTC).isoformat()
