"""The catalog refuses what does not fit together, and names where."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from pydantic import ValidationError

from changeover.models.catalog import Catalog, CommandProgrammer, Device, Pool
from changeover.worker.simulator.fleet import describe_fleet

UUID = "00000000-0000-4000-8000-00000000000{}"
SHA = "0123456789abcdef" * 4

GOOD: dict[str, Any] = {
    "programmers": {
        "cards": {"kind": "simulated"},
        "tool": {"kind": "command", "program": ["/bin/load", "{address}"], "read": ["/bin/show"]},
    },
    "models": {
        "u50": {"programmer": "cards", "traits": ["CUSTOM_U50"]},
        "region": {"programmer": "tool", "mode": "fully_dynamic", "resource_class": "CUSTOM_R"},
    },
    "functions": {
        "aes": {
            "traits": ["CUSTOM_AES"],
            "resource_class": "CUSTOM_FPGA",
            "artifact": {"image": "aes.bit", "sha256": SHA},
            "fits": {"u50": 2, "region": 1},
        },
        "type-35": {
            "traits": ["CUSTOM_T35"],
            "resource_class": "VGPU",
            "artifact": {"vgpu_type": "nvidia-35"},
            "fits": {"u50": 8},
            "seconds": 0,
        },
    },
    "devices": [
        {"name": "d0", "provider": UUID.format(0), "model": "u50", "host": "h1"},
        {"name": "d1", "provider": UUID.format(1), "model": "region", "host": "h1", "card": "c1"},
    ],
    "pools": {"aes": {"min_free": 1, "max_devices": 4, "mode": "observe"}},
}

DROP = object()


def changed(*changes: tuple[str, object]) -> dict[str, Any]:
    data = deepcopy(GOOD)
    for path, value in changes:
        *parents, last = path.split("/")
        here: Any = data
        for part in parents:
            here = here[int(part) if isinstance(here, list) else part]
        key: Any = int(last) if isinstance(here, list) else last
        if value is DROP:
            del here[key]
        elif isinstance(here, list) and key == len(here):
            here.append(value)
        else:
            here[key] = value
    return data


def problems(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Catalog.model_validate(data)
    return [
        f"{'.'.join(map(str, e['loc']))}: {e['msg']}"
        for e in caught.value.errors(include_url=False, include_input=False)
    ]


def test_a_good_one() -> None:
    catalog = Catalog.model_validate(GOOD)
    assert catalog.functions["aes"].name == "aes"
    assert catalog.models["u50"].name == "u50"
    assert isinstance(catalog.programmers["tool"], CommandProgrammer)
    assert catalog.device("d1") is catalog.device(UUID.format(1)) is catalog.devices[1]
    assert catalog.device("nosuch") is None
    assert catalog.pool("aes").min_free == 1
    assert catalog.pool("type-35") == Pool()
    assert Catalog.model_validate_json(catalog.model_dump_json()) == catalog


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Catalog.model_validate(GOOD).devices = ()


def test_the_smallest_one() -> None:
    assert Catalog.model_validate({"programmers": {}, "models": {}, "functions": {}}).devices == ()


@pytest.mark.parametrize(
    ("path", "value", "where", "said"),
    [
        # what is used is defined
        ("models/u50/programmer", "nosuch", "", "models.u50.programmer: no programmer nosuch"),
        ("functions/aes/fits/nosuch", 1, "", "functions.aes.fits: no model nosuch"),
        ("pools/nosuch", {}, "", "pools.nosuch: no function nosuch"),
        ("devices/0/model", "nosuch", "", "devices.0.model: no model nosuch"),
        # names and providers are there once
        ("devices/1/name", "d0", "", "devices.1: d0 is already devices.0"),
        ("devices/1/provider", UUID.format(0), "", f"devices.1: {UUID.format(0)} is already"),
        ("devices/1/name", UUID.format(0), "", f"devices.1: {UUID.format(0)} is already"),
        # what is loaded
        ("functions/aes/artifact", {}, "functions.aes.artifact", "either an image"),
        (
            "functions/aes/artifact/vgpu_type",
            "nvidia-35",
            "functions.aes.artifact",
            "either an image",
        ),
        ("functions/aes/artifact/sha256", DROP, "functions.aes.artifact", "needs its sha256"),
        ("functions/aes/artifact/sha256", SHA.upper(), "functions.aes.artifact.sha256", "pattern"),
        ("functions/aes/artifact/sha256", SHA[1:], "functions.aes.artifact.sha256", "pattern"),
        ("functions/aes/artifact/sha256", SHA + "\n", "functions.aes.artifact.sha256", "pattern"),
        # a model's class goes with its mode
        ("models/u50/resource_class", "CUSTOM_X", "models.u50", "resource_class of its own"),
        ("models/region/resource_class", DROP, "models.region", "resource_class of its own"),
        ("models/u50/mode", "half_dynamic", "models.u50.mode", "'single_program'"),
        ("models/u50/resets", "host", "models.u50.resets", "'self' or 'card'"),
        # numbers
        ("functions/aes/fits/u50", 0, "functions.aes.fits.u50", "greater than or equal to 1"),
        ("functions/aes/fits/u50", 4097, "functions.aes.fits.u50", "less than or equal to 4096"),
        ("functions/aes/fits", {}, "functions.aes.fits", "at least 1 item"),
        ("functions/aes/seconds", -1, "functions.aes.seconds", "greater than or equal to 0"),
        ("functions/aes/seconds", float("nan"), "functions.aes.seconds", "equal to"),
        ("functions/aes/seconds", float("inf"), "functions.aes.seconds", "less than or equal"),
        ("models/u50/slots", 0, "models.u50.slots", "greater than or equal to 1"),
        ("pools/aes/min_free", -1, "pools.aes.min_free", "greater than or equal to 0"),
        ("pools/aes/max_devices", -1, "pools.aes.max_devices", "greater than or equal to 0"),
        # words
        ("functions/aes/traits", [], "functions.aes.traits", "at least 1 item"),
        ("functions/aes/traits/0", "custom_aes", "functions.aes.traits.0", "pattern"),
        ("functions/aes/traits/0", "CUSTOM_AES\n", "functions.aes.traits.0", "pattern"),
        ("functions/aes/resource_class", "fpga", "functions.aes.resource_class", "pattern"),
        ("devices/0/provider", "d0", "devices.0.provider", "pattern"),
        ("devices/0/host", "a b", "devices.0.host", "pattern"),
        ("devices/0/host", "h" * 129, "devices.0.host", "at most"),
        ("devices/0/name", "-x", "devices.0.name", "pattern"),
        ("devices/0/owner", "nobody", "devices.0.owner", "'changeover'"),
        ("devices/0/address", "x" * 256, "devices.0.address", "at most 255"),
        ("pools/aes/mode", "dry-run", "pools.aes.mode", "'observe'"),
        ("functions/a b", {}, "functions.a b.[key]", "pattern"),
        # programmers
        ("programmers/cards/kind", "nosuch", "programmers.cards", "nosuch"),
        ("programmers/cards/kind", DROP, "programmers.cards", "discriminator"),
        ("programmers/tool/program", [], "programmers.tool.command.program", "at least 1 item"),
        ("programmers/tool/timeout_seconds", 0, "programmers.tool.command.timeout", "than 0"),
        ("programmers/cards/program", ["x"], "programmers.cards.simulated.program", "Extra"),
        # a misspelt knob is not ignored
        ("devics", [], "devics", "Extra inputs"),
        ("devices/0/pined", True, "devices.0.pined", "Extra inputs"),
        ("pools/aes/minfree", 1, "pools.aes.minfree", "Extra inputs"),
        ("models/u50/slot", 1, "models.u50.slot", "Extra inputs"),
        ("functions/aes/second", 1, "functions.aes.second", "Extra inputs"),
        ("functions/aes/artifact/sha", SHA, "functions.aes.artifact.sha", "Extra inputs"),
        # what is not a mapping
        ("functions/aes", 1, "functions.aes", "valid dictionary"),
        ("functions", [], "functions", "valid dictionary"),
        ("models", None, "models", "valid dictionary"),
        ("devices", {}, "devices", "tuple"),
        ("programmers", DROP, "programmers", "required"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: object, where: str, said: str) -> None:
    found = problems(changed((path, value)))
    assert any(p.startswith(where) and said in p for p in found), found


def test_all_that_is_inconsistent_is_said_at_once() -> None:
    data = changed(
        ("models/u50/programmer", "p"),
        ("functions/aes/fits", {"m": 1}),
        ("devices/0/model", "n"),
        ("devices/1/name", "d0"),
        ("pools", {"q": {}}),
    )
    (said,) = problems(data)
    for part in ("no programmer p", "no model m", "no model n", "d0 is already", "no function q"):
        assert part in said


IMAGE = "c0ffee00-0000-4000-8000-000000000001"
CYBORG = (
    ("programmers/tool", {"kind": "cyborg"}),
    ("models/region/mode", "single_program"),
    ("models/region/resource_class", DROP),
    ("functions/aes/artifact/image", IMAGE),
    ("devices/1/owner", "cyborg"),
    ("devices/1/address", UUID.format(7)),
)


def test_a_device_that_cyborg_programs() -> None:
    catalog = Catalog.model_validate(changed(*CYBORG))
    (device,) = (d for d in catalog.devices if d.owner == "cyborg")
    assert catalog.problems_of(device) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("devices/1/address", "0000:3b:00.0"), "devices.1.address: must be the uuid of"),
        (("devices/1/owner", "changeover"), "devices.1.owner: Cyborg writes the inventory"),
        (("devices/1/owner", "nova"), "devices.1.owner: nova-compute writes this inventory anew"),
        (("models/region/resets", "card"), "devices.1.owner: model region resets its whole card"),
        (("functions/aes/artifact/image", "aes.bit"), "functions.aes.artifact.image: must be the"),
        (("functions/type-35/fits", {"region": 4}), "yield 1 x CUSTOM_FPGA, 4 x VGPU: where class"),
        (("programmers/tool/report_seconds", 0), "programmers.tool.cyborg.report_seconds"),
    ],
)
def test_what_cyborg_could_not_do(change: tuple[str, object], why: str) -> None:
    said = problems(changed(*CYBORG, change))
    assert any(why in one for one in said), said


def test_inventory_that_novas_driver_writes_is_refused() -> None:
    (said,) = problems(changed(("devices/0/owner", "nova")))
    assert "devices.0.owner: nova-compute writes this inventory anew" in said


@pytest.mark.parametrize("data", [None, [], 1, "x"])
def test_what_is_no_mapping_at_all(data: object) -> None:
    with pytest.raises(ValidationError, match="valid dictionary"):
        Catalog.model_validate(data)


def test_a_device_may_be_named_like_its_own_host_or_card() -> None:
    Catalog.model_validate(changed(("devices/1/card", "d1"), ("devices/1/host", "d1")))


def test_a_hosts_queue_fits_its_column() -> None:
    """Hints for a host's own worker name its queue; PostgreSQL refuses what is too long."""
    from changeover.models.tables import HintRow  # noqa: PLC0415 - only this test looks at tables
    from changeover.worker.queues import host_queue  # noqa: PLC0415 - as above

    longest = next(
        "h" * n for n in range(300, 0, -1) if not _refused({**GOOD["devices"][0], "host": "h" * n})
    )
    assert len(longest) >= 64
    assert len(host_queue(longest)) <= (HintRow.__table__.c.queue.type.length or 0)


def _refused(device: dict[str, Any]) -> bool:
    try:
        Device.model_validate(device)
    except ValidationError:
        return True
    return False


def test_the_embedded_catalog_is_a_good_one() -> None:
    catalog = describe_fleet().catalog
    assert Catalog.model_validate(catalog.model_dump(mode="json")) == catalog
