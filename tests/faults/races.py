"""Races: allocators claim the very device that is being fenced, at the very moment.

The code under test is the product's own steps (fence, settle, read, program, verify, publish),
on a real Placement of several processes with its *default* ``allocation_conflict_retry_count``.
The moment of the claim is steered towards the edge at which as many fences as claims win.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import services
from faults.checker import (
    Cloud,
    Held,
    Verdict,
    explained,
    judge_devices,
    programmed_in_use,
    programs_of,
    two_at_once,
)
from faults.table import Row

from changeover.models.catalog import Catalog, Device, Function
from changeover.models.changeover import Changeover
from changeover.models.errors import ChangeoverError, Stale
from changeover.models.placement import Inventory
from changeover.models.reasons import Reason
from changeover.models.states import CHANGEOVER_MOVING, ChangeoverState
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.adapters.placement_http import HttpPlacement
from changeover.worker.adapters.programmer_simulated import SimulatedDriver
from changeover.worker.carry_out import CarryOut
from changeover.worker.catalog_file import load_catalog_file
from changeover.worker.embedded.placement_service import start_placement
from changeover.worker.migrate import upgrade
from changeover.worker.ports.programmer import Entitled, Outcome, ProgramResult, always
from changeover.worker.refresh import sync_catalog
from changeover.worker.settings import Settings
from changeover.worker.simulator.cards import Behaviour, SimulatedCards
from changeover.worker.store import Database
from changeover.worker.world import World

DEFAULT_RETRIES = 10
"""Placement's own default for ``allocation_conflict_retry_count``."""

RC = "CUSTOM_RACE"
OPEN = {RC: Inventory(total=1, max_unit=1)}
EDGE_STEP = 0.0004
SPREAD = 0.004


@dataclass(frozen=True, slots=True)
class Pair:
    """One kind of database under Placement, and one kind of fence."""

    database: str
    fence: str
    """``removed`` (Changeover owns the inventory) or ``reserved`` (its owner is Cyborg)."""

    @property
    def name(self) -> str:
        return f"{self.database}/{self.fence}"

    def serve(self) -> AbstractContextManager[str]:
        """The database server; raises ``MissingError`` if it, or a driver for it, is missing."""
        if self.database == "postgresql" and find_spec("psycopg2") is None:
            raise services.MissingError("psycopg2 is not installed")
        return services.mariadb() if self.database == "mariadb" else services.postgres()


PAIRS = tuple(
    Pair(database, fence)
    for database in ("mariadb", "postgresql")
    for fence in ("removed", "reserved")
)
LEAKY = frozenset({"mariadb/removed", "mariadb/reserved", "postgresql/reserved"})
"""Pairs in which a late allocation has been seen: a race without settling must find one."""


class Allocators:
    """Processes that claim and give back; their log is evidence."""

    def __init__(self, port: int, processes: int = 2) -> None:
        script = str(Path(__file__).with_name("allocator.py"))
        self.children = [
            subprocess.Popen(
                [sys.executable, script, "127.0.0.1", str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(processes)
        ]
        self.answers: dict[tuple[str, str], Future[dict[str, Any]]] = {}
        self.log: list[dict[str, Any]] = []
        self._next = itertools.cycle(self.children)
        self._lock = threading.Lock()
        for child in self.children:
            threading.Thread(target=self._listen, args=(child,), daemon=True).start()

    def order(self, do: str, consumer: str, **facts: Any) -> Future[dict[str, Any]]:
        """Send an order; its answer comes later."""
        answer: Future[dict[str, Any]] = Future()
        with self._lock:
            self.answers[do, consumer] = answer
            child = next(self._next)
            assert child.stdin is not None
            child.stdin.write(json.dumps({"do": do, "consumer": consumer, **facts}) + "\n")
            child.stdin.flush()
        return answer

    def _listen(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            answer = json.loads(line)
            with self._lock:
                self.log.append(answer)
                waiting = self.answers.pop((answer["do"], answer["consumer"]))
            waiting.set_result(answer)

    def held(self) -> list[Held]:
        """What was granted, and when it was given back."""
        log = list(self.log)
        back = {a["consumer"]: a["back"] for a in log if a["do"] == "release"}
        return [
            Held(a["provider"], a["consumer"], a["asked"], a["got"], back.get(a["consumer"], 1e18))
            for a in log
            if a["do"] == "claim" and a["status"] == 204
        ]

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


class Ambushed:
    """Placement, whose fences are met by claims sent at the same moment."""

    def __init__(
        self, inner: HttpPlacement, allocators: Allocators, claims: int, seed: int
    ) -> None:
        self._inner = inner
        self._allocators = allocators
        self._claims = claims
        self._chance = Random(seed)
        self.edge = 0.0
        self.fences: list[tuple[str, float, float]] = []
        self.met: dict[str, list[tuple[str, Future[dict[str, Any]]]]] = {}
        self.outcomes = Counter[str]()
        self.raced: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put_inventories(
        self, uuid: str, generation: int, inventories: Mapping[str, Inventory]
    ) -> int:
        """The first write that closes the device is its fence: ambush it."""
        closes = RC not in inventories or inventories[RC].capacity <= 0
        if not closes or uuid not in self.raced:
            return self._inner.put_inventories(uuid, generation, inventories)
        at = time.time() + 0.010
        for _ in range(self._claims):
            consumer = str(uuid4())
            offset = self.edge + self._chance.uniform(-SPREAD, SPREAD)
            answer = self._allocators.order("claim", consumer, provider=uuid, rc=RC, at=at + offset)
            self.met.setdefault(uuid, []).append((consumer, answer))
        time.sleep(max(0.0, at - time.time()))
        sent = time.time()
        try:
            new = self._inner.put_inventories(uuid, generation, inventories)
        except ChangeoverError:
            self.outcomes["claim_first"] += 1
            self.edge = min(0.02, self.edge + EDGE_STEP)
            raise
        self.fences.append((uuid, sent, time.time()))
        self.raced.discard(uuid)  # what closes it from now on is publishing
        self.outcomes["fence_first"] += 1
        self.edge = max(-0.02, self.edge - EDGE_STEP)
        return new


class NoServers:
    """Servers that nobody asks for: the races need none."""

    longest_request_seconds = 1.0

    def host_up(self, _host: str) -> bool:
        return True


class ReportedDriver(SimulatedDriver):
    """As of cards that are Cyborg's: it tells Placement itself what it has programmed."""

    def __init__(self, cards: SimulatedCards, catalog: Catalog, placement: HttpPlacement) -> None:
        super().__init__(cards, catalog)
        self._placement = placement

    def program(
        self, device: Device, function: Function, token: str, entitled: Entitled = always
    ) -> ProgramResult:
        result = super().program(device, function, token, entitled)
        if result.outcome is Outcome.PROGRAMMED:
            self._report(device.provider, [*function.traits, "CUSTOM_RACE_CARD"])
        return result

    def _report(self, provider: str, traits: Sequence[str]) -> None:
        while True:
            with contextlib.suppress(Stale):
                generation = self._placement.state(provider).generation
                self._placement.put_traits(provider, generation, traits)
                return


@dataclass
class Course:
    """A pair's own Placement and fleet, with everything to race on it."""

    pair: Pair
    home: Path
    database_url: str
    port: int
    world: World
    ambush: Ambushed
    allocators: Allocators
    cards: SimulatedCards

    def start(self, device: str) -> str:
        """A changeover of the device to its other function; its id."""
        world, found = self.world, self.world.catalog.device(device)
        assert found is not None
        with world.database.read() as tx:
            record = tx.devices.get(found.provider)
        now = time.time()
        target = "right" if record is None or record.function != "right" else "left"
        changeover = Changeover(
            id=str(uuid4()), device=found.provider, host=found.host, from_function=None,
            to_function=target, kind="task", subject=None, plan_id=None,
            state=ChangeoverState.PLANNED, reason=Reason("race", "race"), priority=1.0,
            created_at=now, updated_at=now, due_at=now, tries=0, failures=0, cancel=False,
        )  # fmt: skip
        with world.database.write() as tx:
            tx.changeovers.add(changeover)
            tx.fences.add([found.provider], changeover.id)
        return changeover.id

    def race(self, device: str) -> ChangeoverState:
        """One changeover against claims; the device is open and idle again afterwards."""
        found = self.world.catalog.device(device)
        assert found is not None
        changeover = self.start(device)
        self.ambush.raced.add(found.provider)
        state = self._to_the_end(changeover)
        self.ambush.raced.discard(found.provider)
        time.sleep(0.15)  # what is still on its way lands while the world is as it is
        self._give_back(found.provider)
        if state is ChangeoverState.QUARANTINED:
            self._reopen(changeover, found.provider, device)
        return state

    def _to_the_end(self, changeover: str) -> ChangeoverState:
        carry_out = CarryOut(self.world)
        while True:
            state = carry_out.advance(changeover)
            with self.world.database.read() as tx:
                now = tx.changeovers.get(changeover)
            assert now is not None
            if now.state not in CHANGEOVER_MOVING:
                return now.state
            if state is None or now.due_at > time.time():
                time.sleep(max(0.01, now.due_at - time.time()))

    def _give_back(self, provider: str) -> None:
        # A claim that is given back before it was made would stay for ever.
        claims = self.ambush.met.pop(provider, [])
        for _, claimed in claims:
            claimed.result(120)
        for answer in [self.allocators.order("release", consumer) for consumer, _ in claims]:
            answer.result(120)

    def _reopen(self, changeover: str, provider: str, device: str) -> None:
        """What an operator does: look, release, and offer again what the card has."""
        with self.world.database.write() as tx:
            row = tx.changeovers.get(changeover)
            assert row is not None
            reason = Reason("race", "looked at")
            tx.changeovers.move(row, ChangeoverState.RELEASED, time.time(), reason=reason)
            tx.fences.drop(changeover)
        state = self.ambush._inner.state(provider)
        traits = {f"CUSTOM_RACE_{self.cards.function(device).upper()}", "CUSTOM_RACE_CARD"}
        self.ambush._inner.ensure_traits(sorted(traits))
        generation = self.ambush._inner.put_traits(provider, state.generation, sorted(traits))
        self.ambush._inner.put_inventories(provider, generation, OPEN)

    def late(self) -> int:
        """Allocations that were granted after a fence's own answer, asked for before it."""
        fenced: dict[str, list[float]] = defaultdict(list)
        for provider, _, answered in list(self.ambush.fences):
            fenced[provider].append(answered)
        return sum(
            any(one.asked < answered < one.got for answered in fenced[one.provider])
            for one in self.allocators.held()
        )

    def verdict(self) -> Verdict:
        """What the checker says of all races."""
        verdict = Verdict()
        cloud = Cloud.of(self.home / "catalog.yaml")
        held = self.allocators.held()
        programs = programs_of(self.home / "cards", cloud.devices)
        verdict.violations += programmed_in_use(programs, held)
        verdict.violations += two_at_once(programs)
        verdict.facts["late"] = self.late()
        verdict.facts["claims"] = sum(1 for a in self.allocators.log if a["do"] == "claim")
        verdict.facts["granted"] = len(held)
        verdict.facts["programs"] = len(programs)
        ours = f"sqlite:///{self.home / 'changeover.sqlite'}"
        judge_devices(verdict, cloud, self.home / "cards", self.database_url, explained(ours))
        return verdict


@contextlib.contextmanager
def course(
    pair: Pair, home: Path, database_url: str | None, *, devices: int, settle: float, seed: int
) -> Iterator[Course]:
    """Serve Placement on the database, and build ``devices`` that are open to all.

    Without a database it is SQLite, on which nothing lands late: for tests of the checker.
    """
    home.mkdir(parents=True, exist_ok=True)
    with start_placement(
        home / "placement",
        database=database_url,
        conflict_retries=DEFAULT_RETRIES,
        processes=2 if database_url else 1,
        threads=6,
    ) as service:
        database_url = database_url or f"sqlite:///{home / 'placement' / 'placement.sqlite'}"
        placement = HttpPlacement.noauth(service.url)
        cards = SimulatedCards(home / "cards", SystemClock())
        cards.behave(Behaviour(scale=1.0, jitter=0.2))
        _write_catalog(home / "catalog.yaml", pair, devices, uuid4().hex)
        catalog = load_catalog_file(home / "catalog.yaml")
        placement.ensure_resource_classes([RC])
        placement.ensure_traits(["CUSTOM_RACE_LEFT", "CUSTOM_RACE_RIGHT", "CUSTOM_RACE_CARD"])
        for device in catalog.devices:
            cards.add(device.name, function="left")
            made = placement.create_provider(device.provider, device.name)
            generation = placement.put_inventories(device.provider, made.generation, OPEN)
            placement.put_traits(
                device.provider, generation, ["CUSTOM_RACE_LEFT", "CUSTOM_RACE_CARD"]
            )
        database = Database(f"sqlite:///{home / 'changeover.sqlite'}")
        upgrade(database.url)
        allocators = Allocators(service.port)
        ambush = Ambushed(placement, allocators, 2, seed)
        driver = SimulatedDriver(cards, catalog)
        if pair.fence == "reserved":
            driver = ReportedDriver(cards, catalog, placement)
        world = World(
            database=database,
            placement=ambush,
            servers=NoServers(),  # type: ignore[arg-type]  # the steps ask it for hosts only
            programmers={"cards": driver},
            clock=SystemClock(),
            catalog=catalog,
            settings=Settings(
                state_dir=home, settle_seconds=settle, allow_short_settle=True,
                function_failures=10**6,
            ),
            owner=f"{socket.gethostname()[:20]}:races",
        )  # fmt: skip
        sync_catalog(world)
        try:
            yield Course(pair, home, database_url, service.port, world, ambush, allocators, cards)
        finally:
            allocators.close()
            database.dispose()


def _write_catalog(path: Path, pair: Pair, devices: int, salt: str) -> None:
    functions = {
        side: {
            "traits": [f"CUSTOM_RACE_{side.upper()}"], "resource_class": RC,
            "artifact": {"image": f"{side}.bit", "sha256": "0" * 64}, "fits": {"race": 1},
            "seconds": 0.05,
        }
        for side in ("left", "right")
    }  # fmt: skip
    owner = "changeover" if pair.fence == "removed" else "cyborg"
    data = {
        "programmers": {"cards": {"kind": "simulated"}},
        "models": {"race": {"programmer": "cards", "traits": ["CUSTOM_RACE_CARD"]}},
        "functions": functions,
        "devices": [
            {
                "name": f"d{n}", "provider": str(uuid5(NAMESPACE_URL, f"{salt}/{n}")),
                "model": "race", "host": f"host{n % 4}", "owner": owner,
            }
            for n in range(devices)
        ],
    }  # fmt: skip
    path.write_text(json.dumps(data), encoding="utf-8")


def run_pair(
    pair: Pair,
    home: Path,
    database_url: str,
    *,
    races: int,
    settle: float,
    seconds: float,
    expect_late: bool = False,
    stop_at_late: bool = False,
    devices: int = 12,
    seed: int = 1,
) -> Row:
    """Race until that many fences were raced, or the time is over.

    ``expect_late``: the guard is off, and the checker has to see allocations land behind fences
    (``stop_at_late``: one will do); else nothing may be programmed while it is in use.
    """
    row = Row(f"races {pair.name}" + (" unsettled" if settle == 0 else ""))
    started = time.monotonic()
    with course(pair, home, database_url, devices=devices, settle=settle, seed=seed) as ground:
        ends = Counter[str]()

        def enough() -> bool:
            if time.monotonic() - started > seconds:
                return True
            if stop_at_late and ground.late():
                return True
            return ground.ambush.outcomes.total() >= races

        def run_on(device: str) -> None:
            while not enough():
                ends[ground.race(device)] += 1

        names = [device.name for device in ground.world.catalog.devices]
        with ThreadPoolExecutor(devices) as pool:
            for done in [pool.submit(run_on, name) for name in names]:
                done.result()
        verdict = ground.verdict()
        row.rounds = ground.ambush.outcomes.total()
        row.faults = verdict.facts["late"]
        row.facts |= {
            "settle": settle,
            "outcomes": dict(ground.ambush.outcomes),
            "ends": dict(ends),
        }
        row.note = (
            f"settle {settle:g} s, {verdict.facts['late']} late allocations, "
            f"{ends['done']} done, {ends['abandoned']} abandoned, {ends['quarantined']} quarantined"
        )
        if not verdict.facts["granted"]:
            row.fails("no claim was ever granted: these were no races")
        if expect_late:
            row.facts |= {"found": len(verdict.violations), **verdict.facts}
            row.note += f"; {len(verdict.violations)} programmed in use"
            if not verdict.facts["late"] and pair.name in LEAKY:
                row.fails("no late allocation in any race: the race is none, or the checker")
        else:
            row.judged(verdict)
    row.took = time.monotonic() - started
    return row


def run(
    home: Path,
    *,
    pairs: Sequence[Pair] = PAIRS,
    races: int,
    settle: float,
    seconds: float,
    unsettled_seconds: float,
    seed: int = 1,
) -> list[Row]:
    """Every pair: first without settling, where the checker must find something; then with."""
    rows: list[Row] = []
    for database in dict.fromkeys(pair.database for pair in pairs):
        mine = [pair for pair in pairs if pair.database == database]
        with contextlib.ExitStack() as stack:
            try:
                url = stack.enter_context(mine[0].serve())
            except services.MissingError as error:
                rows.append(Row.missing(f"races {database}", error))
                continue
            fresh = fresh_databases(url)
            for pair in mine:
                if unsettled_seconds:
                    rows.append(
                        run_pair(
                            pair, home / f"{database}-{pair.fence}-0", fresh(), races=10**6,
                            settle=0.0, seconds=unsettled_seconds, expect_late=True, seed=seed,
                        )
                    )  # fmt: skip
                rows.append(
                    run_pair(
                        pair, home / f"{database}-{pair.fence}", fresh(), races=races,
                        settle=settle, seconds=seconds, seed=seed, devices=24,
                    )
                )  # fmt: skip
    return rows


def fresh_databases(url: str) -> Callable[[], str]:
    """A new database on the server each time; its URL in SQLAlchemy's form."""
    from sqlalchemy import create_engine, text  # noqa: PLC0415 - only where a server runs

    # Placement asks its driver for the last row's id, which psycopg 3 does not have.
    base = url.replace("postgresql://", "postgresql+psycopg2://", 1)
    numbers = itertools.count()

    def fresh() -> str:
        name = f"placement{next(numbers)}"
        engine = create_engine(base, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return base.rpartition("/")[0] + f"/{name}"

    return fresh
