"""Placement over its HTTP API, through keystoneauth.

The one rule: an answer is only as good as it is. A write that was sent and not intelligibly
answered is ``OutcomeUnknown``, never an error that says that nothing happened and never a success.
Nothing is sent twice on its own account.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final, Literal, NoReturn, TypeVar
from urllib.parse import quote

import requests
import urllib3
from keystoneauth1 import adapter as ka_adapter
from keystoneauth1 import exceptions as ka_errors
from keystoneauth1 import session as ka_session
from keystoneauth1 import token_endpoint

from changeover.models.errors import (
    AskOperator,
    ChangeoverError,
    Garbled,
    InUse,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Stale,
    Unreachable,
)
from changeover.models.placement import (
    AllocationCandidate,
    Candidates,
    Capacity,
    Inventories,
    Inventory,
    Provider,
    ProviderState,
    RequestGroup,
    ResourceRequest,
    Usage,
)

T = TypeVar("T")

WANTED: Final = (1, 39)
"""Any-of traits; OpenStack Zed (2022) and later."""

LEAST: Final = (1, 36)
"""Mappings, suffixes by name, trees, ``reserved`` up to ``total``; OpenStack Train (2019)."""

_WITH_CONSUMER_TYPE: Final = (1, 38)

LONGEST_ANSWER_BYTES: Final = 128 * 1024 * 1024

_STATE_READS = 6
_PIECE_BYTES = 256 * 1024
_NAMES_PER_QUERY = 100
_SINGLE_NAME_LOOKUPS = 4
_DETAIL_CHARACTERS = 500

_UNKNOWN_NAME = re.compile(r"No such (trait|resource class)", re.IGNORECASE)
_UNKNOWN_PROVIDER = re.compile(
    r"provider '[^']*' that does not exist|parent provider UUID does not"
)
_STALE_CODES = {"placement.concurrent_update"}
_IN_USE = "placement.inventory.inuse"
_DUPLICATE = "placement.duplicate_name"

_Method = Literal["GET", "PUT", "POST", "DELETE"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for a connection, for the next bytes of an answer, for its last byte."""

    connect: float = 3.0
    read: float = 30.0
    total: float = 60.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer whose status the caller still has to judge."""

    call: str
    writes: bool
    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        return self.status in {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT}

    def error(self) -> tuple[str, str]:
        """Placement's own code and detail; for other bodies an empty code and their start."""
        try:
            first = json.loads(self.body)["errors"][0]
            code, detail = str(first.get("code", "")), str(first["detail"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            code, detail = "", self.body[:_DETAIL_CHARACTERS].decode(errors="replace")
        return code, " ".join(detail.split())[:_DETAIL_CHARACTERS]

    def parse(self, form: Callable[[Any], T]) -> T:
        """The body, validated by ``form``, which raises ``_WrongFormError`` where it is not so."""
        try:
            return form(json.loads(self.body))
        except (_WrongFormError, ValueError, RecursionError) as error:
            start = self.body[:_DETAIL_CHARACTERS].decode(errors="replace")
            why = str(error)[:_DETAIL_CHARACTERS]
            what = f"{self.call}: the answer {self.status} is not of the documented form: {why}"
            if self.writes:
                raise OutcomeUnknown(what, status=self.status, body=start) from error
            raise Garbled(what, status=self.status, body=start) from error


class HttpPlacement:
    """``PlacementTenant`` on a real Placement. Safe to call from several threads at once.

    Connections are kept: make one in each process, after it was forked.
    """

    def __init__(self, adapter: ka_adapter.Adapter, *, timeouts: Timeouts | None = None) -> None:
        self._adapter = adapter
        self._timeouts = timeouts or Timeouts()
        self._lock = threading.Lock()
        self._version: tuple[int, int] | None = None
        self._names = _Names()
        self.calls: Counter[str] = Counter()
        """Requests sent, by kind; for benchmarks."""

    @classmethod
    def noauth(
        cls,
        endpoint: str,
        *,
        token: str = "admin",  # noqa: S107 - what noauth2 takes for an administrator; not a secret
        timeouts: Timeouts | None = None,
        connections: int = 32,
    ) -> HttpPlacement:
        """For a Placement with ``auth_strategy = noauth2``: the embedded one, and tests."""
        http = requests.Session()
        http.trust_env = False  # no proxy and no .netrc on the way to loopback
        _pool(http, connections)
        session = ka_session.Session(auth=token_endpoint.Token(endpoint, token), session=http)
        return cls(ka_adapter.Adapter(session, **_ADAPTER), timeouts=timeouts)

    @classmethod
    def from_cloud(
        cls,
        cloud: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        connections: int = 32,
    ) -> HttpPlacement:
        """For a cloud of clouds.yaml (``None``: the one that the environment names)."""
        from openstack import config, exceptions  # noqa: PLC0415 - costs 0.3 s to import

        try:
            region = config.OpenStackConfig().get_one(cloud=cloud)
            session = region.get_session()
        except (exceptions.SDKException, ka_errors.ClientException) as error:
            raise AskOperator(f"clouds.yaml: cloud {cloud or '(default)'}: {error}") from error
        _pool(session.session, connections)
        adapter = ka_adapter.Adapter(
            session,
            interface=region.get_interface("placement"),
            region_name=region.get_region_name("placement"),
            endpoint_override=region.get_endpoint("placement"),
            **_ADAPTER,
        )
        return cls(adapter, timeouts=timeouts)

    def close(self) -> None:
        """Close the connections that are kept; a later call opens new ones."""
        self._adapter.session.session.close()

    # --- reading ----------------------------------------------------------------------------

    def providers(
        self,
        *,
        resources: Mapping[str, int] | None = None,
        required: Iterable[str] = (),
        name: str | None = None,
        in_tree: str | None = None,
    ) -> list[Provider]:
        query = []
        if resources:
            query.append(("resources", _amounts(resources)))
        if traits := sorted(set(required)):
            query.append(("required", ",".join(traits)))
        if name is not None:
            query.append(("name", name))
        if in_tree is not None:
            query.append(("in_tree", in_tree))
        answer = self._get("providers", "/resource_providers", query)
        if _names_unknown(answer):
            return []
        return _checked(answer).parse(_providers)

    def state(self, uuid: str) -> ProviderState:
        inventories, inventory_generation = self._inventories(uuid)
        traits, trait_generation = self._traits(uuid)
        for _ in range(_STATE_READS):
            if inventory_generation == trait_generation:
                return ProviderState(uuid, trait_generation, inventories, traits)
            if inventory_generation < trait_generation:
                inventories, inventory_generation = self._inventories(uuid)
            else:
                traits, trait_generation = self._traits(uuid)
        raise Stale(
            f"provider {uuid} changed at each of {_STATE_READS} reads", provider=uuid
        )  # fmt: skip

    def _inventories(self, uuid: str) -> tuple[dict[str, Inventory], int]:
        answer = self._get("inventories", f"/resource_providers/{quote(uuid)}/inventories")
        return _checked(answer).parse(_inventories)

    def _traits(self, uuid: str) -> tuple[frozenset[str], int]:
        answer = self._get("traits", f"/resource_providers/{quote(uuid)}/traits")
        return _checked(answer).parse(_traits)

    def usage(self, uuid: str) -> Usage:
        answer = self._get("usage", f"/resource_providers/{quote(uuid)}/allocations")
        generation, by_consumer = _checked(answer).parse(_usage)
        return Usage(uuid, generation, by_consumer)

    def candidates(self, request: ResourceRequest, limit: int | None = None) -> Candidates:
        excluded = set(request.excluded_hosts)
        allowed = None if request.hosts is None else set(request.hosts) - excluded
        if allowed is not None and len(allowed) <= 1:
            return self._candidates_on(next(iter(allowed), None), request, limit)
        if allowed is None and not excluded:
            return self._candidates(request, None, limit)
        # Placement would cut to the limit before the filter, which could leave nothing.
        found = self._candidates(request, None, None)
        names = self._root_names(found.roots)
        roots = {
            root
            for root in found.roots
            if (name := names.get(root)) is not None
            and name not in excluded
            and (allowed is None or name in allowed)
        }
        return _only(found, roots, limit)

    def _candidates_on(
        self, host: str | None, request: ResourceRequest, limit: int | None
    ) -> Candidates:
        if host is None:
            return _NONE
        root, remembered = self._root_of(host)
        found = _NONE if root is None else self._candidates(request, root, limit)
        if not found.candidates and remembered:  # it may have been made anew under another uuid
            self._names.forget(host)
            again, _ = self._root_of(host)
            if again not in {None, root}:
                return self._candidates(request, again, limit)
        return found

    def _candidates(
        self, request: ResourceRequest, root: str | None, limit: int | None
    ) -> Candidates:
        query = list(self._query(request, root))
        if limit is not None:
            query.append(("limit", str(limit)))
        answer = self._get("candidates", "/allocation_candidates", query)
        if _names_unknown(answer):
            return _NONE
        return _checked(answer).parse(_candidates)

    def _query(self, request: ResourceRequest, root: str | None) -> Iterator[tuple[str, str]]:
        suffixes = Counter(group.suffix for group in request.groups)
        if any(count > 1 for count in suffixes.values()):
            raise Invalid("two groups of the request have one suffix")
        for group in sorted(request.groups, key=lambda group: group.suffix):
            if not (group.resources or group.required or group.any_of or group.forbidden):
                continue
            if group.any_of and self._microversion() < WANTED:
                raise AskOperator(
                    f"Placement speaks microversion {_dotted(self._microversion())}: a request "
                    f"for any of several traits needs {_dotted(WANTED)}"
                )
            yield from _group_query(group)
            if root is not None:
                yield f"in_tree{group.suffix}", root
        if request.group_policy is not None:
            yield "group_policy", request.group_policy

    def _root_of(self, host: str) -> tuple[str | None, bool]:
        """The root provider of that name, and whether that was remembered, not asked for."""
        root = self._names.root_of(host)
        if root is not None:
            return root, True
        roots = [p for p in self.providers(name=host) if p.parent is None]
        self._names.learn(roots)
        return (roots[0].uuid if roots else None), False

    def _root_names(self, roots: Iterable[str]) -> Mapping[str, str]:
        unknown = self._names.unknown(roots)
        if len(unknown) > _SINGLE_NAME_LOOKUPS:
            self._names.learn(p for p in self.providers() if p.parent is None)
        else:
            for uuid in sorted(unknown):
                self._names.learn(p for p in self.providers(in_tree=uuid) if p.uuid == uuid)
        return self._names.of(roots)

    # --- writing ----------------------------------------------------------------------------

    def put_inventories(self, uuid: str, generation: int, inventories: Inventories) -> int:
        answer = self._put(
            "put_inventories",
            f"/resource_providers/{quote(uuid)}/inventories",
            {
                "resource_provider_generation": generation,
                "inventories": {rc: inv.as_json() for rc, inv in inventories.items()},
            },
        )
        return _written(answer).parse(_generation)

    def put_traits(self, uuid: str, generation: int, traits: Iterable[str]) -> int:
        answer = self._put(
            "put_traits",
            f"/resource_providers/{quote(uuid)}/traits",
            {"resource_provider_generation": generation, "traits": sorted(set(traits))},
        )
        return _written(answer).parse(_generation)

    def ensure_traits(self, traits: Iterable[str]) -> None:
        wanted = sorted(set(traits))
        for start in range(0, len(wanted), _NAMES_PER_QUERY):
            names = wanted[start : start + _NAMES_PER_QUERY]
            answer = self._get("trait_names", "/traits", [("name", "in:" + ",".join(names))])
            known = _checked(answer).parse(_trait_names)
            for name in names:
                if name not in known:
                    _checked(self._put("put_trait", f"/traits/{quote(name, safe='')}"))

    def ensure_resource_classes(self, classes: Iterable[str]) -> None:
        wanted = sorted(set(classes))
        if not wanted:
            return
        known = _checked(self._get("class_names", "/resource_classes")).parse(_class_names)
        for name in wanted:
            if name not in known:
                _checked(self._put("put_class", f"/resource_classes/{quote(name, safe='')}"))

    # --- what a scheduler and a cloud's builder do ------------------------------------------

    def create_provider(self, uuid: str, name: str, parent: str | None = None) -> Provider:
        body: dict[str, Any] = {"uuid": uuid, "name": name}
        if parent is not None:
            body["parent_provider_uuid"] = parent
        answer = self._send("create_provider", "POST", "/resource_providers", body=body)
        if answer.status == HTTPStatus.CONFLICT and answer.error()[0] == _DUPLICATE:
            for found in self.providers(in_tree=uuid):
                if (found.uuid, found.name, found.parent) == (uuid, name, parent):
                    return found
            raise Invalid(f"another provider has the uuid {uuid} or the name {name}", name=name)
        return _written(answer).parse(_provider)

    def claim(
        self,
        consumer: str,
        allocations: Mapping[str, Mapping[str, int]],
        *,
        project: str,
        user: str,
    ) -> bool:
        if not allocations:
            raise Invalid("nothing to allocate")  # to Placement that would mean: drop all
        body: dict[str, Any] = {
            "allocations": {
                uuid: {"resources": dict(amounts)} for uuid, amounts in allocations.items()
            },
            "project_id": project,
            "user_id": user,
            "consumer_generation": None,
        }
        if self._microversion() >= _WITH_CONSUMER_TYPE:
            body["consumer_type"] = "INSTANCE"
        answer = self._put("claim", f"/allocations/{quote(consumer)}", body)
        if answer.status == HTTPStatus.CONFLICT and answer.error()[0] not in _STALE_CODES:
            return False
        _written(answer)
        return True

    def release(self, consumer: str) -> None:
        answer = self._send("release", "DELETE", f"/allocations/{quote(consumer)}")
        if answer.status != HTTPStatus.NOT_FOUND:
            _checked(answer)

    def held(self, consumer: str) -> Mapping[str, Mapping[str, int]]:
        return _checked(self._get("held", f"/allocations/{quote(consumer)}")).parse(_held)

    # --- the wire ---------------------------------------------------------------------------

    def _get(self, kind: str, path: str, query: Sequence[tuple[str, str]] = ()) -> _Answer:
        return self._send(kind, "GET", path, query=query)

    def _put(self, kind: str, path: str, body: object = None) -> _Answer:
        return self._send(kind, "PUT", path, body=body)

    def _microversion(self) -> tuple[int, int]:
        """What both sides speak; asked for once."""
        if self._version is None:
            answer = self._request("versions", "GET", "/", {})
            least, most = _checked(answer).parse(_versions)
            if most < LEAST or least > WANTED:
                raise AskOperator(
                    f"Placement speaks microversions {_dotted(least)} to {_dotted(most)}; "
                    f"Changeover needs {_dotted(LEAST)} (OpenStack Train) or later, "
                    f"best {_dotted(WANTED)}: upgrade Placement, or name another endpoint"
                )
            self._version = min(most, WANTED)
        return self._version

    def _send(
        self,
        kind: str,
        method: _Method,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
    ) -> _Answer:
        version = f"placement {_dotted(self._microversion())}"
        options: dict[str, Any] = {"headers": {"OpenStack-API-Version": version}}
        if query:
            options["params"] = list(query)
        if body is not None:
            options["json"] = body
        return self._request(kind, method, path, options)

    def _request(self, kind: str, method: _Method, path: str, options: dict[str, Any]) -> _Answer:
        call, writes = f"{method} {path}", method != "GET"
        headers = {"Accept": "application/json", **options.pop("headers", {})}
        self._authenticate()
        with self._lock:
            self.calls[kind] += 1
        try:
            response = self._adapter.request(
                path,
                method,
                headers=headers,
                timeout=(self._timeouts.connect, self._timeouts.read),
                raise_exc=False,
                stream=True,
                log=False,  # it would read the body, and log what is not ours to log
                **options,
            )
        except ka_errors.ClientException as error:
            raise _lost(call, error, sent=writes and not _never_sent(error)) from error
        with response:
            status = response.status_code
            try:
                body = self._body(response)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                # A refusal is one even if its explanation was cut off.
                if status < HTTPStatus.BAD_REQUEST or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise _lost(call, error, sent=writes) from error
                body = b""
        if len(body) > LONGEST_ANSWER_BYTES:
            what = f"{call}: the answer is longer than {LONGEST_ANSWER_BYTES} bytes"
            raise OutcomeUnknown(what) if writes else Garbled(what)
        return _Answer(call, writes, status, body)

    def _body(self, response: requests.Response) -> bytes:
        """The whole body, or one byte more than the longest that is taken."""
        deadline = time.monotonic() + self._timeouts.total
        body = bytearray()
        while len(body) <= LONGEST_ANSWER_BYTES:
            some = response.raw.read1(_PIECE_BYTES, decode_content=True)
            if not some:
                break
            body += some
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no end of the answer after {self._timeouts.total:g} s")
        return bytes(body)

    def _authenticate(self) -> None:
        """Have a token and an endpoint at hand: a failure here proves that nothing was sent."""
        try:
            self._adapter.get_token()
            endpoint = self._adapter.get_endpoint()
        except (ka_errors.Unauthorized, ka_errors.Forbidden) as error:
            raise AskOperator(f"Keystone refused the credentials: {error}") from error
        except (ka_errors.ConnectFailure, ka_errors.HttpServerError) as error:
            raise Unreachable(f"Keystone does not answer: {error}") from error
        except ka_errors.ClientException as error:
            raise AskOperator(f"no token or endpoint from Keystone: {error}") from error
        if not endpoint:
            raise AskOperator("the service catalog of this cloud names no endpoint of Placement")


_ADAPTER: Final[dict[str, Any]] = {
    "service_type": "placement",
    "user_agent": "changeover",
    "connect_retries": 0,
    "status_code_retries": 0,
}


def _pool(session: requests.Session, connections: int) -> None:
    for scheme in ("http://", "https://"):
        session.mount(
            scheme,
            ka_session.TCPKeepAliveAdapter(pool_connections=4, pool_maxsize=connections),
        )


class _Names:
    """Names of root providers, both ways. A host made anew under its old name replaces it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}
        self._roots: dict[str, str] = {}

    def learn(self, roots: Iterable[Provider]) -> None:
        found = list(roots)
        with self._lock:
            for root in found:
                self._names[root.uuid] = root.name
                self._roots[root.name] = root.uuid

    def forget(self, name: str) -> None:
        with self._lock:
            self._roots.pop(name, None)

    def root_of(self, name: str) -> str | None:
        with self._lock:
            return self._roots.get(name)

    def unknown(self, roots: Iterable[str]) -> set[str]:
        with self._lock:
            return set(roots) - self._names.keys()

    def of(self, roots: Iterable[str]) -> dict[str, str]:
        with self._lock:
            return {root: self._names[root] for root in roots if root in self._names}


# --- what the statuses mean -----------------------------------------------------------------


def _checked(answer: _Answer) -> _Answer:
    """The answer if it is a success; else what its status says."""
    if not answer.ok:
        _fail(answer)
    return answer


def _written(answer: _Answer) -> _Answer:
    """As :func:`_checked`, for writes, whose 400 may be about a thing that is not there."""
    if answer.status == HTTPStatus.BAD_REQUEST:
        detail = answer.error()[1]
        if _UNKNOWN_NAME.search(detail) or _UNKNOWN_PROVIDER.search(detail):
            raise NotFound(f"{answer.call}: {detail}", status=answer.status)
    return _checked(answer)


def _names_unknown(answer: _Answer) -> bool:
    """Whether a query names a trait or class that Placement does not have."""
    refused = answer.status == HTTPStatus.BAD_REQUEST
    return refused and _UNKNOWN_NAME.search(answer.error()[1]) is not None


_CLIENT_ERRORS: Final[Mapping[int, tuple[type[ChangeoverError], str]]] = {
    HTTPStatus.BAD_REQUEST: (Invalid, ""),
    HTTPStatus.UNAUTHORIZED: (AskOperator, "check the credentials"),
    HTTPStatus.FORBIDDEN: (
        AskOperator,
        "the user needs the role that Placement's policy asks for: admin, or service",
    ),
    HTTPStatus.NOT_FOUND: (NotFound, ""),
    HTTPStatus.NOT_ACCEPTABLE: (AskOperator, "this Placement's microversions changed: restart"),
    HTTPStatus.TOO_MANY_REQUESTS: (Unreachable, "nothing was done"),
    HTTPStatus.SERVICE_UNAVAILABLE: (Unreachable, "nothing was done"),
}


def _fail(answer: _Answer) -> NoReturn:
    code, detail = answer.error()
    status = answer.status
    what = f"{answer.call}: {status}: {detail or '(no detail)'}"
    facts: dict[str, object] = {"status": status, "code": code}
    if status == HTTPStatus.CONFLICT:
        raise InUse(what, **facts) if code == _IN_USE else Stale(what, **facts)
    if status in _CLIENT_ERRORS:
        kind, advice = _CLIENT_ERRORS[status]
        raise kind(f"{what} ({advice})" if advice else what, **facts)
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        raise Invalid(what, **facts)
    if answer.writes:
        raise OutcomeUnknown(what, **facts)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise Unreachable(what, **facts)
    raise Garbled(what, **facts)


def _lost(call: str, error: Exception, *, sent: bool) -> ChangeoverError:
    """What a lost connection means."""
    if sent:
        return OutcomeUnknown(f"{call}: sent and not answered: {error}")
    if isinstance(error, ka_errors.SSLError):
        return AskOperator(f"{call}: TLS: {error}: check the certificate authority (cacert)")
    return Unreachable(f"{call}: {error}")


def _never_sent(error: BaseException) -> bool:
    """Whether the error proves that no connection was made.

    keystoneauth tells neither refused connections from reset ones nor the two timeouts apart:
    what it was raised over does.
    """
    cause = error.__cause__ or error.__context__
    if isinstance(cause, requests.exceptions.ConnectTimeout | requests.exceptions.SSLError):
        return True
    if isinstance(cause, requests.exceptions.ConnectionError) and cause.args:
        reason = getattr(cause.args[0], "reason", None)
        return isinstance(
            reason,
            urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError,
        )
    return isinstance(cause, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema)


# --- the documented forms -------------------------------------------------------------------


class _WrongFormError(Exception):
    """Where an answer is not as documented."""


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _WrongFormError(f"{where} is no object")
    return value


def _array(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _WrongFormError(f"{where} is no array")
    return value


def _member(value: Any, key: str, where: str) -> Any:
    try:
        return _object(value, where)[key]
    except KeyError:
        raise _WrongFormError(f"{where} lacks {key!r}") from None


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise _WrongFormError(f"{where} is no text")
    return value


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _WrongFormError(f"{where} is no count")
    return value


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _WrongFormError(f"{where} is no integer")
    return value


def _texts(value: Any, where: str) -> frozenset[str]:
    return frozenset(_text(item, where) for item in _array(value, where))


def _resources(value: Any, where: str) -> dict[str, int]:
    items = _object(value, where).items()
    return {rc: _count(amount, f"{where}[{rc}]") for rc, amount in items}


def _generation(value: Any) -> int:
    key = "resource_provider_generation"
    return _count(_member(value, key, "answer"), key)


def _provider(value: Any) -> Provider:
    uuid = _text(_member(value, "uuid", "provider"), "uuid")
    parent = _member(value, "parent_provider_uuid", "provider")
    return Provider(
        uuid=uuid,
        name=_text(_member(value, "name", "provider"), "name"),
        generation=_count(_member(value, "generation", "provider"), "generation"),
        parent=None if parent is None else _text(parent, "parent_provider_uuid"),
        root=_text(_member(value, "root_provider_uuid", "provider"), "root_provider_uuid"),
    )


def _providers(value: Any) -> list[Provider]:
    key = "resource_providers"
    return [_provider(item) for item in _array(_member(value, key, "answer"), key)]


_INVENTORY_COUNTS = ("total", "reserved", "min_unit", "max_unit", "step_size")


def _inventory(value: Any, where: str) -> Inventory:
    counts = {
        key: _count(_member(value, key, where), f"{where}.{key}") for key in _INVENTORY_COUNTS
    }
    ratio = _member(value, "allocation_ratio", where)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
        raise _WrongFormError(f"{where}.allocation_ratio is no number")
    return Inventory(**counts, allocation_ratio=float(ratio))


def _inventories(value: Any) -> tuple[dict[str, Inventory], int]:
    items = _object(_member(value, "inventories", "answer"), "inventories").items()
    return {rc: _inventory(item, rc) for rc, item in items}, _generation(value)


def _traits(value: Any) -> tuple[frozenset[str], int]:
    return _texts(_member(value, "traits", "answer"), "traits"), _generation(value)


def _trait_names(value: Any) -> frozenset[str]:
    return _texts(_member(value, "traits", "answer"), "traits")


def _class_names(value: Any) -> frozenset[str]:
    key = "resource_classes"
    classes = _array(_member(value, key, "answer"), key)
    return frozenset(_text(_member(item, "name", key), key) for item in classes)


def _allocations(value: Any, where: str) -> dict[str, dict[str, int]]:
    return {
        key: _resources(_member(item, "resources", where), f"{where}[{key}]")
        for key, item in _object(value, where).items()
    }


def _held(value: Any) -> dict[str, dict[str, int]]:
    return _allocations(_member(value, "allocations", "answer"), "allocations")


def _usage(value: Any) -> tuple[int, dict[str, dict[str, int]]]:
    return _generation(value), _held(value)


def _candidates(value: Any) -> Candidates:
    summaries = {
        uuid: _capacity(uuid, item)
        for uuid, item in _object(
            _member(value, "provider_summaries", "answer"), "provider_summaries"
        ).items()
    }
    requests_ = _array(_member(value, "allocation_requests", "answer"), "allocation_requests")
    found = []
    for item in requests_:
        allocations = _allocations(
            _member(item, "allocations", "allocation_request"), "allocations"
        )  # fmt: skip
        for uuid in allocations:
            if uuid not in summaries:
                raise _WrongFormError(f"provider_summaries lacks {uuid!r}")
        mappings = _object(_member(item, "mappings", "allocation_request"), "mappings")
        found.append(
            AllocationCandidate(
                allocations,
                {key: tuple(sorted(_texts(uuids, "mappings"))) for key, uuids in mappings.items()},
            )
        )
    return Candidates(tuple(found), summaries)


def _capacity(uuid: str, value: Any) -> Capacity:
    parent = _member(value, "parent_provider_uuid", uuid)
    resources = _object(_member(value, "resources", uuid), "resources")
    return Capacity(
        uuid=uuid,
        root=_text(_member(value, "root_provider_uuid", uuid), "root_provider_uuid"),
        parent=None if parent is None else _text(parent, "parent_provider_uuid"),
        traits=_texts(_member(value, "traits", uuid), "traits"),
        # Less than nothing is left where a fence reserves what is already allocated.
        capacity={rc: _integer(_member(r, "capacity", rc), rc) for rc, r in resources.items()},
        used={rc: _count(_member(r, "used", rc), rc) for rc, r in resources.items()},
    )


def _versions(value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    versions = _array(_member(value, "versions", "answer"), "versions")
    if not versions:
        raise _WrongFormError("versions is empty")
    return (
        _version(_member(versions[0], "min_version", "version")),
        _version(_member(versions[0], "max_version", "version")),
    )


def _version(value: Any) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", _text(value, "version"))
    if match is None:
        raise _WrongFormError(f"{value!r} is no version")
    return int(match[1]), int(match[2])


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


# --- queries ----------------------------------------------------------------------------------

_NONE: Final = Candidates((), {})


def _amounts(resources: Mapping[str, int]) -> str:
    return ",".join(f"{rc}:{amount}" for rc, amount in sorted(resources.items()))


def _group_query(group: RequestGroup) -> Iterator[tuple[str, str]]:
    if group.resources:
        yield f"resources{group.suffix}", _amounts(group.resources)
    traits = [*sorted(group.required), *(f"!{trait}" for trait in sorted(group.forbidden))]
    if traits:
        yield f"required{group.suffix}", ",".join(traits)
    for names in sorted(sorted(names) for names in group.any_of):
        yield f"required{group.suffix}", "in:" + ",".join(names)


def _only(found: Candidates, roots: set[str], limit: int | None) -> Candidates:
    """The candidates in those trees, at most ``limit``, and the summaries of their trees."""
    kept = tuple(
        candidate
        for candidate in found.candidates
        if all(found.summaries[uuid].root in roots for uuid in candidate.allocations)
    )[:limit]
    cut = replace(found, candidates=kept)
    trees = cut.roots
    return replace(cut, summaries={u: c for u, c in found.summaries.items() if c.root in trees})
