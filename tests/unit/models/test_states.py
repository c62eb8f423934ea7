"""The state tables are whole: nothing is unreachable, nothing has no way out, nothing is unused."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from changeover import worker
from changeover.models import states
from changeover.models.errors import Refuse
from changeover.models.states import (
    BOOT_OVER,
    BOOT_TRANSITIONS,
    BOOT_WANTS,
    CHANGEOVER_LIVE,
    CHANGEOVER_MOVING,
    CHANGEOVER_TRANSITIONS,
    TASK_TRANSITIONS,
    BootState,
    ChangeoverState,
    IllegalTransition,
    TaskState,
    check_transition,
)

Table = Mapping[Any, frozenset[Any]]

TABLES: list[tuple[Table, StrEnum, frozenset[Any]]] = [
    (
        CHANGEOVER_TRANSITIONS,
        ChangeoverState.PLANNED,
        frozenset({ChangeoverState.DONE, ChangeoverState.ABANDONED, ChangeoverState.RELEASED}),
    ),
    (BOOT_TRANSITIONS, BootState.RECEIVED, BOOT_OVER),
    (
        TASK_TRANSITIONS,
        TaskState.QUEUED,
        frozenset({TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED}),
    ),
]

every_table = pytest.mark.parametrize(
    ("table", "first", "last"), TABLES, ids=["changeover", "boot", "task"]
)


def reachable(table: Table, start: StrEnum) -> set[StrEnum]:
    found = {start}
    todo = [start]
    while todo:
        fresh = table[todo.pop()] - found
        found |= fresh
        todo += fresh
    return found


@every_table
def test_every_state_is_there_and_reachable(
    table: Table, first: StrEnum, last: frozenset[StrEnum]
) -> None:
    assert set(table) == set(type(first))
    assert reachable(table, first) == set(table)
    assert not any(first in after for state, after in table.items() if state is not first)
    assert last < set(table)


@every_table
def test_what_is_over_is_over_and_everything_else_can_end(
    table: Table, first: StrEnum, last: frozenset[StrEnum]
) -> None:
    assert first in table
    assert {state for state, after in table.items() if not after} == last
    for state in table:
        assert reachable(table, state) & last, f"{state} can never end"


@every_table
def test_exactly_the_tables_transitions_pass(
    table: Table, first: StrEnum, last: frozenset[StrEnum]
) -> None:
    assert first not in last
    for old in table:
        for new in table:
            if new in table[old]:
                check_transition(table, old, new)
                continue
            with pytest.raises(IllegalTransition, match=rf"^{old} -> {new} ") as caught:
                check_transition(table, old, new)
            assert isinstance(caught.value, Refuse)
            assert caught.value.facts == {"old": old, "new": new}


@every_table
def test_the_tables_cannot_be_changed(
    table: Table, first: StrEnum, last: frozenset[StrEnum]
) -> None:
    with pytest.raises(TypeError):
        table[first] = last  # type: ignore[index]  # it must not be possible


def test_groups_of_states() -> None:
    moving = {s for s, after in CHANGEOVER_TRANSITIONS.items() if after}
    assert moving - {ChangeoverState.QUARANTINED} == CHANGEOVER_MOVING
    assert moving == CHANGEOVER_LIVE
    assert BOOT_WANTS.isdisjoint(BOOT_OVER)


def test_nothing_is_published_that_was_not_verified() -> None:
    """Every way to DONE goes through each step of safety, whatever is left out or repeated."""
    s = ChangeoverState
    for step in (s.FENCING, s.PROGRAMMING, s.VERIFYING, s.PUBLISHING):
        without = {
            state: frozenset() if state is step else after
            for state, after in CHANGEOVER_TRANSITIONS.items()
        }
        assert s.DONE not in reachable(without, s.PLANNED), f"DONE without {step}"
    # Once programmed, the old function cannot be put back blind.
    assert s.UNFENCING not in reachable(CHANGEOVER_TRANSITIONS, s.PUBLISHING)
    assert s.UNFENCING not in CHANGEOVER_TRANSITIONS[s.VERIFYING]
    # Only an operator leads out of quarantine.
    assert CHANGEOVER_TRANSITIONS[s.QUARANTINED] == {s.RELEASED}


def test_no_boot_is_created_without_having_been_judged() -> None:
    b = BootState
    without = {**BOOT_TRANSITIONS, b.READY: frozenset[BootState]()}
    assert b.CREATING not in reachable(without, b.RECEIVED)
    assert b.BOOTED not in reachable({**BOOT_TRANSITIONS, b.BUILDING: frozenset()}, b.RECEIVED)


def named_states(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Every ``SomeState.NAME`` in a module, with short names for the enums resolved."""
    short = {"_S": "ChangeoverState", "_B": "BootState", "_T": "TaskState"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield short.get(node.value.id, node.value.id), node.attr


def test_the_worker_uses_every_state() -> None:
    """A state that no code names is one that nothing is ever in, or that nothing looks after."""
    folder = Path(worker.__file__).resolve().parent
    used = {
        name
        for path in folder.rglob("*.py")
        for name in named_states(ast.parse(path.read_text(encoding="utf-8")))
    }
    for enum in (ChangeoverState, BootState, TaskState):
        missing = {state.name for state in enum} - {n for e, n in used if e == enum.__name__}
        assert not missing, f"{enum.__name__}: {sorted(missing)}"


@pytest.mark.parametrize("enum", [ChangeoverState, BootState, TaskState, states.PlanState])
def test_every_state_fits_its_column_and_says_what_it_means(enum: type[StrEnum]) -> None:
    tree = ast.parse(Path(states.__file__).read_text(encoding="utf-8"))
    [body] = [n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == enum.__name__]
    explained = {
        before.targets[0].id
        for before, after in pairwise(body)
        if isinstance(before, ast.Assign)
        and isinstance(before.targets[0], ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    assert explained == {state.name for state in enum}
    assert all(len(state.value) <= 16 for state in enum)
