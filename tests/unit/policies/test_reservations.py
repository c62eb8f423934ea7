"""Leases as demand with a time: what is made for them, from when on, and how urgent it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from changeover.models.placement import RequestGroup, ResourceRequest
from changeover.models.reasons import Reason
from changeover.models.reservation import Reservation
from changeover.policies.reservations import EARLY_WEIGHT, NEAR_WEIGHT, Lead, Wanted, wanted
from changeover.worker.simulator.fleet import Shape, describe_fleet

CATALOG = describe_fleet(Shape()).catalog
LEAD = Lead(settle=10.0, margin=300.0, grace=600.0)
AES = CATALOG.functions["aes"]


def asking(**group: object) -> ResourceRequest:
    least = {"resources": {"CUSTOM_FPGA": 1}, "required": frozenset(AES.traits)}
    return ResourceRequest(groups=(RequestGroup(**{**least, **group}),))  # type: ignore[arg-type]  # a test's shorthand


LEASE = Reservation(
    id="r1",
    lease="l1",
    name="course",
    project="p",
    kind="flavor:instance",
    starts_at=10_000.0,
    ends_at=20_000.0,
    units=3,
    request=asking(),
)


def made(reservation: Reservation) -> Wanted:
    found = wanted(reservation, CATALOG, LEAD)
    assert isinstance(found, Wanted), found
    return found


def test_changeovers_begin_so_early_that_they_are_done_in_time_and_no_earlier() -> None:
    want = made(LEASE)
    assert [need.functions for need in want.needs] == [("aes",)]
    assert want.units == 3
    assert want.near_at == 10_000.0 - AES.seconds - 10.0
    assert want.due_at == want.near_at - 300.0
    assert not want.is_due(want.due_at - 0.1)
    assert want.is_due(want.due_at)
    assert want.is_due(10_599.9)
    assert not want.is_due(10_600.0)


def test_boots_that_wait_come_first_until_the_start_is_near() -> None:
    want = made(LEASE)
    assert want.weight(want.due_at) == EARLY_WEIGHT < 1.0
    assert want.weight(want.near_at - 0.1) == EARLY_WEIGHT
    assert want.weight(want.near_at) == NEAR_WEIGHT > 1.0


def test_a_short_lease_is_kept_for_no_longer_than_it_lasts() -> None:
    assert made(replace(LEASE, ends_at=10_100.0)).until == 10_100.0


def test_a_lease_that_moves_is_due_at_another_time() -> None:
    assert made(replace(LEASE, starts_at=12_000.0)).due_at == made(LEASE).due_at + 2_000.0


@pytest.mark.parametrize("words", [AES.traits, (*AES.traits, "==", "and", "vcpus", "8")])
def test_words_of_a_filter_that_are_traits_name_functions(words: tuple[str, ...]) -> None:
    lease = replace(LEASE, kind="virtual:instance", request=None, words=frozenset(words))
    assert [need.functions for need in made(lease).needs] == [("aes",)]


@pytest.mark.parametrize(
    ("lease", "code"),
    [
        (replace(LEASE, kind="physical:host", request=None), "reservation.plain"),
        (replace(LEASE, request=None, words=frozenset({"=", "CUSTOM_NONE"})), "reservation.plain"),
    ],
)
def test_what_needs_no_device(lease: Reservation, code: str) -> None:
    why = wanted(lease, CATALOG, LEAD)
    assert isinstance(why, Reason)
    assert why.code == code


def test_what_no_function_has_says_so() -> None:
    lease = replace(LEASE, request=asking(required=frozenset({"CUSTOM_FPGA_FUNCTION_AESS"})))
    why = wanted(lease, CATALOG, LEAD)
    assert isinstance(why, Reason)
    assert "AESS" in why.text


def test_a_reservation_comes_back_from_its_json() -> None:
    for one in (LEASE, replace(LEASE, request=None, words=frozenset({"a", "b"}))):
        assert Reservation.from_json(one.as_json()) == one
