"""Extra specs and image properties about hardware that Nova turns into classes and traits.

Rules of Nova 34: ``scheduler/utils.py`` (``ResourceRequest``), ``scheduler/request_filter.py`` and
``virt/hardware.py``. An extra spec ``hw:X`` and an image property ``hw_X`` mean the same; Nova's
API refuses those that contradict each other, so that here the flavor's is simply taken first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from changeover.models.errors import Invalid

RequestFilter = Literal["query_placement_for_image_type_support", "image_metadata_prefilter"]
"""Nova's optional request filters that see the flavor and the image only, by their options."""

DISABLED: Final = "COMPUTE_STATUS_DISABLED"
"""What nova-compute's provider has while its service is disabled; Nova never asks for those."""

_TRUE = frozenset({"1", "t", "true", "on", "y", "yes"})
_METADATA: Final[Mapping[str, str]] = {
    "hw_cdrom_bus": "COMPUTE_STORAGE_BUS",
    "hw_disk_bus": "COMPUTE_STORAGE_BUS",
    "hw_video_model": "COMPUTE_GRAPHICS_MODEL",
    "hw_vif_model": "COMPUTE_NET_VIF_MODEL",
    "hw_architecture": "HW_ARCH",
    "hw_emulation_architecture": "COMPUTE_ARCH",
    "hw_viommu_model": "COMPUTE_VIOMMU",
}
_ENCRYPTION: Final[Mapping[str, str]] = {
    "amd-sev": "HW_CPU_X86_AMD_SEV",
    "amd-sev-es": "HW_CPU_X86_AMD_SEV_ES",
    "amd-sev-snp": "HW_CPU_X86_AMD_SEV_SNP",
}
_MOST_CPUS = 4096


@dataclass(slots=True)
class Hardware:
    """What they ask for: of the unsuffixed group, and of the root provider (the host).

    ``unpinned_vcpus``: Nova asks a second time for so many shared CPUs instead of dedicated ones.
    """

    resources: dict[str, int] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    forbidden: set[str] = field(default_factory=set)
    root_required: set[str] = field(default_factory=set)
    unpinned_vcpus: int | None = None


def hardware_of(
    specs: Mapping[str, str],
    image: Mapping[str, str],
    *,
    vcpus: int,
    disk_format: str | None = None,
    filters: Collection[RequestFilter] = (),
) -> Hardware:
    """Translate; raises ``Invalid`` for CPU masks that say nothing.

    ``specs`` are the flavor's, ``image`` the image's properties as texts, ``disk_format`` the
    image's (``None`` for a server that boots from a volume).
    """
    found = Hardware()
    both = _Both(specs, image)
    _cpus(found, both, vcpus)
    _memory(found, both)
    _security(found, both)
    if both("pci_numa_affinity_policy") == "socket":
        found.required.add("COMPUTE_SOCKET_PCI_NUMA_AFFINITY")
    mode = both("maxphysaddr_mode")
    if mode in {"passthrough", "emulate"}:
        kind = "PASSTHROUGH" if mode == "passthrough" else "EMULATED"
        found.required.add(f"COMPUTE_ADDRESS_SPACE_{kind}")
    if both.flag("virtio_packed_ring"):
        found.root_required.add("COMPUTE_NET_VIRTIO_PACKED")
    if both.flag("ephemeral_encryption"):
        found.root_required.add("COMPUTE_EPHEMERAL_ENCRYPTION")
        if form := both("ephemeral_encryption_format"):
            found.root_required.add(f"COMPUTE_EPHEMERAL_ENCRYPTION_{form.upper()}")
    if both("sound_model") == "virtio":
        found.root_required.add("COMPUTE_SOUND_MODEL_VIRTIO")
    if "query_placement_for_image_type_support" in filters and disk_format:
        found.root_required.add(f"COMPUTE_IMAGE_TYPE_{_trait(disk_format)}")
    if "image_metadata_prefilter" in filters:
        found.root_required.update(
            f"{prefix}_{_trait(image[key])}" for key, prefix in _METADATA.items() if key in image
        )
    return found


class _Both:
    """A setting by its name, from the flavor or the image."""

    def __init__(self, specs: Mapping[str, str], image: Mapping[str, str]) -> None:
        self.specs = specs
        self.image = image

    def __call__(self, name: str, prefix: str = "hw") -> str:
        return self.specs.get(f"{prefix}:{name}") or self.image.get(f"{prefix}_{name}") or ""

    def flag(self, name: str) -> bool:
        return self(name).strip().lower() in _TRUE


def _cpus(found: Hardware, both: _Both, vcpus: int) -> None:
    """``hw:cpu_policy``: dedicated CPUs are a class of their own, PCPU."""
    policy = both("cpu_policy")
    pinned = 0
    if policy == "dedicated":
        pinned = found.unpinned_vcpus = vcpus
    elif policy == "mixed":
        dedicated = both.specs.get("hw:cpu_dedicated_mask")
        realtime = None
        if both.specs.get("hw:cpu_realtime", "").strip().lower() in _TRUE:
            # Here the image's wins, as in Nova.
            realtime = both.image.get("hw_cpu_realtime_mask") or both.specs.get(
                "hw:cpu_realtime_mask"
            )
        pinned = len(_mask(dedicated or realtime or "", vcpus))
        found.resources["VCPU"] = max(0, vcpus - pinned)
    if policy in {"dedicated", "mixed"}:
        if both.specs.get("hw:emulator_threads_policy") == "isolate":
            pinned += 1
        found.resources["PCPU"] = pinned
    threads = both.specs.get("hw:cpu_thread_policy", "prefer")
    if threads == "prefer":
        threads = both.image.get("hw_cpu_thread_policy", "")
    if threads == "isolate":
        found.forbidden.add("HW_CPU_HYPERTHREADING")
    elif threads == "require":
        found.required.add("HW_CPU_HYPERTHREADING")


def _memory(found: Hardware, both: _Both) -> None:
    if both.flag("mem_encryption"):
        model = both("mem_encryption_model") or "amd-sev"
        if model not in _ENCRYPTION:
            raise Invalid(f"hw:mem_encryption_model: {model[:80]!r} is none that Nova knows")
        found.resources["MEM_ENCRYPTION_CONTEXT"] = 1
        found.required.add(_ENCRYPTION[model])
    labels = (label.strip() for label in both.specs.get("hw:pmem", "").split(","))
    found.resources.update(Counter(f"CUSTOM_PMEM_NAMESPACE_{_trait(x)}" for x in labels if x))


def _security(found: Hardware, both: _Both) -> None:
    if version := both("tpm_version"):
        model = both("tpm_model") or "tpm-tis"
        found.required.add(f"COMPUTE_SECURITY_TPM_{'CRB' if model == 'tpm-crb' else 'TIS'}")
        found.required.add(f"COMPUTE_SECURITY_TPM_{'2_0' if version == '2.0' else '1_2'}")
        secret = both.specs.get("hw:tpm_secret_security") or "user"
        found.root_required.add(f"COMPUTE_SECURITY_TPM_SECRET_SECURITY_{_trait(secret)}")
    if both("secure_boot", "os") == "required":
        found.required.add("COMPUTE_SECURITY_UEFI_SECURE_BOOT")
    stateless = both.image.get("hw_firmware_stateless", "").strip().lower() in _TRUE
    if stateless and both.image.get("hw_firmware_type") == "uefi":
        found.required.add("COMPUTE_SECURITY_STATELESS_FIRMWARE")


def _trait(text: str) -> str:
    """A text as a part of a trait's or class's name."""
    return re.sub(r"[^A-Z0-9]", "_", text.upper())


def _mask(text: str, vcpus: int) -> frozenset[int]:
    """CPUs of a list such as ``0-3,^1``; one that begins with ``^`` excludes from all."""
    said = text.strip()
    if said.startswith("^"):
        said = f"0-{vcpus - 1},{said}"
    chosen: set[int] = set()
    excluded: set[int] = set()
    for part in said.split(","):
        match = re.fullmatch(r"\s*(\^?)\s*([0-9]{1,4})\s*(?:-\s*([0-9]{1,4})\s*)?", part)
        if match is None:
            raise Invalid(f"{part[:80]!r} is no list of CPUs: hw:cpu_dedicated_mask")
        first, last = int(match[2]), int(match[3] or match[2])
        if last < first or last >= _MOST_CPUS:
            raise Invalid(f"{part[:80]!r} is no range of CPUs: hw:cpu_dedicated_mask")
        (excluded if match[1] else chosen).update(range(first, last + 1))
    return frozenset(chosen - excluded)
