"""Decide on plans: approve, refuse, and make one again from its stored inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from changeover.console.desk import Desk
from changeover.console.render import Output


def approve(
    desk: Desk, out: Output, plan_id: str, *, only: Sequence[str], without: Sequence[str]
) -> None:
    """Approve a recommended plan, or part of it."""
    from changeover.console.subject import find_id

    plan_id = find_id(desk, plan_id, "plan")
    devices = desk.operator.approve(plan_id, only=only, without=without)
    if out.as_json:
        out.document({"plan": plan_id, "approved": devices})
        return
    out.line(f"approved for {', '.join(devices)}: started as soon as a fresh look agrees")
    if (unsent := desk.unsent) is not None:
        out.note(unsent)


def refuse(desk: Desk, out: Output, plan_id: str) -> None:
    """Refuse a recommended plan."""
    from changeover.console.subject import find_id

    plan_id = find_id(desk, plan_id, "plan")
    desk.operator.refuse(plan_id)
    if out.as_json:
        out.document({"plan": plan_id, "refused": True})
    else:
        out.line(f"refused plan {plan_id}")


def replay(desk: Desk, out: Output, plan_id: str) -> int:
    """Make a plan again; status 1 if it comes out differently."""
    from changeover.console.subject import find_id
    from changeover.worker.replan import replan

    plan_id = find_id(desk, plan_id, "plan")
    result = replan(desk.database, plan_id)
    if out.as_json:
        out.document(
            {
                "plan": plan_id,
                "same": result.same,
                "stored": result.stored,
                "again": result.again,
            }
        )
    elif result.same:
        out.line(f"the same to the bit: {_intents(result.again)}")
    else:
        out.line(f"then: {_intents(result.stored)}")
        out.line(f"now:  {_intents(result.again)}")
        out.line("different: the planner has changed since the plan was made")
    return 0 if result.same else 1


def _intents(plan: dict[str, Any]) -> str:
    listed = [f"{i['device']} -> {i['to_function']}" for i in plan["intents"]]
    return ", ".join(listed) or "no device"
