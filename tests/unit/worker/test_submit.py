"""Boots that are asked for: queued whole or not at all, once, and created like any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from story.world import Cloud

from changeover.models.blueprint import Blueprint
from changeover.models.errors import Invalid, NotFound, Unreachable
from changeover.models.reasons import Reason
from changeover.models.server_request import ServerRequest
from changeover.models.states import BootState
from changeover.worker.cancel import cancel_boot
from changeover.worker.ports.servers import MARKER, REPLACES, ServerStatus
from changeover.worker.simulator.requester import SimulatedRequester
from changeover.worker.simulator.servers import ServersFault
from changeover.worker.store import Database
from changeover.worker.submit import Submitted, Terms, submit


class Somebody(SimulatedRequester):
    """Gives trusts, and remembers which."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.given: dict[str, float] = {}
        self.withdrawn: list[str] = []

    def entrust(self, until: float) -> str:  # type: ignore[override]  # as a real one does
        trust = f"trust-{len(self.given)}"
        self.given[trust] = until
        return trust

    def withdraw(self, trust: str) -> None:
        self.withdrawn.append(trust)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with Cloud(tmp_path) as made:
        yield made


def asked(flavor: str = "vgpu.8q", count: int = 1, **fields: Any) -> ServerRequest:
    least = {"name": "asked", "flavor": flavor, "image": "tiny", "networks": "auto"}
    return ServerRequest(Blueprint.parse({**least, **fields}), count)


def queue(
    cloud: Cloud, request: ServerRequest, somebody: Somebody | None = None, **terms: Any
) -> Submitted:
    whoever = somebody or Somebody(cloud.servers, "p1", "bob")
    wanted = Terms(**{"patience": 600.0, **terms})
    return submit(cloud.database, cloud.clock, whoever, request, wanted)


def boots(cloud: Cloud) -> list[Any]:
    with cloud.database.read() as tx:
        return tx.boots.listed(over=None, limit=100)


def test_a_server_that_needs_a_changeover_is_created_once_it_is_made(cloud: Cloud) -> None:
    somebody = Somebody(cloud.servers, "p1", "bob")
    request = asked(
        key_name="k",
        user_data="dTo=",
        metadata={"m": "v"},
        tags=["t"],
        networks=[{"uuid": "n1"}, {"port": "p7"}],
    )
    [boot] = queue(cloud, request, somebody, patience=600.0).boots
    assert boot.trust == "trust-0"
    assert somebody.given["trust-0"] > boot.expires_at
    assert (boot.server, boot.origin, boot.project, boot.user) == (None, "request", "p1", "bob")
    cloud.calm()
    [done] = boots(cloud)
    assert done.state is BootState.BOOTED, done.reason.text
    assert done.attempt == 1
    made = cloud.servers.get(done.successor)
    assert made is not None
    assert made.blueprint is not None
    assert (made.project, made.user, made.status) == ("p1", "bob", ServerStatus.ACTIVE)
    assert made.metadata == {"m": "v", MARKER: done.marker}
    assert REPLACES not in made.metadata
    intact = request.blueprint.model_copy(update={"flavor": made.blueprint.flavor})
    assert made.blueprint == intact, "key, user data and networks intact"
    cloud.checker.finally_()
    cloud.checker.check()


def test_a_server_that_fits_is_created_at_once_without_any_changeover(cloud: Cloud) -> None:
    queue(cloud, asked("fpga.aes"))
    cloud.calm()
    assert boots(cloud)[0].state is BootState.BOOTED
    with cloud.database.read() as tx:
        assert tx.changeovers.latest() == []


def taken_back(cloud: Cloud) -> list[str]:
    """Let it be time to take trusts back; which ones were."""
    cloud.clock.advance(cloud.settings.look_seconds + 1.0)
    cloud.worker("a").sweep()
    return [e["trust"] for e in cloud.servers.journal() if e["event"] == "withdrawn"]


def test_a_trust_is_taken_back_when_the_last_of_its_boots_is_over(cloud: Cloud) -> None:
    somebody = Somebody(cloud.servers, "p1", "bob")
    one, other = queue(cloud, asked("fpga.sha3", count=2), somebody, patience=9000.0).boots
    with cloud.database.write() as tx:
        cancel_boot(tx, one, Reason("boot.cancelled", "not wanted"), cloud.clock.now())
    assert taken_back(cloud) == []
    cloud.calm()
    cloud.servers.inject(ServersFault.API_DOWN, times=None)
    assert taken_back(cloud) == []
    assert {b.trust_withdrawn_at for b in boots(cloud)} == {None}
    cloud.servers.clear_faults()
    assert taken_back(cloud) == ["trust-0"]
    with cloud.database.read() as tx:
        found = tx.boots.get(other.id)
    assert found is not None
    assert (found.state, found.trust) == (BootState.BOOTED, "trust-0")
    assert found.trust_withdrawn_at is not None
    assert taken_back(cloud) == ["trust-0"]


def test_several_wait_each_by_itself(cloud: Cloud) -> None:
    submitted = queue(cloud, asked("fpga.sha3", count=3))
    assert len({b.group_id for b in submitted.boots}) == 1
    cloud.calm()
    found = boots(cloud)
    assert {b.state for b in found} == {BootState.BOOTED}
    names = {cloud.servers.get(b.successor).name for b in found}  # type: ignore[union-attr]  # they run
    assert names == {"asked-1", "asked-2", "asked-3"}


def test_what_nobody_has_is_declined_with_the_reason(cloud: Cloud) -> None:
    flavor = cloud.servers.flavor("fpga.aes").model_copy(
        update={
            "name": "none",
            "extra_specs": {
                "resources:CUSTOM_FPGA": "1",
                "trait:CUSTOM_FPGA_FUNCTION_AESS": "required",
            },
        }
    )
    cloud.servers.add_flavor(flavor)
    queue(cloud, asked("none"))
    cloud.calm()
    [boot] = boots(cloud)
    assert boot.state is BootState.DECLINED
    assert "AESS" in boot.reason.text
    assert cloud.servers.servers() == []


def test_what_cannot_be_had_in_time_expires_without_a_server(cloud: Cloud) -> None:
    for host in ("host1", "host2"):
        cloud.set_host(host, up=False)
    queue(cloud, asked("vgpu.8q"), patience=50.0)
    cloud.calm()
    [boot] = boots(cloud)
    assert boot.state is BootState.EXPIRED
    assert "within 50 s" in boot.reason.text


def test_a_successor_that_fails_is_deleted_and_made_again_from_the_row(cloud: Cloud) -> None:
    queue(cloud, asked("fpga.aes"))
    real = cloud.servers._options
    fails = iter([True])

    def once(request: Any) -> Any:
        return [] if next(fails, False) else real(request)

    cloud.servers._options = once  # type: ignore[method-assign]  # filters reject it once
    cloud.calm()
    [boot] = [b for b in boots(cloud) if b.origin == "request"]  # its failure was told, too
    assert (boot.state, boot.attempt) == (BootState.BOOTED, 2)
    status = sorted(s.status for s in cloud.servers.servers())
    assert status == [ServerStatus.ACTIVE, ServerStatus.DELETED]
    cloud.checker.finally_()
    cloud.checker.check()


def test_a_create_without_an_answer_is_found_by_its_marker(cloud: Cloud) -> None:
    for fault in (ServersFault.CREATE_DONE, ServersFault.CREATE_LATE):
        cloud.servers.inject(fault)
        queue(cloud, asked("plain"))
        cloud.calm()
    assert [b.state for b in boots(cloud)] == [BootState.BOOTED] * 2
    assert len([s for s in cloud.servers.servers() if s.status is ServerStatus.ACTIVE]) == 2
    cloud.checker.finally_()
    cloud.checker.check()


def test_it_is_cancelled_like_any_boot(cloud: Cloud) -> None:
    [boot] = queue(cloud, asked()).boots
    cloud.operator.cancel(boot.id)
    cloud.calm()
    assert boots(cloud)[0].state is BootState.CANCELLED
    assert cloud.servers.servers() == []


def test_sent_twice_with_one_key_it_counts_once(cloud: Cloud) -> None:
    somebody = Somebody(cloud.servers, "p1", "bob")
    first = queue(cloud, asked(count=2), somebody, key="k1")
    again = queue(cloud, asked(count=2), somebody, key="k1")
    assert (first.fresh, again.fresh) == (True, False)
    assert [b.id for b in again.boots] == [b.id for b in first.boots]
    assert len(boots(cloud)) == 2
    assert list(somebody.given) == ["trust-0"], "no second trust is asked for"
    with pytest.raises(Invalid, match="used for another request"):
        queue(cloud, asked("fpga.aes", count=2), somebody, key="k1")
    with pytest.raises(Invalid, match="used for another request"):
        queue(cloud, asked(), somebody, key="k1")
    other = queue(cloud, asked(), Somebody(cloud.servers, "p2", "bob"), key="k1")
    assert other.fresh, "keys are each user's own"
    assert len(queue(cloud, asked()).boots) == len(queue(cloud, asked()).boots) == 1
    assert len(boots(cloud)) == 5


def test_bad_ones_are_refused_at_the_edge_and_leave_nothing(cloud: Cloud) -> None:
    somebody = Somebody(cloud.servers, "p1", "bob")
    with pytest.raises(NotFound, match="no flavor nope"):
        queue(cloud, asked("nope"), somebody)
    for terms in ({"patience": 0.0}, {"priority": -1.0}, {"key": ""}, {"patience": float("nan")}):
        with pytest.raises(Invalid, match="--"):
            queue(cloud, asked(), somebody, **terms)
    assert boots(cloud) == []
    assert somebody.given == {}


def test_a_database_that_fails_leaves_no_trust(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    somebody = Somebody(cloud.servers, "p1", "bob")

    def fail(_self: Database) -> Any:
        raise RuntimeError

    monkeypatch.setattr(Database, "write", fail)
    with pytest.raises(RuntimeError):
        queue(cloud, asked(), somebody)
    assert somebody.withdrawn == ["trust-0"]


def test_a_commit_that_is_not_answered_keeps_the_trust(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent again under its key, it is found queued, and can be created in its owner's name."""
    somebody = Somebody(cloud.servers, "p1", "bob")
    write = Database.write

    @contextmanager
    def lose(self: Database) -> Iterator[Any]:
        with write(self) as tx:
            yield tx
        raise Unreachable("the answer to the commit is lost")

    monkeypatch.setattr(Database, "write", lose)
    with pytest.raises(Unreachable):
        queue(cloud, asked(), somebody, key="k")
    monkeypatch.undo()
    again = queue(cloud, asked(), somebody, key="k")
    assert not again.fresh
    assert [boot.trust for boot in again.boots] == ["trust-0"]
    assert "trust-0" not in somebody.withdrawn
