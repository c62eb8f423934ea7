"""What is examined: everything that the settings name, opened when a check first asks for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, cast

from changeover.models.catalog import Catalog, Device
from changeover.models.errors import ChangeoverError
from changeover.models.placement import Provider
from changeover.worker.ports.clock import Clock
from changeover.worker.ports.placement import Placement
from changeover.worker.settings import Settings
from changeover.worker.store import Database

T = TypeVar("T")


class NothingToLookAtError(Exception):
    """What a check is about does not exist here; the message says why."""


class Answer(Protocol):
    """A service's answer, whatever its status."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def ok(self) -> bool: ...
    def parse(self, form: Callable[[Any], T]) -> T: ...
    def quoted(self) -> str: ...


class Api(Protocol):
    """One service of the cloud. Raises what :mod:`changeover.worker.ports.placement` says."""

    def request(
        self,
        method: Literal["GET", "PUT", "PATCH"],
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer: ...


@dataclass(frozen=True, slots=True)
class CloudUser:
    """In whose name we ask, as Keystone has it."""

    name: str
    project: str
    roles: frozenset[str]


@dataclass
class Site:
    """One deployment. Each part is opened once; an error in that is every check's that needs it.

    ``open_api`` takes a service type and returns ``None`` where the cloud has no such service.
    ``broker`` and ``notifications`` give URLs.
    """

    settings: Settings
    clock: Clock
    open_catalog: Callable[[], Catalog]
    open_database: Callable[[], Database]
    open_placement: Callable[[], Placement]
    open_api: Callable[[str], Api | None]
    open_user: Callable[[], CloudUser | None]
    broker: Callable[[], str]
    notifications: Callable[[], str]
    _opened: dict[str, object] = field(default_factory=dict, repr=False)
    _locks: dict[str, threading.Lock] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def catalog(self) -> Catalog:
        """The catalog, with what its rules found, if the database tells."""
        return self._once("catalog", self._catalog)

    @property
    def database(self) -> Database:
        """The database; one that can be read."""
        return self._once("database", self.open_database)

    @property
    def placement(self) -> Placement:
        """Placement."""
        return self._once("placement", self.open_placement)

    @property
    def providers(self) -> list[Provider]:
        """All providers, as Placement lists them now."""
        return self._once("providers", self.placement.providers)

    def holders(self, trait: str) -> frozenset[str]:
        """The providers that have a trait, by uuid."""
        found = self._once(f"trait {trait}", lambda: self.placement.providers(required=[trait]))
        return frozenset(provider.uuid for provider in found)

    def offering(self, resource_class: str) -> frozenset[str]:
        """The providers that have a free unit of a class, by uuid."""
        wanted = {resource_class: 1}
        found = self._once(
            f"class {resource_class}", lambda: self.placement.providers(resources=wanted)
        )
        return frozenset(provider.uuid for provider in found)

    def api(self, service_type: str) -> Api:
        """A service; raises :class:`NothingToLookAtError` where there is none."""
        found = self._once(f"api {service_type}", lambda: self.open_api(service_type))
        if found is None:
            raise NothingToLookAtError(f"the embedded cloud has no {service_type} service")
        return found

    @property
    def user(self) -> CloudUser:
        """Our user; raises :class:`NothingToLookAtError` where there is no Keystone."""
        found = self._once("user", self.open_user)
        if found is None:
            raise NothingToLookAtError("the embedded cloud has no Keystone")
        return found

    @property
    def devices(self) -> Sequence[Device]:
        """All devices, described and found."""
        return self.catalog.devices

    def _catalog(self) -> Catalog:
        catalog = self.open_catalog()
        if not catalog.discover:
            return catalog
        try:
            with self.database.read() as tx:
                return catalog.with_found(tx.discovered.devices())
        except ChangeoverError:
            return catalog  # the database's own check says what is wrong with it

    def _once(self, name: str, make: Callable[[], T]) -> T:
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._opened:
                try:
                    self._opened[name] = make()
                except ChangeoverError as exc:
                    self._opened[name] = exc
            found = self._opened[name]
        if isinstance(found, ChangeoverError):
            raise found
        return cast("T", found)

    def close(self) -> None:
        """Close what was opened."""
        database = self._opened.get("database")
        if isinstance(database, Database):
            database.dispose()
