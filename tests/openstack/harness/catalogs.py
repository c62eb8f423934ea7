"""Catalogs for the cloud's cards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.client import Cards

MODEL = "simcard"


@dataclass
class CardCatalog:
    """A catalog of functions that Cyborg loads onto the simulated cards.

    A model of cards is the shell patterns of their names; those of no other model are
    ``simcard``. ``images``: the image of each function.
    """

    cards: Cards
    models: Mapping[str, Iterable[str]] = field(default_factory=dict)
    functions: dict[str, Any] = field(default_factory=dict)
    pools: dict[str, Any] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, *, fits: str = MODEL, seconds: float = 1.0, **behaviour: Any) -> str:
        """Add a function; returns the trait that flavors require. See ``Cards.bitstream``."""
        image, sha256 = self.cards.bitstream(name, seconds=seconds, **behaviour)
        trait = f"CUSTOM_FPGA_FUNCTION_{name}"
        self.images[name] = image
        self.functions[name] = {
            "traits": [trait],
            "resource_class": "FPGA",
            "artifact": {"image": image, "sha256": sha256},
            "fits": {fits: 1},
            "seconds": seconds,
        }
        return trait

    def content(self) -> dict[str, Any]:
        """The catalog as its file has it."""
        apart = [pattern for patterns in self.models.values() for pattern in patterns]
        model = {"programmer": "cyborg", "traits": ["CUSTOM_FPGA_SIM"]}
        return {
            "programmers": {"cyborg": {"kind": "cyborg"}},
            "models": dict.fromkeys((MODEL, *self.models), model),
            "functions": self.functions,
            "pools": self.pools,
            "discover": {
                MODEL: {
                    "source": "cyborg",
                    "model": MODEL,
                    "names": ["*_simcard_*"],
                    "exclude": apart,
                },
                **{
                    name: {"source": "cyborg", "model": name, "names": list(patterns)}
                    for name, patterns in self.models.items()
                },
            },
        }


def catalog_of_rules(cards: Cards, *functions: str, **discover: dict[str, Any]) -> dict[str, Any]:
    """A catalog without any device: rules find them."""
    made = {}
    for function in functions:
        image, sha256 = cards.bitstream(function)
        made[function.lower()] = {
            "traits": [f"CUSTOM_FPGA_FUNCTION_{function}"],
            "resource_class": "FPGA",
            "artifact": {"image": image, "sha256": sha256},
            "fits": {"simcard": 1},
            "seconds": 1,
        }
    return {
        "programmers": {"cyborg": {"kind": "cyborg"}},
        "models": {"simcard": {"programmer": "cyborg"}},
        "functions": made,
        "discover": discover,
    }
