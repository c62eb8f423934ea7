"""Two planners: one is paused with what it has gathered, until the other has acted on news."""

from __future__ import annotations

from pathlib import Path

from story.test_holds import two_ready
from story.world import BEFORE, Cloud, Stepper

from changeover.worker.judge import judge


def test_what_a_planner_gathered_long_ago_is_void(tmp_path: Path) -> None:
    """Meanwhile its task was cancelled, and the slots of its device are held for two boots."""
    with Cloud(tmp_path) as cloud, Stepper(cloud) as stepper:
        task = cloud.operator.program("nvidia-36", device="gpu1")
        first = cloud.worker("first")
        first.trace.clear()
        run = stepper.start(first, lambda: first.do(judge))
        while run.step(0) and first.trace[-1] != (BEFORE, "placement.providers"):
            pass
        while run.step(0) and first.trace[-1] != (BEFORE, "database.write"):
            pass
        cloud.operator.cancel(task.id)
        cloud.clock.advance(5 * 60.0)
        ready = two_ready(cloud)
        run.step()
        with cloud.database.read() as tx:
            assert {p.device for p in tx.boots.promises()} == {cloud.device("gpu1").provider}
            assert not tx.changeovers.live()
            assert [b for boot in ready if (b := tx.boots.get(boot)) and b.attempt == 0]
        cloud.calm()
        cloud.checker.finally_()
        cloud.checker.check()
        assert cloud.checker.seen["programmed"] == 1
        assert cloud.checker.seen["boot booted: boot.booted"] == 2
