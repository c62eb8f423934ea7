"""Cyborg's traps, met on a real Cyborg: an operator's tasks, judged by the cards' own journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness.client import Card, Cards, Changeover, Cloud, eventually

from changeover.models.changeover import Changeover as ChangeoverRow
from changeover.models.states import CHANGEOVER_MOVING, ChangeoverState

RPC_SECONDS = 60.0
"""Cyborg's own ``rpc_response_timeout``, which no client can change."""

DRAIN_SECONDS = 85.0
WITHIN = 420.0


class Bench:
    """One card, and what may be loaded onto it."""

    def __init__(self, cloud: Cloud, cards: Cards, card: Card) -> None:
        self.cloud = cloud
        self.cards = cards
        self.card = card
        self.functions: dict[str, Any] = {}
        self.deployment: Changeover

    def add(self, name: str, *, sha256: str | None = None, **behaviour: object) -> None:
        """A function of one slot."""
        image, digest = self.cards.bitstream(name, **behaviour)
        self.functions[name] = {
            "traits": [f"CUSTOM_FPGA_FUNCTION_{name}"],
            "resource_class": "FPGA",
            "artifact": {"image": image, "sha256": sha256 or digest},
            "fits": {"simcard": 1},
            "seconds": 1.0,
        }

    def catalog(self) -> dict[str, Any]:
        """The catalog as its file has it."""
        return {
            "programmers": {
                "cyborg": {"kind": "cyborg", "drain_seconds": DRAIN_SECONDS, "report_seconds": 30}
            },
            "models": {"simcard": {"programmer": "cyborg", "traits": ["CUSTOM_FPGA_SIM"]}},
            "functions": self.functions,
            "devices": [
                {
                    "name": "card",
                    "provider": self.card.provider,
                    "model": "simcard",
                    "host": self.card.host,
                    "address": self.card.deployable,
                    "owner": "cyborg",
                }
            ],
        }

    def program(self, function: str) -> ChangeoverRow:
        """An operator's task, to the end of its changeover."""
        before = {row.id for row in self.deployment.changeovers()}
        self.deployment.says("program", "--device", "card", "--function", function)

        def over() -> ChangeoverRow | None:
            new = [row for row in self.deployment.changeovers() if row.id not in before]
            return next((row for row in new if row.state not in CHANGEOVER_MOVING), None)

        return eventually(over, within=WITHIN)

    def journal(self, function: str) -> list[dict[str, Any]]:
        """What the card wrote down of that function."""
        mine = (e for e in self.cloud.journal() if e["card"] == self.card.key)
        return [entry for entry in mine if entry["function"] == function]


@pytest.fixture
def bench(cloud: Cloud, cards: Cards, changeover: Callable[..., Changeover]) -> Iterator[Bench]:
    """A card that nobody uses, empty, under a deployment of its own."""
    card = next(c for c in reversed(cards.of("cmp1")) if not cards.allocations(c))
    cards.load({card: "NONE"})
    bench = Bench(cloud, cards, card)
    bench.add("CYSLOW", seconds=RPC_SECONDS + 8)
    bench.add("CYLIE", lie=True)
    bench.add("CYFORGED", sha256="0" * 64)
    bench.add("CYGOOD")
    bench.deployment = changeover(bench.catalog())
    yield bench
    bench.deployment.settled()


def test_a_call_that_cyborg_gives_up_is_found_out_and_sent_once(bench: Bench) -> None:
    done = bench.program("CYSLOW")
    assert done.state is ChangeoverState.DONE, done.reason.text
    begin, end = bench.journal("CYSLOW")
    assert end["at"] - begin["at"] > RPC_SECONDS
    assert done.finished_at is not None
    assert done.finished_at - begin["at"] > DRAIN_SECONDS - 5
    assert "CUSTOM_FPGA_FUNCTION_CYSLOW" in bench.cards.traits(bench.card)
    assert "CUSTOM_FPGA_FUNCTION_NONE" not in bench.cards.traits(bench.card)


def test_a_driver_that_denies_what_it_did_is_quarantined_and_released(bench: Bench) -> None:
    ended = bench.program("CYLIE")
    assert (ended.state, ended.reason.code) == (ChangeoverState.QUARANTINED, "program.failed")
    events = [entry["event"] for entry in bench.journal("CYLIE")]
    assert events == ["begin", "end"] * (len(events) // 2)  # never two at once
    assert len(events) > 2
    # The task still wants the function: released, the card would be tried again for it.
    (task,) = bench.deployment.says("tasks")
    bench.deployment.says("cancel", task["id"])
    bench.deployment.says("release", "card")
    assert bench.program("CYGOOD").state is ChangeoverState.DONE


def test_an_image_that_is_not_the_catalogs_is_never_loaded(bench: Bench) -> None:
    ended = bench.program("CYFORGED")
    assert (ended.state, ended.reason.code) == (ChangeoverState.ABANDONED, "artifact.refused")
    assert not bench.journal("CYFORGED")
