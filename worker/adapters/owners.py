"""In whose name servers are created: the owner's, by a trust, or the service user's own.

A Keystone trust with impersonation gives the right user, and with it the user's key pair. The
service user needs nothing but to be its trustee. Without one, the service user's own role in the
owner's project does; then the server is the service user's. Tokens stay in this process's memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from keystoneauth1 import session as ka_session
from keystoneauth1.identity import generic

from changeover.models.errors import AskOperator
from changeover.worker.adapters.service_http import (
    HttpService,
    Timeouts,
    WrongFormError,
    a_text,
    an_array,
    an_object,
    failure,
    member,
)
from changeover.worker.ports.servers import Authority

if TYPE_CHECKING:
    from openstack.config.cloud_region import CloudRegion

KEPT_SESSIONS: Final = 256
"""Owners whose connections and tokens are kept, a process."""

_PASSWORD_TYPES: Final = frozenset({None, "password", "v3password"})
_IDENTITY: Final = (
    "auth_url",
    "username",
    "user_id",
    "password",
    "user_domain_id",
    "user_domain_name",
)


@dataclass(frozen=True, slots=True)
class Trust:
    """A trust of which the service user is the trustee."""

    id: str
    trustor: str
    project: str | None
    impersonation: bool
    expires_at: float | None

    def covers(self, project: str, user: str, now: float) -> bool:
        """Whether it lets one act as that user in that project."""
        valid = self.expires_at is None or self.expires_at > now
        return valid and self.impersonation and (self.project, self.trustor) == (project, user)


def take_back(keystone: HttpService, trust: str) -> None:
    """Delete a trust in its trustor's name; one that is gone is none."""
    answer = keystone.request("DELETE", f"/OS-TRUST/trusts/{quote(trust, safe='')}")
    if not answer.ok and answer.status != HTTPStatus.NOT_FOUND:
        raise failure(answer)


class Owners:
    """Sessions in owners' names. Safe to call from several threads at once."""

    def __init__(
        self,
        region: CloudRegion,
        session: ka_session.Session,
        now: Callable[[], float],
        *,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._region = region
        self._session = session
        self._now = now
        self._timeouts = timeouts
        self._keystone = HttpService.of_region(
            "Keystone", "identity", region, session, version="3", timeouts=timeouts
        )
        self._lock = threading.Lock()
        self._services: OrderedDict[tuple[str, str], HttpService] = OrderedDict()

    def close(self) -> None:
        """Close the connections that are kept, and forget the tokens."""
        with self._lock:
            services = [self._keystone, *self._services.values()]
            self._services.clear()
        for service in services:
            service.close()

    def authority(self, project: str, user: str) -> Authority:
        """What the service user may do there; asked anew, for trusts are given and taken back."""
        return self._chosen(project, user)[0]

    def compute(self, project: str, user: str) -> HttpService:
        """Nova in the owner's project, in the best name there is.

        Raises ``AskOperator`` if there is none, ``Unreachable`` if Keystone does not answer.
        """
        authority, service = self._chosen(project, user)
        if service is None:
            raise AskOperator(
                f"nobody lets the service user create servers in project {project}: its owner "
                f"gives a trust (user {user}), or an operator a role there",
                authority=str(authority),
            )
        return service

    def trusts(self) -> list[Trust]:
        """The trusts of which the service user is the trustee."""
        self._keystone.authenticate()
        me = self._session.get_user_id() or ""
        answer = self._keystone.request("GET", "/OS-TRUST/trusts", query=[("trustee_user_id", me)])
        if not answer.ok:
            raise failure(answer)
        return answer.parse(trusts_of)

    def withdraw(self, trust: str) -> None:
        """Take a trust back; one that is gone, or has expired, is none.

        Keystone lets the trustor do so, who is whoever the trust itself impersonates.
        """
        now = self._now()
        there = [one for one in self.trusts() if one.id == trust]
        if any(one.expires_at is None or one.expires_at > now for one in there):
            scoped = self._scoped({"trust_id": trust})
            keystone = HttpService.of_region(
                "Keystone", "identity", self._region, scoped, version="3", timeouts=self._timeouts
            )
            take_back(keystone, trust)
            keystone.close()
        with self._lock:
            service = self._services.pop(("trust_id", trust), None)
        if service is not None:
            service.close()

    def _chosen(self, project: str, user: str) -> tuple[Authority, HttpService | None]:
        now = self._now()
        for trust in self.trusts():
            if trust.covers(project, user, now):
                return Authority.OWNER, self._service("trust_id", trust.id)
        service = self._service("project_id", project)
        try:
            service.authenticate()
        except AskOperator as error:
            if not error.facts.get("refused"):
                raise
            # Keystone answers 401 alike for a wrong password; but that one was just used above.
            return Authority.NOBODY, None
        return Authority.SERVICE, service

    def _service(self, scope: str, value: str) -> HttpService:
        key = (scope, value)
        with self._lock:
            service = self._services.get(key)
            if service is None:
                service = HttpService.of_region(
                    "Nova",
                    "compute",
                    self._region,
                    self._scoped({scope: value}),
                    timeouts=self._timeouts,
                    connections=4,
                )
                self._services[key] = service
            self._services.move_to_end(key)
            while len(self._services) > KEPT_SESSIONS:
                self._services.popitem(last=False)
            return service

    def _scoped(self, scope: Mapping[str, str]) -> ka_session.Session:
        config = self._region.config
        if config.get("auth_type") not in _PASSWORD_TYPES:
            raise AskOperator(
                f"clouds.yaml: auth_type {config.get('auth_type')} is bound to one project; "
                "to create servers in others' projects the service user needs a password"
            )
        auth: dict[str, Any] = {k: v for k, v in config["auth"].items() if k in _IDENTITY}
        plugin = generic.Password(**{**auth, **scope})
        return ka_session.Session(auth=plugin, verify=self._session.verify, cert=self._session.cert)


def trusts_of(value: Any) -> list[Trust]:
    """The trusts of Keystone's answer."""
    return [_trust(item) for item in an_array(member(value, "trusts", "answer"), "trusts")]


def _trust(value: Any) -> Trust:
    trust = an_object(value, "trust")
    project = trust.get("project_id")
    return Trust(
        id=a_text(member(trust, "id", "trust"), "id"),
        trustor=a_text(member(trust, "trustor_user_id", "trust"), "trustor_user_id"),
        project=None if project is None else a_text(project, "project_id"),
        impersonation=member(trust, "impersonation", "trust") is True,
        expires_at=_time(trust.get("expires_at")),
    )


def _time(value: Any) -> float | None:
    if value is None:
        return None
    try:
        when = datetime.fromisoformat(a_text(value, "expires_at"))
    except ValueError:
        raise WrongFormError("expires_at is no time") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
