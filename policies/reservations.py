"""Leases as demand with a time: devices are ready when a lease starts, and not long before."""

from __future__ import annotations

from dataclasses import dataclass

from changeover.models.catalog import Catalog
from changeover.models.planning import Need
from changeover.models.reasons import Reason
from changeover.models.reservation import Reservation
from changeover.policies.understand import misspelt, understand

EARLY_WEIGHT = 0.5
"""A lease whose start is not near comes after all boots, and before floors."""

NEAR_WEIGHT = 5.0
"""One that could be late otherwise comes before ordinary boots."""


@dataclass(frozen=True, slots=True)
class Lead:
    """Seconds that a changeover may take besides programming, and to be early by."""

    settle: float
    margin: float
    grace: float
    """After its start a lease's slots are kept for so long."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reservation needs of programmed devices, and from when to when it is demand.

    ``near_at`` is when programming must begin at the latest.
    """

    needs: tuple[Need, ...]
    units: int
    due_at: float
    near_at: float
    until: float

    def weight(self, now: float) -> float:
        """What a unit is worth."""
        return NEAR_WEIGHT if self.is_near(now) else EARLY_WEIGHT

    def is_near(self, now: float) -> bool:
        """Whether it could be late otherwise; until then no number of units outweighs a boot."""
        return now >= self.near_at

    def is_due(self, now: float) -> bool:
        """Whether changeovers for it may begin, and are of use still."""
        return self.due_at <= now < self.until


def wanted(reservation: Reservation, catalog: Catalog, lead: Lead) -> Wanted | Reason:
    """What to make for a reservation, or why nothing is made."""
    if reservation.request is not None:
        understanding = understand(reservation.request, catalog)
        if understanding.nobody is not None:
            return understanding.nobody
        if understanding.strange:
            return misspelt(sorted(understanding.strange), catalog)
        needs = understanding.needs
    else:
        needs = _by_words(reservation.words, catalog)
    if not needs:
        text = "it needs nothing that programming changes"
        return Reason("reservation.plain", text, {"kind": reservation.kind})
    names = {name for need in needs for name in need.functions}
    seconds = max((catalog.functions[name].seconds for name in names), default=0.0)
    near_at = reservation.starts_at - seconds - lead.settle
    return Wanted(
        needs=needs,
        units=reservation.units,
        due_at=near_at - lead.margin,
        near_at=near_at,
        until=min(reservation.ends_at, reservation.starts_at + lead.grace),
    )


def _by_words(words: frozenset[str], catalog: Catalog) -> tuple[Need, ...]:
    """A filter over properties names traits: functions that have all of those that any has."""
    known = {trait for function in catalog.functions.values() for trait in function.traits}
    traits = words & known
    names = sorted(f.name for f in catalog.functions.values() if traits and traits <= {*f.traits})
    return (Need(tuple(names)),) if names else ()
