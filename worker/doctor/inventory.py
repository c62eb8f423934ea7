"""What the catalog says against what Placement, Glance and the database have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from changeover.models.catalog import Device, Function
from changeover.models.placement import ProviderState
from changeover.models.states import FoundState
from changeover.policies.discover import excluded
from changeover.policies.offer import class_of, is_fenced, own_classes
from changeover.worker.doctor.check import Check, fail, ok, skipped, some, warn
from changeover.worker.doctor.site import Api, Site
from changeover.worker.store.devices import DeviceRecord, by_provider

NAMES_AT_ONCE = 50
MOST_SUSPECTS = 200
"""Closed devices that are read one by one; beyond that some are named and the rest counted."""

_PLACEMENT = {"OpenStack-API-Version": "placement 1.36"}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def names(site: Site) -> Iterator[Check]:
    """Placement knows the catalog's traits and resource classes."""
    api = site.api("placement")
    functions = site.catalog.functions.values()
    traits = sorted(_traits(site))
    known = _known_traits(api, traits)
    yield _missing("placement.traits", "trait", [t for t in traits if t not in known])
    classes = {class_of(f, site.catalog.models[m]) for f in functions for m in f.fits}
    listed = api.request("GET", "/resource_classes", headers=_PLACEMENT)
    have = listed.parse(lambda value: {item["name"] for item in value["resource_classes"]})
    yield _missing("placement.classes", "resource class", sorted(classes - have))


def _traits(site: Site) -> frozenset[str]:
    """All that the catalog's functions and models have."""
    functions = (f.traits for f in site.catalog.functions.values())
    models = (m.traits for m in site.catalog.models.values())
    return frozenset().union(*functions, *models)


def _known_traits(api: Api, traits: Sequence[str]) -> frozenset[str]:
    known: set[str] = set()
    for start in range(0, len(traits), NAMES_AT_ONCE):
        some_names = "in:" + ",".join(traits[start : start + NAMES_AT_ONCE])
        answer = api.request("GET", "/traits", query=[("name", some_names)], headers=_PLACEMENT)
        known |= answer.parse(lambda value: set(value["traits"]))
    return frozenset(known)


def _missing(name: str, kind: str, missing: list[str]) -> Check:
    facts = {"missing": missing}
    if not missing:
        return ok(name, f"Placement knows every {kind} of the catalog", **facts)
    standard = [one for one in missing if not one.startswith("CUSTOM_")]
    if standard:
        return fail(
            name,
            f"Placement has no {kind} {some(standard)}",
            "correct the name in the catalog: only names with CUSTOM_ can be made",
            **facts,
        )
    return warn(
        name,
        f"Placement does not have the {kind} {some(missing)} yet",
        "it is made when the first device is published; check that flavors spell it alike",
        **facts,
    )


def devices(site: Site) -> Iterator[Check]:
    """Every device is a provider on its host, and every programmable provider is a device."""
    listed = {provider.uuid: provider for provider in site.providers}
    lost = [d.name for d in site.devices if d.provider not in listed]
    misplaced = [
        d.name
        for d in site.devices
        if (provider := listed.get(d.provider)) is not None
        and (root := listed.get(provider.root)) is not None
        and root.name != d.host
    ]
    facts = {"missing": lost, "elsewhere": misplaced}
    if lost:
        yield fail(
            "devices.missing",
            f"Placement has no provider of {some(lost)}",
            "correct `provider` in the catalog, or leave the devices out",
            **facts,
        )
    elif misplaced:
        yield warn(
            "devices.missing",
            f"not on the host that the catalog says: {some(misplaced)}",
            "correct `host` in the catalog: programmers and the watch on hosts that are down go "
            "by it",
            **facts,
        )
    else:
        said = f"Placement has the providers of all {len(site.devices)} devices"
        yield ok("devices.missing", said, **facts)
    ours = {device.provider for device in site.devices}
    programmable = (listed[uuid].name for uuid in _programmable(site) & listed.keys() - ours)
    strange = sorted(name for name in programmable if not excluded(site.catalog, name))
    if strange:
        yield warn(
            "devices.undescribed",
            f"nothing in the catalog describes {some(strange)}, which have its traits or classes",
            "add a rule under discover, or an entry under devices; without, they are not touched",
            providers=strange,
        )
    else:
        yield ok("devices.undescribed", "every provider with the catalog's traits is described")


def _programmable(site: Site) -> frozenset[str]:
    """Providers with a trait or a free unit of a class that only programmed devices have."""
    functions = site.catalog.functions.values()
    found: frozenset[str] = frozenset()
    for trait in _traits(site):
        found |= site.holders(trait)
    for resource_class in {class_of(f, site.catalog.models[m]) for f in functions for m in f.fits}:
        found |= site.offering(resource_class)
    return found


def rules(site: Site) -> Iterator[Check]:
    """What the rules match is clear."""
    if not site.catalog.discover:
        yield skipped("devices.unclear", "the catalog has no rules under discover")
        return
    with site.database.read() as tx:
        records = tx.discovered.all()
        ran_at = tx.leases.ran_at("full_refresh")
    unclear = [r for r in records if r.state is FoundState.UNCLEAR]
    gone = [r for r in records if r.state is FoundState.GONE]
    facts = {
        "unclear": {r.name: r.reason.code for r in unclear if r.reason is not None},
        "gone": {r.name: r.reason.code for r in gone if r.reason is not None},
    }
    if unclear:
        first = unclear[0].reason
        yield warn(
            "devices.unclear",
            f"{len(unclear)} provider(s) are left alone, as {first.text if first else '?'}",
            "see `changeover discover`",
            **facts,
        )
    elif ran_at is None:
        yield warn(
            "devices.unclear",
            "the rules were never applied",
            "start the workers, or look once with `changeover discover --fresh`",
        )
    else:
        yield ok("devices.unclear", f"all that rules match is clear; {len(gone)} gone", **facts)


def images(site: Site) -> Iterator[Check]:
    """Functions that Cyborg loads have their image in Glance, with the catalog's sha256."""
    catalog = site.catalog
    cyborg = {m.name for m in catalog.models.values() if _by_cyborg(site, m.programmer)}
    loaded = [f for f in catalog.functions.values() if f.artifact.image and cyborg & f.fits.keys()]
    if not loaded:
        yield skipped("glance.images", "Cyborg programs no function of the catalog")
        return
    api = site.api("image")
    wrong = {f.name: why for f in loaded if (why := _wrong_image(api, f)) is not None}
    if wrong:
        yield fail(
            "glance.images",
            "; ".join(f"{name}: {why}" for name, why in sorted(wrong.items())[:5]),
            "upload the image, or correct artifact.image and artifact.sha256 in the catalog",
            functions=wrong,
        )
    else:
        yield ok("glance.images", f"Glance has the images of {len(loaded)} function(s)")


def _by_cyborg(site: Site, programmer: str) -> bool:
    return site.catalog.programmers[programmer].kind == "cyborg"


def _wrong_image(api: Api, function: Function) -> str | None:
    """What is wrong with the function's image, as far as Glance says without giving it away."""
    image = function.artifact.image or ""
    key = "id" if _UUID.fullmatch(image) else "name"
    answer = api.request("GET", "/v2/images", query=[(key, image)])
    found = answer.parse(lambda value: list(value["images"]))
    if len(found) != 1:
        return f"Glance has {'no image' if not found else f'{len(found)} images'} {image}"
    [one] = found
    if one.get("status") != "active":
        return f"image {image} is {one.get('status')}, not active"
    recorded = one.get("os_hash_value") if one.get("os_hash_algo") == "sha256" else None
    if recorded is not None and recorded != function.artifact.sha256:
        return f"image {image} has another sha256 than the catalog says"
    return None


def leaked_fences(site: Site) -> Iterator[Check]:
    """No device is closed to the scheduler without a row that says why.

    Suspect is what has a function's trait, offers no free unit of its class, and was not in use
    when it was read last; only suspects are read.
    """
    with site.database.read() as tx:
        fenced = {fence.provider for fence in tx.fences.all()}
        live = {changeover.device for changeover in tx.changeovers.live()}
        records = by_provider(tx.devices.all())
    suspects = [
        device
        for device in site.devices
        if device.provider not in fenced | live and _suspect(site, device, records)
    ]
    read = {d.name: site.placement.state(d.provider) for d in suspects[:MOST_SUSPECTS]}
    closed = [
        d.name
        for d in suspects[:MOST_SUSPECTS]
        if _is_closed(site, d, read[d.name], records[d.provider])
    ]
    more = max(0, len(suspects) - MOST_SUSPECTS)
    facts = {"devices": closed, "not_looked_at": more}
    if closed:
        yield fail(
            "fences.leaked",
            f"closed to the scheduler, and no changeover says why: {some(closed)}",
            "if nobody else reserved them, program them anew with `changeover program`, which "
            "publishes them",
            **facts,
        )
    else:
        yield ok("fences.leaked", "every closed device has a row that says why", **facts)


def _suspect(site: Site, device: Device, records: Mapping[str, DeviceRecord]) -> bool:
    record = records.get(device.provider)
    function = site.catalog.functions.get(record.function or "") if record is not None else None
    if record is None or function is None or record.used or record.reserved:
        return False
    rc = class_of(function, site.catalog.models[device.model])
    has_trait = any(device.provider in site.holders(trait) for trait in function.traits)
    return has_trait and device.provider not in site.offering(rc)


def _is_closed(site: Site, device: Device, state: ProviderState, record: DeviceRecord) -> bool:
    """Closed by hand, not by use: nothing is allocated that would explain it."""
    model = site.catalog.models[device.model]
    if not is_fenced(state.inventories, model, site.catalog):
        return False
    if own_classes(model, site.catalog).isdisjoint(state.inventories) and record.function is None:
        return False
    return site.placement.usage(device.provider).idle
