"""Slots that were held are opened, whoever died halfway; slots that others reserve stay theirs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from story.world import BEFORE, Cloud, Stepper

from changeover.models.flavor import Flavor
from changeover.models.states import BootState
from changeover.worker.reboot import reboot

VGPU = "VGPU"

OPENING = range(4, 12)
"""Steps of a boot's worker from what it is promised to its create."""


@pytest.mark.parametrize(
    ("by_row", "in_placement", "left"),
    [
        pytest.param(2, 2, 0, id="held-no-more"),
        pytest.param(2, 1, 0, id="killed-after-opening-one"),
        pytest.param(0, 1, 1, id="reserved-by-an-operator"),
        pytest.param(1, 2, 2, id="raised-by-an-operator"),
    ],
)
def test_what_is_held_for_nobody_is_opened(
    by_row: int, in_placement: int, left: int, tmp_path: Path
) -> None:
    with Cloud(tmp_path) as cloud:
        cloud.fail_boot("vgpu.8q")
        cloud.calm()
        with cloud.database.read() as tx:
            [made] = [c for c in tx.changeovers.latest() if c.to_function == "nvidia-37"]
        generation, inventories = cloud.placement.inventories(made.device)
        assert (inventories[VGPU].total, inventories[VGPU].reserved) == (2, 0)
        reserved = replace(inventories[VGPU], reserved=in_placement)
        cloud.placement.put_inventories(made.device, generation, {**inventories, VGPU: reserved})
        with cloud.database.write() as tx:
            tx.devices.update(made.device, reserved=by_row)
        cloud.worker("a").sweep()
        assert cloud.placement.inventories(made.device)[1][VGPU].reserved == left


def two_ready(cloud: Cloud) -> list[str]:
    """Two boots for which one device was programmed, to be created by whoever comes first."""
    cloud.request("vgpu.8q", count=2)
    worker = cloud.worker("before")
    worker.judge()
    while True:
        with cloud.database.read() as tx:
            ready = [boot.id for boot in tx.boots.in_states([BootState.READY])]
            devices = {p.device for boot in ready for p in tx.boots.promises(boot=boot)}
        if ready:
            assert (len(ready), len(devices)) == (2, 1)
            cloud.hints.clear()
            return ready
        cloud.clock.advance(max(0.0, min(h.due_at for h in cloud.hints) - cloud.clock.now()))
        for hint in cloud.due():
            cloud.hints.remove(hint)
            worker.take(hint)


@pytest.mark.parametrize("first", OPENING)
def test_two_boots_open_one_device_at_once(first: int, tmp_path: Path) -> None:
    """Wherever the one and the other are paused as they open their slots, none stays held."""
    for second in OPENING:
        with Cloud(tmp_path / str(second)) as cloud, Stepper(cloud) as stepper:
            workers = [cloud.worker("a"), cloud.worker("b")]
            runs = [
                stepper.start(worker, partial(reboot, worker.world, boot))
                for worker, boot in zip(workers, two_ready(cloud), strict=True)
            ]
            for run, steps in zip(runs, (first, second), strict=True):
                run.step(steps)
            for run in runs:
                run.step()
            for worker in workers:
                assert worker.trace[OPENING[0]] == (BEFORE, "database.read")
                assert (BEFORE, "servers.create") in worker.trace[OPENING[0] :]
            cloud.calm()
            cloud.checker.finally_()
            assert not cloud.checker.violations, (second, cloud.checker.violations)
            assert cloud.checker.seen["boot booted: boot.booted"] == 2, second


def test_what_one_device_gives_to_two_needs_of_a_boot_is_held_for_both(tmp_path: Path) -> None:
    """Another boot that is judged meanwhile must not be promised the second slot."""
    with Cloud(tmp_path, patience_seconds=60.0) as cloud:
        specs = {"group_policy": "none"}
        for group in "12":
            specs[f"resources{group}:{VGPU}"] = "1"
            specs[f"trait{group}:CUSTOM_VGPU_TYPE_NVIDIA_37"] = "required"
        two = Flavor(
            name="two", flavorid="two", vcpus=1, memory_mb=64, root_gb=1, extra_specs=specs
        )
        cloud.servers.add_flavor(two)
        cloud.fail_boot("two")
        cloud.worker("a").judge()
        with cloud.database.read() as tx:
            assert [p.slots for p in tx.boots.promises()] == [2]
        cloud.fail_boot("vgpu.8q")
        cloud.calm()
        with cloud.database.read() as tx:
            boots = {boot.name: boot for boot in tx.boots.listed(over=True, limit=9)}
        assert (boots["two"].state, boots["two"].attempt) == (BootState.BOOTED, 1)
        cloud.checker.finally_()
        cloud.checker.check()
