"""What a device offers in Placement when it is programmed, empty or fenced.

Changeover owns the resource classes and traits that the catalog's functions use on the device's
model, and touches nothing else on the provider: what other clients put there stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from changeover.models.catalog import Catalog, Function, Model, Owner
from changeover.models.placement import Inventories, Inventory, ProviderState


def class_of(function: Function, model: Model) -> str:
    """The resource class of the function's slots on that model.

    A fully dynamic model keeps its own class: what is loaded is only a hint there.
    """
    return model.resource_class or function.resource_class


def slots_of(function: Function | None, model: Model) -> int:
    """How many slots the model yields with the function (``None``: empty)."""
    if model.resource_class is not None:
        return model.slots
    return 0 if function is None else function.fits.get(model.name, 0)


def own_classes(model: Model, catalog: Catalog) -> frozenset[str]:
    """The resource classes that any program of the model can offer."""
    if model.resource_class is not None:
        return frozenset({model.resource_class})
    return frozenset(f.resource_class for f in catalog.functions.values() if model.name in f.fits)


def own_traits(catalog: Catalog) -> frozenset[str]:
    """The traits that say which function a device has."""
    return frozenset().union(*(f.traits for f in catalog.functions.values()))


def fenced(before: Inventories, model: Model, catalog: Catalog, owner: Owner) -> Inventories:
    """The inventories that let Placement refuse new allocations.

    Where Changeover owns the inventory the classes are left out: that write is atomic with
    Placement's own in-use check. Elsewhere they are fully reserved, as their owner would put a
    missing class back.
    """
    own = own_classes(model, catalog)
    if owner == "changeover":
        return {rc: inv for rc, inv in before.items() if rc not in own}
    return {
        rc: replace(inv, reserved=inv.total) if rc in own else inv for rc, inv in before.items()
    }


def is_fenced(now: Inventories, model: Model, catalog: Catalog) -> bool:
    """Whether Placement refuses every new allocation of the model's classes."""
    own = own_classes(model, catalog)
    return all(inv.capacity <= 0 for rc, inv in now.items() if rc in own)


def is_foreign(state: ProviderState, model: Model, catalog: Catalog) -> bool:
    """Whether the provider has classes or traits that the catalog does not tell of."""
    traits = state.traits - own_traits(catalog) - frozenset(model.traits)
    return bool(state.inventories.keys() - own_classes(model, catalog) or traits)


@dataclass(frozen=True, slots=True)
class LeftOver:
    """Open classes, and traits, that the catalog gives to nothing on a device's model any more.

    No fence closes such a class.
    """

    classes: frozenset[str] = frozenset()
    traits: frozenset[str] = frozenset()


def left_over(
    state: ProviderState, model: Model, catalog: Catalog, ever: Iterable[Function]
) -> LeftOver:
    """What is left on a provider of ``ever``: functions as catalogs had them before."""
    given = [function for function in ever if model.name in function.fits]
    classes = {rc for rc, inv in state.inventories.items() if inv.capacity > 0}
    classes &= {function.resource_class for function in given}
    traits = frozenset().union(*(function.traits for function in given))
    known = own_traits(catalog) | frozenset(model.traits)
    return LeftOver(
        frozenset(classes - own_classes(model, catalog)), (state.traits & traits) - known
    )


def offered(
    current: Inventories, function: Function | None, model: Model, catalog: Catalog, reserved: int
) -> Inventories:
    """The inventories of a device that has ``function``, with ``reserved`` slots held back."""
    own = own_classes(model, catalog)
    foreign = {rc: inv for rc, inv in current.items() if rc not in own}
    slots = slots_of(function, model)
    if slots == 0:
        return foreign
    rc = class_of(function, model) if function is not None else _dynamic_class(model)
    return {**foreign, rc: Inventory(total=slots, reserved=min(reserved, slots), max_unit=slots)}


def _dynamic_class(model: Model) -> str:
    if model.resource_class is None:
        msg = f"an empty {model.name} offers nothing"
        raise ValueError(msg)
    return model.resource_class


def traits_with(
    current: Iterable[str], function: Function | None, model: Model, catalog: Catalog
) -> frozenset[str]:
    """The traits of a device that has ``function``: no other function's trait stays."""
    foreign = frozenset(current) - own_traits(catalog)
    mine = frozenset() if function is None else frozenset(function.traits)
    return foreign | mine | frozenset(model.traits)


def function_reported(traits: Iterable[str], model: Model, catalog: Catalog) -> Function | None:
    """The function that a driver's report says the device has, going by its traits alone.

    The one with the most traits wins, as in :func:`function_seen`.
    """
    have = frozenset(traits) | frozenset(model.traits)
    fitting = (f for f in catalog.functions.values() if model.name in f.fits)
    found = [function for function in fitting if have.issuperset(function.traits)]
    own = frozenset(model.traits)
    return max(found, key=lambda f: len(own.union(f.traits)), default=None)


def constant_offer(model: Model, catalog: Catalog) -> tuple[str, int] | None:
    """The class and slots that a device of the model shows whatever it holds, if they are that.

    So are those of a device whose inventory Cyborg writes: it is empty only by its traits.
    """
    if model.resource_class is not None:
        return model.resource_class, model.slots
    offers = {
        (f.resource_class, f.fits[model.name])
        for f in catalog.functions.values()
        if model.name in f.fits
    }
    return offers.pop() if len(offers) == 1 else None


def function_seen(
    inventories: Inventories, traits: Iterable[str], model: Model, catalog: Catalog
) -> Function | None:
    """The function that inventories and traits say the device offers, if any.

    The one with the most traits wins: ``aes`` and ``aes-gcm`` may share some. The model's own
    count for each, as an empty device has them too.
    """
    have = frozenset(traits)
    found: list[Function] = []
    for function in catalog.functions.values():
        inventory = inventories.get(class_of(function, model))
        dynamic = model.resource_class is not None
        if (
            model.name in function.fits
            and have.issuperset(function.traits)
            and (dynamic or (inventory is not None and inventory.total > 0))
        ):
            found.append(function)
    own = frozenset(model.traits)
    return max(found, key=lambda f: len(own.union(f.traits)), default=None)
