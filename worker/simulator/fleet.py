"""The embedded cloud: hosts with cards in Placement, the simulated cards, and their catalog."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from uuid import UUID, uuid5

from changeover.models.catalog import Catalog, Device, Function
from changeover.models.flavor import Flavor
from changeover.models.placement import Inventory, ProviderState
from changeover.policies.device_profile import HOST_TRAIT
from changeover.policies.request import DEVICE_PROFILE
from changeover.worker.ports.placement import PlacementTenant
from changeover.worker.simulator.cards import SimulatedCards
from changeover.worker.simulator.servers import SimulatedServers

NAMESPACE = UUID("6a9f3c1e-9d0b-5c55-8b8e-0c1a4f3e2d10")

FPGA = "CUSTOM_FPGA"
REGION = "CUSTOM_FPGA_REGION"
VGPU = "VGPU"

_FPGA_MODELS = {"u50": 1, "u280": 1}
_FPGA_FUNCTIONS = {
    # name: slots by model, seconds to program
    "aes": ({"u50": 1, "u280": 1, "u250-region": 1}, 8.0),
    "gzip": ({"u50": 2, "u280": 2, "u250-region": 1}, 6.0),
    "sha3": ({"u50": 1, "u280": 1, "u250-region": 1}, 6.0),
    "regex": ({"u50": 2, "u280": 4, "u250-region": 1}, 10.0),
    "ipsec": ({"u280": 1}, 12.0),
}
_VGPU_FUNCTIONS = {"nvidia-35": (8, "2q"), "nvidia-36": (4, "4q"), "nvidia-37": (2, "8q")}


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the cloud is; ``name`` makes the uuids of several clouds differ.

    The FPGA cards are of model u50, the last of every ``u280_every`` of model u280; the fully
    dynamic cards have ``regions`` regions each.
    """

    hosts: int = 4
    fpga_cards: int = 12
    gpus: int = 6
    dynamic_cards: int = 2
    regions: int = 4
    u280_every: int = 12
    name: str = "embedded"

    def uuid(self, what: str) -> str:
        """The uuid of a provider of this cloud, the same at every run."""
        return str(uuid5(NAMESPACE, f"{self.name}/{what}"))

    @property
    def host_names(self) -> tuple[str, ...]:
        """The hosts: ``host1``, ``host2``..."""
        return tuple(f"host{index + 1}" for index in range(self.hosts))


@dataclass(frozen=True, slots=True)
class Fleet:
    """What was built. ``initial`` maps a device's name to the function it started with."""

    shape: Shape
    catalog: Catalog
    flavors: tuple[Flavor, ...]
    initial: Mapping[str, str]


def build_fleet(
    placement: PlacementTenant,
    cards: SimulatedCards | None = None,
    servers: SimulatedServers | None = None,
    shape: Shape | None = None,
) -> Fleet:
    """Build what is missing of the cloud; what is there is left as it is, programmed or not."""
    shape = shape or Shape()
    fleet = describe_fleet(shape)
    catalog = fleet.catalog
    classes = {function.resource_class for function in catalog.functions.values()} | {REGION}
    traits = {trait for function in catalog.functions.values() for trait in function.traits}
    traits |= {trait for model in catalog.models.values() for trait in model.traits}
    placement.ensure_resource_classes(c for c in sorted(classes) if c.startswith("CUSTOM_"))
    placement.ensure_traits(t for t in sorted(traits) if t.startswith("CUSTOM_"))
    for host in shape.host_names:
        _build_host(placement, shape.uuid(host), host)
    for device in catalog.devices:
        function = fleet.initial[device.name]
        if cards is not None:
            resets = catalog.models[device.model].resets
            cards.add(device.name, function=function, card=device.card, resets=resets)
        _build_device(placement, shape, catalog, device, function)
    if servers is not None:
        servers.add_flavor(*fleet.flavors)
        for host in shape.host_names:
            if servers.host_up(host) is None:
                servers.set_host(host)
    return fleet


def describe_fleet(shape: Shape | None = None) -> Fleet:
    """The fleet as values, without building anything."""
    shape = shape or Shape()
    catalog = Catalog.model_validate(_catalog(shape))
    return Fleet(shape, catalog, _flavors(), _initial(catalog))


def offered(catalog: Catalog, device: Device, function: Function | None) -> dict[str, Inventory]:
    """The inventory of a device that holds ``function``, or nothing."""
    model = catalog.models[device.model]
    if model.resource_class is not None:
        return {model.resource_class: Inventory(total=model.slots, max_unit=model.slots)}
    if function is None:
        return {}
    slots = function.fits[device.model]
    return {function.resource_class: Inventory(total=slots, max_unit=slots)}


def _build_host(placement: PlacementTenant, uuid: str, name: str) -> None:
    provider = placement.create_provider(uuid, name)
    if provider.generation == 0:
        amounts = {"VCPU": 64, "MEMORY_MB": 262_144, "DISK_GB": 4_000}
        inventories = {rc: Inventory(total=n, max_unit=n) for rc, n in amounts.items()}
        generation = placement.put_inventories(uuid, provider.generation, inventories)
        placement.put_traits(uuid, generation, [HOST_TRAIT])


def _build_device(
    placement: PlacementTenant, shape: Shape, catalog: Catalog, device: Device, function: str
) -> None:
    model = catalog.models[device.model]
    name = f"{device.host}_{device.name}"
    provider = placement.create_provider(device.provider, name, parent=shape.uuid(device.host))
    state = (
        placement.state(device.provider)
        if provider.generation
        else ProviderState(device.provider, 0, {}, frozenset())
    )
    if state.traits >= set(model.traits):
        return  # the traits are written last: it was built before, and may have changed since
    loaded = catalog.functions.get(function)
    inventories = offered(catalog, device, loaded)
    generation = state.generation
    if inventories != state.inventories:
        generation = placement.put_inventories(device.provider, generation, inventories)
    traits = {*model.traits, *(loaded.traits if loaded else ())}
    placement.put_traits(device.provider, generation, sorted(traits))


# ---------------------------------------------------------------- what there is


def _trait(function: str) -> str:
    return f"CUSTOM_FPGA_FUNCTION_{function.upper()}"


def _vgpu_trait(function: str) -> str:
    return f"CUSTOM_VGPU_TYPE_{function.upper().replace('-', '_')}"


def _catalog(shape: Shape) -> dict[str, Any]:
    models: dict[str, Any] = {
        model: {"programmer": "cards", "traits": [f"CUSTOM_FPGA_CARD_{model.upper()}"]}
        for model in _FPGA_MODELS
    }
    models["pgpu"] = {"programmer": "cards", "traits": ["CUSTOM_PGPU"]}
    models["u250-region"] = {
        "mode": "fully_dynamic",
        "programmer": "cards",
        "traits": ["CUSTOM_FPGA_CARD_U250"],
        "resource_class": REGION,
    }
    functions: dict[str, Any] = {
        name: {
            "traits": [_trait(name)],
            "resource_class": FPGA,
            "artifact": {"image": f"{name}.bit", "sha256": _sha256(name)},
            "fits": fits,
            "seconds": seconds,
        }
        for name, (fits, seconds) in _FPGA_FUNCTIONS.items()
    }
    for name, (slots, _) in _VGPU_FUNCTIONS.items():
        functions[name] = {
            "traits": [_vgpu_trait(name)],
            "resource_class": VGPU,
            "artifact": {"vgpu_type": name},
            "fits": {"pgpu": slots},
            "seconds": 3.0,
        }
    return {
        "programmers": {"cards": {"kind": "simulated"}},
        "models": models,
        "functions": functions,
        "devices": list(_devices(shape)),
        "pools": {"gzip": {"min_free": 1}},
    }


def _sha256(name: str) -> str:
    """A stand-in for the bitstream's digest: the simulated cards load names, not bits."""
    return (uuid5(NAMESPACE, name).hex + uuid5(NAMESPACE, f"{name}.bit").hex)[:64]


def _devices(shape: Shape) -> Iterator[dict[str, Any]]:
    hosts = shape.host_names
    for index in range(shape.fpga_cards):
        model = "u280" if (index + 1) % shape.u280_every == 0 else "u50"
        name = f"fpga{index + 1}"
        yield _device(shape, name, model, hosts[index % shape.hosts], f"0000:{0x10 + index:02x}")
    for index in range(shape.gpus):
        name = f"gpu{index + 1}"
        yield _device(shape, name, "pgpu", hosts[index % shape.hosts], f"0000:{0x80 + index:02x}")
    for index in range(shape.dynamic_cards):
        card = f"dyn{index + 1}"
        host = hosts[index % shape.hosts]
        for region in range(shape.regions):
            name = f"{card}-r{region + 1}"
            address = f"0000:{0xC0 + index:02x}:00.{region}"
            yield {**_device(shape, name, "u250-region", host, address), "card": card}


def _device(shape: Shape, name: str, model: str, host: str, address: str) -> dict[str, Any]:
    return {
        "name": name,
        "provider": shape.uuid(name),
        "model": model,
        "host": host,
        "address": address,
    }


_STARTS: Mapping[str, Sequence[str]] = {
    # What the cards of each model hold at first, in turn; "" is an empty one.
    "u50": ("aes", "gzip", "sha3", "", "gzip", "regex", "sha3", "gzip", "", "sha3", "gzip"),
    "u280": ("sha3",),
    "pgpu": ("nvidia-35", "nvidia-36", "nvidia-35", "", "nvidia-36", "nvidia-35"),
    "u250-region": ("aes", "gzip", "", "sha3", "gzip", "gzip", "", "regex"),
}


def _initial(catalog: Catalog) -> dict[str, str]:
    starts = {model: cycle(functions) for model, functions in _STARTS.items()}
    return {device.name: next(starts[device.model]) for device in catalog.devices}


def _flavors() -> tuple[Flavor, ...]:
    made = [_flavor("plain", {})]
    for name, (fits, _) in _FPGA_FUNCTIONS.items():
        made.append(_flavor(f"fpga.{name}", _asks(FPGA, _trait(name))))
        made.append(_flavor(f"profile.{name}", {DEVICE_PROFILE: name}))
        if "u250-region" in fits:
            specs = {f"resources:{REGION}": "1", "changeover:preferred_traits": _trait(name)}
            made.append(_flavor(f"region.{name}", specs))
    for name, (_, size) in _VGPU_FUNCTIONS.items():
        made.append(_flavor(f"vgpu.{size}", _asks(VGPU, _vgpu_trait(name))))
    return tuple(made)


def _asks(resource_class: str, trait: str) -> dict[str, str]:
    return {f"resources:{resource_class}": "1", f"trait:{trait}": "required"}


def _flavor(name: str, extra_specs: Mapping[str, str]) -> Flavor:
    return Flavor(
        name=name,
        flavorid=str(uuid5(NAMESPACE, f"flavor/{name}")),
        vcpus=1,
        memory_mb=64,
        root_gb=1,
        extra_specs=extra_specs,
    )


# ---------------------------------------------------------------- the catalog as a file

_COMMENTS = {
    "": (
        "The catalog of the embedded cloud: what there is, and what it can become.",
        "Every name that is used must be defined here; `changeover config check` says where not.",
    ),
    "programmers": (
        "How devices are programmed. `kind: simulated` are the embedded cloud's cards; a vendor's",
        "tool is run with `kind: command` and its words, for example",
        "  tool: {kind: command, program: [/opt/vendor/load, -d, '{address}', -i, '{image}'],",
        "         read: [/opt/vendor/show, -d, '{address}'], timeout_seconds: 600}",
    ),
    "models": (
        "Kinds of devices. A single_program device offers what its function yields. A region of a",
        "fully_dynamic card always offers its own resource class; its function is only a hint.",
    ),
    "functions": (
        "What devices can be programmed to do: the traits that a flavor requires, the resource",
        "class of its slots, what is loaded, the models it fits with the slots each yields, and",
        "how many seconds programming is expected to take.",
    ),
    "devices": ("One line a programmable resource provider; `provider` is its uuid in Placement.",),
    "pools": (
        "What the balancer keeps free of each function, in slots; what is not here has defaults.",
    ),
}


def catalog_yaml(shape: Shape | None = None) -> str:
    """The catalog as a commented file, for operators to read and to change."""
    lines = [f"# {line}" for line in _COMMENTS[""]]
    for section, entries in _catalog(shape or Shape()).items():
        lines += ["", *(f"# {line}" for line in _COMMENTS[section]), f"{section}:"]
        if isinstance(entries, list):
            lines += [f"  - {_flow(entry)}" for entry in entries]
            continue
        for name, entry in entries.items():
            lines += [f"  {name}:"]
            lines += [f"    {key}: {_flow(value)}" for key, value in entry.items()]
    return "\n".join(lines) + "\n"


_BARE = re.compile(r"(?!(?:true|false|null|yes|no|on|off|y|n)$)[a-z][a-z0-9_.-]*", re.IGNORECASE)


def _flow(value: Any) -> str:
    """YAML's flow form: JSON, with bare words where no reader takes them for anything else."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, str) and _BARE.fullmatch(value):
        return value
    return json.dumps(value)
