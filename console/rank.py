"""Rank: candidates that have the most of the wanted traits come first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from changeover.console import given
from changeover.console.desk import Desk
from changeover.console.render import Column, Output
from changeover.models.errors import Invalid

FORMS = 'a list of {"name": …, "traits": […]}, or Placement\'s answer to GET /allocation_candidates'


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something with traits, and where it came from."""

    name: str
    traits: AbstractSet[str]
    source: Any


def rank(
    desk: Desk,
    out: Output,
    *,
    wanted: str,
    path: Path | None,
    resources: Sequence[str],
    required: Sequence[str],
) -> None:
    """Rank the candidates of a file, of standard input, or of Placement."""
    from changeover.policies.rank import rank as ranked

    traits = frozenset(trait for part in wanted.split(",") if (trait := part.strip()))
    if not traits:
        raise Invalid("--wanted names no trait")
    if resources and path is not None:
        raise Invalid("give candidates in a file, or --resources to ask Placement: not both")
    if required and not resources:
        raise Invalid("--required is asked of Placement: say --resources, too")
    if resources:
        candidates = _ask_placement(desk, resources, required)
    else:
        candidates = _read(path or Path("-"))
    best = ranked(candidates, traits)
    rows = [
        {
            "rank": index,
            "name": candidate.name,
            "matched": sorted(candidate.traits & traits),
            "missing": sorted(traits - candidate.traits),
            "candidate": candidate.source,
        }
        for index, candidate in enumerate(best, 1)
    ]
    columns = [
        Column("rank", "rank", right=True),
        Column("name", "candidate"),
        Column("count", "traits", right=True),
        Column("matched", "has"),
        Column("missing", "lacks"),
    ]
    shown = (
        {
            "rank": row["rank"],
            "name": row["name"],
            "count": f"{len(row['matched'])}/{len(traits)}",
            "matched": ", ".join(row["matched"]),
            "missing": ", ".join(row["missing"]),
        }
        for row in rows
    )
    none = "no candidates"
    if resources:
        none += ": Placement has none of these now, as of any class and trait that it does not know"
    out.listing(rows, columns, shown, empty=none)


def _read(path: Path) -> list[Candidate]:
    name = "standard input" if str(path) == "-" else str(path)
    text = given.read(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise Invalid(f"{name}: is not JSON: {exc}") from exc
    try:
        if isinstance(data, list):
            return [_own(entry, index) for index, entry in enumerate(data)]
        return _of_placement(data)
    except (KeyError, TypeError, AttributeError) as exc:
        raise Invalid(f"{name}: wanted is {FORMS} ({type(exc).__name__}: {exc})") from exc


def _own(entry: Mapping[str, Any], index: int) -> Candidate:
    name = entry.get("name") or entry.get("uuid") or f"#{index + 1}"
    if not isinstance(entry["traits"], list):
        raise TypeError("traits must be a list")
    return Candidate(str(name), frozenset(map(str, entry["traits"])), entry)


def _of_placement(data: Mapping[str, Any]) -> list[Candidate]:
    summaries = data["provider_summaries"]
    return [
        Candidate(
            ", ".join(request["allocations"]),
            _union(summaries[uuid].get("traits", ()) for uuid in request["allocations"]),
            request,
        )
        for request in data["allocation_requests"]
    ]


def _union(traits: Iterable[Iterable[str]]) -> frozenset[str]:
    return frozenset[str]().union(*traits)


def _ask_placement(
    desk: Desk, resources: Sequence[str], required: Sequence[str]
) -> list[Candidate]:
    from changeover.models.placement import RequestGroup, ResourceRequest
    from changeover.worker.demand import CANDIDATES_LIMIT

    amounts: dict[str, int] = {}
    for text in (part for each in resources for part in each.split(",")):
        name, _, amount = text.partition("=")
        if not name or not amount.isascii() or not amount.isdigit() or not int(amount):
            raise Invalid(f"--resources {text}: write CLASS=AMOUNT, as VGPU=1")
        amounts[name] = int(amount)
    traits = frozenset(trait for each in required for trait in each.split(",") if trait)
    request = ResourceRequest((RequestGroup(resources=amounts, required=traits),))
    found = desk.placement.candidates(request, CANDIDATES_LIMIT)
    names = desk.device_names
    return [
        Candidate(
            ", ".join(names.get(uuid, uuid) for uuid in candidate.allocations),
            _union(found.summaries[uuid].traits for uuid in candidate.allocations),
            {"allocations": {uuid: dict(a) for uuid, a in candidate.allocations.items()}},
        )
        for candidate in found.candidates
    ]
