"""Layouts: applied once they are reached, applied twice they change nothing, or they say why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changeover.policies.layout import Placed, differences

FITS = {"aes": frozenset({"u50", "u280"}), "gzip": frozenset({"u50"}), "ipsec": frozenset({"u280"})}
CARD = Placed(
    name="fpga1",
    provider="uuid1",
    model="u50",
    function=None,
    becoming=None,
    queued=None,
    pinned=False,
)


def one(wanted: str, device: Placed | None = CARD) -> tuple[str, str]:
    devices = {} if device is None else {device.name: device}
    (found,) = differences({"fpga1": wanted}, devices, FITS)
    assert (found.device, found.wanted) == ("fpga1", wanted)
    assert found.now == (device.function if device else None)
    assert found.provider == (device.provider if device else "")
    assert bool(found.why) == (found.action == "refuse")
    return found.action, found.why


@pytest.mark.parametrize(
    ("change", "wanted", "action"),
    [
        ({}, "aes", "program"),
        ({"function": "gzip"}, "aes", "program"),
        ({"function": "aes"}, "aes", "keep"),
        ({"becoming": "aes"}, "aes", "keep"),
        ({"function": "gzip", "becoming": "aes"}, "aes", "keep"),
        # It offers what is wanted, but not for long.
        ({"function": "aes", "becoming": "gzip"}, "aes", "program"),
        ({"queued": "aes"}, "aes", "queued"),
        ({"function": "gzip", "queued": "aes"}, "aes", "queued"),
        ({"queued": "gzip"}, "aes", "program"),
        ({"function": "aes", "becoming": "gzip", "queued": "aes"}, "aes", "queued"),
        ({"function": "aes", "pinned": True}, "aes", "keep"),
    ],
)
def test_what_is_to_be_done(change: dict[str, object], wanted: str, action: str) -> None:
    assert one(wanted, replace(CARD, **change)) == (action, "")  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("device", "wanted", "why"),
    [
        (None, "aes", "the catalog has no such device"),
        (CARD, "zip", "the catalog has no function zip"),
        (CARD, "", "the catalog has no function "),
        (CARD, "ipsec", "ipsec does not fit model u50"),
        (replace(CARD, function="ipsec"), "ipsec", "ipsec does not fit model u50"),
        (replace(CARD, pinned=True), "aes", "it is pinned"),
        (replace(CARD, pinned=True, function="gzip"), "aes", "it is pinned"),
        (replace(CARD, pinned=True, becoming="gzip"), "aes", "it is pinned"),
    ],
)
def test_what_is_refused_and_why(device: Placed | None, wanted: str, why: str) -> None:
    assert one(wanted, device) == ("refuse", why)


def test_every_line_is_answered_in_order_of_names() -> None:
    layout = {"fpga2": "aes", "fpga1": "gzip", "nosuch": "aes"}
    devices = {name: replace(CARD, name=name) for name in ("fpga1", "fpga2", "fpga3")}
    found = differences(layout, devices, FITS)
    assert [(d.device, d.action) for d in found] == [
        ("fpga1", "program"),
        ("fpga2", "program"),
        ("nosuch", "refuse"),
    ]


def test_an_empty_layout_wants_nothing() -> None:
    assert differences({}, {"fpga1": CARD}, FITS) == ()


FUNCTIONS = st.sampled_from([None, "aes", "gzip", "ipsec"])
NAMES = st.sampled_from(["fpga1", "fpga2", "fpga3"])
DEVICES = st.dictionaries(
    NAMES,
    st.builds(
        Placed,
        name=st.just("x"),
        provider=st.just("uuid"),
        model=st.sampled_from(["u50", "u280"]),
        function=FUNCTIONS,
        becoming=FUNCTIONS,
        queued=FUNCTIONS,
        pinned=st.booleans(),
    ),
)


@given(st.dictionaries(NAMES, st.sampled_from(["aes", "gzip", "ipsec", "zip"])), DEVICES)
def test_applied_twice_is_applied_once(layout: dict[str, str], devices: dict[str, Placed]) -> None:
    first = differences(layout, devices, FITS)
    assert [d.device for d in first] == sorted(layout)
    queued = {
        d.device: replace(devices[d.device], queued=d.wanted)
        for d in first
        if d.action == "program"
    }
    second = differences(layout, {**devices, **queued}, FITS)
    assert not [d for d in second if d.action == "program"]
    done = {
        d.device: replace(devices[d.device], function=d.wanted, becoming=None, queued=None)
        for d in first
        if d.action in {"program", "queued"}
    }
    for difference in differences(layout, {**devices, **done}, FITS):
        assert difference.action in {"keep", "refuse"}
        device = devices.get(difference.device)
        if difference.action == "refuse" and device is not None:
            assert device.pinned or device.model not in FITS.get(difference.wanted, ())
