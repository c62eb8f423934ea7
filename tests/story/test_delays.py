"""Messages that are an hour late: hints find nothing to do, failures count as they are then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from story.test_crashes import carry_on
from story.world import Cloud

from changeover.models.states import BootState

HOUR = 3600.0


def truth(cloud: Cloud) -> dict[str, Any]:
    """All that really is: what devices offer and hold, which servers there are."""
    return {
        "offers": {d.name: cloud.placement.offers(d.provider) for d in cloud.catalog.devices},
        "holds": {d.name: cloud.cards.function(d.name) for d in cloud.catalog.devices},
        "servers": {s.uuid: s.status for s in cloud.servers.servers()},
    }


def boot_of(cloud: Cloud, server: str) -> Any:
    with cloud.database.read() as tx:
        return tx.boots.of_server(server)


def test_every_message_of_a_rescue_comes_again_an_hour_later(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        hints, told = [], []
        cloud.database.courier = lambda sent: (hints.extend(sent), cloud.hints.extend(sent))
        real = cloud.tell

        def tell(message: Any) -> Any:
            told.append(message)
            return real(message)

        cloud.tell = tell  # type: ignore[method-assign] # to keep what is told
        [server] = cloud.fail_boot("vgpu.8q")
        worker = cloud.worker("a")
        send = worker.world.database.courier
        assert send is not None
        worker.world.database.courier = lambda sent: (hints.extend(sent), send(sent))
        carry_on(cloud, "a")
        assert boot_of(cloud, server).state is BootState.BOOTED
        cloud.clock.advance(HOUR)
        before = truth(cloud)
        kinds = {hint.task for hint in hints}
        assert len(kinds) == 3
        for message in told:
            assert real(message).outcome in {"duplicate", "ignored", "known", "woke"}
        for hint in hints:
            worker.take(hint)
        cloud.calm()
        assert truth(cloud) == before
        assert boot_of(cloud, server).state is BootState.BOOTED
        cloud.checker.finally_()
        cloud.checker.check()


@pytest.mark.parametrize("deleted", [False, True])
def test_a_failure_is_told_an_hour_late(tmp_path: Path, deleted: bool) -> None:  # noqa: FBT001 - parametrised
    """It is as old as it says, has its whole patience, and is no boot if nobody wants it."""
    with Cloud(tmp_path) as cloud:
        failed_at = cloud.clock.now()
        [server] = cloud.servers.boot("late", "vgpu.8q")
        late = list(cloud.notifications)
        cloud.notifications.clear()
        cloud.clock.advance(HOUR)
        if deleted:
            cloud.servers.user_delete(server)
            cloud.tell_all()
        for message in reversed(late):
            cloud.tell(message)
        if deleted:
            assert boot_of(cloud, server) is None
        else:
            assert boot_of(cloud, server).failed_at == pytest.approx(failed_at, abs=1.0)
        carry_on(cloud, "a")
        cloud.calm()
        assert deleted or boot_of(cloud, server).state is BootState.BOOTED
        assert cloud.checker.seen["programmed"] == (not deleted)
        cloud.checker.finally_()
        cloud.checker.check()


def test_hints_that_never_come_are_made_up_for_long_before_an_hour(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        started = cloud.clock.now()
        [server] = cloud.fail_boot("vgpu.8q")
        for _ in range(40):
            cloud.hints.clear()  # on their way for an hour, all of them
            cloud.clock.advance(5.0)
            cloud.worker("a").sweep()
            taken, cloud.hints[:] = list(cloud.hints), []
            for hint in taken:
                cloud.worker("a").take(hint)
            cloud.tell_all()
        assert boot_of(cloud, server).state is BootState.BOOTED
        assert cloud.clock.now() - started < HOUR
        cloud.checker.check()
