"""A lease of the embedded cloud has its device programmed before it starts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from story.world import Cloud

from changeover.worker.adapters.reservations_simulated import SimulatedReservations
from changeover.worker.judge import judge
from changeover.worker.ports.servers import ServerStatus
from changeover.worker.reserve import reserve

RECORDED = Path(__file__).parents[1] / "data" / "blazar" / "leases.json"


def lease(cloud: Cloud, flavor: str, starts_at: float) -> dict[str, Any]:
    """The recorded reservation of a flavor, with another flavor and another time."""
    found: dict[str, Any] = next(
        one
        for one in json.loads(RECORDED.read_text(encoding="utf-8"))["leases"]
        if one["reservations"][0]["resource_type"] == "flavor:instance"
    )
    wanted = cloud.servers.flavor(flavor)
    kept = json.loads(found["reservations"][0]["resource_properties"])
    kept.update(name=wanted.name, vcpus=wanted.vcpus, ram=wanted.memory_mb, disk=wanted.root_gb)
    kept["extra_specs"] = dict(wanted.extra_specs)
    found["reservations"][0]["resource_properties"] = json.dumps(kept)
    for key, at in (("start_date", starts_at), ("end_date", starts_at + 3600.0)):
        found[key] = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return found


def test_a_leased_device_is_programmed_before_the_lease_starts(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    leases = SimulatedReservations(path)
    with Cloud(tmp_path, reservation_margin_seconds=300.0) as cloud:
        worker, starts_at = cloud.worker("a"), cloud.clock.now() + 5_000.0

        def look() -> None:
            if worker.do(lambda world: reserve(world, leases)):
                worker.do(judge)
            cloud.calm(seconds=60.0)

        assert leases.upcoming(0.0) == [], "there is no file yet"
        booked = lease(cloud, "fpga.regex", starts_at)
        path.write_text(json.dumps({"leases": [booked]}), encoding="utf-8")
        look()
        assert not cloud.checker.seen["programmed"], "it is not due yet"
        cloud.clock.advance(starts_at - cloud.clock.now() - 300.0)
        look()
        assert cloud.clock.now() < starts_at
        with cloud.database.read() as tx:
            [record] = tx.reservations.all()
            [kept] = tx.keeps.standing(cloud.clock.now(), subject=record.id)
            [device] = [r for r in tx.devices.all() if r.provider == kept.device]
        assert (record.reservation.lease, device.function) == (booked["id"], "regex")
        [server] = cloud.servers.boot("lessee", "fpga.regex")
        made = cloud.servers.get(server)
        assert made is not None
        assert made.status is ServerStatus.ACTIVE
        cloud.checker.finally_()
        cloud.checker.check()
