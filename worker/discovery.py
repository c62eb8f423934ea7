"""Discovery: keep the mirror of what the catalog's rules find in Placement.

One listing of all providers, with their generations, and one query for each set of traits and each
aggregate that rules name: however many devices there are. Only where a rule goes by resource class
are providers read one by one, several at once, and each but once a generation: Placement lists by
class only what is free.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import structlog

from changeover.models.catalog import FoundDevice
from changeover.models.errors import NotFound
from changeover.models.placement import Provider
from changeover.models.reasons import Reason
from changeover.models.states import FoundState
from changeover.policies.discover import (
    Discovered,
    Listing,
    class_suspects,
    discover,
    trait_queries,
)
from changeover.worker.store import Tx
from changeover.worker.store.discovered import DiscoveredRecord, devices_in
from changeover.worker.world import World

log = structlog.get_logger(__name__)

NAMED = 10
"""How many are named in a log line."""

Records = Mapping[str, DiscoveredRecord]
Classes = Mapping[str, frozenset[str]]


def look_around(world: World, providers: Sequence[Provider]) -> World:
    """Find what came and went among ``providers``; returns the world with the devices now there.

    ``providers`` is Placement's whole listing. Nothing is recorded if a service does not answer.
    """
    if not world.catalog.discover:
        return world
    with world.database.read() as tx:
        records = {r.provider: r for r in tx.discovered.all()}
    listing = _ask(world, providers)
    read = _read_classes(world, listing, records)
    listing = replace(listing, offering=_offering(listing, read))
    found = discover(world.catalog, listing, devices_in(records.values()))
    return _record(world, listing, found, read)


def _ask(world: World, providers: Sequence[Provider]) -> Listing:
    """What single queries tell about all providers at once."""
    catalog = world.catalog
    traits = sorted(trait_queries(catalog), key=sorted)
    aggregates = sorted({a for rule in catalog.discover.values() for a in rule.aggregates})
    classes = sorted({rc for rule in catalog.discover.values() for rc in rule.resource_classes})
    placement = world.placement
    having = world.concurrently(lambda wanted: placement.providers(required=wanted), traits)
    members = world.concurrently(lambda one: placement.providers(member_of=[one]), aggregates)
    free = world.concurrently(lambda rc: placement.providers(resources={rc: 1}), classes)
    cyborg = any(rule.source == "cyborg" for rule in catalog.discover.values())
    return Listing(
        providers=providers,
        having={key: _uuids(listed) for key, listed in zip(traits, having, strict=True)},
        member_of={key: _uuids(listed) for key, listed in zip(aggregates, members, strict=True)},
        offering={key: _uuids(listed) for key, listed in zip(classes, free, strict=True)},
        deployables=world.deployables() if cyborg else {},
    )


def _uuids(providers: Iterable[Provider]) -> frozenset[str]:
    return frozenset(provider.uuid for provider in providers)


def _read_classes(world: World, listing: Listing, records: Records) -> dict[str, frozenset[str]]:
    """The classes of the providers whose inventories, all taken, no query shows."""
    generations = {provider.uuid: provider.generation for provider in listing.providers}
    suspects = class_suspects(world.catalog, listing, devices_in(records.values()))
    free = frozenset().union(*listing.offering.values())
    read: dict[str, frozenset[str]] = {}
    unread = []
    for uuid in sorted(suspects - free):
        record = records.get(uuid)
        if record is None or record.classes is None or record.generation != generations[uuid]:
            unread.append(uuid)
        else:
            read[uuid] = record.classes

    def classes(uuid: str) -> frozenset[str]:
        try:
            return frozenset(world.placement.state(uuid).inventories)
        except NotFound:  # deleted since it was listed
            return frozenset()

    return read | dict(zip(unread, world.concurrently(classes, unread), strict=True))


def _offering(listing: Listing, read: Classes) -> dict[str, frozenset[str]]:
    return {
        rc: uuids | {uuid for uuid, classes in read.items() if rc in classes}
        for rc, uuids in listing.offering.items()
    }


def _record(world: World, listing: Listing, found: Discovered, read: Classes) -> World:
    """Write down what is new. What a changeover or a boot counts on stays what it was."""
    now = world.clock.now()
    providers = {provider.uuid: provider for provider in listing.providers}
    described = {device.provider for device in world.catalog.described}
    with world.database.write() as tx:
        busy = tx.discovered.busy()
        records = {r.provider: r for r in tx.discovered.all()}
        fresh: dict[str, DiscoveredRecord] = {}
        for uuid in {*records, *found.devices, *found.unclear, *read} - described:
            old, provider = records.get(uuid), providers.get(uuid)
            if old is not None and old.device is not None and uuid in busy:
                fresh[uuid] = old
            elif uuid in found.devices:
                fresh[uuid] = _row(providers[uuid], FoundState.FOUND, found.devices[uuid], None)
            elif old is not None and old.device is not None:
                reason = found.unclear.get(uuid) or _lost(old, provider)
                fresh[uuid] = replace(old, state=FoundState.GONE, reason=reason)
            elif uuid in found.unclear:
                fresh[uuid] = _row(providers[uuid], FoundState.UNCLEAR, None, found.unclear[uuid])
            elif uuid in read and provider is not None:
                row = _row(provider, FoundState.OTHER, None, None)
                fresh[uuid] = replace(row, classes=read[uuid])
        return _write(world, tx, records, fresh, now)


def _row(
    provider: Provider, state: FoundState, device: FoundDevice | None, reason: Reason | None
) -> DiscoveredRecord:
    return DiscoveredRecord(
        provider=provider.uuid,
        name=provider.name,
        state=state,
        since=0.0,
        generation=provider.generation if state is FoundState.OTHER else None,
        classes=None,
        device=device,
        reason=reason,
    )


def _lost(old: DiscoveredRecord, provider: Provider | None) -> Reason:
    if provider is None:
        return Reason("discover.deleted", f"Placement has no provider {old.name} any more")
    return Reason("discover.no_rule", f"no rule of the catalog matches {old.name} any more")


def _write(
    world: World,
    tx: Tx,
    records: Mapping[str, DiscoveredRecord],
    fresh: Mapping[str, DiscoveredRecord],
    now: float,
) -> World:
    changed = []
    for uuid, row in fresh.items():
        old = records.get(uuid)
        same_state = old is not None and old.state is row.state
        dated = replace(row, since=old.since if old is not None and same_state else now)
        if dated != old:
            changed.append(dated)
    _tell(records, changed)
    tx.discovered.put(changed)
    tx.discovered.forget(records.keys() - fresh.keys())
    before, after = devices_in(records.values()), devices_in(fresh.values())
    if before == after:
        return world
    world = world.with_found(after.values())
    tx.discovered.changed()
    tx.devices.sync(world.catalog)
    return world


def _tell(records: Mapping[str, DiscoveredRecord], changed: Sequence[DiscoveredRecord]) -> None:
    """Log what a person may want to know, once, and in one line however many there are."""
    news: dict[FoundState, list[str]] = defaultdict(list)
    for row in changed:
        old = records.get(row.provider)
        if old is None or (old.state, old.reason) != (row.state, row.reason):
            news[row.state].append(row.name if row.reason is None else row.reason.text)
    for state, said in news.items():
        if state is FoundState.FOUND:
            log.info("devices.found", count=len(said), devices=said[:NAMED])
        elif state is FoundState.GONE:
            log.warning("devices.gone", count=len(said), why=said[:NAMED])
        elif state is FoundState.UNCLEAR:
            log.warning("devices.unclear", count=len(said), why=said[:NAMED])
