"""Fuzz the intake and the catalog: each input is made from its number alone.

    python tests/faults/fuzz.py [--inputs N] [--first N] [--state FILE] [--processes N]

Captured notifications and the embedded cloud's catalog, mutated as bytes, as JSON and line by
line, go through the very intake and loader. No exception may escape, and nothing may be lost: each
message has one outcome, and what is stored is exactly what the outcomes say. What goes wrong is
named by the input's number; ``make_body`` and ``make_catalog`` make it again. ``--state`` keeps how
far it came, so that a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.table import Row
from sqlalchemy import text

from changeover.models.errors import Invalid
from changeover.models.tables import Base
from changeover.worker.catalog_file import load_catalog
from changeover.worker.intake import Intake
from changeover.worker.settings import Settings
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.simulator.fleet import Shape, catalog_yaml
from changeover.worker.store import Database

CHUNK = 1000
"""Inputs that one process takes at a time, with a database of its own."""

TOGETHER = 20
"""Messages of one batch, as the listener commits them."""

CATALOG_EVERY = 50
"""Every so manyth input is a catalog: YAML costs fifty times what JSON does."""

NOW = 1_795_420_000.0

_DATA = Path(__file__).resolve().parents[1] / "data" / "notifications"
MESSAGES: list[dict[str, Any]] = [
    json.loads(line)["message"]
    for path in sorted(_DATA.glob("*.jsonl"))
    for line in path.read_text().splitlines()
]
FAILURES = [m for m in MESSAGES if m["event_type"].endswith("build_instances.error")]
CATALOG = catalog_yaml(Shape(hosts=1, fpga_cards=1, gpus=1, dynamic_cards=1, regions=1))

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, 1e308, float("nan"), float("inf"), "", " ", "\x00",
    "\ud800", "é", "x" * 5000, [], {}, [[]], {"": None}, "1970-01-01T00:00:00Z",
    "9999-99-99 99:99:99", "../../etc/passwd", "'; DROP TABLE boots; --", "${jndi:ldap://x}",
    {"nova_object.data": None}, [{"nova_object.data": {}}], "CUSTOM_" + "A" * 300, "-0",
)  # fmt: skip
SNIPPETS = (
    "{", "}", "[", "]", ":", "- ", "&a ", "*a", "<<: *a", "!!python/object:os.system ", "? ",
    "null", "~", "1e999", ".nan", "0x1F", "0o17", "2001-01-01", "yes", "'", '"', "|", ">-", "\t",
    "\x00", "\ufeff", "\u2028", "---\n", "...\n", "%YAML 9.9\n", "#", "-1", "0", "!!int ",
    "!!float ", "!!timestamp ", "!!set ", "!!binary ", "99999999999999999999", "''", "[]", "{}",
    "x: {x: {x: {x: {}}}}", "\n", "  ",
)  # fmt: skip


# --- the inputs ---------------------------------------------------------------------------------


def make_body(number: int) -> bytes | str:
    """The message of that number."""
    rng = random.Random(number)
    if rng.random() < 0.03:
        return rng.randbytes(rng.randrange(300))
    if rng.random() < 0.02:
        return _hostile(rng)
    message = copy.deepcopy(rng.choice(rng.choice([MESSAGES, FAILURES])))
    if rng.random() < 0.8:
        message["message_id"] = f"{rng.getrandbits(128):032x}"
        about = message["payload"]["nova_object.data"]
        about["instance_uuid" if "instance_uuid" in about else "uuid"] = str(
            UUID(int=rng.getrandbits(128))
        )
    for _ in range(rng.randrange(4)):
        _mutate(rng, message)
    body = json.dumps(message)
    if rng.random() < 0.8:
        body = json.dumps({"oslo.version": rng.choice(["2.0", "2.0", "2.0", 2, "9"]),
                           "oslo.message": body})  # fmt: skip
    return body if rng.random() < 0.7 else _maltreated(rng, body)


def _hostile(rng: random.Random) -> str:
    depth = rng.choice([10, 1_000, 100_000])
    opened = rng.choice(["[", '{"a":', '[{"x":'])
    return opened * depth + rng.choice(["", "1", "]" * depth, "}" * depth])


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def _mutate(rng: random.Random, message: dict[str, Any]) -> None:
    places = list(_places(message))
    if not places:
        return
    *parents, last = rng.choice(places)
    here: Any = message
    for key in parents:
        here = here[key]
    how = rng.random()
    if how < 0.3:
        del here[last]
    elif how < 0.8:
        here[last] = copy.deepcopy(rng.choice(ODD))
    elif how < 0.9 and isinstance(here, dict):
        here[str(rng.choice(ODD))[:200]] = here.pop(last)
    else:
        *others, other = rng.choice(places)
        there: Any = message
        for key in others:
            if not isinstance(there, dict | list) or (
                key not in there if isinstance(there, dict) else key >= len(there)
            ):
                return
            there = there[key]
        if isinstance(there, dict) and other in there:
            here[last] = copy.deepcopy(there[other])


def _maltreated(rng: random.Random, body: str) -> bytes:
    raw = bytearray(body.encode("utf-8", "surrogatepass"))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(raw) + 1)
        how = rng.random()
        if how < 0.2:
            del raw[at:]
        elif how < 0.6 and at < len(raw):
            raw[at] ^= rng.randrange(1, 256)
        elif how < 0.7:
            raw[at:at] = raw
        elif how < 0.9:
            raw[at:at] = rng.randbytes(rng.randrange(9))
        else:
            del raw[at : at + rng.randrange(50)]
    return bytes(raw)


def make_catalog(number: int) -> str | bytes:
    """The catalog of that number."""
    rng = random.Random(number)
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(300))
    lines = CATALOG.splitlines(keepends=True)
    for _ in range(rng.randrange(4)):
        at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
        how = rng.randrange(3)
        if how == 0:
            del lines[at]
        elif how == 1:
            lines.insert(at, lines[to])
        else:
            lines[at], lines[to] = lines[to], lines[at]
    said = "".join(lines)
    for _ in range(rng.randrange(5)):
        at = rng.randrange(len(said) + 1)
        said = said[:at] + rng.choice(SNIPPETS) + said[at + rng.randrange(7) :]
    return said


# --- what must hold -----------------------------------------------------------------------------


@dataclass
class Found:
    """What a chunk of inputs came to."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        self.inputs += other.inputs
        self.outcomes += other.outcomes
        self.wrong += other.wrong


_STORED = {
    "boot": "SELECT count(*) FROM boots",
    "kept": "SELECT count(*) FROM events",
    "dead_letter": "SELECT coalesce(sum(times), 0) FROM dead_letters",
}


def fuzz_chunk(first: int) -> Found:
    """Inputs ``first`` to ``first + CHUNK - 1``."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    found = Found()
    numbers = range(first, first + CHUNK)
    for number in (n for n in numbers if n % CATALOG_EVERY == 0):
        _catalog(found, number)
    database = Database("sqlite://")
    try:
        with database.engine.begin() as connection:
            Base.metadata.create_all(connection)
        intake = Intake(database, VirtualClock(NOW), Settings(patience_seconds=1000.0))
        messages = [n for n in numbers if n % CATALOG_EVERY]
        for at in range(0, len(messages), TOGETHER):
            _batch(found, intake, messages[at : at + TOGETHER])
    finally:
        database.dispose()
    return found


def _catalog(found: Found, number: int) -> None:
    found.inputs += 1
    try:
        load_catalog(make_catalog(number))
        found.outcomes["catalog loaded"] += 1
    except Invalid as refused:
        found.outcomes["catalog refused"] += 1
        if "catalog.yaml" not in refused.message:
            found.wrong.append(f"catalog {number}: the refusal names no place: {refused.message}")
    except Exception as error:  # noqa: BLE001 - that none escapes is what is tested
        found.wrong.append(f"catalog {number}: {type(error).__name__}: {error}"[:500])


def _batch(found: Found, intake: Intake, numbers: list[int]) -> None:
    found.inputs += len(numbers)
    before = _stored(intake.database)
    try:
        accepted = intake.accept_all([make_body(n) for n in numbers], "fuzz")
    except Exception as error:  # noqa: BLE001 - that none escapes is what is tested
        found.wrong.append(f"messages {numbers}: {type(error).__name__}: {error}"[:500])
        return
    counted = Counter(one.outcome for one in accepted)
    found.outcomes += counted
    counted["kept"] = len(accepted) - sum(
        counted[o] for o in ("dead_letter", "duplicate", "ignored")
    )
    after = _stored(intake.database)
    for name in _STORED:
        if after[name] - before[name] != counted[name]:
            found.wrong.append(
                f"messages {numbers}: {counted[name]} x {name} said, "
                f"{after[name] - before[name]} stored"
            )
    if len(accepted) != len(numbers):
        found.wrong.append(f"messages {numbers}: {len(accepted)} outcomes for {len(numbers)}")


def _stored(database: Database) -> dict[str, int]:
    with database.read() as tx:
        return {
            name: int(tx.connection.execute(text(query)).scalar_one())
            for name, query in _STORED.items()
        }


# --- running ------------------------------------------------------------------------------------


def fuzz(inputs: int, *, processes: int, first: int = 0, state: Path | None = None) -> Found:
    """So many inputs from ``first`` on, or what ``state`` says is left of them."""
    found = _resume(state)
    starts = range(first + found.inputs, first + inputs, CHUNK)
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        for chunk in pool.imap(fuzz_chunk, starts):
            found.add(chunk)
            if state is not None:
                _keep(state, found)
    return found


def _resume(state: Path | None) -> Found:
    if state is None or not state.exists():
        return Found()
    kept = json.loads(state.read_text(encoding="utf-8"))
    return Found(kept["inputs"], Counter(kept["outcomes"]), list(kept["wrong"]))


def _keep(state: Path, found: Found) -> None:
    draft = state.with_suffix(".draft")
    kept = {"inputs": found.inputs, "outcomes": found.outcomes, "wrong": found.wrong}
    draft.write_text(json.dumps(kept), encoding="utf-8")
    draft.replace(state)


def run(home: Path, *, inputs: int, processes: int = 2) -> Row:
    """As a section of the battery."""
    home.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    found = fuzz(inputs, processes=processes, state=home / "fuzz.json")
    row = Row("fuzz", took=time.monotonic() - started)
    row.rounds = row.faults = found.inputs
    row.note = ", ".join(f"{n} {name}" for name, n in sorted(found.outcomes.items()))
    for wrong in found.wrong:
        row.fails(wrong)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, help="the first input's number")
    parser.add_argument("--state", type=Path, help="go on from there, and keep how far it came")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    found = fuzz(given.inputs, processes=given.processes, first=given.first, state=given.state)
    sys.stdout.write(f"{found.inputs} inputs: {dict(sorted(found.outcomes.items()))}\n")
    sys.stdout.writelines(f"wrong: {wrong}\n" for wrong in found.wrong)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
