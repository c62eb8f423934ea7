"""Backtest: the production policies in virtual time over a recorded workload."""

from __future__ import annotations

import gzip
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from changeover.console import given
from changeover.console.desk import Desk
from changeover.console.render import Column, Output
from changeover.models.errors import Invalid

if TYPE_CHECKING:
    from changeover.console.progress import Follow
    from changeover.models.workload import RecordedBoot, RecordedFleet
    from changeover.policies.backtest.engine import Replay
    from changeover.policies.backtest.score import Score

T = TypeVar("T")

SPANS = 60
"""Points of a plot."""

COMPARED = ("reactive", "newsvendor", "default")
"""Policies that are compared where none is named."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is replayed, over which devices, and by which rules."""

    boots: Sequence[RecordedBoot]
    fleet: RecordedFleet
    program_seconds: float
    patience: float
    name: str
    files: tuple[Path, ...] = ()
    """What it was read from."""

    def beyond(self) -> dict[str, int]:
        """Boots that need more than the whole fleet could ever offer, by function."""
        most = {name: self.fleet.most(name) for name in {boot.function for boot in self.boots}}
        return dict(Counter(b.function for b in self.boots if b.slots > most[b.function]))


def from_files(events: Path, fleet: Path, *, program_seconds: float, patience: float) -> Workload:
    """A workload of files."""
    from changeover.models.workload import parse_events, parse_fleet

    boots = _read(events, parse_events)
    devices = _read(fleet, parse_fleet)
    return Workload(boots, devices, program_seconds, patience, events.name, (events, fleet))


def from_db(
    desk: Desk, *, days: float, program_seconds: float | None, patience: float | None
) -> Workload:
    """The deployment's own past."""
    from changeover.worker.recorded import recorded

    found = recorded(desk.remembering_world, days)
    return Workload(
        found.boots,
        found.fleet,
        found.program_seconds if program_seconds is None else program_seconds,
        desk.settings.patience_seconds if patience is None else patience,
        f"the last {days:g} days",
    )


def backtest(
    out: Output,
    workload: Workload,
    *,
    policies: Sequence[str],
    seed: int,
    journal: Path | None,
    plot: Path | None,
) -> None:
    """Replay the workload under each policy, and score it."""
    from changeover.console.progress import progress
    from changeover.policies.backtest.journal import journal_lines
    from changeover.policies.backtest.score import score

    _check(workload, policies, journal, plot)
    runs: dict[str, tuple[Score, Replay]] = {}
    with progress(out, workload.boots) as follow:
        for name in policies:
            result = _replay(workload, name, seed, follow)
            runs[name] = score(workload.boots, result.journal, workload.patience), result
            if journal is not None:
                fleet = workload.fleet
                _write(journal, journal_lines(result.journal, fleet.devices, fleet.functions))
    if plot is not None:
        from changeover.console import plot as plotting
        from changeover.policies.backtest.series import series

        title = (
            f"{workload.name}: {workload.program_seconds:g} s to program, "
            f"patience {workload.patience:g} s"
        )
        ended = max(result.ended for _, result in runs.values())
        drawn = {
            name: series(scored, result.journal, ended, SPANS)
            for name, (scored, result) in runs.items()
        }
        plotting.draw(plot, drawn, title)
    beyond = sum(workload.beyond().values())
    facts = {name: _facts(name, scored, beyond) for name, (scored, _) in runs.items()}
    _show(out, workload, facts)
    if plot is not None and not out.as_json:
        out.line(f"drawn: {plot}")


def _check(
    workload: Workload, policies: Sequence[str], journal: Path | None, plot: Path | None
) -> None:
    """Raise :class:`Invalid` for what cannot be done: before a long run, not after."""
    from changeover.console import plot as plotting
    from changeover.console.policies import names

    for name in policies:
        if name not in names():
            raise Invalid(f"no policy is called {name!r}; there are: {', '.join(names())}")
    for option, seconds in (
        ("--program-seconds", workload.program_seconds),
        ("--patience", workload.patience),
    ):
        if not math.isfinite(seconds):
            raise Invalid(f"{option} {seconds}: no number of seconds")
    if journal is not None and len(policies) > 1:
        raise Invalid("--journal is written for one policy: name just one with --policy")
    if plot is not None:
        plotting.check(plot)
    if journal is not None:
        _write(journal, (), "a")
        if any(journal.samefile(file) for file in workload.files):
            raise Invalid(f"--journal {journal}: would be written over what is read")


def _replay(workload: Workload, name: str, seed: int, follow: Follow) -> Replay:
    from changeover.console.policies import policy
    from changeover.policies.backtest.engine import IllegalProgramError, replay
    from changeover.policies.balancing.registry import NAMES

    make = follow(name, policy(name, workload.boots, workload.fleet, workload.patience))
    try:
        return replay(
            workload.boots,
            workload.fleet,
            make,
            program_seconds=workload.program_seconds,
            patience=workload.patience,
            seed=seed,
        )
    except IllegalProgramError as exc:
        raise Invalid(f"policy {name} asked for a program that the rules forbid: {exc}") from exc
    except Exception as exc:
        if name in NAMES:
            raise
        raise Invalid(f"policy {name} failed: {exc!r}") from exc


def _read(path: Path, parse: Callable[[Iterator[str]], T]) -> T:
    """A CSV file, compressed or not; errors name the file."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as lines:
                return parse(given.lines(lines))
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return parse(given.lines(lines))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as exc:
        raise Invalid(f"{path}: cannot be read: {exc}") from exc
    except Invalid as exc:
        raise Invalid(f"{path}: {exc}") from exc


def _write(journal: Path, lines: Iterable[str], mode: str = "w") -> None:
    try:
        with journal.open(mode, encoding="utf-8") as sink:
            sink.writelines(f"{line}\n" for line in lines)
    except OSError as exc:
        raise Invalid(f"--journal {journal}: cannot be written: {exc}") from exc


def _facts(policy: str, result: Score, beyond: int) -> dict[str, Any]:
    return {
        "policy": policy,
        "scored": result.scored,
        "first_try_failures": result.first_try_failures,
        "waiting": result.waiting,
        "loss": result.first_try_failures + result.waiting,
        "abandoned": result.abandoned,
        "programs": result.programs,
        "wasted_programs": result.wasted_programs,
        "wait_mean": result.wait_mean,
        "beyond_fleet": beyond,
    }


def _doubts(workload: Workload, scored: int) -> Iterator[str]:
    """Why the figures may not say what they seem to."""
    from changeover.console.preview import some
    from changeover.policies.backtest.score import ACQUAINTANCE_SECONDS, WARM_UP

    if beyond := workload.beyond():
        named = some([f"{name} ({count})" for name, count in sorted(beyond.items())])
        yield f"the whole fleet could never serve {sum(beyond.values())} boots: {named}"
    if not scored:
        yield (
            f"no boot is scored: none came after the first {100 * WARM_UP:g} % and more than "
            f"{ACQUAINTANCE_SECONDS:g} s after the first of its function"
        )


def _show(out: Output, workload: Workload, runs: dict[str, dict[str, Any]]) -> None:
    if out.as_json:
        [*documents] = runs.values()
        out.document(documents[0] if len(documents) == 1 else {"policies": documents})
        return
    scored = next(iter(runs.values()))["scored"]
    out.line(
        f"{workload.name}: {len(workload.boots)} boots, {scored} of them scored, "
        f"{len(workload.fleet.devices)} devices, {workload.program_seconds:g} s to program, "
        f"patience {workload.patience:g} s"
    )
    for line in _doubts(workload, scored):
        out.line(line)
    columns = [
        Column("policy", "policy"),
        Column("failures", "failed at first try", right=True),
        Column("waiting", "wait, of patience", right=True),
        Column("loss", "loss", right=True),
        Column("abandoned", "abandoned", right=True),
        Column("programs", "programs", right=True),
        Column("wasted", "for nothing", right=True),
        Column("wait", "mean wait", right=True),
    ]
    rows = [
        {
            "policy": run["policy"],
            "failures": f"{100 * run['first_try_failures']:.2f} %",
            "waiting": f"{100 * run['waiting']:.2f} %",
            "loss": f"{100 * run['loss']:.2f} %",
            "abandoned": f"{100 * run['abandoned']:.2f} %",
            "programs": run["programs"],
            "wasted": run["wasted_programs"],
            "wait": f"{run['wait_mean']:.1f} s",
        }
        for run in runs.values()
    ]
    out.table(rows, columns)
