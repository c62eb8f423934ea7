"""``make bench``: the benchmarks in one run on one machine. ``make bench ARGS=reaction``: one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BENCHES = ("reaction", "intake", "memory", "refresh", "planner", "backtest")
LONG = ("forecasts", "limits", "ranking")
"""Only when named."""


def main() -> int:
    """Run the named benchmarks, or all; further words go to a single one."""
    names = [word for word in sys.argv[1:] if word in (*BENCHES, *LONG)] or list(BENCHES)
    options = [word for word in sys.argv[1:] if word not in (*BENCHES, *LONG)]
    status = 0
    for name in names:
        if (script := HERE / f"{name}.py").exists():
            print(f"== {name}", flush=True)
            status |= subprocess.run([sys.executable, script, *options], check=False).returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
