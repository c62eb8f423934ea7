"""Names that may have been meant."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changeover.policies.nearest import distance, nearest

KNOWN = (
    "CUSTOM_FPGA_FUNCTION_AES",
    "CUSTOM_FPGA_FUNCTION_GZIP",
    "CUSTOM_FPGA_FUNCTION_SHA3",
    "CUSTOM_VGPU_TYPE_NVIDIA_35",
)


@pytest.mark.parametrize(
    ("meant", "likeliest"),
    [
        ("CUSTOM_FPGA_FUNCTION_EAS", "CUSTOM_FPGA_FUNCTION_AES"),  # two letters swapped
        ("CUSTOM_FPGA_FUNCTION_GZP", "CUSTOM_FPGA_FUNCTION_GZIP"),
        ("FPGA_FUNCTION_GZIP", "CUSTOM_FPGA_FUNCTION_GZIP"),  # without its prefix
        ("CUSTOM_FUNCTION_FPGA_SHA3", "CUSTOM_FPGA_FUNCTION_SHA3"),  # words change places
        ("CUSTOM_FPGA_AES", "CUSTOM_FPGA_FUNCTION_AES"),  # a word is left out
        ("CUSTOM_VGPU_TYPE_NVIDIA35", "CUSTOM_VGPU_TYPE_NVIDIA_35"),  # words run together
    ],
)
def test_drifted_names_are_found(meant: str, likeliest: str) -> None:
    assert nearest(meant, KNOWN)[0] == likeliest


def test_what_is_far_from_all_is_near_to_none() -> None:
    assert nearest("CUSTOM_QUANTUM", KNOWN) == []
    assert nearest(KNOWN[0], KNOWN[:1]) == []


@given(st.text("ab", max_size=5), st.text("ab", max_size=5))
def test_the_distance_is_that_of_its_definition(one: str, other: str) -> None:
    @cache
    def edits(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        ways = [
            edits(i - 1, j) + 1,
            edits(i, j - 1) + 1,
            edits(i - 1, j - 1) + (one[i - 1] != other[j - 1]),
        ]
        if i > 1 and j > 1 and (one[i - 1], one[i - 2]) == (other[j - 2], other[j - 1]):
            ways.append(edits(i - 2, j - 2) + 1)
        return min(ways)

    assert distance(one, other) == edits(len(one), len(other)) == distance(other, one)
