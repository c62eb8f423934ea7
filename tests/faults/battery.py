"""The fault battery: real processes, maltreated; what happened is judged by the checker.

    python tests/faults/battery.py [--size ci|long] [--only NAME] [--json FILE]

Prints one table. The exit status is 1 if anything was violated, lost, doubled or leaked, 2 if a
server that a section needs is not installed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults import kills
from faults.table import Row, render, write_json

SIZES = ("tiny", "ci", "long")


def sections(size: str) -> dict[str, Callable[[Path], Row]]:
    """Every section, by name, at that size."""
    pick = SIZES.index(size)
    return {
        "kills": lambda home: kills.run(
            home, kills=(4, 25, 320)[pick], seconds=(12.0, 60.0, 1200.0)[pick]
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--only", action="append", help="a section's name, or its beginning")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    parser.add_argument("--keep", type=Path, help="keep logs and databases in this directory")
    given = parser.parse_args()
    rows = []
    for name, section in sections(given.size).items():
        if given.only and not any(name.startswith(wanted) for wanted in given.only):
            continue
        print(f"{name}...", file=sys.stderr, flush=True)
        home = Path(tempfile.mkdtemp(prefix="co-")) if given.keep is None else given.keep / name
        started = time.monotonic()
        try:
            row = section(home)
        except Exception as error:  # noqa: BLE001 - one broken section must not hide the others
            traceback.print_exc()
            row = Row(name, took=time.monotonic() - started)
            row.fails(f"the section broke: {type(error).__name__}: {error}")
        finally:
            if given.keep is None:
                shutil.rmtree(home, ignore_errors=True)
        rows.append(row)
        print(render([row]), file=sys.stderr, flush=True)
    print(render(rows))
    if given.json is not None:
        write_json(given.json, rows)
    return 1 if any(row.wrong for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
