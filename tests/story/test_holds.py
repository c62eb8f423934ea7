"""Slots that were held are opened, whoever died halfway; slots that others reserve stay theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from story.world import Cloud

VGPU = "VGPU"


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
