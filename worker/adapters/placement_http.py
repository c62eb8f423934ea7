"""Placement over its HTTP API, through keystoneauth.

The one rule: an answer is only as good as it is. A write that was sent and not intelligibly
answered is ``OutcomeUnknown``, never an error that says that nothing happened and never a success.
Nothing is sent twice on its own account.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, NoReturn
from urllib.parse import quote

from changeover.models.errors import (
    AskOperator,
    Garbled,
    InUse,
    Invalid,
    NotFound,
    Stale,
    Unreachable,
)
from changeover.models.placement import (
    Candidates,
    Inventories,
    Inventory,
    Provider,
    ProviderState,
    ResourceRequest,
    Usage,
)
from changeover.worker.adapters import placement_wire
from changeover.worker.adapters.host_names import same_host
from changeover.worker.adapters.microversions import Microversions, Version, dotted
from changeover.worker.adapters.service_http import (
    ALSO_OF_A_PROXY,
    DETAIL_CHARACTERS,
    Answer,
    HttpService,
    Method,
    Timeouts,
    failure,
)

WANTED: Final = (1, 39)
"""Any-of traits; OpenStack Zed (2022) and later."""

LEAST: Final = (1, 36)
"""Mappings, suffixes by name, trees, ``reserved`` up to ``total``; OpenStack Train (2019)."""

_WITH_CONSUMER_TYPE: Final = (1, 38)

_STATE_READS = 6
_NAMES_PER_QUERY = 100
_SINGLE_NAME_LOOKUPS = 4

_UNKNOWN_NAME = re.compile(r"No such (trait|resource class)", re.IGNORECASE)
_UNKNOWN_PROVIDER = re.compile(
    r"provider '[^']*' that does not exist|parent provider UUID does not"
)
_STALE_CODES = {"placement.concurrent_update"}
_IN_USE = "placement.inventory.inuse"
_DUPLICATE = "placement.duplicate_name"


class HttpPlacement:
    """``PlacementTenant`` on a real Placement. Safe to call from several threads at once.

    Connections are kept: make one in each process, after it was forked.
    """

    def __init__(self, service: HttpService) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._versions = Microversions(
            "placement", "Placement", least=LEAST, wanted=WANTED, ask=self._ask_versions
        )
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
        return cls(
            HttpService.noauth(
                "Placement",
                "placement",
                endpoint,
                token=token,
                timeouts=timeouts,
                connections=connections,
            )
        )

    @classmethod
    def from_cloud(
        cls,
        cloud: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        connections: int = 32,
    ) -> HttpPlacement:
        """For a cloud of clouds.yaml (``None``: the one that the environment names)."""
        return cls(
            HttpService.from_cloud(
                "Placement", "placement", cloud, timeouts=timeouts, connections=connections
            )
        )

    def close(self) -> None:
        """Close the connections that are kept; a later call opens new ones."""
        self._service.close()

    # --- reading ----------------------------------------------------------------------------

    def providers(
        self,
        *,
        resources: Mapping[str, int] | None = None,
        required: Iterable[str] = (),
        member_of: Iterable[str] = (),
        name: str | None = None,
        in_tree: str | None = None,
    ) -> list[Provider]:
        query = []
        if resources:
            query.append(("resources", placement_wire.amounts(resources)))
        if traits := sorted(set(required)):
            query.append(("required", ",".join(traits)))
        if aggregates := sorted(set(member_of)):
            query.append(("member_of", "in:" + ",".join(aggregates)))
        if name is not None:
            query.append(("name", name))
        if in_tree is not None:
            query.append(("in_tree", in_tree))
        answer = self._get("providers", "/resource_providers", query)
        if _names_unknown(answer):
            return []
        return _checked(answer).parse(placement_wire.providers)

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

    def inventories(self, uuid: str) -> tuple[int, Inventories]:
        inventories, generation = self._inventories(uuid)
        return generation, inventories

    def _inventories(self, uuid: str) -> tuple[dict[str, Inventory], int]:
        answer = self._get("inventories", f"/resource_providers/{quote(uuid)}/inventories")
        return _checked(answer).parse(placement_wire.inventories)

    def _traits(self, uuid: str) -> tuple[frozenset[str], int]:
        answer = self._get("traits", f"/resource_providers/{quote(uuid)}/traits")
        return _checked(answer).parse(placement_wire.traits)

    def usage(self, uuid: str) -> Usage:
        answer = self._get("usage", f"/resource_providers/{quote(uuid)}/allocations")
        generation, by_consumer = _checked(answer).parse(placement_wire.usage)
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
        return _checked(answer).parse(placement_wire.candidates)

    def _query(self, request: ResourceRequest, root: str | None) -> Iterator[tuple[str, str]]:
        suffixes = Counter(group.suffix for group in request.groups)
        if any(count > 1 for count in suffixes.values()):
            raise Invalid("two groups of the request have one suffix")
        for group in sorted(request.groups, key=lambda group: group.suffix):
            if not (group.resources or group.required or group.any_of or group.forbidden):
                continue
            if group.any_of and self._versions.spoken() < WANTED:
                raise AskOperator(
                    f"Placement speaks microversion {dotted(self._versions.spoken())}: a request "
                    f"for any of several traits needs {dotted(WANTED)}"
                )
            yield from placement_wire.group_query(group)
            if root is not None:
                yield f"in_tree{group.suffix}", root
            if not group.suffix:
                yield from placement_wire.aggregates_query(request)
        host = [*sorted(request.root_required), *(f"!{t}" for t in sorted(request.root_forbidden))]
        if host:
            yield "root_required", ",".join(host)
        if request.group_policy is not None:
            yield "group_policy", request.group_policy

    def _root_of(self, host: str) -> tuple[str | None, bool]:
        """The root provider of the host, and whether that was remembered, not asked for."""
        root = self._names.root_of(host)
        if root is not None:
            return root, True
        roots = [p for p in self.providers(name=host) if p.parent is None]
        self._names.learn(roots)
        if not roots:
            every = self.providers()
            roots = [p for p in every if p.parent is None and same_host(p.name, host)]
        return (roots[0].uuid if len(roots) == 1 else None), False

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
        return _written(answer).parse(placement_wire.generation)

    def put_traits(self, uuid: str, generation: int, traits: Iterable[str]) -> int:
        answer = self._put(
            "put_traits",
            f"/resource_providers/{quote(uuid)}/traits",
            {"resource_provider_generation": generation, "traits": sorted(set(traits))},
        )
        return _written(answer).parse(placement_wire.generation)

    def put_aggregates(self, uuid: str, generation: int, aggregates: Iterable[str]) -> int:
        answer = self._put(
            "put_aggregates",
            f"/resource_providers/{quote(uuid)}/aggregates",
            {
                "resource_provider_generation": generation,
                "aggregates": sorted(set(aggregates)),
            },
        )
        return _written(answer).parse(placement_wire.generation)

    def ensure_traits(self, traits: Iterable[str]) -> None:
        wanted = sorted(set(traits))
        for start in range(0, len(wanted), _NAMES_PER_QUERY):
            names = wanted[start : start + _NAMES_PER_QUERY]
            answer = self._get("trait_names", "/traits", [("name", "in:" + ",".join(names))])
            known = _checked(answer).parse(placement_wire.trait_names)
            for name in names:
                if name not in known:
                    _checked(self._put("put_trait", f"/traits/{quote(name, safe='')}"))

    def ensure_resource_classes(self, classes: Iterable[str]) -> None:
        wanted = sorted(set(classes))
        if not wanted:
            return
        known = _checked(self._get("class_names", "/resource_classes")).parse(
            placement_wire.class_names
        )
        for name in wanted:
            if name not in known:
                _checked(self._put("put_class", f"/resource_classes/{quote(name, safe='')}"))

    # --- what a scheduler and a cloud's builder do ------------------------------------------

    def create_provider(self, uuid: str, name: str, parent: str | None = None) -> Provider:
        body: dict[str, Any] = {"uuid": uuid, "name": name}
        if parent is not None:
            body["parent_provider_uuid"] = parent
        answer = self._send("create_provider", "POST", "/resource_providers", body=body)
        if answer.status == HTTPStatus.CONFLICT and _error(answer)[0] == _DUPLICATE:
            for found in self.providers(in_tree=uuid):
                if (found.uuid, found.name, found.parent) == (uuid, name, parent):
                    return found
            raise Invalid(f"another provider has the uuid {uuid} or the name {name}", name=name)
        return _written(answer).parse(placement_wire.provider)

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
        if self._versions.spoken() >= _WITH_CONSUMER_TYPE:
            body["consumer_type"] = "INSTANCE"
        answer = self._put("claim", f"/allocations/{quote(consumer)}", body)
        if answer.status == HTTPStatus.CONFLICT and _error(answer)[0] not in _STALE_CODES:
            return False
        _written(answer)
        return True

    def release(self, consumer: str) -> None:
        answer = self._send("release", "DELETE", f"/allocations/{quote(consumer)}")
        if answer.status != HTTPStatus.NOT_FOUND:
            _checked(answer)

    def held(self, consumer: str) -> Mapping[str, Mapping[str, int]]:
        return _checked(self._get("held", f"/allocations/{quote(consumer)}")).parse(
            placement_wire.held
        )

    # --- the wire ---------------------------------------------------------------------------

    def _get(self, kind: str, path: str, query: Sequence[tuple[str, str]] = ()) -> Answer:
        return self._send(kind, "GET", path, query=query)

    def _put(self, kind: str, path: str, body: object = None) -> Answer:
        return self._send(kind, "PUT", path, body=body)

    def _ask_versions(self) -> tuple[Version, Version]:
        return _checked(self._request("versions", "GET", "/")).parse(placement_wire.versions)

    def _send(
        self,
        kind: str,
        method: Method,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
    ) -> Answer:
        headers = self._versions.header()
        return self._request(kind, method, path, query=query, body=body, headers=headers)

    def _request(
        self,
        kind: str,
        method: Method,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        with self._lock:
            self.calls[kind] += 1
        return self._service.request(method, path, query=query, body=body, headers=headers)


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


def _checked(answer: Answer) -> Answer:
    """The answer if it is a success; else what its status says."""
    if not answer.ok:
        _fail(answer)
    return answer


def _written(answer: Answer) -> Answer:
    """As :func:`_checked`, for writes, whose 400 may be about a thing that is not there."""
    if answer.status == HTTPStatus.BAD_REQUEST:
        detail = _error(answer)[1]
        if _UNKNOWN_NAME.search(detail) or _UNKNOWN_PROVIDER.search(detail):
            raise NotFound(f"{answer.call}: {detail}", status=answer.status)
    return _checked(answer)


def _names_unknown(answer: Answer) -> bool:
    """Whether a query names a trait or class that Placement does not have."""
    refused = answer.status == HTTPStatus.BAD_REQUEST
    return refused and _UNKNOWN_NAME.search(_error(answer)[1]) is not None


def _error(answer: Answer) -> tuple[str, str]:
    """Placement's own code and detail; for other bodies an empty code and their start."""
    try:
        first = json.loads(answer.body)["errors"][0]
        code, detail = str(first.get("code", "")), str(first["detail"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "", answer.quoted()
    return code, " ".join(detail.split())[:DETAIL_CHARACTERS]


def _in_its_form(answer: Answer) -> bool:
    """Whether a refusal is Placement's own: a JSON object with its errors."""
    try:
        return isinstance(json.loads(answer.body)["errors"], list)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _fail(answer: Answer) -> NoReturn:
    code, detail = _error(answer)
    what = f"{answer.call}: {answer.status}: {detail or '(no detail)'}"
    facts: dict[str, object] = {"status": answer.status, "code": code}
    if answer.status in ALSO_OF_A_PROXY and not answer.writes and not _in_its_form(answer):
        raise Garbled(f"{what} (not Placement's words, but those of something before it)", **facts)
    if answer.status == HTTPStatus.CONFLICT:
        raise InUse(what, **facts) if code == _IN_USE else Stale(what, **facts)
    if answer.status == HTTPStatus.FORBIDDEN:
        advice = "the user needs the role that Placement's policy asks for: admin, or service"
        raise AskOperator(f"{what} ({advice})", **facts)
    if answer.status == HTTPStatus.NOT_ACCEPTABLE:
        raise AskOperator(f"{what} (this Placement's microversions changed: restart)", **facts)
    if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
        raise Unreachable(f"{what} (nothing was done)", **facts)
    raise failure(answer, detail, code=code)


_NONE: Final = Candidates((), {})


def _only(found: Candidates, roots: set[str], limit: int | None) -> Candidates:
    """The candidates in those trees, at most ``limit``, and the summaries of their trees."""
    kept = tuple(candidate for candidate in found.candidates if found.root_of(candidate) in roots)[
        :limit
    ]
    cut = replace(found, candidates=kept)
    trees = cut.roots | {found.summaries[u].root for c in kept for u in c.allocations}
    return replace(cut, summaries={u: c for u, c in found.summaries.items() if c.root in trees})
