"""Switch each guard off, and see that the checker catches what then happens.

A checker that finds nothing proves nothing until it is known to find what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from story.test_crashes import carry_on
from story.world import AFTER, BEFORE, Cloud, HastyDriver, Stepper, Worker

from changeover.models.changeover import Changeover, Fence
from changeover.models.errors import OutcomeUnknown, Unreachable
from changeover.models.states import BootState, ChangeoverState
from changeover.worker import reboot as reboot_module
from changeover.worker.carry_out import CarryOut, fence, guards, outcome, program, publish
from changeover.worker.carry_out.job import Job
from changeover.worker.carry_out.runner import STEPS
from changeover.worker.carry_out.unfence import abandon
from changeover.worker.ports.programmer import ProgramResult
from changeover.worker.ports.servers import Listing
from changeover.worker.simulator.cards import Fault, FaultKind
from changeover.worker.world import World


def late_allocation(cloud: Cloud, device: str, after: float) -> None:
    """Somebody's allocation is admitted now and lands later, whatever is fenced by then."""
    provider = cloud.device(device).provider
    inventories, _ = cloud.placement.offers(provider)
    one = dict.fromkeys(inventories, 1)
    consumer = "00000000-0000-4000-8000-00000000beef"
    admitted = cloud.placement.admit(consumer, {provider: one}, project="p", user="u")
    assert admitted is not None
    cloud.clock.after(after, admitted.commit)


def found(cloud: Cloud, *signs: str) -> None:
    """The checker has found what is expected, by its invariant and words."""
    for sign in signs:
        assert any(sign in v for v in cloud.checker.violations), (
            sign,
            cloud.checker.violations,
            cloud.describe(),
        )


def unread(job: Job) -> Changeover:
    """A device that was programmed is not read back."""
    return job.move(ChangeoverState.PUBLISHING)


def quarantined(cloud: Cloud) -> list[str]:
    """Why devices are quarantined."""
    with cloud.database.read() as tx:
        return [
            c.reason.code for c in tx.changeovers.live() if c.state is ChangeoverState.QUARANTINED
        ]


def abandoned(cloud: Cloud) -> list[str]:
    """Why changeovers were given up."""
    with cloud.database.read() as tx:
        return [
            c.reason.code
            for c in tx.changeovers.latest(100)
            if c.state is ChangeoverState.ABANDONED
        ]


@pytest.mark.parametrize("settle", [10.0, 0.0])
def test_settling(tmp_path: Path, settle: float) -> None:
    """An allocation that was admitted before the fence lands three seconds after it."""
    with Cloud(tmp_path, settle_seconds=settle) as cloud:
        late_allocation(cloud, "gpu1", 2.0)
        cloud.fail_boot("vgpu.8q")
        carry_on(cloud, "a", 40.0)
        if settle:
            cloud.checker.check()
            assert abandoned(cloud) == ["device.in_use"]
            assert cloud.cards.function("gpu1") == "nvidia-35"
        else:
            found(cloud, "1: an allocation lands on gpu1 while it is programmed")
            assert quarantined(cloud) == ["device.in_use"], "seen afterwards, never published"


@pytest.mark.parametrize("guard", [True, False])
def test_the_last_look_before_publishing(tmp_path: Path, guard: bool) -> None:  # noqa: FBT001 - parametrised
    """With no settling, what lands during programming must never be published over."""
    with Cloud(tmp_path, settle_seconds=0.0) as cloud:
        late_allocation(cloud, "gpu1", 2.0)
        cloud.fail_boot("vgpu.8q")
        if guard:
            carry_on(cloud, "a", 40.0)
            assert not [v for v in cloud.checker.violations if "published" in v]
        else:
            with patch.object(publish, "seen_idle", lambda *_: None):
                carry_on(cloud, "a", 40.0)
            found(cloud, "1: gpu1 is published although used behind the fence")


@pytest.mark.parametrize("guard", [True, False])
def test_the_fence(tmp_path: Path, guard: bool) -> None:  # noqa: FBT001 - parametrised
    """Somebody boots on the device while it would be programmed."""
    with Cloud(tmp_path) as cloud:
        cloud.fail_boot("vgpu.8q")
        worker = cloud.worker("a")

        def others_boot(_: Worker, when: str, call: str) -> None:
            if (when, call) == (BEFORE, "programmer.program"):
                cloud.servers.boot("quick", "vgpu.2q")

        worker.plan = others_boot
        if guard:
            carry_on(cloud, "a", 40.0)
            assert cloud.checker.violations == []
        else:
            with ExitStack() as stack:
                for module in (fence, publish):
                    stack.enter_context(patch.object(module, "fenced", lambda before, *_: before))
                for module in (fence, guards, publish):
                    stack.enter_context(patch.object(module, "is_fenced", lambda *_: True))
                carry_on(cloud, "a", 40.0)
            found(
                cloud, "1: gpu1 is programmed while gpu1 is in use", "3: gpu1 is programmed while"
            )


@pytest.mark.parametrize("guard", [True, False])
def test_use_that_only_the_driver_sees(tmp_path: Path, guard: bool) -> None:  # noqa: FBT001 - parametrised
    with Cloud(tmp_path) as cloud:
        cloud.set_users("gpu1", "guest")
        cloud.fail_boot("vgpu.8q")
        if guard:
            carry_on(cloud, "a", 40.0)
            cloud.checker.check()
            assert "device.used_by_driver" in abandoned(cloud)
        else:
            with patch.object(program, "not_used_otherwise", lambda *_: None):
                carry_on(cloud, "a", 40.0)
            found(cloud, "1: gpu1 is programmed while gpu1 has users")


@pytest.mark.parametrize("guard", [True, False])
def test_a_host_that_is_down(tmp_path: Path, guard: bool) -> None:  # noqa: FBT001 - parametrised
    with Cloud(tmp_path) as cloud:
        cloud.fail_boot("vgpu.8q")
        cloud.set_host("host1", up=False)
        if guard:
            carry_on(cloud, "a", 40.0)
            cloud.checker.check()
            assert "host.down" in abandoned(cloud)
        else:
            with patch.object(program, "not_used_otherwise", lambda *_: None):
                carry_on(cloud, "a", 40.0)
            found(cloud, "1: gpu1 is programmed while its host is down")


def test_a_host_that_nova_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cloud(tmp_path) as cloud:
        cloud.fail_boot("vgpu.8q")
        monkeypatch.setattr(cloud.servers, "host_up", lambda _: None)
        carry_on(cloud, "a", 40.0)
        cloud.checker.check()
        assert "host.unknown" in abandoned(cloud)
        assert not cloud.checker.seen["programmed"]


@pytest.mark.parametrize("guard", [True, False])
def test_siblings_that_a_program_resets(tmp_path: Path, guard: bool) -> None:  # noqa: FBT001 - parametrised
    """Two regions of one card: the other is taken a moment before the fence."""
    with Cloud(tmp_path, resets="card") as cloud:
        cloud.operator.program("sha3", device="dyn1-r1")
        worker = cloud.worker("a")
        worker.judge()
        cloud.servers.boot("quick", "region.gzip")
        if guard:
            carry_on(cloud, "a", 40.0)
            cloud.checker.check()
            assert "device.in_use" in abandoned(cloud)
        else:
            real = Job.fences

            def only_itself(job: Job) -> list[Fence]:
                return [f for f in real(job) if f.provider == job.device.provider]

            with (
                patch.object(Job, "fences", only_itself),
                patch.object(World, "reset_with", lambda _, device: [device]),
            ):
                carry_on(cloud, "a", 40.0)
            found(cloud, "is in use", "while dyn1-r")


@pytest.mark.parametrize("guard", [True, False])
def test_timeouts_never_mean_success(tmp_path: Path, guard: bool) -> None:  # noqa: FBT001 - parametrised
    """The call is not answered and broke off: the device holds nothing."""
    with Cloud(tmp_path, program_tries=1) as cloud:
        cloud.cards.inject(Fault(FaultKind.DIE))
        cloud.fail_boot("vgpu.8q")

        def optimist(job: Job, _: ProgramResult) -> Changeover:
            return outcome._to_verifying(job)

        if guard:
            carry_on(cloud, "a", 40.0)
            cloud.checker.check()
            assert quarantined(cloud) == ["program.failed"]
        else:
            with (
                patch.object(program, "programmed", optimist),
                patch.dict(STEPS, {ChangeoverState.VERIFYING: unread}),
            ):
                carry_on(cloud, "a", 40.0)
            found(cloud, "3: gpu1 offers")


@pytest.mark.parametrize("guard", [True, False])
def test_reading_back(tmp_path: Path, guard: bool) -> None:  # noqa: FBT001 - parametrised
    """The tool reports success, and loaded something else."""
    with Cloud(tmp_path) as cloud:
        cloud.cards.inject(Fault(FaultKind.WRONG_FUNCTION, other="nvidia-36"))
        cloud.fail_boot("vgpu.8q")
        if guard:
            carry_on(cloud, "a", 40.0)
            cloud.checker.check()
            assert quarantined(cloud) == ["program.wrong_function"]
        else:
            with patch.dict(STEPS, {ChangeoverState.VERIFYING: unread}):
                carry_on(cloud, "a", 40.0)
            found(cloud, "3: gpu1 offers ['CUSTOM_VGPU_TYPE_NVIDIA_37'] and holds 'nvidia-36'")


@pytest.mark.parametrize("guard", [True, False])
def test_the_marker(tmp_path: Path, guard: bool) -> None:  # noqa: FBT001 - parametrised
    """The worker dies between the create and the commit that would say so."""
    with Cloud(tmp_path) as cloud:

        def die(worker: Worker, when: str, call: str) -> None:
            if (when, call) == (AFTER, "servers.create"):
                worker.die()

        cloud.worker("a").plan = die
        cloud.fail_boot("vgpu.8q")
        carry_on(cloud, "a")
        assert cloud.worker("a") is not None
        if guard:
            cloud.calm()
            cloud.checker.finally_()
            cloud.checker.check()
        else:
            with patch.object(type(cloud.servers), "find", lambda *_: Listing((), complete=True)):
                cloud.calm()
            found(cloud, "4: 2 successors")


@pytest.mark.parametrize("guard", [True, False])
def test_an_unanswered_create_is_waited_for(tmp_path: Path, guard: bool) -> None:  # noqa: FBT001 - parametrised
    """It is done late, but within the API's longest request time."""
    with Cloud(tmp_path) as cloud:
        from changeover.worker.simulator.servers import ServersFault  # noqa: PLC0415 - one use

        cloud.servers.inject(ServersFault.CREATE_LATE, seconds=4.0)
        cloud.fail_boot("vgpu.8q")
        if guard:
            cloud.calm()
            cloud.checker.finally_()
            cloud.checker.check()
        else:
            real = reboot_module._creating

            def at_once(world: Any, boot: Any) -> Any:
                if boot.sent_at is None:
                    return real(world, boot)
                reason = boot.reason
                return reboot_module._failed_again(world, boot, reason)

            steps = {**reboot_module._STEPS, BootState.CREATING: at_once}
            with (
                patch.object(reboot_module, "_creating", at_once),
                patch.object(reboot_module, "_STEPS", steps),
            ):
                cloud.calm()
            found(cloud, "4: 2 successors")


@pytest.mark.parametrize("guard", [True, False])
def test_a_paused_worker_is_not_entitled_any_more(tmp_path: Path, guard: bool) -> None:  # noqa: FBT001 - parametrised
    """Paused before it sends, for longer than its lease; another has done it all meanwhile."""
    driver = {} if guard else {"driver": HastyDriver}
    with Cloud(tmp_path, **driver) as cloud, Stepper(cloud) as stepper:
        cloud.fail_boot("vgpu.8q")
        a = cloud.worker("a")
        a.judge()
        cloud.hints.clear()
        with cloud.database.read() as tx:
            [changeover] = tx.changeovers.live()
        CarryOut(cloud.worker("b").world).advance(changeover.id)
        cloud.clock.advance(11.0)
        run = stepper.start(a, lambda: a.do(lambda w: CarryOut(w).advance(changeover.id)))
        while run.step(0) and a.trace[-1] != (BEFORE, "programmer.program"):
            pass
        cloud.clock.advance(20.0)
        cloud.calm()
        run.step()
        assert cloud.checker.seen["programmed"] == 1 or not guard
        if guard:
            cloud.calm()
            cloud.checker.finally_()
            cloud.checker.check()
        else:
            found(
                cloud, "1: gpu1 is programmed while gpu1 is in use", "3: gpu1 is programmed while"
            )


@pytest.mark.parametrize("guard", [True, False])
def test_undoing_voids_what_a_paused_worker_decided(tmp_path: Path, guard: bool) -> None:  # noqa: FBT001 - parametrised
    """Paused before it fences; the changeover is cancelled and undone; then it writes its fence."""
    with Cloud(tmp_path) as cloud, Stepper(cloud) as stepper:
        cloud.fail_boot("vgpu.8q")
        a = cloud.worker("a")
        a.judge()
        cloud.hints.clear()
        with cloud.database.read() as tx:
            [changeover] = tx.changeovers.live()
        run = stepper.start(a, lambda: a.do(lambda w: CarryOut(w).advance(changeover.id)))
        while run.step(0) and a.trace[-1] != (BEFORE, "placement.put_inventories"):
            pass
        cloud.clock.advance(20.0)
        cloud.operator.cancel(changeover.id)

        def undo_nothing(job: Job) -> Changeover:
            return abandon(job, job.changeover.reason)

        b = cloud.worker("b")
        cloud.operator.pause("so that nothing else begins")
        if guard:
            b.do(lambda w: CarryOut(w).advance(changeover.id))
        else:
            with patch.dict(STEPS, {ChangeoverState.UNFENCING: undo_nothing}):
                b.do(lambda w: CarryOut(w).advance(changeover.id))
        run.step()
        cloud.calm()
        cloud.checker.finally_()
        if guard:
            cloud.checker.check()
        else:
            found(cloud, "8: gpu1 is closed and no row says why")


def _wrong(error: Exception) -> Callable[[Worker, str, str], None]:
    def plan(_: Worker, when: str, call: str) -> None:
        if when == BEFORE and call.startswith(("placement.put", "servers.create")):
            raise error

    return plan


@pytest.mark.parametrize("error", [Unreachable("silent"), OutcomeUnknown("unanswered")])
def test_a_service_that_never_answers_loses_nothing(tmp_path: Path, error: Exception) -> None:
    """Two minutes of silence, then all goes on."""
    with Cloud(tmp_path) as cloud:
        cloud.worker("a").plan = _wrong(error)
        cloud.fail_boot("vgpu.8q")
        carry_on(cloud, "a", 120.0)
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        assert cloud.checker.seen["boot booted: boot.booted"] == 1
