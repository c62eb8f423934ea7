"""Who may say yes, whose word counts most, and what a successor goes without."""

from __future__ import annotations

from typing import Any

import pytest

from changeover.models.blueprint import Blueprint, Network
from changeover.models.errors import Invalid
from changeover.policies.consent import (
    NETWORKS,
    RECREATE,
    SECURITY_GROUPS,
    Losses,
    Successor,
    consent,
    networks_of,
    successor,
)

YES, NO = {RECREATE: "true"}, {RECREATE: "false"}
KEYED = Blueprint(name="s", flavor="f", image="i", key_name="k")
CARELESS = Losses(networks="auto", key="drop")
CAREFUL = Losses(networks="refuse", key="refuse")


@pytest.mark.parametrize(
    ("recreate", "metadata", "extra_specs", "listed", "given", "said"),
    [
        ("never", YES, YES, True, False, "recreate = never"),
        ("opted-in", {}, {}, False, False, "nobody has opted in"),
        ("opted-in", YES, {}, False, True, "the server's metadata say"),
        ("opted-in", {}, YES, False, True, "the flavor's extra specs say"),
        ("opted-in", {}, {}, True, True, "recreate_projects"),
        ("opted-in", NO, YES, True, False, "the server's metadata say"),
        ("opted-in", YES, NO, False, True, "the server's metadata say"),
        ("opted-in", {}, NO, True, False, "the flavor's extra specs say"),
        ("all", {}, {}, False, True, "recreate = all"),
        ("all", NO, {}, False, False, "the server's metadata say"),
        ("all", {RECREATE: "maybe"}, {}, True, False, "neither true nor false"),
        ("opted-in", {RECREATE: " True "}, {}, False, True, "changeover:recreate=true"),
    ],
)
def test_whose_word_counts(
    recreate: Any,
    metadata: Any,
    extra_specs: Any,
    listed: bool,  # noqa: FBT001 - a column of the table
    given: bool,  # noqa: FBT001 - a column of the table
    said: str,
) -> None:
    found = consent(
        recreate,
        metadata=metadata,
        extra_specs=extra_specs,
        project="p",
        projects={"p"} if listed else set(),
    )
    assert found.given is given
    assert said in found.why


def test_nothing_lost_nothing_changed() -> None:
    made = successor(KEYED, lost=(), as_owner=True, losses=CAREFUL)
    assert made == Successor(KEYED, ())


def test_without_what_is_lost() -> None:
    lost = ("networks", "security_groups", "scheduler_hints")
    made = successor(KEYED, lost=lost, as_owner=False, losses=CARELESS)
    assert isinstance(made, Successor)
    assert made.blueprint.networks == "auto"
    assert made.blueprint.key_name is None
    assert len(made.without) == 4


def test_the_owner_states_the_networks() -> None:
    blueprint = KEYED.model_copy(update={"metadata": {NETWORKS: "n1, port=p1"}})
    made = successor(blueprint, lost=("networks",), as_owner=True, losses=CAREFUL)
    assert isinstance(made, Successor)
    assert made.blueprint.networks == (Network(uuid="n1"), Network(port="p1"))
    assert made.without == ()


def test_the_owner_states_the_security_groups() -> None:
    blueprint = KEYED.model_copy(update={"metadata": {SECURITY_GROUPS: "web, ,db"}})
    made = successor(blueprint, lost=("security_groups",), as_owner=True, losses=CAREFUL)
    assert isinstance(made, Successor)
    assert made.blueprint.security_groups == ("web", "db")
    assert made.without == ()


def test_security_groups_that_are_known_are_kept() -> None:
    blueprint = KEYED.model_copy(update={"security_groups": ("web",)})
    made = successor(blueprint, lost=("security_groups",), as_owner=True, losses=CAREFUL)
    assert made == Successor(blueprint, ())


@pytest.mark.parametrize(
    ("blueprint", "lost", "as_owner", "said"),
    [
        (None, (), True, "cannot be read"),
        (KEYED, ("block_devices",), True, "boots from a volume"),
        (KEYED, ("networks",), True, "lost_networks = refuse"),
        (KEYED, (), False, "lost_key = refuse"),
        (
            KEYED.model_copy(update={"metadata": {NETWORKS: "a b"}}),
            ("networks",),
            True,
            f"metadata {NETWORKS}",
        ),
    ],
)
def test_refused_with_the_reason(
    blueprint: Blueprint | None,
    lost: tuple[str, ...],
    as_owner: bool,  # noqa: FBT001 - a column of the table
    said: str,
) -> None:
    found = successor(blueprint, lost=lost, as_owner=as_owner, losses=CAREFUL)
    assert isinstance(found, str)
    assert said in found


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("auto", "auto"),
        (" none ", "none"),
        ("n1", (Network(uuid="n1"),)),
        ("port=p", (Network(port="p"),)),
    ],
)
def test_networks_of(said: str, meant: object) -> None:
    assert networks_of({NETWORKS: said}) == meant
    assert networks_of({}) is None


@pytest.mark.parametrize("said", ["", "n1,,n2", "port="])
def test_networks_that_mean_nothing(said: str) -> None:
    with pytest.raises(Invalid, match="metadata changeover:networks"):
        networks_of({NETWORKS: said})
