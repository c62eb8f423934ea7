"""What a device offers: it can be read back, it can be closed, and what others wrote survives."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from changeover.models.catalog import Catalog, Function, Model, Owner
from changeover.models.placement import Inventory
from changeover.policies import offer
from changeover.worker.simulator.fleet import FPGA, REGION, VGPU, describe_fleet

CATALOG = describe_fleet().catalog
PAIRS = [
    (function, CATALOG.models[name])
    for function in CATALOG.functions.values()
    for name in function.fits
]
OWNERS: tuple[Owner, ...] = ("changeover", "cyborg", "nova")
OTHERS = {"PGPU": Inventory(total=3), "CUSTOM_LICENCE": Inventory(total=7, reserved=2)}

every_pair = pytest.mark.parametrize(
    ("function", "model"), PAIRS, ids=[f"{f.name}-{m.name}" for f, m in PAIRS]
)
every_owner = pytest.mark.parametrize("owner", OWNERS)


def published(
    function: Function | None,
    model: Model,
    catalog: Catalog = CATALOG,
    *,
    inventories: Mapping[str, Inventory] = OTHERS,
    traits: frozenset[str] = frozenset(),
    reserved: int = 0,
) -> tuple[Mapping[str, Inventory], frozenset[str]]:
    return (
        offer.offered(inventories, function, model, catalog, reserved),
        offer.traits_with(traits, function, model, catalog),
    )


@every_pair
def test_what_is_offered_is_seen_again(function: Function, model: Model) -> None:
    inventories, traits = published(function, model)
    assert offer.function_seen(inventories, traits, model, CATALOG) == function
    rc = offer.class_of(function, model)
    assert inventories[rc].total == offer.slots_of(function, model) == inventories[rc].max_unit
    assert inventories[rc].capacity > 0
    assert not offer.is_fenced(inventories, model, CATALOG)


@every_pair
def test_from_any_function_to_any_other(function: Function, model: Model) -> None:
    for before in CATALOG.functions.values():
        if model.name not in before.fits:
            continue
        inventories, traits = published(before, model)
        inventories, traits = published(
            function, model, inventories=inventories, traits=traits | {"HW_OTHER"}
        )
        assert offer.function_seen(inventories, traits, model, CATALOG) == function
        assert traits & offer.own_traits(CATALOG) == frozenset(function.traits)
        assert set(inventories) == {*OTHERS, offer.class_of(function, model)}
        assert traits >= {"HW_OTHER", *model.traits}


@every_pair
@every_owner
def test_fenced_means_that_nothing_more_is_given(
    function: Function, model: Model, owner: Owner
) -> None:
    open_, traits = published(function, model)
    closed = offer.fenced(open_, model, CATALOG, owner)
    assert offer.is_fenced(closed, model, CATALOG)
    assert all(closed[rc] == inventory for rc, inventory in OTHERS.items())
    assert offer.fenced(closed, model, CATALOG, owner) == closed
    rc = offer.class_of(function, model)
    if owner == "changeover":
        assert rc not in closed
        if model.mode == "single_program":
            assert offer.function_seen(closed, traits, model, CATALOG) is None
    else:
        # Its owner would put a missing class back, with its own idea of `reserved`.
        assert closed[rc].reserved == closed[rc].total == open_[rc].total


@every_pair
def test_reserved_slots_are_held_back_and_never_more_than_there_are(
    function: Function, model: Model
) -> None:
    slots = offer.slots_of(function, model)
    rc = offer.class_of(function, model)
    for reserved in range(slots + 3):
        inventories, traits = published(function, model, reserved=reserved)
        assert inventories[rc].reserved == min(reserved, slots)
        assert offer.is_fenced(inventories, model, CATALOG) == (reserved >= slots)
        assert offer.function_seen(inventories, traits, model, CATALOG) == function


@pytest.mark.parametrize("model", CATALOG.models.values(), ids=lambda m: m.name)
def test_an_empty_device(model: Model) -> None:
    inventories, traits = published(None, model)
    assert offer.function_seen(inventories, traits, model, CATALOG) is None
    assert traits == frozenset(model.traits)
    if model.mode == "single_program":
        assert inventories == OTHERS
        assert offer.is_fenced(inventories, model, CATALOG)
    else:
        # A fully dynamic region is of use without a function too.
        assert inventories == {**OTHERS, REGION: Inventory(total=1, max_unit=1)}


def test_classes_of_a_model() -> None:
    own = {name: offer.own_classes(model, CATALOG) for name, model in CATALOG.models.items()}
    assert own == {"u50": {FPGA}, "u280": {FPGA}, "pgpu": {VGPU}, "u250-region": {REGION}}


def test_a_class_that_only_another_model_uses_is_not_ours() -> None:
    """VGPU on an FPGA card is somebody else's, however odd: it is neither fenced nor dropped."""
    model = CATALOG.models["u50"]
    odd = {FPGA: Inventory(total=1), VGPU: Inventory(total=4)}
    assert offer.fenced(odd, model, CATALOG, "changeover") == {VGPU: odd[VGPU]}
    assert offer.fenced(odd, model, CATALOG, "cyborg")[VGPU] == odd[VGPU]
    assert not offer.is_fenced(odd, model, CATALOG)
    assert offer.is_fenced({VGPU: odd[VGPU]}, model, CATALOG)


@pytest.mark.parametrize(
    ("inventory", "closed"),
    [
        (Inventory(total=2), False),
        (Inventory(total=2, reserved=1), False),
        (Inventory(total=2, reserved=2), True),
        (Inventory(total=2, reserved=2, allocation_ratio=16.0), True),
        (Inventory(total=2, reserved=1, allocation_ratio=0.5), True),  # less than one slot
        (Inventory(total=0), True),
    ],
)
def test_is_fenced_counts_as_placement_does(inventory: Inventory, *, closed: bool) -> None:
    assert offer.is_fenced({FPGA: inventory}, CATALOG.models["u50"], CATALOG) is closed


def test_one_open_class_is_an_open_device() -> None:
    catalog = two_functions(
        {"traits": ["CUSTOM_A"], "resource_class": "CUSTOM_X"},
        {"traits": ["CUSTOM_B"], "resource_class": "CUSTOM_Y"},
    )
    model = catalog.models["m"]
    shut, open_ = Inventory(total=1, reserved=1), Inventory(total=1)
    assert not offer.is_fenced({"CUSTOM_X": shut, "CUSTOM_Y": open_}, model, catalog)
    assert offer.is_fenced({"CUSTOM_X": shut, "CUSTOM_Y": shut}, model, catalog)
    assert offer.is_fenced({}, model, catalog)


def two_functions(
    a: dict[str, object], b: dict[str, object], model: Mapping[str, object] | None = None
) -> Catalog:
    both = {"artifact": {"vgpu_type": "t"}, "fits": {"m": 2}}
    return Catalog.model_validate(
        {
            "programmers": {"p": {"kind": "simulated"}},
            "models": {"m": {"programmer": "p", **(model or {})}},
            "functions": {"a": {**both, **a}, "b": {**both, **b}},
        }
    )


def test_the_richer_of_two_functions_that_share_a_trait_is_told_apart() -> None:
    catalog = two_functions(
        {"traits": ["CUSTOM_AES"], "resource_class": "CUSTOM_X"},
        {"traits": ["CUSTOM_AES", "CUSTOM_GCM"], "resource_class": "CUSTOM_X"},
    )
    for function in catalog.functions.values():
        inventories, traits = published(function, catalog.models["m"], catalog)
        assert offer.function_seen(inventories, traits, catalog.models["m"], catalog) == function
        assert offer.function_reported(traits, catalog.models["m"], catalog) == function


def test_two_functions_that_nothing_tells_apart_are_no_catalog() -> None:
    """After such a program the wrong one of them would be read back from Placement."""
    same = {"traits": ["CUSTOM_AES"], "resource_class": "CUSTOM_X"}
    with pytest.raises(ValidationError, match=r"functions\.b: .* a .* model m"):
        two_functions(dict(same), dict(same))


def test_traits_that_a_model_has_anyway_tell_nothing() -> None:
    with pytest.raises(ValidationError, match=r"functions\.b: .* model m"):
        two_functions(
            {"traits": ["CUSTOM_A"], "resource_class": "CUSTOM_X"},
            {"traits": ["CUSTOM_A", "CUSTOM_ALWAYS"], "resource_class": "CUSTOM_X"},
            {"traits": ["CUSTOM_ALWAYS"]},
        )


def test_traits_that_a_dynamic_model_has_anyway_are_no_function() -> None:
    dynamic = {
        "mode": "fully_dynamic",
        "resource_class": "CUSTOM_R",
        "traits": ["CUSTOM_ALWAYS"],
    }
    with pytest.raises(ValidationError, match=r"functions\.b: .* model m"):
        two_functions(
            {"traits": ["CUSTOM_A"], "resource_class": "CUSTOM_X"},
            {"traits": ["CUSTOM_ALWAYS"], "resource_class": "CUSTOM_Y"},
            dynamic,
        )


# ---------------------------------------------------------------- any catalog, any neighbours

TRAITS = st.sampled_from([f"CUSTOM_T{i}" for i in range(4)])
CLASSES = st.sampled_from(["CUSTOM_X", "CUSTOM_Y", "VGPU"])
AMOUNTS = st.integers(0, 8)


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    names = draw(st.lists(st.sampled_from("mno"), min_size=1, unique=True))
    models: dict[str, object] = {}
    for name in names:
        dynamic = draw(st.booleans())
        models[name] = {
            "programmer": "p",
            "traits": draw(st.lists(TRAITS, max_size=2, unique=True)),
            **({"mode": "fully_dynamic", "resource_class": draw(CLASSES)} if dynamic else {}),
            "slots": draw(st.integers(1, 4)),
        }
    functions = {
        name: {
            "traits": draw(st.lists(TRAITS, min_size=1, max_size=3, unique=True)),
            "resource_class": draw(CLASSES),
            "artifact": {"vgpu_type": name},
            "fits": {
                model: draw(st.integers(1, 8))
                for model in draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
            },
        }
        for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
    }
    raw = {
        "programmers": {"p": {"kind": "simulated"}},
        "models": models,
        "functions": functions,
    }
    try:
        return Catalog.model_validate(raw)
    except ValidationError:
        # Functions that nothing tells apart: what is refused needs no round trip.
        kept = dict(list(functions.items())[:1])
        for model in models.values():
            assert isinstance(model, dict)
            model["traits"] = []
        return Catalog.model_validate({**raw, "functions": kept})


@given(
    catalog=catalogs(),
    data=st.data(),
    owner=st.sampled_from(OWNERS),
    foreign=st.dictionaries(
        st.sampled_from(["PGPU", "MEMORY_MB", "CUSTOM_OTHER"]),
        st.builds(Inventory, total=AMOUNTS, reserved=AMOUNTS),
    ),
    strange=st.frozensets(st.sampled_from(["HW_A", "CUSTOM_THEIRS", "COMPUTE_B"])),
)
def test_any_device_of_any_catalog(
    catalog: Catalog,
    data: st.DataObject,
    owner: Owner,
    foreign: dict[str, Inventory],
    strange: frozenset[str],
) -> None:
    """Through any chain of programs, fences and republications: read back, closed, unharmed."""
    model = data.draw(st.sampled_from(sorted(catalog.models.values(), key=lambda m: m.name)))
    fitting = [f for f in catalog.functions.values() if model.name in f.fits]
    inventories: Mapping[str, Inventory] = foreign
    traits = strange
    for function in data.draw(st.lists(st.sampled_from([None, *fitting]), max_size=4)):
        reserved = data.draw(AMOUNTS)
        inventories = offer.fenced(inventories, model, catalog, owner)
        assert offer.is_fenced(inventories, model, catalog)
        inventories = offer.offered(inventories, function, model, catalog, reserved)
        traits = offer.traits_with(traits, function, model, catalog)
        assert offer.function_seen(inventories, traits, model, catalog) == function
        assert {rc: i for rc, i in inventories.items() if rc in foreign} == foreign
        assert set(inventories) - set(foreign) <= offer.own_classes(model, catalog)
        assert traits >= strange
        assert all(
            inv.reserved <= inv.total for rc, inv in inventories.items() if rc not in foreign
        )
        # A trait is offered exactly if the device has it.
        assert traits & offer.own_traits(catalog) == (
            frozenset(function.traits if function else ()) | frozenset(model.traits)
        ) & offer.own_traits(catalog)
