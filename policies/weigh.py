"""How much a waiting boot is worth: priority, age and fair share in one number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fairness:
    """The knobs. ``shares`` are weights of projects (1.0 where nothing is said).

    ``ageing_seconds``: a boot that has waited so long is worth twice one that just failed.
    """

    ageing_seconds: float = 300.0
    shares: Mapping[str, float] = field(default_factory=dict)


def weight(*, priority: float, age: float, project: str, ahead: int, fairness: Fairness) -> float:
    """The weight of one boot; 1.0 is an ordinary one that just failed.

    ``ahead`` counts the project's boots that come before it in the batch. Each is worth less than
    the one before (harmonically, the usual form of proportional fairness), so that a project with
    a hundred boots does not starve one with a single boot; age grows without bound, so nobody
    starves for ever.
    """
    share = fairness.shares.get(project, 1.0)
    ageing = 1.0 + max(0.0, age) / fairness.ageing_seconds
    # The floor keeps the last of a hundred boots worth a changeover of its own.
    return priority * ageing * (0.5 + 0.5 * share / (share + ahead))
