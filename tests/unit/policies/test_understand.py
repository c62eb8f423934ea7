"""Requests are taken apart so that the parts together are the request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from changeover.models.catalog import Catalog, Function, Model
from changeover.models.flavor import Flavor
from changeover.models.placement import GroupPolicy, RequestGroup, ResourceRequest
from changeover.models.planning import Need
from changeover.policies import offer
from changeover.policies.device_profile import profile_groups, with_profile
from changeover.policies.request import request_of_flavor
from changeover.policies.understand import Understanding, misspelt, understand
from changeover.worker.simulator.accelerators import SimulatedAccelerators
from changeover.worker.simulator.fleet import FPGA, REGION, VGPU, describe_fleet

FLEET = describe_fleet()
CATALOG = FLEET.catalog
AES = "CUSTOM_FPGA_FUNCTION_AES"
GZIP = "CUSTOM_FPGA_FUNCTION_GZIP"
SHA3 = "CUSTOM_FPGA_FUNCTION_SHA3"
V35 = "CUSTOM_VGPU_TYPE_NVIDIA_35"
U280 = "CUSTOM_FPGA_CARD_U280"
BASE = {"VCPU": 1, "MEMORY_MB": 64}
FPGA_FUNCTIONS = ("aes", "gzip", "ipsec", "regex", "sha3")


def group(
    resources: Mapping[str, int],
    *required: str,
    suffix: str = "",
    forbidden: Iterable[str] = (),
    any_of: Iterable[Iterable[str]] = (),
) -> RequestGroup:
    return RequestGroup(
        suffix=suffix,
        resources=resources,
        required=frozenset(required),
        forbidden=frozenset(forbidden),
        any_of=tuple(frozenset(choice) for choice in any_of),
    )


def asked(*groups: RequestGroup, policy: GroupPolicy | None = None) -> Understanding:
    return understand(ResourceRequest(groups, policy), CATALOG)


@pytest.mark.parametrize("flavor", FLEET.flavors, ids=lambda f: f.name)
def test_every_flavor_of_the_fleet(flavor: Flavor) -> None:
    asked_for = request_of_flavor(flavor)
    request = asked_for.request
    if asked_for.device_profile is not None:
        groups = SimulatedAccelerators(lambda: CATALOG).device_profile(asked_for.device_profile)
        assert groups is not None
        request = with_profile(request, profile_groups(asked_for.device_profile, groups))
    made = understand(request, CATALOG)
    (rest,) = made.relaxed.groups
    assert rest.resources == {"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1}
    assert rest.required == frozenset()
    kind, _, name = flavor.name.partition(".")
    if kind == "plain":
        assert made.needs == ()
        assert made.nobody is not None
        assert made.nobody.code == "demand.not_programmable"
        return
    assert made.nobody is None
    (need,) = made.needs
    assert need.slots == 1
    if kind == "region":
        # The region's class is all it asks for: any function will do, the wanted one ranks first.
        assert need.functions == ("aes", "gzip", "regex", "sha3")
        assert made.models == {"u250-region"}
        assert made.relaxed.preferred == {f"CUSTOM_FPGA_FUNCTION_{name.upper()}"}
    elif kind in {"fpga", "profile"}:
        assert need.functions == (name,)
        # Not the regions that it fits too: what they offer is another class.
        assert made.models == set(CATALOG.functions[name].fits) - {"u250-region"}
    else:
        assert need.functions == ({"2q": "nvidia-35", "4q": "nvidia-36", "8q": "nvidia-37"}[name],)
        assert made.models == {"pgpu"}


def test_without_a_trait_any_function_of_the_class_will_do() -> None:
    made = asked(group({**BASE, FPGA: 2}))
    # Two slots on one device: only these yield them.
    assert made.needs == (Need(("gzip", "regex"), 2),)


@pytest.mark.parametrize(("slots", "functions"), [(2, ("gzip", "regex")), (4, ("regex",))])
def test_slots_choose_functions_and_models(slots: int, functions: tuple[str, ...]) -> None:
    made = asked(group({**BASE, FPGA: slots}))
    assert made.needs == (Need(functions, slots),)
    assert ("u50" in made.models) == (slots <= 2)


def test_more_slots_than_any_device_yields() -> None:
    made = asked(group({**BASE, VGPU: 9}, V35))
    assert made.needs == ()
    assert made.nobody is not None
    assert made.nobody.code == "demand.no_function_fits"
    assert made.nobody.text.endswith("9 x VGPU on one device (at most 8)")


def test_a_function_that_does_not_yield_the_class_asked_for() -> None:
    made = asked(group({**BASE, FPGA: 1}, V35))
    assert made.needs == ()
    assert made.nobody is not None
    assert V35 in made.nobody.text


def test_a_trait_that_nothing_of_the_catalog_has_is_strange() -> None:
    typo = AES + "S"
    for made in (
        asked(group({**BASE, FPGA: 1}, typo)),
        asked(group(BASE), group({FPGA: 1}, typo, suffix="1")),
        asked(group({**BASE, FPGA: 1}, AES, typo)),
        asked(group(BASE, typo)),
    ):
        assert made.strange == {typo}
    said = misspelt({typo}, CATALOG)
    assert said.code == "demand.no_function_has_trait"
    assert said.facts["nearest"][typo][0] == AES
    assert f"nearest to {typo}: {AES}" in said.text


def test_a_trait_that_only_a_device_could_have_is_judged_without_asking() -> None:
    """Else a device would be programmed in vain: no program gives it that trait."""
    for required in ([AES + "S"], [AES, "CUSTOM_QQQ"]):
        made = asked(group(BASE), group({FPGA: 1}, *required, suffix="1"))
        assert made.needs == ()
        assert made.nobody is not None
        assert made.nobody.code == "demand.no_function_has_trait"
        assert required[-1] in made.nobody.text
    # With more of the provider's in the group Placement can be asked.
    made = asked(group(BASE), group({FPGA: 1, "CUSTOM_MEM": 2}, AES, "CUSTOM_QQQ", suffix="1"))
    assert made.needs == (Need(("aes",), 1),)
    assert made.relaxed.groups[1] == group({"CUSTOM_MEM": 2}, "CUSTOM_QQQ", suffix="1")


def test_nothing_near_is_no_hint() -> None:
    said = misspelt({"CUSTOM_QQQ"}, CATALOG)
    assert said.facts["nearest"] == {"CUSTOM_QQQ": []}
    assert "nearest" not in said.text


def test_traits_of_models_and_of_nova_are_not_strange() -> None:
    assert asked(group({**BASE, FPGA: 1}, AES, U280, "HW_CPU_X86_VMX")).strange == frozenset()


def test_a_trait_without_its_resource() -> None:
    made = asked(group(BASE, AES))
    assert made.nobody is not None
    assert made.nobody.code == "demand.trait_without_resource"
    assert AES in made.nobody.text
    assert FPGA in made.nobody.text


@pytest.mark.parametrize("groups", [(), (group(BASE),), (group({"CUSTOM_SSD": 1}, suffix="1"),)])
def test_what_programming_changes_nothing_of(groups: tuple[RequestGroup, ...]) -> None:
    made = asked(*groups)
    assert made.needs == ()
    assert made.models == frozenset()
    assert made.nobody is not None
    assert made.nobody.code == "demand.not_programmable"
    assert made.relaxed.groups == groups


def test_a_models_own_trait_restricts_the_models() -> None:
    """Programming another model would be in vain: no program gives it the card's trait."""
    made = asked(group({**BASE, FPGA: 1}, AES, U280))
    assert made.needs == (Need(("aes",), 1),)
    assert made.models == {"u280"}
    assert made.relaxed.groups == (group(BASE),)


def test_a_models_own_trait_that_no_fitting_model_has() -> None:
    made = asked(group({**BASE, FPGA: 1}, AES, "CUSTOM_PGPU"))
    assert made.needs == ()
    assert made.nobody is not None


def test_the_functions_trait_may_be_required_of_a_region() -> None:
    made = asked(group({**BASE, REGION: 1}, GZIP))
    assert made.needs == (Need(("gzip",), 1),)
    assert made.models == {"u250-region"}


def test_forbidden_traits_rule_out_functions_and_models() -> None:
    made = asked(group({**BASE, FPGA: 1}, forbidden=[AES, SHA3, "CUSTOM_FPGA_CARD_U50"]))
    assert made.needs == (Need(("gzip", "ipsec", "regex"), 1),)
    assert made.models == {"u280"}
    everything = [t for f in CATALOG.functions.values() for t in f.traits]
    made = asked(group({**BASE, FPGA: 1}, forbidden=everything))
    assert made.needs == ()
    assert made.nobody is not None


def test_a_hosts_trait_stays_with_the_rest() -> None:
    made = asked(group({**BASE, FPGA: 1}, AES, "CUSTOM_SSD", "HW_CPU_X86_AVX2"))
    assert made.needs == (Need(("aes",), 1),)
    assert made.relaxed.groups == (group(BASE, "CUSTOM_SSD", "HW_CPU_X86_AVX2"),)


def test_any_of_several_traits() -> None:
    made = asked(group({**BASE, FPGA: 1}, any_of=[[AES, GZIP]]))
    assert made.needs == (Need(("aes", "gzip"), 1),)
    assert made.relaxed.groups == (group(BASE),)
    made = asked(group({**BASE, FPGA: 1}, any_of=[[AES, GZIP], [GZIP, SHA3]]))
    assert made.needs == (Need(("gzip",), 1),)
    made = asked(group({**BASE, FPGA: 1}, any_of=[[V35]]))
    assert made.nobody is not None
    # The host may have it: that is Placement's to say.
    made = asked(group({**BASE, FPGA: 1}, AES, any_of=[["HW_A", "HW_B"]]))
    assert made.relaxed.groups == (group(BASE, any_of=[["HW_A", "HW_B"]]),)


def test_suffixed_groups_are_needs_of_their_own() -> None:
    made = asked(
        group(BASE),
        group({FPGA: 1}, AES, suffix="1"),
        group({FPGA: 2}, GZIP, suffix="2"),
        policy="isolate",
    )
    assert made.needs == (Need(("aes",), 1), Need(("gzip",), 2))
    assert made.relaxed == ResourceRequest((group(BASE),))


def test_a_suffixed_group_that_no_function_serves_is_named() -> None:
    made = asked(group(BASE), group({FPGA: 1}, AES, suffix="1"), group({VGPU: 9}, suffix="2"))
    assert made.nobody is not None
    assert "9 x VGPU" in made.nobody.text


def test_one_provider_cannot_give_two_classes_but_a_tree_can() -> None:
    both = {FPGA: 1, VGPU: 2}
    made = asked(group(BASE), group(both, suffix="1"))
    assert made.needs == ()
    assert made.nobody is not None
    made = asked(group({**BASE, **both}))
    assert made.needs == (
        Need(FPGA_FUNCTIONS, 1),
        Need(("nvidia-35", "nvidia-36", "nvidia-37"), 2),
    )
    assert made.relaxed.groups == (group(BASE),)
    made = asked(group({**BASE, **both}, AES, V35))
    assert made.needs == (Need(("aes",), 1), Need(("nvidia-35",), 2))


@pytest.mark.parametrize("policy", ["isolate", "none"])
def test_the_relaxed_request_keeps_everything_else(policy: GroupPolicy) -> None:
    request = ResourceRequest(
        groups=(
            group(BASE, "HW_X", forbidden=["COMPUTE_Y"]),
            group({FPGA: 1}, AES, suffix="1"),
            group({"CUSTOM_SSD": 1}, "CUSTOM_NVME", suffix="2"),
            group({"CUSTOM_NIC": 1}, suffix="3"),
        ),
        group_policy=policy,
        hosts=("host1", "host2"),
        excluded_hosts=("host3",),
        availability_zone="az",
    )
    made = understand(request, CATALOG)
    assert made.relaxed == ResourceRequest(
        groups=(request.groups[0], *request.groups[2:]),
        # Still there: two suffixed groups are left, and Placement wants a policy for them.
        group_policy=policy,
        hosts=("host1", "host2"),
        excluded_hosts=("host3",),
        availability_zone="az",
    )
    fewer = understand(ResourceRequest(request.groups[:3], policy), CATALOG)
    assert fewer.relaxed.group_policy is None


def test_what_else_a_suffixed_group_asks_of_its_provider_is_not_forgotten() -> None:
    made = asked(group(BASE), group({FPGA: 1, "CUSTOM_MEM": 2}, AES, suffix="1"))
    assert made.needs == (Need(("aes",), 1),)
    assert made.relaxed.groups == (group(BASE), group({"CUSTOM_MEM": 2}, suffix="1"))


# ---------------------------------------------------------------- any request

TRAITS = ["CUSTOM_A", "CUSTOM_B", "CUSTOM_S", "CUSTOM_T", "HW_HOST"]
CLASSES = ["CUSTOM_X", "CUSTOM_Y", "CUSTOM_R", "VCPU"]
SMALL = Catalog.model_validate(
    {
        "programmers": {"p": {"kind": "simulated"}},
        "models": {
            "m": {"programmer": "p", "traits": ["CUSTOM_S"]},
            "n": {"programmer": "p", "traits": ["CUSTOM_T"]},
            "r": {"programmer": "p", "mode": "fully_dynamic", "resource_class": "CUSTOM_R"},
        },
        "functions": {
            name: {
                "traits": traits,
                "resource_class": rc,
                "artifact": {"vgpu_type": name},
                "fits": fits,
            }
            for name, traits, rc, fits in (
                ("a", ["CUSTOM_A"], "CUSTOM_X", {"m": 1, "n": 2, "r": 1}),
                ("ab", ["CUSTOM_A", "CUSTOM_B"], "CUSTOM_X", {"n": 1}),
                ("b", ["CUSTOM_B"], "CUSTOM_Y", {"m": 2, "r": 1}),
            )
        },
    }
)
PAIRS: list[tuple[Function, Model]] = [
    (f, SMALL.models[m]) for f in SMALL.functions.values() for m in f.fits
]
PROGRAMMABLE = {"CUSTOM_X", "CUSTOM_Y", "CUSTOM_R"}
SOME_TRAITS = st.frozensets(st.sampled_from(TRAITS), max_size=2)


def groups(suffix: str) -> st.SearchStrategy[RequestGroup]:
    return st.builds(
        RequestGroup,
        suffix=st.just(suffix),
        resources=st.dictionaries(st.sampled_from(CLASSES), st.integers(1, 3), min_size=1),
        required=SOME_TRAITS,
        forbidden=st.frozensets(st.sampled_from(TRAITS), max_size=1),
        any_of=st.lists(
            st.frozensets(st.sampled_from(TRAITS), min_size=1, max_size=2), max_size=1
        ).map(tuple),
    ).filter(lambda g: not g.required & g.forbidden)


REQUESTS = st.tuples(st.none() | groups(""), st.none() | groups("1"), st.none() | groups("2")).map(
    lambda gs: ResourceRequest(tuple(g for g in gs if g is not None), "none")
)

Offer = tuple[Mapping[str, int], frozenset[str]]


def offered(function: Function, model: Model) -> Offer:
    inventories = offer.offered({}, function, model, SMALL, 0)
    capacity = {rc: inventory.capacity for rc, inventory in inventories.items()}
    return capacity, offer.traits_with((), function, model, SMALL)


def gives(group: RequestGroup, providers: Iterable[Offer]) -> bool:
    """Whether Placement would find these providers of one tree, all used, enough for the group."""
    used = list(providers)
    traits = frozenset().union(*(t for _, t in used))
    return (
        (len(used) == 1 or not group.suffix)
        and all(any(c.get(rc, 0) >= n for c, _ in used) for rc, n in group.resources.items())
        and group.required <= traits
        and not group.forbidden & traits
        and all(choice & traits for choice in group.any_of)
    )


def served_by_devices(group: RequestGroup) -> bool:
    """Whether any programmed devices, one a class, give all that the group asks for."""
    wanted = sorted(set(group.resources) & PROGRAMMABLE)
    return any(
        gives(group, [offered(*p) for p in pairs]) for pairs in product(PAIRS, repeat=len(wanted))
    )


@given(REQUESTS)
def test_any_request_is_understood_or_nobody_can(request: ResourceRequest) -> None:
    made = understand(request, SMALL)
    assert (made.nobody is None) <= bool(made.needs)
    assert made.models <= set(SMALL.models)
    for left in made.relaxed.groups:
        assert left.resources
        assert not set(left.resources) & PROGRAMMABLE
    for rest in request.groups:
        if not set(rest.resources) & PROGRAMMABLE:
            assert rest in made.relaxed.groups
    suffixed = [g for g in made.relaxed.groups if g.suffix]
    assert made.relaxed.group_policy == (request.group_policy if len(suffixed) > 1 else None)
    assert made.relaxed.hosts == request.hosts


@given(groups("") | groups("1"))
@example(RequestGroup("", {"CUSTOM_X": 1, "CUSTOM_Y": 1}, frozenset({"CUSTOM_T"})))
def test_what_is_needed_serves_the_group(group: RequestGroup) -> None:
    """Of one group that only devices serve: its needs are met exactly by what would serve it."""
    only = RequestGroup(
        group.suffix,
        {rc: n for rc, n in group.resources.items() if rc in PROGRAMMABLE},
        group.required - {"HW_HOST"},
        tuple(c for c in group.any_of if "HW_HOST" not in c),
        group.forbidden,
    )
    made = understand(ResourceRequest((only,)), SMALL)
    if not only.resources:
        assert made.nobody is not None
        return
    assert (made.nobody is None) == served_by_devices(only)
    if made.nobody is not None:
        return
    ways = [
        [
            (f, m)
            for f, m in PAIRS
            if f.name in need.functions
            and m.name in models
            and offer.class_of(f, m) == rc
            and offer.slots_of(f, m) >= need.slots
        ]
        for rc, need, models in zip(
            sorted(only.resources), made.needs, made.need_models, strict=True
        )
    ]
    assert all(ways)
    if only.any_of:
        # Traits of functions and of models in one choice: the planner knows only the two sets.
        assert any(gives(only, [offered(*p) for p in pairs]) for pairs in product(*ways))
    else:
        assert all(gives(only, [offered(*p) for p in pairs]) for pairs in product(*ways))
