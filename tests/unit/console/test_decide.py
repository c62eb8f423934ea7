"""A person's word on plans: all of one, some devices of it, or none."""

from __future__ import annotations

from unit.console.conftest import Teller
from unit.console.home import Home, recommended

from changeover.models.states import PlanState


def _stored(home: Home, plan_id: str) -> tuple[PlanState, list[str]]:
    with home.database.read() as tx:
        plan = tx.plans.get(plan_id)
    assert plan is not None
    return plan["state"], plan["devices"]


def test_some_devices_of_a_plan_are_approved(tell: Teller, home: Home) -> None:
    for words in (("--only", "fpga4"), ("--without", "fpga9")):
        plan = recommended(home, "fpga4", "fpga9")
        assert tell("plan", "approve", plan, *words, "--json").json["approved"] == ["fpga4"]
        assert _stored(home, plan) == (PlanState.APPROVED, [home.provider("fpga4")])
        told = tell("plan", "refuse", plan)
        assert told.status == 2
        assert "only recommended ones are decided" in told.err


def test_what_cannot_be_approved_decides_nothing(tell: Teller, home: Home) -> None:
    plan = recommended(home, "fpga4", "fpga9")
    both = sorted(home.provider(name) for name in ("fpga4", "fpga9"))
    for words, said in (
        (("--only", "fpga12"), "it has: fpga4, fpga9"),
        (("--without", "fpga4", "--without", "fpga9"), "refuse it instead"),
    ):
        told = tell("plan", "approve", plan, *words)
        assert told.status == 2
        assert said in told.err
        state, devices = _stored(home, plan)
        assert (state, sorted(devices)) == (PlanState.RECOMMENDED, both)
    assert tell("plan", "refuse", plan, "--json").json == {"plan": plan, "refused": True}
    assert _stored(home, plan)[0] is PlanState.REFUSED


def test_an_expired_plan_says_where_to_look(tell: Teller, home: Home) -> None:
    plan = recommended(home, "fpga4")
    with home.database.write() as tx:
        now = home.operator.clock.now()
        assert tx.plans.expire(now + 1.0, now) == 1
    for word in ("approve", "refuse"):
        told = tell("plan", word, plan)
        assert told.status == 2
        assert f"plan {plan} is expired" in told.err
        assert "changeover plans" in told.err
    assert _stored(home, plan) == (PlanState.EXPIRED, [home.provider("fpga4")])


def test_a_plan_that_this_release_cannot_read_is_not_made_again(tell: Teller, home: Home) -> None:
    told = tell("plan", "replay", home.plan)
    assert told.status == 2
    assert "cannot be made again" in told.err
