"""The mirror: what came, went and changed in Placement, and how few calls it takes to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from changeover.models.boot import Boot
from changeover.models.catalog import Catalog, FoundDevice
from changeover.models.changeover import Changeover
from changeover.models.errors import NotFound, Unreachable
from changeover.models.placement import Inventory, RequestGroup, ResourceRequest
from changeover.models.reasons import Reason
from changeover.models.states import BootState, ChangeoverState, FoundState
from changeover.worker import bootstrap
from changeover.worker.gather import gather
from changeover.worker.migrate import upgrade
from changeover.worker.ports.accelerators import Accelerators, Deployable
from changeover.worker.ports.servers import Servers
from changeover.worker.refresh import look, sync_catalog
from changeover.worker.settings import Settings
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.simulator.placement import Faults, MemoryPlacement, When, _Record
from changeover.worker.store import Database
from changeover.worker.world import World

CARD, AES = "CUSTOM_CARD", "CUSTOM_AES"


class CountedPlacement(MemoryPlacement):
    """Counts the calls."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults=self._count)
        self.count: Counter[str] = Counter()
        self.strike = faults

    def _count(self, when: When, method: str) -> None:
        if when is When.BEFORE:
            self.count[method] += 1
        self.strike(when, method)

    def put_many(self, many: int, host: str) -> None:
        """Have so many cards, half of them with a slot: at once, as one by one takes minutes."""
        for number in range(2, many + 2):
            record = self._records.setdefault(
                uuid(number), _Record(uuid(number), f"card{number}", host, host)
            )
            record.traits = frozenset({CARD, AES}) if number % 2 else frozenset({CARD})
            record.inventories = {"CUSTOM_FPGA": Inventory(1)} if number % 2 else {}


class Ground:
    """A Placement with one host, and a world whose catalog only has rules."""

    def __init__(self, root: Path, rules: dict[str, Any]) -> None:
        self.faults = Faults()
        self.placement = CountedPlacement(self.faults)
        self.placement.ensure_traits([CARD, AES])
        self.placement.ensure_resource_classes(["CUSTOM_FPGA"])
        self.host = self.placement.create_provider(uuid(1), "compute1").uuid
        url = f"sqlite:///{root / 'changeover.sqlite'}"
        upgrade(url)
        self.world = World(
            database=Database(url),
            placement=self.placement,
            servers=cast("Servers", None),
            programmers={},
            clock=VirtualClock(),
            catalog=catalog(rules),
            settings=Settings(state_dir=root),
            owner="test",
        )
        sync_catalog(self.world)

    def card(self, number: int, *, traits: tuple[str, ...] = (CARD,), slots: int = 0) -> str:
        """A card, with so many slots of CUSTOM_FPGA."""
        made = self.placement.create_provider(uuid(number), f"card{number}", self.host)
        generation = self.placement.put_traits(made.uuid, made.generation, traits)
        self.offer(made.uuid, generation, slots)
        return made.uuid

    def offer(self, card: str, generation: int, slots: int) -> int:
        inventories = {"CUSTOM_FPGA": Inventory(slots)} if slots else {}
        return self.placement.put_inventories(card, generation, inventories)

    def generation(self, card: str) -> int:
        return self.placement.usage(card).generation

    def look(self) -> dict[str, int]:
        """A look; the calls that it made are counted alone."""
        self.placement.count.clear()
        return look(self.now)

    @property
    def now(self) -> World:
        """The world as a task finds it."""
        return bootstrap.as_found(self.world)

    @property
    def names(self) -> list[str]:
        return [device.name for device in self.now.catalog.devices]

    def records(self) -> dict[str, tuple[FoundState, str | None]]:
        with self.world.database.read() as tx:
            rows = tx.discovered.all()
        return {r.name: (r.state, None if r.reason is None else r.reason.code) for r in rows}


def uuid(number: int) -> str:
    return str(UUID(int=number))


def catalog(rules: dict[str, Any]) -> Catalog:
    return Catalog.model_validate(
        {
            "programmers": {"cards": {"kind": "simulated"}},
            "models": {"u50": {"programmer": "cards", "traits": [CARD]}},
            "functions": {
                "aes": {
                    "traits": [AES],
                    "resource_class": "CUSTOM_FPGA",
                    "artifact": {"image": "aes.bit", "sha256": "0" * 64},
                    "fits": {"u50": 1},
                }
            },
            "discover": rules,
            "pools": {"aes": {"min_free": 2}},
        }
    )


RULES: dict[str, Any] = {"cards": {"model": "u50", "traits": [CARD]}}


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path, RULES)
    yield made
    made.world.database.dispose()
    bootstrap.close_world()


def start_changeover(ground: Ground, device: str) -> Changeover:
    changeover = Changeover(
        id=uuid(500), device=device, host="compute1", from_function=None, to_function="aes",
        kind="task", subject=None, plan_id=None, state=ChangeoverState.PLANNED,
        reason=Reason("test", "test"), priority=1.0, created_at=0.0, updated_at=0.0, due_at=0.0,
        tries=0, failures=0, cancel=False,
    )  # fmt: skip
    with ground.world.database.write() as tx:
        tx.changeovers.add(changeover)
    return changeover


def test_cards_are_found_read_and_seen_by_the_next_task(ground: Ground) -> None:
    ground.card(2)
    ground.card(3, traits=(CARD, AES), slots=1)
    assert ground.names == []
    assert ground.look() == {"devices": 2, "read": 2, "freed": 0}
    assert ground.names == ["card2", "card3"]
    with ground.world.database.read() as tx:
        read = {r.name: (r.function, r.host, r.read_at is not None) for r in tx.devices.all()}
    assert read == {"card2": (None, "compute1", True), "card3": ("aes", "compute1", True)}


def test_only_what_changed_is_read_again(ground: Ground) -> None:
    cards = [ground.card(number, traits=(CARD, AES), slots=1) for number in range(2, 52)]
    ground.look()
    ground.look()
    assert ground.placement.count == {"providers": 2}  # the listing, and who has the trait
    ground.placement.claim(uuid(900), {cards[7]: {"CUSTOM_FPGA": 1}}, project="p", user="u")
    ground.offer(cards[9], ground.generation(cards[9]), 0)
    assert ground.look()["read"] == 2
    assert ground.placement.count == {"providers": 2, "state": 2, "usage": 2}
    with ground.world.database.read() as tx:
        [used] = [r for r in tx.devices.all() if r.used]
    assert used.provider == cards[7]


def test_what_became_free_is_seen_though_its_generation_stays(ground: Ground) -> None:
    card = ground.card(2, traits=(CARD, AES), slots=1)
    ground.placement.claim(uuid(900), {card: {"CUSTOM_FPGA": 1}}, project="p", user="u")
    ground.look()
    before = ground.generation(card)
    ground.placement.release(uuid(900))
    assert ground.generation(card) == before
    assert ground.look() == {"devices": 1, "read": 0, "freed": 1}
    with ground.world.database.read() as tx:
        assert [r.used for r in tx.devices.all()] == [0]


def test_everything_is_read_when_that_is_due(ground: Ground) -> None:
    for number in range(2, 5):
        ground.card(number)
    ground.look()
    assert ground.look()["read"] == 0
    cast("VirtualClock", ground.world.clock).advance(ground.world.settings.full_refresh_seconds)
    assert ground.look()["read"] == 3


def test_one_process_looks_at_a_time(ground: Ground) -> None:
    with ground.world.database.write() as tx:
        assert tx.leases.acquire("refresh", "other", ground.world.clock.now(), 60.0)
    assert ground.look() == {}
    assert ground.placement.count == {}


def test_one_that_vanishes_is_kept_as_gone_and_may_come_back(ground: Ground) -> None:
    card = ground.card(2)
    ground.look()
    ground.placement.put_traits(card, ground.generation(card), [])
    ground.look()
    assert ground.names == []
    assert ground.records() == {"card2": (FoundState.GONE, "discover.no_rule")}
    with ground.world.database.read() as tx:
        assert tx.devices.all() == []
    with pytest.raises(NotFound):
        ground.now.device(uuid(77))
    ground.placement.put_traits(card, ground.generation(card), [CARD])
    ground.look()
    assert (ground.names, ground.records()) == (["card2"], {"card2": (FoundState.FOUND, None)})


def test_one_with_a_changeover_never_vanishes(ground: Ground) -> None:
    card = ground.card(2)
    ground.look()
    changeover = start_changeover(ground, card)
    ground.placement.put_traits(card, ground.generation(card), [])
    ground.look()
    assert ground.names == ["card2"]
    with ground.world.database.write() as tx:
        tx.changeovers.move(
            changeover, ChangeoverState.ABANDONED, 1.0, reason=Reason("test", "over")
        )
    ground.look()
    assert ground.names == []
    # Whoever still holds its uuid learns what it was.
    assert ground.now.device(card).name == "card2"


def test_one_with_a_changeover_is_not_moved_to_another_card_or_model(ground: Ground) -> None:
    card = ground.card(2)
    ground.look()
    start_changeover(ground, card)
    ground.world = replace(
        ground.world, catalog=catalog({"cards": {**RULES["cards"], "card": "parent"}})
    )
    ground.look()
    [device] = ground.now.catalog.devices
    assert device.card is None


def test_what_is_unclear_is_reported_once_and_forgotten_when_it_is_clear(tmp_path: Path) -> None:
    ground = Ground(tmp_path, {**RULES, "again": {"model": "u50", "names": ["card*"]}})
    card = ground.card(2)
    ground.look()
    assert (ground.names, ground.records()) == (
        [], {"card2": (FoundState.UNCLEAR, "discover.two_rules")},
    )  # fmt: skip
    ground.placement.put_traits(card, ground.generation(card), [])
    ground.look()
    assert ground.records() == {"card2": (FoundState.FOUND, None)}


def test_by_class_a_provider_is_read_once_a_generation(tmp_path: Path) -> None:
    ground = Ground(tmp_path, {"cards": {"model": "u50", "resource_classes": ["CUSTOM_FPGA"]}})
    taken, free, empty = ground.card(2, slots=1), ground.card(3, slots=1), ground.card(4)
    ground.placement.claim(uuid(900), {taken: {"CUSTOM_FPGA": 1}}, project="p", user="u")
    ground.look()
    assert ground.names == ["card2", "card3"]
    # The host and the empty card were looked at; the free one a query shows; and two were read.
    assert ground.placement.count["state"] == 3 + 2
    ground.look()
    assert ground.placement.count["state"] == 0
    # A fence takes the class away, and the device stays one.
    ground.offer(free, ground.generation(free), 0)
    ground.offer(empty, ground.generation(empty), 1)
    ground.look()
    assert ground.names == ["card2", "card3", "card4"]


def test_a_placement_that_does_not_answer_takes_no_device_away(ground: Ground) -> None:
    ground.card(2)
    ground.look()
    for skip in (0, 1):
        ground.faults.at(When.BEFORE, "providers", Unreachable("down"), skip=skip)
        with pytest.raises(Unreachable):
            ground.look()
    assert ground.names == ["card2"]
    assert ground.look()["devices"] == 1  # the lease was given back


def test_the_mirror_is_read_anew_only_when_it_changed(ground: Ground) -> None:
    ground.card(2)
    ground.look()
    world = ground.now
    assert ground.now is world
    ground.look()
    assert ground.now is world
    ground.card(3)
    ground.look()
    assert ground.now is not world


def test_a_decision_over_10_000_mirrored_devices_takes_few_calls(ground: Ground) -> None:
    """Not a listing and not a read a device: what it asks does not grow with the cloud."""
    asked = []
    for many in (20, 10_000):
        ground.placement.put_many(many, ground.host)
        ground.look()
        world = ground.now
        assert len(world.catalog.devices) == many
        ground.placement.count.clear()
        gathered = gather(world, boots=[waiting_boot()], balance=True)
        assert len(gathered.inputs.devices) == many
        assert sum(view.free for view in gathered.inputs.devices) == many // 2
        asked.append(dict(ground.placement.count))
    assert asked[0] == asked[1]
    # Who is idle; and the host's name, as this world asks for the first time.
    assert asked[1]["providers"] <= 2
    # The request, the request without its device, and the floor.
    assert asked[1]["candidates"] <= 3
    assert set(asked[1]) == {"providers", "candidates"}


def waiting_boot() -> Boot:
    """One that asks for what half of the cards have."""
    request = ResourceRequest((RequestGroup("", {"CUSTOM_FPGA": 1}, frozenset({AES})),))
    return Boot(
        id=uuid(700), server=uuid(701), project="p", user="u", name="boot", group_id="req",
        request=request, request_key=request.key, device_profile=None, state=BootState.WAITING,
        reason=Reason("test", "test"), priority=1.0, failed_at=0.0, received_at=0.0,
        expires_at=1e12, wake_at=0.0, attempt=0,
    )  # fmt: skip


def test_deployables_of_cyborg_are_found_with_their_addresses(tmp_path: Path) -> None:
    ground = Ground(tmp_path, {"fpgas": {"source": "cyborg", "model": "u50"}})
    card = ground.card(2)
    ground.card(3)

    class Cyborg:
        def deployables(self) -> list[Deployable]:
            made = Deployable("deployable-2", "card2", card, "FPGA", frozenset(), 1)
            return [made, replace(made, uuid="deployable-9", provider=None)]

    ground.world = replace(ground.world, accelerators=cast("Accelerators", Cyborg()))
    ground.look()
    [device] = ground.now.catalog.devices
    assert isinstance(device, FoundDevice)
    assert (device.name, device.address, device.owner) == ("card2", "deployable-2", "cyborg")


def test_found_devices_are_candidates_for_boots(ground: Ground) -> None:
    """The request's own view of the world takes found devices for its own."""
    ground.card(2, traits=(CARD, AES), slots=1)
    ground.look()
    request = ResourceRequest((RequestGroup("", {"CUSTOM_FPGA": 1}, frozenset({AES})),))
    assert ground.placement.candidates(request).candidates
    [view] = gather(ground.now, balance=True).inputs.devices
    assert (view.function, view.free, view.blocked) == ("aes", 1, None)
