"""The checker: holds what the witness saw against the eight invariants of the design.

While things happen it knows only Placement, the cards and Nova. Changeover's rows are read for
two questions alone: do they explain what is closed or held, and has every boot one outcome?
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from story.witness import Event

from changeover.models.catalog import Device
from changeover.models.placement import Inventory
from changeover.models.states import (
    BOOT_OVER,
    CHANGEOVER_MOVING,
    BootState,
    ChangeoverState,
)
from changeover.policies.offer import own_classes, own_traits
from changeover.worker.ports.servers import MARKER, REPLACES

if TYPE_CHECKING:
    from story.world import Cloud

OTHER = "other"
"""Who is not Changeover and writes to its devices: nobody promised what follows from that."""

ALIVE = frozenset({"BUILD", "ACTIVE"})

LONGEST_WAIT = 3600.0
"""Seconds within which everything that is open is due by its row, though every message is lost."""


@dataclass
class _Card:
    """One device, as the witness has seen it."""

    device: Device
    holds: str
    inventories: Mapping[str, Inventory]
    traits: frozenset[str]
    running: str | None = None
    open_until: float | None = None
    opened_by_other: bool = False
    consumers: dict[str, int] = field(default_factory=dict)
    behind: set[str] = field(default_factory=set)
    """Consumers that landed while it was closed for a program, and are still there."""

    started: bool = False
    """Programmed since it was last open."""


class Checker:
    """Sees each event as it happens; collects what breaks a promise."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.violations: list[str] = []
        self.seen: Counter[str] = Counter()
        self.catalog = cloud.catalog
        self.traits = own_traits(self.catalog)
        self.cards: dict[str, _Card] = {}
        self.names = {device.name: device.provider for device in self.catalog.devices}
        now = cloud.clock.now()
        for device in self.catalog.devices:
            inventories, traits = cloud.placement.offers(device.provider)
            card = _Card(device, cloud.cards.function(device.name), inventories, traits)
            self.cards[device.provider] = card
            if self._is_open(card):
                card.open_until = now
        self.creates: Counter[str] = Counter()
        self.status: dict[str, str] = {}
        self.replaces: dict[str, str] = {}
        self.deleted_by_user: set[str] = set()
        self.paused_creates = False
        """Whether a create may be paused for longer than any request takes: then a second server
        may live until the first one's maker wakes up, and not longer."""
        cloud.witness.watchers.append(self._on)

    # -- as it happens ----------------------------------------------------------------------

    def _on(self, event: Event) -> None:
        getattr(self, f"_on_{event.kind}")(event)

    def _blame(self, event: Event | None, what: str) -> None:
        where = "" if event is None else f" [{event.number} at {event.t:.2f} by {event.actor}]"
        self.violations.append(f"{what}{where}")

    def _on_inventories(self, event: Event) -> None:
        card = self.cards.get(event.facts["provider"])
        if card is None:
            return
        was_open = self._is_open(card)
        card.inventories = event.facts["inventories"]
        if self._is_open(card):
            card.opened_by_other = event.actor == OTHER or (was_open and card.opened_by_other)
            self._opened(event, card)
        elif was_open:
            card.open_until = event.t
            card.opened_by_other = False
        self._truth(event, card)

    def _opened(self, event: Event, card: _Card) -> None:
        card.open_until = event.t
        if card.opened_by_other:
            return
        if card.running is not None:
            self._blame(event, f"3: {card.device.name} is opened while it is being programmed")
        if card.started and card.behind:
            self._blame(event, f"1: {card.device.name} is published although used behind the fence")
        card.started = False
        card.behind.clear()

    def _on_traits(self, event: Event) -> None:
        card = self.cards.get(event.facts["provider"])
        if card is not None:
            card.traits = event.facts["traits"]
            if event.actor == OTHER and self._is_open(card):
                card.opened_by_other = True
            self._truth(event, card)

    def _on_allocated(self, event: Event) -> None:
        consumer = event.facts["consumer"]
        for provider, amounts in event.facts["allocations"].items():
            card = self.cards.get(provider)
            if card is None:
                continue
            card.consumers[consumer] = sum(amounts.values())
            if not self._is_open(card):
                self.seen["late allocation"] += 1
                card.behind.add(consumer)
            if card.running is not None and not card.opened_by_other:
                self._blame(
                    event, f"1: an allocation lands on {card.device.name} while it is programmed"
                )

    def _on_released(self, event: Event) -> None:
        for card in self.cards.values():
            card.consumers.pop(event.facts["consumer"], None)
            card.behind.discard(event.facts["consumer"])

    def _on_card(self, event: Event) -> None:
        facts = event.facts
        provider = self.names.get(facts["device"])
        if provider is None:
            return
        card = self.cards[provider]
        if facts["event"] == "start":
            self._starts(event, card)
            card.running, card.started = facts["token"], True
            self.seen["programmed"] += 1
        elif facts["event"] in {"end", "interrupted"}:
            card.running = None
        card.holds = facts["holds"]
        self._truth(event, card)

    def _starts(self, event: Event, card: _Card) -> None:
        name = card.device.name
        if card.running is not None and not self._gone(card.running):
            self._blame(event, f"2: {name} is programmed twice at once")
        if self.cloud.servers_up.get(card.device.host) is False:
            self._blame(event, f"1: {name} is programmed while its host is down")
        for other in self._reset_with(card):
            users = self.cloud.users.get(other.device.name, ())
            if other.consumers:
                self._blame(event, f"1: {name} is programmed while {other.device.name} is in use")
            if users:
                self._blame(event, f"1: {name} is programmed while {other.device.name} has users")
            if other.opened_by_other:
                continue
            if self._is_open(other):
                self._blame(event, f"3: {name} is programmed while {other.device.name} is open")
            elif (
                other.open_until is not None
                and event.t - other.open_until < self.cloud.settings.settle_seconds
            ):
                self._blame(event, f"1: {name} is programmed before {other.device.name} settled")

    def _gone(self, token: str) -> bool:
        """Whether the caller of that call was killed: then the kernel has ended the call."""
        return token in self.cloud.killed_calls

    def _reset_with(self, card: _Card) -> list[_Card]:
        if self.catalog.models[card.device.model].resets == "self" or card.device.card is None:
            return [card]
        return [
            other
            for other in self.cards.values()
            if other.device.card == card.device.card and other.device.host == card.device.host
        ]

    def _on_server(self, event: Event) -> None:
        facts = event.facts
        server, what = facts["server"], facts["event"]
        if what == "create":
            self.status[server] = "BUILD"
            if MARKER in facts:
                self.creates[facts[MARKER]] += 1
                self.seen["created again"] += 1
                if self.creates[facts[MARKER]] > 1:
                    self._blame(event, f"4: two creates with the marker {facts[MARKER]}")
            if MARKER in facts:
                # Where no server failed, all that is made for a boot is made in the boot's place.
                asked_for = facts[MARKER].partition(".")[0]
                self.replaces[server] = facts.get(REPLACES, asked_for)
                if not self.paused_creates:
                    self._doubled(event, self._root(server))
        elif what == "active":
            self.status[server] = "ACTIVE"
        elif what == "failed":
            self.status[server] = "ERROR"
        elif what == "deleted":
            self.status[server] = "DELETED"
            if facts["by"] == "user":
                self.deleted_by_user.add(server)

    def _root(self, server: str) -> str:
        """The server that its owner asked for first."""
        while server in self.replaces:
            server = self.replaces[server]
        return server

    def successors(self, root: str) -> list[str]:
        """All servers that were made in place of the one that failed first."""
        return [s for s in self.replaces if self._root(s) == root]

    def _doubled(self, event: Event | None, root: str) -> None:
        alive = [s for s in self.successors(root) if self.status[s] in ALIVE]
        if len(alive) > 1:
            self._blame(event, f"4: {len(alive)} successors of {root} are alive at once")

    # -- what a device offers ---------------------------------------------------------------

    def _own(self, card: _Card) -> dict[str, Inventory]:
        classes = own_classes(self.catalog.models[card.device.model], self.catalog)
        return {rc: inv for rc, inv in card.inventories.items() if rc in classes}

    def _is_open(self, card: _Card) -> bool:
        return any(inv.capacity > 0 for inv in self._own(card).values())

    def lie(self, card: _Card) -> str | None:
        """What the device offers and is not, if anything."""
        if not self._is_open(card):
            return None
        model = self.catalog.models[card.device.model]
        function = self.catalog.functions.get(card.holds)
        said = card.traits & self.traits
        true = frozenset(function.traits) if function is not None else frozenset[str]()
        if not said <= true:
            return f"{card.device.name} offers {sorted(said - true)} and holds {card.holds!r}"
        if model.resource_class is None:
            if function is None:
                return f"{card.device.name} offers slots and holds nothing"
            own = self._own(card)
            if set(own) != {function.resource_class}:
                return f"{card.device.name} offers {sorted(own)} and holds {card.holds!r}"
            if own[function.resource_class].total > function.fits[model.name]:
                return f"{card.device.name} offers more slots than it has"
        return None

    def _truth(self, event: Event, card: _Card) -> None:
        lie = self.lie(card)
        if lie is not None and not card.opened_by_other:
            self._blame(event, f"3: {lie}")

    # -- between steps ----------------------------------------------------------------------

    def rows(self) -> None:
        """What the rows must show at any moment."""
        with self.cloud.database.read() as tx:
            live = tx.changeovers.live()
            fences = {f.provider: f.changeover for f in tx.fences.all()}
            doubled = [d for d, n in Counter(c.device for c in live).items() if n > 1]
        if doubled:
            self._blame(None, f"2: two live changeovers on {doubled}")
        for changeover in live:
            for device in self._reset_with(self.cards[changeover.device]):
                if fences.get(device.device.provider) != changeover.id:
                    self._blame(
                        None, f"3: {changeover.id} lives and does not hold {device.device.name}"
                    )
        latest = self.cloud.clock.now() + LONGEST_WAIT
        for changeover in live:
            if changeover.state in CHANGEOVER_MOVING and changeover.due_at > latest:
                self._blame(None, f"5: changeover {changeover.id} waits for a message alone")
        self._boots()

    def _boots(self) -> None:
        """What must be true of every boot at any moment, whatever was delivered or killed."""
        with self.cloud.database.read() as tx:
            boots = tx.boots.listed(over=None, limit=10_000)
            ends = {b.id: [a for a in tx.audit.of(b.id) if _is_outcome(a)] for b in boots}
        known = {boot.id for boot in boots}
        for told in self.cloud.accepted:
            if told.outcome == "boot" and told.boot not in known:
                self._blame(None, f"4: boot {told.boot} was accepted and is lost")
        for boot in boots:
            if len(ends[boot.id]) != (boot.state in BOOT_OVER):
                self._blame(None, f"4: boot {boot.id} is {boot.state} with {ends[boot.id]}")
            if boot.state is BootState.BOOTED:
                if boot.successor not in self.replaces:
                    self._blame(None, f"7: boot {boot.id} is booted as nothing")
                elif self.status[boot.successor] == "BUILD":
                    self._blame(None, f"7: boot {boot.id} is booted before its server is")
            elif boot.state not in BOOT_OVER and boot.wake_at > max(
                boot.expires_at, self.cloud.clock.now() + LONGEST_WAIT
            ):
                self._blame(None, f"5: boot {boot.id} waits for a message alone")

    def finally_(self) -> None:
        """What must be true once all is quiet, other clients' doings included."""
        self.rows()
        for provider, card in self.cards.items():
            lie = self.lie(card)
            if lie is not None:
                self._blame(None, f"3: in the end {lie}")
            inventories, traits = self.cloud.placement.offers(provider)
            assert (inventories, traits) == (card.inventories, card.traits)
            assert self.cloud.cards.function(card.device.name) == card.holds
            self._explained(card)
        self._outcomes()
        hints = self.cloud.hint_rows()
        if hints:
            self._blame(None, f"5: in the end hints are left over: {hints}")
        with self.cloud.database.read() as tx:
            for promise in tx.boots.promises():
                self._blame(None, f"8: in the end slots are promised: {promise}")
            moving = [c for c in tx.changeovers.live() if c.state in CHANGEOVER_MOVING]
            if moving:
                self._blame(None, f"8: in the end {len(moving)} changeovers are under way")

    def _explained(self, card: _Card) -> None:
        """A device that offers less than it has must be so by rows, or by another client."""
        provider = card.device.provider
        if provider in self.cloud.touched_by_other:
            return
        with self.cloud.database.read() as tx:
            fences = {f.provider for f in tx.fences.all()}
            released = [
                c for c in tx.changeovers.latest(1000) if c.state is ChangeoverState.RELEASED
            ]
        if provider in fences:
            return
        function = self.catalog.functions.get(card.holds)
        model = self.catalog.models[card.device.model]
        if model.resource_class is None and function is None:
            return
        if any(
            other.device.provider == provider
            for c in released
            for other in self._reset_with(self.cards[c.device])
        ):
            return
        own = self._own(card)
        if not own:
            self._blame(None, f"8: {card.device.name} is closed and no row says why")
        reserved = sum(inv.reserved for inv in own.values())
        if reserved:
            self._blame(None, f"8: {reserved} slots of {card.device.name} are reserved for nobody")

    def _outcomes(self) -> None:
        with self.cloud.database.read() as tx:
            boots = tx.boots.listed(over=None, limit=10_000)
        claims: dict[str, list[str]] = defaultdict(list)
        for boot in boots:
            if boot.state not in BOOT_OVER:
                self._blame(None, f"4: boot {boot.id} has no outcome: {boot.state}")
            self.seen[f"boot {boot.state}: {boot.reason.code}"] += 1
            alive = [s for s in self.successors(boot.server or boot.id) if self.status[s] in ALIVE]
            if boot.state is BootState.BOOTED:
                claims[str(boot.successor)].append(boot.id)
            elif alive:
                self._blame(None, f"4: boot {boot.id} is {boot.state}, but {alive} live for it")
        for server, owners in claims.items():
            if len(owners) > 1:
                self._blame(None, f"4: {server} counts for {owners}")
        for root in {self._root(s) for s in self.replaces}:
            self._doubled(None, root)

    def check(self) -> None:
        """Fail with all that was found."""
        assert not self.violations, "\n".join(
            [*self.violations[:20], self.cloud.describe(), *self._story()]
        )

    def _story(self) -> list[str]:
        return [
            f"{e.number} {e.t - self.cloud.witness.events[0].t:.2f} {e.actor} {e.kind} "
            f"{ {k: v for k, v in e.facts.items() if k != 'pid'} }"[:220]
            for e in self.cloud.witness.events[-60:]
        ]


def _is_outcome(line: Mapping[str, Any]) -> bool:
    return line["action"] in {f"boot.{state}" for state in BOOT_OVER}
