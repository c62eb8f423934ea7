"""Devices are ready when a lease starts, are kept for it, and nothing is lost when it moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from story.world import Cloud

from changeover.models.errors import Unreachable
from changeover.models.keep import Keep
from changeover.models.placement import RequestGroup, ResourceRequest
from changeover.models.reservation import Reservation
from changeover.models.states import BootState, ChangeoverState
from changeover.worker.gather import gather
from changeover.worker.judge import judge
from changeover.worker.reserve import reserve


class Service:
    """Leases, as somebody books and moves them; ``None``: it does not answer."""

    def __init__(self) -> None:
        self.leases: dict[str, Reservation] | None = {}

    def upcoming(self, now: float) -> list[Reservation]:
        if self.leases is None:
            raise Unreachable("Blazar does not answer")
        return [one for one in self.leases.values() if one.ends_at > now]


class Booked(Cloud):
    """A cloud with leases."""

    service: Service

    def look(self) -> None:
        """One tick, and all that follows from it."""
        worker = self.worker("a")
        if worker.do(lambda world: reserve(world, self.service)):
            worker.do(judge)

    def book(self, start_in: float, *, units: int = 1, function: str = "regex") -> Reservation:
        made = self.catalog.functions[function]
        group = RequestGroup(resources={made.resource_class: 1}, required=frozenset(made.traits))
        now = self.clock.now()
        lease = Reservation(
            id=f"reservation-{len(self.service.leases or ())}",
            lease="l",
            name="course",
            project="p",
            kind="flavor:instance",
            starts_at=now + start_in,
            ends_at=now + start_in + 5_000.0,
            units=units,
            request=ResourceRequest(groups=(group,)),
        )
        assert self.service.leases is not None
        self.service.leases[lease.id] = lease
        return lease

    def kept(self, lease: Reservation) -> list[Keep]:
        with self.database.read() as tx:
            return tx.keeps.standing(self.clock.now(), subject=lease.id)

    def why(self, lease: Reservation) -> str:
        with self.database.read() as tx:
            return next(r.reason.text for r in tx.reservations.all() if r.id == lease.id)

    def offering(self, function: str) -> set[str]:
        with self.database.read() as tx:
            return {r.provider for r in tx.devices.all() if r.function == function}

    def begun(self) -> int:
        with self.database.read() as tx:
            return len(tx.changeovers.latest())


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Booked]:
    with Booked(tmp_path, reservation_margin_seconds=300.0, keep_seconds=600.0) as made:
        made.service = Service()
        yield made


def test_a_device_is_ready_when_the_lease_starts_and_is_not_changed_before_it_is_due(
    cloud: Booked,
) -> None:
    lease = cloud.book(5_000.0)
    cloud.look()
    cloud.calm()
    assert cloud.begun() == 0
    assert "begin" in cloud.why(lease)
    cloud.clock.advance(lease.starts_at - cloud.clock.now() - 300.0)
    cloud.look()
    assert cloud.begun() == 1
    assert cloud.why(lease) == "1 slot(s) are kept or being made for it"
    cloud.calm(seconds=200.0)
    assert cloud.clock.now() < lease.starts_at
    [kept] = cloud.kept(lease)
    assert kept.device in cloud.offering("regex")
    cloud.look()
    assert cloud.begun() == 1, "what is there is not made again"
    assert "ready" in cloud.why(lease)
    # An owner of the lease can take it: it is kept from changeovers, not from allocations.
    [server] = cloud.servers.boot("lessee", "fpga.regex")
    assert cloud.servers.get(server).status == "ACTIVE"  # type: ignore[union-attr]  # it was built
    cloud.checker.finally_()
    cloud.checker.check()


def test_what_is_kept_for_a_lease_is_not_taken_by_others(cloud: Booked) -> None:
    lease = cloud.book(100.0, units=1)
    cloud.look()
    cloud.calm(seconds=90.0)
    [kept] = cloud.kept(lease)
    name = next(d.name for d in cloud.catalog.devices if d.provider == kept.device)
    cloud.operator.program("aes", device=name)
    cloud.worker("a").judge()
    with cloud.database.read() as tx:
        assert tx.changeovers.live_of_device(kept.device) is None
        [task] = tx.tasks.all(queued_only=True)
    assert task.state == "queued"
    gathered = gather(cloud.worker("a").world)
    blocked = next(d.blocked for d in gathered.inputs.devices if d.uuid == kept.device)
    assert blocked is not None
    assert blocked.code == "device.kept"


def test_a_lease_that_is_cancelled_frees_what_was_kept(cloud: Booked) -> None:
    lease = cloud.book(100.0)
    cloud.look()
    assert cloud.kept(lease)
    cloud.service.leases = {}
    cloud.look()
    assert not cloud.kept(lease)
    with cloud.database.read() as tx:
        assert tx.reservations.all() == []


def test_a_lease_that_moves_is_served_at_its_new_time(cloud: Booked) -> None:
    lease = cloud.book(100.0)
    cloud.look()
    cloud.calm(seconds=90.0)
    assert cloud.kept(lease)
    later = replace(lease, starts_at=lease.starts_at + 9_000.0, ends_at=lease.ends_at + 9_000.0)
    cloud.service.leases = {lease.id: later}
    cloud.look()
    assert not cloud.kept(lease), "it stands free for others until the new time is near"
    cloud.clock.advance(later.starts_at - cloud.clock.now() - 100.0)
    cloud.look()
    cloud.calm(seconds=90.0)
    [kept] = cloud.kept(lease)
    assert kept.until == later.starts_at + 600.0


def test_a_service_that_does_not_answer_loses_nothing(cloud: Booked) -> None:
    lease = cloud.book(5_000.0)
    cloud.look()
    cloud.service.leases = None
    cloud.clock.advance(4_800.0)
    cloud.look()
    cloud.calm(seconds=150.0)
    assert cloud.kept(lease), "what is known of it counts"


def test_a_changeover_that_fails_is_made_up_for(cloud: Booked) -> None:
    lease = cloud.book(250.0)
    cloud.look()
    with cloud.database.write() as tx:
        [changeover] = tx.changeovers.live()
        tx.changeovers.ask_cancel(changeover.id)
    cloud.calm(seconds=60.0)
    with cloud.database.read() as tx:
        assert tx.changeovers.get(changeover.id).state is ChangeoverState.ABANDONED  # type: ignore[union-attr]  # it is there
    cloud.look()
    cloud.calm(seconds=150.0)
    [kept] = cloud.kept(lease)
    assert kept.device in cloud.offering("regex")


def test_a_waiting_boot_comes_before_a_lease_that_is_not_near(cloud: Booked) -> None:
    lease = cloud.book(250.0, units=4, function="nvidia-36")
    cloud.fail_boot("vgpu.8q")
    cloud.look()
    cloud.calm(seconds=60.0)
    with cloud.database.read() as tx:
        [boot] = [b for b in tx.boots.listed(over=None, limit=9) if b.origin == "failure"]
    assert boot.state is BootState.BOOTED
    assert len(cloud.kept(lease)) < 4


def test_after_its_beginning_a_lease_keeps_nothing(cloud: Booked) -> None:
    lease = cloud.book(100.0)
    cloud.look()
    cloud.calm(seconds=90.0)
    assert cloud.kept(lease)
    cloud.clock.advance(1_000.0)
    cloud.look()
    assert not cloud.kept(lease)
    assert "has begun" in cloud.why(lease)
