"""Which providers are devices: found by rule, kept through changeovers, never guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest

from changeover.models.catalog import Catalog, FoundDevice
from changeover.models.placement import Provider
from changeover.policies.discover import (
    Discovered,
    Listing,
    class_suspects,
    discover,
    trait_queries,
)

CARD, AES, GPU = "CUSTOM_CARD", "CUSTOM_AES", "CUSTOM_PGPU"
AGGREGATE = str(UUID(int=77))


def catalog(discover: Mapping[str, Any], devices: Sequence[Mapping[str, Any]] = ()) -> Catalog:
    return Catalog.model_validate(
        {
            "programmers": {"cards": {"kind": "simulated"}},
            "models": {
                "u50": {"programmer": "cards", "traits": [CARD]},
                "pgpu": {"programmer": "cards", "traits": [GPU]},
            },
            "functions": {
                "aes": {
                    "traits": [AES],
                    "resource_class": "CUSTOM_FPGA",
                    "artifact": {"image": "aes.bit", "sha256": "0" * 64},
                    "fits": {"u50": 1},
                }
            },
            "devices": devices,
            "discover": discover,
        }
    )


def provider(
    number: int, name: str, parent: int | None = None, root: int | None = None
) -> Provider:
    uuid = str(UUID(int=number))
    above = None if parent is None else str(UUID(int=parent))
    return Provider(uuid, name, 0, above, uuid if root is None else str(UUID(int=root)))


HOST = provider(1, "compute1")
FPGA = provider(2, "compute1_0000:3b:00.0", 1, 1)
OTHER = provider(3, "compute1_0000:5e:00.0", 1, 1)
REGION = provider(4, "big/r1", 3, 1)
ALL = (HOST, FPGA, OTHER, REGION)


def uuids(*providers: Provider) -> frozenset[str]:
    return frozenset(p.uuid for p in providers)


def listing(**of: Any) -> Listing:
    having = {frozenset({CARD}): uuids(FPGA), frozenset({AES}): uuids(), frozenset({GPU}): uuids()}
    return Listing(**{"providers": ALL, "having": having, **of})


def found(rules: Mapping[str, Any], known: Sequence[FoundDevice] = (), **of: Any) -> Discovered:
    before = {device.provider: device for device in known}
    return discover(catalog(rules), listing(**of), before)


def reason(discovered: Discovered, of: Provider) -> str:
    return discovered.unclear[of.uuid].code


def test_by_trait_with_host_model_and_card() -> None:
    rule = {"model": "u50", "traits": [CARD], "card": r"(.*)_.*", "address": r".*_(.*)"}
    seen = found({"cards": rule})
    assert seen.unclear == {}
    [device] = seen.devices.values()
    assert device == FoundDevice(
        name="compute1_0000:3b:00.0",
        provider=FPGA.uuid,
        model="u50",
        host="compute1",
        address="0000:3b:00.0",
        card="compute1",
        rule="cards",
    )


def test_by_name_and_exclusion_in_an_aggregate() -> None:
    rule = {"model": "u50", "names": ["compute1_*"], "exclude": ["*5e*"]}
    assert set(found({"cards": rule}).devices) == {FPGA.uuid}
    rule = {"model": "u50", "names": ["compute1_*"], "aggregates": [AGGREGATE]}
    members = {AGGREGATE: uuids(HOST, OTHER)}
    assert set(found({"cards": rule}, member_of=members).devices) == {OTHER.uuid}


def test_by_resource_class_any_of_them() -> None:
    rule = {"model": "u50", "resource_classes": ["FPGA", "CUSTOM_FPGA"]}
    offering = {"FPGA": uuids(OTHER), "CUSTOM_FPGA": uuids(FPGA)}
    assert set(found({"cards": rule}, offering=offering).devices) == {FPGA.uuid, OTHER.uuid}


def test_a_device_stays_while_programming_changes_its_class_and_its_functions_trait() -> None:
    rule = {"model": "u50", "resource_classes": ["FPGA"], "traits": [CARD, AES]}
    having = {frozenset({CARD}): uuids(FPGA, OTHER), frozenset({AES}): uuids(FPGA)}
    first = found({"cards": rule}, having=having, offering={"FPGA": uuids(FPGA, OTHER)})
    assert set(first.devices) == {FPGA.uuid}
    fenced = {**having, frozenset({AES}): uuids()}
    known = list(first.devices.values())
    again = found({"cards": rule}, known, having=fenced, offering={"FPGA": uuids()})
    assert again == first
    # What programming leaves alone still counts, and so does the rule that found it.
    assert not found({"cards": rule}, known, having={**fenced, frozenset({CARD}): uuids()}).devices
    assert not found({"others": rule}, known, having=fenced, offering={"FPGA": uuids()}).devices


def test_what_two_rules_match_is_reported_not_guessed() -> None:
    rules = {
        "a": {"model": "u50", "traits": [CARD]},
        "b": {"model": "pgpu", "names": ["*3b*"]},
    }
    seen = found(rules)
    assert seen.devices == {}
    assert reason(seen, FPGA) == "discover.two_rules"
    assert "a and b" in seen.unclear[FPGA.uuid].text


def test_the_model_by_its_traits_or_none() -> None:
    rule = {"names": ["compute1_*"]}
    seen = found({"any": rule})
    assert seen.devices[FPGA.uuid].model == "u50"
    assert reason(seen, OTHER) == "discover.no_model"
    both = {frozenset({CARD}): uuids(FPGA), frozenset({GPU}): uuids(FPGA)}
    seen = found({"any": rule}, having=both)
    assert seen.devices == {}
    assert seen.unclear[FPGA.uuid].facts["models"] == ["pgpu", "u50"]


def test_an_entry_of_the_catalog_wins_by_provider_and_by_name() -> None:
    rules = {"all": {"model": "u50", "names": ["compute1_*"]}}
    entry = {"name": "mine", "provider": FPGA.uuid, "model": "u50", "host": "compute1"}
    seen = discover(catalog(rules, [entry]), listing(), {})
    assert set(seen.devices) == {OTHER.uuid}
    taken = {**entry, "name": OTHER.name, "provider": str(UUID(int=99))}
    seen = discover(catalog(rules, [taken]), listing(), {})
    assert set(seen.devices) == {FPGA.uuid}
    assert reason(seen, OTHER) == "discover.name_taken"


def test_names_that_become_equal_are_reported_and_the_known_one_keeps_its_own() -> None:
    rules = {"regions": {"model": "u50", "names": ["big*"]}}
    one, two = provider(5, "big r1", 3, 1), REGION
    seen = found(rules, providers=(*ALL, one))
    assert (set(seen.devices), set(seen.unclear)) == (set(), {one.uuid, two.uuid})
    alone = found(rules)
    assert alone.devices[two.uuid].name == "big-r1"
    seen = found(rules, list(alone.devices.values()), providers=(*ALL, one))
    assert (set(seen.devices), set(seen.unclear)) == ({two.uuid}, {one.uuid})


@pytest.mark.parametrize(
    ("rule", "of", "code"),
    [
        ({"card": "parent"}, HOST, "discover.no_parent"),
        ({"card": "(x).*"}, FPGA, "discover.no_match"),
        ({"address": "(x).*"}, FPGA, "discover.no_match"),
    ],
)
def test_what_a_name_does_not_tell_is_reported(
    rule: Mapping[str, Any], of: Provider, code: str
) -> None:
    seen = found({"all": {"model": "u50", "names": [of.name], **rule}})
    assert (seen.devices, reason(seen, of)) == ({}, code)


def test_a_host_whose_name_is_none_is_reported() -> None:
    odd = provider(8, "no host")
    child = provider(9, "card", 8, 8)
    rules = {"all": {"model": "u50", "names": ["card"], "card": "parent"}}
    seen = found(rules, providers=(odd, child))
    assert seen.unclear[child.uuid].facts == {"fields": ["host"]}


def test_what_the_catalog_would_refuse_as_an_entry_is_reported() -> None:
    seen = found({"all": {"model": "u50", "owner": "nova", "names": [FPGA.name]}})
    assert reason(seen, FPGA) == "discover.unfit"
    assert "owner" in seen.unclear[FPGA.uuid].text


def test_deployables_give_the_address_and_the_owner() -> None:
    rules = {"fpgas": {"source": "cyborg", "model": "u50", "card": "parent"}}
    seen = found(rules, deployables={FPGA.uuid: "the-deployable"})
    [device] = seen.devices.values()
    assert (device.address, device.owner, device.card) == ("the-deployable", "cyborg", "compute1")


def test_only_what_the_class_alone_decides_is_read() -> None:
    rules = {
        "cards": {"model": "u50", "resource_classes": ["FPGA"], "names": ["compute1_*"]},
        "gpus": {"model": "pgpu", "traits": [GPU]},
    }
    assert class_suspects(catalog(rules), listing(), {}) == uuids(FPGA, OTHER)
    known = found({"cards": rules["cards"]}, offering={"FPGA": uuids(FPGA)}).devices
    assert class_suspects(catalog(rules), listing(), known) == uuids(OTHER)


def test_traits_are_asked_for_once_each_set() -> None:
    rules = {
        "a": {"traits": [CARD, AES]},
        "b": {"traits": [CARD], "model": "u50", "names": ["x"]},
    }
    assert trait_queries(catalog(rules)) == {
        frozenset({CARD}), frozenset({AES}), frozenset({GPU}),
    }  # fmt: skip
    assert trait_queries(catalog({"b": {"model": "u50", "names": ["x"]}})) == frozenset()
