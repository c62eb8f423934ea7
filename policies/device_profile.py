"""What a device profile adds to a request, as Nova translates it.

Rules of Nova's ``accelerator/cyborg.py`` and ``scheduler/utils.py``: the groups of the profile
become suffixed groups ``device_profile_N`` in their order, beside those of the flavor;
``accel:`` keys are Cyborg's own; the host must have ``COMPUTE_ACCELERATORS``; several groups of
which the flavor has at most one, and no ``group_policy``, get ``none``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from changeover.models.errors import Invalid
from changeover.models.placement import RequestGroup, ResourceRequest
from changeover.policies.request import read_groups

HOST_TRAIT = "COMPUTE_ACCELERATORS"
"""What nova-compute publishes on hosts that can attach Cyborg's devices."""


def profile_groups(name: str, groups: Sequence[Mapping[str, str]]) -> tuple[RequestGroup, ...]:
    """The request groups of a device profile; raises ``Invalid`` for what Placement would refuse.

    Nova ignores suffixes within a group: ``resources1:FPGA`` counts as ``resources:FPGA``.
    """
    made = []
    for number, group in enumerate(groups):
        where = f"device profile {name}, group {number}"
        bare = {_bare(key): value for key, value in group.items()}
        try:
            parts = read_groups(bare)
        except Invalid as error:
            raise Invalid(f"{where}: {error.message}", profile=name) from error
        if not parts:
            raise Invalid(f"{where}: asks for nothing", profile=name)
        made.append(replace(parts[0], suffix=f"device_profile_{number}"))
    if not made:
        raise Invalid(f"device profile {name} has no groups", profile=name)
    return tuple(made)


def with_profile(request: ResourceRequest, groups: Sequence[RequestGroup]) -> ResourceRequest:
    """The request of a flavor with the groups of its device profile.

    Raises ``Invalid`` where Nova cannot ask it: two groups of one suffix, or several suffixed
    groups of the flavor itself without a ``group_policy``.
    """
    suffixed = [group.suffix for group in request.groups if group.suffix]
    taken = sorted(set(suffixed).intersection(group.suffix for group in groups))
    if taken:
        raise Invalid(f"the flavor has a group of the device profile's suffix {taken[0]}")
    policy = request.group_policy
    if policy is None and len(suffixed) + len(groups) > 1:
        policy = "none"
    return replace(
        request,
        groups=(*request.groups, *groups),
        group_policy=policy,
        root_required=request.root_required | {HOST_TRAIT},
    )


def _bare(key: str) -> str:
    kind, colon, rest = key.partition(":")
    for known in ("resources", "trait"):
        if kind.startswith(known):
            return f"{known}{colon}{rest}"
    return key
