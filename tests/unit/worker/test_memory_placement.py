"""What the simulated Placement can do besides: faults, other clients, late allocations."""

from __future__ import annotations

from uuid import uuid4

import pytest

from changeover.models.errors import OutcomeUnknown, Stale, Unreachable
from changeover.models.placement import Inventory, RequestGroup, ResourceRequest
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.simulator.placement import Admitted, Faults, MemoryPlacement, When

CARD = str(uuid4())


def cloud(faults: Faults | None = None, *, conflict_retries: int = 10) -> MemoryPlacement:
    placement = MemoryPlacement(faults, conflict_retries=conflict_retries)
    placement.create_provider(CARD, "card")
    placement.put_inventories(CARD, 0, {"FPGA": Inventory(1)})
    return placement


def admitted(placement: MemoryPlacement) -> tuple[str, Admitted]:
    consumer = str(uuid4())
    found = placement.admit(consumer, {CARD: {"FPGA": 1}}, project="p", user="u")
    assert found is not None
    return consumer, found


def test_fault_before_a_call_leaves_everything_as_it_was() -> None:
    faults = Faults()
    placement = cloud(faults)
    faults.at(When.BEFORE, "put_inventories", Unreachable("gone"))
    with pytest.raises(Unreachable):
        placement.put_inventories(CARD, 1, {})
    assert placement.usage(CARD).generation == 1
    assert placement.put_inventories(CARD, 1, {}) == 2


def test_fault_after_a_call_loses_only_its_answer() -> None:
    faults = Faults()
    placement = cloud(faults)
    faults.at(When.AFTER, "put_inventories", OutcomeUnknown("lost"))
    with pytest.raises(OutcomeUnknown):
        placement.put_inventories(CARD, 1, {})
    assert placement.state(CARD).inventories == {}


def test_faults_strike_the_calls_that_they_were_told() -> None:
    faults = Faults()
    placement = cloud(faults)
    faults.at(When.BEFORE, "usage", Unreachable("gone"), skip=1, times=2)
    struck = []
    for _ in range(5):
        try:
            placement.usage(CARD)
            struck.append(False)
        except Unreachable:
            struck.append(True)
    assert struck == [False, True, True, False, False]


def test_another_client_acts_in_between() -> None:
    faults = Faults()
    placement = cloud(faults)
    faults.at(
        When.BEFORE,
        "put_inventories",
        lambda: placement.claim(str(uuid4()), {CARD: {"FPGA": 1}}, project="p", user="u"),
    )
    with pytest.raises(Stale):
        placement.put_inventories(CARD, 1, {})
    assert not placement.usage(CARD).idle


@pytest.mark.parametrize("fence", [{}, {"FPGA": Inventory(1, reserved=1)}])
def test_allocation_admitted_before_the_fence_lands_after_it(fence: dict[str, Inventory]) -> None:
    placement, clock = cloud(), VirtualClock()
    consumer, late = admitted(placement)
    clock.after(0.08, late.commit)
    fenced_at = placement.put_inventories(CARD, placement.usage(CARD).generation, fence)
    assert placement.usage(CARD).idle, "an immediate re-read misses it"
    clock.sleep(2.0)
    usage = placement.usage(CARD)
    assert (usage.by_consumer, usage.generation) == ({consumer: {"FPGA": 1}}, fenced_at + 1)
    again = placement.admit(str(uuid4()), {CARD: {"FPGA": 1}}, project="p", user="u")
    assert again is None, "nothing is admitted behind the fence"


def test_allocation_does_not_land_late_where_the_service_tries_once() -> None:
    placement = cloud(conflict_retries=1)
    _, late = admitted(placement)
    placement.put_inventories(CARD, 1, {})
    assert late.commit() is False
    assert placement.usage(CARD).idle


def test_allocation_lands_where_nothing_changed() -> None:
    placement = cloud(conflict_retries=1)
    consumer, admitted_ = admitted(placement)
    assert admitted_.commit() is True
    assert placement.held(consumer) == {CARD: {"FPGA": 1}}
    assert admitted_.commit() is False


def test_answers_come_in_the_order_in_which_providers_were_made() -> None:
    placement = MemoryPlacement()
    uuids = [str(uuid4()) for _ in range(20)]
    for number, uuid in enumerate(uuids):
        placement.create_provider(uuid, f"host-{number}")
        placement.put_inventories(uuid, 0, {"VCPU": Inventory(1)})
    request = ResourceRequest((RequestGroup(resources={"VCPU": 1}),))
    found = [next(iter(c.allocations)) for c in placement.candidates(request).candidates]
    assert found == uuids
    assert [p.uuid for p in placement.providers()] == uuids


def test_virtual_time_runs_what_is_due_in_its_order() -> None:
    clock, seen = VirtualClock(100.0), []
    clock.after(5.0, lambda: seen.append(("late", clock.now())))
    clock.after(1.0, lambda: (seen.append(("first", clock.now())), clock.sleep(1.0)))
    clock.after(1.0, lambda: seen.append(("second", clock.now())))
    clock.advance(3.0)
    assert (seen, clock.now()) == ([("first", 101.0), ("second", 101.0)], 103.0)
    clock.sleep(2.0)
    assert seen[-1] == ("late", 105.0)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1.0)
