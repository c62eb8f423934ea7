"""Device profiles become groups of the request, as in Nova."""

from __future__ import annotations

import pytest

from changeover.models.errors import Invalid
from changeover.models.flavor import Flavor
from changeover.models.placement import RequestGroup, ResourceRequest
from changeover.policies.device_profile import profile_groups, with_profile
from changeover.policies.request import request_of_flavor

AES = {
    "resources:FPGA": "1",
    "trait:CUSTOM_FPGA_FUNCTION_AES": "required",
    "accel:bitstream_id": "11111111-1111-1111-1111-111111111111",
    "accel:function_id": "aes",
}


def asked(**specs: str) -> ResourceRequest:
    named = {key.replace("__", ":"): value for key, value in specs.items()}
    flavor = Flavor(name="f", vcpus=1, memory_mb=64, root_gb=0, extra_specs=named)
    return request_of_flavor(flavor).request


def test_each_group_gets_a_suffix_of_its_own() -> None:
    groups = profile_groups("p", [AES, {"resources:FPGA": "2", "trait:CUSTOM_X": "forbidden"}])
    assert groups == (
        RequestGroup(
            "device_profile_0", {"FPGA": 1}, required=frozenset({"CUSTOM_FPGA_FUNCTION_AES"})
        ),
        RequestGroup("device_profile_1", {"FPGA": 2}, forbidden=frozenset({"CUSTOM_X"})),
    )


def test_they_join_those_of_the_flavor() -> None:
    made = with_profile(asked(), profile_groups("p", [AES]))
    assert [group.suffix for group in made.groups] == ["", "device_profile_0"]
    assert made.group_policy is None
    assert made.root_required == {"COMPUTE_ACCELERATORS"}
    assert made.root_forbidden == {"COMPUTE_STATUS_DISABLED"}


@pytest.mark.parametrize(
    ("specs", "groups", "policy"),
    [
        ({}, [AES], None),
        ({}, [AES, AES], "none"),
        ({"resources1__VGPU": "1"}, [AES], "none"),
        ({"resources1__VGPU": "1", "group_policy": "isolate"}, [AES], "isolate"),
    ],
)
def test_the_policy_where_nobody_names_one(
    specs: dict[str, str], groups: list[dict[str, str]], policy: str | None
) -> None:
    assert with_profile(asked(**specs), profile_groups("p", groups)).group_policy == policy


def test_suffixes_within_a_group_say_nothing() -> None:
    (group,) = profile_groups("p", [{"resources1:FPGA": "1", "trait_X:CUSTOM_A": "required"}])
    assert group == RequestGroup("device_profile_0", {"FPGA": 1}, frozenset({"CUSTOM_A"}))


@pytest.mark.parametrize(
    ("groups", "why"),
    [
        ([], "has no groups"),
        ([{"accel:bitstream_id": "x"}], "group 0: asks for nothing"),
        ([AES, {"resources:FPGA": "9" * 11}], "group 1: resources:FPGA"),
        ([AES, {"resources:FPGA": "many"}], "group 1: asks for nothing"),
        ([{"trait:CUSTOM_A": "required"}], "group 0: trait:CUSTOM_A"),
    ],
)
def test_what_nobody_could_ask(groups: list[dict[str, str]], why: str) -> None:
    with pytest.raises(Invalid, match=why):
        profile_groups("p", groups)


def test_a_suffix_that_is_taken() -> None:
    request = asked(resources_device_profile_0__VGPU="1")
    other = RequestGroup("_device_profile_0", {"FPGA": 1})
    with pytest.raises(Invalid, match="suffix"):
        with_profile(request, [other])
