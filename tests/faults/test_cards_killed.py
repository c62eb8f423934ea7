"""Callers that are killed at any moment never let two calls run on one device.

The judge is the cards' own journal, read by a checker that shares no code with the product.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from changeover.worker.adapters.clock import SystemClock
from changeover.worker.simulator.cards import SimulatedCards

WORKER = """
import random, sys, time
from pathlib import Path
from changeover.models.errors import Busy
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.simulator.cards import Behaviour, SimulatedCards

cards = SimulatedCards(Path(sys.argv[1]), SystemClock())
chance = random.Random(sys.argv[2])
while True:
    token = f"{sys.argv[2]}-{chance.random()}"
    try:
        cards.program(chance.choice("ab"), chance.choice("xyz"), token, 0.02)
    except Busy:
        time.sleep(0.001)
"""


def check(lines: list[dict[str, object]]) -> int:
    """One call at a time: each start is followed by its own end, or by being interrupted."""
    running: object = None
    done = 0
    for line in lines:
        if line["event"] == "start":
            assert running is None, f"{line['token']} started while {running} was running"
            running = line["token"]
        elif line["event"] in ("end", "interrupted"):
            if line["event"] == "interrupted" and running is None:
                continue  # killed between two writes: nothing ran
            assert running == line["token"]
            running = None
            done += 1
    return done


def test_killed_callers(tmp_path: Path) -> None:
    cards = SimulatedCards(tmp_path, SystemClock())
    cards.add("a")
    cards.add("b")
    chance = random.Random(3)

    def start(number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(number)])

    workers = [start(n) for n in range(3)]
    kills = 0
    try:
        while kills < 12:
            time.sleep(0.5 * chance.random())
            index = chance.randrange(len(workers))
            workers[index].kill()
            workers[index].wait()
            kills += 1
            workers[index] = start(100 + kills)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    done = 0
    for device in "ab":
        text = (tmp_path / "devices" / device / "journal.jsonl").read_text()
        done += check([json.loads(line) for line in text.splitlines()])
        assert cards.read(device).busy is False
        assert cards.program(device, "x", "last", 0.0).outcome == "programmed"
    assert done > 5
