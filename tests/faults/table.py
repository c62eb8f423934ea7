"""What a battery says in the end: one row a section, and one line for all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faults.checker import Verdict

COLUMNS = (
    ("section", 26), ("rounds", 8), ("faults", 8), ("violations", 11), ("lost", 6),
    ("doubled", 8), ("leaked", 7), ("slowest s", 10), ("took s", 7),
)  # fmt: skip


@dataclass
class Row:
    """One section's result. ``wrong``: what is wrong, in words; a row without is clean."""

    section: str
    rounds: int = 0
    faults: int = 0
    violations: int = 0
    lost: int = 0
    doubled: int = 0
    leaked: int = 0
    slowest: float = 0.0
    took: float = 0.0
    note: str = ""
    skipped: bool = False
    wrong: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def judged(self, verdict: Verdict) -> None:
        """Add what the checker found."""
        self.violations += len(verdict.violations)
        self.lost += len(verdict.lost)
        self.doubled += len(verdict.doubled)
        self.leaked += len(verdict.leaked)
        self.wrong += verdict.lines()
        for name, count in verdict.facts.items():
            self.facts[name] = self.facts.get(name, 0) + count

    @classmethod
    def missing(cls, section: str, what: object) -> Row:
        """A section that cannot run here."""
        return cls(section, note=f"not run: {what}", skipped=True)

    def fails(self, why: str) -> None:
        """A promise that is not the checker's to see: a bound exceeded, a silence."""
        self.violations += 1
        self.wrong.append(why)


def render(rows: Sequence[Row]) -> str:
    """The table as text."""
    lines = ["".join(name.ljust(width) for name, width in COLUMNS) + "note"]
    for row in [*rows, total(rows)]:
        cells = (
            row.section, row.rounds, row.faults, row.violations, row.lost, row.doubled,
            row.leaked, f"{row.slowest:.1f}", f"{row.took:.0f}",
        )  # fmt: skip
        text = "".join(str(c).ljust(width) for c, (_, width) in zip(cells, COLUMNS, strict=True))
        lines.append((text + row.note).rstrip())
    wrong = [f"  {row.section}: {line}" for row in rows for line in row.wrong[:20]]
    return "\n".join(lines + (["", "What is wrong:", *wrong] if wrong else []))


def total(rows: Sequence[Row]) -> Row:
    """All sections together."""
    added = {
        name: sum(getattr(row, name) for row in rows)
        for name in ("rounds", "faults", "violations", "lost", "doubled", "leaked", "took")
    }
    return Row("all", **added, slowest=max((row.slowest for row in rows), default=0.0))


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """The same for machines."""
    data = {"sections": [asdict(row) for row in rows], "all": asdict(total(rows))}
    path.write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")
