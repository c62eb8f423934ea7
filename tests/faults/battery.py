"""The fault battery: real processes, maltreated; what happened is judged by the checker.

    python tests/faults/battery.py [--size ci|long] [--only NAME] [--json FILE]

Prints one table. The exit status is 1 if anything was violated, lost, doubled or leaked, 2 if a
server, or a driver, that a section needs is not installed.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import services
from faults import fuzz, kills, outages, races, remote, storm
from faults.table import Row, render, write_json

SIZES = ("tiny", "ci", "long")


def sections(size: str) -> dict[str, Callable[[Path], Row | list[Row]]]:
    """Every section, by name, at that size."""
    pick = SIZES.index(size)
    pairs = races.PAIRS if size != "tiny" else races.PAIRS[:1]

    def race(database: str) -> Callable[[Path], list[Row]]:
        return lambda home: races.run(
            home,
            pairs=[pair for pair in pairs if pair.database == database],
            races=(20, 60, 520)[pick],
            settle=2.0,
            seconds=(10.0, 12.0, 400.0)[pick],
            unsettled_seconds=(0.0, 8.0, 60.0)[pick],
        )

    return {
        **{f"races-{name}": race(name) for name in dict.fromkeys(p.database for p in pairs)},
        "kills": lambda home: kills.run(
            home, kills=(4, 40, 320)[pick], seconds=(10.0, 30.0, 1500.0)[pick]
        ),
        **(
            {"kills-postgresql": lambda home: kills.run_on_postgresql(home, kills=120, seconds=600)}
            if size == "long"
            else {}
        ),
        "broker-valkey": lambda home: outages.redis(
            home, rounds=(2, 5, 20)[pick], seconds=(10.0, 15.0, 200.0)[pick]
        ),
        "broker-rabbitmq": lambda home: outages.rabbit(
            home, rounds=(1, 2, 8)[pick], seconds=(10.0, 12.0, 200.0)[pick]
        ),
        "database-postgresql": lambda home: outages.postgres(
            home, rounds=(2, 4, 16)[pick], seconds=(10.0, 12.0, 120.0)[pick]
        ),
        "database-sqlite": lambda home: outages.sqlite(
            home, rounds=(1, 2, 9)[pick], seconds=(5.0, 10.0, 150.0)[pick]
        ),
        "remote-placement": lambda home: remote.placement(home, seconds=(8.0, 12.0, 180.0)[pick]),
        "remote-cards-and-nova": lambda home: remote.cards_and_servers(
            home, seconds=(8.0, 12.0, 180.0)[pick]
        ),
        "fuzz": lambda home: fuzz.run(home, inputs=(1_000, 20_000, 1_000_000)[pick]),
        "storm": lambda home: storm.run(
            home, boots=(60, 500, 10_000)[pick], patience=(15.0, 40.0, 300.0)[pick]
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--only", action="append", help="a section's name, or its beginning")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    parser.add_argument("--keep", type=Path, help="keep logs and databases in this directory")
    given = parser.parse_args()
    _quiet_logs()
    rows: list[Row] = []
    for name, section in sections(given.size).items():
        if given.only and not any(name.startswith(wanted) for wanted in given.only):
            continue
        _say(f"{name}...")
        home = Path(tempfile.mkdtemp(prefix="co-")) if given.keep is None else given.keep / name
        started = time.monotonic()
        try:
            made = section(home)
        except services.MissingError as error:
            made = Row.missing(name, error)
        except Exception as error:  # noqa: BLE001 - one broken section must not hide the others
            traceback.print_exc()
            broken = Row(name, took=time.monotonic() - started)
            broken.fails(f"the section broke: {type(error).__name__}: {error}")
            made = broken
        finally:
            if given.keep is None:
                shutil.rmtree(home, ignore_errors=True)
        new = made if isinstance(made, list) else [made]
        rows += new
        _say(render(new))
    sys.stdout.write(render(rows) + "\n")
    if given.json is not None:
        write_json(given.json, rows)
    if any(row.wrong for row in rows):
        return 1
    return 2 if any(row.skipped for row in rows) else 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _quiet_logs() -> None:
    """The processes log to files of their own; here only the table is wanted."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


if __name__ == "__main__":
    raise SystemExit(main())
