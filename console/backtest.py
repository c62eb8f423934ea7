"""Backtest: the production policies in virtual time over a recorded workload."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from changeover.console.render import Output
from changeover.models.errors import Invalid

if TYPE_CHECKING:
    from changeover.policies.backtest.score import Score

T = TypeVar("T")


def backtest(
    out: Output,
    *,
    events: Path,
    fleet: Path,
    program_seconds: float,
    patience: float,
    policy: str,
    seed: int,
    journal: Path | None,
) -> None:
    """Replay the events over the fleet under a policy, and score it."""
    from changeover.models.workload import parse_events, parse_fleet
    from changeover.policies.backtest.engine import replay
    from changeover.policies.backtest.journal import journal_lines
    from changeover.policies.backtest.score import score
    from changeover.policies.balancing.registry import NAMES, factory

    if policy not in NAMES:
        raise Invalid(f"no policy is called {policy!r}; there are: {', '.join(NAMES)}")
    boots = _read(events, parse_events)
    recorded = _read(fleet, parse_fleet)
    make = factory(policy, boots, recorded, patience)
    result = replay(
        boots, recorded, make, program_seconds=program_seconds, patience=patience, seed=seed
    )
    if journal is not None:
        lines = journal_lines(result.journal, recorded.devices, recorded.functions)
        with journal.open("w", encoding="utf-8") as sink:
            sink.writelines(f"{line}\n" for line in lines)
    _show(out, policy, score(boots, result.journal, patience))


def _read(path: Path, parse: Callable[[TextIO], T]) -> T:
    """A CSV file, compressed or not; errors name the file."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                return parse(lines)
        with path.open(encoding="utf-8") as lines:
            return parse(lines)
    except (OSError, EOFError, UnicodeDecodeError) as exc:
        raise Invalid(f"{path}: cannot be read: {exc}") from exc
    except (Invalid, ValueError) as exc:
        raise Invalid(f"{path}: {exc}") from exc


def _show(out: Output, policy: str, result: Score) -> None:
    loss = result.first_try_failures + result.waiting
    document = {
        "policy": policy,
        "scored": result.scored,
        "first_try_failures": result.first_try_failures,
        "waiting": result.waiting,
        "loss": loss,
        "abandoned": result.abandoned,
        "programs": result.programs,
        "wasted_programs": result.wasted_programs,
        "wait_mean": result.wait_mean,
    }
    if out.as_json:
        out.document(document)
        return
    out.line(f"policy {policy}, {result.scored} boots scored")
    out.line(f"  first-try failures  {100 * result.first_try_failures:7.2f} %")
    out.line(f"  mean wait, patience {100 * result.waiting:7.2f} %")
    out.line(f"  loss                {100 * loss:7.2f} %")
    out.line(f"  abandoned           {100 * result.abandoned:7.2f} %")
    out.line(f"  programs            {result.programs:7d}")
    out.line(f"  of them for nothing {result.wasted_programs:7d}")
    out.line(f"  mean wait           {result.wait_mean:7.1f} s")
