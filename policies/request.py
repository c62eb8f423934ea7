"""From a flavor to what Placement is asked, as Nova translates it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from changeover.models.errors import Invalid
from changeover.models.flavor import Flavor, RequestSpec
from changeover.models.placement import GroupPolicy, RequestGroup, ResourceRequest
from changeover.policies.hardware import DISABLED, RequestFilter, hardware_of
from changeover.policies.rank import PREFERRED, preferred

DEVICE_PROFILE = "accel:device_profile"
"""Extra spec of Cyborg's: the groups come from the device profile of that name."""

_KEY = re.compile(
    r"(?P<kind>resources|trait)(?P<suffix>[A-Za-z0-9_-]{1,64})?:(?P<name>.*)", re.DOTALL
)
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,254}")
_CUSTOM = "CUSTOM_"
_MOST = 2**31 - 1
_MB_PER_GB = 1024


@dataclass(frozen=True, slots=True)
class FlavorRequest:
    """The request, and the device profile whose groups still have to be added, if any."""

    request: ResourceRequest
    device_profile: str | None = None


def request_of_spec(spec: RequestSpec, filters: Collection[RequestFilter] = ()) -> FlavorRequest:
    """The request of a request spec, see :func:`request_of_flavor`."""
    asked = spec.requested_destination
    hosts, nodes = spec.force_hosts, spec.force_nodes
    if asked is not None:
        hosts = hosts or tuple(h for h in (asked.host,) if h)
        nodes = nodes or tuple(n for n in (asked.node,) if n)
    return request_of_flavor(
        spec.flavor,
        image_traits=spec.image.properties.traits_required if spec.image else (),
        image_properties=spec.image.properties.texts if spec.image else {},
        disk_format=spec.image.disk_format if spec.image else None,
        filters=filters,
        availability_zone=spec.availability_zone,
        force_hosts=hosts,
        force_nodes=nodes,
        ignore_hosts=spec.ignore_hosts,
        volume_backed=spec.image is not None and spec.image.id is None,
    )


def request_of_flavor(
    flavor: Flavor,
    *,
    image_traits: Iterable[str] = (),
    image_properties: Mapping[str, str] | None = None,
    disk_format: str | None = None,
    filters: Collection[RequestFilter] = (),
    availability_zone: str | None = None,
    force_hosts: Iterable[str] = (),
    force_nodes: Iterable[str] = (),
    ignore_hosts: Iterable[str] = (),
    volume_backed: bool = False,
) -> FlavorRequest:
    """What a server of this flavor asks of Placement.

    ``resources[S]:CLASS`` and ``trait[S]:TRAIT`` form one group per suffix; VCPU, MEMORY_MB and
    DISK_GB of the flavor join the unsuffixed group unless any group names the class (0 removes
    it; PCPU stands for VCPU); required traits of the image, and what ``hw:`` and ``hw_`` settings
    mean (:mod:`changeover.policies.hardware`), join it too. Forced nodes are names of root
    providers, and so are forced hosts where one host is one node; nodes win where both are given.
    ``filters``: the optional request filters that this Nova has switched on. Not asked for is what
    Nova 34 adds where all its computes are new enough: ``OWNER_NOVA``, which every host of
    Nova's has.

    What Nova ignores with a warning is ignored: amounts that are no numbers, values of traits other
    than ``required`` and ``forbidden``, classes of no valid name, other group policies. Raises
    ``Invalid``, naming the extra spec, for what Placement could only refuse.
    """
    drafts = _read(flavor.extra_specs)
    unsuffixed = drafts[""]
    unsuffixed.required.update(_name(t, f"image property trait:{t}") for t in image_traits)
    hardware = hardware_of(
        flavor.extra_specs,
        image_properties or {},
        vcpus=flavor.vcpus,
        disk_format=None if volume_backed else disk_format,
        filters=filters,
    )
    for resource in ("VCPU", "PCPU"):
        if resource in hardware.resources:
            unsuffixed.resources[resource] = hardware.resources[resource]
    named = {rc for draft in drafts.values() for rc in draft.resources}
    for resource, amount in _of_flavor(flavor, volume_backed=volume_backed).items():
        if resource not in named and not (resource == "VCPU" and "PCPU" in named):
            unsuffixed.resources[resource] = amount
    unsuffixed.resources.update(hardware.resources)
    unsuffixed.required |= hardware.required
    unsuffixed.forbidden |= hardware.forbidden
    unsuffixed.preferred.update(_preferred(flavor.extra_specs))
    groups = _finished(drafts)
    request = ResourceRequest(
        groups=groups,
        group_policy=_group_policy(flavor.extra_specs, groups),
        hosts=tuple(force_nodes) or tuple(force_hosts) or None,
        excluded_hosts=tuple(ignore_hosts),
        availability_zone=availability_zone,
        root_required=frozenset(hardware.root_required),
        root_forbidden=frozenset({DISABLED}),
        unpinned_vcpus=hardware.unpinned_vcpus,
    )
    return FlavorRequest(request, _device_profile(flavor.extra_specs))


def read_groups(specs: Mapping[str, str]) -> tuple[RequestGroup, ...]:
    """The groups of ``resources[S]:CLASS`` and ``trait[S]:TRAIT`` keys; others are ignored.

    Raises ``Invalid``, naming the key.
    """
    return _finished(_read(specs))


def _read(specs: Mapping[str, str]) -> defaultdict[str, _Draft]:
    drafts: defaultdict[str, _Draft] = defaultdict(_Draft)
    for key, value in specs.items():
        match = _KEY.fullmatch(key)
        if match is None:
            continue
        draft = drafts[match["suffix"] or ""]
        name = match["name"]
        if match["kind"] == "trait":
            draft.add_trait(name, value, key)
        elif name.startswith(_CUSTOM) or _NAME.fullmatch(name):
            amount = _amount(value, key)
            if amount is not None:
                draft.resources[_name(name, key)] = amount
    return drafts


def _finished(drafts: Mapping[str, _Draft]) -> tuple[RequestGroup, ...]:
    finished = (draft.finish(suffix) for suffix, draft in sorted(drafts.items()))
    return tuple(group for group in finished if group is not None)


class _Draft:
    """A group while its extra specs are collected."""

    def __init__(self) -> None:
        self.resources: dict[str, int] = {}
        self.required: set[str] = set()
        self.forbidden: set[str] = set()
        self.preferred: set[str] = set()

    def add_trait(self, trait: str, value: str, key: str) -> None:
        if value == "required":
            self.required.add(_name(trait, key))
        elif value == "forbidden":
            self.forbidden.add(_name(trait, key))

    def finish(self, suffix: str) -> RequestGroup | None:
        resources = {rc: amount for rc, amount in self.resources.items() if amount}
        both = sorted(self.required & self.forbidden)
        if both:
            raise Invalid(f"trait{suffix}:{both[0]}: is both required and forbidden")
        if not resources and self.required:
            # Placement has no form for traits of nothing; it answers 400.
            first = min(self.required)
            raise Invalid(f"trait{suffix}:{first}: its group has no resources{suffix}:CLASS")
        if not resources:
            return None
        return RequestGroup(
            suffix=suffix,
            resources=resources,
            required=frozenset(self.required),
            forbidden=frozenset(self.forbidden),
            preferred=frozenset(self.preferred),
        )


def _of_flavor(flavor: Flavor, *, volume_backed: bool) -> dict[str, int]:
    swap_gb = -(-flavor.swap // _MB_PER_GB)  # Nova rounds up to whole GiB
    root_gb = 0 if volume_backed else flavor.root_gb
    return {
        "VCPU": flavor.vcpus,
        "MEMORY_MB": flavor.memory_mb,
        "DISK_GB": root_gb + flavor.ephemeral_gb + swap_gb,
    }


def _name(text: str, key: str) -> str:
    if not _NAME.fullmatch(text):
        raise Invalid(f"{_shown(key)}: {_shown(text)} is no name of a resource class or trait")
    return text


def _amount(value: str, key: str) -> int | None:
    """The amount as Nova reads it, ``None`` if it does not."""
    try:
        amount = int(value)
    except ValueError:
        return None
    if amount > _MOST:
        raise Invalid(f"{_shown(key)}: must be a whole number from 0 to {_MOST}")
    return amount if amount >= 0 else None


def _preferred(specs: Mapping[str, str]) -> set[str]:
    return {_name(name, PREFERRED) for name in preferred(specs)}


def _group_policy(specs: Mapping[str, str], groups: tuple[RequestGroup, ...]) -> GroupPolicy | None:
    policy = specs.get("group_policy")
    if policy not in {"none", "isolate"}:
        policy = None
    if policy is None and sum(1 for group in groups if group.suffix) > 1:
        raise Invalid("group_policy: is needed where a flavor has more than one numbered group")
    return cast("GroupPolicy | None", policy)


def _device_profile(specs: Mapping[str, str]) -> str | None:
    name = specs.get(DEVICE_PROFILE)
    if name is not None and not name.strip():
        raise Invalid(f"{DEVICE_PROFILE}: names no device profile")
    return name


def _shown(text: str) -> str:
    """A part of the flavor, fit for one line."""
    return text[:100].encode("unicode_escape").decode("ascii")
