"""50 boots fail at once on a real Nova; there are 16 cards."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import judge
from harness.catalogs import CardCatalog
from harness.client import Cards, Changeover, Cloud, eventually
from harness.servers import Servers
from harness.timing import Rescue, measure
from openstack.connection import Connection

from changeover.models.states import BOOT_OVER, BootState

BOOTS = 50
FUNCTIONS = ("SA", "SB", "SC", "SD")
PATIENCE_SECONDS = 300.0
HELD_SECONDS = 20.0
"""How long a rescued server lives before its owner deletes it: later boots want its card."""

LOOK_SECONDS = 4.0

KEPT = 12
"""So many of the rescued are never deleted."""


@pytest.fixture
def owner(alice: Connection, servers: Servers) -> Iterator[Owner]:
    """Alice, who deletes servers that have run for a while."""
    owner = Owner(alice, servers)
    thread = threading.Thread(target=owner.run, daemon=True)
    thread.start()
    yield owner
    owner.stopping.set()
    thread.join()


class Owner:
    """Deletes what has been active for a while, but for the first ones."""

    def __init__(self, alice: Connection, servers: Servers) -> None:
        self.alice = alice
        self.servers = servers
        self.stopping = threading.Event()
        self.kept: set[str] = set()
        self.deleted: set[str] = set()
        self._active_since: dict[str, float] = {}

    def run(self) -> None:
        """Until :attr:`stopping`."""
        while not self.stopping.wait(LOOK_SECONDS):
            for server in self.servers.of(self.alice):
                if server["status"] == "ACTIVE" and server["id"] not in self.kept:
                    self._active(server)

    def _active(self, server: dict[str, Any]) -> None:
        if len(self.kept) < KEPT:
            self.kept.add(server["id"])
            return
        now = time.monotonic()
        if now - self._active_since.setdefault(server["id"], now) >= HELD_SECONDS:
            self.deleted.add(server["name"])
            self.alice.compute.delete(f"/servers/{server['id']}")


@pytest.mark.usefixtures("trust")
def test_fifty_boots_fail_at_once_and_each_ends_well_or_with_a_reason(
    cloud: Cloud,
    cards: Cards,
    alice: Connection,
    servers: Servers,
    owner: Owner,
    changeover: Callable[..., Changeover],
    rescues: list[Rescue],
    notes: list[str],
) -> None:
    all_cards = cards.all()
    cards.load(dict.fromkeys(all_cards, "NONE"))
    catalog = CardCatalog(cards)
    flavors = [
        servers.flavor(
            **{
                "resources:FPGA": "1",
                f"trait:{catalog.add(name)}": "required",
                "changeover:recreate": "true",
            }
        )
        for name in FUNCTIONS
    ]
    deployment = changeover(
        catalog.content(), postgresql=True, patience_seconds=PATIENCE_SECONDS, dwell_seconds=2.0
    )
    names = [f"storm-{i:02}" for i in range(BOOTS)]
    wants = {name: FUNCTIONS[i % len(FUNCTIONS)] for i, name in enumerate(names)}
    with ThreadPoolExecutor(8) as pool:
        failed = list(
            pool.map(
                lambda i: servers.boot(alice, flavors[i % len(flavors)], name=names[i]),
                range(BOOTS),
            )
        )

    def over() -> bool:
        boots = [deployment.boot_of(uuid) for uuid in failed]
        return all(boot is not None and boot.state in BOOT_OVER for boot in boots)

    eventually(over, within=PATIENCE_SECONDS + 300, every=2.0)
    deployment.settled()
    owner.stopping.set()
    boots = {name: deployment.boot_of(uuid) for name, uuid in zip(names, failed, strict=True)}

    # By the product: how each ended, and why.
    ended = {name: boot for name, boot in boots.items() if boot is not None}
    counts = Counter(str(boot.state) for boot in ended.values())
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    notes.append(f"{BOOTS} boots at once, {len(all_cards)} cards: {told}")
    assert sum(counts.values()) == BOOTS
    assert set(counts) <= {BootState.BOOTED, BootState.DECLINED, BootState.EXPIRED}
    assert all(boot.reason.text for boot in ended.values())
    assert counts[BootState.BOOTED] >= len(all_cards)

    # By Nova's and Placement's databases and the cards themselves.
    def fates() -> dict[str, str]:
        found = judge.judge_servers(cloud, names)
        return {
            # Who was rescued and then deleted by its owner has none that lives.
            name: "active" if fate == "1 launched, living: []" and name in owner.deleted else fate
            for name, fate in found.items()
        }

    def as_told() -> bool:
        said = {
            name: "active" if boot.state is BootState.BOOTED else "failed"
            for name, boot in ended.items()
        }
        return fates() == said

    eventually(as_told, within=60)
    assert judge.judge_cards(cloud) == []
    assert judge.fences(cloud) == []
    living = {
        server["id"]: wants[server["name"]]
        for server in servers.of(alice)
        if server["status"] == "ACTIVE"
    }
    loaded = {card.key: cards.loaded(card) for card in all_cards}
    assert judge.wrong_functions(cloud, living, loaded) == []
    rescues += [
        measure(f"{BOOTS} boots, {len(all_cards)} cards", cloud, deployment, boot)
        for boot in ended.values()
        if boot.successor in living
    ]
