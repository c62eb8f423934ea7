"""A service of OpenStack over HTTP, through keystoneauth: what all such adapters have in common.

The one rule: an answer is only as good as it is. A write that was sent and not intelligibly
answered is ``OutcomeUnknown``, never an error that says that nothing happened and never a success.
Nothing is sent twice on its own account.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

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
    Invalid,
    NotFound,
    OutcomeUnknown,
    Unreachable,
)

if TYPE_CHECKING:
    from openstack.config.cloud_region import CloudRegion

T = TypeVar("T")

LONGEST_ANSWER_BYTES: Final = 128 * 1024 * 1024

DETAIL_CHARACTERS: Final = 500
"""How much of an answer is quoted in an error."""

_PIECE_BYTES = 256 * 1024

Method = Literal["GET", "PUT", "POST", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for a connection, for the next bytes of an answer, for its last byte."""

    connect: float = 3.0
    read: float = 30.0
    total: float = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose status the caller still has to judge. ``headers`` have lower-case names."""

    call: str
    writes: bool
    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """A success with or without a body."""
        return self.status in {
            HTTPStatus.OK,
            HTTPStatus.CREATED,
            HTTPStatus.ACCEPTED,
            HTTPStatus.NO_CONTENT,
        }

    def quoted(self) -> str:
        """The start of the body, on one line."""
        start = self.body[:DETAIL_CHARACTERS].decode(errors="replace")
        return " ".join(start.split())[:DETAIL_CHARACTERS]

    def parse(self, form: Callable[[Any], T]) -> T:
        """The body, validated by ``form``, which raises ``WrongFormError`` where it is not so."""
        try:
            return form(json.loads(self.body))
        except (WrongFormError, ValueError, RecursionError) as error:
            start = self.body[:DETAIL_CHARACTERS].decode(errors="replace")
            why = str(error)[:DETAIL_CHARACTERS]
            what = f"{self.call}: the answer {self.status} is not of the documented form: {why}"
            if self.writes:
                raise OutcomeUnknown(what, status=self.status, body=start) from error
            raise Garbled(what, status=self.status, body=start) from error


class HttpService:
    """One service, by its keystoneauth adapter. Safe to call from several threads at once.

    Connections are kept: make one in each process, after it was forked.
    """

    def __init__(
        self, name: str, adapter: ka_adapter.Adapter, *, timeouts: Timeouts | None = None
    ) -> None:
        self.name = name
        self.timeouts = timeouts or Timeouts()
        self._adapter = adapter

    @classmethod
    def noauth(
        cls,
        name: str,
        service_type: str,
        endpoint: str,
        *,
        token: str,
        timeouts: Timeouts | None = None,
        connections: int = 32,
    ) -> HttpService:
        """For a service that takes any token, at an endpoint on loopback."""
        http = requests.Session()
        http.trust_env = False  # no proxy and no .netrc on the way to loopback
        _pool(http, connections)
        session = ka_session.Session(auth=token_endpoint.Token(endpoint, token), session=http)
        adapter = ka_adapter.Adapter(session, service_type=service_type, **_ADAPTER)
        return cls(name, adapter, timeouts=timeouts)

    @classmethod
    def from_cloud(
        cls,
        name: str,
        service_type: str,
        cloud: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        connections: int = 32,
    ) -> HttpService:
        """For a cloud of clouds.yaml (``None``: the one that the environment names)."""
        region, session = open_region(cloud)
        return cls.of_region(
            name, service_type, region, session, timeouts=timeouts, connections=connections
        )

    @classmethod
    def of_region(
        cls,
        name: str,
        service_type: str,
        region: CloudRegion,
        session: ka_session.Session,
        *,
        version: str | None = None,
        timeouts: Timeouts | None = None,
        connections: int = 32,
    ) -> HttpService:
        """For a region of a cloud, in the name that the session has a token of.

        ``version``: of an API whose endpoint may be registered without one.
        """
        _pool(session.session, connections)
        if session.timeout is None:  # of Keystone's answers; every call has its own
            session.timeout = (timeouts or Timeouts()).read
        adapter = ka_adapter.Adapter(
            session,
            service_type=service_type,
            interface=region.get_interface(service_type),
            region_name=region.get_region_name(service_type),
            endpoint_override=region.get_endpoint(service_type),
            version=version,
            **_ADAPTER,
        )
        return cls(name, adapter, timeouts=timeouts)

    def close(self) -> None:
        """Close the connections that are kept; a later call opens new ones."""
        self._adapter.session.session.close()

    def version_path(self, version: str) -> str:
        """What to put before a path: ``version``, unless the endpoint ends with it already."""
        self.authenticate()
        endpoint = str(self._adapter.get_endpoint() or "")
        return "" if endpoint.rstrip("/").endswith(version) else version

    def request(
        self,
        method: Method,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
    ) -> Answer:
        """Send once, and take the whole answer.

        Raises ``AskOperator`` or ``Unreachable`` where nothing was sent (no token, no endpoint, no
        connection), ``OutcomeUnknown`` where a write was sent and not answered to the end, and
        ``Unreachable`` or ``Garbled`` where a read was not.
        """
        limits = timeouts or self.timeouts
        call, writes = f"{method} {path}", method != "GET"
        with self._sent(
            method, path, query=query, body=body, headers=headers, limits=limits
        ) as response:
            status = response.status_code
            try:
                taken = _body(response, limits.total)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                # A refusal is one even if its explanation was cut off.
                if status < HTTPStatus.BAD_REQUEST or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise _lost(call, error, sent=writes) from error
                taken = b""
            named = {key.lower(): value for key, value in response.headers.items()}
        if len(taken) > LONGEST_ANSWER_BYTES:
            what = f"{call}: the answer is longer than {LONGEST_ANSWER_BYTES} bytes"
            raise OutcomeUnknown(what) if writes else Garbled(what)
        return Answer(call, writes, status, taken, named)

    @contextmanager
    def stream(self, path: str, *, most_bytes: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The status of a GET and its body piece by piece, for what is too large to hold.

        Reading on raises ``Unreachable`` where the answer breaks off, and ``Refuse``'s
        ``Invalid`` beyond ``most_bytes``.
        """
        call = f"GET {path}"
        with self._sent("GET", path, limits=self.timeouts) as response:

            def pieces() -> Iterator[bytes]:
                taken = 0
                while True:
                    try:
                        piece = response.raw.read(_PIECE_BYTES, decode_content=True)
                    except (urllib3.exceptions.HTTPError, OSError) as error:
                        raise _lost(call, error, sent=False) from error
                    if not piece:
                        return
                    taken += len(piece)
                    if taken > most_bytes:
                        raise Invalid(f"{call}: it is larger than {most_bytes} bytes")
                    yield piece

            yield response.status_code, pieces()

    @contextmanager
    def _sent(
        self,
        method: Method,
        path: str,
        *,
        limits: Timeouts,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[requests.Response]:
        options: dict[str, Any] = {}
        if query:
            options["params"] = list(query)
        if body is not None:
            options["json"] = body
        self.authenticate()
        try:
            response = self._adapter.request(
                path,
                method,
                # It would be sent once more, to wherever it says; a 303 even says that it was done.
                redirect=_REDIRECTS if method == "GET" else 0,
                headers={"Accept": "application/json", **(headers or {})},
                timeout=(limits.connect, limits.read),
                raise_exc=False,
                stream=True,
                log=False,  # it would read the body, and log what is not ours to log
                **options,
            )
        except ka_errors.ClientException as error:
            sent = method != "GET" and not _never_sent(error)
            raise _lost(f"{method} {path}", error, sent=sent) from error
        with response:
            yield response

    def user(self) -> tuple[str, str, frozenset[str]]:
        """In whose name, of which project, with which roles it asks. Raises as a request does."""
        self.authenticate()
        session = self._adapter.session
        auth: Any = session.auth  # Keystone's, as a cloud of clouds.yaml has
        access = auth.get_access(session)  # what was just got
        return str(access.username), str(access.project_name), frozenset(access.role_names)

    def authenticate(self) -> None:
        """Have a token and an endpoint at hand: a failure here proves that nothing was sent."""
        try:
            self._adapter.get_token()
            endpoint = self._adapter.get_endpoint()
        except (ka_errors.Unauthorized, ka_errors.Forbidden) as error:
            raise AskOperator(f"Keystone refused the credentials: {error}", refused=True) from error
        except _KEYSTONE_SILENT as error:
            raise Unreachable(f"Keystone does not answer: {error}") from error
        except ka_errors.HttpError as error:
            if error.http_status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT}:
                raise Unreachable(f"Keystone does not answer: {error}") from error
            raise AskOperator(f"no token or endpoint from Keystone: {error}") from error
        except ka_errors.ClientException as error:
            raise AskOperator(f"no token or endpoint from Keystone: {error}") from error
        if not endpoint:
            raise AskOperator(f"the service catalog of this cloud names no endpoint of {self.name}")


def open_region(cloud: str | None = None) -> tuple[CloudRegion, ka_session.Session]:
    """A cloud of clouds.yaml, and a session in the name of its user; ``AskOperator`` if wrong."""
    from openstack import config, exceptions  # noqa: PLC0415 - costs 0.3 s to import

    try:
        region = config.OpenStackConfig().get_one(cloud=cloud)
        return region, region.get_session()
    except (exceptions.SDKException, ka_errors.ClientException) as error:
        raise AskOperator(f"clouds.yaml: cloud {cloud or '(default)'}: {error}") from error


_KEYSTONE_SILENT: Final = (
    ka_errors.ConnectFailure,
    ka_errors.ConnectTimeout,
    ka_errors.HttpServerError,
)

ALSO_OF_A_PROXY: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND})
"""What a service means for good, and a proxy that does not find it, or dislikes a header, not."""

_REDIRECTS: Final = 5
"""Followed one after the other, by reads only."""

_ADAPTER: Final[dict[str, Any]] = {
    "user_agent": "changeover",
    "connect_retries": 0,
    "status_code_retries": 0,
}


def failure(answer: Answer, detail: str = "", **facts: object) -> ChangeoverError:
    """What the status of an answer that is no success means, where the service says no more.

    ``detail``: what the service said, if its error's form is known. A 503 is not taken for "nothing
    was done": that is for the adapter to say where the service promises it.
    """
    status = answer.status
    what = f"{answer.call}: {status}: {detail or answer.quoted() or '(no detail)'}"
    facts = {"status": status, **facts}
    if status == HTTPStatus.UNAUTHORIZED:
        return AskOperator(f"{what} (check the credentials)", **facts)
    if status == HTTPStatus.FORBIDDEN:
        return AskOperator(f"{what} (the user lacks the role that the policy asks for)", **facts)
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(what, **facts)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return Unreachable(f"{what} (nothing was done)", **facts)
    if status == HTTPStatus.REQUEST_TIMEOUT:  # of a proxy, which says nothing of the service
        return OutcomeUnknown(what, **facts) if answer.writes else Unreachable(what, **facts)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST and answer.writes:
        where = answer.headers.get("location", "nowhere")[:DETAIL_CHARACTERS]
        what = f"{what} (sends on to {where}: name that endpoint in the service catalog)"
        return OutcomeUnknown(what, **facts)
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return Invalid(what, **facts)
    if answer.writes:
        return OutcomeUnknown(what, **facts)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unreachable(what, **facts)
    return Garbled(what, **facts)


def _pool(session: requests.Session, connections: int) -> None:
    for scheme in ("http://", "https://"):
        session.mount(
            scheme,
            ka_session.TCPKeepAliveAdapter(pool_connections=4, pool_maxsize=connections),
        )


def _body(response: requests.Response, total: float) -> bytes:
    """The whole body, or one byte more than the longest that is taken."""
    deadline = time.monotonic() + total
    body = bytearray()
    while len(body) <= LONGEST_ANSWER_BYTES:
        some = response.raw.read1(_PIECE_BYTES, decode_content=True)
        if not some:
            break
        body += some
        if time.monotonic() >= deadline:
            raise TimeoutError(f"no end of the answer after {total:g} s")
    return bytes(body)


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
    what it was raised over does. TLS fails while shaking hands, and later, too: only a certificate
    that is refused says which.
    """
    cause = error.__cause__ or error.__context__
    if isinstance(cause, requests.exceptions.ConnectTimeout):
        return True
    if isinstance(cause, requests.exceptions.ConnectionError) and cause.args:
        reason = getattr(cause.args[0], "reason", None)
        if isinstance(reason, urllib3.exceptions.SSLError):
            return bool(reason.args) and isinstance(reason.args[0], ssl.SSLCertVerificationError)
        return isinstance(
            reason,
            urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError,
        )
    return isinstance(cause, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema)


# --- the documented forms -------------------------------------------------------------------


class WrongFormError(Exception):
    """Where an answer is not as documented."""


def an_object(value: Any, where: str) -> dict[str, Any]:
    """``value`` if it is a JSON object; else ``WrongFormError``, as all of these."""
    if not isinstance(value, dict):
        raise WrongFormError(f"{where} is no object")
    return value


def an_array(value: Any, where: str) -> list[Any]:
    """``value`` if it is a JSON array."""
    if not isinstance(value, list):
        raise WrongFormError(f"{where} is no array")
    return value


def member(value: Any, key: str, where: str) -> Any:
    """What the JSON object ``value`` has under ``key``."""
    try:
        return an_object(value, where)[key]
    except KeyError:
        raise WrongFormError(f"{where} lacks {key!r}") from None


def a_text(value: Any, where: str) -> str:
    """``value`` if it is a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise WrongFormError(f"{where} is no text")
    return value


def a_count(value: Any, where: str) -> int:
    """``value`` if it is a whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise WrongFormError(f"{where} is no count")
    return value


def an_integer(value: Any, where: str) -> int:
    """``value`` if it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongFormError(f"{where} is no integer")
    return value


def texts(value: Any, where: str) -> frozenset[str]:
    """The texts of a JSON array."""
    return frozenset(a_text(item, where) for item in an_array(value, where))
