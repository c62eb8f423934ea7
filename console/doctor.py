"""``changeover doctor``: how the checks came out, and what to change."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from changeover.console.desk import Desk
from changeover.console.failures import ASK_OPERATOR
from changeover.console.render import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from changeover.worker.doctor import Check


def doctor(desk: Desk, out: Output, *, verbose: bool) -> int:
    """Examine everything; returns the exit status: a person must act if a check fails."""
    from changeover.worker.bootstrap import open_site
    from changeover.worker.doctor import Verdict, examine

    site = open_site(desk.settings)
    try:
        checks = examine(site)
    finally:
        site.close()
    if out.as_json:
        out.document([check.as_json() for check in checks])
    else:
        _say(out, checks, verbose=verbose)
    return ASK_OPERATOR if any(c.verdict is Verdict.FAIL for c in checks) else 0


def _say(out: Output, checks: Sequence[Check], *, verbose: bool) -> None:
    from changeover.worker.doctor import Verdict

    width = max((len(check.id) for check in checks), default=0)
    for check in checks:
        out.line(f"{check.verdict:<8} {check.id:<{width}}  {check.said}")
        wanted = check.verdict in {Verdict.WARN, Verdict.FAIL} or verbose
        if check.advice is not None and wanted:
            out.line(f"{'':<8} {'':<{width}}  -> {check.advice}")
    found = Counter(str(check.verdict) for check in checks)
    out.line(", ".join(f"{found[str(verdict)]} {verdict}" for verdict in Verdict))
