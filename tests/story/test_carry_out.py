"""What each step of a changeover leaves when it is raced, cancelled or killed just there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from story.test_crashes import carry_on
from story.world import AFTER, BEFORE, Cloud, Stepper, Worker

from changeover.models.catalog import Device
from changeover.models.changeover import Changeover
from changeover.models.errors import Unreachable
from changeover.models.states import ChangeoverState
from changeover.worker.carry_out import CarryOut
from changeover.worker.simulator.cards import Fault, FaultKind

VGPU = "VGPU"


def planned(cloud: Cloud) -> Changeover:
    """The one changeover under way; nobody has a hint of it."""
    cloud.worker("a").judge()
    cloud.hints.clear()
    with cloud.database.read() as tx:
        [changeover] = tx.changeovers.live()
    return changeover


def advance(worker: Worker, changeover: Changeover) -> ChangeoverState | None:
    """Take it as far as it goes now."""
    state: ChangeoverState | None = worker.do(lambda world: CarryOut(world).advance(changeover.id))
    return state


def calls_of(cloud: Cloud, device: str) -> list[str]:
    """The tokens of the calls that a card was sent."""
    return [line["token"] for line in cloud.cards.journal(device) if line["event"] == "start"]


def test_a_call_is_not_counted_anew_when_who_counted_the_last_one_is_killed(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        tries = cloud.settings.program_tries
        cloud.cards.inject(Fault(FaultKind.FAIL, times=None))

        def plan(worker: Worker, when: str, call: str) -> None:
            if (when, call) == (AFTER, "database.write") and len(calls_of(cloud, "gpu1")) == tries:
                worker.die()

        worker = cloud.worker("a")
        worker.plan = plan
        cloud.fail_boot("vgpu.8q")
        carry_on(cloud, "a", 120.0)
        assert worker.dead
        cloud.calm()
        assert len(calls_of(cloud, "gpu1")) == tries
        with cloud.database.read() as tx:
            assert [c.state for c in tx.changeovers.live()] == [ChangeoverState.QUARANTINED]


def test_a_driver_that_never_answers_gives_the_device_back(tmp_path: Path) -> None:
    """What was not sent is not counted: after a call, nobody would know what the device has."""
    with Cloud(tmp_path) as cloud:

        def silent(_: Worker, when: str, call: str) -> None:
            if (when, call) == (BEFORE, "programmer.program"):
                raise Unreachable("nobody answers")

        cloud.fail_boot("vgpu.8q")
        changeover = planned(cloud)
        worker = cloud.worker("a")
        worker.plan = silent
        for _ in range(10):
            cloud.clock.advance(20.0)
            advance(worker, changeover)
        with cloud.database.read() as tx:
            [ended] = [c for c in tx.changeovers.latest() if c.id == changeover.id]
        assert (ended.state, ended.reason.code) == (
            ChangeoverState.ABANDONED,
            "host.programmer_silent",
        )
        assert cloud.placement.inventories(changeover.device)[1][VGPU].reserved == 0


def test_who_was_taken_over_sends_nothing_though_its_call_is_still_the_last(tmp_path: Path) -> None:
    """The other has seen only that nothing is at work: it has sent no call of its own yet."""
    with Cloud(tmp_path) as cloud, Stepper(cloud) as stepper:
        cloud.fail_boot("vgpu.8q")
        changeover = planned(cloud)
        advance(cloud.worker("b"), changeover)
        cloud.clock.advance(11.0)
        a = cloud.worker("a")
        run = stepper.start(a, lambda: advance(a, changeover))
        while run.step(0) and a.trace[-1] != (BEFORE, "programmer.program"):
            pass
        cloud.clock.advance(20.0)
        advance(cloud.worker("b"), changeover)
        assert calls_of(cloud, "gpu1") == []
        run.step()
        assert calls_of(cloud, "gpu1") == []
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        assert len(calls_of(cloud, "gpu1")) == 1


@pytest.mark.parametrize(
    ("open_until", "state"),
    [(60.0, ChangeoverState.DONE), (1.0, ChangeoverState.SETTLING)],
    ids=["closed for long", "closed a moment ago"],
)
def test_a_device_that_offers_nothing_settles_unless_that_is_known_for_long(
    tmp_path: Path, open_until: float, state: ChangeoverState
) -> None:
    with Cloud(tmp_path) as cloud:
        device = cloud.device("gpu1")
        generation, inventories = cloud.placement.inventories(device.provider)
        rest = {rc: inventory for rc, inventory in inventories.items() if rc != VGPU}
        generation = cloud.placement.put_inventories(device.provider, generation, rest)
        now = cloud.clock.now()
        with cloud.database.write() as tx:
            tx.devices.update(
                device.provider,
                function=None,
                slots=0,
                generation=generation,
                read_at=now,
                offered_until=now - open_until,
            )
        cloud.operator.program("nvidia-37", device="gpu1", when="idle")
        assert advance(cloud.worker("a"), planned(cloud)) is state


def reserve_one(cloud: Cloud, device: Device) -> None:
    """Somebody else keeps one slot of a device for himself."""
    generation, inventories = cloud.placement.inventories(device.provider)
    reserved = {**inventories, VGPU: replace(inventories[VGPU], reserved=1)}
    cloud.placement.put_inventories(device.provider, generation, reserved)


def test_what_others_wrote_just_before_the_fence_is_put_back(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        device = cloud.device("gpu1")
        worker = cloud.worker("a")
        written: list[str] = []

        def plan(_: Worker, when: str, call: str) -> None:
            if (when, call) == (BEFORE, "placement.put_inventories") and not written:
                written.append(call)
                reserve_one(cloud, device)

        cloud.fail_boot("vgpu.8q")
        changeover = planned(cloud)
        worker.plan = plan
        assert advance(worker, changeover) is ChangeoverState.SETTLING
        assert written
        cloud.operator.cancel(changeover.id)
        cloud.operator.pause("so that nothing else begins")
        cloud.clock.advance(cloud.settings.settle_seconds)
        assert advance(worker, changeover) is ChangeoverState.ABANDONED
        assert cloud.placement.inventories(device.provider)[1][VGPU].reserved == 1


CONSUMER = "00000000-0000-4000-8000-00000000beef"


@dataclass
class Late:
    """An allocation that was admitted before the fence, and lands at a worker's call."""

    cloud: Cloud
    when: str
    call: str
    landed: bool = False

    def __post_init__(self) -> None:
        held = {self.cloud.device("gpu1").provider: {VGPU: 1}}
        self.admitted = self.cloud.placement.admit(CONSUMER, held, project="p", user="u")

    def __call__(self, _: Worker, when: str, call: str) -> None:
        """Land: this is a worker's plan."""
        if (when, call) == (self.when, self.call) and not self.landed:
            self.landed = True
            assert self.admitted is not None
            self.admitted.commit()


def test_an_allocation_that_lands_between_the_last_two_looks_stops_the_program(
    tmp_path: Path,
) -> None:
    """Somebody else's write has moved the generation: one look does not say both any more."""
    with Cloud(tmp_path) as cloud:
        device, worker = cloud.device("gpu1"), cloud.worker("a")
        late = Late(cloud, BEFORE, "placement.state")
        cloud.fail_boot("vgpu.8q")
        changeover = planned(cloud)
        assert advance(worker, changeover) is ChangeoverState.SETTLING
        state = cloud.placement.state(device.provider)
        cloud.placement.ensure_traits({"CUSTOM_RACK"})
        traits = state.traits | {"CUSTOM_RACK"}
        cloud.placement.put_traits(device.provider, state.generation, traits)
        cloud.clock.advance(cloud.settings.settle_seconds)
        worker.plan = late
        assert advance(worker, changeover) is ChangeoverState.ABANDONED
        assert late.landed
        assert calls_of(cloud, "gpu1") == []


def test_an_allocation_that_lands_as_the_device_is_published_quarantines_it(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        worker = cloud.worker("a")
        late = Late(cloud, AFTER, "placement.put_inventories")
        cloud.fail_boot("vgpu.8q")
        changeover = planned(cloud)
        advance(worker, changeover)
        cloud.clock.advance(cloud.settings.settle_seconds)
        worker.plan = late
        assert advance(worker, changeover) is ChangeoverState.QUARANTINED
        assert late.landed
        with cloud.database.read() as tx:
            [quarantined] = tx.changeovers.live()
        assert (quarantined.reason.code, quarantined.reason.facts["consumers"]) == (
            "device.in_use",
            [CONSUMER],
        )
