"""Draining and observing leave the cloud as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from story.test_crashes import carry_on
from story.world import Cloud, Worker

from changeover.models.states import BootState, TaskState


def picture(cloud: Cloud) -> dict[str, Any]:
    """What every device offers."""
    return {d.name: cloud.placement.offers(d.provider) for d in cloud.catalog.devices}


def test_draining_at_any_boundary_undoes_what_was_not_programmed(tmp_path: Path) -> None:
    number, undone = 0, 0
    while True:
        number += 1
        with Cloud(tmp_path / str(number)) as cloud:
            before = picture(cloud)
            passed = 0

            def drain(_: Worker, _when: str, _call: str, cloud: Cloud = cloud) -> None:
                nonlocal passed
                passed += 1
                if passed == number:  # noqa: B023 - called within this turn of the loop
                    cloud.operator.drain()

            cloud.worker("a").plan = drain
            cloud.fail_boot("vgpu.8q")
            carry_on(cloud, "a")
            cloud.calm()
            cloud.checker.finally_()
            cloud.checker.check()
            if passed < number:
                break
            if not cloud.checker.seen["programmed"]:
                undone += 1
                assert picture(cloud) == before, number
                assert not cloud.checker.seen["created again"]
    assert undone > 20


def test_observing_touches_nothing(tmp_path: Path) -> None:
    functions = ("aes", "gzip", "sha3", "regex", "ipsec", "nvidia-35", "nvidia-36", "nvidia-37")
    pools: dict[str, dict[str, object]] = {name: {"mode": "observe"} for name in functions}
    pools["gzip"]["min_free"] = 4
    with Cloud(tmp_path, pools=pools) as cloud:
        before = picture(cloud)
        for flavor in ("vgpu.8q", "fpga.regex", "fpga.ipsec"):
            cloud.fail_boot(flavor)
        cloud.worker("a").judge(floors=True)
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        assert picture(cloud) == before
        touched = {e.kind for e in cloud.witness.events if e.actor != "cloud"}
        assert not touched, touched
        with cloud.database.read() as tx:
            assert tx.plans.latest(), "but it recommends"
            assert {b.state for b in tx.boots.listed(over=None, limit=9)} == {BootState.EXPIRED}


def test_what_is_paused_starts_nothing_and_goes_on_after(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        cloud.operator.pause("a look first")
        task = cloud.operator.program("sha3", device="fpga4")
        cloud.fail_boot("vgpu.8q")
        carry_on(cloud, "a")
        assert not cloud.checker.seen["programmed"]
        cloud.operator.resume()
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        assert cloud.checker.seen["boot booted: boot.booted"] == 1
        with cloud.database.read() as tx:
            done = tx.tasks.get(task.id)
        assert done is not None
        assert done.state is TaskState.DONE


def test_a_released_card_is_programmed_again(tmp_path: Path) -> None:
    """Quarantined with its sibling, released: closed until the next changeover, then as before."""
    from changeover.worker.simulator.cards import Fault, FaultKind  # noqa: PLC0415 - one use

    with Cloud(tmp_path, resets="card", program_tries=1) as cloud:
        cloud.cards.inject(Fault(FaultKind.FAIL))
        task = cloud.operator.program("sha3", device="dyn1-r1")
        cloud.calm()
        cloud.checker.check()
        cloud.operator.cancel(task.id)
        cloud.operator.release("dyn1-r1")
        cloud.calm()
        cloud.checker.check()
        offers = picture(cloud)
        for name in ("dyn1-r1", "dyn1-r2"):
            assert all(inv.capacity == 0 for inv in offers[name][0].values()), "still closed"
        cloud.operator.program("regex", device="dyn1-r2")
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        offers = picture(cloud)
        for name in ("dyn1-r1", "dyn1-r2"):
            assert all(inv.capacity == 1 for inv in offers[name][0].values()), "open again"
        assert cloud.cards.function("dyn1-r2") == "regex"
