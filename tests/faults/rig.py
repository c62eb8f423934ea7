"""A whole deployment to be maltreated: its processes, its cloud, and the load that it is under."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from faults.checker import Verdict, boot_rows, judge_all
from faults.points import DIRECTORY, Points

from changeover.models.catalog import Catalog
from changeover.models.errors import ChangeoverError
from changeover.models.states import BOOT_OVER, CHANGEOVER_MOVING
from changeover.worker import supervisor as supervising
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.bootstrap import (
    load_catalog,
    open_cards,
    open_database,
    open_placement,
    open_simulated_servers,
)
from changeover.worker.operate import Operator
from changeover.worker.ports.placement import PlacementTenant
from changeover.worker.ports.servers import MARKER, ServerStatus
from changeover.worker.settings import Settings
from changeover.worker.simulator.cards import Behaviour, SimulatedCards
from changeover.worker.simulator.servers import SimulatedServers
from changeover.worker.store import Database
from changeover.worker.supervisor import Supervisor

TESTS = Path(__file__).resolve().parents[1]

FLAVORS = ("fpga.aes", "fpga.gzip", "fpga.sha3", "fpga.regex", "vgpu.2q", "vgpu.4q", "vgpu.8q")
PROJECTS = ("red", "green", "blue")


class ArmedSupervisor(Supervisor):
    """Starts the entries with points instead of the product's own; restarts without delay."""

    def __init__(self, settings: Settings, points: Path, workers: int) -> None:
        super().__init__(settings, echo_logs=False)
        self.env |= {
            DIRECTORY: str(points),
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        }
        self.workers = workers

    def _add(self, name: str, argv: list[str], stop_seconds: float, **env: str) -> None:
        entries = {
            "changeover.worker.app": "faults.armed_app",
            "changeover.worker.listener": "faults.armed_listener",
        }
        if name == "beat":
            entries = {}
        argv = [entries.get(word, word) for word in argv]
        for number in range(self.workers if name == "worker" else 1):
            if name == "worker":
                super()._add(f"worker{number}", [*argv, "-n", f"w{number}@%h"], stop_seconds, **env)
            else:
                super()._add(name, argv, stop_seconds, **env)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return [int(word) for word in text.split()]
    return []


def _resident_mebibytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) >> 10
    return 0


@dataclass
class Rig:
    """A running deployment, and the handles on its simulated cloud."""

    supervisor: Supervisor
    settings: Settings
    points: Points
    database: Database
    servers: SimulatedServers
    cards: SimulatedCards
    placement: PlacementTenant
    catalog: Catalog
    operator: Operator
    placement_database: str
    peak: dict[str, int] = field(default_factory=dict)

    def pid(self, name: str) -> int | None:
        """The pid of a supervised process that is up."""
        for process in self.supervisor.processes:
            if process.name == name and process.child is not None:
                return process.child.pid if process.child.poll() is None else None
        return None

    def kill(self, name: str) -> bool:
        """SIGKILL a whole supervised process, with what it started."""
        pid = self.pid(name)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return True

    def children(self, name: str) -> list[int]:
        """The pool's processes of a worker."""
        pid = self.pid(name)
        if pid is None:
            return []
        return _children(pid)

    def weigh(self) -> None:
        """Note the resident memory of each process, if it is a new peak (MiB)."""
        for process in list(self.supervisor.processes):
            pid = self.pid(process.name)
            if pid is None:
                continue
            for name, one in [
                (process.name, pid),
                *((f"{process.name} child", c) for c in _children(pid)),
            ]:
                self.peak[name] = max(_resident_mebibytes(one), self.peak.get(name, 0))

    def unfinished(self) -> int:
        """Boots without an outcome, and changeovers that move."""
        with self.database.read() as tx:
            boots = sum(n for s, n in tx.boots.counts().items() if s not in BOOT_OVER)
            moving = sum(n for s, n in tx.changeovers.counts().items() if s in CHANGEOVER_MOVING)
        return boots + moving

    def quiet(self, within: float) -> bool:
        """Wait until nothing is under way, and everything that was told has been heard."""
        deadline = time.monotonic() + within
        still = 0
        while time.monotonic() < deadline:
            try:
                over = not self.unfinished() and not self._ajar() and not self._unheard()
                still = still + 1 if over else 0
            except ChangeoverError:
                still = 0
            if still >= 4:
                return True
            time.sleep(0.5)
        return False

    def _ajar(self) -> bool:
        with self.database.read() as tx:
            return bool(tx.devices.ajar())

    def _unheard(self) -> bool:
        """Whether a boot failed that nobody knows of yet: its notification was lost with a broker.

        The next look at Nova finds it, some seconds after everything else is still.
        """
        known = boot_rows(self.settings.database)
        return any(
            server.uuid not in known and MARKER not in server.metadata
            for server in self.servers.servers()
            if server.status is ServerStatus.ERROR
        )

    def verdict(self) -> Verdict:
        """What the checker says, now."""
        return judge_all(
            self.settings.state_dir,
            self.settings.database,
            self.placement_database,
            catalog=self.settings.catalog,
        )


@contextmanager
def rigged(
    state_dir: Path,
    *,
    workers: int = 2,
    placement_database: str | None = None,
    users_endpoint: str | None = None,
    behaviour: Behaviour | None = None,
    **settings: Any,
) -> Iterator[Rig]:
    """Run a deployment with quick cards, a short settle time and short leases.

    ``users_endpoint``: the Placement that users' own boots are scheduled with, where the
    deployment's is one that misbehaves.
    """
    wanted = {
        "state_dir": state_dir,
        "settle_seconds": 0.2,
        "allow_short_settle": True,
        "lease_seconds": 4.0,
        "request_timeout_seconds": 5.0,
        "sweep_seconds": 0.5,
        "balance_seconds": 2.0,
        "look_seconds": 3.0,
        "retry_seconds": 3.0,
        "hold_seconds": 20.0,
        "function_failures": 1000,
        "max_attempts": 1000,
        "worker_concurrency": 2,
        **settings,
    }
    state_dir.mkdir(parents=True, exist_ok=True)
    cards = SimulatedCards(state_dir / "cards", SystemClock())
    cards.behave(behaviour or Behaviour(scale=0.02))
    # A process that was killed a hundred times on purpose is not one that keeps failing.
    supervising.MOST_RESTART_SECONDS = supervising.FIRST_RESTART_SECONDS = 0.2
    points = Points(state_dir / "points")
    supervisor = ArmedSupervisor(Settings(**wanted), state_dir / "points", workers)
    supervisor.start()
    watcher = threading.Thread(target=supervisor.watch, name="supervisor", daemon=True)
    try:
        supervisor.wait_until_alive()
        watcher.start()
        live = supervisor.settings
        direct = {} if users_endpoint is None else {"placement_endpoint": users_endpoint}
        placement = open_placement(live.model_copy(update=direct))
        catalog = load_catalog(live)
        rig = Rig(
            supervisor,
            live,
            points,
            open_database(live),
            open_simulated_servers(live, placement, SystemClock()),
            open_cards(live, SystemClock()),
            placement,
            catalog,
            Operator(open_database(live), lambda: catalog, SystemClock(), "battery"),
            placement_database or f"sqlite:///{state_dir / 'placement' / 'placement.sqlite'}",
        )
        yield rig
        rig.servers.close()
        rig.database.dispose()
        rig.operator.database.dispose()
    finally:
        supervisor.stopping.set()
        if watcher.is_alive():
            watcher.join()
        supervisor.stop()


@dataclass
class Load:
    """Users of the cloud: they boot what may not fit, and delete what they have had for a while.

    Runs in threads of the harness. What it is told (a refusal, a lost connection) it forgets:
    the servers' journal remembers.
    """

    rig: Rig
    seed: int = 0
    at_most: int = 12
    pause: float = 0.1
    keep: float = 3.0
    booted: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        chance = Random(self.seed)
        while not self.stopping.wait(self.pause * 2 * chance.random()):
            with contextlib.suppress(ChangeoverError):
                self._step(chance)

    def _step(self, chance: Random) -> None:
        now = time.time()
        servers = [s for s in self.rig.servers.servers() if s.status.value != "DELETED"]
        active = [s for s in servers if s.status.value == "ACTIVE"]
        old = [s for s in active if now - self._born(s.uuid) > self.keep]
        if len(active) >= self.at_most and old:
            self.rig.servers.user_delete(chance.choice(old).uuid)
            return
        failed = [s for s in servers if s.status.value == "ERROR"]
        if len(failed) >= self.at_most:
            if old:
                self.rig.servers.user_delete(chance.choice(old).uuid)
            elif chance.random() < 0.02:
                self.rig.servers.user_delete(chance.choice(failed).uuid)
            return
        self.booted += 1
        self.rig.servers.boot(
            f"s{self.booted}",
            chance.choice(FLAVORS),
            project=chance.choice(PROJECTS),
            count=chance.choice((1, 1, 1, 2)),
        )

    def _born(self, uuid: str) -> float:
        if not hasattr(self, "_births"):
            self._births: dict[str, float] = {}
        return self._births.setdefault(uuid, time.time())

    def free_all(self) -> None:
        """Users delete all that runs, again and again: in the end everybody has had a turn."""
        for server in self.rig.servers.servers():
            if server.status.value == "ACTIVE":
                with contextlib.suppress(ChangeoverError):
                    self.rig.servers.user_delete(server.uuid)


@contextmanager
def loaded(rig: Rig, **how: Any) -> Iterator[Load]:
    """The deployment under load for the length of a ``with`` block."""
    load = Load(rig, **how)
    thread = threading.Thread(target=load.run, name="load", daemon=True)
    thread.start()
    try:
        yield load
    finally:
        load.stopping.set()
        thread.join()


def drain(rig: Rig, load: Load, within: float, also: Callable[[], None] | None = None) -> bool:
    """No new boots; users leave, so that what waits gets its turn. ``False`` if it never ends."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        load.free_all()
        if also is not None:
            also()
        if rig.quiet(3.0):
            return True
    return False
