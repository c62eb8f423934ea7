"""Explanations: with a real Placement, and without any."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.console.conftest import Teller
from unit.console.home import Home

from changeover.worker.adapters.placement_http import HttpPlacement


@pytest.mark.parametrize("kind", ["waiting", "declined", "live", "quarantined", "task", "plan"])
def test_everything_is_explained_without_placement(tell: Teller, home: Home, kind: str) -> None:
    identifier = getattr(home, kind)
    text = tell("explain", identifier)
    assert text.status == 0, text.err
    assert identifier in text.out
    document = tell("explain", identifier, "--json").json
    assert document[document["kind"]]["id"] == identifier


def test_a_boot_is_found_by_its_server_and_by_the_beginning_of_an_id(
    tell: Teller, home: Home
) -> None:
    for words in (home.server, home.server[:13], home.waiting[:13]):
        assert tell("explain", words, "--json").json["boot"]["id"] == home.waiting


def test_a_silent_placement_leaves_the_rest_of_an_explanation(tell: Teller, home: Home) -> None:
    document = tell("explain", home.waiting, "--json").json
    assert document["preview"]["error"]["kind"] == "Unreachable"
    assert [d["action"] for d in document["history"]] == ["boot.received", "boot.waiting"]
    assert [e["kind"] for e in document["events"]] == ["BuildFailed"]
    device = tell("explain", "fpga12")
    assert device.status == 0
    assert "cannot say" in device.out


def test_what_is_not_there(tell: Teller) -> None:
    told = tell("explain", "nothing", "--json")
    assert told.status == 2
    assert told.error["kind"] == "NotFound"


def test_an_ambiguous_beginning_names_what_it_may_mean(tell: Teller, home: Home) -> None:
    with home.database.write() as tx:
        boot = tx.boots.get(home.waiting)
        assert boot is not None
        for digit in "12":
            same = f"abcd{digit}000-0000-4000-8000-000000000000"
            tx.boots.add(replace(boot, id=same, server=same))
    told = tell("explain", "abcd")
    assert told.status == 2
    assert "abcd1000" in told.err
    assert "abcd2000" in told.err
    assert tell("explain", "abcd1").status == 0


def test_a_waiting_boot_has_a_live_preview(home_with_placement: Home, holder: str) -> None:
    home, tell = home_with_placement, Teller(home_with_placement)
    placement = HttpPlacement.noauth(home.env["CHANGEOVER_PLACEMENT_ENDPOINT"])
    assert placement.claim(
        holder, {home.provider("fpga12"): {"CUSTOM_FPGA": 1}}, project="p", user="u"
    )
    document = tell("explain", home.waiting, "--json").json
    [request] = document["preview"]["requests"]
    assert request["boots"] == [home.waiting]
    assert request["needs"] == [{"functions": ["ipsec"], "slots": 1, "devices": None}]
    assert request["hosts"]
    assert request["unmet"]["code"] == "unmet.no_device"
    reasons = {r["device_name"]: r["reason"]["code"] for r in document["preview"]["rejected"]}
    assert reasons["fpga12"] == "device.in_use"
    diagnosis = request["diagnosis"]
    assert diagnosis["verdict"] == "no device may"
    why = {d["device_name"]: d["reason"] for d in diagnosis["devices"]}
    assert why["fpga12"]["facts"]["consumers"] == [holder]
    text = tell("explain", home.waiting).out
    assert "no device may: no device that it could use may be programmed for it now" in text
    assert f"fpga12 is in use by {holder}" in text
    assert "needs 1 slot(s) of ipsec" in text
    assert "fpga12 is in use" in text

    device = tell("explain", "fpga12", "--json").json
    assert device["may_be_programmed"]["may"] is False
    assert device["may_be_programmed"]["blocked"]["code"] == "device.in_use"
    assert device["placement"]["allocations"] == {holder: {"CUSTOM_FPGA": 1}}
    assert f"used by {holder}" in tell("explain", "fpga12").out

    placement.release(holder)
    with_it = tell("plan", "--json").json
    assert {"ipsec"} == {
        i["to_function"] for i in with_it["intents"] if i["device_name"] == "fpga12"
    }
    assert "would be programmed" in tell("plan").out
    assert "programmed with ipsec now" in tell("explain", "fpga12").out


def test_fresh_readings(home_with_placement: Home, holder: str) -> None:
    home, tell = home_with_placement, Teller(home_with_placement)
    placement = HttpPlacement.noauth(home.env["CHANGEOVER_PLACEMENT_ENDPOINT"])
    amounts = {home.provider("fpga1"): {"CUSTOM_FPGA": 1}}
    placement.claim(holder, amounts, project="p", user="u")
    stale = {r["name"]: r["state"] for r in tell("devices", "--json").json}
    fresh = {r["name"]: r["state"] for r in tell("devices", "--fresh", "--json").json}
    assert stale["fpga1"] == "idle"
    assert fresh["fpga1"] == "in use"
    pools = {r["function"]: r for r in tell("pools", "--fresh", "--json").json}
    assert pools["aes"]["used"] == 1


def test_rank_asks_placement(home_with_placement: Home) -> None:
    tell = Teller(home_with_placement)
    told = tell(
        "rank",
        "--wanted",
        "CUSTOM_FPGA_FUNCTION_SHA3",
        "--resources",
        "CUSTOM_FPGA_REGION=1",
        "--json",
    ).json
    matched = [len(row["matched"]) for row in told]
    assert matched == sorted(matched, reverse=True)
    assert {row["name"] for row in told} >= {"dyn1-r4", "dyn2-r1"}
    assert next(r for r in told if r["name"] == "dyn1-r4")["matched"]
