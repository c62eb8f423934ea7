"""Draw waits, failures and programs over time. Needs matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from changeover.models.errors import Invalid
from changeover.policies.backtest.series import Series

FORMS = (".png", ".svg")

DAY = 86_400.0
HOUR = 3600.0


def check(path: Path) -> None:
    """Raise :class:`Invalid` if nothing could be drawn there: before a long run, not after."""
    if path.suffix.lower() not in FORMS:
        raise Invalid(f"--plot {path}: the name must end in {' or '.join(FORMS)}")
    if not path.absolute().parent.is_dir():
        raise Invalid(f"--plot {path}: there is no folder {path.absolute().parent}")
    try:
        import matplotlib as mpl  # noqa: F401 - whether it is there
    except ImportError as exc:
        raise Invalid("--plot needs matplotlib: pip install 'changeover[plot]'") from exc


def draw(path: Path, runs: Mapping[str, Series], title: str) -> None:
    """One line for each policy, in three panels one below the other."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "changeover"  # equal runs give equal files
    figure = Figure(figsize=(9.0, 8.0), layout="constrained")
    waits, failures, programs = figure.subplots(3, 1, sharex=True)
    last = max((run.at[-1] for run in runs.values()), default=0.0)
    unit, word = (DAY, "days") if last > 2 * DAY else (HOUR, "hours")
    for name, run in runs.items():
        at = [time / unit for time in run.at]
        waits.plot(at, [float("nan") if w is None else w for w in run.wait], label=name)
        shares = [float("nan") if f is None else 100 * f for f in run.failed]
        failures.plot(at, shares, label=name)
        programs.step(at, run.programs, where="mid", label=name)
    waits.set_ylabel("mean wait (s)")
    failures.set_ylabel("failed at first try (%)")
    programs.set_ylabel("programs")
    programs.set_xlabel(f"{word} since the recording began")
    for panel in (waits, failures, programs):
        panel.set_ylim(bottom=0)
        panel.grid(visible=True, alpha=0.3)
    waits.set_title(title)
    lines, names = waits.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names))
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    try:
        figure.savefig(path, dpi=120, metadata=metadata)
    except OSError as exc:
        raise Invalid(f"--plot {path}: cannot be written: {exc}") from exc
