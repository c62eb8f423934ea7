"""Generated clouds in a Placement in memory, and requests to them: small enough to try all."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from changeover.models.boot import Boot
from changeover.models.catalog import Catalog, Device, Function
from changeover.models.placement import Inventory, RequestGroup, ResourceRequest
from changeover.models.reasons import Reason
from changeover.models.states import BootState
from changeover.models.tables import Base
from changeover.policies.offer import class_of, offered, slots_of, traits_with
from changeover.worker.ports.placement import Placement
from changeover.worker.refresh import refresh, sync_catalog
from changeover.worker.settings import Settings
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.simulator.placement import MemoryPlacement
from changeover.worker.store import Database
from changeover.worker.world import World

HOST_TRAITS = ("HW_CPU_X86_AVX2", "CUSTOM_RACK_A")
CARD_TRAIT = "CUSTOM_COOLED"
FPGA, VGPU, REGION = "CUSTOM_FPGA", "VGPU", "CUSTOM_REGION"
AES, GZIP, VIRT = "CUSTOM_FUNCTION_AES", "CUSTOM_FUNCTION_GZIP", "CUSTOM_TYPE_VIRT"

Change = tuple[Device, Function]


def _catalog(devices: list[dict[str, Any]]) -> Catalog:
    image = {"image": "some.bit", "sha256": "0" * 64}
    return Catalog.model_validate(
        {
            "programmers": {"sim": {"kind": "simulated"}},
            "models": {
                "one": {"programmer": "sim", "traits": ["CUSTOM_CARD_ONE"]},
                "two": {"programmer": "sim", "traits": ["CUSTOM_CARD_TWO"]},
                "region": {
                    "programmer": "sim", "mode": "fully_dynamic", "resource_class": REGION,
                },
            },
            "functions": {
                "aes": {
                    "traits": [AES], "resource_class": FPGA, "artifact": image,
                    "fits": {"one": 1, "two": 2, "region": 1},
                },
                "gzip": {
                    "traits": [GZIP], "resource_class": FPGA, "artifact": image,
                    "fits": {"two": 1},
                },
                "virt": {
                    "traits": [VIRT], "resource_class": VGPU, "artifact": {"vgpu_type": "virt"},
                    "fits": {"two": 3},
                },
            },
            "devices": devices,
        }
    )  # fmt: skip


def make_world(chance: random.Random) -> World:
    """A cloud of two or three hosts, with a world over it that has read all devices."""
    hosts = [f"host{k}" for k in range(chance.choice((2, 3)))]
    roots = {host: str(UUID(int=k + 1)) for k, host in enumerate(hosts)}
    devices = [
        {
            "name": f"card{k}",
            "provider": str(UUID(int=100 + k)),
            "model": chance.choice(("one", "two", "two", "region")),
            "host": hosts[k % 2],  # a third host has none
            "pinned": chance.random() < 0.15,
        }
        for k in range(chance.choice((2, 3, 4)))
    ]
    catalog = _catalog(devices)
    placement = MemoryPlacement()
    traits = {t for f in catalog.functions.values() for t in f.traits}
    traits |= {t for m in catalog.models.values() for t in m.traits}
    placement.ensure_traits(sorted(traits | {CARD_TRAIT, "CUSTOM_RACK_A", "CUSTOM_NOWHERE"}))
    placement.ensure_resource_classes([FPGA, REGION])
    for host, root in roots.items():
        placement.create_provider(root, host)
        total = {"VCPU": chance.choice((2, 4)), "MEMORY_MB": chance.choice((512, 1024))}
        placement.put_inventories(
            root, 0, {rc: Inventory(n, max_unit=n) for rc, n in total.items()}
        )
        placement.put_traits(root, 1, [t for t in HOST_TRAITS if chance.random() < 0.6])
        if chance.random() < 0.4:
            _claim(placement, root, {"VCPU": chance.choice((1, 2)), "MEMORY_MB": 256}, chance)
    for device in catalog.devices:
        placement.create_provider(device.provider, device.name, roots[device.host])
        own = [CARD_TRAIT] if chance.random() < 0.3 else []
        placement.put_traits(device.provider, 0, own)
        fitting = [f for f in catalog.functions.values() if device.model in f.fits]
        function = chance.choice([None, *fitting])
        set_function(placement, catalog, device, function)
        slots = slots_of(function, catalog.models[device.model])
        if slots and chance.random() < 0.4:
            model = catalog.models[device.model]
            rc = class_of(function, model) if function is not None else REGION
            _claim(placement, device.provider, {rc: chance.randint(1, slots)}, chance)
    return world_over(placement, catalog)


def world_over(placement: Placement, catalog: Catalog) -> World:
    """A world that has read all devices, of which none was programmed lately."""
    clock = VirtualClock()
    database = Database("sqlite://")
    database.engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    Base.metadata.create_all(database.engine)
    world = World(
        database=database,
        placement=placement,
        servers=None,  # type: ignore[arg-type]  # nothing is created here
        programmers={},
        clock=clock,
        catalog=catalog,
        settings=Settings(state_dir=Path("unused"), allow_short_settle=True),
        owner="test",
    )
    sync_catalog(world)
    refresh(world)
    clock.advance(3600.0)
    return world


def _claim(
    placement: MemoryPlacement, provider: str, amounts: dict[str, int], chance: random.Random
) -> None:
    consumer = str(UUID(int=chance.getrandbits(128)))
    assert placement.claim(consumer, {provider: amounts}, project="p", user="u")


def set_function(
    placement: MemoryPlacement, catalog: Catalog, device: Device, function: Function | None
) -> None:
    """Let the device offer ``function``, as a changeover would publish it."""
    model = catalog.models[device.model]
    state = placement.state(device.provider)
    inventories = offered(state.inventories, function, model, catalog, 0)
    traits = traits_with(state.traits, function, model, catalog)
    generation = placement.put_traits(device.provider, state.generation, traits)
    placement.put_inventories(device.provider, generation, inventories)


@contextmanager
def changed(world: World, changes: Iterable[Change]) -> Iterator[None]:
    """The cloud as it would be after ``changes``."""
    placement = world.placement
    assert isinstance(placement, MemoryPlacement)
    before = [placement.state(device.provider) for device, _ in changes]
    for device, function in changes:
        set_function(placement, world.catalog, device, function)
    yield
    for state in before:
        generation = placement.state(state.uuid).generation
        generation = placement.put_traits(state.uuid, generation, state.traits)
        placement.put_inventories(state.uuid, generation, state.inventories)


def possible_changes(world: World, together: int) -> Iterator[tuple[Change, ...]]:
    """Every way to program so many devices that nobody uses and nobody pinned."""
    idle = [
        device
        for device in world.catalog.devices
        if not device.pinned and world.placement.usage(device.provider).idle
    ]
    for devices in combinations(idle, together):
        choices = [
            [f for f in world.catalog.functions.values() if device.model in f.fits]
            for device in devices
        ]
        for functions in product(*choices):
            yield tuple(zip(devices, functions, strict=True))


def fits(world: World, request: ResourceRequest) -> bool:
    """Whether Placement has a candidate."""
    return bool(world.placement.candidates(request, 1).candidates)


def fits_on(world: World, request: ResourceRequest, hosts: frozenset[str]) -> bool:
    """Whether Placement has a candidate on one of ``hosts``."""
    roots = world.placement.candidates(request).roots
    names = world.host_names(roots)
    return any(names[root] in hosts for root in roots)


def some_request(chance: random.Random) -> ResourceRequest:
    """What a flavor may ask: of the host, and of one or two devices."""
    required = {t for t in HOST_TRAITS if chance.random() < 0.25}
    if chance.random() < 0.1:
        required.add("CUSTOM_NOWHERE")
    base = RequestGroup(
        resources={"VCPU": chance.choice((1, 1, 2, 3, 8)), "MEMORY_MB": chance.choice((128, 600))},
        required=frozenset(required),
        forbidden=frozenset({HOST_TRAITS[0]} if chance.random() < 0.1 else ()) - required,
    )
    groups = [base]
    count = chance.choice((1, 1, 1, 2))
    for k in range(count):
        device = _device_group(chance, f"_{k}")
        if count == 1 and chance.random() < 0.5:
            groups = [
                replace(
                    base,
                    resources={**base.resources, **device.resources},
                    required=base.required | device.required,
                    any_of=device.any_of,
                    forbidden=base.forbidden | device.forbidden,
                )
            ]
        else:
            groups.append(device)
    return ResourceRequest(
        groups=tuple(groups),
        group_policy=chance.choice(("none", "isolate")) if count == 2 else None,
        hosts=(chance.choice(("host0", "host1", "host9")),) if chance.random() < 0.2 else None,
        excluded_hosts=("host1",) if chance.random() < 0.1 else (),
    )


def _device_group(chance: random.Random, suffix: str) -> RequestGroup:
    rc, traits = chance.choice(
        (
            (FPGA, {AES}),
            (FPGA, {AES}),
            (FPGA, {GZIP}),
            (VGPU, {VIRT}),
            (FPGA, set()),
            (REGION, set()),
        )
    )
    forbidden = set()
    if chance.random() < 0.15:
        traits = traits | {CARD_TRAIT}
    elif chance.random() < 0.15:
        traits = traits | {"CUSTOM_CARD_TWO"}
    elif chance.random() < 0.1:
        forbidden = {"CUSTOM_CARD_TWO"}
    any_of: tuple[frozenset[str], ...] = ()
    if rc == FPGA and not traits and chance.random() < 0.5:
        any_of = (frozenset({AES, GZIP}),)
    return RequestGroup(
        suffix=suffix,
        resources={rc: chance.choice((1, 1, 1, 2))},
        required=frozenset(traits),
        any_of=any_of,
        forbidden=frozenset(forbidden),
    )


def some_boot(request: ResourceRequest, now: float) -> Boot:
    """A boot that asked for it and failed."""
    return Boot(
        id="boot", server="server", project="p", user="u", name="flavor", group_id="r",
        request=request, request_key=request.key, device_profile=None, state=BootState.RECEIVED,
        reason=Reason("boot.received", ""), priority=1.0, failed_at=now, received_at=now,
        expires_at=now + 3600, wake_at=now, attempt=0,
    )  # fmt: skip
