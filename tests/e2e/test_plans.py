"""A pool that waits for a person: nothing is done before the plan is approved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.deployment import Deployment, deployed, eventually

from changeover.models.errors import Refuse
from changeover.models.states import BootState, PlanState
from changeover.worker.replan import replan
from changeover.worker.simulator.fleet import catalog_yaml


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    home = tmp_path_factory.mktemp("plans")
    waits = "pools:\n  nvidia-37:\n    mode: approve\n"
    catalog = catalog_yaml().replace("pools:\n", waits)
    (home / "catalog.yaml").write_text(catalog, encoding="utf-8")
    with deployed(home) as deployment:
        yield deployment


def test_a_plan_waits_is_approved_and_executed(cloud: Deployment) -> None:
    [server] = cloud.servers.boot("x", "vgpu.8q")

    def recommended() -> str | None:
        with cloud.database.read() as tx:
            boot = tx.boots.of_server(server)
            open_plans = tx.plans.open()
        waits = boot is not None and boot.reason.code == "plan.not_acting"
        return open_plans[0]["id"] if waits and open_plans else None

    plan_id = eventually(recommended)
    assert not [j for j in cloud.cards.journal() if j["event"] == "start"]
    assert replan(cloud.database, plan_id).same
    cloud.operator.approve(plan_id)
    assert cloud.outcome(server).state is BootState.BOOTED
    with cloud.database.read() as tx:
        plan = tx.plans.get(plan_id)
    assert plan is not None
    assert plan["state"] is PlanState.EXECUTED
    with pytest.raises(Refuse, match="only recommended ones are decided"):
        cloud.operator.refuse(plan_id)
