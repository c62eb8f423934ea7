"""The type of a pGPU's vGPUs is changed by the operator's command, and the server boots."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.client import Changeover
from harness.install import FOLDER
from harness.providers import Providers
from harness.servers import Servers
from openstack.connection import Connection

from changeover.models.states import BootState

TYPES = {"NVIDIA_35": 4, "NVIDIA_36": 2}
"""Slots of a pGPU by the type that it is set to."""


def catalog(home: Path, pgpus: dict[str, str], host: str) -> dict[str, Any]:
    """One model of pGPU, set by the vendor's tool; ``pgpus``: provider by address."""
    tool = [sys.executable, str(FOLDER / "harness" / "vgpu_tool.py"), str(home)]
    return {
        "programmers": {
            "vgpu-tool": {
                "kind": "command",
                "program": [*tool, "set", "{address}", "{vgpu_type}"],
                "read": [*tool, "get", "{address}"],
                "timeout_seconds": 60,
                "lock_dir": str(home / "locks"),
            }
        },
        "models": {"pgpu": {"programmer": "vgpu-tool", "traits": ["CUSTOM_PGPU"]}},
        "functions": {
            name: {
                "traits": [f"CUSTOM_VGPU_TYPE_{name}"],
                "resource_class": "VGPU",
                "artifact": {"vgpu_type": name},
                "fits": {"pgpu": slots},
                "seconds": 1,
            }
            for name, slots in TYPES.items()
        },
        "devices": [
            {"name": f"gpu-{address}", "provider": provider, "model": "pgpu", "host": host,
             "address": address}
            for address, provider in pgpus.items()
        ],
    }  # fmt: skip


def test_a_vgpu_type_is_changed_by_the_operators_command(
    providers: Providers,
    alice: Connection,
    servers: Servers,
    changeover: Callable[..., Changeover],
    tmp_path: Path,
) -> None:
    tool_home = tmp_path / "pgpus"
    tool_home.mkdir()
    (tool_home / "af00").write_text("NVIDIA_35")
    provider = providers.below(
        "cmp3", "cmp3_pgpu_af00", traits=("CUSTOM_PGPU", "CUSTOM_VGPU_TYPE_NVIDIA_35"), VGPU=4
    )
    deployment = changeover(catalog(tool_home, {"af00": provider}, "cmp3"), host="cmp3")
    flavor = servers.flavor(resources__VGPU="1", trait__CUSTOM_VGPU_TYPE_NVIDIA_36="required")
    failed = servers.fails(alice, flavor)
    boot = deployment.outcome(failed)
    assert (tool_home / "af00").read_text() == "NVIDIA_36"
    assert providers.traits(provider) == {"CUSTOM_PGPU", "CUSTOM_VGPU_TYPE_NVIDIA_36"}
    assert providers.inventory(provider)["VGPU"]["total"] == TYPES["NVIDIA_36"]
    # Nobody opted in to servers being created: the owner boots again, and it works.
    assert boot.state == BootState.DECLINED, boot
    again = servers.boot(alice, flavor)
    assert servers.settles(again)["status"] == "ACTIVE"
    assert list(providers.allocations(provider)) == [again]
