"""Who consents, in what order a failed server and its successor come and go, killed anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from selecting import selecting
from story.test_crashes import carry_on
from story.world import EFFECTS, Cloud, Worker

from changeover.models.blueprint import Blueprint
from changeover.models.boot import Boot
from changeover.models.states import BootState
from changeover.policies.consent import RECREATE
from changeover.worker.ports.servers import MARKER, Listing, Server, ServerStatus
from changeover.worker.reboot import FAULT_SECONDS, STALL_SECONDS
from changeover.worker.simulator.servers import ServersFault

FLAVOR = "vgpu.8q"


def boot_of(cloud: Cloud, server: str) -> Boot:
    with cloud.database.read() as tx:
        boot = tx.boots.of_server(server)
    assert boot is not None
    return boot


def alive(cloud: Cloud) -> list[Server]:
    return [s for s in cloud.servers.servers() if s.status is not ServerStatus.DELETED]


def created(cloud: Cloud) -> int:
    journal = cloud.servers.journal()
    return sum(e["event"] == "create" and e["by"] == "changeover" for e in journal)


def crash_after_the_first_create(number: int) -> Callable[[Worker, str, str], None]:
    """A plan that kills at the ``number``-th boundary after the create that the quota refuses."""
    passed = -1

    def plan(worker: Worker, _when: str, call: str) -> None:
        nonlocal passed
        if call == "servers.create" or passed >= 0:
            passed += call in EFFECTS
            if passed == number:
                worker.die()

    return plan


# ---------------------------------------------------------------- consent


@pytest.mark.parametrize(
    ("metadata", "state", "code"),
    [
        ({}, BootState.DECLINED, "boot.capacity_made"),
        ({RECREATE: "false"}, BootState.DECLINED, "boot.capacity_made"),
        ({RECREATE: "true"}, BootState.BOOTED, "boot.booted"),
    ],
)
def test_only_who_opted_in_is_created_again(
    tmp_path: Path, metadata: dict[str, str], state: BootState, code: str
) -> None:
    with Cloud(tmp_path, recreate="opted-in") as cloud:
        [server] = cloud.fail_boot(FLAVOR, metadata=metadata)
        cloud.calm()
        boot = boot_of(cloud, server)
        assert (boot.state, boot.reason.code) == (state, code)
        assert created(cloud) == (state is BootState.BOOTED)
        if state is BootState.DECLINED:
            assert RECREATE in boot.reason.text
            assert boot.blueprint is None
        else:
            assert boot.blueprint is not None
            with cloud.database.read() as tx:
                deeds = tx.audit.of(boot.id)
            [why] = [d["facts"]["reason"] for d in deeds if d["action"] == "boot.creating"]
            assert why["text"] == (
                "created again in its owner's name: the server's metadata say "
                "changeover:recreate=true"
            )
        cloud.checker.finally_()
        assert not cloud.checker.violations, cloud.checker.violations


def test_a_project_opts_in_and_a_flavor_opts_out(tmp_path: Path) -> None:
    with Cloud(tmp_path, recreate="opted-in", recreate_projects=["demo"]) as cloud:
        flavor = cloud.servers.flavor(FLAVOR)
        no = {**flavor.extra_specs, RECREATE: "false"}
        cloud.servers.add_flavor(flavor.model_copy(update={"name": "no", "extra_specs": no}))
        [first] = cloud.fail_boot(FLAVOR)
        [second] = cloud.fail_boot("no")
        cloud.calm()
        assert boot_of(cloud, first).state is BootState.BOOTED
        assert "flavor" in boot_of(cloud, second).reason.text


def test_what_cannot_be_had_again_is_refused_by_policy(tmp_path: Path) -> None:
    with Cloud(tmp_path, lost_networks="refuse") as cloud:
        [server] = cloud.fail_boot(FLAVOR, networks=[{"uuid": "n1"}])
        [stated] = cloud.fail_boot(
            FLAVOR, networks=[{"uuid": "n1"}], metadata={"changeover:networks": "n1"}
        )
        cloud.calm()
        boot = boot_of(cloud, server)
        assert (boot.state, boot.reason.code) == (BootState.DECLINED, "boot.capacity_made")
        assert "lost_networks = refuse" in boot.reason.text
        assert boot_of(cloud, stated).state is BootState.BOOTED


# ---------------------------------------------------------------- who goes when


def test_the_failed_server_stays_until_its_successor_is_active(tmp_path: Path) -> None:
    with Cloud(tmp_path, delete_failed="never") as cloud:
        [server] = cloud.fail_boot(FLAVOR)
        cloud.calm()
        boot = boot_of(cloud, server)
        assert boot.state is BootState.BOOTED
        assert {s.uuid for s in alive(cloud)} == {server, boot.successor}


def test_without_leave_the_quota_keeps_a_boot_waiting(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        cloud.servers.set_quota("demo", 1)
        [server] = cloud.fail_boot(FLAVOR)
        cloud.calm()
        boot = boot_of(cloud, server)
        assert boot.state is BootState.EXPIRED
        assert "Quota exceeded" in boot.reason.text
        assert [s.uuid for s in alive(cloud)] == [server]


def test_killed_while_it_makes_room_for_the_quota(tmp_path: Path) -> None:
    number = 0
    while True:
        number += 1
        with Cloud(tmp_path / str(number), delete_failed="for-quota") as cloud:
            cloud.servers.set_quota("demo", 1)
            worker = cloud.worker("a")
            worker.plan = crash_after_the_first_create(number)
            [server] = cloud.fail_boot(FLAVOR)
            carry_on(cloud, "a")
            cloud.calm(drop_hints=number % 2 == 0)
            boot = boot_of(cloud, server)
            what = f"killed at {number}: {worker.trace[-1]}: {cloud.describe()}"
            assert boot.state is BootState.BOOTED, what
            assert boot.removed_at is not None, what
            assert [s.uuid for s in alive(cloud)] == [boot.successor], what
            assert created(cloud) == 1, what
            if not worker.dead:
                break
    assert number > 5


def test_its_owner_deletes_it_just_before_we_do(tmp_path: Path) -> None:
    with Cloud(tmp_path, delete_failed="for-quota") as cloud:
        cloud.servers.set_quota("demo", 1)
        worker = cloud.worker("a")
        [server] = cloud.fail_boot(FLAVOR)

        def plan(worker: Worker, when: str, call: str) -> None:
            if (when, call) == ("before", "servers.delete"):
                worker.plan = None
                cloud.servers.user_delete(server)

        worker.plan = plan
        carry_on(cloud, "a")
        cloud.calm()
        assert boot_of(cloud, server).state is BootState.CANCELLED
        assert alive(cloud) == []
        assert created(cloud) == 0


def test_a_create_that_lands_while_a_slow_listing_is_made_is_not_sent_again(
    tmp_path: Path,
) -> None:
    with Cloud(tmp_path) as cloud:
        longest = cloud.servers.longest_request_seconds
        find = cloud.servers.find

        def slow(marker: str, project: str, since: float) -> Listing:
            found = find(marker, project, since)
            cloud.clock.advance(longest + STALL_SECONDS + 1.0)
            return found

        cloud.servers.find = slow  # type: ignore[method-assign]  # a Nova that lists slowly
        cloud.servers.inject(ServersFault.CREATE_LATE, seconds=longest - 1.0)
        [server] = cloud.fail_boot(FLAVOR)
        cloud.calm()
        assert boot_of(cloud, server).state is BootState.BOOTED
        assert created(cloud) == 1


def test_a_failure_of_a_successor_that_its_boot_does_not_know_yet_makes_no_second_one(
    tmp_path: Path,
) -> None:
    with Cloud(tmp_path) as cloud:
        [first] = cloud.fail_boot(FLAVOR)
        owner = boot_of(cloud, first).id
        [successor] = cloud.fail_boot(FLAVOR, metadata={MARKER: f"{owner}.1"})
        cloud.calm()
        assert boot_of(cloud, first).state is BootState.BOOTED
        absorbed = boot_of(cloud, successor)
        assert (absorbed.state, absorbed.reason.code) == (BootState.CANCELLED, "boot.absorbed")
        assert absorbed.reason.facts["boot"] == owner
        assert created(cloud) == 1


def test_a_forced_host_is_kept_though_nova_shows_it_to_nobody(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        get, host = cloud.servers.get, cloud.device("gpu1").host

        def without_host(uuid: str) -> Server | None:
            found = get(uuid)
            if found is None or found.blueprint is None:
                return found
            return replace(found, blueprint=found.blueprint.model_copy(update={"host": None}))

        cloud.servers.get = without_host  # type: ignore[method-assign]  # as the real Nova
        [server] = cloud.fail_boot(FLAVOR, host=host)
        cloud.calm()
        boot = boot_of(cloud, server)
        assert boot.state is BootState.BOOTED
        assert boot.blueprint is not None
        assert boot.blueprint.host == host


def test_while_a_listing_is_not_complete_no_other_create_is_sent(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        find, up_at = cloud.servers.find, cloud.clock.now() + 500.0

        def without_a_cell(marker: str, project: str, since: float) -> Listing:
            if cloud.clock.now() < up_at:
                return Listing((), complete=False)
            return find(marker, project, since)

        assert up_at - cloud.clock.now() > 2 * cloud.servers.longest_request_seconds
        cloud.servers.find = without_a_cell  # type: ignore[method-assign]  # a Nova with a cell down
        cloud.servers.inject(ServersFault.CREATE_DONE)
        [server] = cloud.fail_boot(FLAVOR)
        cloud.calm()
        assert boot_of(cloud, server).state is BootState.BOOTED
        assert created(cloud) == 1


@pytest.mark.parametrize(
    ("seconds", "state", "code"),
    [
        (12.0, BootState.DECLINED, "boot.filters_rejected"),
        (1e9, BootState.EXPIRED, "boot.attempts_spent"),
    ],
)
def test_a_server_in_error_is_decided_on_once_its_fault_is_known(
    tmp_path: Path, seconds: float, state: BootState, code: str
) -> None:
    """Nova shows ERROR a moment before it shows why; it is not waited for without end."""
    with Cloud(tmp_path, max_attempts=1) as cloud:
        get, first = cloud.servers.get, dict[str, float]()

        def late(uuid: str) -> Server | None:
            found = get(uuid)
            if found is None:
                return None
            if MARKER in found.metadata:
                said = "No valid host was found."
                found = replace(found, status=ServerStatus.ERROR, fault=said, launched=False)
            now = cloud.clock.now()
            known = now >= first.setdefault(uuid, now) + seconds
            return found if known else replace(found, fault="")

        cloud.servers.get = late  # type: ignore[method-assign]  # a Nova that is slow to say why
        [server] = cloud.fail_boot(FLAVOR)
        carry_on(cloud, "a", seconds=4.0)
        assert created(cloud) == 0, "its fault is not known"
        cloud.calm()
        boot = boot_of(cloud, server)
        assert (boot.state, boot.reason.code) == (state, code)
        assert created(cloud) == 1
        [sent] = [e["t"] for e in cloud.servers.journal() if e["event"] == "create"][1:]
        assert sent >= first[server] + min(seconds, FAULT_SECONDS)


@pytest.mark.parametrize("told", [False, True])
def test_its_owner_deletes_a_successor_before_its_create_was_found(
    tmp_path: Path, *, told: bool
) -> None:
    """It is listed as deleted, or where Nova knows its marker no more, told of."""
    with Cloud(tmp_path) as cloud:
        find = cloud.servers.find

        def forgetful(marker: str, project: str, since: float) -> Listing:
            [successor] = [s for s in cloud.servers.servers() if s.metadata.get(MARKER) == marker]
            if successor.status is not ServerStatus.DELETED:
                cloud.servers.user_delete(successor.uuid)
            if not told:
                cloud.notifications.clear()
            found = find(marker, project, since)
            return replace(found, servers=()) if told else found

        cloud.servers.find = forgetful  # type: ignore[method-assign]  # a Nova before 2.100
        cloud.servers.inject(ServersFault.CREATE_DONE)
        [server] = cloud.fail_boot(FLAVOR)
        cloud.calm()
        boot = boot_of(cloud, server)
        assert (boot.state, boot.reason.code) == (BootState.CANCELLED, "boot.successor_deleted")
        assert created(cloud) == 1
        assert [s.uuid for s in alive(cloud)] == [server]


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_its_owner_deletes_a_successor_before_it_is_scheduled(
    tmp_path: Path, *, answered: bool, late: bool
) -> None:
    """Nova keeps nothing of it; all that is left is that hosts were chosen for its create call."""
    with Cloud(tmp_path) as cloud:
        create, gone, sent = cloud.servers.create, str(uuid4()), 0

        def vanishing(blueprint: Blueprint, marker: str, **whose: Any) -> str:
            nonlocal sent
            sent += 1
            if not late:
                cloud.tell(selecting(gone, marker, whose["project"]))
            if answered:
                return gone
            return create(blueprint, marker, **whose)

        cloud.servers.create = vanishing  # type: ignore[method-assign]  # a Nova that forgets
        cloud.servers.inject(ServersFault.CREATE_LOST, times=None)
        cloud.servers.longest_request_seconds = 300.0
        [server] = cloud.fail_boot(FLAVOR)
        carry_on(cloud, "a", seconds=60.0)
        if late and not answered:
            boot = boot_of(cloud, server)
            assert boot.state is BootState.CREATING
            cloud.tell(selecting(gone, boot.marker, boot.project))
        cloud.calm()
        boot = boot_of(cloud, server)
        assert (boot.state, boot.reason.code) == (BootState.CANCELLED, "boot.successor_deleted")
        assert (boot.successor, sent) == (gone, 1)
        assert [s.uuid for s in alive(cloud)] == [server]


@pytest.mark.parametrize("built", [False, True])
def test_its_owner_deletes_it_while_its_successor_is_built(tmp_path: Path, *, built: bool) -> None:
    """Still building: nobody wants it any more. Active by then: somebody may use it already."""
    with Cloud(tmp_path) as cloud:
        get = cloud.servers.get
        slow = True

        def building(uuid: str) -> Server | None:
            found = get(uuid)
            if found is None or not slow or found.status is not ServerStatus.ACTIVE:
                return found
            return replace(found, status=ServerStatus.BUILD, launched=False)

        cloud.servers.get = building  # type: ignore[method-assign]  # a Nova that builds slowly
        [server] = cloud.fail_boot(FLAVOR)
        carry_on(cloud, "a", seconds=30.0)
        boot = boot_of(cloud, server)
        assert boot.state is BootState.BUILDING
        slow = not built
        cloud.servers.user_delete(server)
        cloud.calm()
        boot = boot_of(cloud, server)
        assert boot.state is (BootState.BOOTED if built else BootState.CANCELLED)
        assert [s.uuid for s in alive(cloud)] == ([boot.successor] if built else [])
