"""What a failed request asks of programmable devices, and what it asks besides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches

from changeover.models.catalog import Catalog, Function, Model
from changeover.models.placement import RequestGroup, ResourceRequest
from changeover.models.planning import Need
from changeover.models.reasons import Reason
from changeover.policies.offer import class_of, own_traits, slots_of


@dataclass(frozen=True, slots=True)
class Understanding:
    """A request, taken apart.

    ``needs`` are what programmed devices must give; ``models`` are the device models that can
    (for every need: those of ``needs`` together). ``relaxed`` is the request without them: which
    hosts could take the rest? ``nobody`` is set if no function of the catalog can ever serve it,
    or if it asks for nothing that programming changes.
    """

    needs: tuple[Need, ...]
    models: frozenset[str]
    relaxed: ResourceRequest
    nobody: Reason | None


def understand(request: ResourceRequest, catalog: Catalog) -> Understanding:
    """Take a request apart; see :class:`Understanding`."""
    classes = _programmable_classes(catalog)
    known = own_traits(catalog)
    needs: list[Need] = []
    models: set[str] = set()
    rest: list[RequestGroup] = []
    nobody: Reason | None = None
    for group in request.groups:
        wanted = [rc for rc in group.resources if rc in classes]
        if not wanted:
            rest.append(group)
            continue
        fits = [
            (function, model)
            for function, model in _pairs(catalog)
            if _gives(function, model, group, known)
        ]
        if not fits:
            nobody = nobody or _nobody(group, wanted, known, catalog)
            continue
        amount = max(group.resources[rc] for rc in wanted)
        names = tuple(sorted({function.name for function, _ in fits}))
        needs.append(Need(names, amount))
        models |= {model.name for _, model in fits}
        stripped = _without_device(group, fits)
        if stripped.resources or stripped.required or stripped.forbidden:
            rest.append(stripped)
    if not needs and nobody is None:
        nobody = _not_ours(request, known, catalog)
    suffixed = [group for group in rest if group.suffix and group.resources]
    policy = request.group_policy if len(suffixed) > 1 else None
    relaxed = replace(request, groups=tuple(g for g in rest if g.resources), group_policy=policy)
    return Understanding(tuple(needs), frozenset(models), relaxed, nobody)


def _pairs(catalog: Catalog) -> Iterable[tuple[Function, Model]]:
    for function in catalog.functions.values():
        for name in function.fits:
            yield function, catalog.models[name]


def _programmable_classes(catalog: Catalog) -> frozenset[str]:
    return frozenset(class_of(function, model) for function, model in _pairs(catalog))


def _gives(function: Function, model: Model, group: RequestGroup, known: frozenset[str]) -> bool:
    """Whether a device of ``model`` with ``function`` could satisfy the group's device part.

    Required traits that are neither a function's nor the model's may be those of the host (an
    unsuffixed group spans the tree) or set on the provider by others: the relaxed request asks
    Placement about them.
    """
    have = frozenset(function.traits) | frozenset(model.traits)
    amount = group.resources.get(class_of(function, model), 0)
    return (
        0 < amount <= slots_of(function, model)
        and not (group.required & known) - have
        and not group.forbidden & have
        and all(choice & have or choice - known for choice in group.any_of)
    )


def _without_device(group: RequestGroup, fits: Iterable[tuple[Function, Model]]) -> RequestGroup:
    """The group without what the device gives: its class, its function's and model's traits."""
    pairs = list(fits)
    classes = {class_of(function, model) for function, model in pairs}
    given = frozenset().union(*(f.traits for f, _ in pairs), *(m.traits for _, m in pairs))
    return replace(
        group,
        resources={rc: n for rc, n in group.resources.items() if rc not in classes},
        required=group.required - given,
        any_of=tuple(choice for choice in group.any_of if not choice & given),
        forbidden=group.forbidden - given,
    )


def _nobody(
    group: RequestGroup, wanted: Iterable[str], known: frozenset[str], catalog: Catalog
) -> Reason:
    strange = sorted(
        trait
        for trait in group.required
        if trait.startswith("CUSTOM_") and trait not in known and not _of_model(trait, catalog)
    )
    if strange:
        near = {t: get_close_matches(t, sorted(known), n=3, cutoff=0.75) for t in strange}
        hints = "; ".join(f"nearest to {t}: {', '.join(n)}" for t, n in near.items() if n)
        return Reason(
            "demand.no_function_has_trait",
            f"no function of the catalog has {', '.join(strange)}"
            + (f" ({hints})" if hints else ""),
            {"traits": strange, "nearest": near},
        )
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


def _of_model(trait: str, catalog: Catalog) -> bool:
    return any(trait in model.traits for model in catalog.models.values())


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
