"""Make a plan again from its stored inputs: the same code must come to the same decision."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from changeover.models.errors import Invalid, NotFound
from changeover.policies.choose import choose
from changeover.worker.plan_json import inputs_from_json, plan_as_json
from changeover.worker.store import Database


@dataclass(frozen=True, slots=True)
class Replay:
    """A stored plan, and what the same inputs give now. ``same``: to the bit."""

    stored: dict[str, Any]
    again: dict[str, Any]

    @property
    def same(self) -> bool:
        return _canonical(self.stored) == _canonical(self.again)


def replan(database: Database, plan_id: str) -> Replay:
    """Make plan ``plan_id`` again.

    Raises :class:`NotFound`, and :class:`Invalid` where another release wrote its inputs.
    """
    with database.read() as tx:
        plan = tx.plans.get(plan_id)
    if plan is None:
        raise NotFound(f"there is no plan {plan_id}; see `changeover plans`")
    try:
        inputs = inputs_from_json(plan["inputs"])
    except ValidationError as exc:
        raise Invalid(
            f"plan {plan_id} cannot be made again: its inputs are of another release; replay it "
            f"with that one ({exc.error_count()} fields differ)"
        ) from exc
    return Replay(plan["result"], plan_as_json(choose(inputs)))


def _canonical(plan: dict[str, Any]) -> str:
    return json.dumps(plan, sort_keys=True)
