"""The judge: what really happened, from the journals of those that it happened to.

It shares no code with the product and takes its word for nothing: what was programmed when is
read from the simulated cards' own journals, who held what from the simulated Nova's journal and
from the allocators' logs, what is offered and allocated now from Placement's database by SQL.
Changeover's own rows are read for one purpose: to see whether a row *explains* what is found (a
closed device, a boot that ended without a server).
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from sqlalchemy import create_engine, text

FOR_EVER = math.inf

MARKER = "changeover:boot"
REPLACES = "changeover:replaces"

OVER = ("booted", "declined", "expired", "cancelled")
MOVING = (
    "planned", "fencing", "settling", "programming", "verifying", "publishing", "unfencing",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Program:
    """One call that programmed a device, and what it reset besides."""

    provider: str
    device: str
    function: str
    start: float
    end: float
    resets: tuple[str, ...] = ()
    token: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """An allocation: asked for, granted, and given back (the call to do so began) at."""

    provider: str
    consumer: str
    asked: float
    got: float
    back: float = FOR_EVER


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: ``kind`` is a static name, ``text`` says what was seen."""

    kind: str
    text: str


@dataclass
class Verdict:
    """What was found. ``late``: allocations that landed behind a fence, harmless or not."""

    violations: list[Violation] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    facts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def clean(self) -> bool:
        return not (self.violations or self.lost or self.doubled or self.leaked)

    def lines(self) -> Iterator[str]:
        """Everything that is wrong, a line each."""
        yield from (f"{v.kind}: {v.text}" for v in self.violations)
        yield from (f"lost: {text}" for text in self.lost)
        yield from (f"doubled: {text}" for text in self.doubled)
        yield from (f"leaked: {text}" for text in self.leaked)


# ---------------------------------------------------------------- programmed while in use


def programmed_in_use(programs: Iterable[Program], held: Iterable[Held]) -> list[Violation]:
    """Calls that met an allocation, or one that had been admitted before and landed after.

    Of each allocation only the time for which it certainly existed is taken: from the answer
    that granted it to the call that gave it back.
    """
    by_provider: dict[str, list[Held]] = defaultdict(list)
    for allocation in held:
        by_provider[allocation.provider].append(allocation)
    found = []
    for program in programs:
        for provider in (program.provider, *program.resets):
            for one in by_provider[provider]:
                during = max(one.got, program.start) <= min(one.back, program.end)
                behind = one.asked < program.start < one.got and one.back > one.got
                if during or behind:
                    found.append(
                        Violation(
                            "programmed_in_use" if during else "landed_after_programming",
                            f"{program.device} programmed with {program.function} "
                            f"{program.start:.3f}..{program.end:.3f}, held by {one.consumer} "
                            f"(asked {one.asked:.3f}, got {one.got:.3f}, back {one.back:.3f})",
                        )
                    )
    return found


def two_at_once(programs: Iterable[Program]) -> list[Violation]:
    """Two calls on one device at the same time."""
    by_device: dict[str, list[Program]] = defaultdict(list)
    for program in programs:
        by_device[program.device].append(program)
    found = []
    for device, calls in by_device.items():
        calls.sort(key=lambda p: p.start)
        for first, second in pairwise(calls):
            if second.start < first.end:
                found.append(
                    Violation("two_calls_at_once", f"{device}: {first.token} and {second.token}")
                )
    return found


def programs_of(cards: Path, devices: Mapping[str, Mapping[str, Any]]) -> list[Program]:
    """All calls, from the cards' journals; ``devices`` are the catalog's, by name."""
    resets: dict[str, list[str]] = defaultdict(list)
    calls: list[dict[str, Any]] = []
    for home in sorted((cards / "devices").iterdir()):
        if not home.is_dir():
            continue
        running: dict[str, Any] | None = None
        for line in (home / "journal.jsonl").read_text(encoding="utf-8").splitlines():
            note = json.loads(line)
            if note["event"] == "reset":
                resets[note["token"]].append(devices[note["device"]]["provider"])
            if note["event"] == "start":
                running = {**note, "end": FOR_EVER}
                calls.append(running)
            elif running is not None and note["event"] in {"end", "interrupted"}:
                # A caller that was killed ended then; the note of it is made by the next one.
                running["end"] = note["t"] if note["event"] == "end" else running["t"]
                running = None
    return [
        Program(
            devices[call["device"]]["provider"],
            call["device"],
            call["function"],
            call["t"],
            call["t"] if math.isinf(call["end"]) else call["end"],
            tuple(resets[call["token"]]),
            call["token"],
        )
        for call in calls
    ]


# ---------------------------------------------------------------- servers


def server_notes(path: Path) -> list[dict[str, Any]]:
    """The simulated Nova's journal, in order."""
    with sqlite3.connect(path, timeout=30) as db:
        rows = db.execute("SELECT t, event, server, facts FROM journal ORDER BY id").fetchall()
    db.close()
    return [{"t": t, "event": e, "server": s, **json.loads(f)} for t, e, s, f in rows]


def held_by_servers(notes: Sequence[Mapping[str, Any]]) -> list[Held]:
    """Allocations of servers, from Nova's journal."""
    back: dict[str, float] = {}
    failed = set()
    for note in notes:
        if note["event"] == "deleted":
            back.setdefault(note["server"], note["since"])
        elif note["event"] == "failed":
            # Its claim, if any, was given back at some time before this note.
            failed.add(note["server"])
    return [
        Held(
            provider,
            note["server"],
            note["since"],
            note["t"],
            note["t"] if note["server"] in failed else back.get(note["server"], FOR_EVER),
        )
        for note in notes
        if note["event"] == "claimed"
        for provider in note["allocations"]
    ]


@dataclass
class Family:
    """A user's server that failed, and what was made in its place."""

    server: str
    replaced_by: list[str] = field(default_factory=list)
    markers: list[str] = field(default_factory=list)


def judge_boots(
    verdict: Verdict, servers: Path, rows: Mapping[str, tuple[str, str]] | None
) -> None:
    """Each failed boot: saved once, given up by its owner, or answered with a reason.

    ``rows``: Changeover's boots, server -> (state, reason); ``None`` if its word is not asked.
    """
    notes = server_notes(servers)
    with sqlite3.connect(servers, timeout=30) as db:
        status = dict(db.execute("SELECT uuid, status FROM servers").fetchall())
    db.close()
    deleted_by = {n["server"]: n["by"] for n in notes if n["event"] == "deleted"}
    untold = {n["server"] for n in notes if n["event"] == "notification_lost"}
    families: dict[str, Family] = {}
    by_changeover = set()
    for note in notes:
        if note["event"] == "create" and REPLACES in note:
            family = families.setdefault(note[REPLACES], Family(note[REPLACES]))
            family.replaced_by.append(note["server"])
            family.markers.append(note[MARKER])
            by_changeover.add(note["server"])
    failed = [
        n["server"]
        for n in notes
        if n["event"] in {"failed", "captured"}
        and n["server"] not in by_changeover
        # What fails for another reason than want of capacity is nobody's to rescue.
        and n.get("exception", "NoValidHost") == "NoValidHost"
    ]
    for server in failed:
        verdict.facts["failed"] += 1
        family = families.get(server, Family(server))
        alive = [s for s in family.replaced_by if status.get(s) in {"ACTIVE", "BUILD"}]
        ran = [s for s in family.replaced_by if status.get(s) == "ACTIVE"]
        # A successor that its owner has deleted again was a success too.
        enjoyed = [
            s
            for s in family.replaced_by
            if status.get(s) == "DELETED" and deleted_by.get(s) == "user"
        ]
        if len(alive) + len(enjoyed) > 1:
            verdict.doubled.append(f"{server} runs as {', '.join(alive + enjoyed)}")
        again = {m for m in family.markers if family.markers.count(m) > 1}
        if again:
            verdict.doubled.append(f"{server}: created twice under marker {', '.join(again)}")
        if ran or enjoyed:
            verdict.facts["saved"] += 1
        elif deleted_by.get(server) == "user":
            verdict.facts["given_up_by_owner"] += 1
        elif rows is not None and rows.get(server, ("", ""))[0] in OVER[1:]:
            verdict.facts["answered"] += 1
        elif server in untold and rows is not None and server not in rows:
            verdict.facts["never_told"] += 1
            verdict.lost.append(f"{server}: Nova could not tell of it, and nobody found it")
        else:
            state = "no row" if rows is None else rows.get(server, ("no row", ""))
            verdict.lost.append(f"{server} ({status.get(server)}): {state}")


def boot_rows(url: str) -> dict[str, tuple[str, str]]:
    """Changeover's boots: server -> (state, code of the reason)."""
    return {
        row["server"]: (row["state"], json.dumps(row["reason"])[:120])
        for row in _rows(url, "SELECT server, state, reason FROM boots")
    }


# ---------------------------------------------------------------- Placement and the cards, now


@dataclass
class Offer:
    """A provider in Placement's database."""

    name: str
    inventories: dict[str, tuple[int, int]] = field(default_factory=dict)
    traits: set[str] = field(default_factory=set)
    used: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))

    def free_to_take(self, rc: str) -> int:
        """What the scheduler may count on in all: total without what is reserved."""
        total, reserved = self.inventories.get(rc, (0, 0))
        return total - reserved


def offers(url: str) -> dict[str, Offer]:
    """All providers, by uuid, from Placement's own tables."""
    found = {
        row["uuid"]: Offer(row["name"])
        for row in _rows(url, "SELECT uuid, name FROM resource_providers")
    }
    for row in _rows(
        url,
        "SELECT p.uuid, c.name, i.total, i.reserved FROM inventories i"
        " JOIN resource_providers p ON p.id = i.resource_provider_id"
        " JOIN resource_classes c ON c.id = i.resource_class_id",
    ):
        found[row["uuid"]].inventories[row["name"]] = (row["total"], row["reserved"])
    for row in _rows(
        url,
        "SELECT p.uuid, t.name FROM resource_provider_traits x"
        " JOIN resource_providers p ON p.id = x.resource_provider_id"
        " JOIN traits t ON t.id = x.trait_id",
    ):
        found[row["uuid"]].traits.add(row["name"])
    for row in _rows(
        url,
        "SELECT p.uuid, c.name, a.consumer_id, a.used FROM allocations a"
        " JOIN resource_providers p ON p.id = a.resource_provider_id"
        " JOIN resource_classes c ON c.id = a.resource_class_id",
    ):
        found[row["uuid"]].used[row["name"]][row["consumer_id"]] = row["used"]
    return found


def explained(url: str) -> set[str]:
    """Providers that a row of Changeover says are closed: fences of live changeovers.

    And devices that an operator released and that were not published since: they count as empty.
    """
    live = {
        row["id"]
        for row in _rows(url, "SELECT id, state FROM changeovers")
        if row["state"] in (*MOVING, "quarantined")
    }
    fenced = {
        row["provider"]
        for row in _rows(url, "SELECT provider, changeover FROM fences")
        if row["changeover"] in live
    }
    last = {
        row["device"]: row["state"]
        for row in _rows(
            url,
            "SELECT device, state FROM changeovers WHERE state IN ('done', 'released')"
            " ORDER BY finished_at",
        )
    }
    return fenced | {device for device, state in last.items() if state == "released"}


@dataclass(frozen=True)
class Cloud:
    """The catalog as plain YAML."""

    devices: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Mapping[str, Any]]
    functions: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, path: Path) -> Cloud:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        return cls({d["name"]: d for d in data["devices"]}, data["models"], data["functions"])

    def offers_with(self, device: str, function: str) -> tuple[str, int] | None:
        """Resource class and slots of the device when it holds the function."""
        model = self.devices[device]["model"]
        dynamic = self.models[model].get("resource_class")
        if dynamic:
            return dynamic, int(self.models[model].get("slots", 1))
        if not function:
            return None
        return self.functions[function]["resource_class"], self.functions[function]["fits"][model]

    @property
    def function_traits(self) -> set[str]:
        return {trait for f in self.functions.values() for trait in f["traits"]}


def card_holds(cards: Path, device: str) -> str:
    """What the hardware has, from its own state."""
    state = json.loads((cards / "devices" / device / "state.json").read_text(encoding="utf-8"))
    return str(state["function"])


def judge_devices(
    verdict: Verdict,
    cloud: Cloud,
    cards: Path,
    placement: str,
    excused: set[str],
    flavors: Mapping[str, set[str]] | None = None,
) -> None:
    """Every device offers what it holds, all of it, and nothing else; once all is quiet.

    ``excused``: providers that a row of Changeover explains: closed they may be, but they may
    not lie either. ``flavors``: consumer -> function traits that it asked for.
    """
    now = offers(placement)
    for name, device in cloud.devices.items():
        offer = now[device["provider"]]
        holds = card_holds(cards, name)
        wanted = cloud.offers_with(name, holds)
        promised = offer.traits & cloud.function_traits
        real = set(cloud.functions[holds]["traits"]) if holds else set()
        open_classes = {rc for rc in offer.inventories if offer.free_to_take(rc) > 0}
        if promised != real and open_classes:
            verdict.violations.append(
                Violation("offers_what_it_lacks", f"{name} says {promised}, holds {holds!r}")
            )
        for rc, consumers in offer.used.items():
            total = offer.inventories.get(rc, (0, 0))[0]
            if sum(consumers.values()) > total:
                verdict.violations.append(
                    Violation("overcommitted", f"{name}: {dict(consumers)} of {total} {rc}")
                )
            for consumer in consumers:
                asked = (flavors or {}).get(consumer, set())
                if not asked <= real | offer.traits - cloud.function_traits:
                    verdict.violations.append(
                        Violation("got_another_function", f"{consumer} on {name}: wants {asked}")
                    )
        if device["provider"] in excused:
            verdict.facts["quarantined"] += 1
            continue
        if wanted is None:
            continue
        rc, slots = wanted
        if offer.inventories.get(rc, (0, 0)) != (slots, 0):
            verdict.leaked.append(
                f"{name} holds {holds}, offers {offer.inventories} instead of {slots} {rc}"
            )


def asked_by_servers(servers: Path, cloud: Cloud) -> dict[str, set[str]]:
    """Server -> the function traits that its flavor requires."""
    with sqlite3.connect(servers, timeout=30) as db:
        flavors = {n: json.loads(b) for n, b in db.execute("SELECT name, body FROM flavors")}
        rows = db.execute("SELECT uuid, blueprint FROM servers").fetchall()
    db.close()
    wants = {
        name: {
            key.split(":", 1)[1]
            for key, value in body["extra_specs"].items()
            if key.startswith("trait") and value == "required"
        }
        & cloud.function_traits
        for name, body in flavors.items()
    }
    return {uuid: wants[json.loads(blueprint)["flavor"]] for uuid, blueprint in rows}


# ---------------------------------------------------------------- all of it


def judge_all(
    state_dir: Path,
    database: str,
    placement: str,
    *,
    catalog: Path | None = None,
    others: Iterable[Held] = (),
    others_ask: Mapping[str, set[str]] | None = None,
) -> Verdict:
    """Judge a deployment on the simulated cloud, once all is quiet.

    ``others``: allocations that were not made by the simulated Nova, from their makers' logs.
    """
    verdict = Verdict()
    cloud = Cloud.of(catalog or state_dir / "catalog.yaml")
    cards, servers = state_dir / "cards", state_dir / "servers.sqlite"
    programs = programs_of(cards, cloud.devices)
    held = [*held_by_servers(server_notes(servers)), *others]
    verdict.facts["programs"] = len(programs)
    verdict.facts["allocations"] = len(held)
    verdict.violations += programmed_in_use(programs, held)
    verdict.violations += two_at_once(programs)
    judge_boots(verdict, servers, boot_rows(database))
    asked = {**asked_by_servers(servers, cloud), **(others_ask or {})}
    judge_devices(verdict, cloud, cards, placement, explained(database), asked)
    return verdict


def _rows(url: str, sql: str) -> list[dict[str, Any]]:
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(sql)).mappings()]
    finally:
        engine.dispose()
