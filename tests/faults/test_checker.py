"""The checker finds what it is there for: each promise is broken on purpose, once.

First on evidence made by hand, then with the product's own guards switched off.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults.checker import (
    Cloud,
    Held,
    Program,
    Verdict,
    held_by_servers,
    judge_boots,
    judge_devices,
    programmed_in_use,
    programs_of,
    server_notes,
    two_at_once,
)
from faults.kills import Recovery
from faults.points import Points
from faults.table import Row, render, total

from changeover.models.errors import OutcomeUnknown
from changeover.models.flavor import Flavor
from changeover.models.states import ChangeoverState
from changeover.worker.carry_out import CarryOut, program, publish
from changeover.worker.carry_out.runner import STEPS
from changeover.worker.ports.servers import MARKER, REPLACES, Server
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.simulator.fleet import Shape, build_fleet
from changeover.worker.simulator.placement import MemoryPlacement
from changeover.worker.simulator.servers import ServersFault, SimulatedServers

CALL = Program("p1", "d1", "aes", 100.0, 110.0, ("p2",), "t1")


@pytest.mark.parametrize(
    ("held", "kinds"),
    [
        (Held("p1", "c", 90.0, 90.1, 99.0), []),
        (Held("p1", "c", 111.0, 111.1), []),
        (Held("p3", "c", 90.0, 90.1), []),
        (Held("p1", "c", 90.0, 90.1), ["programmed_in_use"]),
        (Held("p1", "c", 90.0, 90.1, 100.5), ["programmed_in_use"]),
        (Held("p2", "c", 90.0, 90.1), ["programmed_in_use"]),
        (Held("p1", "c", 99.9, 100.1), ["programmed_in_use"]),
        (Held("p1", "c", 99.9, 111.0), ["landed_after_programming"]),
    ],
)
def test_allocations_that_meet_a_call(held: Held, kinds: list[str]) -> None:
    assert [v.kind for v in programmed_in_use([CALL], [held])] == kinds


def test_two_calls_at_once() -> None:
    later = replace(CALL, start=105.0)
    assert two_at_once([later, CALL])
    assert not two_at_once([CALL, replace(CALL, start=110.0, end=111.0)])


class Journal:
    """A servers' journal, written by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.time = 1.0
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE journal (id INTEGER PRIMARY KEY, t, event, server, facts)")
            db.execute("CREATE TABLE servers (uuid, status, blueprint)")
        db.close()

    def note(self, event: str, server: str, **facts: Any) -> None:
        self.time += 1.0
        with sqlite3.connect(self.path) as db:
            db.execute(
                "INSERT INTO journal (t, event, server, facts) VALUES (?, ?, ?, ?)",
                (self.time, event, server, json.dumps(facts)),
            )
        db.close()

    def status(self, server: str, status: str) -> None:
        with sqlite3.connect(self.path) as db:
            db.execute("DELETE FROM servers WHERE uuid = ?", (server,))
            db.execute("INSERT INTO servers VALUES (?, ?, '{}')", (server, status))
        db.close()

    def replaced(self, server: str, by: str, marker: str, status: str) -> None:
        self.note("create", by, by="changeover", **{MARKER: marker, REPLACES: server})
        self.status(by, status)

    def judge(self, rows: Mapping[str, tuple[str, str]] | None = None) -> Verdict:
        verdict = Verdict()
        judge_boots(verdict, self.path, rows or {})
        return verdict


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "servers.sqlite")
    journal.note("failed", "s1", exception="NoValidHost")
    journal.status("s1", "ERROR")
    return journal


def test_a_boot_that_nobody_answered_is_lost(journal: Journal) -> None:
    assert journal.judge().lost
    assert journal.judge({"s1": ("waiting", "")}).lost
    assert not journal.judge({"s1": ("declined", "")}).lost
    # That it booted is not believed without a server.
    assert journal.judge({"s1": ("booted", "")}).lost


def test_a_boot_that_runs_is_saved(journal: Journal) -> None:
    journal.replaced("s1", "s2", "b.1", "ACTIVE")
    verdict = journal.judge()
    assert verdict.clean
    assert verdict.facts["saved"] == 1


def test_a_boot_that_its_owner_gave_up_is_not_lost(journal: Journal) -> None:
    journal.note("deleted", "s1", by="user", since=2.0)
    assert journal.judge().clean


@pytest.mark.parametrize("second", ["b.1", "b.2"])
def test_a_boot_that_runs_twice_is_doubled(journal: Journal, second: str) -> None:
    journal.replaced("s1", "s2", "b.1", "ACTIVE")
    journal.replaced("s1", "s3", second, "ACTIVE")
    assert journal.judge().doubled


def test_one_attempt_that_created_twice_is_doubled(journal: Journal) -> None:
    journal.replaced("s1", "s2", "b.1", "ERROR")
    journal.replaced("s1", "s3", "b.1", "ACTIVE")
    assert journal.judge().doubled


def test_an_attempt_after_another_failed_is_not_doubled(journal: Journal) -> None:
    journal.replaced("s1", "s2", "b.1", "ERROR")
    journal.replaced("s1", "s3", "b.2", "ACTIVE")
    assert journal.judge().clean


def test_holds_are_certain_from_answer_to_release(journal: Journal) -> None:
    journal.note("claimed", "s2", since=5.0, allocations={"p1": {"X": 1}}, host="h")
    journal.note("deleted", "s2", by="user", since=9.0)
    [held] = held_by_servers(server_notes(journal.path))
    assert (held.asked, held.got, held.back) == (5.0, 3.0, 9.0)


def test_recovery_is_measured_from_the_death(tmp_path: Path) -> None:
    points = Points(tmp_path)
    points.arm("somewhere")
    assert points.disarm() == ["somewhere"]
    assert points.killed() == []
    assert Recovery.__doc__


def test_the_table_adds_up() -> None:
    rows = [Row("a", rounds=2, faults=1), Row("b", rounds=3, lost=1, wrong=["lost: it"])]
    assert total(rows).rounds == 5
    assert "lost: it" in render(rows)


# ---------------------------------------------------------------- guards switched off


def test_without_a_fence_it_finds_programming_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very steps of the product, with a fence that writes nothing and looks at nothing."""
    from faults import races  # noqa: PLC0415 - it needs Placement installed

    pair = races.Pair("sqlite", "removed")
    with races.course(pair, tmp_path, None, devices=1, settle=0.0, seed=1) as ground:
        [device] = ground.world.catalog.devices
        assert ground.ambush._inner.claim(
            "11111111-1111-1111-1111-111111111111",
            {device.provider: {races.RC: 1}},
            project="p",
            user="u",
        )
        held = [Held(device.provider, "1111", 0.0, 1.0)]
        assert ground.race(device.name) is ChangeoverState.ABANDONED
        assert not ground.verdict().violations

        def nothing(*_: object) -> None:
            """The guard, switched off."""

        monkeypatch.setattr(program, "still_ours", nothing)
        monkeypatch.setattr(publish, "seen_idle", nothing)
        monkeypatch.setitem(
            STEPS, ChangeoverState.FENCING, lambda job: job.move(ChangeoverState.PROGRAMMING)
        )
        made = ground.start(device.name)
        CarryOut(ground.world).advance(made)
        cloud = Cloud.of(tmp_path / "catalog.yaml")
        found = programmed_in_use(programs_of(tmp_path / "cards", cloud.devices), held)
        assert [v.kind for v in found] == ["programmed_in_use"]
        verdict = Verdict()
        judge_devices(
            verdict, cloud, tmp_path / "cards", ground.database_url, set(),
            {"11111111-1111-1111-1111-111111111111": {"CUSTOM_RACE_LEFT"}},
        )  # fmt: skip
        assert "got_another_function" in {v.kind for v in verdict.violations}


def test_a_fence_that_no_row_explains_is_leaked(tmp_path: Path) -> None:
    from faults import races  # noqa: PLC0415 - as above

    pair = races.Pair("sqlite", "reserved")
    with races.course(pair, tmp_path, None, devices=1, settle=0.0, seed=1) as ground:
        [device] = ground.world.catalog.devices
        assert ground.verdict().clean
        placement = ground.ambush._inner
        state = placement.state(device.provider)
        closed = {races.RC: replace(state.inventories[races.RC], reserved=1)}
        placement.put_inventories(device.provider, state.generation, closed)
        assert ground.verdict().leaked
        state = placement.state(device.provider)
        placement.put_inventories(device.provider, state.generation, {})
        assert ground.verdict().leaked


def test_a_device_that_says_what_it_is_not_is_found(tmp_path: Path) -> None:
    from faults import races  # noqa: PLC0415 - as above

    pair = races.Pair("sqlite", "removed")
    with races.course(pair, tmp_path, None, devices=1, settle=0.0, seed=1) as ground:
        [device] = ground.world.catalog.devices
        ground.cards.program(device.name, "right", "behind", 0.0)
        assert {v.kind for v in ground.verdict().violations} == {"offers_what_it_lacks"}


def test_without_its_marker_a_boot_is_doubled(tmp_path: Path) -> None:
    """A create that was done and not answered, sent again by somebody who does not look first."""
    clock, placement = VirtualClock(), MemoryPlacement()
    path = tmp_path / "servers.sqlite"
    servers = SimulatedServers(path, placement, clock, seed=1)
    build_fleet(placement, None, servers, Shape(hosts=1, fpga_cards=1, gpus=0, dynamic_cards=0))
    [taker, *_] = servers.boot("taker", "fpga.aes")
    [failed] = servers.boot("failed", "fpga.aes")
    servers.user_delete(taker)
    server = servers.get(failed)
    assert server is not None
    servers.add_flavor(replace_specs(servers.flavor("fpga.aes")))
    servers.inject(ServersFault.CREATE_DONE)
    with pytest.raises(OutcomeUnknown):
        create_again(servers, server, "b.1")
    assert len(servers.find("b.1", server.project, 0.0).servers) == 1
    create_again(servers, server, "b.2")
    servers.close()
    verdict = Verdict()
    judge_boots(verdict, path, {})
    assert verdict.doubled


def create_again(servers: SimulatedServers, failed: Server, marker: str) -> str:
    """Create the failed server's successor."""
    assert failed.blueprint is not None
    return servers.create(
        failed.blueprint,
        marker,
        project=failed.project,
        user=failed.user,
        replaces=failed.uuid,
    )


def replace_specs(flavor: Flavor) -> Flavor:
    """The same flavor, asking for no device: it fits as often as it is created."""
    return flavor.model_copy(update={"extra_specs": {}})


@pytest.mark.timeout(240)
def test_without_settling_late_allocations_are_found(mariadb_url: str, tmp_path: Path) -> None:
    """On Placement's defaults an allocation lands behind a fence that was answered 200."""
    from faults import races  # noqa: PLC0415 - as above

    fresh = races.fresh_databases(mariadb_url)
    row = races.run_pair(
        races.Pair("mariadb", "reserved"), tmp_path, fresh(), races=10**6, settle=0.0,
        seconds=60.0, expect_late=True, stop_at_late=True,
    )  # fmt: skip
    assert row.facts["late"] > 0
    assert not row.wrong
