"""Devices are found in the real Placement and Cyborg."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.catalogs import catalog_of_rules
from harness.client import Cards, Changeover, eventually
from harness.providers import Providers


def test_deployables_are_found_with_their_providers_and_addresses(
    cards: Cards, providers: Providers, changeover: Callable[..., Changeover]
) -> None:
    rule = {"source": "cyborg", "model": "simcard", "names": ["*_simcard_*"]}
    both = {"model": "simcard", "names": ["cmp2_found_*"]}
    deployment = changeover(
        catalog_of_rules(cards, "FOUND", all=rule, one=both, two=both), refresh_seconds=5.0
    )
    found = {row["name"]: row for row in deployment.says("devices")}
    expected = {
        card.name: (card.provider, card.host, card.deployable)
        for card in cards.all()
        if "_simcard_" in card.name
    }
    assert {
        name: (row["provider"], row["host"], row["address"]) for name, row in found.items()
    } == expected
    # One that comes later is seen by the next look; what two rules match is reported.
    providers.below("cmp2", "cmp2_found_1", FPGA=1)

    def reported() -> list[dict[str, Any]]:
        return [row for row in deployment.says("discover") if row["state"] == "unclear"]

    [row] = eventually(reported)
    assert (row["provider_name"], row["reason"]["code"]) == ("cmp2_found_1", "discover.two_rules")
    assert len(deployment.says("devices")) == len(expected)
