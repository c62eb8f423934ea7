"""hw: settings become classes and traits; see also the recorded queries of a real scheduler."""

from __future__ import annotations

import pytest

from changeover.models.errors import Invalid
from changeover.models.flavor import Flavor, Image, ImageProperties
from changeover.models.placement import RequestGroup, ResourceRequest
from changeover.policies.hardware import hardware_of
from changeover.policies.request import request_of_flavor
from changeover.worker.settings import Settings


@pytest.mark.parametrize(
    ("mask", "pinned"), [("0-2", 3), ("^0", 3), ("^0-1", 2), ("1,3", 2), (" 0-3 , ^2 ", 3)]
)
def test_mixed_cpus_are_counted_by_their_mask(mask: str, pinned: int) -> None:
    found = hardware_of({"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": mask}, {}, vcpus=4)
    assert found.resources == {"VCPU": 4 - pinned, "PCPU": pinned}
    assert found.unpinned_vcpus is None  # Nova asks no second time


def test_realtime_cpus_of_the_image_win() -> None:
    specs = {"hw:cpu_policy": "mixed", "hw:cpu_realtime": "yes", "hw:cpu_realtime_mask": "^0"}
    found = hardware_of(specs, {"hw_cpu_realtime_mask": "^0-2"}, vcpus=4)
    assert found.resources == {"VCPU": 3, "PCPU": 1}


@pytest.mark.parametrize("mask", ["", "x", "3-1", "0-99999", "1;2", "^"])
def test_a_mask_that_says_nothing(mask: str) -> None:
    with pytest.raises(Invalid, match="hw:cpu_dedicated_mask"):
        hardware_of({"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": mask}, {}, vcpus=4)


def test_an_encryption_that_nova_does_not_know() -> None:
    specs = {"hw:mem_encryption": "1", "hw:mem_encryption_model": "rot13"}
    with pytest.raises(Invalid, match="rot13"):
        hardware_of(specs, {}, vcpus=1)


@pytest.mark.parametrize(
    ("specs", "image", "required"),
    [
        ({"hw:maxphysaddr_mode": "passthrough"}, {}, {"COMPUTE_ADDRESS_SPACE_PASSTHROUGH"}),
        ({"hw:maxphysaddr_mode": "emulate"}, {}, {"COMPUTE_ADDRESS_SPACE_EMULATED"}),
        ({}, {"hw_tpm_version": "1.2"}, {"COMPUTE_SECURITY_TPM_1_2", "COMPUTE_SECURITY_TPM_TIS"}),
        ({}, {"os_secure_boot": "required"}, {"COMPUTE_SECURITY_UEFI_SECURE_BOOT"}),
        ({"os:secure_boot": "optional"}, {}, set()),
        ({}, {"hw_firmware_stateless": "true"}, set()),
    ],
)
def test_traits(specs: dict[str, str], image: dict[str, str], required: set[str]) -> None:
    assert hardware_of(specs, image, vcpus=1).required == required


def test_request_filters_ask_only_where_they_are_switched_on() -> None:
    image = {"hw_video_model": "virtio", "hw_disk_bus": "scsi", "hw_architecture": "x86-64"}
    assert hardware_of({}, image, vcpus=1, disk_format="qcow2").root_required == set()
    settings = Settings(query_placement_for_image_type_support=True, image_metadata_prefilter=True)
    filters = settings.request_filters
    found = hardware_of({}, image, vcpus=1, disk_format="qcow2", filters=filters)
    assert found.root_required == {
        "COMPUTE_IMAGE_TYPE_QCOW2",
        "COMPUTE_GRAPHICS_MODEL_VIRTIO",
        "COMPUTE_STORAGE_BUS_SCSI",
        "HW_ARCH_X86_64",
    }


def test_properties_come_as_novas_notifications_have_them() -> None:
    image = Image.model_validate(
        {
            "id": "i",
            "disk_format": "raw",
            "properties": {
                "hw_cpu_policy": "dedicated",
                "hw_virtio_packed_ring": True,
                "hw_numa_nodes": 2,
                "traits_required": ["HW_CPU_X86_VMX"],
                "hw_odd": None,
                "img_hide_hypervisor_id": False,
            },
        }
    )
    assert image.properties == ImageProperties(
        traits_required=("HW_CPU_X86_VMX",),
        texts={
            "hw_cpu_policy": "dedicated",
            "hw_virtio_packed_ring": "true",
            "hw_numa_nodes": "2",
            "img_hide_hypervisor_id": "false",
        },
    )
    assert Image.model_validate(image.model_dump(mode="json")) == image


def test_dedicated_cpus_are_asked_for_a_second_time_as_shared_ones() -> None:
    specs = {
        "hw:cpu_policy": "dedicated",
        "hw:cpu_thread_policy": "require",
        "resources1:FPGA": "1",
    }
    flavor = Flavor(name="f", vcpus=4, memory_mb=64, root_gb=0, extra_specs=specs)
    request = request_of_flavor(flavor).request
    assert request.groups[0] == RequestGroup(
        "", {"PCPU": 4, "MEMORY_MB": 64}, required=frozenset({"HW_CPU_HYPERTHREADING"})
    )
    again = request.unpinned()
    assert again is not None
    assert again.groups == (
        RequestGroup("", {"VCPU": 4, "MEMORY_MB": 64}),
        RequestGroup("1", {"FPGA": 1}),
    )
    assert again.unpinned() is None
    assert ResourceRequest.from_json(request.as_json()) == request
