"""Which resource providers are devices: the catalog's rules, applied to what Placement lists.

A device that a rule once found stays one while the rule's lasting criteria hold. Resource classes
and functions' traits are not lasting: a changeover takes them away and gives others, and a device
must not vanish in the middle of it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cached_property

from pydantic import ValidationError

from changeover.models.catalog import Catalog, DiscoveryRule, FoundDevice, Model
from changeover.models.placement import Provider
from changeover.models.reasons import Reason
from changeover.policies.offer import own_traits

LONGEST_NAME = 128
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._:@+-]")

Traits = frozenset[str]
Uuids = frozenset[str]


@dataclass(frozen=True, slots=True)
class Listing:
    """What Placement and Cyborg say about all providers.

    ``having``: traits -> the providers that have all of them. ``member_of``: aggregate -> its
    providers. ``offering``: resource class -> the providers that have an inventory of it.
    ``deployables``: provider -> uuid of the deployable that it stands for.
    """

    providers: Sequence[Provider]
    having: Mapping[Traits, Uuids] = field(default_factory=dict)
    member_of: Mapping[str, Uuids] = field(default_factory=dict)
    offering: Mapping[str, Uuids] = field(default_factory=dict)
    deployables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Discovered:
    """By provider uuid: the devices found, and why others that a rule wants are none."""

    devices: Mapping[str, FoundDevice]
    unclear: Mapping[str, Reason]


def trait_queries(catalog: Catalog) -> frozenset[Traits]:
    """The sets of traits whose providers :func:`discover` has to know."""
    own = own_traits(catalog)
    wanted = {_lasting(rule, own) for rule in catalog.discover.values()}
    wanted |= {frozenset(rule.traits) & own for rule in catalog.discover.values()}
    if any(rule.model is None for rule in catalog.discover.values()):
        wanted |= {frozenset(model.traits) for model in catalog.models.values()}
    return frozenset(wanted - {frozenset()})


def class_suspects(
    catalog: Catalog, listing: Listing, known: Mapping[str, FoundDevice]
) -> frozenset[str]:
    """Providers of which only their resource classes are still to be known."""
    rules = _Rules(catalog, listing, known)
    return frozenset(
        provider.uuid
        for provider in rules.undescribed
        for rule in catalog.discover.values()
        if rule.resource_classes
        and not rules.is_known(rule, provider)
        and rules.matches_otherwise(rule, provider)
    )


def discover(catalog: Catalog, listing: Listing, known: Mapping[str, FoundDevice]) -> Discovered:
    """Apply the catalog's rules. ``known``: the devices that they found before.

    A provider that two rules or no model match, or whose names are unusable or taken, is unclear:
    nothing is guessed. Providers with an entry in the catalog are left to it.
    """
    rules = _Rules(catalog, listing, known)
    devices: dict[str, FoundDevice] = {}
    unclear: dict[str, Reason] = {}
    for provider in rules.undescribed:
        matching = [rule for rule in catalog.discover.values() if rules.matches(rule, provider)]
        if not matching:
            continue
        made = rules.device(matching, provider)
        if isinstance(made, Reason):
            unclear[provider.uuid] = made
        else:
            devices[provider.uuid] = made
    for uuid, reason in _name_clashes(catalog, devices, known):
        del devices[uuid]
        unclear[uuid] = reason
    return Discovered(devices, unclear)


def excluded(catalog: Catalog, name: str) -> bool:
    """Whether a rule leaves out providers of that name on purpose."""
    globs = [_globs(rule.exclude) for rule in catalog.discover.values()]
    return any(found is not None and found.fullmatch(name) is not None for found in globs)


def _lasting(rule: DiscoveryRule, own: Traits) -> Traits:
    """The rule's traits that programming does not change."""
    return frozenset(rule.traits) - own


class _Rules:
    """The catalog's rules over one listing."""

    def __init__(
        self, catalog: Catalog, listing: Listing, known: Mapping[str, FoundDevice]
    ) -> None:
        self.catalog = catalog
        self.listing = listing
        self.known = known
        self.own = own_traits(catalog)
        self.by_uuid = {provider.uuid: provider for provider in listing.providers}
        self.names = {rule.name: _globs(rule.names) for rule in catalog.discover.values()}
        self.excluded = {rule.name: _globs(rule.exclude) for rule in catalog.discover.values()}

    @cached_property
    def undescribed(self) -> list[Provider]:
        """Providers without an entry in the catalog."""
        described = {device.provider for device in self.catalog.described}
        return [p for p in self.listing.providers if p.uuid not in described]

    def is_known(self, rule: DiscoveryRule, provider: Provider) -> bool:
        """Whether the rule found it before."""
        before = self.known.get(provider.uuid)
        return before is not None and before.rule == rule.name

    def matches(self, rule: DiscoveryRule, provider: Provider) -> bool:
        """Whether all criteria hold."""
        return self.matches_otherwise(rule, provider) and (
            not rule.resource_classes
            or self.is_known(rule, provider)
            or any(
                provider.uuid in self.listing.offering.get(rc, ()) for rc in rule.resource_classes
            )
        )

    def matches_otherwise(self, rule: DiscoveryRule, provider: Provider) -> bool:
        """Whether all criteria but the resource classes hold."""
        names, excluded = self.names[rule.name], self.excluded[rule.name]
        return (
            (rule.source != "cyborg" or provider.uuid in self.listing.deployables)
            and (names is None or names.fullmatch(provider.name) is not None)
            and (excluded is None or excluded.fullmatch(provider.name) is None)
            and (
                not rule.aggregates
                or any(provider.uuid in self.listing.member_of[a] for a in rule.aggregates)
            )
            and self._has(_lasting(rule, self.own), provider)
            and (
                self.is_known(rule, provider)
                or self._has(frozenset(rule.traits) & self.own, provider)
            )
        )

    def _has(self, traits: Traits, provider: Provider) -> bool:
        return not traits or provider.uuid in self.listing.having[traits]

    def device(self, matching: Sequence[DiscoveryRule], provider: Provider) -> FoundDevice | Reason:
        """The device that the provider is, or why that cannot be said."""
        if len(matching) > 1:
            rules = sorted(rule.name for rule in matching)
            text = (
                f"{provider.name} matches the rules {' and '.join(rules)}: narrow all but one, or "
                "describe it under devices"
            )
            return Reason("discover.two_rules", text, {"rules": rules})
        [rule] = matching
        root = self.by_uuid.get(provider.root, provider)
        parts = {
            "model": self._model(rule, provider),
            "card": self._card(rule, provider),
            "address": self._address(rule, provider),
        }
        for part in parts.values():
            if isinstance(part, Reason):
                return part
        try:
            device = FoundDevice.model_validate(
                {
                    "name": _fitting(provider.name),
                    "provider": provider.uuid,
                    "host": root.name,
                    "owner": rule.owned_by,
                    "pinned": rule.pinned,
                    "rule": rule.name,
                    **parts,
                }
            )
        except ValidationError as error:
            wrong = {str(e["loc"][0]) for e in error.errors()}
            text = (
                f"{provider.name} on {root.name} makes no usable {', '.join(sorted(wrong))}: "
                "exclude it, or describe it under devices"
            )
            return Reason("discover.unusable", text, {"fields": sorted(wrong)})
        problems = self.catalog.problems_of(device)
        if problems:
            text = f"{provider.name}, as discover.{rule.name} has it: {'; '.join(problems)}"
            return Reason("discover.unfit", text, {"problems": problems})
        return device

    def _model(self, rule: DiscoveryRule, provider: Provider) -> str | Reason:
        if rule.model is not None:
            return rule.model
        fitting = [
            m.name for m in self._models_by_trait if self._has(frozenset(m.traits), provider)
        ]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            text = f"{provider.name} has the traits of the models {' and '.join(sorted(fitting))}"
        else:
            text = f"{provider.name} has the traits of no model of the catalog"
        return Reason(
            "discover.no_model",
            f"{text}: name a model in discover.{rule.name}, or correct the models' traits",
            {"rule": rule.name, "models": sorted(fitting)},
        )

    @cached_property
    def _models_by_trait(self) -> list[Model]:
        return [model for model in self.catalog.models.values() if model.traits]

    def _card(self, rule: DiscoveryRule, provider: Provider) -> str | Reason | None:
        if rule.card is None:
            return None
        if rule.card != "parent":
            return _part(rule, "card", rule.card, provider)
        parent = self.by_uuid.get(provider.parent or "")
        if parent is not None:
            return _fitting(parent.name)
        return Reason(
            "discover.no_parent",
            f"{provider.name} has no parent provider, after which discover.{rule.name}.card "
            "would name its card",
        )

    def _address(self, rule: DiscoveryRule, provider: Provider) -> str | Reason:
        if rule.address is not None:
            return _part(rule, "address", rule.address, provider)
        return self.listing.deployables.get(provider.uuid, provider.name)


def _part(rule: DiscoveryRule, field_: str, pattern: str, provider: Provider) -> str | Reason:
    found = re.fullmatch(pattern, provider.name)
    if found is not None and found[1]:
        return _fitting(found[1]) if field_ == "card" else found[1]
    return Reason(
        "discover.no_match",
        f"the name {provider.name} does not match discover.{rule.name}.{field_}: correct it",
        {"field": field_},
    )


def _globs(patterns: Iterable[str]) -> re.Pattern[str] | None:
    joined = "|".join(translate(pattern) for pattern in patterns)
    return re.compile(joined) if joined else None


def _fitting(name: str) -> str:
    """A provider's name as a device's, which has fewer characters to choose from."""
    return _NOT_IN_A_NAME.sub("-", name).lstrip("._:@+-")[:LONGEST_NAME] or "unnamed"


def _name_clashes(
    catalog: Catalog, devices: Mapping[str, FoundDevice], known: Mapping[str, FoundDevice]
) -> Iterator[tuple[str, Reason]]:
    """Devices whose name another has; one that had it before keeps it."""
    described = {key for d in catalog.described for key in (d.name, d.provider)}
    called: dict[str, list[str]] = defaultdict(list)
    for uuid, device in devices.items():
        called[device.name].append(uuid)
    for name, uuids in called.items():
        keepers = [u for u in uuids if (old := known.get(u)) is not None and old.name == name]
        keeper = keepers[0] if len(keepers) == 1 and name not in described else None
        if name not in described and len(uuids) == 1:
            continue
        for uuid in uuids:
            if uuid != keeper:
                text = f"another device is called {name} already: describe this one under devices"
                yield uuid, Reason("discover.name_taken", text, {"name": name})
