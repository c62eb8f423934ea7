"""All that the story works with: the database, the ports, the catalog, the knobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from changeover.models.catalog import Catalog, Device, FoundDevice, Function, Model
from changeover.models.errors import AskOperator, NotFound
from changeover.models.states import ChangeoverState
from changeover.policies.understand import Holders
from changeover.worker.ports.accelerators import Accelerators
from changeover.worker.ports.clock import Clock
from changeover.worker.ports.placement import Placement
from changeover.worker.ports.programmer import Programmer
from changeover.worker.ports.servers import Servers
from changeover.worker.queues import ADVANCE_QUEUE, host_queue
from changeover.worker.settings import Settings
from changeover.worker.store import Database

TRAITS_KNOWN = 60.0
"""Seconds for which it is believed who has a trait."""

A = TypeVar("A")
B = TypeVar("B")


def _one_by_one(call: Callable[[A], B], items: list[A]) -> list[B]:
    return [call(item) for item in items]


@dataclass(frozen=True)
class World:
    """Made by the bootstrap, and by tests. ``owner`` names this process in leases.

    ``accelerators`` is ``None`` where no Cyborg can be asked.
    """

    database: Database
    placement: Placement
    servers: Servers
    programmers: Mapping[str, Programmer]
    clock: Clock
    catalog: Catalog
    settings: Settings
    owner: str
    pool: ThreadPoolExecutor | None = None
    accelerators: Accelerators | None = None

    def with_found(self, found: Iterable[FoundDevice]) -> World:
        """The same world with these devices that the catalog's rules found."""
        return replace(self, catalog=self.catalog.with_found(found))

    def deployables(self) -> Mapping[str, str]:
        """Provider -> uuid of the deployable that it stands for. Raises :class:`AskOperator`."""
        if self.accelerators is None:
            raise AskOperator(
                "a rule under discover has `source: cyborg`, but no cloud with a Cyborg is "
                "configured: name it with `cloud`"
            )
        listed = self.accelerators.deployables()
        return {d.provider: d.uuid for d in listed if d.provider is not None}

    def device(self, provider: str) -> Device:
        """The device of that provider; raises :class:`NotFound`.

        One that a rule found is known to the end of its changeovers, though it is gone by now.
        """
        found = self._devices.get(provider)
        if found is None and self.catalog.discover:
            with self.database.read() as tx:
                found = tx.discovered.device(provider)
            if found is not None and found.model not in self.catalog.models:
                found = None
        if found is None:
            raise NotFound(
                f"the catalog has no device {provider}: put it back, or cancel its changeover",
                device=provider,
            )
        return found

    def is_there(self, provider: str) -> bool:
        """Whether Placement has the provider: a 404 may be that of what stands before it."""
        return any(p.uuid == provider for p in self.placement.providers(in_tree=provider))

    def model(self, device: Device) -> Model:
        """The device's model."""
        return self.catalog.models[device.model]

    def function(self, name: str) -> Function:
        """The catalog's function of that name; raises :class:`NotFound`."""
        found = self.catalog.functions.get(name)
        if found is None:
            raise NotFound(f"the catalog has no function {name}", function=name)
        return found

    def programmer(self, device: Device) -> Programmer:
        """The driver of the device."""
        return self.programmers[self.model(device).programmer]

    def reset_with(self, device: Device) -> list[Device]:
        """Everything that programming the device takes down, itself first."""
        if self.model(device).resets == "self" or device.card is None:
            return [device]
        return [
            device,
            *(
                other
                for other in self.catalog.devices
                if other.card == device.card
                and other.host == device.host
                and other.provider != device.provider
            ),
        ]

    def queue_at(self, provider: str, state: ChangeoverState) -> str:
        """The queue whose workers can take a device's changeover further in that state.

        Raises :class:`NotFound` as :meth:`device` does, where that depends on the device.
        """
        if state not in {ChangeoverState.PROGRAMMING, ChangeoverState.VERIFYING}:
            return ADVANCE_QUEUE
        device = self.device(provider)
        return host_queue(device.host) if self.programmer(device).on_host else ADVANCE_QUEUE

    def concurrently(self, call: Callable[[A], B], items: list[A]) -> list[B]:
        """``call`` on each item, several at once, results in order; bounded by the settings."""
        if self.pool is None or len(items) < 2:  # noqa: PLR2004 - one item needs no pool
            return _one_by_one(call, items)
        return list(self.pool.map(call, items))

    def host_names(self, roots: Iterable[str]) -> Mapping[str, str]:
        """Names of root providers (hosts) by uuid; unknown ones are looked up once."""
        if not self._names.keys() >= set(roots):
            self._names.update(
                {p.uuid: p.name for p in self.placement.providers() if p.parent is None}
            )
        return self._names

    def members(self, aggregates: Iterable[str]) -> frozenset[str]:
        """Names of the hosts that are in any of these aggregates."""
        found = self.placement.providers(member_of=aggregates)
        return frozenset(provider.name for provider in found if provider.parent is None)

    def holders(self, trait: str) -> Holders:
        """Who has a trait that the catalog does not tell of; known for a minute."""
        asked_at, holders = self._holders.get(trait, (0.0, None))
        now = self.clock.now()
        if holders is None or now - asked_at > TRAITS_KNOWN:
            found = self.placement.providers(required=[trait])
            holders = Holders(
                devices=frozenset(p.uuid for p in found if p.uuid in self._devices),
                hosts=frozenset(p.name for p in found if p.parent is None),
                anybody=bool(found),
            )
            self._holders[trait] = now, holders
        return holders

    @cached_property
    def _holders(self) -> dict[str, tuple[float, Holders | None]]:
        return {}

    @cached_property
    def _names(self) -> dict[str, str]:
        return {}

    @cached_property
    def _devices(self) -> Mapping[str, Device]:
        return {device.provider: device for device in self.catalog.devices}
