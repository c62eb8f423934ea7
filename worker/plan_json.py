"""Plans and their inputs as JSON: stored so that a plan can be made again, bit for bit."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

from changeover.models.planning import Plan, PlanInputs

T = TypeVar("T")


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def inputs_as_json(inputs: PlanInputs) -> dict[str, Any]:
    """JSON-able values of the inputs."""
    return dict(_adapter(PlanInputs).dump_python(inputs, mode="json"))


def inputs_from_json(data: dict[str, Any]) -> PlanInputs:
    """The inputs that were stored."""
    inputs: PlanInputs = _adapter(PlanInputs).validate_python(data)
    return inputs


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """JSON-able values of the plan."""
    data: dict[str, Any] = _adapter(Plan).dump_python(plan, mode="json")
    return data
