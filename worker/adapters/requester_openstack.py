"""Whoever asks for servers of a real cloud: somebody of clouds.yaml, or the service user itself.

Somebody's own credentials make a Keystone trust with impersonation: the service user may then
create servers in that person's name and project, with no more than the roles that were named, and
no longer than was said. Only the trust's id is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from changeover.models.errors import AskOperator, Garbled, Invalid, NotFound, Refuse
from changeover.models.flavor import Flavor, Image, ImageProperties
from changeover.worker.adapters.nova_wire import goes_on
from changeover.worker.adapters.owners import take_back
from changeover.worker.adapters.service_http import (
    Answer,
    HttpService,
    Timeouts,
    WrongFormError,
    a_text,
    an_array,
    an_object,
    failure,
    member,
    open_region,
)
from changeover.worker.ports.servers import Authority

T = TypeVar("T")

_COMPUTE: Final = {"OpenStack-API-Version": "compute 2.61"}
"""Flavors with their extra specs; OpenStack Rocky (2018)."""

_PAGE: Final = 1000
_MOST_PAGES: Final = 200


class OpenStackRequester:
    """The port ``Requester`` for somebody who is in clouds.yaml as ``cloud``.

    ``trustee_cloud``: the service user's entry. ``roles`` are handed on by the trust.
    """

    def __init__(
        self, cloud: str, *, trustee_cloud: str, roles: Sequence[str], timeouts: Timeouts
    ) -> None:
        self._region, self._session = open_region(cloud)
        self._trustee_cloud = trustee_cloud
        self._roles = tuple(roles)
        self._timeouts = timeouts
        self._keystone = self._service("Keystone", "identity", version="3")
        self._keystone.authenticate()
        self.user = self._session.get_user_id() or ""
        self.project = self._session.get_project_id() or ""
        if not self.project:
            raise AskOperator(f"clouds.yaml: cloud {cloud} names no project to create servers in")

    def flavor(self, name_or_id: str) -> Flavor:
        """See :class:`~changeover.worker.ports.requester.Requester`."""
        return self._find(
            self._service("Nova", "compute"), name_or_id, "flavor", _flavor, "/flavors",
            details="/flavors/detail", headers=_COMPUTE,
        )  # fmt: skip

    def image(self, name_or_id: str) -> Image:
        """See :class:`~changeover.worker.ports.requester.Requester`."""
        glance = self._service("Glance", "image", version="2")
        return self._find(glance, name_or_id, "image", _image, "/images", bare=True)

    def network(self, name_or_id: str) -> str:
        """See :class:`~changeover.worker.ports.requester.Requester`."""
        neutron = self._service("Neutron", "network", version="2.0")
        return self._find(neutron, name_or_id, "network", _id, "/networks")

    def check_key(self, name: str) -> None:
        """See :class:`~changeover.worker.ports.requester.Requester`."""
        answer = self._service("Nova", "compute").request(
            "GET", f"/os-keypairs/{quote(name, safe='')}"
        )
        if answer.status == HTTPStatus.NOT_FOUND:
            raise NotFound(f"there is no key pair {name}: see `openstack keypair list`")
        if not answer.ok:
            raise failure(answer)

    def entrust(self, until: float) -> str | None:
        """See :class:`~changeover.worker.ports.requester.Requester`."""
        _, service = open_region(self._trustee_cloud)
        trustee = service.get_user_id()
        if trustee == self.user:
            return None  # the service user needs no trust of its own
        expires = datetime.fromtimestamp(until, UTC)
        trust = {
            "trustor_user_id": self.user,
            "trustee_user_id": trustee,
            "project_id": self.project,
            "impersonation": True,
            "allow_redelegation": False,
            "roles": [{"name": role} for role in self._roles],
            "expires_at": expires.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        answer = self._keystone.request("POST", "/OS-TRUST/trusts", body={"trust": trust})
        if answer.status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
            raise Refuse(
                f"Keystone makes no trust with role(s) {', '.join(self._roles)}: you can only "
                f"hand on roles that you have in the project, see `trust_roles` "
                f"({answer.quoted()})"
            )
        if not answer.ok:
            raise failure(answer)
        return answer.parse(
            lambda body: a_text(member(member(body, "trust", "answer"), "id", "trust"), "id")
        )

    def withdraw(self, trust: str) -> None:
        """See :class:`~changeover.worker.ports.requester.Requester`."""
        take_back(self._keystone, trust)

    def _service(self, name: str, kind: str, *, version: str | None = None) -> HttpService:
        return HttpService.of_region(
            name, kind, self._region, self._session, version=version, timeouts=self._timeouts
        )

    def _find(
        self,
        service: HttpService,
        wanted: str,
        kind: str,
        form: Callable[[Mapping[str, Any]], T],
        path: str,
        *,
        details: str | None = None,
        headers: Mapping[str, str] | None = None,
        bare: bool = False,
    ) -> T:
        """By id first, then by name: the one that is found, read by ``form``."""
        answer = service.request("GET", f"{path}/{quote(wanted, safe='')}", headers=headers)
        if answer.ok:
            return answer.parse(
                lambda body: form(an_object(body if bare else member(body, kind, "answer"), kind))
            )
        if answer.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST}:
            raise failure(answer)
        found: list[Mapping[str, Any]] = []
        last: str | None = None
        for _ in range(_MOST_PAGES):
            query = [("limit", str(_PAGE))] if details else [("name", wanted)]
            if last is not None:
                query.append(("marker", last))
            answer = service.request("GET", details or path, query=query, headers=headers)
            if not answer.ok:
                raise failure(answer)
            listed, last = answer.parse(lambda body: _listed(body, kind))
            found += [one for one in listed if one.get("name") == wanted]
            if details is None or last is None:
                return _one(answer, found, wanted, kind, form)
        raise Garbled(f"GET {path}: no end of the listing after {_MOST_PAGES} pages")


class ServiceRequester(OpenStackRequester):
    """The service user asks for somebody else: in the project given, by its role there.

    ``authority`` says what it may do there. Without the owner's trust the server's user is the
    service user, and no key pair can be used.
    """

    def __init__(
        self,
        cloud: str,
        authority: Callable[[str, str], Authority],
        project: str,
        user: str | None,
        *,
        timeouts: Timeouts,
    ) -> None:
        super().__init__(cloud, trustee_cloud=cloud, roles=(), timeouts=timeouts)
        self.project = project
        self.user = user or self.user
        self._authority = authority(self.project, self.user)
        if self._authority is Authority.NOBODY:
            raise Refuse(
                f"the service user has neither a role in project {project} nor a trust of user "
                f"{self.user}: give it a role there, or ask in your own name with --os-cloud"
            )

    def check_key(self, name: str) -> None:
        """See :class:`~changeover.worker.ports.requester.Requester`."""
        if self._authority is not Authority.OWNER:
            raise Refuse(
                f"key pair {name} is its owner's, and Nova refuses it to anybody else: ask in "
                "your own name with --os-cloud"
            )

    def entrust(self, until: float) -> None:
        """See :class:`~changeover.worker.ports.requester.Requester`: a role is enough."""

    def withdraw(self, trust: str) -> None:
        """See :class:`~changeover.worker.ports.requester.Requester`."""


def _listed(body: Any, kind: str) -> tuple[Sequence[Mapping[str, Any]], str | None]:
    """One page, and the id after which the next page begins, if there is one."""
    array = an_array(member(body, f"{kind}s", "answer"), f"{kind}s")
    listed = [an_object(item, kind) for item in array]
    return listed, _id(listed[-1]) if listed and goes_on(body, f"{kind}s") else None


def _one(
    answer: Answer,
    found: Sequence[Mapping[str, Any]],
    wanted: str,
    kind: str,
    form: Callable[[Mapping[str, Any]], T],
) -> T:
    if not found:
        raise NotFound(f"there is no {kind} {wanted}: see `openstack {kind} list`")
    if len(found) > 1:
        raise Invalid(f"{len(found)} {kind}s are called {wanted}: give the id of one")
    return answer.parse(lambda _: form(found[0]))


def _id(value: Mapping[str, Any]) -> str:
    return a_text(member(value, "id", "answer"), "id")


def _flavor(value: Mapping[str, Any]) -> Flavor:
    named = {
        "name": value.get("name", value.get("original_name")),
        "flavorid": value.get("id"),
        "vcpus": value.get("vcpus"),
        "memory_mb": value.get("ram"),
        "root_gb": value.get("disk"),
        "ephemeral_gb": value.get("OS-FLV-EXT-DATA:ephemeral", 0),
        "swap": value.get("swap") or 0,  # Nova says "" for none
        "extra_specs": value.get("extra_specs"),
    }
    try:
        return Flavor.model_validate(named)
    except ValidationError as error:
        raise WrongFormError(f"flavor: {error.errors()[0]['loc']}") from error


def _image(value: Mapping[str, Any]) -> Image:
    if value.get("status") != "active":
        raise Invalid(f"image {value.get('name')} is {value.get('status')}, not active")
    traits = tuple(
        key.removeprefix("trait:")
        for key, said in value.items()
        if key.startswith("trait:") and said == "required"
    )
    return Image(
        id=_id(value),
        disk_format=value.get("disk_format"),
        properties=ImageProperties.model_validate({**value, "traits_required": traits}),
    )
