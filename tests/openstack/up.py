"""Run a small real OpenStack on loopback until it is interrupted.

    python tests/openstack/up.py [--state DIR] [--computes N] [--cards HOST=N ...]
                                 [--placement-retries N] [--report-seconds S]

Tests of this folder that are started meanwhile use it, instead of one of their own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import services
from harness.install import TREE
from harness.runner import Options, run

from changeover.models.errors import ChangeoverError

STATE = TREE / "build" / "openstack"


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--state", type=Path, default=STATE)
    parser.add_argument("--computes", type=int, default=Options.computes)
    parser.add_argument("--cards", nargs="*", metavar="HOST=N", default=["cmp1=8", "cmp2=8"])
    parser.add_argument("--placement-retries", type=int, default=Options.retries)
    parser.add_argument("--report-seconds", type=float, default=Options.report_seconds)
    given = parser.parse_args()
    cards = {host: int(count) for host, _, count in (word.partition("=") for word in given.cards)}
    options = Options(given.computes, cards, given.placement_retries, given.report_seconds)
    try:
        run(given.state.resolve(), options)
    except services.MissingError as error:
        print(f"{error}: with apt, install rabbitmq-server and mariadb-server", file=sys.stderr)
        return 3
    except (ChangeoverError, RuntimeError) as error:
        print(f"{error}\nlogs: {given.state / 'log'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
