"""How long rescues took, and where the time went: printed at the end, and kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from harness.client import Changeover, Cloud

from changeover.models.boot import Boot
from changeover.models.states import ChangeoverState

COLUMNS = ("total", "own", "programming", "settle", "report", "build")

_CARD_OF = """
    select p.name, p.uuid from allocations a
    join resource_providers p on p.id = a.resource_provider_id
    where a.consumer_id = %s and p.name like '%%_simcard_%%'
"""


@dataclass(frozen=True)
class Rescue:
    """One boot, in seconds from its failure to its successor's being active.

    ``programming`` is what the card's own journal says, ``settle`` the wait behind the fence,
    ``report`` from the card's being programmed until Changeover saw it in Placement (Cyborg's
    period above all), ``build`` from the create call to Nova's ``launched_at``; ``own`` is the
    rest. Nova writes whole seconds, so ``build`` may be a second short and ``own`` one long.
    """

    what: str
    total: float
    own: float
    programming: float
    settle: float
    report: float
    build: float


def measure(what: str, cloud: Cloud, deployment: Changeover, boot: Boot) -> Rescue:
    """The rescue of one boot that was served by one changeover through Cyborg."""
    assert boot.successor is not None
    ((card),) = cloud.rows("placement", _CARD_OF, boot.successor)
    with deployment.database.read() as tx:
        deeds = tx.audit.of(boot.id)
        sent = max(deed["at"] for deed in deeds if deed["action"] == "boot.creating")
        mine = [
            changeover
            for changeover in tx.changeovers.latest(1000)
            if changeover.device == card["uuid"]
            and changeover.state is ChangeoverState.DONE
            and changeover.updated_at <= sent
        ]
        last = max(mine, key=lambda changeover: changeover.updated_at)
        at = {deed["action"].partition(".")[2]: deed["at"] for deed in tx.audit.of(last.id)}
    key = str(card["name"]).replace("_simcard_", ".")
    begin, end = (
        max(e["at"] for e in cloud.journal()
            if e["card"] == key and e["event"] == event and e["at"] <= at["done"])
        for event in ("begin", "end")
    )  # fmt: skip
    ((row),) = cloud.rows(
        "nova_cell1", "select launched_at from instances where uuid = %s", boot.successor
    )
    active = row["launched_at"].replace(tzinfo=UTC).timestamp()
    parts = {
        "programming": end - begin,
        "settle": at["programming"] - at["settling"] if "settling" in at else 0.0,
        "report": max(0.0, at["publishing"] - end),
        "build": max(0.0, active - sent),
    }
    total = active - boot.failed_at
    return Rescue(what=what, total=total, own=total - sum(parts.values()), **parts)


def table(rescues: Sequence[Rescue]) -> list[str]:
    """Lines of a table: each single rescue, and the median and worst of those that came at once."""
    groups: dict[str, list[Rescue]] = {}
    for rescue in rescues:
        groups.setdefault(rescue.what, []).append(rescue)
    lines = [f"{'seconds from failure to ACTIVE':44}" + "".join(f"{c:>13}" for c in COLUMNS)]
    for what, members in groups.items():
        kinds = [("", median)] if len(members) == 1 else [(", median", median), (", worst", max)]
        for kind, take in kinds:
            name = f"{what}{f' ({len(members)})' if kind else ''}{kind}"
            values = (take([getattr(m, column) for m in members]) for column in COLUMNS)
            lines.append(f"{name:44}" + "".join(f"{value:13.1f}" for value in values))
    return lines


def write(rescues: Sequence[Rescue], path: Path) -> None:
    """Keep them as JSON."""
    content = {
        "at": datetime.now(UTC).isoformat(),
        "seconds": [asdict(rescue) for rescue in rescues],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
