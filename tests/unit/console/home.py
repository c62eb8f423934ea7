"""A deployment at rest: a catalog, a database with a bit of everything, a Placement or none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from changeover.models.boot import Boot
from changeover.models.catalog import Catalog
from changeover.models.changeover import Changeover
from changeover.models.flavor import Flavor
from changeover.models.placement import RequestGroup, ResourceRequest
from changeover.models.reasons import Reason
from changeover.models.states import BootState, ChangeoverState, PlanState
from changeover.policies.request import request_of_flavor
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.intake import Intake
from changeover.worker.migrate import upgrade
from changeover.worker.operate import Operator
from changeover.worker.settings import Settings
from changeover.worker.simulator.fleet import Shape, catalog_yaml, describe_fleet
from changeover.worker.store import Database

SCRIPT = Path(sys.executable).with_name("changeover")


@dataclass
class Home:
    """Where it is, and the ids of what is in it."""

    path: Path
    shape: Shape
    catalog: Catalog
    database: Database
    operator: Operator
    env: dict[str, str]
    waiting: str = ""
    server: str = ""
    declined: str = ""
    live: str = ""
    quarantined: str = ""
    task: str = ""
    plan: str = ""

    def provider(self, name: str) -> str:
        found = self.catalog.device(name)
        assert found is not None
        return found.provider

    def script(
        self, *words: str, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the real console script."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("CHANGEOVER_")}
        return subprocess.run(
            [SCRIPT, *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.path,
            env={**clean, **self.env, **(env or {})},
        )


def make_home(path: Path) -> Home:
    """Make one with an empty database."""
    shape = Shape()
    (path / "catalog.yaml").write_text(catalog_yaml(shape), encoding="utf-8")
    url = f"sqlite:///{path / 'changeover.sqlite'}"
    upgrade(url)
    fleet = describe_fleet(shape)
    database = Database(url)
    env = {"CHANGEOVER_STATE_DIR": str(path)}
    operator = Operator(database, lambda: fleet.catalog, SystemClock(), "tester")
    return Home(path, shape, fleet.catalog, database, operator, env)


def copy_of(home: Home, path: Path, placement: str | None = None) -> Home:
    """The same again elsewhere: quicker than to make and fill another."""
    for name in ("catalog.yaml", "changeover.sqlite"):
        shutil.copy(home.path / name, path / name)
    database = Database(f"sqlite:///{path / 'changeover.sqlite'}")
    with database.write() as tx:
        tx.switches.beat("worker:here:1", "worker", time.time())
    env = {"CHANGEOVER_STATE_DIR": str(path)}
    if placement is not None:
        env["CHANGEOVER_PLACEMENT_ENDPOINT"] = placement
    operator = replace(home.operator, database=database)
    return replace(home, path=path, database=database, operator=operator, env=env)


def fill(home: Home) -> None:
    """A bit of everything, through the store."""
    now = time.time()
    fleet = describe_fleet(home.shape)
    with home.database.write() as tx:
        tx.devices.sync(home.catalog)
        tx.functions.sync(home.catalog, now)
        for device in home.catalog.devices:
            name = fleet.initial[device.name] or None
            slots = home.catalog.functions[name].fits[device.model] if name else 0
            tx.devices.update(device.provider, function=name, slots=slots, read_at=now)
        tx.devices.update(home.provider("fpga12"), used=1)
    ipsec = next(f for f in fleet.flavors if f.name == "fpga.ipsec")
    home.waiting = _boot(home, ipsec, BootState.WAITING, now)
    home.declined = _boot(home, ipsec, BootState.DECLINED, now - 60)
    home.task = home.operator.program("aes", count=2).id
    home.live = _changeover(home, "fpga4", ChangeoverState.SETTLING, now)
    home.quarantined = _changeover(home, "fpga9", ChangeoverState.QUARANTINED, now)
    home.plan = str(uuid4())
    with home.database.write() as tx:
        tx.plans.add(
            plan_id=home.plan,
            now=now,
            state=PlanState.EXECUTED,
            inputs={},
            result={"intents": [intent(home.provider("fpga4"))], "value": 1.0, "cost": 0.1},
        )
    Intake(home.database, SystemClock(), Settings(state_dir=home.path)).accept("{", source="test")


def intent(provider: str) -> dict[str, Any]:
    """What a stored plan says of a device that is to get aes."""
    return {
        "device": provider,
        "host": "host4",
        "from_function": None,
        "to_function": "aes",
        "slots": 1,
        "gain": 1.0,
        "cost": 0.1,
        "reasons": [Reason("plan.serves", "1 slot of aes serves 1 waiting.").as_json()],
    }


def recommended(home: Home, *names: str) -> str:
    """A recommended plan that gives each of the devices aes."""
    devices = [home.provider(name) for name in names]
    plan_id = str(uuid4())
    with home.database.write() as tx:
        tx.plans.add(
            plan_id=plan_id,
            now=home.operator.clock.now(),
            state=PlanState.RECOMMENDED,
            inputs={},
            result={"intents": [intent(uuid) for uuid in devices], "value": 1.0, "cost": 0.1},
            devices=devices,
        )
    return plan_id


def _boot(home: Home, flavor: Flavor, state: BootState, at: float) -> str:
    asked = request_of_flavor(flavor).request
    boot = Boot(
        id=str(uuid4()),
        server=str(uuid4()),
        project="demo",
        user="alice",
        name=flavor.name,
        group_id="req-1",
        request=asked,
        request_key=asked.key,
        device_profile=None,
        state=BootState.RECEIVED,
        reason=Reason("boot.received", "accepted, not judged yet"),
        priority=1.0,
        failed_at=at - 5,
        received_at=at,
        expires_at=at + 3600,
        wake_at=at,
        attempt=0,
    )
    with home.database.write() as tx:
        tx.boots.add(boot)
        reason = Reason("unmet.no_device", "no device that fits may be programmed")
        tx.boots.move(boot, state, at, reason=reason, wake_at=at + 1800)
        tx.events.add(
            message_id=str(uuid4()),
            kind="BuildFailed",
            source="listener",
            server=boot.server,
            project=boot.project,
            facts={},
            received_at=at,
            outcome="boot",
            boot_id=boot.id,
        )
    if state is BootState.WAITING:
        home.server = boot.server
    return boot.id


def _changeover(home: Home, device: str, state: ChangeoverState, at: float) -> str:
    provider = home.provider(device)
    changeover = Changeover(
        id=str(uuid4()),
        device=provider,
        host="host4",
        from_function=None,
        to_function="aes",
        kind="floor",
        subject=None,
        plan_id=None,
        state=state,
        reason=Reason("changeover.example", f"{device} is an example"),
        priority=1.0,
        created_at=at,
        updated_at=at,
        due_at=at,
        tries=0,
        failures=0,
        cancel=False,
    )
    with home.database.write() as tx:
        tx.changeovers.add(changeover)
        tx.fences.add([provider], changeover.id)
    return changeover.id


def a_request(*traits: str) -> ResourceRequest:
    """A request for one FPGA with these traits."""
    group = RequestGroup(resources={"CUSTOM_FPGA": 1}, required=frozenset(traits))
    return ResourceRequest(groups=(group,))
