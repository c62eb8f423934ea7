"""A device that Cyborg owns and programs: who writes what when, and what a report proves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cyborg_service import FUNCTION, NONE, SIM, CyborgService
from story.world import _empty_engine

from changeover.models.catalog import (
    Artifact,
    Catalog,
    CyborgProgrammer,
    Device,
    Function,
    Model,
)
from changeover.models.changeover import Changeover
from changeover.models.placement import Inventory
from changeover.models.states import CHANGEOVER_MOVING, ChangeoverState, TaskState
from changeover.models.task import Task
from changeover.worker.adapters.cyborg_http import CyborgClient
from changeover.worker.adapters.glance_http import GlanceImages
from changeover.worker.adapters.programmer_cyborg import CyborgDriver
from changeover.worker.adapters.service_http import HttpService, Timeouts
from changeover.worker.carry_out import CarryOut
from changeover.worker.judge import judge
from changeover.worker.operate import Operator
from changeover.worker.refresh import refresh, sync_catalog
from changeover.worker.settings import Settings
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.simulator.placement import MemoryPlacement
from changeover.worker.simulator.servers import SimulatedServers
from changeover.worker.store import Database
from changeover.worker.world import World

S = ChangeoverState
TOKEN = "t"  # noqa: S105 - nobody's
HOST, CARD = str(uuid4()), str(uuid4())
PERIOD = 50.0
DRAIN = 400.0


class Cloud:
    """One host with one card, whose agent reports every ``PERIOD`` while it lives."""

    def __init__(self, root: Path, *, probe: bool = True, function_failures: int = 3) -> None:
        self.clock = VirtualClock()
        self.placement = MemoryPlacement()
        self.service = CyborgService(self.placement)
        self.placement.create_provider(HOST, "cmp1")
        self.placement.create_provider(CARD, "cmp1_card", HOST)
        self.card = self.service.card(CARD, "cmp1_card")
        self.service.introduce(self.card)
        self.reports_fail = False
        images = {name: self.service.bitstream(name) for name in ("AES", "GZIP")}
        settings = CyborgProgrammer(kind="cyborg", drain_seconds=DRAIN, probe=probe)
        self.catalog = Catalog(
            programmers={"cyborg": settings},
            models={"sim": Model(name="sim", programmer="cyborg", traits=(SIM,))},
            functions={
                name.lower(): Function(
                    name=name.lower(),
                    traits=(FUNCTION + name,),
                    resource_class="FPGA",
                    artifact=Artifact(image=image, sha256=sha256),
                    fits={"sim": 1},
                    seconds=1.0,
                )
                for name, (image, sha256) in images.items()
            },
            devices=(
                Device(
                    name="card",
                    provider=CARD,
                    model="sim",
                    host="cmp1",
                    address=self.card.uuid,
                    owner="cyborg",
                ),
            ),
        )
        self.settings = Settings(
            state_dir=root,
            settle_seconds=10.0,
            log_level="error",
            dwell_seconds=0.0,
            function_failures=function_failures,
        )
        self.database = Database("sqlite://")
        self.database.engine = _empty_engine()
        self.database.courier = lambda _hints: None
        self.servers = SimulatedServers(":memory:", self.placement, self.clock)
        self.servers.set_host("cmp1")
        client = CyborgClient(self._http("accelerator"))
        driver = CyborgDriver(
            settings, client, GlanceImages(self._http("image"), most_bytes=4096), self.catalog
        )
        self.world = World(
            database=self.database,
            placement=self.placement,
            servers=self.servers,
            programmers={"cyborg": driver},
            clock=self.clock,
            catalog=self.catalog,
            settings=self.settings,
            owner="worker",
            accelerators=client,
        )
        sync_catalog(self.world)
        refresh(self.world)
        self.clock.advance(60.0)
        self._tick()
        self.operator = Operator(self.database, lambda: self.catalog, self.clock, "somebody")
        self.seen: list[tuple[str, frozenset[str], bool]] = []
        """What Placement showed at each step: state, functions, whether it was open."""

    def _http(self, kind: str) -> HttpService:
        limits = Timeouts(connect=1.0, read=5.0, total=5.0)
        return HttpService.noauth(kind, kind, self.service.url, token=TOKEN, timeouts=limits)

    def _tick(self) -> None:
        if self.service.agent_up:
            self.service.report(self.card, placement_fails=self.reports_fail)
        self.clock.after(PERIOD, self._tick)

    def close(self) -> None:
        self.service.close()
        self.servers.close()

    # -- what there is ---------------------------------------------------------------------

    @property
    def functions(self) -> frozenset[str]:
        traits = self.placement.state(CARD).traits
        return frozenset(t.removeprefix(FUNCTION) for t in traits if t.startswith(FUNCTION))

    @property
    def inventory(self) -> Inventory:
        return self.placement.state(CARD).inventories["FPGA"]

    def is_open(self) -> bool:
        return self.inventory.capacity > 0

    # -- what happens ----------------------------------------------------------------------

    def begin(self, function: str) -> str:
        """An operator's task becomes a changeover."""
        self.operator.program(function, device="card")
        judge(self.world)
        with self.database.read() as tx:
            (live,) = tx.changeovers.live()
        return live.id

    def step(self, changeover: str) -> Changeover:
        """Once as far as it goes, and on to when it is due."""
        CarryOut(self.world).advance(changeover)
        with self.database.read() as tx:
            found = tx.changeovers.get(changeover)
        assert found is not None
        self.seen.append((found.state, self.functions, self.is_open()))
        if found.state in CHANGEOVER_MOVING:
            self.clock.advance(max(0.1, found.due_at - self.clock.now()))
        return found

    def run(self, changeover: str, until: S | None = None) -> Changeover:
        """To its end, or to a state."""
        for _ in range(2000):
            found = self.step(changeover)
            if found.state not in CHANGEOVER_MOVING or found.state is until:
                return found
        raise AssertionError(found)

    def program(self, function: str) -> Changeover:
        return self.run(self.begin(function))

    def task(self, changeover: Changeover) -> Task:
        """The task that a changeover is for."""
        with self.database.read() as tx:
            found = tx.tasks.get(changeover.subject or "")
        assert found is not None
        return found


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path)
    yield cloud
    cloud.close()


def test_cyborg_publishes_and_we_open(cloud: Cloud) -> None:
    assert (cloud.functions, cloud.is_open()) == ({NONE}, True)
    done = cloud.program("aes")
    assert done.state is S.DONE
    assert cloud.functions == {"AES"}
    assert cloud.inventory == Inventory(total=1, max_unit=1)
    assert [image for _, image in cloud.service.calls] == [
        cloud.catalog.functions["aes"].artifact.image
    ]
    # Never offered before Cyborg had reported it, and closed until then.
    assert [functions for state, functions, _ in cloud.seen if state == S.VERIFYING]
    assert all(functions == {NONE} for state, functions, _ in cloud.seen if state == S.VERIFYING)
    assert not any(is_open for state, _, is_open in cloud.seen if state != S.DONE)


def test_what_cyborg_failed_to_say_is_said_for_it(cloud: Cloud) -> None:
    cloud.reports_fail = True
    done = cloud.program("aes")
    assert done.state is S.DONE
    assert cloud.functions == {NONE, "AES"}  # the old one is no function of the catalog: not ours
    assert cloud.is_open()
    cloud.reports_fail = False
    cloud.clock.advance(10 * PERIOD)
    assert "AES" in cloud.functions
    # Its next change comes after ours.
    assert cloud.program("gzip").state is S.DONE
    assert cloud.functions == {NONE, "GZIP"}


def test_a_report_that_never_comes_is_not_believed(cloud: Cloud) -> None:
    changeover = cloud.begin("aes")
    cloud.run(changeover, S.VERIFYING)
    cloud.service.agent_up = False
    ended = cloud.run(changeover)
    assert (ended.state, ended.reason.code) == (S.QUARANTINED, "program.wrong_function")
    assert cloud.functions == {NONE}
    assert not cloud.is_open()


def test_a_call_that_was_given_up_and_is_done_later_is_found_out(cloud: Cloud) -> None:
    going = threading.Event()
    cloud.service.rpc_seconds = 1.0
    cloud.service.program_hook = lambda _card, _spec: bool(going.wait(20.0))
    changeover = cloud.begin("aes")
    waiting = cloud.run(changeover, S.PROGRAMMING)
    sent = cloud.clock.now()
    assert waiting.reason.code == "program.unknown"
    going.set()
    while cloud.card.function != "AES":
        threading.Event().wait(0.01)
    done = cloud.run(changeover)
    assert done.state is S.DONE
    assert len(cloud.service.calls) == 1  # nothing was sent again
    assert cloud.clock.now() - sent > 0.9 * DRAIN  # nor believed while the call could still run
    assert cloud.functions == {"AES"}


def test_a_call_that_nobody_heard_is_sent_again_after_it_is_over(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, probe=False, function_failures=1)
    try:
        changeover = cloud.begin("aes")
        cloud.service.agent_up = False
        unknown = cloud.run(changeover, S.PROGRAMMING)
        assert (unknown.tries, unknown.reason.code) == (1, "program.unknown")
        sent = cloud.clock.now()
        while cloud.step(changeover).sent_at is not None:
            assert cloud.clock.now() - sent < 2 * DRAIN
        assert cloud.clock.now() - sent > DRAIN
        cloud.service.agent_up = True
        assert cloud.run(changeover).state is S.DONE
        assert len(cloud.service.calls) == 1
        with cloud.database.read() as tx:
            assert not tx.functions.stopped()  # a silent agent is no fault of the function
    finally:
        cloud.close()


def test_a_call_that_nobody_ever_hears_ends_in_quarantine(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, probe=False)
    try:
        changeover = cloud.begin("aes")
        cloud.service.agent_up = False
        ended = cloud.run(changeover)
        assert ended.state is S.QUARANTINED
        assert not cloud.is_open()
        assert cloud.functions == {NONE}
    finally:
        cloud.close()


def test_an_old_report_of_the_same_function_proves_nothing(tmp_path: Path) -> None:
    """Cyborg has said before that the card has what it is to be programmed with."""
    cloud = Cloud(tmp_path, probe=False)
    try:
        cloud.card.function = "AES"
        cloud.service.report(cloud.card, placement_fails=True)
        changeover = cloud.begin("aes")
        cloud.service.agent_up = False
        ended = cloud.run(changeover)
        assert ended.read_before == "aes"
        assert ended.state is S.QUARANTINED
        assert not cloud.is_open()
        assert cloud.functions == {NONE}
    finally:
        cloud.close()


def test_the_same_function_again_is_believed_when_a_report_must_have_come(cloud: Cloud) -> None:
    cloud.card.function = "AES"
    cloud.service.report(cloud.card, placement_fails=True)
    done = cloud.program("aes")
    assert (done.state, done.read_before) == (S.DONE, "aes")
    assert done.programmed_at is not None
    assert done.finished_at is not None
    assert done.finished_at - done.programmed_at >= 180.0
    assert cloud.is_open()


def test_a_dead_agent_gives_the_card_back(cloud: Cloud) -> None:
    before = cloud.placement.state(CARD)
    cloud.service.agent_up = False
    changeover = cloud.begin("aes")
    ended = cloud.run(changeover)
    assert (ended.state, ended.reason.code) == (S.ABANDONED, "host.programmer_silent")
    after = cloud.placement.state(CARD)
    assert (after.inventories, after.traits) == (before.inventories, before.traits)
    assert not cloud.service.calls


def test_a_silent_api_gives_the_card_back(cloud: Cloud) -> None:
    changeover = cloud.begin("aes")
    cloud.run(changeover, S.SETTLING)
    cloud.service.status = 503
    ended = cloud.run(changeover)
    assert (ended.state, ended.reason.code) == (S.ABANDONED, "host.programmer_silent")
    assert cloud.is_open()


def test_an_api_that_is_away_while_a_report_is_due_is_waited_for(cloud: Cloud) -> None:
    changeover = cloud.begin("aes")
    cloud.run(changeover, S.VERIFYING)
    cloud.service.status = 503
    away = cloud.clock.now()
    while cloud.clock.now() < away + 600.0:
        assert cloud.step(changeover).state is S.VERIFYING
    assert not cloud.is_open()
    cloud.service.status = None
    assert cloud.run(changeover).state is S.DONE


def test_an_api_that_stays_away_leaves_the_card_closed(cloud: Cloud) -> None:
    changeover = cloud.begin("aes")
    cloud.run(changeover, S.VERIFYING)
    cloud.service.status = 503
    ended = cloud.run(changeover)
    assert (ended.state, ended.reason.code) == (S.QUARANTINED, "program.unreadable")
    assert not cloud.is_open()


def test_a_wrong_address_gives_the_card_back(cloud: Cloud) -> None:
    changeover = cloud.begin("aes")
    del cloud.service.cards[cloud.card.uuid]
    ended = cloud.run(changeover)
    assert (ended.state, ended.reason.code) == (S.ABANDONED, "device.misdescribed")
    with cloud.database.read() as tx:
        assert not tx.functions.stopped()


def test_a_changed_image_gives_the_card_back(cloud: Cloud) -> None:
    image = cloud.catalog.functions["aes"].artifact.image or ""
    cloud.service.images[image].data = b'{"function": "EVIL"}'
    ended = cloud.program("aes")
    assert (ended.state, ended.reason.code) == (S.ABANDONED, "artifact.refused")
    assert cloud.is_open()
    assert not cloud.service.calls


@pytest.mark.parametrize("gone", [False, True])
def test_a_refused_image_ends_its_task_and_stops_its_function(cloud: Cloud, *, gone: bool) -> None:
    image = cloud.catalog.functions["aes"].artifact.image or ""
    if gone:
        del cloud.service.images[image]
    else:
        cloud.service.images[image].data = b'{"function": "EVIL"}'
    ended = cloud.program("aes")
    task = cloud.task(ended)
    assert (task.state, task.reason.code) == (TaskState.FAILED, "artifact.refused")
    assert task.reason.text == ended.reason.text
    with cloud.database.read() as tx:
        assert "functions --allow aes" in tx.functions.stopped()["aes"].text
    cloud.operator.program("aes", device="card")
    judge(cloud.world)
    with cloud.database.read() as tx:
        assert [c.id for c in tx.changeovers.latest(10)] == [ended.id]
        [queued] = tx.tasks.all(queued_only=True)
    assert queued.reason.code == "unmet.function_stopped"
    assert cloud.program("gzip").state is S.DONE


def test_a_wrong_address_ends_its_task(cloud: Cloud) -> None:
    changeover = cloud.begin("aes")
    del cloud.service.cards[cloud.card.uuid]
    task = cloud.task(cloud.run(changeover))
    assert (task.state, task.reason.code) == (TaskState.FAILED, "device.misdescribed")


def test_a_card_that_cyborg_has_bound_is_left_alone(cloud: Cloud) -> None:
    server = str(uuid4())
    cloud.service.arqs = [{"device_rp_uuid": CARD, "instance_uuid": server}]
    ended = cloud.program("aes")
    assert (ended.state, ended.reason.code) == (S.ABANDONED, "device.used_by_driver")
    assert server in ended.reason.text
    assert not cloud.service.calls


def test_another_function_than_asked_for_is_quarantined(cloud: Cloud) -> None:
    cloud.service.program_hook = lambda _card, spec: spec.update(function="GZIP")
    ended = cloud.program("aes")
    assert (ended.state, ended.reason.code) == (S.QUARANTINED, "program.wrong_function")
    assert not cloud.is_open()


def test_a_fence_that_cyborg_lifts_before_programming_is_seen(cloud: Cloud) -> None:
    changeover = cloud.begin("aes")
    cloud.run(changeover, S.SETTLING)
    cloud.service.reinventory(cloud.card)
    ended = cloud.run(changeover)
    assert (ended.state, ended.reason.code) == (S.ABANDONED, "fence.lifted")
    assert not cloud.service.calls


def test_a_fence_that_cyborg_lifts_afterwards_is_put_up_again(cloud: Cloud) -> None:
    changeover = cloud.begin("aes")
    cloud.run(changeover, S.VERIFYING)
    cloud.service.reinventory(cloud.card)
    assert cloud.is_open()
    cloud.step(changeover)
    assert not cloud.is_open()
    assert cloud.run(changeover).state is S.DONE


def test_who_came_in_while_the_fence_was_lifted_is_found(cloud: Cloud) -> None:
    changeover = cloud.begin("aes")
    cloud.run(changeover, S.VERIFYING)
    cloud.service.reinventory(cloud.card)
    assert cloud.placement.claim(str(uuid4()), {CARD: {"FPGA": 1}}, project="p", user="u")
    ended = cloud.run(changeover)
    assert (ended.state, ended.reason.code) == (S.QUARANTINED, "device.in_use")
    assert not cloud.is_open()


def test_a_count_that_changed_is_not_published(cloud: Cloud) -> None:
    changeover = cloud.begin("aes")
    cloud.run(changeover, S.VERIFYING)
    cloud.card.accelerators = 2
    cloud.service.reinventory(cloud.card)
    ended = cloud.run(changeover)
    assert (ended.state, ended.reason.code) == (S.QUARANTINED, "cyborg.count_changed")
    assert not cloud.is_open()


def test_an_empty_card_that_is_in_use_is_not_touched(cloud: Cloud) -> None:
    """It shows its slots whatever it holds: a server may have them that asks for no function."""
    assert cloud.placement.claim(str(uuid4()), {CARD: {"FPGA": 1}}, project="p", user="u")
    generation = cloud.placement.state(CARD).generation
    cloud.operator.program("aes", device="card", when="now-or-fail")
    judge(cloud.world)
    with cloud.database.read() as tx:
        (task,) = tx.tasks.all()
        assert not tx.changeovers.latest()
    assert task.reason.code == "unmet.no_device"
    assert cloud.placement.state(CARD).generation == generation


def test_cyborgs_write_between_ours_is_no_harm(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes its traits after our reading, before our inventory: ours is decided anew."""
    changeover = cloud.begin("aes")
    cloud.run(changeover, S.VERIFYING)
    real, struck = cloud.placement.put_inventories, 0

    def late(uuid: str, generation: int, inventories: Any) -> int:
        nonlocal struck
        if struck == 0:
            struck = 1
            cloud.card.function = "AES"
            state = cloud.placement.state(CARD)
            cloud.placement.ensure_traits(["CUSTOM_OTHER"])
            cloud.placement.put_traits(CARD, state.generation, state.traits | {"CUSTOM_OTHER"})
        return real(uuid, generation, inventories)

    monkeypatch.setattr(cloud.placement, "put_inventories", late)
    assert cloud.run(changeover).state is S.DONE
    assert struck
    assert "CUSTOM_OTHER" in cloud.placement.state(CARD).traits
    assert cloud.is_open()
