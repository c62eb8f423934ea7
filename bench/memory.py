"""How much memory each process of a deployment takes, on embedded defaults, after some work.

PSS: each process's own pages, and its share of those that it has in common with others (Linux,
``/proc/PID/smaps_rollup``), so that the figures may be added up.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from changeover.worker.adapters.clock import SystemClock
from changeover.worker.bootstrap import open_cards, open_placement, open_simulated_servers
from changeover.worker.settings import Settings
from changeover.worker.simulator.cards import Behaviour
from changeover.worker.supervisor import Supervisor, running

BOOTS = 12


def pss_mib(pid: int) -> float:
    """A process's proportional set size in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"the kernel does not tell the memory of {pid}")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in listed.split()]


def processes(supervisor: Supervisor) -> dict[str, float]:
    """Every process below the supervisor, in MiB."""
    found = {service.name: pss_mib(service.running.pid) for service in supervisor.services}
    for process in supervisor.processes:
        if process.child is None:
            continue
        found[process.name] = pss_mib(process.child.pid)
        for number, child in enumerate(children(process.child.pid), 1):
            found[f"{process.name}, child {number}"] = pss_mib(child)
    return {name: round(value, 1) for name, value in found.items()}


def measure() -> dict[str, float]:
    """Rescue some boots, then look."""
    with tempfile.TemporaryDirectory(prefix="changeover-bench-") as home:
        settings = Settings(state_dir=Path(home), settle_seconds=2.0, log_level="warning")
        open_cards(settings, SystemClock()).behave(Behaviour(scale=0.05))
        with running(settings) as supervisor:
            live = supervisor.settings
            servers = open_simulated_servers(live, open_placement(live), SystemClock())
            for turn in range(BOOTS):
                servers.boot(f"m{turn}", "vgpu.8q")
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and len(servers.servers()) < BOOTS * 2:
                time.sleep(0.2)
            found = processes(supervisor)
            servers.close()
    return {**found, "sum": round(sum(found.values()), 1)}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure()
    if args.json:
        print(json.dumps(result))
        return 0
    print("memory: proportional set size of each process")
    for name, value in result.items():
        print(f"  {name:<20} {value:7.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
