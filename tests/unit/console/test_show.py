"""Every listing, as a table and as JSON."""

from __future__ import annotations

from socket import gethostname
from time import time

import pytest
from pydantic import SecretStr
from unit.console.conftest import Teller
from unit.console.home import Home

from changeover.models.errors import Unreachable
from changeover.worker.bootstrap import make_world
from changeover.worker.circuit import FAILURES
from changeover.worker.settings import Settings

LISTINGS = [
    ["status"],
    ["pools"],
    ["devices"],
    ["devices", "--host", "host1"],
    ["devices", "--function", "aes"],
    ["boots"],
    ["boots", "--open"],
    ["boots", "--over"],
    ["boots", "--state", "waiting", "--limit", "1"],
    ["functions"],
    ["tasks"],
    ["tasks", "--queued"],
    ["changeovers"],
    ["changeovers", "--live"],
    ["plans"],
    ["dead-letters"],
    ["audit"],
    ["config", "show"],
    ["config", "check"],
]


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_each_listing_prints_a_table_and_json(tell: Teller, words: list[str]) -> None:
    table = tell(*words)
    assert table.status == 0, table.err
    assert len(table.out.splitlines()) > 1 or words[0] in {"boots", "dead-letters"}
    assert "\x1b" not in table.out
    told = tell(*words, "--json")
    assert told.status == 0, told.err
    assert told.err == ""
    assert told.json


def test_status_counts(tell: Teller) -> None:
    told = tell("status", "--json").json
    assert told["boots"] == {"declined": 1, "waiting": 1}
    assert told["changeovers"] == {"quarantined": 1, "settling": 1}
    assert told["devices"]["all"] == 26
    assert told["devices"]["in_use"] == 1
    assert told["tasks_queued"] == 1
    assert told["dead_letters"] == 1
    assert told["paused"] is None
    assert [p["role"] for p in told["processes"]] == ["worker"]


def test_status_says_which_service_is_silent(tell: Teller) -> None:
    settings = Settings(
        state_dir=tell.home.path,
        database_url=SecretStr(tell.home.database.url),
        catalog=tell.home.path / "catalog.yaml",
        broker_url=SecretStr("redis://127.0.0.1:1/0"),
        placement_endpoint="http://127.0.0.1:1",
    )
    world = make_world(settings)
    assert tell("status", "--json").json["circuits_open"] == []
    for _ in range(FAILURES):
        with pytest.raises(Unreachable):
            world.placement.providers()
    world.database.dispose()
    [silent] = tell("status", "--json").json["circuits_open"]
    assert (silent["service"], silent["failures"]) == ("Placement", FAILURES)
    assert "Placement since" in tell("status").out


def test_pools_say_who_waits_and_what_becomes(tell: Teller) -> None:
    pools = {row["function"]: row for row in tell("pools", "--json").json}
    assert pools["ipsec"]["boots_waiting"] == 1
    assert pools["aes"]["becoming"] == 1
    assert pools["gzip"]["min_free"] == 1
    assert pools["sha3"]["used"] == 1
    assert pools["sha3"]["free"] == pools["sha3"]["slots"] - 1


def test_devices_say_their_state(tell: Teller, home: Home) -> None:
    devices = {row["name"]: row for row in tell("devices", "--json").json}
    assert devices["fpga1"]["state"] == "idle"
    assert devices["fpga12"]["state"] == "in use"
    assert devices["fpga4"]["state"] == "settling"
    assert devices["fpga4"]["changeover"] == home.live
    assert devices["fpga9"]["state"] == "quarantined"
    assert devices["dyn1-r3"]["state"] == "empty"


def test_a_table_on_a_pipe_is_aligned(tell: Teller) -> None:
    head, *lines = tell("devices").out.splitlines()
    column = head.index("STATE")
    assert {line[column - 1] for line in lines} == {" "}
    assert all(line[column] != " " for line in lines)


def test_what_comes_from_outside_cannot_steer_a_terminal(tell: Teller, home: Home) -> None:
    home.operator.pause("\x1b[2Jgone\nsecond line")
    told = tell("status").out
    assert "\x1b" not in told
    assert "\\x1b[2Jgone\\nsecond line" in told


def test_nothing_is_said_plainly(tell: Teller) -> None:
    assert tell("boots", "--state", "booted").out == "no boots\n"
    assert tell("boots", "--state", "booted", "--json").json == []


def test_an_unknown_state_is_wrong_usage(tell: Teller) -> None:
    told = tell("boots", "--state", "lost", "--json")
    assert told.status == 2
    assert "waiting" in told.error["message"]


def test_alive(tell: Teller, home: Home) -> None:
    told = tell("alive", "worker", "--json")
    assert told.status == 4
    assert "no worker of this host" in told.error["message"]
    assert tell("alive", "beat").status == 4
    with home.database.write() as tx:
        tx.switches.beat(f"worker:{gethostname()}:7", "worker", time())
        tx.leases.due("changeover.sweep", time(), 1.0)
    assert tell("alive", "worker").status == 0
    assert tell("alive", "beat", "--json").json == {"role": "beat", "alive": True}


def test_audit_of_one_thing(tell: Teller, home: Home) -> None:
    deeds = tell("audit", home.waiting[:8], "--json").json
    assert [d["action"] for d in deeds] == ["boot.received", "boot.waiting"]
    assert "no device that fits" in tell("audit", home.waiting).out


def test_audit_of_a_device_tells_of_its_changeovers_and_tasks(tell: Teller, home: Home) -> None:
    task = home.operator.program("gzip", device="fpga4").id
    deeds = tell("audit", "fpga4", "--json").json
    assert {deed["subject"] for deed in deeds} == {home.live, task}
    assert "fpga4" not in {deed["subject"] for deed in tell("audit", "fpga9", "--json").json}
    assert "of an id at least 4 characters" in tell("audit", home.live[:3]).err


LISTINGS = ["pools", "devices", "boots", "functions", "tasks", "changeovers", "plans", "audit"]


@pytest.mark.parametrize("words", [*LISTINGS, "dead-letters", "callbacks", "reservations"])
def test_the_objects_of_a_listing_have_the_same_fields(tell: Teller, words: str) -> None:
    rows = tell(words, "--json").json
    assert isinstance(rows, list)
    assert len({tuple(row) for row in rows}) <= 1
    assert rows or words not in LISTINGS
