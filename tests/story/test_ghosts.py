"""A worker that was paused between an effect and its note, until all that it knew is history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from story.test_guards import abandoned, late_allocation
from story.world import AFTER, BEFORE, Cloud, Stepper, Worker

from changeover.models.changeover import Changeover
from changeover.worker.carry_out import CarryOut
from changeover.worker.store.devices import DeviceRecord


def begin(cloud: Cloud, function: str, device: str) -> Changeover:
    """An operator's changeover, planned and not begun."""
    task = cloud.operator.program(function, device=device)
    cloud.worker("a").judge()
    cloud.hints.clear()
    cloud.operator.cancel(task.id)  # not to be planned again
    with cloud.database.write() as tx:
        [changeover] = tx.changeovers.live()
        tx.connection.exec_driver_sql("UPDATE changeovers SET cancel = 0")
    return changeover


def paused(
    cloud: Cloud, stepper: Stepper, changeover: Changeover, until: Callable[[Worker], bool]
) -> object:
    """Worker a at the boundary that fits, for longer than its lease."""
    a = cloud.worker("a")
    a.trace.clear()
    run = stepper.start(a, lambda: a.do(lambda w: CarryOut(w).advance(changeover.id)))
    while run.step(0) and not until(a):
        pass
    assert not run.over
    cloud.clock.advance(20.0)
    return run


def record(cloud: Cloud, device: str) -> DeviceRecord:
    """What is known of a device."""
    with cloud.database.read() as tx:
        found = tx.devices.get(device)
    assert found is not None
    return found


def noting(worker: Worker) -> bool:
    """It has written an inventory, and is about to note that."""
    return worker.trace[-2:] == [(AFTER, "placement.put_inventories"), (BEFORE, "database.write")]


def test_a_device_that_was_put_back_was_programmed_since(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud, Stepper(cloud) as stepper:
        changeover = begin(cloud, "nvidia-37", "gpu1")
        CarryOut(cloud.worker("b").world).advance(changeover.id)
        cloud.operator.cancel(changeover.id)
        cloud.clock.advance(11.0)
        run = paused(cloud, stepper, changeover, noting)
        cloud.calm()
        assert abandoned(cloud) == ["changeover.cancelled"]
        cloud.operator.program("nvidia-36", device="gpu1")
        cloud.calm()
        before = record(cloud, "gpu1")
        run.step()
        assert record(cloud, "gpu1") == before
        assert before.function == "nvidia-36"
        cloud.checker.finally_()
        cloud.checker.check()


def test_a_sibling_that_was_emptied_was_programmed_since(tmp_path: Path) -> None:
    with Cloud(tmp_path, resets="card") as cloud, Stepper(cloud) as stepper:
        changeover = begin(cloud, "sha3", "dyn1-r1")
        CarryOut(cloud.worker("b").world).advance(changeover.id)
        cloud.clock.advance(11.0)
        run = paused(cloud, stepper, changeover, noting)
        cloud.calm()
        cloud.operator.program("regex", device="dyn1-r2")
        cloud.calm()
        before = record(cloud, "dyn1-r2")
        run.step()
        assert record(cloud, "dyn1-r2") == before
        assert before.function == "regex"
        cloud.checker.finally_()
        cloud.checker.check()


def test_what_was_read_of_a_device_before_another_fenced_it_is_not_put_back(
    tmp_path: Path,
) -> None:
    """Paused before the journal; somebody takes a slot away; another worker fences and undoes."""
    with Cloud(tmp_path) as cloud, Stepper(cloud) as stepper:
        changeover = begin(cloud, "nvidia-37", "gpu1")
        provider = changeover.device
        run = paused(
            cloud,
            stepper,
            changeover,
            lambda a: (
                (BEFORE, "placement.state") in a.trace and a.trace[-1] == (BEFORE, "database.write")
            ),
        )
        generation, inventories = cloud.placement.inventories(provider)
        fewer = replace(inventories["VGPU"], total=6, max_unit=6)
        cloud.placement.put_inventories(provider, generation, {"VGPU": fewer})
        CarryOut(cloud.worker("b").world).advance(changeover.id)
        run.step()
        cloud.operator.cancel(changeover.id)
        cloud.touched_by_other.add(provider)
        cloud.calm()
        assert cloud.placement.inventories(provider)[1]["VGPU"].total == 6
        cloud.checker.finally_()
        cloud.checker.check()


@pytest.mark.parametrize("sent", [True, False])
def test_the_settle_time_is_over_when_it_is(tmp_path: Path, sent: bool) -> None:  # noqa: FBT001 - parametrised
    """The database fences and does not answer; somebody's late allocation is still to land."""
    from changeover.models.errors import Unreachable  # noqa: PLC0415 - one use

    with Cloud(tmp_path) as cloud:
        late_allocation(cloud, "gpu1", 3.0)
        changeover = begin(cloud, "nvidia-37", "gpu1")
        a = cloud.worker("a")
        a.trace.clear()

        def lose(worker: Worker, when: str, call: str) -> None:
            fenced = (AFTER, "placement.put_inventories") in worker.trace
            if sent and fenced and (when, call) == (AFTER, "database.write"):
                worker.plan = None
                raise Unreachable("the answer to the commit is lost")

        a.plan = lose
        a.do(lambda w: CarryOut(w).advance(changeover.id))
        cloud.calm()
        cloud.checker.check()
        assert abandoned(cloud) == ["device.in_use"]
