"""The catalog is edited while devices offer what it said before, and changeovers are under way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from story.test_ghosts import begin
from story.test_guards import abandoned
from story.test_lost import outcomes
from story.world import BEFORE, Cloud, Worker

from changeover.models.catalog import Catalog
from changeover.worker.refresh import look, sync_catalog


def restart(cloud: Cloud, catalog: Catalog) -> None:
    """Every process is started again with that catalog."""
    cloud.catalog = catalog
    for worker in cloud.workers.values():
        worker._world = replace(worker.world, catalog=catalog)
    sync_catalog(cloud.worker("calm").world)


def renamed(catalog: Catalog) -> Catalog:
    """The slots of all vGPU types have another resource class from now on."""
    return catalog.model_copy(
        update={
            "functions": {
                name: f.model_copy(update={"resource_class": "CUSTOM_VGPU"})
                if f.resource_class == "VGPU"
                else f
                for name, f in catalog.functions.items()
            }
        }
    )


def quickly(cloud: Cloud) -> Any:
    """Somebody boots on what is still offered, as the device is about to be programmed."""

    def boots(_: Worker, when: str, call: str) -> None:
        if (when, call) == (BEFORE, "programmer.program"):
            cloud.servers.boot("quick", "vgpu.2q")

    return boots


@pytest.mark.parametrize("planned", ["before", "after"])
def test_a_device_that_offers_a_class_of_old_is_not_closed(planned: str, tmp_path: Path) -> None:
    """Nothing that the catalog knows is open on it; yet servers may come at any moment."""
    with Cloud(tmp_path) as cloud:
        cloud.placement.ensure_resource_classes(["CUSTOM_VGPU"])
        cloud.worker("calm").plan = quickly(cloud)
        if planned == "before":
            begin(cloud, "nvidia-37", "gpu1")
        restart(cloud, renamed(cloud.catalog))
        if planned == "after":
            task = cloud.operator.program("nvidia-37", device="gpu1", when="now-or-fail")
            with cloud.database.read() as tx:
                [record] = [d for d in tx.devices.all() if d.name == "gpu1"]
            assert record.read_at is None, "not touched before it was read again"
        cloud.calm()
        cloud.checker.check()
        assert not cloud.checker.seen["programmed"]
        with cloud.database.read() as tx:
            [record] = [d for d in tx.devices.all() if d.name == "gpu1"]
            assert record.trouble is not None
            assert "CUSTOM_VGPU" not in record.trouble.text
            if planned == "after":
                found = tx.tasks.get(task.id)
                assert found is not None
                assert found.state == "failed"
        assert abandoned(cloud) == (["device.left_over"] if planned == "before" else [])
        assert outcomes(cloud) == {}
        restart(cloud, cloud.checker.catalog)
        look(cloud.worker("calm").world)
        with cloud.database.read() as tx:
            [record] = [d for d in tx.devices.all() if d.name == "gpu1"]
        assert (record.trouble, record.function) == (None, "nvidia-35")


def test_the_traits_of_a_function_that_was_deleted_go_with_it(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        functions = {n: f for n, f in cloud.catalog.functions.items() if n != "nvidia-35"}
        restart(cloud, cloud.catalog.model_copy(update={"functions": functions}))
        look(cloud.worker("calm").world)
        cloud.operator.program("nvidia-37", device="gpu1")
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        assert cloud.cards.function("gpu1") == "nvidia-37"
        _, traits = cloud.placement.offers(cloud.device("gpu1").provider)
        assert traits == {"CUSTOM_PGPU", "CUSTOM_VGPU_TYPE_NVIDIA_37"}
