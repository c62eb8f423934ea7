"""A cloud in memory with workers that can be stopped, killed or lied to at every boundary.

A *boundary* is a call of a port or a transaction, before and after its effect. A worker is a
world of its own on the same database and cloud, under its own lease name. What it may meet at its
boundaries is decided by its ``plan``: nothing, an error, a :class:`Crash`, or a pause in which
others work.
"""

from __future__ import annotations

import json
import logging
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast
from unittest.mock import patch
from uuid import UUID

import structlog
from sqlalchemy import Engine, select
from story.checker import Checker
from story.witness import Witness, WitnessedCards, WitnessedPlacement, WitnessedServers

from changeover.models.blueprint import Blueprint
from changeover.models.catalog import Catalog
from changeover.models.errors import ChangeoverError
from changeover.models.server_request import ServerRequest
from changeover.models.states import ChangeoverState
from changeover.models.tables import Base, HintRow
from changeover.policies import choose
from changeover.worker import intake, judge, operate
from changeover.worker.adapters.programmer_simulated import SimulatedDriver
from changeover.worker.carry_out import CarryOut, report
from changeover.worker.intake import Accepted, Intake
from changeover.worker.operate import Operator
from changeover.worker.ports.programmer import Entitled, ProgramResult, Reading, always
from changeover.worker.queues import ADVANCE, JUDGE, REBOOT, REFRESH
from changeover.worker.reboot import reboot
from changeover.worker.refresh import look, refresh, sync_catalog
from changeover.worker.settings import Settings
from changeover.worker.simulator import cards as cards_module
from changeover.worker.simulator import fleet as fleet_module
from changeover.worker.simulator.accelerators import SimulatedAccelerators
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.simulator.fleet import Shape, build_fleet, describe_fleet
from changeover.worker.simulator.requester import SimulatedRequester
from changeover.worker.simulator.wire import envelope
from changeover.worker.store import Database, Hint, Tx
from changeover.worker.submit import Submitted, Terms, submit
from changeover.worker.sweep import sweep
from changeover.worker.world import World

SMALL: Final = Shape(hosts=2, fpga_cards=4, gpus=1, dynamic_cards=1, regions=2)

BEFORE: Final = "before"
AFTER: Final = "after"

EFFECTS: Final = frozenset({
    "placement.put_inventories", "placement.put_traits", "placement.ensure_traits",
    "placement.ensure_resource_classes", "servers.create", "servers.link", "servers.delete",
    "programmer.program", "database.write", "courier.send", "clock.sleep",
})  # fmt: skip
"""Calls that change something: a crash after one differs from a crash before it."""


def _look_if_due(world: World) -> None:
    with world.database.write() as tx:
        due = tx.leases.due(REFRESH, world.clock.now(), world.settings.refresh_seconds)
    if due:
        look(world)


class Crash(BaseException):
    """The worker is gone: nothing that it would still do happens."""


Port = TypeVar("Port")

Plan = Callable[["Worker", str, str], None]
"""Consulted at each boundary with the moment and the call's name; may raise."""


@dataclass
class Worker:
    """One process: a world under its own lease name."""

    cloud: Cloud
    name: str
    plan: Plan | None = None
    trace: list[tuple[str, str]] = field(default_factory=list)
    dead: bool = False
    stalled: bool = False
    errors: list[ChangeoverError] = field(default_factory=list)
    _quiet: int = 0
    _world: World | None = None

    @property
    def world(self) -> World:
        """The world as this process sees it."""
        if self._world is None:
            self._world = self.cloud.world_of(self)
        return self._world

    def at(self, when: str, call: str) -> None:
        """A boundary."""
        if self._quiet:
            return
        if self.dead:
            raise Crash
        if when == AFTER and call not in EFFECTS:
            return
        self.trace.append((when, call))
        if self.plan is not None:
            with self.cloud.witness.acting(self.cloud.witness.actor):
                self.plan(self, when, call)
        if self.dead:
            raise Crash

    def die(self) -> None:
        """Be killed here."""
        self.dead = True
        raise Crash

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Without boundaries: what a thread of the process does in the background."""
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1

    def do(self, work: Callable[[World], Any]) -> Any:
        """Work as a Celery task does: what is raised on purpose is left to the sweep."""
        try:
            return work(self.world)
        except ChangeoverError as exc:
            self.errors.append(exc)
            return None
        except Crash:
            return None

    def take(self, hint: Hint) -> Any:
        """Take up a hint as the task of that name does."""
        if hint.task == JUDGE:
            return self.do(lambda world: judge.judge(world, hinted=True))
        if hint.task == ADVANCE:
            return self.do(lambda world: CarryOut(world).advance(hint.args[0], hint.queue))
        if hint.task == REBOOT:
            return self.do(lambda world: reboot(world, hint.args[0]))
        raise AssertionError(hint.task)

    def judge(self, *, floors: bool = False) -> Any:
        """One call of the planner."""
        return self.do(lambda world: judge.judge(world, balance=floors))

    def sweep(self) -> Any:
        """One sweep, and a look at the devices if it is time."""
        self.do(_look_if_due)
        return self.do(sweep)


class _Watched:
    """A port of which every call is a boundary of the worker."""

    def __init__(self, worker: Worker, port: str, target: Any) -> None:
        self._worker = worker
        self._port = port
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            worker, what = self._worker, f"{self._port}.{name}"
            worker.at(BEFORE, what)
            with worker.cloud.witness.acting(worker.name):
                answer = found(*args, **kwargs)
            worker.at(AFTER, what)
            return answer

        return call


def _watched(worker: Worker, port: str, target: Port) -> Port:
    return cast("Port", _Watched(worker, port, target))


class _Database(Database):
    """The cloud's database, with boundaries around each transaction."""

    def __init__(self, worker: Worker, shared: Database) -> None:
        self.url = shared.url
        self.engine = shared.engine
        self.target_of = shared.target_of
        self.worker = worker
        self.courier = self._send

    def _send(self, hints: Sequence[Hint]) -> None:
        self.worker.at(BEFORE, "courier.send")
        self.worker.cloud.hints.extend(hints)

    @contextmanager
    def write(self) -> Iterator[Tx]:
        self.worker.at(BEFORE, "database.write")
        with super().write() as tx:
            yield tx
        self.worker.at(AFTER, "database.write")

    @contextmanager
    def read(self) -> Iterator[Tx]:
        self.worker.at(BEFORE, "database.read")
        with super().read() as tx:
            yield tx


class _Clock:
    """The cloud's clock; a sleep is a boundary, background work is not done by the stalled."""

    def __init__(self, worker: Worker, clock: VirtualClock) -> None:
        self.worker = worker
        self.clock = clock

    def now(self) -> float:
        return self.clock.now()

    def sleep(self, seconds: float) -> None:
        self.worker.at(BEFORE, "clock.sleep")
        self.clock.sleep(seconds)
        self.worker.at(AFTER, "clock.sleep")

    @contextmanager
    def every(self, seconds: float, action: Callable[[], object]) -> Iterator[None]:
        def alive() -> None:
            if not (self.worker.dead or self.worker.stalled):
                with self.worker.quietly():
                    action()

        with self.clock.every(seconds, alive):
            yield


class BlindDriver(SimulatedDriver):
    """A driver that has no lock to show: whether a call is under way is not known."""

    def read(self, device: Any) -> Reading:
        return replace(super().read(device), busy=None)


class ReportedDriver(SimulatedDriver):
    """A driver that cannot read: what a card holds somebody else reports, some time later.

    As Cyborg: it has no lock to show either.
    """

    report_seconds = 20.0
    lag = 15.0

    def read(self, device: Any) -> Reading:
        inner = super().read(device)
        if not inner.readable and inner.busy is False:
            return inner
        lines = self._cards.journal(device.name)
        as_of = self._cards._clock.now() - self.lag
        held = [line["holds"] for line in lines if line["t"] <= as_of]
        function = held[-1] if held else ""
        return Reading(readable=True, function=function, busy=None, users=inner.users)


class HastyDriver(SimulatedDriver):
    """A driver that does not ask whether its caller is still entitled (a guard switched off)."""

    def program(
        self,
        device: Any,
        function: Any,
        token: str,
        entitled: Entitled = always,  # noqa: ARG002 - that it is not asked is the point
    ) -> ProgramResult:
        return super().program(device, function, token)


class Cloud:
    """Placement, cards, Nova, the database and the courier; close it after use."""

    def __init__(
        self,
        root: Path,
        *,
        shape: Shape = SMALL,
        resets: str = "self",
        driver: type[SimulatedDriver] = SimulatedDriver,
        pools: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._stack = ExitStack()
        _be_silent()
        self._ids = 0
        for module in (judge, intake, operate):
            self._stack.enter_context(patch.object(module, "uuid4", self.new_id))
        self._stack.enter_context(patch.object(cards_module, "PROBE_SECONDS", 0.0))
        self._stack.enter_context(patch.object(report, "POLLS", 2))
        # Plans have tests of their own; here a good one is as good as the best.
        self._stack.enter_context(patch.object(choose, "EFFORT", 200))
        self.clock = VirtualClock()
        self.witness = Witness(self.clock)
        self.root = root
        self.shape = shape
        self.driver = driver
        self.catalog = _catalog(shape, resets, json.dumps(pools) if pools is not None else None)
        self.settings = Settings(
            **{
                "patience_seconds": 600.0,
                "allow_short_settle": True,
                "state_dir": root,
                "log_level": "error",
                **settings,
            }
        )
        self.placement = WitnessedPlacement(self.witness)
        self.accelerators = SimulatedAccelerators(lambda: self.catalog)
        self.notifications: list[dict[str, Any]] = []
        self.servers = WitnessedServers(
            ":memory:",
            self.placement,
            self.clock,
            self.notifications.append,
            seed=1,
            accelerators=self.accelerators,
        )
        self.servers.witness = self.witness
        self._stack.callback(self.servers.close)
        self.cards = WitnessedCards(root / "cards", self.clock, self.witness)
        build_fleet(self.placement, None, self.servers, shape)
        initial = describe_fleet(shape).initial
        for device in self.catalog.devices:
            self.cards.add(
                device.name,
                function=initial[device.name],
                card=device.card,
                resets=self.catalog.models[device.model].resets,
            )
        self.database = Database("sqlite://")
        self.database.engine = _empty_engine()
        self.hints: list[Hint] = []
        self.database.courier = self.hints.extend
        self.workers: dict[str, Worker] = {}
        self.intake = Intake(self.database, self.clock, self.settings)
        self.operator = Operator(self.database, lambda: self.catalog, self.clock, "somebody")
        self.accepted: list[Accepted] = []
        self.servers_up: dict[str, bool] = {}
        self.users: dict[str, tuple[str, ...]] = {}
        self.touched_by_other: set[str] = set()
        self.killed_calls: set[str] = set()
        first = self.worker("first").world
        sync_catalog(first)
        refresh(first)
        self.clock.advance(60.0)
        self.witness.events.clear()
        self.checker = Checker(self)

    def new_id(self) -> UUID:
        """Ids in order instead of at random, so that a run can be repeated."""
        self._ids += 1
        return UUID(int=self._ids << 64 | 0xC0FFEE)

    def close(self) -> None:
        """Let go of everything."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- workers ----------------------------------------------------------------------------

    def worker(self, name: str) -> Worker:
        """The worker of that name; a dead one is replaced by a process of another name."""
        found = self.workers.get(name)
        if found is not None and found.dead:
            self.workers[f"{name}-dead-{len(self.workers)}"] = found
            found = None
        if found is None:
            found = self.workers[name] = Worker(self, f"{name}.{len(self.workers)}")
        return found

    def world_of(self, worker: Worker) -> World:
        """All ports, with boundaries."""
        clock = _Clock(worker, self.clock)
        cards = WitnessedCards(self.root / "cards", clock, self.witness)
        driver = self.driver(cards, self.catalog)
        return World(
            database=_Database(worker, self.database),
            placement=_watched(worker, "placement", self.placement),
            servers=_watched(worker, "servers", self.servers),
            programmers={"cards": _watched(worker, "programmer", driver)},
            clock=clock,
            catalog=self.catalog,
            settings=self.settings,
            owner=worker.name,
            accelerators=_watched(worker, "accelerators", self.accelerators),
        )

    # -- the outside ------------------------------------------------------------------------

    def device(self, name: str) -> Any:
        """The catalog's device of that name."""
        found = self.catalog.device(name)
        assert found is not None, name
        return found

    def set_host(self, host: str, *, up: bool) -> None:
        """A compute service goes down, or comes up."""
        self.servers.set_host(host, up=up)
        self.servers_up[host] = up

    def set_users(self, device: str, *users: str) -> None:
        """Use that only the driver sees."""
        self.cards.set_users(device, users)
        self.users[device] = users

    def note_killed_calls(self) -> None:
        """A caller is killed while it programs: the kernel ends its call."""
        running = [card.running for card in self.checker.cards.values()]
        self.killed_calls.update(token for token in running if token is not None)

    def hint_rows(self) -> list[str]:
        """Hints that the database still wants to send."""
        with self.database.read() as tx:
            return [row["key"] for row in tx.rows(select(HintRow.key))]

    def fail_boot(self, flavor: str, **kwargs: Any) -> list[str]:
        """A user boots, and what Nova tells of it is accepted."""
        servers = self.servers.boot("wanted", flavor, **kwargs)
        self.tell_all()
        return servers

    def request(self, flavor: str, count: int = 1) -> Submitted:
        """Somebody asks for servers that are created when they can succeed."""
        somebody = SimulatedRequester(self.servers, "demo", "alice")
        fields = {"name": "asked", "flavor": flavor, "image": "tiny", "networks": "auto"}
        asked = ServerRequest(Blueprint.parse(fields), count)
        terms = Terms(self.settings.patience_seconds)
        filters = self.settings.request_filters
        return submit(self.database, self.clock, somebody, asked, terms, filters)

    def tell_all(self) -> None:
        """Deliver every notification, in order."""
        while self.notifications:
            self.tell(self.notifications.pop(0))

    def tell(self, message: Mapping[str, Any]) -> Accepted:
        """Deliver one notification."""
        told = self.intake.accept(json.dumps(envelope(message)), "rabbitmq")
        self.accepted.append(told)
        return told

    # -- carrying on ------------------------------------------------------------------------

    def due(self) -> list[Hint]:
        """Hints that may be delivered now."""
        now = self.clock.now()
        return [hint for hint in self.hints if hint.due_at <= now]

    def deliver_due(self, worker: str = "calm") -> bool:
        """Deliver what is due, in order; whether there was anything."""
        due = self.due()
        for hint in due:
            self.hints.remove(hint)
            self.worker(worker).take(hint)
        return bool(due)

    def calm(self, *, seconds: float = 7_200.0, drop_hints: bool = False) -> None:
        """Carry on without any fault until nothing is left to be done.

        With ``drop_hints`` all that is out is lost, and the sweep has to find everything.
        """
        if drop_hints:
            self.hints.clear()
        end = self.clock.now() + seconds
        idle = 0
        step = 5.0
        while idle < 3:
            self.servers.servers()  # what was asked for late is done, whoever looks
            self.tell_all()
            worker = self.worker("calm")
            found = worker.sweep() or {}
            # Where nothing is found, time may pass faster: most of it is waiting.
            step = 5.0 if any(found.values()) else min(40.0, step * 1.5)
            for _ in range(200):
                if not self.deliver_due():
                    break
                step = 5.0
            else:
                keys = [hint.key for hint in self.due()]
                raise AssertionError(f"hints breed hints without end: {keys} {self.describe()}")
            self.tell_all()
            idle = idle + 1 if self._settled() else 0
            now = self.clock.now()
            assert now < end, f"not calm after {seconds} s: {self.describe()}"
            self.clock.advance(self._step(step))
            self.checker.rows()

    def _step(self, most: float) -> float:
        """To the next hint, or to the next sweep."""
        now = self.clock.now()
        coming = [hint.due_at - now for hint in self.hints if hint.due_at > now]
        return max(0.01, min([most, *coming]))

    def _settled(self) -> bool:
        if self.hint_rows():
            return False
        with self.database.read() as tx:
            moving = [
                c for c in tx.changeovers.live() if c.state is not ChangeoverState.QUARANTINED
            ]
            return not (moving or tx.boots.listed(over=False, limit=1) or self.notifications)

    def describe(self) -> str:
        """The rows, for a failure's message."""
        with self.database.read() as tx:
            lines = [
                f"changeover {c.id[:8]} {c.state} {c.from_function}->{c.to_function} on "
                f"{self.catalog.device(c.device)!r:.60} tries={c.tries} "
                f"due={c.due_at - self.clock.now():.1f} {c.lease_owner}: {c.reason.text}"
                for c in tx.changeovers.latest(12)
            ]
            lines += [
                f"boot {b.id[:8]} {b.state} attempt={b.attempt} of {str(b.server)[:8]} "
                f"wake={b.wake_at - self.clock.now():.1f} {b.lease_owner}: {b.reason.text}"
                for b in tx.boots.listed(over=None, limit=12)
            ]
            lines += [f"promise {p}" for p in tx.boots.promises()]
            lines += [f"fence {f.provider} of {f.changeover[:8]}" for f in tx.fences.all()]
        return "\n".join(["", *lines])


@cache
def _catalog(shape: Shape, resets: str, pools: str | None) -> Catalog:
    data = fleet_module._catalog(shape)
    data["models"]["u250-region"]["resets"] = resets
    if pools is not None:
        data["pools"] = json.loads(pools)
    return Catalog.model_validate(data)


@cache
def _be_silent() -> None:
    """Nobody reads a log line of a thousand runs; formatting them costs half of the time."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        cache_logger_on_first_use=False,
    )


@cache
def _engine() -> tuple[Engine, bytes]:
    """One engine for all clouds, as compiled statements are kept by it; and the empty schema."""
    made = Database("sqlite://").engine
    Base.metadata.create_all(made)
    raw = made.raw_connection()
    schema: bytes = cast("sqlite3.Connection", raw.driver_connection).serialize()
    raw.close()
    return made, schema


def _empty_engine() -> Engine:
    engine, schema = _engine()
    raw = engine.raw_connection()
    cast("sqlite3.Connection", raw.driver_connection).deserialize(schema)
    raw.close()
    return engine


class Stepper:
    """Runs workers' calls in turns: each goes on only when it is told to, and how far."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._runs: list[_Run] = []

    def start(self, worker: Worker, work: Callable[[], object]) -> _Run:
        """A call that waits to be stepped."""
        run = _Run(worker, work)
        self._runs.append(run)
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            run.kill()


class _Run:
    """A worker's call in a thread; exactly one of it and its caller runs at any time."""

    def __init__(self, worker: Worker, work: Callable[[], object]) -> None:
        self.worker = worker
        self.work = work
        self.over = False
        self.error: BaseException | None = None
        self.passed = 0
        self._left: float = 0
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._inner = worker.plan
        worker.plan = self._at
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        self._go.acquire()
        try:
            if not self.worker.dead:
                self.work()
        except BaseException as exc:  # noqa: BLE001 - handed to the caller of step()
            self.error = exc
        finally:
            self.over = True
            self.worker.plan = self._inner
            self._back.release()

    def _at(self, worker: Worker, when: str, call: str) -> None:
        self.passed += 1
        self._left -= 1
        if self._left < 0:
            actor = worker.cloud.witness.actor
            self._back.release()
            self._go.acquire()
            worker.cloud.witness.actor = actor
        if self._inner is not None:
            self._inner(worker, when, call)

    def step(self, boundaries: float = float("inf")) -> bool:
        """Let it pass so many boundaries, and stop at the next; whether it is not over yet."""
        if self.over:
            return False
        self._left = boundaries
        actor = self.worker.cloud.witness.actor
        self.worker.stalled = False
        self._go.release()
        self._back.acquire()
        self.worker.stalled = not self.over
        self.worker.cloud.witness.actor = actor
        if self.error is not None:
            raise self.error
        return not self.over

    def step_calls(self, calls: int) -> bool:
        """Let it go on until it is about to make the ``calls``-th call from here; as :meth:`step`.

        Right after an effect is no place of its own: nothing happens until the next call.
        """
        while calls and self.step(0):
            calls -= self.worker.trace[-1][0] == BEFORE
        return not self.over

    def kill(self) -> None:
        """End it, wherever it is."""
        if not self.over:
            self.worker.dead = True
            self.step()
        self._thread.join(10)


def seeded(seed: int) -> random.Random:
    """Chance that repeats."""
    return random.Random(seed)
