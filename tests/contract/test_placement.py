"""What Placement does, held against the service in memory and the real one over HTTP."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from changeover.models.errors import ChangeoverError, InUse, Invalid, NotFound, Stale
from changeover.models.placement import (
    Candidates,
    GroupPolicy,
    Inventory,
    Provider,
    RequestGroup,
    ResourceRequest,
)
from changeover.worker.adapters.placement_http import HttpPlacement
from changeover.worker.ports.placement import Placement, PlacementTenant
from changeover.worker.simulator.placement import MemoryPlacement

AES, SHA, FAST = "CUSTOM_FUNCTION_AES", "CUSTOM_FUNCTION_SHA", "CUSTOM_FAST"
REGION = "CUSTOM_FPGA_REGION"


@pytest.fixture(params=["memory", "http"])
def placement(request: pytest.FixtureRequest) -> PlacementTenant:
    service: PlacementTenant = (
        MemoryPlacement()
        if request.param == "memory"
        else HttpPlacement.noauth(request.getfixturevalue("placement_url"))
    )
    service.ensure_traits([AES, SHA, FAST])
    service.ensure_resource_classes([REGION])
    return service


def provider(
    placement: PlacementTenant,
    inventories: dict[str, Inventory] | None = None,
    traits: tuple[str, ...] = (),
    parent: str | None = None,
    name: str | None = None,
) -> str:
    """A new provider; the real service is shared, so every name is new."""
    uuid = str(uuid4())
    made = placement.create_provider(uuid, name or f"p-{uuid}", parent)
    generation = placement.put_inventories(uuid, made.generation, inventories or {})
    placement.put_traits(uuid, generation, traits)
    return uuid


def generation(placement: PlacementTenant, uuid: str) -> int:
    return placement.usage(uuid).generation


def claim(placement: PlacementTenant, allocations: dict[str, dict[str, int]]) -> str | None:
    consumer = str(uuid4())
    taken = placement.claim(consumer, allocations, project="project", user="user")
    return consumer if taken else None


def asked(*groups: RequestGroup, policy: GroupPolicy | None = None, **of: Any) -> ResourceRequest:
    return ResourceRequest(tuple(groups), policy, **of)


# --- providers --------------------------------------------------------------------------------


def test_new_provider_is_at_generation_0_and_its_own_root(placement: PlacementTenant) -> None:
    uuid, name = str(uuid4()), f"host-{uuid4()}"
    made = placement.create_provider(uuid, name)
    assert made == Provider(uuid, name, 0, None, uuid)
    assert placement.create_provider(uuid, name) == made


def test_members_of_any_of_the_aggregates_are_listed(placement: PlacementTenant) -> None:
    one, two, three = str(uuid4()), str(uuid4()), str(uuid4())
    root = provider(placement)
    first, second = provider(placement, parent=root), provider(placement, parent=root)
    placement.put_aggregates(first, generation(placement, first), [one, two])
    after = placement.put_aggregates(second, generation(placement, second), [three])
    assert after == generation(placement, second)

    def members(*aggregates: str) -> set[str]:
        return {p.uuid for p in placement.providers(member_of=aggregates, in_tree=root)}

    assert members(one) == {first}
    assert members(two, three) == {first, second}
    assert members(str(uuid4())) == set()
    assert members() == {root, first, second}
    with pytest.raises(Stale):
        placement.put_aggregates(second, after - 1, [])
    placement.put_aggregates(second, after, [])
    assert members(three) == set()


def test_child_has_its_trees_root(placement: PlacementTenant) -> None:
    root = provider(placement)
    child = provider(placement, parent=root)
    grandchild = placement.create_provider(str(uuid4()), f"g-{uuid4()}", child)
    assert (grandchild.parent, grandchild.root) == (child, root)
    assert {p.uuid for p in placement.providers(in_tree=grandchild.uuid)} == {
        root, child, grandchild.uuid,
    }  # fmt: skip


def test_name_and_uuid_are_taken_once(placement: PlacementTenant) -> None:
    uuid, name = str(uuid4()), f"host-{uuid4()}"
    placement.create_provider(uuid, name)
    with pytest.raises(Invalid):
        placement.create_provider(str(uuid4()), name)
    with pytest.raises(Invalid):
        placement.create_provider(uuid, f"other-{name}")
    with pytest.raises(NotFound):
        placement.create_provider(str(uuid4()), f"child-{uuid}", str(uuid4()))
    with pytest.raises(Invalid):
        placement.create_provider("no uuid", f"bad-{uuid}")


def test_providers_are_listed_by_free_capacity_traits_name_and_tree(
    placement: PlacementTenant,
) -> None:
    root = provider(placement, name=f"host-{uuid4()}")
    idle = provider(placement, {REGION: Inventory(4)}, (AES,), root)
    busy = provider(placement, {REGION: Inventory(4)}, (AES, FAST), root)
    claim(placement, {busy: {REGION: 1}})

    def found(**query: Any) -> set[str]:
        return {p.uuid for p in placement.providers(**query, in_tree=root)}

    assert found() == {root, idle, busy}
    assert found(resources={REGION: 4}) == {idle}
    assert found(resources={REGION: 3}) == {idle, busy}
    assert found(required=[AES, FAST]) == {busy}
    name = next(p.name for p in placement.providers(in_tree=root) if p.uuid == root)
    assert [p.uuid for p in placement.providers(name=name)] == [root]
    assert placement.providers(name="nobody is called so") == []
    assert placement.providers(in_tree=str(uuid4())) == []


def test_nobody_has_what_placement_does_not_know(placement: PlacementTenant) -> None:
    assert placement.providers(resources={"CUSTOM_NEVER_HEARD_OF": 1}) == []
    assert placement.providers(required=["CUSTOM_NEVER_HEARD_OF"]) == []


def test_unknown_provider_is_not_found(placement: PlacementTenant) -> None:
    nobody = str(uuid4())
    for call in (
        lambda: placement.state(nobody),
        lambda: placement.usage(nobody),
        lambda: placement.put_inventories(nobody, 0, {}),
        lambda: placement.put_traits(nobody, 0, []),
        lambda: claim(placement, {nobody: {"VCPU": 1}}),
    ):
        with pytest.raises(NotFound):
            call()


# --- names ------------------------------------------------------------------------------------


def test_names_are_made_once_and_standard_ones_are_there(placement: PlacementTenant) -> None:
    new = f"CUSTOM_{uuid4().hex.upper()}"
    for _ in range(2):
        placement.ensure_traits([new, "HW_CPU_X86_AVX2"])
        placement.ensure_resource_classes([new, "VCPU"])
    uuid = provider(placement, {new: Inventory(1)}, (new, "HW_CPU_X86_AVX2"))
    assert placement.state(uuid).traits == {new, "HW_CPU_X86_AVX2"}
    placement.ensure_traits([])
    placement.ensure_resource_classes([])


@pytest.mark.parametrize("bad", ["FUNCTION_AES", "CUSTOM_lower", "CUSTOM_", "CUSTOM_" + "A" * 255])
def test_bad_names_are_invalid(placement: PlacementTenant, bad: str) -> None:
    with pytest.raises(Invalid):
        placement.ensure_traits([bad])
    with pytest.raises(Invalid):
        placement.ensure_resource_classes([bad])


# --- generations ------------------------------------------------------------------------------


def test_each_inventory_write_moves_the_generation(placement: PlacementTenant) -> None:
    uuid = provider(placement)
    at = generation(placement, uuid)
    wanted = {"FPGA": Inventory(2, reserved=1, max_unit=2, allocation_ratio=1.5)}
    assert placement.put_inventories(uuid, at, wanted) == at + 1
    assert placement.put_inventories(uuid, at + 1, wanted) == at + 2
    state = placement.state(uuid)
    assert (state.generation, state.inventories) == (at + 2, wanted)


def test_identical_traits_do_not_move_the_generation(placement: PlacementTenant) -> None:
    uuid = provider(placement)
    at = generation(placement, uuid)
    assert placement.put_traits(uuid, at, [AES, SHA, AES]) == at + 1
    assert placement.put_traits(uuid, at + 1, [SHA, AES]) == at + 1
    assert placement.put_traits(uuid, at + 1, []) == at + 2
    assert placement.state(uuid).traits == frozenset()


def test_claim_moves_the_generation_and_release_does_not(placement: PlacementTenant) -> None:
    uuid = provider(placement, {"FPGA": Inventory(2)})
    at = generation(placement, uuid)
    consumer = claim(placement, {uuid: {"FPGA": 1}})
    assert consumer is not None
    usage = placement.usage(uuid)
    assert (usage.generation, usage.by_consumer) == (at + 1, {consumer: {"FPGA": 1}})
    assert not usage.idle
    placement.release(consumer)
    assert placement.usage(uuid).idle
    assert generation(placement, uuid) == at + 1


def test_stale_generations_are_refused_and_change_nothing(placement: PlacementTenant) -> None:
    uuid = provider(placement, {"FPGA": Inventory(2)}, (AES,))
    before = placement.state(uuid)
    for stale in (before.generation - 1, before.generation + 1):
        with pytest.raises(Stale):
            placement.put_inventories(uuid, stale, {})
        with pytest.raises(Stale):
            placement.put_traits(uuid, stale, [SHA])
    assert placement.state(uuid) == before


def test_claim_between_read_and_fence_is_seen(placement: PlacementTenant) -> None:
    uuid = provider(placement, {"FPGA": Inventory(1)})
    usage = placement.usage(uuid)
    assert usage.idle
    assert claim(placement, {uuid: {"FPGA": 1}}) is not None
    with pytest.raises(Stale):
        placement.put_inventories(uuid, usage.generation, {})


def test_one_of_many_writers_at_one_generation_wins(placement: PlacementTenant) -> None:
    uuid = provider(placement, {"FPGA": Inventory(1)})
    at = generation(placement, uuid)

    def write(number: int) -> bool:
        try:
            placement.put_inventories(uuid, at, {"FPGA": Inventory(number + 1)})
        except Stale:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert won.count(True) == 1
    assert placement.state(uuid).inventories["FPGA"].total == won.index(True) + 1


def test_concurrent_claims_never_exceed_capacity(placement: PlacementTenant) -> None:
    uuid = provider(placement, {"FPGA": Inventory(3)})
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: claim(placement, {uuid: {"FPGA": 1}}), range(12)))
    assert len([consumer for consumer in taken if consumer]) == 3
    assert len(placement.usage(uuid).by_consumer) == 3


# --- fences and inventories -------------------------------------------------------------------


def test_class_in_use_cannot_be_taken_away(placement: PlacementTenant) -> None:
    uuid = provider(placement, {"FPGA": Inventory(1), "VGPU": Inventory(1)})
    consumer = claim(placement, {uuid: {"FPGA": 1}})
    assert consumer is not None
    at = generation(placement, uuid)
    for left in ({}, {"VGPU": Inventory(1)}):
        with pytest.raises(InUse):
            placement.put_inventories(uuid, at, left)
    assert placement.put_inventories(uuid, at, {"FPGA": Inventory(1)}) == at + 1
    placement.release(consumer)
    assert placement.put_inventories(uuid, at + 1, {}) == at + 2


def test_reserving_all_is_allowed_even_while_in_use(placement: PlacementTenant) -> None:
    uuid = provider(placement, {"FPGA": Inventory(2)})
    claim(placement, {uuid: {"FPGA": 1}})
    at = generation(placement, uuid)
    assert placement.put_inventories(uuid, at, {"FPGA": Inventory(2, reserved=2)}) == at + 1
    assert claim(placement, {uuid: {"FPGA": 1}}) is None
    assert placement.put_inventories(uuid, at + 1, {"FPGA": Inventory(1, reserved=1)}) == at + 2
    assert not placement.usage(uuid).idle


def test_total_below_the_usage_is_allowed(placement: PlacementTenant) -> None:
    uuid = provider(placement, {"FPGA": Inventory(4)})
    claim(placement, {uuid: {"FPGA": 3}})
    at = generation(placement, uuid)
    assert placement.put_inventories(uuid, at, {"FPGA": Inventory(1)}) == at + 1


def test_traits_can_change_while_in_use(placement: PlacementTenant) -> None:
    uuid = provider(placement, {"FPGA": Inventory(1)}, (AES,))
    claim(placement, {uuid: {"FPGA": 1}})
    at = generation(placement, uuid)
    assert placement.put_traits(uuid, at, [SHA]) == at + 1


@pytest.mark.parametrize(
    "bad",
    [
        Inventory(1, reserved=2),
        Inventory(0),
        Inventory(1, reserved=-1),
        Inventory(1, min_unit=0),
        Inventory(1, max_unit=0),
        Inventory(1, step_size=0),
        Inventory(2**31),
        Inventory(1, allocation_ratio=-1.0),
    ],
)
def test_bad_inventories_are_invalid(placement: PlacementTenant, bad: Inventory) -> None:
    uuid = provider(placement, {"VCPU": Inventory(1)})
    before = placement.state(uuid)
    with pytest.raises(Invalid):
        placement.put_inventories(uuid, before.generation, {"FPGA": bad})
    assert placement.state(uuid) == before


def test_unknown_names_are_not_found_when_written(placement: PlacementTenant) -> None:
    uuid = provider(placement)
    at = generation(placement, uuid)
    with pytest.raises(NotFound):
        placement.put_inventories(uuid, at, {"CUSTOM_NEVER_HEARD_OF": Inventory(1)})
    with pytest.raises(NotFound):
        placement.put_traits(uuid, at, [AES, "CUSTOM_NEVER_HEARD_OF"])
    with pytest.raises(NotFound):
        claim(placement, {uuid: {"CUSTOM_NEVER_HEARD_OF": 1}})
    assert generation(placement, uuid) == at


# --- claims -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inventory", "amount", "fits"),
    [
        (Inventory(2), 2, True),
        (Inventory(2), 3, False),
        (Inventory(2, reserved=1), 2, False),
        (Inventory(2, reserved=2), 1, False),
        (Inventory(2, allocation_ratio=2.0), 4, True),
        (Inventory(3, allocation_ratio=0.5), 1, True),
        (Inventory(3, allocation_ratio=0.5), 2, False),
        (Inventory(8, max_unit=4), 5, False),
        (Inventory(8, min_unit=2), 1, False),
        (Inventory(8, step_size=2), 3, False),
        (Inventory(8, step_size=2), 4, True),
    ],
)
def test_what_fits(
    placement: PlacementTenant, inventory: Inventory, amount: int, *, fits: bool
) -> None:
    uuid = provider(placement, {"FPGA": inventory})
    listed = placement.providers(resources={"FPGA": amount}, in_tree=uuid)
    assert [p.uuid for p in listed] == [uuid][:fits]
    at = generation(placement, uuid)
    assert (claim(placement, {uuid: {"FPGA": amount}}) is not None) is fits
    assert generation(placement, uuid) == at + fits


def test_claim_is_of_all_or_of_nothing(placement: PlacementTenant) -> None:
    one = provider(placement, {"FPGA": Inventory(1)})
    none = provider(placement, {"FPGA": Inventory(1, reserved=1)})
    bare = provider(placement)
    assert claim(placement, {one: {"FPGA": 1}, none: {"FPGA": 1}}) is None
    assert claim(placement, {one: {"FPGA": 1}, bare: {"FPGA": 1}}) is None
    assert claim(placement, {one: {"FPGA": 1, "VCPU": 1}}) is None
    assert placement.usage(one).idle


def test_claimed_is_held_until_released(placement: PlacementTenant) -> None:
    root = provider(placement, {"VCPU": Inventory(4), "MEMORY_MB": Inventory(512)})
    card = provider(placement, {"FPGA": Inventory(1)}, parent=root)
    wanted = {root: {"VCPU": 2, "MEMORY_MB": 128}, card: {"FPGA": 1}}
    consumer = claim(placement, wanted)
    assert consumer is not None
    assert placement.held(consumer) == wanted
    with pytest.raises(Stale):
        placement.claim(consumer, wanted, project="project", user="user")
    placement.release(consumer)
    assert placement.held(consumer) == {}
    placement.release(consumer)
    assert placement.claim(consumer, wanted, project="project", user="user")


def test_malformed_claims_are_invalid(placement: PlacementTenant) -> None:
    uuid = provider(placement, {"FPGA": Inventory(1)})
    bad: list[dict[str, dict[str, int]]] = [{}, {uuid: {}}, {uuid: {"FPGA": 0}}]
    for allocations in bad:
        with pytest.raises(Invalid):
            claim(placement, allocations)
    with pytest.raises(Invalid):
        placement.claim("no uuid", {uuid: {"FPGA": 1}}, project="project", user="user")
    with pytest.raises(Invalid):
        placement.claim(str(uuid4()), {uuid: {"FPGA": 1}}, project="", user="user")


# --- candidates -------------------------------------------------------------------------------


@dataclass
class Host:
    """A host with two cards: the first offers AES, the second SHA and FAST."""

    placement: PlacementTenant
    name: str = field(default_factory=lambda: f"host-{uuid4()}")

    def __post_init__(self) -> None:
        self.root = provider(
            self.placement, {"VCPU": Inventory(4), "MEMORY_MB": Inventory(1024)}, name=self.name
        )
        self.aes = provider(self.placement, {"FPGA": Inventory(2)}, (AES,), self.root)
        self.sha = provider(self.placement, {"FPGA": Inventory(2)}, (SHA, FAST), self.root)


@pytest.fixture
def host(placement: PlacementTenant) -> Host:
    return Host(placement)


def chosen(found: Candidates) -> set[frozenset[tuple[str, str, int]]]:
    return {
        frozenset((u, rc, n) for u, given in c.allocations.items() for rc, n in given.items())
        for c in found.candidates
    }


FPGA = {"FPGA": 1}


def test_unsuffixed_group_may_spread_over_its_tree(host: Host) -> None:
    request = asked(RequestGroup(resources={"VCPU": 1, "FPGA": 1}), hosts=(host.name,))
    found = host.placement.candidates(request)
    assert chosen(found) == {
        frozenset({(host.root, "VCPU", 1), (host.aes, "FPGA", 1)}),
        frozenset({(host.root, "VCPU", 1), (host.sha, "FPGA", 1)}),
    }
    for candidate in found.candidates:
        assert set(candidate.mappings[""]) == set(candidate.allocations)
    assert found.roots == {host.root}


def test_traits_of_the_unsuffixed_group_may_be_on_any_contributor(host: Host) -> None:
    placement = host.placement
    state = placement.state(host.root)
    placement.put_traits(host.root, state.generation, ["HW_CPU_X86_AVX2"])
    both = frozenset({AES, "HW_CPU_X86_AVX2"})
    spread = asked(
        RequestGroup(resources={"VCPU": 1, "FPGA": 1}, required=both), hosts=(host.name,)
    )
    assert chosen(placement.candidates(spread)) == {
        frozenset({(host.root, "VCPU", 1), (host.aes, "FPGA", 1)})
    }
    # Who gives no resources does not lend its traits.
    alone = asked(RequestGroup(resources=FPGA, required=both), hosts=(host.name,))
    assert placement.candidates(alone) == Candidates((), {})


def test_suffixed_group_is_one_provider(host: Host) -> None:
    placement, where = host.placement, (host.name,)
    assert chosen(placement.candidates(asked(RequestGroup("1", FPGA), hosts=where))) == {
        frozenset({(host.aes, "FPGA", 1)}), frozenset({(host.sha, "FPGA", 1)}),
    }  # fmt: skip
    both = {"VCPU": 1, "FPGA": 1}
    assert not placement.candidates(asked(RequestGroup("1", both), hosts=where)).candidates
    for group in (
        RequestGroup("_fn", FPGA, required=frozenset({SHA, FAST})),
        RequestGroup("_fn", FPGA, forbidden=frozenset({AES})),
        RequestGroup("_fn", FPGA, any_of=(frozenset({FAST, "CUSTOM_FUNCTION_SHA"}),)),
        RequestGroup("_fn", FPGA, any_of=(frozenset({SHA}), frozenset({FAST, AES}))),
    ):
        found = placement.candidates(asked(group, hosts=where))
        assert chosen(found) == {frozenset({(host.sha, "FPGA", 1)})}
        assert found.candidates[0].mappings == {"_fn": (host.sha,)}
    nobody = RequestGroup("_fn", FPGA, required=frozenset({SHA, AES}))
    assert not placement.candidates(asked(nobody, hosts=where)).candidates


def test_preferred_traits_exclude_nobody(host: Host) -> None:
    group = RequestGroup("1", FPGA, preferred=frozenset({AES, "CUSTOM_NEVER_HEARD_OF"}))
    assert len(host.placement.candidates(asked(group, hosts=(host.name,))).candidates) == 2


def test_several_groups(host: Host) -> None:
    placement, where = host.placement, (host.name,)
    groups = RequestGroup("1", FPGA), RequestGroup("2", FPGA)
    with pytest.raises(Invalid):
        placement.candidates(asked(*groups, hosts=where))
    none = placement.candidates(asked(*groups, policy="none", hosts=where))
    assert {(c.mappings["1"], c.mappings["2"]) for c in none.candidates} == {
        ((one,), (two,)) for one in (host.aes, host.sha) for two in (host.aes, host.sha)
    }
    assert frozenset({(host.aes, "FPGA", 2)}) in chosen(none)
    isolated = placement.candidates(asked(*groups, policy="isolate", hosts=where))
    assert chosen(isolated) == {frozenset({(host.aes, "FPGA", 1), (host.sha, "FPGA", 1)})}
    assert len(isolated.candidates) == 2


def test_groups_together_do_not_exceed_capacity(host: Host) -> None:
    placement = host.placement
    claim(placement, {host.aes: {"FPGA": 1}})
    groups = RequestGroup("1", FPGA), RequestGroup("2", FPGA)
    found = placement.candidates(asked(*groups, policy="none", hosts=(host.name,)))
    assert frozenset({(host.aes, "FPGA", 2)}) not in chosen(found)
    assert frozenset({(host.sha, "FPGA", 2)}) in chosen(found)


def test_groups_together_do_not_exceed_the_largest_unit(host: Host) -> None:
    placement = host.placement
    at = generation(placement, host.aes)
    placement.put_inventories(host.aes, at, {"FPGA": Inventory(2, max_unit=1)})
    groups = RequestGroup("1", FPGA), RequestGroup("2", FPGA)
    found = placement.candidates(asked(*groups, policy="none", hosts=(host.name,)))
    assert frozenset({(host.aes, "FPGA", 2)}) not in chosen(found)
    assert frozenset({(host.sha, "FPGA", 2)}) in chosen(found)


def test_summaries_tell_the_whole_tree(host: Host) -> None:
    placement = host.placement
    claim(placement, {host.sha: {"FPGA": 2}})
    found = placement.candidates(asked(RequestGroup("1", FPGA), hosts=(host.name,)))
    assert chosen(found) == {frozenset({(host.aes, "FPGA", 1)})}
    assert found.summaries.keys() == {host.root, host.aes, host.sha}
    sha = found.summaries[host.sha]
    assert (sha.root, sha.parent, sha.traits) == (host.root, host.root, {SHA, FAST})
    assert (sha.capacity, sha.used) == ({"FPGA": 2}, {"FPGA": 2})
    assert found.summaries[host.root].capacity == {"VCPU": 4, "MEMORY_MB": 1024}


def test_fenced_device_is_no_candidate(host: Host) -> None:
    placement = host.placement
    state = placement.state(host.aes)
    placement.put_inventories(host.aes, state.generation, {"FPGA": Inventory(2, reserved=2)})
    placement.put_inventories(host.sha, placement.state(host.sha).generation, {})
    request = asked(RequestGroup("1", FPGA), hosts=(host.name,))
    assert not placement.candidates(request).candidates


def test_limit(host: Host) -> None:
    placement = host.placement
    request = asked(RequestGroup("1", FPGA), hosts=(host.name,))
    assert len(placement.candidates(request, 1).candidates) == 1
    with pytest.raises(Invalid):
        placement.candidates(request, 0)


def test_unknown_names_have_no_candidates(host: Host) -> None:
    unknown = frozenset({"CUSTOM_NEVER_HEARD_OF"})
    for group in (
        RequestGroup("1", {"CUSTOM_NEVER_HEARD_OF": 1}),
        RequestGroup("1", FPGA, required=unknown),
        RequestGroup("1", FPGA, forbidden=unknown),
        RequestGroup("1", FPGA, any_of=(frozenset({AES}) | unknown,)),
        RequestGroup("", FPGA, required=unknown),
    ):
        assert host.placement.candidates(asked(group)) == Candidates((), {})


@pytest.mark.parametrize(
    "request_",
    [
        asked(),
        asked(RequestGroup()),
        asked(RequestGroup(required=frozenset({AES}))),
        asked(RequestGroup("1", required=frozenset({AES})), RequestGroup(resources=FPGA)),
        asked(RequestGroup("1", {"FPGA": 0})),
        asked(RequestGroup("1", FPGA, required=frozenset({AES}), forbidden=frozenset({AES}))),
        asked(RequestGroup("1", FPGA, any_of=(frozenset({AES}),), forbidden=frozenset({AES}))),
        asked(RequestGroup("1", FPGA, any_of=(frozenset(),))),
        asked(RequestGroup("a b", FPGA)),
        asked(RequestGroup("1", FPGA), RequestGroup("1", FPGA), policy="none"),
    ],
)
def test_malformed_requests_are_invalid(
    placement: PlacementTenant, request_: ResourceRequest
) -> None:
    provider(placement, {"FPGA": Inventory(1)}, (AES,))
    with pytest.raises(Invalid):
        placement.candidates(request_)


def test_hosts_are_named_by_their_root(placement: PlacementTenant) -> None:
    kind = f"CUSTOM_{uuid4().hex.upper()}"
    placement.ensure_traits([kind])
    hosts = [Host(placement) for _ in range(6)]
    for host in hosts:
        state = placement.state(host.aes)
        placement.put_traits(host.aes, state.generation, [*state.traits, kind])
    group = RequestGroup("1", FPGA, required=frozenset({kind}))

    def on(**of: Any) -> set[str]:
        found = placement.candidates(asked(group, **of))
        assert {c.root for c in found.summaries.values()} == found.roots
        names = {host.root: host.name for host in hosts}
        return {names[root] for root in found.roots}

    names = [host.name for host in hosts]
    assert on() == set(names)
    assert on(hosts=(names[0],)) == {names[0]}
    assert on(hosts=(names[0], names[1], "nobody")) == {names[0], names[1]}
    assert on(hosts=()) == set()
    assert on(hosts=("nobody",)) == set()
    assert on(excluded_hosts=(names[0],)) == set(names[1:])
    assert on(hosts=(names[0], names[1]), excluded_hosts=(names[0],)) == {names[1]}
    assert on(hosts=(names[0],), excluded_hosts=(names[0],)) == set()
    limited = placement.candidates(asked(group, excluded_hosts=tuple(names[:5])), 1)
    assert limited.roots == {hosts[5].root}


def test_traits_of_the_root(placement: PlacementTenant) -> None:
    kind = f"CUSTOM_{uuid4().hex.upper()}"
    placement.ensure_traits([kind])
    host = Host(placement)
    group = RequestGroup("1", FPGA)

    def there(**of: Any) -> bool:
        return bool(placement.candidates(asked(group, hosts=(host.name,), **of)).candidates)

    assert there(root_forbidden=frozenset({kind, "COMPUTE_STATUS_DISABLED"}))
    assert not there(root_required=frozenset({kind}))
    state = placement.state(host.root)
    placement.put_traits(host.root, state.generation, [*state.traits, kind])
    assert there(root_required=frozenset({kind}))
    assert not there(root_forbidden=frozenset({kind}))
    assert not there(root_required=frozenset({kind, "CUSTOM_NOBODY_KNOWS"}))


def test_aggregates_of_the_host(placement: PlacementTenant) -> None:
    one, two, other = (str(uuid4()) for _ in range(3))
    host = Host(placement)
    group = RequestGroup("", FPGA)

    def there(
        zone: Collection[str] = (), tenant: Collection[str] = (), isolated: Collection[str] = ()
    ) -> bool:
        request = asked(
            group,
            hosts=(host.name,),
            zone_aggregates=frozenset(zone),
            tenant_aggregates=frozenset(tenant),
            isolated_aggregates=frozenset(isolated),
        )
        return bool(placement.candidates(request).candidates)

    assert there()
    assert not there({one})
    generation = placement.state(host.root).generation
    with pytest.raises(Stale):
        placement.put_aggregates(host.root, generation + 1, [one])
    assert placement.put_aggregates(host.root, generation, [one, two]) == generation + 1
    assert there({one})
    assert there({one, other})
    assert there({one}, {two})
    assert not there({one}, {other})
    assert there(isolated={other})
    assert not there(isolated={other, two})
    assert there({one}, {two}, {other})
    assert not there({one}, {two}, {one})


# --- the same cloud, the same questions -------------------------------------------------------

CLASSES = ("FPGA", "VGPU", REGION)
TRAITS = (AES, SHA, FAST)

inventories = st.dictionaries(
    st.sampled_from(CLASSES),
    st.builds(
        Inventory,
        total=st.integers(1, 5),
        reserved=st.sampled_from([0, 0, 0, 1]),
        min_unit=st.sampled_from([1, 1, 1, 1, 2]),
        max_unit=st.sampled_from([1, 2, 5, 5, 5]),
        step_size=st.sampled_from([1, 1, 1, 1, 2]),
        allocation_ratio=st.sampled_from([1.0, 1.0, 1.0, 0.5, 1.5]),
    ),
    min_size=1,
    max_size=3,
)
trait_sets = st.frozensets(st.sampled_from(TRAITS), max_size=2)


@dataclass(frozen=True)
class Plan:
    """One provider of a random cloud; ``parent`` is the position of an earlier one."""

    parent: int | None
    inventories: dict[str, Inventory]
    traits: frozenset[str]
    uses: tuple[tuple[str, int], ...]


@st.composite
def clouds(draw: st.DrawFn) -> list[Plan]:
    plans: list[Plan] = []
    for position in range(draw(st.integers(2, 6))):
        parent = draw(st.integers(-1, position - 1)) if position else -1
        uses = draw(st.lists(st.tuples(st.sampled_from(CLASSES), st.integers(1, 2)), max_size=2))
        plans.append(
            Plan(None if parent < 0 else parent, draw(inventories), draw(trait_sets), tuple(uses))
        )
    return plans


@st.composite
def resource_requests(draw: st.DrawFn) -> ResourceRequest:
    """Most of them satisfiable: few classes, few traits."""
    policy: GroupPolicy | None = draw(st.sampled_from([None, "none", "none", "isolate", "isolate"]))
    suffixes = draw(st.sampled_from([[""], [""], ["1"], ["", "1"], ["1", "2"], ["", "1", "_x"]]))
    # See the simulator: what the unsuffixed group and another both ask for needs policy "none".
    apart = policy != "none" and len(suffixes) > 1 and "" in suffixes
    own = draw(st.sampled_from(CLASSES)) if apart else None
    groups = []
    for suffix in suffixes:
        classes = [rc for rc in CLASSES if own is None or (rc == own) == (suffix == "")]
        resources = st.dictionaries(
            st.sampled_from(classes), st.sampled_from([1, 1, 1, 2, 3]), min_size=1, max_size=2
        )
        groups.append(
            RequestGroup(
                suffix,
                draw(resources),
                required=draw(few(TRAITS)),
                any_of=draw(st.sampled_from([(), (), (), (frozenset({AES, SHA}),)])),
                forbidden=draw(few(TRAITS)),
            )
        )
    return ResourceRequest(tuple(groups), policy)


def few(names: tuple[str, ...]) -> st.SearchStrategy[frozenset[str]]:
    """Mostly none, sometimes one."""
    return st.sampled_from([frozenset()] * len(names) + [frozenset({name}) for name in names])


def built(placement: PlacementTenant, plans: list[Plan], tag: str) -> list[str]:
    """The cloud in a service: the uuids of its providers. All have a trait of their own."""
    placement.ensure_traits([*TRAITS, tag])
    placement.ensure_resource_classes([REGION])
    uuids: list[str] = []
    for plan in plans:
        parent = None if plan.parent is None else uuids[plan.parent]
        inventories = {rc: i for rc, i in plan.inventories.items() if i.capacity >= 0}
        uuids.append(provider(placement, inventories, (*plan.traits, tag), parent))
    return uuids


def outcome(call: Callable[[], Any]) -> object:
    try:
        return call()
    except ChangeoverError as error:
        return type(error)


def compared(found: Candidates, uuids: list[str]) -> tuple[Any, ...]:
    """An answer by the positions of the providers, without an order."""
    at = {uuid: position for position, uuid in enumerate(uuids)}
    candidates = sorted(
        (
            sorted((at[u], rc, n) for u, given in c.allocations.items() for rc, n in given.items()),
            sorted((suffix, sorted(at[u] for u in who)) for suffix, who in c.mappings.items()),
        )
        for c in found.candidates
    )
    summaries = sorted(
        (
            at[u],
            at[c.root],
            None if c.parent is None else at[c.parent],
            sorted(c.traits & set(TRAITS)),
            sorted(c.capacity.items()),
            sorted(c.used.items()),
        )
        for u, c in found.summaries.items()
    )
    return candidates, summaries


@settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each step to shrink takes a second
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plans=clouds(), requests=st.lists(resource_requests(), min_size=10, max_size=10))
def test_both_answer_alike(
    placement_url: str, plans: list[Plan], requests: list[ResourceRequest]
) -> None:
    """The same random cloud and requests: the same candidates, claims and errors."""
    tag = f"CUSTOM_{uuid4().hex.upper()}"
    real, memory = HttpPlacement.noauth(placement_url), MemoryPlacement()
    services = [(real, built(real, plans, tag)), (memory, built(memory, plans, tag))]

    def both(ask: Callable[[PlacementTenant, list[str]], Any]) -> list[object]:
        return [outcome(lambda s=s, uuids=uuids: ask(s, uuids)) for s, uuids in services]

    for position, plan in enumerate(plans):
        for rc, amount in plan.uses:
            one, two = both(
                lambda s, u, at=position, rc=rc, n=amount: claim(s, {u[at]: {rc: n}}) is not None
            )
            assert one == two
    for request in requests:
        mine = ResourceRequest(
            tuple(
                RequestGroup(
                    g.suffix, g.resources, g.required | {tag}, g.any_of, g.forbidden, g.preferred
                )
                for g in request.groups
            ),
            request.group_policy,
        )
        real_answer, memory_answer = both(lambda s, u, mine=mine: compared(s.candidates(mine), u))
        assert real_answer == memory_answer
    for position, plan in enumerate(plans):
        rc = CLASSES[len(plan.inventories) % len(CLASSES)]
        one, two = both(
            lambda s, u, at=position, rc=rc: s.put_inventories(
                u[at], generation(s, u[at]), {rc: Inventory(2)}
            )
        )
        assert one == two


# --- what a generation says ---------------------------------------------------------------------


def test_inventories_are_read_with_their_generation(placement: PlacementTenant) -> None:
    uuid = provider(placement, {REGION: Inventory(4, max_unit=4)}, (AES,))
    assert placement.inventories(uuid) == (
        generation(placement, uuid),
        {REGION: Inventory(4, max_unit=4)},
    )
    with pytest.raises(NotFound):
        placement.inventories(str(uuid4()))


def test_whatever_changes_an_inventory_or_allocates_moves_the_generation(
    placement_url: str,
) -> None:
    """A fence that is still at its own generation is still up: see ``guards.still_ours``."""
    placement = HttpPlacement.noauth(placement_url)
    placement.ensure_resource_classes([REGION])
    uuid = provider(placement)
    moves = [generation(placement, uuid)]
    url = f"{placement_url}/resource_providers/{uuid}/inventories"
    headers = {"x-auth-token": "admin", "OpenStack-API-Version": "placement 1.36"}

    def said(method: str, to: str, body: dict[str, Any] | None) -> None:
        if body is not None:
            body = {"resource_provider_generation": moves[-1], **body}
        assert requests.request(method, to, json=body, headers=headers, timeout=30).ok
        moves.append(generation(placement, uuid))

    one = f"{url}/{REGION}"
    said("POST", url, {"resource_class": REGION, "total": 4})
    said("PUT", one, {"total": 4, "reserved": 4})
    said("PUT", one, {"total": 4, "reserved": 4})
    said("DELETE", one, None)
    said("PUT", url, {"inventories": {REGION: {"total": 4}}})
    assert claim(placement, {uuid: {REGION: 1}}) is not None
    moves.append(generation(placement, uuid))
    assert moves == sorted(set(moves))
    other = provider(placement, {REGION: Inventory(1)})
    moves = [generation(placement, other)]
    url = f"{placement_url}/resource_providers/{other}/inventories"
    said("DELETE", url, None)
    assert moves == sorted(set(moves))


def test_no_write_to_a_provider_exists_without_a_generation() -> None:
    """Creating names changes no provider; whatever does is decided on a generation."""
    methods = {
        name: inspect.signature(method).parameters
        for name, method in inspect.getmembers(Placement, inspect.isfunction)
        if not name.startswith("_")
    }
    reads = {"providers", "state", "inventories", "usage", "candidates"}
    names = {"ensure_traits", "ensure_resource_classes"}
    writes = set(methods) - reads - names
    assert writes == {"put_inventories", "put_traits"}
    for name in writes:
        assert methods[name]["generation"].default is inspect.Parameter.empty
