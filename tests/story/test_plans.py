"""Plans that wait for a person: what becomes of them, and of the boots that they would serve."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from story.test_crashes import carry_on
from story.world import Cloud

from changeover.models.boot import Boot
from changeover.models.errors import Refuse
from changeover.models.states import BootState, PlanState
from changeover.worker.judge import REFUSAL_SECONDS
from changeover.worker.sweep import PLAN_LIFETIME

APPROVED_FIRST = {"nvidia-37": {"mode": "approve"}}


def boots(cloud: Cloud) -> list[Boot]:
    with cloud.database.read() as tx:
        return tx.boots.listed(over=None, limit=99)


def plan(cloud: Cloud, plan_id: str) -> dict[str, Any]:
    with cloud.database.read() as tx:
        found = tx.plans.get(plan_id)
    assert found is not None
    return found


def test_a_plan_that_nobody_decides_expires_and_its_boots_are_judged_again(tmp_path: Path) -> None:
    with Cloud(
        tmp_path, pools=APPROVED_FIRST, patience_seconds=7200.0, retry_seconds=5000.0
    ) as cloud:
        cloud.fail_boot("vgpu.8q")
        carry_on(cloud, "a")
        [boot] = boots(cloud)
        assert (boot.state, boot.reason.code) == (BootState.WAITING, "plan.not_acting")
        first = boot.reason.facts["plan"]
        assert first in boot.reason.text

        cloud.clock.advance(PLAN_LIFETIME - 1)
        assert cloud.worker("a").sweep()["plans_expired"] == 0
        cloud.clock.advance(2)
        assert cloud.worker("a").sweep()["plans_expired"] == 1
        expired = plan(cloud, first)
        assert (expired["state"], expired["decided_by"]) == (PlanState.EXPIRED, "sweep")
        with pytest.raises(Refuse, match=r"expired.*changeover plans"):
            cloud.operator.approve(first)
        with pytest.raises(Refuse, match="expired"):
            cloud.operator.refuse(first)

        # Long before its own next look: it must not send anybody to a plan that is gone.
        while cloud.deliver_due():
            pass
        [boot] = boots(cloud)
        second = boot.reason.facts["plan"]
        assert second != first
        assert plan(cloud, second)["state"] is PlanState.RECOMMENDED
        assert not cloud.checker.seen["programmed"]

        cloud.operator.approve(second)
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        [boot] = boots(cloud)
        assert boot.state is BootState.BOOTED
        assert cloud.checker.seen["programmed"] == 1
        assert plan(cloud, first)["state"] is PlanState.EXPIRED
        assert plan(cloud, second)["state"] is PlanState.EXECUTED


def test_what_was_refused_is_not_recommended_again_soon(tmp_path: Path) -> None:
    with Cloud(
        tmp_path, pools=APPROVED_FIRST, patience_seconds=7200.0, retry_seconds=60.0
    ) as cloud:
        cloud.fail_boot("vgpu.8q")
        carry_on(cloud, "a")
        [boot] = boots(cloud)
        first = boot.reason.facts["plan"]
        cloud.operator.refuse(first)
        cloud.clock.advance(1)
        carry_on(cloud, "a")
        [boot] = boots(cloud)
        assert (boot.reason.code, boot.reason.facts["plan"]) == ("plan.refused", first)
        for later, code in ((REFUSAL_SECONDS - 100, "plan.refused"), (200, "plan.not_acting")):
            cloud.clock.advance(later)
            carry_on(cloud, "a")
            [boot] = boots(cloud)
            assert boot.reason.code == code
        assert boot.reason.facts["plan"] != first
        assert plan(cloud, first)["state"] is PlanState.REFUSED
        assert not cloud.checker.seen["programmed"]


def test_of_equal_boots_each_is_told_why_it_waits(tmp_path: Path) -> None:
    """Those that the plan would serve wait for a person; no device is left for the others."""
    with Cloud(tmp_path, pools=APPROVED_FIRST) as cloud:
        for _ in range(4):
            cloud.fail_boot("vgpu.8q")
        carry_on(cloud, "a")
        cloud.clock.advance(cloud.settings.retry_seconds)
        carry_on(cloud, "a")  # those that wait already are noted together
        waiting = boots(cloud)
        [recommended] = {b.reason.facts["plan"] for b in waiting if "plan" in b.reason.facts}
        served = {p["subject"] for p in plan(cloud, recommended)["result"]["promises"]}
        codes = Counter(b.reason.code for b in waiting)
        assert {b.id for b in waiting if b.reason.code == "plan.not_acting"} == served
        assert 0 < codes["plan.not_acting"] < codes.total() == 4
        [other] = codes.keys() - {"plan.not_acting"}
        assert other.startswith("unmet.")
