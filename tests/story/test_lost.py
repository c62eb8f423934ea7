"""What a changeover or a boot counts on goes away for good: each still ends, and says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from story.test_crashes import carry_on
from story.test_guards import abandoned, quarantined
from story.test_holds import two_ready
from story.world import AFTER, BEFORE, Cloud, Worker

from changeover.models.errors import (
    AskOperator,
    ChangeoverError,
    Garbled,
    Refuse,
    Unreachable,
)
from changeover.worker.ports.servers import Server, ServerStatus


def lose_provider(cloud: Cloud, device: str) -> None:
    """Somebody deletes a provider: the card was pulled, or its host is no more."""
    cloud.placement._records.pop(cloud.device(device).provider, None)


def forget(cloud: Cloud, device: str) -> None:
    """The catalog is edited, and every process started again with it."""
    devices = tuple(d for d in cloud.catalog.devices if d.name != device)
    cloud.catalog = cloud.catalog.model_copy(update={"devices": devices})
    for worker in cloud.workers.values():
        worker._world = replace(worker.world, catalog=cloud.catalog)


def outcomes(cloud: Cloud) -> dict[str, int]:
    """What boots came to."""
    return {k: n for k, n in cloud.checker.seen.items() if k.startswith("boot ")}


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        pytest.param((BEFORE, "placement.put_inventories"), "device.gone", id="fencing"),
        pytest.param((BEFORE, "placement.usage"), "device.gone", id="settled"),
        pytest.param((AFTER, "programmer.program"), None, id="programmed"),
    ],
)
def test_a_provider_is_deleted_while_its_device_is_programmed(
    call: tuple[str, str], reason: str | None, tmp_path: Path
) -> None:
    """Its changeover ends at once, and the boot is served elsewhere."""
    with Cloud(tmp_path, patience_seconds=60.0) as cloud:

        def pull(_: Worker, when: str, what: str) -> None:
            if (when, what) == call:
                lose_provider(cloud, "gpu1")

        cloud.worker("a").plan = pull
        cloud.fail_boot("vgpu.8q")
        before = cloud.clock.now()
        carry_on(cloud, "a", 300.0)
        cloud.calm()
        cloud.checker.check()
        if reason is None:
            assert quarantined(cloud) == ["device.gone"]
        else:
            assert reason in abandoned(cloud)
        with cloud.database.read() as tx:
            [boot] = tx.boots.listed(over=True, limit=9)
        assert (boot.finished_at or 0.0) <= before + cloud.settings.patience_seconds + 60.0


@pytest.mark.parametrize("lose", [lose_provider, forget])
def test_a_boot_whose_slots_are_gone_asks_nova(
    lose: Callable[[Cloud, str], None], tmp_path: Path
) -> None:
    with Cloud(tmp_path, patience_seconds=60.0) as cloud:
        two_ready(cloud)
        with cloud.database.read() as tx:
            [provider] = {p.device for p in tx.boots.promises()}
        [name] = [d.name for d in cloud.catalog.devices if d.provider == provider]
        lose(cloud, name)
        before = cloud.clock.now()
        cloud.calm()
        cloud.checker.check()
        with cloud.database.read() as tx:
            boots = tx.boots.listed(over=True, limit=9)
        assert len(boots) == 2
        for boot in boots:
            assert (boot.finished_at or 0.0) <= before + cloud.settings.patience_seconds + 60.0


@pytest.mark.parametrize("order", ["told in order", "deletion told first"])
def test_a_failure_told_late_of_a_server_that_is_gone_makes_nothing(
    order: str, tmp_path: Path
) -> None:
    """Nova's services send each on its own, and a listener that died has its batch sent again."""
    with Cloud(tmp_path, patience_seconds=60.0) as cloud:
        [server] = cloud.servers.boot("wanted", "vgpu.8q")
        cloud.servers.user_delete(server)
        if order != "told in order":
            cloud.notifications.reverse()
        cloud.tell_all()
        carry_on(cloud, "a", 60.0)
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        assert not cloud.checker.seen["programmed"]


def test_what_nova_refuses_to_tell_for_ever_ends_with_patience(tmp_path: Path) -> None:
    """The boot's slots are there, and nobody may see the server that failed."""
    with Cloud(tmp_path, patience_seconds=60.0, hold_seconds=10.0) as cloud:

        def refuse(_: Worker, when: str, call: str) -> None:
            if (when, call) == (BEFORE, "servers.get"):
                raise AskOperator("403")

        cloud.worker("calm").plan = refuse
        cloud.fail_boot("vgpu.8q")
        cloud.calm()
        assert cloud.checker.seen["programmed"] == 1
        cloud.checker.finally_()
        cloud.checker.check()
        assert outcomes(cloud) == {"boot expired: boot.not_created": 1}


@pytest.mark.parametrize("mended", [True, False])
def test_our_own_credentials_are_refused_as_the_boot_is_created(
    tmp_path: Path,
    mended: bool,  # noqa: FBT001 - parametrised
) -> None:
    """That spends no attempts: it is for an operator to mend, and until then the boot waits."""
    with Cloud(tmp_path, patience_seconds=120.0, hold_seconds=10.0) as cloud:
        until = cloud.clock.now() + (90.0 if mended else 10_000.0)
        refused = []

        def refuse(worker: Worker, when: str, call: str) -> None:
            if (when, call) == (BEFORE, "servers.create") and cloud.clock.now() < until:
                refused.append(worker.name)
                raise AskOperator("401: check the credentials")

        cloud.worker("calm").plan = refuse
        cloud.fail_boot("vgpu.8q")
        cloud.calm()
        assert len(refused) > cloud.settings.max_attempts
        cloud.checker.finally_()
        cloud.checker.check()
        end = "booted: boot.booted" if mended else "expired: boot.not_created"
        assert outcomes(cloud) == {f"boot {end}": 1}


def test_a_failed_successor_that_may_not_be_deleted(tmp_path: Path) -> None:
    """It is tried for as long as patience lasts; then the boot ends, and says what is left."""
    with Cloud(tmp_path, patience_seconds=60.0) as cloud:

        def meanwhile(_: Worker, when: str, call: str) -> None:
            if (when, call) == (BEFORE, "servers.create"):
                cloud.servers.boot("quick", "vgpu.8q", count=2)
            if (when, call) == (BEFORE, "servers.delete"):
                raise Refuse("it is locked")

        cloud.worker("calm").plan = meanwhile
        cloud.fail_boot("vgpu.8q")
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        assert outcomes(cloud) == {"boot expired: boot.not_deleted": 1}


def test_a_changeover_that_nobody_takes_further_holds_no_boot_for_ever(tmp_path: Path) -> None:
    """A function is taken from the catalog while a device is to get it."""
    with Cloud(tmp_path, patience_seconds=60.0) as cloud:
        cloud.fail_boot("vgpu.8q")
        cloud.worker("calm").judge()
        functions = {n: f for n, f in cloud.catalog.functions.items() if n != "nvidia-37"}
        cloud.catalog = cloud.catalog.model_copy(update={"functions": functions})
        for worker in cloud.workers.values():
            worker._world = replace(worker.world, catalog=cloud.catalog)
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        assert outcomes(cloud) == {"boot expired: boot.changeover_stuck": 1}
        assert abandoned(cloud) == ["changeover.cancelled"]
        assert not cloud.checker.seen["programmed"]


@pytest.mark.parametrize("status", [ServerStatus.OTHER, ServerStatus.ERROR])
def test_what_became_of_a_successor_once_it_ran_is_its_owners(
    status: ServerStatus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, or broken by a resize, before anybody looked: it was booted, and is not deleted."""
    with Cloud(tmp_path, patience_seconds=60.0) as cloud:
        real = cloud.servers.get

        def get(uuid: str) -> Server | None:
            server = real(uuid)
            ran = server is not None and server.status is ServerStatus.ACTIVE
            return replace(server, status=status, fault="resize") if server and ran else server

        monkeypatch.setattr(cloud.servers, "get", get)
        cloud.fail_boot("vgpu.8q")
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        assert outcomes(cloud) == {"boot booted: boot.booted": 1}
        [alive] = [s for s in cloud.checker.replaces if cloud.checker.status[s] == "ACTIVE"]
        assert real(alive) is not None


@pytest.mark.parametrize("silence", [Unreachable, Garbled, AskOperator])
def test_a_server_of_which_nova_tells_nothing_keeps_no_other_waiting(
    tmp_path: Path, silence: type[ChangeoverError]
) -> None:
    """Its failure was told without its request, and the cell that knows it is down.

    Or Nova cannot be understood, or not be asked: it is declined for none of these.
    """
    with Cloud(tmp_path, patience_seconds=60.0) as cloud:

        def down(_: Worker, when: str, call: str) -> None:
            if (when, call) == (BEFORE, "servers.asked"):
                raise silence("its cell is down")

        cloud.worker("calm").plan = down
        cloud.servers.boot("strange", "vgpu.8q")
        for message in cloud.notifications:
            message["payload"]["nova_object.data"]["request_spec"] = None
        cloud.tell_all()
        [other] = cloud.fail_boot("fpga.regex")
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        assert outcomes(cloud) == {"boot booted: boot.booted": 1, "boot expired: boot.received": 1}
        with cloud.database.read() as tx:
            found = tx.boots.of_server(other)
        assert found is not None
        assert (found.finished_at or 0.0) < found.received_at + 60.0


def test_a_server_that_ran_once_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shelved, and then set to ERROR: its last fault may well be that no host was found."""
    with Cloud(tmp_path, patience_seconds=60.0) as cloud:
        real = cloud.servers.get

        def get(uuid: str) -> Server | None:
            server = real(uuid)
            return None if server is None else replace(server, launched=True)

        monkeypatch.setattr(cloud.servers, "get", get)
        cloud.fail_boot("vgpu.8q")
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        assert outcomes(cloud) == {"boot cancelled: boot.not_failed": 1}
        assert not cloud.checker.seen["created again"]
