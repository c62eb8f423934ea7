"""Flavors become requests as Nova would make them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changeover.models.errors import Invalid
from changeover.models.flavor import Flavor, RequestSpec
from changeover.models.notification import BuildFailed, parse_notification
from changeover.models.placement import RequestGroup, ResourceRequest
from changeover.policies.request import FlavorRequest, request_of_flavor, request_of_spec

DATA = Path(__file__).parents[2] / "data" / "notifications"


def flavor(**specs: str) -> Flavor:
    named = {key.replace("__", ":"): value for key, value in specs.items()}
    return Flavor(name="f", vcpus=2, memory_mb=512, root_gb=10, ephemeral_gb=5, extra_specs=named)


def groups(made: FlavorRequest) -> dict[str, RequestGroup]:
    return {group.suffix: group for group in made.request.groups}


def test_plain_flavor_asks_for_its_own_resources_only() -> None:
    made = request_of_flavor(flavor())
    assert made == FlavorRequest(
        ResourceRequest(
            groups=(RequestGroup(resources={"VCPU": 2, "MEMORY_MB": 512, "DISK_GB": 15}),),
            root_forbidden=frozenset({"COMPUTE_STATUS_DISABLED"}),
        )
    )


@pytest.mark.parametrize(("swap", "disk"), [(0, 15), (1, 16), (1024, 16), (1025, 17)])
def test_swap_counts_in_whole_gib(swap: int, disk: int) -> None:
    assert (
        groups(request_of_flavor(flavor().model_copy(update={"swap": swap})))[""].resources[
            "DISK_GB"
        ]
        == disk
    )


def test_volume_backed_server_needs_no_root_disk() -> None:
    made = request_of_flavor(flavor(), volume_backed=True)
    assert groups(made)[""].resources["DISK_GB"] == 5


def test_device_and_function_join_the_unsuffixed_group() -> None:
    made = request_of_flavor(
        flavor(
            resources__CUSTOM_FPGA="1",
            trait__CUSTOM_FPGA_FUNCTION_AES="required",
            trait__CUSTOM_SLOW="forbidden",
        )
    )
    group = groups(made)[""]
    assert group.resources == {"VCPU": 2, "MEMORY_MB": 512, "DISK_GB": 15, "CUSTOM_FPGA": 1}
    assert group.required == {"CUSTOM_FPGA_FUNCTION_AES"}
    assert group.forbidden == {"CUSTOM_SLOW"}


@pytest.mark.parametrize(
    ("specs", "vcpu"),
    [({}, 2), ({"resources:VCPU": "7"}, 7), ({"resources:VCPU": " 3 "}, 3)],
)
def test_extra_specs_override_the_flavor(specs: dict[str, str], vcpu: int) -> None:
    assert groups(request_of_flavor(flavor(**specs)))[""].resources["VCPU"] == vcpu


def test_zero_removes_a_class() -> None:
    group = groups(request_of_flavor(flavor(resources__VCPU="0", resources__DISK_GB="0")))[""]
    assert group.resources == {"MEMORY_MB": 512}


def test_a_class_in_any_group_replaces_the_flavors_own() -> None:
    made = request_of_flavor(flavor(resources1__VCPU="4"))
    assert groups(made)["1"].resources == {"VCPU": 4}
    assert "VCPU" not in groups(made)[""].resources


def test_all_removed_leaves_no_unsuffixed_group() -> None:
    made = request_of_flavor(
        flavor(
            resources__VCPU="0",
            resources__MEMORY_MB="0",
            resources__DISK_GB="0",
            resources1__CUSTOM_BAREMETAL="1",
        )
    )
    assert list(groups(made)) == ["1"]


def test_suffixed_groups_and_policy() -> None:
    made = request_of_flavor(
        flavor(
            resources1__CUSTOM_FPGA="1",
            trait1__CUSTOM_AES="required",
            resources_crypt__CUSTOM_FPGA="2",
            trait_crypt__CUSTOM_SHA3="required",
            trait_crypt__CUSTOM_OLD="forbidden",
            group_policy="isolate",
        )
    )
    found = groups(made)
    assert list(found) == ["", "1", "_crypt"]
    assert found["1"].required == {"CUSTOM_AES"}
    assert found["_crypt"].resources == {"CUSTOM_FPGA": 2}
    assert found["_crypt"].forbidden == {"CUSTOM_OLD"}
    assert made.request.group_policy == "isolate"


def test_a_group_of_zeros_is_dropped() -> None:
    made = request_of_flavor(flavor(resources1__VGPU="0", trait1__CUSTOM_OLD="forbidden"))
    assert list(groups(made)) == [""]


def test_image_traits_join_the_unsuffixed_group() -> None:
    made = request_of_flavor(flavor(), image_traits=["HW_CPU_X86_VMX"])
    assert groups(made)[""].required == {"HW_CPU_X86_VMX"}


def test_preferred_traits_only_rank() -> None:
    made = request_of_flavor(
        flavor(**{"changeover:preferred_traits": " CUSTOM_A,CUSTOM_B , ", "resources:VGPU": "1"})
    )
    assert groups(made)[""].preferred == {"CUSTOM_A", "CUSTOM_B"}
    assert groups(made)[""].required == frozenset()


def test_where_it_may_run() -> None:
    made = request_of_flavor(
        flavor(), availability_zone="az1", force_hosts=["h1"], ignore_hosts=["h9"]
    ).request
    assert made.hosts == ("h1",)
    assert made.excluded_hosts == ("h9",)
    assert made.availability_zone == "az1"
    assert request_of_flavor(flavor(), force_hosts=["h"], force_nodes=["n"]).request.hosts == ("n",)


def test_device_profile_is_left_to_be_resolved() -> None:
    made = request_of_flavor(flavor(accel__device_profile="fpga-aes"))
    assert made.device_profile == "fpga-aes"
    assert list(groups(made)) == [""]


def test_other_namespaces_are_ignored() -> None:
    plain = request_of_flavor(flavor())
    other = flavor(hw__cpu_sockets="2", quota__vif="1", foo="bar", resource__X="odd")
    assert request_of_flavor(other) == plain


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resources:CUSTOM_FPGA", "2147483648"),
        ("resources:CUSTOM_X-Y", "1"),
        ("trait:custom_aes", "required"),
        ("trait1:CUSTOM_AES", "required"),
        ("accel:device_profile", " "),
        ("changeover:preferred_traits", "custom_a"),
    ],
)
def test_what_is_malformed_is_named(key: str, value: str) -> None:
    with pytest.raises(Invalid) as caught:
        request_of_flavor(flavor(**{key: value}))
    assert key.strip() in caught.value.message
    assert "\n" not in caught.value.message


def test_two_numbered_groups_need_a_policy() -> None:
    with pytest.raises(Invalid, match=r"^group_policy: is needed"):
        request_of_flavor(flavor(resources1__VGPU="1", resources2__VGPU="1"))


def test_image_and_flavor_that_contradict() -> None:
    with pytest.raises(Invalid, match=r"^trait:CUSTOM_X: is both"):
        request_of_flavor(flavor(trait__CUSTOM_X="forbidden"), image_traits=["CUSTOM_X"])


def test_spec_with_image_traits_and_requested_destination() -> None:
    spec = RequestSpec.model_validate(
        {
            "flavor": flavor().model_dump(),
            "image": {"id": None, "properties": {"traits_required": ["CUSTOM_X"]}},
            "requested_destination": {"host": "h1", "node": None},
            "force_hosts": None,
            "availability_zone": "az",
        }
    )
    made = request_of_spec(spec).request
    assert made.hosts == ("h1",)
    assert made.groups[0].required == {"CUSTOM_X"}
    assert made.groups[0].resources["DISK_GB"] == 5


def test_captured_flavors() -> None:
    bodies = (DATA / "novalidhost_three_servers.jsonl").read_text().splitlines()
    requests = set()
    for line in bodies:
        value = parse_notification(line[line.index('"message": ') + 11 : -1])
        if isinstance(value, BuildFailed):
            assert value.spec is not None
            made = request_of_spec(value.spec)
            assert made.request.groups == (
                RequestGroup(
                    resources={"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1, "CUSTOM_FPGA": 1},
                    required=frozenset({"CUSTOM_FPGA_FUNCTION_AES"}),
                ),
            )
            requests.add(made.request.key)
    assert len(requests) == 1


KEYS = st.builds(
    "{}{}:{}".format,
    st.sampled_from(["resources", "trait", "hw"]),
    st.sampled_from(["", "1", "_a", " ", "!"]),
    st.one_of(st.sampled_from(["VCPU", "CUSTOM_A"]), st.text(max_size=5)),
)
VALUES = st.one_of(st.sampled_from(["0", "1", "required", "forbidden"]), st.text(max_size=5))


@given(st.dictionaries(st.one_of(KEYS, st.text(max_size=8)), VALUES, max_size=5))
def test_any_extra_specs_give_a_request_or_invalid(specs: dict[str, str]) -> None:
    try:
        made = request_of_flavor(
            Flavor.model_construct(
                name="f", vcpus=1, memory_mb=1, root_gb=0, ephemeral_gb=0, swap=0, extra_specs=specs
            )
        )
    except Invalid:
        return
    assert ResourceRequest.from_json(made.request.as_json()).key == made.request.key
    assert all(group.resources and all(group.resources.values()) for group in made.request.groups)
