"""What a failed request asks of programmable devices, and what it asks besides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from changeover.models.catalog import Catalog, Function, Model
from changeover.models.placement import RequestGroup, ResourceRequest
from changeover.models.planning import Need
from changeover.models.reasons import Reason
from changeover.policies.nearest import nearest
from changeover.policies.offer import class_of, own_traits, slots_of


@dataclass(frozen=True, slots=True)
class Holders:
    """Who has a trait: devices of the catalog by provider, hosts by name, and anybody at all."""

    devices: frozenset[str]
    hosts: frozenset[str]
    anybody: bool


@dataclass(frozen=True, slots=True)
class Understanding:
    """A request, taken apart.

    ``needs`` are what programmed devices must give, ``need_models`` the device models that can, for
    each need, and ``models`` all of these together. ``apart``: each need on a device of its own.
    ``relaxed`` is the request without them: which hosts could take the rest? ``nobody`` is set if
    no function of the catalog can ever serve it, or if it asks for nothing that programming
    changes. ``strange`` are custom traits that the catalog does not tell of.
    """

    needs: tuple[Need, ...]
    models: frozenset[str]
    relaxed: ResourceRequest
    nobody: Reason | None
    strange: frozenset[str] = frozenset()
    need_models: tuple[frozenset[str], ...] = ()
    apart: bool = False


def understand(
    request: ResourceRequest,
    catalog: Catalog,
    seen: Mapping[str, Holders] = MappingProxyType({}),
) -> Understanding:
    """Take a request apart; see :class:`Understanding`.

    ``seen`` are traits of devices that the catalog does not tell of: somebody set them there, and
    they stay whatever the device is programmed with.
    """
    classes = _programmable_classes(catalog)
    known = own_traits(catalog) | _static_traits(catalog)
    needs: list[Need] = []
    models: list[frozenset[str]] = []
    rest: list[RequestGroup] = []
    nobody: Reason | None = None
    for group in request.groups:
        wanted = sorted(rc for rc in group.resources if rc in classes)
        if not wanted:
            rest.append(group)
            continue
        tied = _tied(group, seen, catalog)
        group = replace(group, required=group.required - seen.keys())  # noqa: PLW2901 - the rest
        fits = _fits(group, wanted, known, catalog)
        if fits is None:
            nobody = nobody or _nobody(group, wanted, known, catalog)
            continue
        for rc in wanted:
            names = tuple(sorted({function.name for function, _ in fits[rc]}))
            needs.append(Need(names, group.resources[rc], tied))
            models.append(frozenset(model.name for _, model in fits[rc]))
        rest.append(_without_devices(group, fits, known))
    if not needs and nobody is None:
        nobody = _not_ours(request, own_traits(catalog), catalog)
    suffixed = [group for group in rest if group.suffix and group.resources]
    policy = request.group_policy if len(suffixed) > 1 else None
    relaxed = replace(request, groups=tuple(g for g in rest if g.resources), group_policy=policy)
    strange = frozenset().union(*(_strange(group, known) for group in request.groups))
    return Understanding(
        tuple(needs),
        frozenset().union(*models),
        relaxed,
        nobody,
        strange,
        tuple(models),
        apart=len(needs) > 1 and request.group_policy == "isolate",
    )


def strange_traits(request: ResourceRequest, catalog: Catalog) -> frozenset[str]:
    """Custom traits, wanted or forbidden where devices are asked for, that the catalog lacks."""
    classes = _programmable_classes(catalog)
    known = own_traits(catalog) | _static_traits(catalog)
    traits = (g.required | g.forbidden for g in request.groups if g.resources.keys() & classes)
    return frozenset(t for t in frozenset().union(*traits) - known if t.startswith("CUSTOM_"))


def _tied(
    group: RequestGroup, seen: Mapping[str, Holders], catalog: Catalog
) -> frozenset[str] | None:
    """The devices that have the traits asked for and none of those forbidden; ``None``: any.

    In the unsuffixed group, which spans the tree, the host may have a trait for its devices.
    """
    must = [seen[trait] for trait in group.required & seen.keys()]
    out = frozenset().union(*(seen[trait].devices for trait in group.forbidden & seen.keys()))
    if not must and not out:
        return None
    return frozenset(
        device.provider
        for device in catalog.devices
        if device.provider not in out
        and all(
            device.provider in holders.devices
            or (not group.suffix and device.host in holders.hosts)
            for holders in must
        )
    )


def misspelt(traits: Iterable[str], catalog: Catalog) -> Reason:
    """Why traits that neither a function nor any provider has can never be had: nearest names."""
    return _no_function_has(traits, "no function of the catalog and no resource provider", catalog)


def _no_function_has(traits: Iterable[str], who: str, catalog: Catalog) -> Reason:
    known = sorted(own_traits(catalog))
    strange = sorted(traits)
    near = {t: nearest(t, known) for t in strange}
    hints = "; ".join(f"nearest to {t}: {', '.join(n)}" for t, n in near.items() if n)
    return Reason(
        "demand.no_function_has_trait",
        f"{who} has {', '.join(strange)}" + (f" ({hints})" if hints else ""),
        {"traits": strange, "nearest": near},
    )


def _pairs(catalog: Catalog) -> Iterable[tuple[Function, Model]]:
    for function in catalog.functions.values():
        for name in function.fits:
            yield function, catalog.models[name]


def _programmable_classes(catalog: Catalog) -> frozenset[str]:
    return frozenset(class_of(function, model) for function, model in _pairs(catalog))


def _static_traits(catalog: Catalog) -> frozenset[str]:
    return frozenset().union(*(model.traits for model in catalog.models.values()))


Pair = tuple[Function, Model]


def _traits(pair: Pair) -> frozenset[str]:
    function, model = pair
    return frozenset(function.traits) | frozenset(model.traits)


def _fits(
    group: RequestGroup, wanted: Collection[str], known: frozenset[str], catalog: Catalog
) -> Mapping[str, list[Pair]] | None:
    """What could give each wanted class, or ``None`` if not all of them can be given.

    In a suffixed group one provider gives everything, and a device offers one class only. In the
    unsuffixed one each class may come from a device of its own, and a trait from any of these.
    Required traits that are neither a function's nor a model's may be those of the host (an
    unsuffixed group spans the tree) or set on the provider by others: the relaxed request asks
    Placement about them.
    """
    if group.suffix and (len(wanted) > 1 or _of_no_device(group, wanted, known)):
        return None
    choices = [frozenset({trait}) for trait in group.required & known] + list(group.any_of)
    fits = {}
    given = set()
    for rc in wanted:
        pairs = [
            (function, model)
            for function, model in _pairs(catalog)
            if class_of(function, model) == rc
            and group.resources[rc] <= slots_of(function, model)
            and not group.forbidden & _traits((function, model))
        ]
        for choice in choices:
            having = [pair for pair in pairs if choice & _traits(pair)]
            if having:
                pairs = having
                given.add(choice)
        if not pairs:
            return None
        fits[rc] = pairs
    return fits if all(choice in given or choice - known for choice in choices) else None


def _strange(group: RequestGroup, known: frozenset[str]) -> frozenset[str]:
    return frozenset(t for t in group.required - known if t.startswith("CUSTOM_"))


def _of_no_device(
    group: RequestGroup, wanted: Collection[str], known: frozenset[str]
) -> frozenset[str]:
    """Traits that the device itself would have to have, and that the catalog gives to none.

    Nothing else provides a suffixed group that asks for a device only, so that the relaxed
    request cannot ask about them.
    """
    device_only = group.suffix and group.resources.keys() == set(wanted)
    return _strange(group, known) if device_only else frozenset()


def _without_devices(
    group: RequestGroup, fits: Mapping[str, list[Pair]], known: frozenset[str]
) -> RequestGroup:
    """The group without what devices give: their classes, their functions' and models' traits."""

    def is_given(choice: frozenset[str]) -> bool:
        return any(all(choice & _traits(pair) for pair in pairs) for pairs in fits.values())

    return replace(
        group,
        resources={rc: n for rc, n in group.resources.items() if rc not in fits},
        required=group.required - known,
        any_of=tuple(choice for choice in group.any_of if not is_given(choice)),
    )


def _nobody(
    group: RequestGroup, wanted: Collection[str], known: frozenset[str], catalog: Catalog
) -> Reason:
    strange = _of_no_device(group, wanted, known)
    if strange:
        return _no_function_has(strange, "no function and no device model of the catalog", catalog)
    amounts = {rc: group.resources[rc] for rc in wanted}
    most = Counter[str]()
    for function, model in _pairs(catalog):
        rc = class_of(function, model)
        most[rc] = max(most[rc], slots_of(function, model))
    return Reason(
        "demand.no_function_fits",
        "no function of the catalog has all of "
        f"{', '.join(sorted(group.required & known)) or 'the wanted traits'} with "
        + ", ".join(f"{n} x {rc} on one device (at most {most[rc]})" for rc, n in amounts.items()),
        {"resources": amounts, "required": sorted(group.required), "most": dict(most)},
    )


def _not_ours(request: ResourceRequest, known: frozenset[str], catalog: Catalog) -> Reason:
    """It asks for no class that programming gives; a trait may still name a function."""
    asked = frozenset().union(*(g.required for g in request.groups)) & known
    if asked:
        return Reason(
            "demand.trait_without_resource",
            f"{', '.join(sorted(asked))} is asked for without any of the resource classes that "
            f"its function offers: {', '.join(sorted(_programmable_classes(catalog)))}",
            {"traits": sorted(asked)},
        )
    classes = sorted({rc for group in request.groups for rc in group.resources})
    return Reason(
        "demand.not_programmable",
        f"it asks for {', '.join(classes) or 'nothing'}: programming a device changes none of that",
        {"resources": classes},
    )
