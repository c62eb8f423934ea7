"""``changeover demo``: the main job on embedded defaults, from nothing to a summary.

Users of a simulated cloud boot servers against a real Placement, as Nova would. What fails is
rescued by the same processes that ``changeover up`` runs. The outcome is counted from the
simulated Nova's own journal as well, not from Changeover's word alone.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from changeover.console.board import Board, read_board
from changeover.models.boot import Boot
from changeover.models.errors import ChangeoverError
from changeover.models.flavor import Flavor
from changeover.models.notification import BuildFailed, parse_notification
from changeover.models.states import BOOT_OVER, BootState
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.bootstrap import (
    load_catalog,
    notification_url,
    open_database,
    open_placement,
    open_simulated_servers,
)
from changeover.worker.operate import Operator
from changeover.worker.ports.servers import REPLACES, ServerStatus
from changeover.worker.settings import Settings
from changeover.worker.simulator.servers import SimulatedServers
from changeover.worker.simulator.wire import KombuEmitter
from changeover.worker.store import Database
from changeover.worker.supervisor import running

LONGEST_SECONDS = 110.0
"""The demo ends by itself within two minutes."""

LOOK_SECONDS = 0.5


@dataclass
class Act:
    """One thing that a user or operator does, ``at`` seconds after the start."""

    at: float
    what: str
    do: Callable[[], object]


@dataclass
class Scenario:
    """What happens in the demo, and the servers that later acts refer to."""

    servers: SimulatedServers
    operator: Operator
    emit: Callable[[Mapping[str, Any]], None]
    booted: dict[str, list[str]] = field(default_factory=dict)

    def boot(self, name: str, flavor: str, count: int = 1, host: str | None = None) -> None:
        """A user boots servers."""
        self.booted[name] = self.servers.boot(name, flavor, count=count, host=host)

    def delete(self, name: str) -> None:
        """Their owner deletes them."""
        for uuid in self.booted[name]:
            self.servers.user_delete(uuid)

    def behind_a_filter(self) -> None:
        """A host's service is away for a moment: Nova's filters reject it, Placement does not."""
        self.servers.set_host("host1", up=False)
        self.boot("filtered", "vgpu.2q", host="host1")
        self.servers.set_host("host1", up=True)

    def replay_three(self) -> None:
        """A multi-create of three that failed on a real Nova, captured there, fails here again."""
        capture = resources.files("changeover.worker.simulator") / "captures/three_servers.jsonl"
        for line in capture.read_text(encoding="utf-8").splitlines():
            message = json.loads(line)["message"]
            notification = parse_notification(json.dumps(message))
            if isinstance(notification, BuildFailed):
                self.servers.add_failed(notification)
            self.emit(message)

    def acts(self) -> list[Act]:
        """The scenario, in order of time."""
        nobody = Flavor(
            name="fpga.zstd",
            flavorid="fpga.zstd",
            vcpus=1,
            memory_mb=64,
            root_gb=1,
            extra_specs={
                "resources:CUSTOM_FPGA": "1",
                "trait:CUSTOM_FPGA_FUNCTION_GZIPP": "required",
            },
        )
        self.servers.add_flavor(nobody)
        return [
            Act(0.0, "alice boots sha3 on host4: it works", self._on_the_only_card),
            Act(
                0.5,
                "three servers with aes fail at once, as captured on a real Nova",
                self._three,
            ),
            Act(1.0, "bob needs ipsec: its only card is in use", self._ipsec),
            Act(1.5, "carol boots two servers with vGPU type 8q", self._vgpus),
            Act(2.0, "dave boots while his host's service is away", self.behind_a_filter),
            Act(2.5, "erin asks for a function that nobody has", self._nobody),
            Act(3.0, "frank boots on a region, and would like sha3", self._region),
            Act(4.0, "an operator wants aes on dyn1-r3", self._task),
            Act(20.0, "alice deletes her sha3 server", lambda: self.delete("sha3-first")),
        ]

    def _on_the_only_card(self) -> None:
        self.boot("sha3-first", "fpga.sha3", host="host4")

    def _three(self) -> None:
        self.boot("aes-warm", "fpga.aes")
        self.replay_three()

    def _ipsec(self) -> None:
        self.boot("ipsec", "fpga.ipsec")

    def _vgpus(self) -> None:
        self.boot("vgpu-a", "vgpu.8q")
        self.boot("vgpu-b", "vgpu.8q")

    def _nobody(self) -> None:
        self.boot("zstd", "fpga.zstd")

    def _region(self) -> None:
        self.boot("region", "region.sha3")

    def _task(self) -> None:
        self.operator.program("aes", device="dyn1-r3")


@dataclass(frozen=True)
class Count:
    """The outcome: what Changeover says, and what the simulated Nova's journal says."""

    failed: int
    rescued: int
    declined: int
    lost: int
    doubled: int

    @property
    def ok(self) -> bool:
        """Every failed boot has exactly one outcome, and none was created twice."""
        whole = self.failed == self.rescued + self.declined
        return whole and self.lost == 0 and self.doubled == 0

    @property
    def line(self) -> str:
        """The summary's last line."""
        return (
            f"rescued {self.rescued} of {self.failed} boots, {self.declined} declined with a "
            f"reason, {self.lost} lost"
        )


def count(database: Database, servers: SimulatedServers) -> Count:
    """Count outcomes; what the journal knows and the database does not is lost."""
    with database.read() as tx:
        boots = [b for b in tx.boots.listed(over=None, limit=100_000) if not _absorbed(b)]
    everything = servers.servers()
    successors = [s for s in everything if REPLACES in s.metadata]
    ours = {s.uuid for s in successors}
    failed = {e["server"] for e in servers.journal() if e["event"] == "failed"} - ours
    known = {b.server for b in boots}
    active = [s.metadata[REPLACES] for s in successors if s.status is ServerStatus.ACTIVE]
    rescued = {b.server for b in boots if b.state is BootState.BOOTED}
    over = {b.server for b in boots if b.state in BOOT_OVER and b.reason.text}
    return Count(
        failed=len(failed | known),
        rescued=len(rescued & set(active)),
        declined=len(over - rescued),
        lost=len((failed | known) - over) + len(rescued - set(active)),
        doubled=len(active) - len(set(active)),
    )


def _absorbed(boot: Boot) -> bool:
    return boot.reason.code == "boot.absorbed"


def run(state_dir: Path | None = None, *, keep: bool = False) -> int:
    """Run the demo; returns the exit status. ``keep``: leave its files for inspection."""
    console = Console()
    home = state_dir or Path(tempfile.mkdtemp(prefix="changeover-demo-"))
    settings = Settings(
        state_dir=home,
        settle_seconds=2.0,
        sweep_seconds=2.0,
        balance_seconds=8.0,
        retry_seconds=10.0,
        patience_seconds=90.0,
        log_level="info",
    )
    try:
        return _run(settings, console)
    except ChangeoverError as exc:
        console.print(f"[red]error:[/] {exc.message}")
        return 1
    finally:
        if not keep and state_dir is None:
            shutil.rmtree(home, ignore_errors=True)


def _run(settings: Settings, console: Console) -> int:
    console.print("starting the embedded broker, Placement and workers ...")
    began = time.monotonic()
    with running(settings) as supervisor:
        settings = supervisor.settings
        placement = open_placement(settings)
        servers = open_simulated_servers(settings, placement, SystemClock())
        database = open_database(settings)
        catalog = load_catalog(settings)
        operator = Operator(database, lambda: catalog, SystemClock(), "demo")
        console.print(f"ready after {time.monotonic() - began:.1f} s")
        emitter = KombuEmitter(notification_url(settings), settings.notification_exchange)
        scenario = Scenario(servers, operator, emitter)
        board = Board(catalog, console)
        if console.is_terminal:
            with Live(console=console, refresh_per_second=4, transient=False) as live:
                _play(
                    scenario,
                    database,
                    lambda: live.update(board.picture(read_board(database))),
                    board.say,
                )
        else:
            _play(scenario, database, lambda: board.lines(read_board(database)), board.say)
        result = count(database, servers)
        board.summary(read_board(database))
        emitter.close()
        database.dispose()
        servers.close()
    if result.doubled:
        console.print(f"{result.doubled} boot(s) doubled")
    console.print(result.line, highlight=False)
    return 0 if result.ok and result.rescued > 0 else 1


def _play(
    scenario: Scenario,
    database: Database,
    show: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    acts = scenario.acts()
    start = time.monotonic()
    while True:
        now = time.monotonic() - start
        while acts and acts[0].at <= now:
            act = acts.pop(0)
            say(act.what)
            act.do()
        show()
        if now > LONGEST_SECONDS or (not acts and _settled(database)):
            return
        time.sleep(LOOK_SECONDS)


def _settled(database: Database) -> bool:
    """Every boot has its outcome, and no device is between two functions."""
    with database.read() as tx:
        boots = tx.boots.listed(over=False, limit=1)
        return not boots and not tx.changeovers.live() and not tx.tasks.all(queued_only=True)


if __name__ == "__main__":
    sys.exit(run())
