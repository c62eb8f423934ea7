"""What a full refresh of 10,000 devices costs, against the same calls made raw.

A real Placement on loopback (SQLite, or what ``--database`` names) holds the devices; Changeover's
own database is SQLite. Raw is a bare ``requests`` session a thread, as many threads as Changeover
uses, that sends the very requests of a pass and takes their bodies, unparsed. A pass finds the
devices by rule, reads inventories, traits and allocations of each, and commits what it learnt. Both
take turns, slice by slice, so that what else the machine does falls on both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import requests
from sqlalchemy import create_engine, text

from changeover.models.catalog import Catalog, Device
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.adapters.placement_http import HttpPlacement
from changeover.worker.bootstrap import as_found, close_world
from changeover.worker.discovery import look_around
from changeover.worker.embedded.placement_service import start_placement
from changeover.worker.migrate import upgrade
from changeover.worker.ports.servers import Servers
from changeover.worker.refresh import look, refresh, sync_catalog
from changeover.worker.settings import Settings
from changeover.worker.store import Database
from changeover.worker.world import World

CARD, FUNCTION, CLASS = "CUSTOM_BENCH_CARD", "CUSTOM_BENCH_AES", "CUSTOM_BENCH_FPGA"
CARDS_A_HOST = 10
GOAL = 1.2
HEADERS = {"X-Auth-Token": "admin", "OpenStack-API-Version": "placement 1.39"}


def catalog() -> Catalog:
    """One rule that finds every card by its trait."""
    return Catalog.model_validate(
        {
            "programmers": {"cards": {"kind": "simulated"}},
            "models": {"card": {"programmer": "cards", "traits": [CARD]}},
            "functions": {
                "aes": {
                    "traits": [FUNCTION],
                    "resource_class": CLASS,
                    "artifact": {"image": "aes.bit", "sha256": "0" * 64},
                    "fits": {"card": 1},
                }
            },
            "discover": {"cards": {"traits": [CARD]}},
        }
    )


def populate(url: str, placement: HttpPlacement, devices: int) -> None:
    """Put hosts with cards into Placement's own database: half of them programmed."""
    placement.ensure_traits([CARD, FUNCTION])
    placement.ensure_resource_classes([CLASS])
    engine = create_engine(url)
    hosts = -(-devices // CARDS_A_HOST)
    provider = text(
        "INSERT INTO resource_providers (id, uuid, name, generation, root_provider_id,"
        " parent_provider_id) VALUES (:id, :uuid, :name, :generation, :root, :parent)"
    )
    trait = text(
        "INSERT INTO resource_provider_traits (resource_provider_id, trait_id) VALUES (:id, :trait)"
    )
    inventory = text(
        "INSERT INTO inventories (resource_provider_id, resource_class_id, total, reserved,"
        " min_unit, max_unit, step_size, allocation_ratio) VALUES (:id, :rc, 1, 0, 1, 1, 1, 1.0)"
    )
    cards = range(hosts + 1, hosts + 1 + devices)
    with engine.begin() as db:

        def identity(table: str, name: str) -> int:
            found = db.execute(text(f"SELECT id FROM {table} WHERE name = :n"), {"n": name})  # noqa: S608 - names of ours
            return int(found.scalar_one())

        card, function = identity("traits", CARD), identity("traits", FUNCTION)
        rc = identity("resource_classes", CLASS)
        made = [_row(n, f"host{n}", 0, n, None) for n in range(1, hosts + 1)]
        db.execute(provider, made)
        parents = {n: (n - hosts - 1) // CARDS_A_HOST + 1 for n in cards}
        db.execute(provider, [_row(n, f"card{n}", 2, parents[n], parents[n]) for n in cards])
        programmed = [n for n in cards if n % 2]
        db.execute(trait, [{"id": n, "trait": card} for n in cards])
        db.execute(trait, [{"id": n, "trait": function} for n in programmed])
        db.execute(inventory, [{"id": n, "rc": rc} for n in programmed])
    engine.dispose()


def _row(number: int, name: str, generation: int, root: int, parent: int | None) -> dict[str, Any]:
    return {
        "id": number, "uuid": str(uuid4()), "name": name, "generation": generation,
        "root": root, "parent": parent,
    }  # fmt: skip


class Raw:
    """The same requests, with nothing around them."""

    def __init__(self, url: str, pool: ThreadPoolExecutor) -> None:
        self.url = url
        self.pool = pool
        self.local = threading.local()

    def get(self, path: str) -> int:
        """The length of an answer."""
        session = getattr(self.local, "session", None)
        if session is None:
            session = self.local.session = requests.Session()
            session.trust_env = False
            session.headers.update(HEADERS)
        answer = session.get(self.url + path, timeout=60)
        answer.raise_for_status()
        return len(answer.content)

    def listings(self) -> None:
        """What finding devices asks."""
        self.get("/resource_providers")
        self.get(f"/resource_providers?required={CARD}")

    def device(self, device: Device) -> None:
        """What reading one device asks."""
        for part in ("inventories", "traits", "allocations"):
            self.get(f"/resource_providers/{device.provider}/{part}")

    def devices(self, devices: Sequence[Device]) -> None:
        """What reading devices asks."""
        list(self.pool.map(self.device, devices))


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(
    args: argparse.Namespace, home: Path, url: str, placement: HttpPlacement
) -> dict[str, Any]:
    """All figures."""
    database = f"sqlite:///{home / 'changeover.sqlite'}"
    upgrade(database)
    settings = Settings(state_dir=home, concurrent_reads=args.concurrency)
    world = World(
        database=Database(database),
        placement=placement,
        servers=cast("Servers", None),
        programmers={},
        clock=SystemClock(),
        catalog=catalog(),
        settings=settings,
        owner="bench",
        pool=ThreadPoolExecutor(args.concurrency),
    )
    sync_catalog(world)
    raw = Raw(url, ThreadPoolExecutor(args.concurrency))
    raw.listings()  # Placement's caches are warm for both
    finding = [timed(raw.listings)]
    found = world

    def find() -> None:
        nonlocal found
        found = look_around(world, placement.providers())

    finding.append(timed(find))
    devices = found.catalog.devices
    if len(devices) != args.devices:
        raise SystemExit(
            f"found {len(devices)} of {args.devices} devices: the figures mean nothing"
        )
    reading = [0.0, 0.0]
    slices = [devices[n : n + args.slice] for n in range(0, len(devices), args.slice)]
    for number, some in enumerate(slices):
        turns = [(0, lambda s=some: raw.devices(s)), (1, lambda s=some: refresh(found, s))]
        for which, work in turns if number % 2 else reversed(turns):
            reading[which] += timed(work)
    placement.calls.clear()
    idle = replace(found, placement=placement)
    again = timed(lambda: look(idle, full=False))
    calls = placement.calls.total()
    with found.database.read() as tx:
        read = sum(record.read_at is not None for record in tx.devices.all())
    if read != args.devices:
        raise SystemExit(f"read {read} of {args.devices} devices: the figures mean nothing")
    fresh = timed(lambda: as_found(world))
    close_world()
    return {
        "devices": args.devices,
        "calls": 2 + 3 * args.devices,
        "concurrency": args.concurrency,
        "raw_seconds": finding[0] + reading[0],
        "refresh_seconds": finding[1] + reading[1],
        "ratio": (finding[1] + reading[1]) / (finding[0] + reading[0]),
        "finding_seconds": finding[1],
        "incremental_seconds": again,
        "incremental_calls": calls,
        "mirror_seconds": fresh,
    }


def main() -> int:
    """Print the figures; the status says whether the goal was met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--slice", type=int, default=500)
    parser.add_argument("--database", help="Placement's, as an SQLAlchemy URL; default: SQLite")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="changeover-bench-") as directory:
        home = Path(directory)
        with start_placement(
            home / "placement", database=args.database, threads=os.cpu_count() or 2
        ) as service:
            placement = HttpPlacement.noauth(service.url)
            own = args.database or f"sqlite:///{home / 'placement' / 'placement.sqlite'}"
            populate(own, placement, args.devices)
            figures = measure(args, home, service.url, placement)
    kind = (args.database or "sqlite").partition(":")[0]
    figures["placement_database"] = kind
    if args.json:
        print(json.dumps(figures))
    else:
        f = figures
        print(f"{f['devices']} devices, Placement on {kind}, {f['concurrency']} requests at once")
        print(f"  the same {f['calls']} calls, raw   {f['raw_seconds']:8.2f} s")
        print(f"  one full pass              {f['refresh_seconds']:8.2f} s")
        print(f"  ratio                      {f['ratio']:8.3f}    goal: at most {GOAL}")
        print(f"  finding alone              {f['finding_seconds']:8.2f} s")
        print(
            f"  a look when nothing moved  {f['incremental_seconds']:8.2f} s, "
            f"{f['incremental_calls']} calls"
        )
        print(f"  the mirror into memory     {f['mirror_seconds']:8.2f} s")
    return 0 if figures["ratio"] <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
