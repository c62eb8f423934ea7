"""Consent: whether a failed server may be replaced by a new one, and what that one is made of.

A new server has a new uuid: it surprises Heat and Terraform, and an owner who boots again by hand
has two. Hence somebody must have said yes; who is nearest to the server has the last word.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from changeover.models.blueprint import Blueprint, Network
from changeover.models.errors import Invalid

RECREATE = "changeover:recreate"
"""Metadata of a server, and extra spec of a flavor: ``true`` or ``false``."""

NETWORKS = "changeover:networks"
"""Metadata of a server: ``auto``, ``none``, or its networks and ports (see :func:`networks_of`)."""

SECURITY_GROUPS = "changeover:security_groups"
"""Metadata of a server: the names or ids of its security groups, separated by commas."""

Recreate = Literal["never", "opted-in", "all"]
LostNetworks = Literal["refuse", "auto", "none"]
LostKey = Literal["refuse", "drop"]


@dataclass(frozen=True, slots=True)
class Consent:
    """Whether a successor may be created, and in words who says so."""

    given: bool
    why: str


def consent(
    recreate: Recreate,
    *,
    metadata: Mapping[str, str],
    extra_specs: Mapping[str, str],
    project: str,
    projects: Collection[str],
) -> Consent:
    """Whether the server may be replaced.

    The server's metadata outweighs the flavor's extra spec, this outweighs the operator's list of
    ``projects``, and that outweighs the setting; only ``never`` outweighs all.
    """
    if recreate == "never":
        return Consent(given=False, why="servers are not created here (recreate = never)")
    for said, whose in (
        (metadata.get(RECREATE), "the server's metadata"),
        (extra_specs.get(RECREATE), "the flavor's extra specs"),
    ):
        word = said.strip().lower() if said is not None else None
        if word in {"true", "false"}:
            return Consent(given=word == "true", why=f"{whose} say {RECREATE}={word}")
        if word is not None:
            return Consent(given=False, why=f"{whose} say {RECREATE}, but neither true nor false")
    if project in projects:
        return Consent(given=True, why="its project is one of recreate_projects")
    if recreate == "all":
        return Consent(given=True, why="all failed servers are created again (recreate = all)")
    return Consent(
        given=False,
        why=f"nobody has opted in: neither the server's metadata nor its flavor's extra specs say "
        f"{RECREATE}=true, and its project is not one of recreate_projects",
    )


@dataclass(frozen=True, slots=True)
class Losses:
    """What is done about what cannot be had again."""

    networks: LostNetworks
    key: LostKey


@dataclass(frozen=True, slots=True)
class Successor:
    """What to create, and in words what it will not have."""

    blueprint: Blueprint
    without: tuple[str, ...]

    def told(self, agreed: Consent, *, as_owner: bool) -> str:
        """Why it is created, in whose name, and without what, in one sentence."""
        name = "its owner's" if as_owner else "the service user's"
        lacks = f", without {', '.join(self.without)}" if self.without else ""
        return f"created again in {name} name{lacks}: {agreed.why}"


def successor(
    blueprint: Blueprint | None,
    *,
    lost: Collection[str],
    as_owner: bool,
    losses: Losses,
) -> Successor | str:
    """What to create in the failed server's place, or why nothing may be created.

    ``as_owner``: it is created in its owner's name, so that the owner's key pair can be used.
    """
    if blueprint is None:
        return "what it was created from cannot be read"
    if "block_devices" in lost:
        return (
            "it boots from a volume or has volumes, and how they were to be attached cannot be "
            "found out"
        )
    networks = _networks(blueprint, lost, losses.networks)
    if isinstance(networks, str):
        return networks
    changes, without = networks
    if "security_groups" in lost and not blueprint.security_groups:
        stated = blueprint.metadata.get(SECURITY_GROUPS, "").split(",")
        groups = tuple(name for name in map(str.strip, stated) if name)
        if groups:
            changes["security_groups"] = groups
        else:
            without.append("security groups other than the default")
    if "scheduler_hints" in lost:
        without.append("some of its scheduler hints")
    if blueprint.key_name is not None and not as_owner:
        if losses.key == "refuse":
            return (
                f"its key pair {blueprint.key_name} is its owner's alone (lost_key = refuse): a "
                "trust from the owner would let Changeover use it"
            )
        changes["key_name"] = None
        without.append(f"its key pair {blueprint.key_name}")
    return Successor(blueprint.model_copy(update=changes), tuple(without))


def _networks(
    blueprint: Blueprint, lost: Collection[str], policy: LostNetworks
) -> tuple[dict[str, Any], list[str]] | str:
    """What to change and what is lost by it, or why nothing may be created."""
    if "networks" not in lost:
        return {}, []
    try:
        stated = networks_of(blueprint.metadata)
    except Invalid as exc:
        return exc.message
    if stated is not None:
        return {"networks": stated}, []
    if policy == "refuse":
        return (
            "which networks it was to have cannot be found out (lost_networks = refuse); its "
            f"owner can say so in its metadata: {NETWORKS}"
        )
    return {"networks": policy}, [f"the networks it asked for, if any ({policy} instead)"]


def networks_of(
    metadata: Mapping[str, str],
) -> Literal["auto", "none"] | tuple[Network, ...] | None:
    """The networks that the owner states, ``None`` if not said; raises ``Invalid``.

    ``auto``, ``none``, or comma-separated ids of networks, each ``port=ID`` for a port instead.
    """
    said = metadata.get(NETWORKS)
    if said is None:
        return None
    word = said.strip()
    if word == "auto":
        return "auto"
    if word == "none":
        return "none"
    networks = []
    for part in word.split(","):
        name = part.strip()
        port = name.removeprefix("port=")
        if not port or " " in port:
            raise Invalid(
                f"metadata {NETWORKS}: must be auto, none, or ids of networks or port=ID, "
                "separated by commas"
            )
        networks.append(Network(port=port) if port != name else Network(uuid=name))
    return tuple(networks)
