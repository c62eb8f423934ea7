"""Policies by name, for the command line and the benches."""

from __future__ import annotations

from collections.abc import Sequence

from changeover.models.workload import RecordedBoot, RecordedFleet
from changeover.policies.balancing.default import DefaultPolicy
from changeover.policies.balancing.newsvendor import Newsvendor
from changeover.policies.balancing.policy import PolicyFactory
from changeover.policies.balancing.reactive import Reactive
from changeover.policies.balancing.static import Static, best_partition

_FACTORIES: dict[str, PolicyFactory] = {
    "reactive": Reactive,
    "newsvendor": Newsvendor,
    "default": DefaultPolicy,
}
CAUSAL = tuple(_FACTORIES)
"""Policies that see nothing but the past."""
NAMES = ("static", *CAUSAL)


def factory(
    name: str, boots: Sequence[RecordedBoot], fleet: RecordedFleet, patience: float
) -> PolicyFactory:
    """The factory of the named policy; only `static` looks at the boots."""
    if name == "static":
        partition = best_partition(boots, fleet, patience)
        return lambda state, _patience, _seed: Static(state, partition)
    if name not in _FACTORIES:
        raise KeyError(f"no policy is called {name!r}; there are {', '.join(NAMES)}")
    return _FACTORIES[name]
