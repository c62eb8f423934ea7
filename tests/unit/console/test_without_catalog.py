"""What is stored can be read, and work stopped, whatever became of the catalog's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from unit.console.conftest import Teller
from unit.console.home import Home, recommended

BROKEN = "devices:\n  - name: fpga1\n    modle: small\n"

READING = [
    ["status"],
    ["boots"],
    ["tasks"],
    ["changeovers"],
    ["forecast"],
    ["thrash"],
    ["plans"],
    ["audit"],
    ["audit", "fpga12"],
    ["reservations"],
    ["discover"],
    ["callbacks"],
    ["dead-letters"],
    ["config", "show"],
]

LOSSES: dict[str, Callable[[Path], object]] = {
    "broken": lambda path: path.write_text(BROKEN, encoding="utf-8"),
    "gone": Path.unlink,
}


@pytest.fixture(params=LOSSES)
def lost(request: pytest.FixtureRequest, home: Home) -> Teller:
    """A home whose catalog cannot be read."""
    LOSSES[request.param](home.path / "catalog.yaml")
    return Teller(home)


def test_what_is_stored_is_read(lost: Teller) -> None:
    for words in READING:
        for form in ([], ["--json"]):
            told = lost(*words, *form)
            assert (told.status, told.err) == (0, ""), (words, told.err)


def test_devices_have_their_names(lost: Teller, home: Home) -> None:
    live, quarantined = sorted(c["device_name"] for c in lost("changeovers", "--json").json)
    assert (live, quarantined) == ("fpga4", "fpga9")
    assert "fpga4: (empty) -> aes" in lost("plans").out
    assert lost("explain", home.live, "--json").json["changeover"]["id"] == home.live


def test_devices_and_functions_are_shown_as_last_loaded(lost: Teller, home: Home) -> None:
    told = lost("devices", "--json")
    assert told.status == 0
    assert "shown as last loaded" in told.err
    assert "catalog.yaml" in told.err
    rows = {row["name"]: row for row in told.json}
    assert rows.keys() == {device.name for device in home.catalog.devices}
    assert (rows["fpga12"]["state"], rows["fpga12"]["pinned"]) == ("in use", None)
    told = lost("functions", "--json")
    assert "shown as last loaded" in told.err
    assert {row["name"] for row in told.json} == home.catalog.functions.keys()


def test_what_is_stored_is_acted_on(lost: Teller, home: Home) -> None:
    plan = recommended(home, "fpga4")
    for words in (
        ["pause"],
        ["retry", home.waiting],
        ["cancel", home.waiting],
        ["cancel", home.live],
        ["drain"],
        ["resume"],
        ["release", "fpga9"],
        ["functions", "--allow", "aes"],
        ["plan", "refuse", plan],
        ["callbacks", "--retry-all"],
    ):
        told = lost(*words, "--json")
        assert told.status == 0, (words, told.err)


def test_what_needs_the_catalog_says_what_is_wrong_with_it(lost: Teller, home: Home) -> None:
    plan = recommended(home, "fpga4")
    for words in (
        ["pools"],
        ["explain", "fpga1"],
        ["explain", "nothing"],
        ["plan", "approve", plan],
        ["program", "--function", "aes"],
        ["backtest", "--from-db"],
    ):
        told = lost(*words)
        assert told.status == 2, words
        assert "catalog.yaml" in told.err, words
