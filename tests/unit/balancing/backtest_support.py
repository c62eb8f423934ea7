"""What the backtest's tests share: workloads, the checker, and the policies by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from changeover.models.workload import RecordedBoot, RecordedFleet, parse_events, parse_fleet
from changeover.policies.backtest.engine import Replay, replay
from changeover.policies.backtest.journal import journal_lines
from changeover.policies.balancing.policy import PolicyFactory
from changeover.policies.balancing.synthetic import events_csv, fleet_csv

TESTS = Path(__file__).parents[2]
CHECKER = TESTS / "tools" / "check_journal.py"


def example() -> tuple[tuple[RecordedBoot, ...], RecordedFleet]:
    """The small recorded example that the project ships."""
    data = TESTS / "data" / "workloads"
    with (data / "small.events.csv").open() as events, (data / "small.fleet.csv").open() as fleet:
        return parse_events(events), parse_fleet(fleet)


def run(
    boots: Sequence[RecordedBoot],
    fleet: RecordedFleet,
    make: PolicyFactory,
    program_seconds: float = 10.0,
    patience: float = 60.0,
) -> Replay:
    """Replay with the cell's two numbers."""
    return replay(boots, fleet, make, program_seconds=program_seconds, patience=patience)


def check(
    boots: Sequence[RecordedBoot],
    fleet: RecordedFleet,
    result: Replay,
    where: Path,
    program_seconds: float = 10.0,
    patience: float = 60.0,
) -> dict[str, Any]:
    """Give the journal to the independent checker and return what it says."""
    (where / "events.csv").write_text(events_csv(boots))
    (where / "fleet.csv").write_text(fleet_csv(fleet))
    lines = journal_lines(result.journal, fleet.devices, fleet.functions)
    (where / "journal.jsonl").write_text("".join(line + "\n" for line in lines))
    command = [sys.executable, str(CHECKER)]
    command += [str(where / name) for name in ("events.csv", "fleet.csv", "journal.jsonl")]
    command += ["--program-seconds", str(program_seconds), "--patience", str(patience)]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    said: dict[str, Any] = json.loads(output.stdout)
    return said
