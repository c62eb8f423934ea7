"""Preferred traits rank, and never exclude."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from changeover.policies.rank import PREFERRED, preferred, rank


@dataclass(frozen=True)
class Card:
    key: int
    traits: frozenset[str]


def cards(*traits: str) -> list[Card]:
    return [Card(i, frozenset(t)) for i, t in enumerate(traits)]


def test_most_wanted_traits_first() -> None:
    ranked = rank(cards("A", "", "ABC", "AB"), {"A", "B", "C"})
    assert [c.key for c in ranked] == [2, 3, 0, 1]


def test_ties_keep_their_order() -> None:
    assert [c.key for c in rank(cards("A", "B", "C", "AB"), {"A", "B"})] == [3, 0, 1, 2]


def test_nothing_wanted_changes_nothing() -> None:
    assert [c.key for c in rank(cards("A", "B"), frozenset())] == [0, 1]


@given(st.lists(st.text("ABCD", max_size=4)), st.frozensets(st.sampled_from("ABCDE")))
def test_ranks_are_a_stable_permutation(traits: list[str], wanted: frozenset[str]) -> None:
    given_cards = cards(*traits)
    ranked = rank(given_cards, wanted)
    assert sorted(c.key for c in ranked) == list(range(len(traits)))
    for first, second in pairwise(ranked):
        have, have_next = len(first.traits & wanted), len(second.traits & wanted)
        assert have > have_next or (have == have_next and first.key < second.key)


def test_what_a_flavor_prefers_is_a_list_of_names() -> None:
    assert preferred({PREFERRED: " CUSTOM_A,CUSTOM_B , ", "resources:VGPU": "1"}) == {
        "CUSTOM_A",
        "CUSTOM_B",
    }
    assert preferred({}) == frozenset()


def test_the_scheduler_needs_the_standard_library_only() -> None:
    # What the weigher imports of ours must load where none of our dependencies is installed.
    code = (
        "import sys; import changeover.policies.rank; "
        "print([m for m in sys.modules if m.partition('.')[0] in ('pydantic', 'sqlalchemy')])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout.strip() == "[]"
