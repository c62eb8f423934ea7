"""Demand is learnt from once, and idle devices get what will likely be asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from story.world import Cloud, Worker

from changeover.models.states import ChangeoverState
from changeover.worker.history import learn, prospects
from changeover.worker.judge import balance
from changeover.worker.thrash import forecasts_left, thrash

DAY = 86_400.0


def ask_daily(cloud: Cloud, flavor: str, days: int, a_day: int) -> None:
    """A user asks so often a day; what is built is deleted again a little later."""
    for _ in range(days * a_day):
        servers = cloud.fail_boot(flavor)
        cloud.calm(seconds=600.0)
        cloud.clock.advance(600.0)
        for server in servers:
            cloud.servers.user_delete(server)
        with cloud.database.read() as tx:
            successors = [b.successor for b in tx.boots.listed(over=None, limit=99)]
        for server in filter(None, successors):
            cloud.servers.user_delete(server)
        cloud.tell_all()
        cloud.clock.advance(DAY / a_day - 1200.0)


def gpu(cloud: Cloud) -> str:
    """The name of the one GPU."""
    return next(d.name for d in cloud.catalog.devices if d.model == "pgpu")


def asked(cloud: Cloud) -> Counter[str]:
    """Bursts that the history has seen, by function."""
    with cloud.database.read() as tx:
        state, _, _ = tx.demand.history()
    assert state is not None
    kept: dict[str, dict[str, Any]] = state["by_function"]
    return Counter({name: round(sum(facts["sizes"])) for name, facts in kept.items()})


def test_what_is_asked_for_daily_is_laid_down_before_it_is_asked_for(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        ask_daily(cloud, "vgpu.8q", days=2, a_day=4)
        world = cloud.worker("a").world
        learn(world)
        with cloud.database.read() as tx:
            expected = prospects(world, tx, cloud.clock.now())
        assert expected["nvidia-37"].bursts_a_day > 2
        assert expected["nvidia-37"].weights
        assert not expected["sha3"].weights
        # Somebody lays something else down where it was: it comes back, by forecast alone.
        cloud.operator.program("nvidia-35", device=gpu(cloud))
        cloud.calm()
        cloud.clock.advance(cloud.settings.forecast_dwell_seconds + 1)
        cloud.worker("a").do(balance)
        cloud.calm()
        with cloud.database.read() as tx:
            [last, *_] = tx.changeovers.latest(1)
        assert (last.kind, last.to_function) == ("forecast", "nvidia-37")
        assert last.state is ChangeoverState.DONE
        before = sum(cloud.checker.seen.values())
        cloud.fail_boot("vgpu.8q")
        cloud.checker.finally_()
        cloud.checker.check()
        assert before


def test_each_arrival_counts_once_wherever_a_worker_is_killed(tmp_path: Path) -> None:
    number = 0
    while True:
        number += 1
        with Cloud(tmp_path / str(number)) as cloud:
            for _ in range(3):
                cloud.fail_boot("fpga.aes")
                cloud.clock.advance(3600.0)
            passed = 0

            def kill(worker: Worker, _when: str, _call: str) -> None:
                nonlocal passed
                passed += 1
                if passed == number:  # noqa: B023 - called within this turn of the loop
                    worker.die()

            cloud.worker("a").plan = kill
            cloud.worker("a").do(learn)
            cloud.worker("b").do(learn)
            cloud.worker("c").do(learn)
            cloud.clock.advance(3600.0)
            cloud.worker("c").do(learn)
            assert asked(cloud)["aes"] == 3, number
            if passed < number:
                break
    assert number > 3


def test_a_young_history_is_not_acted_on_unless_the_catalog_expects_demand(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        for _ in range(5):
            cloud.fail_boot("fpga.sha3")
        cloud.calm()
        world = cloud.worker("a").world
        learn(world)
        with cloud.database.read() as tx:
            assert prospects(world, tx, cloud.clock.now()) == {}


def test_thrash_is_measured_and_stops_forecasts(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        ask_daily(cloud, "vgpu.8q", days=1, a_day=4)
        world = cloud.worker("a").world
        for function in ("nvidia-35", "nvidia-36", "nvidia-35", "nvidia-36", "nvidia-35"):
            cloud.operator.program(function, device=gpu(cloud))
            cloud.calm()
        with cloud.database.read() as tx:
            found = {(t.function, t.kind): (t.programs, t.unused) for t in thrash(tx, 0.0)}
            assert found["nvidia-36", "task"] == (2, 2)
            assert found["nvidia-35", "task"] == (3, 2)  # the last may still serve
            served = [unused for (_, kind), (_, unused) in found.items() if kind == "boot"]
            assert sum(served) == 0
            now = cloud.clock.now()
            assert forecasts_left(world, tx, now) > 0
        with cloud.database.write() as tx:
            for k, changeover in enumerate(tx.changeovers.latest(99)):
                tx.connection.exec_driver_sql(
                    "UPDATE changeovers SET kind = 'forecast', programmed_at = ? WHERE id = ?",
                    (now - k, changeover.id),
                )
            programs = sum(t.programs for t in thrash(tx, now - DAY))
            unused = sum(t.unused for t in thrash(tx, now - DAY))
            assert programs >= 5
            left = forecasts_left(world, tx, now)
            assert (left == 0) == (unused > cloud.settings.max_thrash * programs)
