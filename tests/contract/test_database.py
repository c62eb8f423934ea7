"""The store keeps its promises on SQLite and on PostgreSQL alike, whoever races whom."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
import services
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, insert, inspect, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError

from changeover.models.boot import Boot, BootPromise
from changeover.models.callback import Callback
from changeover.models.catalog import Catalog, FoundDevice
from changeover.models.changeover import Changeover, Fence
from changeover.models.errors import AskOperator, Busy, Reread, Retry, Unreachable
from changeover.models.keep import Keep
from changeover.models.placement import Inventory, ProviderState, RequestGroup, ResourceRequest
from changeover.models.reasons import Reason
from changeover.models.reservation import Reservation, ReservationRecord
from changeover.models.states import (
    BOOT_OVER,
    BOOT_TRANSITIONS,
    CHANGEOVER_LIVE,
    CHANGEOVER_MOVING,
    CHANGEOVER_TRANSITIONS,
    BootState,
    CallbackState,
    ChangeoverState,
    FoundState,
    IllegalTransition,
    PlanState,
    TaskState,
)
from changeover.models.tables import (
    Base,
    BootRow,
    CallbackRow,
    ChangeoverRow,
    DeviceRow,
    FenceRow,
    KeepRow,
    ReservationRow,
)
from changeover.models.task import Task
from changeover.worker import migrate
from changeover.worker.cancel import cancel_boot
from changeover.worker.carry_out.boots import wake_served
from changeover.worker.intake import Accepted, Intake
from changeover.worker.settings import Settings
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.simulator.fleet import Shape, describe_fleet
from changeover.worker.store import Database, Hint, Tx
from changeover.worker.store.discovered import DiscoveredRecord
from changeover.worker.store.engine import engine_for
from changeover.worker.store.hints import MOST_PATIENCE
from changeover.worker.store.session import columns_of

T = TypeVar("T")
_C = ChangeoverState
_B = BootState

NOW = 1_795_416_644.515492
"""A time with as many digits as real ones have."""

WHY = Reason(
    "test.why", "because of the ünïcode ☃", {"n": 1, "deep": [{"x": None}], "\\u0000": "\\"}
)
REQUEST = ResourceRequest(
    groups=(
        RequestGroup(resources={"MEMORY_MB": 64, "VCPU": 1}),
        RequestGroup(
            suffix="1",
            resources={"CUSTOM_FPGA": 1},
            required=frozenset({"CUSTOM_A", "CUSTOM_B"}),
            any_of=(frozenset({"CUSTOM_C", "CUSTOM_D"}),),
        ),
    ),
    hosts=("host1", "host2"),
)


def boot(**changes: Any) -> Boot:
    made = Boot(
        id=str(uuid4()),
        server=str(uuid4()),
        project="p" * 64,
        user="u",
        name="größe",
        group_id="req-1",
        request=REQUEST,
        request_key=REQUEST.key,
        device_profile=None,
        state=_B.RECEIVED,
        reason=WHY,
        priority=1.0,
        failed_at=NOW,
        received_at=NOW,
        expires_at=NOW + 3600,
        wake_at=NOW,
        attempt=0,
    )
    return replace(made, **changes)


def changeover(**changes: Any) -> Changeover:
    made = Changeover(
        id=str(uuid4()),
        device=str(uuid4()),
        host="host1",
        from_function=None,
        to_function="aes",
        kind="boot",
        subject=None,
        plan_id=None,
        state=_C.PLANNED,
        reason=WHY,
        priority=1.0,
        created_at=NOW,
        updated_at=NOW,
        due_at=NOW,
        tries=0,
        failures=0,
        cancel=False,
    )
    return replace(made, **changes)


def task(**changes: Any) -> Task:
    made = Task(
        id=str(uuid4()),
        function="aes",
        device=None,
        host=None,
        count=2,
        when="idle",
        priority=1.0,
        state=TaskState.QUEUED,
        reason=WHY,
        done=0,
        created_at=NOW,
        created_by="operator",
    )
    return replace(made, **changes)


# ---------------------------------------------------------------- databases


@dataclass
class Place:
    """One kind of database: ``empty`` makes one without, ``migrated`` one with the schema."""

    kind: str
    empty: Callable[[], str]
    migrated: Callable[[], str]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    copies = itertools.count()
    if request.param == "sqlite":
        folder = tmp_path_factory.mktemp("databases")
        migrate.upgrade(f"sqlite:///{folder}/template")

        def empty_file() -> str:
            return f"sqlite:///{folder}/db{next(copies)}.sqlite"

        def migrated_file() -> str:
            url = empty_file()
            shutil.copy(folder / "template", url.removeprefix("sqlite:///"))
            return url

        yield Place("sqlite", empty_file, migrated_file)
        return

    server = make_url(request.getfixturevalue("postgres_url"))
    run = uuid4().hex[:8]
    admin = Database(server.render_as_string(hide_password=False))

    def empty_database() -> str:
        name = f"t{run}_{next(copies)}"
        with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        return server.set(database=name).render_as_string(hide_password=False)

    # One for all tests, emptied before each: making one takes long, and much of the disk.
    url = empty_database()
    migrate.upgrade(url)
    shared = Database(url)

    def emptied_database() -> str:
        with shared.write() as tx:
            for table in reversed(Base.metadata.sorted_tables):
                tx.connection.execute(table.delete())
        return url

    yield Place("postgresql", empty_database, emptied_database)
    shared.dispose()
    admin.dispose()


@pytest.fixture
def database(place: Place) -> Iterator[Database]:
    found = Database(place.migrated())
    yield found
    found.dispose()


def race(calls: Sequence[Callable[[], T]]) -> list[T]:
    """All calls at once, each in a thread of its own; their answers in order."""
    barrier = threading.Barrier(len(calls))

    def start(call: Callable[[], T]) -> T:
        barrier.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(start, calls))


def overlap(database: Database, first: Callable[[Tx], T], second: Callable[[Tx], T]) -> list[T]:
    """``first`` is done and not committed, as ``second`` goes as far as it can before that."""

    def alone() -> T:
        with database.write() as tx:
            return second(tx)

    with ThreadPoolExecutor(1) as pool, database.engine.connect() as observer:
        with database.write() as tx:
            one = first(tx)
            other = pool.submit(alone)
            # SQLite has one writer at a time: the second has not even begun.
            waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            while database.engine.dialect.name == "postgresql" and not other.done():
                if observer.execute(waits).scalar_one():
                    break
        return [one, other.result()]


def store(database: Database, *values: Boot | Changeover) -> None:
    with database.write() as tx:
        for value in values:
            if isinstance(value, Boot):
                assert tx.boots.add(value)
            else:
                tx.changeovers.add(value)


# ---------------------------------------------------------------- migrations


def test_migrations_make_what_the_tables_say(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []
        found = inspect(connection)
        assert set(found.get_table_names()) == {*Base.metadata.tables, "alembic_version"}
        for table in Base.metadata.tables.values():
            names = {key["name"] for key in found.get_foreign_keys(table.name)}
            assert names == {key.name for key in table.foreign_key_constraints}


def test_upgrading_says_from_where_to_where(place: Place) -> None:
    url = place.empty()
    database = Database(url)
    try:
        with pytest.raises(AskOperator, match=r"at revision none.*changeover db upgrade"):
            migrate.require_current(database)
        assert migrate.upgrade(url) == (None, migrate.head())
        assert migrate.upgrade(url) == (migrate.head(), migrate.head())
        migrate.require_current(database)
        command.downgrade(migrate._config(url), "base")
        with database.engine.connect() as connection:
            assert inspect(connection).get_table_names() == ["alembic_version"]
        assert migrate.upgrade(url) == (None, migrate.head())
    finally:
        database.dispose()


UPGRADE = "import sys; from changeover.worker.migrate import upgrade; upgrade(sys.argv[1])"


def test_two_upgrades_at_once(place: Place) -> None:
    """``changeover up`` on two hosts: both come through, or one says so and can be repeated."""
    url = place.empty()
    runs = [
        subprocess.Popen([sys.executable, "-c", UPGRADE, url], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert migrate.current(url) == migrate.head()


def test_rows_survive_that_sqlite_rebuilds_a_table(database: Database) -> None:
    """What refers to a row must not go with the table when it is rebuilt."""
    store(database, one := boot())
    with database.write() as tx:
        tx.boots.promise(BootPromise(one.id, str(uuid4()), 1, None, None))
    database.dispose()
    migrate.upgrade(database.url)
    with database.read() as tx:
        assert len(tx.boots.promises(boot=one.id)) == 1


# ---------------------------------------------------------------- what goes in comes out


def test_every_value_comes_back_the_same(database: Database) -> None:
    one = boot(
        device_profile="fpga-aes",
        attempt=3,
        successor=str(uuid4()),
        sent_at=NOW + 1e-6,
        priority=0.1 + 0.2,
        lease_owner="w1",
        lease_until=NOW + 15,
    )
    two = changeover(from_function="gzip", subject=str(uuid4()), token="t", sent_at=NOW, tries=2)  # noqa: S106 - a made-up token of a driver's call
    three = task(device=str(uuid4()), host="h", when="now-or-fail", done=1)
    before = ProviderState(
        str(uuid4()), 7, {"CUSTOM_FPGA": Inventory(total=2, reserved=1)}, frozenset({"A", "B"})
    )
    with database.write() as tx:
        assert tx.boots.add(one)
        tx.changeovers.add(two)
        tx.tasks.add(three)
        tx.fences.add([before.uuid], two.id)
        tx.fences.journal(Fence(before.uuid, two.id, before, 7, NOW))
        tx.boots.promise(BootPromise(one.id, two.device, 2, two.id, NOW))
    with database.read() as tx:
        found = tx.boots.get(one.id)
        assert found == one
        assert tx.changeovers.get(two.id) == two
        assert tx.tasks.get(three.id) == three
        assert tx.fences.all() == [Fence(before.uuid, two.id, before, 7, NOW)]
        assert tx.boots.promises() == [BootPromise(one.id, two.device, 2, two.id, NOW)]
        assert tx.boots.get("nosuch") is None
        assert tx.changeovers.get("nosuch") is None
        assert tx.tasks.get("nosuch") is None


def test_a_transaction_is_all_or_nothing_and_hints_wait_for_its_commit(database: Database) -> None:
    sent: list[Sequence[Hint]] = []
    committed: list[bool] = []
    one, two = boot(), boot()

    def courier(hints: Sequence[Hint]) -> None:
        with database.read() as tx:  # it is there by now for whoever takes the hint
            committed.append(tx.boots.get(two.id) is not None)
        sent.append(hints)

    database.courier = courier
    with pytest.raises(RuntimeError), database.write() as tx:  # noqa: PT012 - the transaction is what raises
        tx.boots.add(one)
        tx.hints.add("t", 1, queue="q", now=NOW)
        raise RuntimeError
    assert sent == []
    with database.read() as tx:
        assert tx.boots.get(one.id) is None
    with database.write() as tx:
        tx.boots.add(two)
        tx.hints.add("t", 1, queue="q", now=NOW)
    assert [[h.key for h in hints] for hints in sent] == [["t:1"]]
    assert committed == [True]
    with database.write() as tx:
        tx.boots.wake(NOW)
    assert len(sent) == 1


# ---------------------------------------------------------------- one live changeover a device


def raw(value: Changeover) -> Any:
    return insert(ChangeoverRow).values(**columns_of(value))


@pytest.mark.parametrize("state", sorted(CHANGEOVER_LIVE))
def test_the_database_itself_refuses_a_second_live_changeover(
    database: Database, state: ChangeoverState
) -> None:
    first = changeover(state=state)
    with database.write() as tx:
        tx.connection.execute(raw(first))
    for other in sorted(CHANGEOVER_LIVE):
        with pytest.raises(IntegrityError), database.write() as tx:
            tx.connection.execute(raw(changeover(device=first.device, state=other)))
    with pytest.raises(Busy, match=first.device), database.write() as tx:
        tx.changeovers.add(changeover(device=first.device))
    with database.write() as tx:
        for ended in set(_C) - CHANGEOVER_LIVE:
            for _ in range(2):
                tx.connection.execute(raw(changeover(device=first.device, state=ended)))
        tx.changeovers.add(changeover())
    with database.read() as tx:
        assert tx.changeovers.live_of_device(first.device) == first
        assert tx.changeovers.counts()[_C.DONE] == 2


def test_nor_can_one_that_was_over_come_to_life_beside_another(database: Database) -> None:
    live, over = changeover(), changeover(state=_C.DONE)
    with database.write() as tx:
        tx.connection.execute(raw(live))
        tx.connection.execute(raw(replace(over, device=live.device)))
    with pytest.raises(IntegrityError), database.write() as tx:
        tx.connection.execute(
            update(ChangeoverRow).where(ChangeoverRow.id == over.id).values(state=_C.PLANNED)
        )


def test_busy_leaves_the_rest_of_the_transaction_alone(database: Database) -> None:
    """A planner starts many in one transaction: one that lost a race is not to spoil the others."""
    first = changeover()
    others = [changeover(), changeover()]
    store(database, first)
    with database.write() as tx:
        tx.changeovers.add(others[0])
        with pytest.raises(Busy):
            tx.changeovers.add(changeover(device=first.device))
        tx.changeovers.add(others[1])
    with database.read() as tx:
        assert {c.id for c in tx.changeovers.live()} == {first.id, *(c.id for c in others)}


def test_many_planners_start_one(database: Database) -> None:
    device = str(uuid4())

    def plan() -> bool:
        try:
            with database.write() as tx:
                tx.changeovers.add(changeover(device=device))
        except Busy:
            return False
        return True

    assert sorted(race([plan] * 8)) == [False] * 7 + [True]


# ---------------------------------------------------------------- fences


def test_a_provider_is_fenced_by_one_changeover_only(database: Database) -> None:
    one, two = changeover(), changeover()
    store(database, one, two)
    shared, own = sorted(str(uuid4()) for _ in range(2))
    with database.write() as tx:
        tx.fences.add([shared], one.id)
    with database.write() as tx, pytest.raises(Busy, match=shared):
        tx.fences.add([own, shared], two.id)
    with pytest.raises(IntegrityError), database.write() as tx:
        tx.connection.execute(insert(FenceRow).values(provider=shared, changeover=two.id))
    with pytest.raises(IntegrityError), database.write() as tx:
        tx.connection.execute(insert(FenceRow).values(provider=str(uuid4()), changeover="nosuch"))
    with database.write() as tx:
        with pytest.raises(Reread):
            tx.fences.journal(Fence(shared, two.id, None, 1, None))
        tx.fences.drop(one.id)
        with pytest.raises(Reread):
            tx.fences.journal(Fence(shared, one.id, None, 1, None))
        tx.fences.add([shared], two.id)
        assert [f.provider for f in tx.fences.of(two.id)][-1] == shared
        assert tx.fences.of(one.id) == []


# ---------------------------------------------------------------- claims and leases


@pytest.mark.parametrize("what", ["boot", "changeover"])
def test_one_of_many_wins_a_claim(database: Database, what: str) -> None:
    one, two = boot(state=_B.READY), changeover()
    store(database, one, two)

    def claim(owner: str, now: float) -> bool:
        with database.write() as tx:
            if what == "boot":
                return tx.boots.claim(one.id, {_B.READY}, owner, now, 15.0) is not None
            return tx.changeovers.claim(two.id, owner, now, 15.0) is not None

    for moment in (NOW, NOW + 15.1):  # free at first, then lapsed
        won = race([lambda k=k, at=moment: claim(f"w{k}", at) for k in range(12)])  # type: ignore[misc]  # bound at once
        assert sum(won) == 1, moment
        assert not claim("late", moment + 14.9)


CLAIMER = """
import sys
from changeover.models.states import BootState
from changeover.worker.store import Database
database = Database(sys.argv[1])
with database.read() as tx:
    ids = [b.id for b in tx.boots.in_states([BootState.READY])]
print("ready", flush=True)
sys.stdin.readline()
for boot_id in ids:
    with database.write() as tx:
        if tx.boots.claim(boot_id, {BootState.READY}, sys.argv[2], float(sys.argv[3]), 15.0):
            print(boot_id)
"""


def test_each_of_many_boots_is_claimed_by_one_process(database: Database) -> None:
    boots = [boot(state=_B.READY) for _ in range(60)]
    store(database, *boots)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", CLAIMER, database.url, f"w{k}", str(NOW)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for k in range(2)
        ]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        won = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert sorted(itertools.chain(*won)) == sorted(b.id for b in boots)


@pytest.mark.parametrize(
    ("change", "now"),
    [
        ({"due_at": NOW + 1}, NOW),
        ({"lease_owner": "other", "lease_until": NOW}, NOW),
        ({"state": _C.QUARANTINED}, NOW),
        ({"state": _C.DONE}, NOW),
    ],
)
def test_what_is_not_to_be_claimed(database: Database, change: dict[str, Any], now: float) -> None:
    one = changeover(**change)
    store(database, one)
    with database.write() as tx:
        assert tx.changeovers.claim(one.id, "me", now, 15.0) is None
        assert tx.changeovers.claim("nosuch", "me", now, 15.0) is None
        assert tx.changeovers.stuck(now) == []
    with database.read() as tx:
        assert tx.changeovers.get(one.id) == one


def test_a_boot_is_claimed_in_its_state_and_time_only(database: Database) -> None:
    one = boot(state=_B.READY, wake_at=NOW)
    store(database, one)
    with database.write() as tx:
        assert tx.boots.claim(one.id, {_B.WAITING, _B.CREATING}, "w", NOW, 15.0) is None
        assert tx.boots.claim(one.id, {_B.READY}, "w", NOW - 1, 15.0) is None
        assert tx.boots.claim(one.id, {_B.READY}, "w", NOW, 15.0) is not None
        tx.boots.renew([one.id], "thief", NOW + 100)
        tx.boots.release(one.id, "thief")
        assert tx.boots.claim(one.id, {_B.READY}, "x", NOW + 15, 15.0) is None
        tx.boots.renew([one.id], "w", NOW + 30)
        assert tx.boots.claim(one.id, {_B.READY}, "x", NOW + 30, 15.0) is None
        tx.boots.release(one.id, "w")
        assert tx.boots.claim(one.id, {_B.READY}, "x", NOW, 15.0) is not None


def test_the_lease_of_a_changeover(database: Database) -> None:
    one = changeover()
    store(database, one)
    with database.write() as tx:
        mine = tx.changeovers.claim(one.id, "me", NOW, 15.0)
        assert mine is not None
        assert not tx.changeovers.renew(one.id, "thief", NOW + 99)
        tx.changeovers.release(one.id, "thief")
        assert tx.changeovers.stuck(NOW + 15) == []
        assert [c.id for c in tx.changeovers.stuck(NOW + 15.1)] == [one.id]
        assert tx.changeovers.renew(one.id, "me", NOW + 30)
        assert tx.changeovers.stuck(NOW + 15.1) == []
        theirs = tx.changeovers.claim(one.id, "thief", NOW + 30.1, 15.0)
        assert theirs is not None
        # It was taken over: whatever the first one still believes, it changes nothing any more.
        assert not tx.changeovers.renew(one.id, "me", NOW + 99)
        with pytest.raises(Reread):
            tx.changeovers.move(mine, _C.FENCING, NOW)
        with pytest.raises(Reread):
            tx.changeovers.note(mine, NOW, tries=7)
        with pytest.raises(Reread):  # as one without a lease
            tx.changeovers.move(one, _C.FENCING, NOW)
        moved = tx.changeovers.move(theirs, _C.FENCING, NOW + 31, failures=0)
        assert moved.lease_owner == "thief"
        with pytest.raises(Reread):  # it is FENCING by now
            tx.changeovers.note(theirs, NOW, tries=7)
        assert tx.changeovers.note(moved, NOW + 32, tries=7).tries == 7
        tx.changeovers.release(one.id, "thief")
        assert tx.changeovers.claim(one.id, "me", NOW + 32, 15.0) is not None


def test_only_one_holds_a_lease(database: Database) -> None:
    def acquire(owner: str, now: float) -> bool:
        with database.write() as tx:
            return tx.leases.acquire("plan", owner, now, 15.0)

    won = race([lambda k=k: acquire(f"w{k}", NOW) for k in range(8)])  # type: ignore[misc]  # bound at once
    assert sum(won) == 1
    holder = f"w{won.index(True)}"
    with database.write() as tx:
        assert tx.leases.acquire("plan", holder, NOW + 1, 15.0)  # its own, again
        assert not tx.leases.acquire("plan", "other", NOW + 16, 15.0)
        assert not tx.leases.renew("plan", "other", NOW + 99)
        tx.leases.release("plan", "other")
        assert not tx.leases.acquire("plan", "other", NOW + 16, 15.0)
        assert tx.leases.renew("plan", holder, NOW + 20)
        assert not tx.leases.acquire("plan", "other", NOW + 20, 15.0)
        assert tx.leases.acquire("plan", "other", NOW + 20.1, 15.0)
        assert not tx.leases.renew("plan", holder, NOW + 99)
        tx.leases.release("plan", "other")
        assert tx.leases.acquire("sweep", "other", NOW, 15.0)
        assert tx.leases.acquire("plan", "third", NOW, 15.0)


def test_of_many_beats_one_counts(database: Database) -> None:
    def beat(now: float) -> bool:
        with database.write() as tx:
            return tx.leases.due("sweep", now, 5.0)

    for tick in range(6):
        won = race([lambda t=tick: beat(NOW + t * 2.5)] * 6)  # type: ignore[misc]  # bound at once
        assert sum(won) == (tick % 2 == 0), tick
    assert not beat(NOW + 12.5)
    with database.write() as tx:
        assert tx.leases.due("balance", NOW, 5.0)  # another job's time is its own
    assert beat(NOW + 86_400.0)  # by a clock that is a day ahead
    assert beat(NOW + 15.0)
    assert not beat(NOW + 15.0)


# ---------------------------------------------------------------- hints


def test_a_hint_is_sent_once_until_it_is_taken(database: Database) -> None:
    sent: list[Hint] = []
    database.courier = sent.extend

    def add(now: float, due_at: float | None = None, *args: Any) -> int:
        before = len(sent)
        with database.write() as tx:
            tx.hints.add("t", *args, queue="q", now=now, due_at=due_at)
        return len(sent) - before

    assert add(NOW) == 1
    assert add(NOW) == 0
    assert add(NOW + 0.5) == 0
    assert add(NOW, None, "x") == 1  # other work
    with database.write() as tx:
        tx.hints.take("t")
        tx.hints.take("t")
        tx.hints.take("nosuch")
    assert add(NOW + 6) == 1
    assert [h.key for h in sent] == ["t", "t:x", "t"]
    assert sent[1].args == ("x",)


def test_an_earlier_hint_wins_over_a_later_one(database: Database) -> None:
    sent: list[Hint] = []
    database.courier = sent.extend
    for due in (NOW + 60, NOW + 90, NOW + 30, NOW + 30):
        with database.write() as tx:
            tx.hints.add("t", 1, queue="q", now=NOW, due_at=due)
    assert [h.due_at - NOW for h in sent] == pytest.approx([60, 30])


def test_a_hint_that_was_lost_is_sent_again_at_once(database: Database) -> None:
    """Also when the same work is announced for later: it was due before."""
    sent: list[Hint] = []
    database.courier = sent.extend

    def add(now: float, due_at: float) -> list[float]:
        sent.clear()
        with database.write() as tx:
            tx.hints.add("t", 1, queue="q", now=now, due_at=due_at)
        return [h.due_at for h in sent]

    assert add(NOW, NOW) == [NOW]
    assert add(NOW + 0.5, NOW + 60) == []  # on its way
    assert add(NOW + 5, NOW + 60) == [NOW + 5]
    assert add(NOW + 5.5, NOW + 60) == []
    assert add(NOW + 10, NOW + 9) == []  # as patient again as it was already
    assert add(NOW + 12, NOW + 11) == [NOW + 11]
    with database.write() as tx:
        assert tx.hints.take("t", 1)
        assert not tx.hints.take("t", 1)
    assert add(NOW + 10, NOW + 70) == [NOW + 70]


def test_hints_that_nobody_took_are_sent_again_now_and_then(database: Database) -> None:
    with database.write() as tx:
        for k in range(5):
            tx.hints.add("t", k, queue=f"q{k}", now=NOW, due_at=NOW + k)
    with database.write() as tx:
        assert tx.hints.overdue(NOW, NOW + 10, 10) == []
        first = tx.hints.overdue(NOW + 2.5, NOW + 10, 2)
        assert sorted(h.args for h in first) == [(0,), (1,)]
        assert {h.queue for h in first} == {"q0", "q1"}
        assert {h.due_at for h in first} == {NOW + 10}
        assert [h.args for h in tx.hints.overdue(NOW + 2.5, NOW + 10, 10)] == [(2,)]
        assert tx.hints.overdue(NOW + 2.5, NOW + 10, 10) == []
        assert [h.args for h in tx.hints.overdue(NOW + 10.1, NOW + 20, 10)] == [(3,), (4,)]
        assert len(tx.hints.overdue(NOW + 20.1, NOW + 30, 10)) == 3


def test_hints_that_wait_their_turn_are_not_sent_over_and_over(database: Database) -> None:
    """Sweeps every half second for ten minutes, as in a storm: few copies, never far apart."""
    with database.write() as tx:
        tx.hints.add("t", queue="q", now=NOW)
    at = []
    for tick in range(1200):
        now = NOW + tick / 2
        with database.write() as tx:
            at += [now - NOW for _ in tx.hints.overdue(now - 2.0, now, 10)]
    assert len(at) < 40
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *at])]
    assert gaps[0] <= 3.0
    assert max(gaps) <= MOST_PATIENCE + 3.0


def test_many_that_announce_the_same_work_send_one_hint(database: Database) -> None:
    sent: list[Hint] = []
    database.courier = sent.extend

    def add() -> None:
        with database.write() as tx:
            tx.hints.add("judge", queue="q", now=NOW)

    race([add] * 8)
    assert len(sent) == 1


# ---------------------------------------------------------------- boots


def test_a_server_has_one_boot(database: Database) -> None:
    one = boot()
    store(database, one)
    with database.write() as tx:
        assert not tx.boots.add(boot(server=one.server))
        assert not tx.boots.add(replace(one))
        assert not tx.boots.add(replace(one, server=str(uuid4())))
        assert [b.id for b in tx.boots.in_states([_B.RECEIVED])] == [one.id]
        assert [row["action"] for row in tx.audit.of(one.id)] == ["boot.received"]


def test_many_listeners_make_one_boot(database: Database) -> None:
    server = str(uuid4())

    def add() -> bool:
        with database.write() as tx:
            return tx.boots.add(boot(server=server))

    assert sum(race([add] * 8)) == 1


def test_the_boot_of_a_server_is_that_of_which_it_is_the_successor(database: Database) -> None:
    """Its failure may have been told before the create was answered: then it has one of its own."""
    successor = str(uuid4())
    for _ in range(4):  # in either order of rows
        server = str(uuid4())
        rows = [boot(server=server), boot(state=_B.BUILDING, successor=server)]
        for first, second in (rows, rows[::-1]):
            store(database, first, second)
            with database.write() as tx:
                found = tx.boots.of_server(server)
                assert found is not None
                assert found.successor == server
                assert tx.boots.of_successor(server) == found
                tx.connection.execute(BootRow.__table__.delete())
    with database.read() as tx:
        assert tx.boots.of_server(successor) is None


@pytest.mark.parametrize("old", sorted(_B))
def test_only_the_tables_moves_are_made(database: Database, old: BootState) -> None:
    for new in _B:
        one = boot(state=old)
        store(database, one)
        with database.write() as tx:
            if new not in BOOT_TRANSITIONS[old]:
                with pytest.raises(IllegalTransition):
                    tx.boots.move(one, new, NOW)
                assert tx.boots.get(one.id) == one
                continue
            moved = tx.boots.move(one, new, NOW + 1, reason=Reason("x.y", "z"), attempt=4)
            assert (moved.state, moved.reason.code, moved.attempt) == (new, "x.y", 4)
            assert moved.finished_at == (NOW + 1 if new in BOOT_OVER else None)
            assert tx.boots.get(one.id) == moved
            deeds = [row["action"] for row in tx.audit.of(one.id)]
            assert deeds == ["boot.received", *([f"boot.{new}"] if new is not old else [])]


@pytest.mark.parametrize("old", sorted(_C))
def test_only_the_tables_changes_of_a_changeover_are_made(
    database: Database, old: ChangeoverState
) -> None:
    for new in _C:
        one = changeover(state=old, lease_owner="w", lease_until=NOW + 15, failures=3)
        store(database, one)
        with database.write() as tx:
            if new not in CHANGEOVER_TRANSITIONS[old]:
                with pytest.raises(IllegalTransition):
                    tx.changeovers.move(one, new, NOW)
                assert tx.changeovers.get(one.id) == one
                continue
            moved = tx.changeovers.move(one, new, NOW + 1, reason=Reason("x.y", "z"))
            assert (moved.state, moved.reason.code) == (new, "x.y")
            assert (moved.failures, moved.due_at, moved.updated_at) == (0, NOW + 1, NOW + 1)
            assert (moved.lease_owner is not None) == (new in CHANGEOVER_MOVING)
            over = new not in CHANGEOVER_LIVE
            assert moved.finished_at == (NOW + 1 if over else None)
            assert tx.audit.of(one.id)[-1]["action"] == f"changeover.{new}"
            if not over:
                tx.connection.execute(ChangeoverRow.__table__.delete())


def test_a_move_is_made_once_however_many_try(database: Database) -> None:
    one = boot(state=_B.READY)
    store(database, one)

    def create() -> bool:
        try:
            with database.write() as tx:
                tx.boots.move(one, _B.CREATING, NOW, attempt=one.attempt + 1)
        except Reread:
            return False
        return True

    assert sum(race([create] * 8)) == 1
    with database.read() as tx:
        found = tx.boots.get(one.id)
        assert found is not None
        assert found.attempt == 1


def test_moves_on_what_is_no_longer_so_are_void(database: Database) -> None:
    one = boot(state=_B.READY)
    store(database, one)
    with database.write() as tx:
        mine = tx.boots.claim(one.id, {_B.READY}, "me", NOW, 15.0)
        assert mine is not None
        with pytest.raises(Reread):  # somebody works on it
            tx.boots.move(one, _B.CANCELLED, NOW + 15)
        theirs = tx.boots.claim(one.id, {_B.READY}, "thief", NOW + 15.1, 15.0)
        assert theirs is not None
        with pytest.raises(Reread):  # the lease was lost
            tx.boots.move(mine, _B.CREATING, NOW + 16)
        with pytest.raises(Reread):
            tx.boots.postpone(mine, NOW + 20, WHY)
        later = tx.boots.postpone(theirs, NOW + 20, Reason("x.y", "z"))
        assert (later.wake_at, later.reason.code) == (NOW + 20, "x.y")
        creating = tx.boots.move(theirs, _B.CREATING, NOW + 16, attempt=1)
        with pytest.raises(Reread):  # of an older attempt
            tx.boots.move(replace(creating, attempt=0), _B.BUILDING, NOW + 17)
        assert creating.marker == f"{one.id}.1"
        over = tx.boots.move(creating, _B.CANCELLED, NOW + 17)
        assert (over.lease_owner, over.lease_until) == (None, 0.0)
        # A lapsed lease holds nobody up.
    two = boot(state=_B.READY, lease_owner="dead", lease_until=NOW)
    store(database, two)
    with database.write() as tx:
        unleased = replace(two, lease_owner=None)
        assert tx.boots.move(unleased, _B.EXPIRED, NOW + 0.1).state is _B.EXPIRED


def test_waking(database: Database) -> None:
    boots = [
        boot(state=_B.WAITING, wake_at=NOW + 60),
        boot(state=_B.WAITING, wake_at=NOW - 60),
        boot(state=_B.BUILDING, wake_at=NOW + 60),
        boot(state=_B.EXPIRED, wake_at=NOW + 60),
    ]
    store(database, *boots)
    with database.write() as tx:
        assert [b.id for b in tx.boots.in_states([_B.WAITING], wake_before=NOW)] == [boots[1].id]
        assert tx.boots.wake(NOW) == 1
        assert len(tx.boots.in_states([_B.WAITING], wake_before=NOW)) == 2
        assert tx.boots.wake(NOW) == 0
        kept = tx.boots.get(boots[2].id)
        assert kept is not None
        assert kept.wake_at == NOW + 60
        assert tx.boots.wanting(NOW)
        assert not tx.boots.wanting(NOW - 61)
        assert tx.boots.counts() == {_B.WAITING: 2, _B.BUILDING: 1, _B.EXPIRED: 1}


def test_many_go_on_waiting_together_except_those_that_moved_on(database: Database) -> None:
    waiting = [boot(state=BootState.WAITING) for _ in range(1001)]
    tried = boot(state=BootState.WAITING, attempt=1)
    leased = boot(state=BootState.WAITING, lease_owner="w", lease_until=NOW + 5.0)
    gone = boot(state=BootState.CANCELLED)
    all_of_them = [*waiting, tried, leased, gone]
    reason = Reason("boot.no_gain", "nothing helps")
    store(database, *all_of_them)
    with database.write() as tx:
        tx.boots.wait_on([b.id for b in all_of_them], 0, reason, NOW + 30.0, NOW)
    with database.read() as tx:
        assert [tx.boots.get(b.id) for b in (tried, leased, gone)] == [tried, leased, gone]
        told = [tx.boots.get(b.id) for b in waiting]
    assert told == [replace(b, reason=reason, wake_at=NOW + 30.0) for b in waiting]


def test_the_oldest_failure_comes_first(database: Database) -> None:
    boots = [boot(failed_at=NOW - age, received_at=NOW + age) for age in (5, 50, 20)]
    store(database, *boots)
    with database.read() as tx:
        found = tx.boots.in_states([_B.RECEIVED], limit=2)
        assert [NOW - b.failed_at for b in found] == pytest.approx([50, 20])
        assert tx.boots.in_states([]) == []
        newest = tx.boots.listed(over=None, limit=1)
        assert [b.id for b in newest] == [boots[1].id]
        assert tx.boots.listed(over=True, limit=9) == []
        assert len(tx.boots.listed(over=False, limit=9)) == 3


# ---------------------------------------------------------------- promises and holds


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (_B.RECEIVED, _B.PROMISED, True),
        (_B.PROMISED, _B.READY, True),
        (_B.READY, _B.CREATING, True),
        (_B.CREATING, _B.BUILDING, True),
        (_B.CREATING, _B.READY, True),
        (_B.PROMISED, _B.WAITING, False),
        (_B.READY, _B.WAITING, False),
        (_B.BUILDING, _B.WAITING, False),
        (_B.BUILDING, _B.BOOTED, False),
        (_B.PROMISED, _B.CANCELLED, False),
        (_B.READY, _B.EXPIRED, False),
        (_B.WAITING, _B.DECLINED, False),
    ],
)
def test_promises_go_when_the_boot_waits_again_or_is_over(
    database: Database, old: BootState, new: BootState, *, kept: bool
) -> None:
    one, other = boot(state=old), boot(state=old)
    store(database, one, other)
    with database.write() as tx:
        for each in (one, other):
            tx.boots.promise(BootPromise(each.id, "d1", 1, "c1", None))
            tx.boots.promise(BootPromise(each.id, "d2", 2, None, NOW))
        tx.boots.move(one, new, NOW)
        assert len(tx.boots.promises(boot=one.id)) == (2 if kept else 0)
        assert len(tx.boots.promises(boot=other.id)) == 2


def test_holds(database: Database) -> None:
    one, two = sorted((boot(state=_B.PROMISED), boot(state=_B.PROMISED)), key=lambda b: b.id)
    store(database, one, two)
    with database.write() as tx:
        tx.boots.promise(BootPromise(one.id, "d1", 1, "c1", None))
        tx.boots.promise(BootPromise(one.id, "d2", 1, "c2", None))
        tx.boots.promise(BootPromise(two.id, "d1", 3, "c1", None))
        assert tx.boots.holds_lapsed(NOW + 1e6) == []
        tx.boots.hold("c1", NOW + 10)
        assert {p.device for p in tx.boots.promises() if p.held_until} == {"d1"}
        assert tx.boots.holds_lapsed(NOW + 10) == []
        assert [p.boot for p in tx.boots.holds_lapsed(NOW + 10.1)] == [one.id, two.id]
        tx.boots.unhold(one.id)
        assert [p.boot for p in tx.boots.holds_lapsed(NOW + 10.1)] == [two.id]
        assert len(tx.boots.promises(boot=one.id)) == 2
        # Promised anew: one row a boot and device.
        tx.boots.promise(BootPromise(two.id, "d1", 2, None, NOW))
        assert tx.boots.promises(boot=two.id) == [BootPromise(two.id, "d1", 2, None, NOW)]
        assert [p.boot for p in tx.boots.promises(device="d1")] == [one.id, two.id]
        assert [p.boot for p in tx.boots.promises(changeover="c1")] == [one.id]
        assert tx.boots.promises(device="d1", boot=one.id, changeover="c2") == []
    with pytest.raises(IntegrityError), database.write() as tx:
        tx.boots.promise(BootPromise("nosuch", "d1", 1, None, None))


# ---------------------------------------------------------------- devices and functions

CATALOG = describe_fleet(Shape(hosts=1, fpga_cards=3, gpus=0, dynamic_cards=0)).catalog


def without(catalog: Catalog, *names: str, **changes: Any) -> Catalog:
    devices = tuple(d for d in catalog.devices if d.name not in names)
    return catalog.model_copy(update={"devices": devices, **changes})


def test_devices_follow_the_catalog(database: Database) -> None:
    with database.write() as tx:
        tx.devices.sync(CATALOG)
        first = CATALOG.devices[0]
        tx.devices.update(first.provider, function="aes", slots=1, used=1, trouble=WHY)
        assert tx.devices.programmed(first.provider, "c1") is None
        assert tx.devices.programmed(first.provider, "c2") == "c1"
        tx.devices.sync(CATALOG)
        tx.devices.sync(without(CATALOG, first.name))
        assert [d.name for d in tx.devices.all()] == ["fpga2", "fpga3"]
        gone = tx.devices.get(first.name)
        assert gone is not None
        assert (gone.known, gone.function, gone.programs) == (False, "aes", 2)
        tx.devices.sync(CATALOG)
        back = tx.devices.get(first.provider)
        assert back is not None
        assert (back.known, back.function, back.programs, back.trouble) == (True, "aes", 2, WHY)
        assert [d.name for d in tx.devices.all()] == ["fpga1", "fpga2", "fpga3"]
        assert tx.devices.get("nosuch") is None


def test_many_are_learnt_at_once_unless_somebody_knew_better(database: Database) -> None:
    with database.write() as tx:
        tx.devices.sync(CATALOG)
        assert tx.devices.unread(2) == sorted(d.provider for d in CATALOG.devices)[:2]
        records = tx.devices.these(d.provider for d in CATALOG.devices)
        assert tx.devices.these([]) == []
        one, two, three = sorted(records, key=lambda r: r.name)
        tx.devices.update(two.provider, generation=7, function="aes")
        facts = {"generation": 1, "function": "gzip", "read_at": NOW, "trouble": None}
        tx.devices.learn_all(
            [(one, facts), (two, facts), (three, {"trouble": WHY, "read_at": NOW})]
        )
        read = {r.name: r for r in tx.devices.all()}
        assert (read["fpga1"].function, read["fpga1"].generation) == ("gzip", 1)
        assert (read["fpga2"].function, read["fpga2"].generation) == ("aes", 7)
        assert read["fpga3"].trouble == WHY
        assert tx.devices.unread(9) == [two.provider, three.provider]
        tx.devices.learn_all([(read["fpga1"], {**facts, "generation": 2})])
        tx.devices.learn_all([])
        again = tx.devices.get("fpga1")
        assert again is not None
        assert again.generation == 2


def test_what_rules_found_is_kept_and_counted(database: Database) -> None:
    device = FoundDevice(**CATALOG.devices[0].model_dump(), rule="cards")
    row = DiscoveredRecord(
        provider=device.provider,
        name="compute1_0",
        state=FoundState.FOUND,
        since=NOW,
        generation=None,
        classes=frozenset({"FPGA"}),
        device=device,
        reason=None,
    )
    other = replace(
        row, provider=str(uuid4()), name="z", state=FoundState.UNCLEAR, device=None,
        classes=None, generation=3, reason=WHY,
    )  # fmt: skip
    with database.write() as tx:
        assert tx.discovered.revision() == 0
        tx.discovered.put([row, other])
        tx.discovered.changed()
        assert (tx.discovered.all(), tx.discovered.devices()) == ([row, other], [device])
        assert tx.discovered.device(device.provider) == device
        assert tx.discovered.device(other.provider) is None
        gone = replace(row, state=FoundState.GONE, reason=WHY)
        tx.discovered.put([gone])
        tx.discovered.changed()
        assert (tx.discovered.all(), tx.discovered.devices()) == ([gone, other], [])
        assert tx.discovered.revision() == 2
        assert tx.discovered.device(device.provider) == device
        tx.discovered.forget([other.provider, str(uuid4())])
        tx.discovered.forget([])
        tx.discovered.put([])
        assert tx.discovered.all() == [gone]


def test_what_a_changeover_or_a_boot_counts_on_is_busy(database: Database) -> None:
    live, over = changeover(), changeover(state=_C.DONE)
    waiting = boot(state=_B.PROMISED)
    store(database, waiting)
    with database.write() as tx:
        tx.changeovers.add(live)
        tx.changeovers.add(over)
        tx.fences.add(["sibling"], live.id)
        tx.boots.promise(BootPromise(waiting.id, "promised", 1, None, None))
        assert tx.discovered.busy() == {live.device, "sibling", "promised"}


def test_a_card_that_was_replaced_keeps_its_name(database: Database) -> None:
    """A new card in the same slot is a new provider; and two may be renamed into one another."""
    one, two, three = CATALOG.devices
    with database.write() as tx:
        tx.devices.sync(CATALOG)
        tx.devices.update(one.provider, function="aes")
    new = one.model_copy(update={"provider": str(uuid4())})
    swapped = (
        two.model_copy(update={"name": three.name}),
        three.model_copy(update={"name": two.name}),
    )
    with database.write() as tx:
        tx.devices.sync(without(CATALOG, devices=(new, *swapped)))
        assert {d.name: d.provider for d in tx.devices.all()} == {
            one.name: new.provider,
            two.name: three.provider,
            three.name: two.provider,
        }
        old = tx.devices.get(one.provider)
        assert old is not None
        assert (old.known, old.function) == (False, "aes")
        fresh = tx.devices.get(one.name)
        assert fresh is not None
        assert (fresh.provider, fresh.function, fresh.programs) == (new.provider, None, 0)


def test_ajar_devices(database: Database) -> None:
    """Those whose reserved slots in Placement are not what boots hold."""
    one, two, three = (d.provider for d in CATALOG.devices)
    holder = boot(state=_B.READY)
    closed = changeover(device=three)
    store(database, holder, closed)
    with database.write() as tx:
        tx.devices.sync(CATALOG)
        assert tx.devices.ajar() == []
        tx.boots.promise(BootPromise(holder.id, one, 2, None, None))
        assert tx.devices.ajar() == []  # promised, not held
        tx.boots.promise(BootPromise(holder.id, one, 2, None, NOW))
        assert tx.devices.ajar() == [one]
        tx.devices.update(one, reserved=2)
        assert tx.devices.ajar() == []
        tx.devices.update(two, reserved=1)
        tx.devices.update(three, reserved=1)
        assert sorted(tx.devices.ajar()) == sorted([two, three])
        tx.fences.add([three], closed.id)  # a fence reserves what it likes
        assert tx.devices.ajar() == [two]
        tx.boots.unhold(holder.id)
        assert sorted(tx.devices.ajar()) == sorted([one, two])
        tx.devices.sync(without(CATALOG, CATALOG.devices[1].name))
        assert tx.devices.ajar() == [one]


def with_artifact(name: str, image: str) -> Catalog:
    function = CATALOG.functions[name]
    artifact = function.artifact.model_copy(update={"image": image})
    changed = function.model_copy(update={"artifact": artifact})
    return CATALOG.model_copy(update={"functions": {**CATALOG.functions, name: changed}})


def test_a_function_that_fails_on_several_devices_is_stopped(database: Database) -> None:
    with database.write() as tx:
        tx.functions.sync(CATALOG, NOW)
        for device in ("d1", "d1", "d2", "d2"):  # the same again proves nothing new
            assert tx.functions.failed("aes", device, 3, NOW) is None
        assert tx.functions.stopped() == {}
        tx.functions.succeeded("aes")
        for device in ("d3", "d4"):
            assert tx.functions.failed("aes", device, 3, NOW) is None
        reason = tx.functions.failed("aes", "d1", 3, NOW)
        assert reason is not None
        assert reason.facts["devices"] == ["d1", "d3", "d4"]
        assert tx.functions.stopped() == {"aes": reason}
        assert tx.functions.failed("aes", "d9", 3, NOW) == reason
        assert tx.functions.failed("nosuch", "d1", 1, NOW) is None
        # The same catalog again, a change of something else, and a function that went and came.
        tx.functions.sync(CATALOG, NOW)
        tx.functions.sync(with_artifact("gzip", "new.bit"), NOW)
        others = {name: f for name, f in CATALOG.functions.items() if name != "aes"}
        tx.functions.sync(CATALOG.model_copy(update={"functions": others}), NOW)
        assert tx.functions.stopped() == {"aes": reason}
        tx.functions.sync(with_artifact("aes", "new.bit"), NOW)
        assert tx.functions.stopped() == {}
        assert tx.functions.failed("aes", "d1", 2, NOW) is None
        assert tx.functions.failed("aes", "d2", 2, NOW) is not None
        tx.functions.allow("aes", NOW)
        assert tx.functions.stopped() == {}


def test_no_failure_is_forgotten_when_devices_fail_at_once(database: Database) -> None:
    with database.write() as tx:
        tx.functions.sync(CATALOG, NOW)

    def fail(device: str) -> Reason | None:
        with database.write() as tx:
            return tx.functions.failed("aes", device, 8, NOW)

    for _ in range(3):
        reasons = race([lambda k=k: fail(f"d{k}") for k in range(8)])  # type: ignore[misc]  # bound at once
        assert sum(reason is not None for reason in reasons) == 1
        with database.write() as tx:
            tx.functions.allow("aes", NOW)


# ---------------------------------------------------------------- events, dead letters, audit


def add_event(tx: Tx, message_id: str, server: str) -> bool:
    return tx.events.add(
        message_id=message_id,
        kind="BuildFailed",
        source="test",
        server=server,
        project="p",
        facts={"x": [1, None, "☃"]},
        received_at=NOW,
        outcome="boot",
        boot_id=None,
    )


def test_an_event_is_stored_once(database: Database) -> None:
    server = str(uuid4())
    with database.write() as tx:
        assert not tx.events.seen("m1")
        assert add_event(tx, "m1", server)
        assert not add_event(tx, "m1", server)
        assert add_event(tx, "m2", server)
        assert tx.events.seen("m1")
        assert tx.events.count() == 2
        assert [e["message_id"] for e in tx.events.of_server(server)] == ["m1", "m2"]
        assert tx.events.of_server(server)[0]["facts"] == {"x": [1, None, "☃"]}

    def add() -> bool:
        with database.write() as tx:
            return add_event(tx, "m3", server)

    assert sum(race([add] * 8)) == 1


def test_a_dead_letter_that_comes_again_only_counts(database: Database) -> None:
    def letter(tx: Tx, digest: str, reason: str, now: float) -> None:
        tx.events.dead_letter(
            digest=digest, source="test", reason=reason, body="☃" * 9, size=27, now=now
        )

    with database.write() as tx:
        letter(tx, "a", "first", NOW)
        letter(tx, "b", "other", NOW)
        letter(tx, "a", "second", NOW + 1)
        newest, oldest = tx.events.dead_letters()
        assert (newest["digest"], newest["times"]) == ("b", 1)
        assert (oldest["digest"], oldest["times"], oldest["reason"]) == ("a", 2, "second")
        assert (oldest["received_at"], oldest["replayed_at"]) == (NOW, None)
        tx.events.replayed(oldest["id"], NOW + 2)
        again = tx.events.get_dead_letter(oldest["id"])
        assert again is not None
        assert (again["replayed_at"], again["body"]) == (NOW + 2, "☃" * 9)
        assert tx.events.get_dead_letter(10**6) is None
        assert len(tx.events.dead_letters(1)) == 1

    def same() -> None:
        with database.write() as tx:
            letter(tx, "c", "raced", NOW)

    race([same] * 8)
    with database.read() as tx:
        assert tx.events.dead_letters()[0]["times"] == 8


def test_the_audit_is_in_order_and_goes_with_its_deed(database: Database) -> None:
    with database.write() as tx:
        for k in range(5):
            tx.audit.add(NOW - k, "me", f"deed.{k}", "s", k=k, none=None)
        tx.audit.add(NOW, "me", "other", "t")
    with pytest.raises(RuntimeError), database.write() as tx:  # noqa: PT012 - the transaction is what raises
        tx.audit.add(NOW, "me", "undone", "s")
        raise RuntimeError
    with database.read() as tx:
        assert [row["action"] for row in tx.audit.of("s")] == [f"deed.{k}" for k in range(5)]
        assert [row["facts"]["k"] for row in tx.audit.of("s", limit=2)] == [3, 4]
        assert tx.audit.of("nosuch") == []


CAPTURED = Path(__file__).parents[1] / "data" / "notifications" / "novalidhost_three_servers.jsonl"


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in batches"])
def test_many_listeners_with_the_same_messages(database: Database, *, together: bool) -> None:
    """Whatever order they come in: a boot a server, and what is reported is what is stored."""
    lines = CAPTURED.read_text(encoding="utf-8").splitlines()
    bodies = [json.dumps(json.loads(line)["message"]) for line in lines]
    intake = Intake(database, VirtualClock(NOW), Settings())

    def listen(turn: int) -> list[Accepted]:
        mine = bodies[turn:] + bodies[:turn]
        while True:
            try:
                if together:
                    return intake.accept_all(mine, "test")
                return [intake.accept(body, "test") for body in mine]
            except Busy:  # they locked each other out: nothing was acknowledged, it comes again
                continue

    told = list(itertools.chain(*race([lambda k=k: listen(k % 6) for k in range(8)])))  # type: ignore[misc]  # bound at once
    with database.read() as tx:
        stored = tx.boots.in_states([_B.RECEIVED])
        assert tx.events.count() == 3
        assert tx.events.dead_letters() == []
    assert len(stored) == 3
    made = [a.boot for a in told if a.outcome == "boot"]
    assert set(made) <= {b.id for b in stored}
    # One by one a retry finds what its own first try had committed.
    assert len(made) <= 3
    if together:
        assert len(made) == 3
    assert {a.outcome for a in told} <= {"boot", "duplicate", "ignored"}


# ---------------------------------------------------------------- plans, tasks, switches


def test_a_plan_is_decided_once(database: Database) -> None:
    def add(plan_id: str, now: float, state: PlanState = PlanState.RECOMMENDED) -> None:
        with database.write() as tx:
            tx.plans.add(plan_id=plan_id, now=now, state=state, inputs={"x": 1.5}, result={"y": []})

    add("a", NOW)
    add("old", NOW - 100)
    add("done", NOW - 100, PlanState.EXECUTED)

    def decide(by: str) -> bool:
        with database.write() as tx:
            return tx.plans.decide("a", PlanState.EXECUTED, by, NOW)

    won = race([lambda k=k: decide(f"p{k}") for k in range(6)])  # type: ignore[misc]  # bound at once
    assert sum(won) == 1
    with database.write() as tx:
        found = tx.plans.get("a")
        assert found is not None
        assert found["decided_by"] == f"p{won.index(True)}"
        assert (found["inputs"], found["result"]) == ({"x": 1.5}, {"y": []})
        assert tx.plans.expire(NOW - 100, NOW) == 0
        assert tx.plans.expire(NOW - 99, NOW) == 1
        assert not tx.plans.decide("old", PlanState.EXECUTED, "late", NOW)
        assert not tx.plans.decide("nosuch", PlanState.EXECUTED, "late", NOW)
        assert tx.plans.get("nosuch") is None
        assert tx.plans.latest(1)[0]["id"] == "a"
        states = {row["id"]: row["state"] for row in tx.plans.latest()}
        assert states == {
            "a": PlanState.EXECUTED,
            "old": PlanState.EXPIRED,
            "done": PlanState.EXECUTED,
        }


def test_tasks(database: Database) -> None:
    one = task(priority=1.0)
    two = task(priority=5.0, created_at=NOW + 5)
    three = task(priority=5.0, created_at=NOW + 1)
    with database.write() as tx:
        for each in (one, two, three):
            tx.tasks.add(each)
        assert [t.id for t in tx.tasks.all()] == [three.id, two.id, one.id]
        assert tx.tasks.move(one, TaskState.QUEUED, Reason("x.y", "still"), NOW, "planner")
        tx.tasks.count_done(one.id, 2)
        tx.tasks.count_done(one.id, 1)
        assert tx.tasks.move(one, TaskState.DONE, WHY, NOW, "planner")
        assert not tx.tasks.move(one, TaskState.CANCELLED, WHY, NOW, "me")
        done = tx.tasks.get(one.id)
        assert done is not None
        assert (done.state, done.done, done.finished_at) == (TaskState.DONE, 3, NOW)
        with pytest.raises(IllegalTransition):
            tx.tasks.move(done, TaskState.QUEUED, WHY, NOW, "me")
        assert [t.id for t in tx.tasks.all(queued_only=True)] == [three.id, two.id]
        assert [row["action"] for row in tx.audit.of(one.id)] == ["task.queued", "task.done"]


def test_switches_and_heartbeats(database: Database) -> None:
    def beat() -> None:
        with database.write() as tx:
            tx.switches.beat("host1:1", "worker", NOW)

    race([beat] * 4)
    with database.write() as tx:
        assert tx.switches.get("pause") is None
        tx.switches.set("pause", {"why": "x"}, NOW)
        tx.switches.set("pause", {"why": None}, NOW + 1)
        assert tx.switches.get("pause") == {"why": None}
        tx.switches.beat("host1:2", "listener", NOW + 60)
        assert [p["process"] for p in tx.switches.alive(NOW)] == ["host1:2", "host1:1"]
        assert [p["process"] for p in tx.switches.alive(NOW + 1)] == ["host1:2"]
        tx.switches.beat("host1:2", "listener", NOW + 90_000)  # long dead ones are forgotten
        assert [p["process"] for p in tx.switches.alive(0)] == ["host1:2"]


# ---------------------------------------------------------------- who waits for whom


def impatient(database: Database) -> Database:
    """The same, but it does not wait long for a lock."""
    found = Database(database.url)

    @event.listens_for(found.engine, "connect")
    def _soon(connection: Any, _record: object) -> None:
        sqlite = found.engine.dialect.name == "sqlite"
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=100" if sqlite else "SET lock_timeout = '100ms'")
        cursor.close()
        if not sqlite:
            connection.commit()

    return found


def test_a_reader_blocks_nobody_and_sees_what_was(database: Database) -> None:
    one = boot()
    store(database, one)
    other = impatient(database)
    with database.read() as reading:
        before = reading.boots.get(one.id)
        with other.write() as tx:
            tx.boots.move(one, _B.WAITING, NOW)
        after = reading.boots.get(one.id)
        if database.engine.dialect.name == "sqlite":
            assert after == before == one
    with database.write() as tx, other.read() as reading:  # nor does a writer block readers
        tx.boots.wake(NOW)
        assert reading.boots.get(one.id) is not None
    other.dispose()


def test_a_locked_database_is_busy(database: Database) -> None:
    one = changeover()
    store(database, one)
    other = impatient(database)
    with database.write() as tx:
        assert tx.changeovers.claim(one.id, "me", NOW, 15.0) is not None
        with pytest.raises(Busy) as caught, other.write() as late:
            late.changeovers.ask_cancel(one.id)
        assert isinstance(caught.value, Retry)
    with other.write() as tx:  # and is used again as soon as it is free
        assert tx.changeovers.ask_cancel(one.id)
    other.dispose()


def test_nobody_waits_for_a_lock_for_ever(database: Database) -> None:
    """A worker that is stopped in the middle of a transaction must not stop all others."""
    with database.engine.connect() as connection:
        if database.engine.dialect.name == "sqlite":
            waits = connection.execute(text("PRAGMA busy_timeout")).scalar_one() / 1000
        else:
            waits = (
                connection.execute(
                    text("SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout'")
                ).scalar_one()
                / 1000
            )
    assert 5 <= waits <= 30


def test_a_database_without_the_tables_is_not_merely_busy(place: Place) -> None:
    """Waiting would never mend it."""
    database = Database(place.empty())
    with pytest.raises(AskOperator, match="changeover db upgrade"), database.read() as tx:
        tx.boots.get("x")
    with pytest.raises(AskOperator), database.write() as tx:
        tx.boots.wake(NOW)
    migrate.upgrade(database.url)
    with pytest.raises(AskOperator), database.write() as tx:
        tx.connection.execute(text("SELECT nosuch FROM boots"))
    with database.read() as tx:
        assert tx.boots.get("x") is None
    database.dispose()


def test_of_two_changeovers_that_end_at_once_one_wakes_their_boot(database: Database) -> None:
    ends = [changeover(state=_C.PUBLISHING) for _ in range(2)]
    gang = boot(state=_B.PROMISED)
    store(database, gang, *ends)
    with database.write() as tx:
        for end in ends:
            tx.boots.promise(BootPromise(gang.id, end.device, 1, end.id, None))

    def finish(end: Changeover) -> Callable[[Tx], None]:
        return lambda tx: wake_served(tx, tx.changeovers.move(end, _C.DONE, NOW), NOW)

    overlap(database, finish(ends[0]), finish(ends[1]))
    with database.read() as tx:
        found = tx.boots.get(gang.id)
    assert found is not None
    assert found.state is _B.READY


def test_of_two_boots_that_are_cancelled_at_once_one_cancels_what_was_for_both(
    database: Database,
) -> None:
    shared = changeover(state=_C.SETTLING)
    boots = [boot(state=_B.PROMISED) for _ in range(2)]
    store(database, shared, *boots)
    with database.write() as tx:
        for one in boots:
            tx.boots.promise(BootPromise(one.id, shared.device, 1, shared.id, None))

    def cancel(one: Boot) -> Callable[[Tx], Boot]:
        return lambda tx: cancel_boot(tx, one, WHY, NOW)

    overlap(database, cancel(boots[0]), cancel(boots[1]))
    with database.read() as tx:
        found = tx.changeovers.get(shared.id)
    assert found is not None
    assert found.cancel


def test_whoever_wakes_boots_finds_those_that_are_being_put_to_sleep(database: Database) -> None:
    sleepy = boot(state=_B.RECEIVED)
    store(database, sleepy)
    with database.write() as tx:
        tx.boots.wake(NOW - 60)

    def judge(tx: Tx) -> bool:
        tx.boots.move(sleepy, _B.WAITING, NOW, wake_at=NOW + 300)
        return tx.boots.woken_since(NOW - 1)

    assert overlap(database, judge, lambda tx: tx.boots.wake(NOW) > 0) == [False, True]
    with database.read() as tx:
        assert tx.boots.wanting(NOW)


def test_two_that_lock_each_other_out_are_busy_and_not_stuck(place: Place) -> None:
    """PostgreSQL breaks the deadlock; SQLite has one writer and knows none."""
    database = Database(place.migrated())
    one, two = changeover(), changeover()
    store(database, one, two)
    barrier = threading.Barrier(2)

    def cross(first: str, second: str) -> bool:
        try:
            with database.write() as tx:
                tx.changeovers.ask_cancel(first)
                if place.kind == "postgresql":
                    barrier.wait(30)
                tx.changeovers.ask_cancel(second)
        except Busy:
            return False
        return True

    ends = race([lambda: cross(one.id, two.id), lambda: cross(two.id, one.id)])
    assert sorted(ends) == ([False, True] if place.kind == "postgresql" else [True, True])
    database.dispose()


def test_a_database_of_no_encoding_gives_texts_all_the_same(postgres_url: str) -> None:
    server = engine_for(postgres_url)
    name = f"ascii_{uuid4().hex[:8]}"
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        )
    server.dispose()
    engine = engine_for(
        make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    )
    with engine.connect() as connection:
        assert connection.execute(text("SELECT :word"), {"word": "für"}).scalar_one() == "für"
    engine.dispose()


def test_a_connection_that_was_cut_is_unreachable_and_the_next_one_works(
    place: Place, database: Database
) -> None:
    if place.kind != "postgresql":
        pytest.skip("SQLite has no connection to cut")
    one = boot()
    store(database, one)
    killer = Database(database.url)
    with pytest.raises(Unreachable), database.write() as tx:  # noqa: PT012 - the transaction is what raises
        tx.boots.wake(NOW)
        pid = tx.connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with killer.write() as other:
            other.connection.execute(select(text(f"pg_terminate_backend({pid}, 10000)")))
        tx.boots.wake(NOW)
    with database.read() as tx:
        assert tx.boots.get(one.id) == one
    killer.dispose()


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'd.sqlite'}")
    migrate.upgrade(database.url)
    told = r"cannot be written \(database or disk is full\): .*room"
    with pytest.raises(Busy, match=told), database.write() as tx:  # noqa: PT012 - see below
        tx.connection.execute(text("PRAGMA max_page_count = 1"))
        tx.switches.set("much", {"text": "x" * 1_000_000}, NOW)
    database.dispose()


def test_a_server_of_no_address_is_unreachable() -> None:
    database = Database("postgresql://u@nosuch.invalid/d")
    with pytest.raises(Unreachable, match="does not answer"), database.read():
        pass
    database.dispose()


def test_a_server_that_is_gone_is_unreachable() -> None:
    with ExitStack() as stack:
        try:
            url = stack.enter_context(services.postgres())
        except services.MissingError as missing:
            pytest.skip(str(missing))
        database = Database(url)
        migrate.upgrade(url)
        store(database, one := boot())
        with database.read() as tx:
            assert tx.boots.get(one.id) == one
        with pytest.raises(Unreachable), database.write() as tx:  # noqa: PT012 - the transaction is what raises
            tx.boots.wake(NOW)
            stack.close()
            tx.boots.wake(NOW)
    for _ in range(2):
        with pytest.raises(Unreachable, match="does not answer"), database.read() as tx:
            tx.boots.get(one.id)
        with pytest.raises(Unreachable), database.write() as tx:
            tx.boots.wake(NOW)
    with pytest.raises(Unreachable):
        migrate.require_current(database)
    with pytest.raises(Unreachable):
        migrate.upgrade(url)
    database.dispose()


# ---------------------------------------------------------------- callbacks and keeps


def _told(database: Database, *, project: str = "told", at: float = NOW) -> Callback:
    """A boot that ended, and what is to be told of it."""
    database.target_of = {"told": "default", "other": "b"}.get
    one = boot(project=project)
    with database.write() as tx:
        assert tx.boots.add(one)
        tx.boots.move(one, _B.DECLINED, at, reason=WHY)
    with database.read() as tx:
        [found] = tx.callbacks.listed(boot=one.id)
    return found


def test_an_outcome_and_its_callback_are_committed_together(database: Database) -> None:
    one = boot(project="told")
    database.target_of = {"told": "default"}.get
    sent: list[Hint] = []
    database.courier = sent.extend
    store(database, one)
    with pytest.raises(RuntimeError), database.write() as tx:  # noqa: PT012 - it is undone at its end
        tx.boots.move(one, _B.EXPIRED, NOW, reason=WHY)
        raise RuntimeError
    with database.read() as tx:
        assert tx.callbacks.listed() == []
    with database.write() as tx:
        tx.boots.move(one, _B.EXPIRED, NOW, reason=WHY)
    assert [(h.task, h.args) for h in sent] == [("changeover.deliver", ("default",))]
    with database.read() as tx:
        [told] = tx.callbacks.listed(boot=one.id)
    assert (told.kind, told.state, told.due_at) == ("boot.expired", CallbackState.PENDING, NOW)
    assert told.data["reason"] == {"code": "test.why", "text": WHY.text}, "facts stay inside"
    # Whoever loses the move tells nothing.
    with pytest.raises(Reread), database.write() as tx:
        tx.boots.move(one, _B.CANCELLED, NOW, reason=WHY)
    with database.read() as tx:
        assert tx.callbacks.listed() == [told]


def test_projects_without_a_target_are_not_told(database: Database) -> None:
    one = boot(project="silent")
    database.target_of = {"told": "default"}.get
    store(database, one)
    with database.write() as tx:
        tx.boots.move(one, _B.CANCELLED, NOW, reason=WHY)
        assert tx.callbacks.listed() == []
        assert tx.callbacks.due() == {}


def test_an_attempt_of_another_boot_is_not_told(database: Database) -> None:
    one = boot(project="told")
    database.target_of = {"told": "default"}.get
    store(database, one)
    with database.write() as tx:
        tx.boots.move(one, _B.CANCELLED, NOW, reason=Reason("boot.absorbed", "of another boot"))
        assert tx.callbacks.listed() == []


def test_callbacks_are_due_oldest_first_and_marked_as_they_were_read(database: Database) -> None:
    second = _told(database, at=NOW + 1)
    first = _told(database)
    other = _told(database, project="other")
    with database.write() as tx:
        assert tx.callbacks.due() == {"default": NOW, "b": NOW}
        assert tx.callbacks.due(NOW - 1) == {}
        assert tx.callbacks.next_due("default", NOW) == first
        tx.callbacks.failed(first, "no answer" * 100, NOW + 60)
        assert tx.callbacks.next_due("default", NOW) is None
        assert tx.callbacks.next_due("default", NOW + 1) == second
        tx.callbacks.delivered(first, NOW)  # as it was read before it failed: void
        tx.callbacks.bury(second, "enough", NOW + 2)
        tx.callbacks.delivered(other, NOW + 2)
        counts = tx.callbacks.counts()
        assert counts == dict.fromkeys(CallbackState, 1)
        failed = tx.callbacks.get(first.id)
        assert failed is not None
        assert (failed.tries, failed.due_at, len(failed.error or "")) == (1, NOW + 60, 512)
        assert tx.callbacks.retry(NOW + 3, other.id) == 0, "only what was given up"
        assert tx.callbacks.retry(NOW + 3) == 1
        again = tx.callbacks.next_due("default", NOW + 3)
        assert again is not None
        assert (again.id, again.tries, again.error) == (second.id, 0, "enough")
        assert tx.callbacks.find(first.id[:8]) == [first.id]


def test_keeps(database: Database) -> None:
    def keep(subject: str, device: str, until: float, **changes: Any) -> Keep:
        made = Keep(subject, device, "owner", 1, until, "p", "fpga.aes", "host1")
        return replace(made, **changes)

    late, soon = keep("b1", "d1", NOW + 60), keep("b2", "d2", NOW + 30)
    lease = keep("l1", "d1", NOW + 10, kind="lease", slots=2)
    with database.write() as tx:
        for one in (late, soon, lease, keep("b1", "d1", NOW + 60)):
            tx.keeps.put(one)
        assert tx.keeps.standing(NOW) == [lease, soon, late]
        assert tx.keeps.standing(NOW + 10) == [soon, late]
        assert tx.keeps.standing(NOW, device="d1") == [lease, late]
        assert tx.keeps.standing(NOW, subject="b1") == [late]
        assert tx.keeps.served(project="p", flavor="other", host="host1") is None
        assert tx.keeps.served(project="p", flavor="fpga.aes", host="host2") is None
        assert tx.keeps.served(project="p", flavor="fpga.aes", host="host1") == "b2"
        assert tx.keeps.standing(NOW) == [lease, late]
        assert tx.keeps.lapse(NOW + 10) == 1
        tx.keeps.drop("b1", "elsewhere")
        assert tx.keeps.standing(NOW) == [late]
        tx.keeps.drop("b1", "d1")
        assert tx.keeps.standing(NOW) == []


def test_reservations_follow_what_was_read(database: Database) -> None:
    one = Reservation("r1", "l", "größe", "p", "flavor:instance", NOW, NOW + 9, 2, REQUEST)
    two = replace(one, id="r2", starts_at=NOW - 1, request=None, words=frozenset({"x", "y"}))
    with database.write() as tx:
        assert tx.reservations.sync([one, two], NOW) == ([], [])
        tx.reservations.explain("r1", WHY)
        assert [r.reservation for r in tx.reservations.all()] == [two, one]
        moved = replace(one, starts_at=NOW + 5)
        assert tx.reservations.sync([moved], NOW + 1) == (["r2"], ["r1"])
        [left] = tx.reservations.all()
        assert left == ReservationRecord("r1", NOW + 5, moved, NOW + 1, WHY)
        assert tx.reservations.sync([moved], NOW + 2) == ([], [])


# ---------------------------------------------------------------- columns


def test_every_dataclass_has_its_columns() -> None:
    for value, row in (
        (Boot, BootRow),
        (Callback, CallbackRow),
        (Changeover, ChangeoverRow),
        (Fence, FenceRow),
        (Keep, KeepRow),
        (ReservationRecord, ReservationRow),
    ):
        assert [f.name for f in fields(value)] == list(row.__table__.columns.keys())


# ---------------------------------------------------------------- demand


def test_each_server_is_recorded_once_and_counted_once(database: Database) -> None:
    request = ResourceRequest(groups=(RequestGroup(resources={"CUSTOM_FPGA": 1}),))
    with database.write() as tx:
        kind = tx.demand.kind(request, None)
        assert tx.demand.kind(request, None) == kind != tx.demand.kind(request, "profile")
        tx.demand.failed([("failed", kind, 10.0)])
        tx.demand.failed([("failed", kind, 11.0)])
        assert tx.demand.built("built", kind, 20.0)
        assert not tx.demand.built("built", kind, 21.0)
        tx.demand.succeeded("failed", "again", 15.0)
        tx.demand.ended("again", 50.0)
        tx.demand.ended("again", 60.0)
    with database.write() as tx:
        arrivals, ends = tx.demand.uncounted(10)
        assert [(s.server, s.arrived_at, s.placed_at) for s in arrivals] == [
            ("again", 10.0, 15.0),
            ("built", 20.0, 20.0),
        ]
        assert [s.ended_at for s in ends] == [50.0]
        assert tx.demand.kinds()[kind].request == request
        first = tx.demand.count([s.id for s in arrivals], [s.id for s in ends])
        assert first == ({s.id for s in arrivals}, {s.id for s in ends})
        assert tx.demand.count([s.id for s in arrivals], [s.id for s in ends]) == (set(), set())
        assert tx.demand.uncounted(10) == ([], [])
        tx.demand.learnt({"a": 1}, {"b": 2}, 60.0)
        tx.demand.learnt({"a": 2}, {"b": 3}, 70.0)
        assert tx.demand.history() == ({"a": 2}, {"b": 3}, 70.0)
    with database.write() as tx:
        assert [s.server for s in tx.demand.recorded(30.0, 10)] == ["again", "built"]
        assert tx.demand.prune(50.0) == 0
        assert tx.demand.prune(51.0) == 1
        assert [s.server for s in tx.demand.recorded(0.0, 10)] == ["built"]


def test_a_program_that_served_nobody_is_told_by_the_next(database: Database) -> None:
    with database.write() as tx:
        tx.connection.execute(
            insert(DeviceRow).values(
                provider="p", name="n", model="m", host="h", known=True, slots=0, used=0,
                reserved=0, programs=0,
            )
        )  # fmt: skip
        assert tx.devices.programmed("p", "one") is None
        assert tx.devices.programmed("p", "one") is None, "the same, tried again"
        assert tx.devices.programmed("p", "two") == "one"
        tx.devices.update("p", unserved=None)
        assert tx.devices.programmed("p", "three") is None
