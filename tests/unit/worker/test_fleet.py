"""The embedded cloud as values; building it is a contract test of its own."""

from __future__ import annotations

from collections import Counter

from changeover.policies.request import request_of_flavor
from changeover.worker.catalog_file import load_catalog
from changeover.worker.simulator.fleet import Shape, catalog_yaml, describe_fleet


def test_the_fleet_is_what_was_promised() -> None:
    fleet = describe_fleet()
    devices = fleet.catalog.devices
    assert Counter(d.model for d in devices) == {
        "u50": 11,
        "u280": 1,
        "pgpu": 6,
        "u250-region": 8,
    }
    assert len({d.host for d in devices}) == 4
    assert len(fleet.catalog.functions) >= 6
    assert {f.fits["pgpu"] for f in fleet.catalog.functions.values() if "pgpu" in f.fits} == {
        8,
        4,
        2,
    }
    assert "" in {fleet.initial[d.name] for d in devices if d.model == "u50"}
    for name, function in fleet.initial.items():
        device = fleet.catalog.device(name)
        assert device is not None
        assert not function or device.model in fleet.catalog.functions[function].fits


def test_the_file_says_the_same_as_the_values() -> None:
    for shape in (Shape(), Shape(hosts=7, fpga_cards=30, gpus=0, dynamic_cards=1, name="x")):
        text = catalog_yaml(shape)
        assert load_catalog(text) == describe_fleet(shape).catalog
        assert text.count("# ") > 8


def test_uuids_repeat_and_differ_by_name() -> None:
    assert describe_fleet() == describe_fleet()
    other = {d.provider for d in describe_fleet(Shape(name="other")).catalog.devices}
    assert other.isdisjoint(d.provider for d in describe_fleet().catalog.devices)


def test_every_flavor_is_a_request_and_every_function_has_one() -> None:
    fleet = describe_fleet()
    asked: set[str] = set()
    for flavor in fleet.flavors:
        made = request_of_flavor(flavor)
        profile = made.device_profile
        assert profile is None or flavor.name == f"profile.{profile}"
        (group,) = made.request.groups
        asked |= group.required
    assert asked == {t for f in fleet.catalog.functions.values() for t in f.traits}
