"""Everything at once, at random: users, operators, crashes, lost messages, faults, other clients.

After each step the checker looks; in the end the faults stop, and all that was accepted must come
to one outcome, with the cloud as its rows say.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from story.checker import OTHER
from story.trouble import Trouble
from story.world import BEFORE, BlindDriver, Cloud, SimulatedDriver, Worker

from changeover.models.errors import (
    ChangeoverError,
    Refuse,
)
from changeover.models.flavor import Flavor
from changeover.models.states import ChangeoverState
from changeover.policies.offer import own_classes
from changeover.worker.ports.servers import ServerStatus
from changeover.worker.simulator.cards import Fault, FaultKind
from changeover.worker.simulator.fleet import offered
from changeover.worker.simulator.servers import ServersFault

LONG = os.environ.get("CHANGEOVER_LONG") == "1"

FLAVORS = (
    "plain", "fpga.aes", "fpga.gzip", "fpga.sha3", "fpga.regex", "fpga.ipsec",
    "region.aes", "region.regex", "vgpu.2q", "vgpu.4q", "vgpu.8q", "unknown",
)  # fmt: skip
FUNCTIONS = ("aes", "gzip", "sha3", "regex", "nvidia-35", "nvidia-36", "nvidia-37")
DEVICES = ("fpga1", "fpga2", "fpga3", "fpga4", "gpu1", "dyn1-r1", "dyn1-r2")
WORKERS = ("a", "b", "c")
CARD_FAULTS = (
    FaultKind.FAIL,
    FaultKind.HANG,
    FaultKind.FAIL_AFTER_SUCCESS,
    FaultKind.SUCCESS_AFTER_FAILURE,
    FaultKind.WRONG_FUNCTION,
    FaultKind.DIE,
    FaultKind.LATE,
    FaultKind.CORRUPT,
)
SERVER_FAULTS = tuple(ServersFault)

UNKNOWN = Flavor(
    name="unknown",
    flavorid="u",
    vcpus=1,
    memory_mb=64,
    root_gb=1,
    extra_specs={
        "resources:CUSTOM_FPGA": "1",
        "trait:CUSTOM_FPGA_FUNCTION_AESS": "required",
    },
)

MEANWHILE = (
    "another works", "another works", "another works", "late", "late", "drain", "owner",
    "open", "close", "trait",
)  # fmt: skip
TROUBLE = st.one_of(
    st.none(),
    st.tuples(st.just("crash"), st.integers(0, 40)),
    st.tuples(
        st.sampled_from(["unreachable", "lost request", "lost answer", "stale", "garbage"]),
        st.integers(0, 12),
    ),
)


class Story(RuleBasedStateMachine):
    """One cloud and what may befall it."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="story-"))
        self.cloud: Cloud = None  # type: ignore[assignment]  # until it begins
        self.consumers = 0
        self.strangers: list[str] = []

    @initialize(
        resets=st.sampled_from(["self", "card"]),
        driver=st.sampled_from([SimulatedDriver, SimulatedDriver, BlindDriver]),
        tries=st.integers(1, 3),
    )
    def begin(self, resets: str, driver: type[SimulatedDriver], tries: int) -> None:
        self.cloud = Cloud(
            self.root, resets=resets, driver=driver, program_tries=tries, function_failures=3
        )
        self.cloud.servers.add_flavor(UNKNOWN)

    # -- users ------------------------------------------------------------------------------

    @rule(flavor=st.sampled_from(FLAVORS), count=st.integers(1, 3), project=st.sampled_from("pq"))
    def boot(self, flavor: str, count: int, project: str) -> None:
        self.cloud.servers.boot("wanted", flavor, count=count, project=project)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        there = [s for s in self.cloud.servers.servers() if s.status is not ServerStatus.DELETED]
        if there:
            self.cloud.servers.user_delete(data.draw(st.sampled_from(there)).uuid)

    # -- messages ---------------------------------------------------------------------------

    @rule(keep=st.booleans())
    def tell(self, keep: bool) -> None:  # noqa: FBT001 - Hypothesis passes by name
        """Deliver what Nova told; with ``keep`` it will be delivered again."""
        told = list(self.cloud.notifications)
        if not keep:
            self.cloud.notifications.clear()
        for message in told:
            self.cloud.tell(message)

    @rule(data=st.data())
    def tell_one(self, data: st.DataObject) -> None:
        """Deliver one of them, out of order."""
        if self.cloud.notifications:
            at = data.draw(st.integers(0, len(self.cloud.notifications) - 1))
            self.cloud.tell(self.cloud.notifications.pop(at))

    @rule()
    def lose_hints(self) -> None:
        self.cloud.hints.clear()

    @precondition(lambda self: self.cloud.hints)
    @rule(data=st.data(), name=st.sampled_from(WORKERS), twice=st.booleans())
    def deliver(self, data: st.DataObject, name: str, twice: bool) -> None:  # noqa: FBT001 - as above
        """Deliver one hint: in any order, too early, twice."""
        at = data.draw(st.integers(0, len(self.cloud.hints) - 1))
        hint = self.cloud.hints[at]
        if not twice:
            del self.cloud.hints[at]
        self._worker(name).take(hint)

    @rule(name=st.sampled_from(WORKERS))
    def deliver_due(self, name: str) -> None:
        for hint in self.cloud.due():
            self.cloud.hints.remove(hint)
            self._worker(name).take(hint)

    @rule(name=st.sampled_from(WORKERS), floors=st.booleans())
    def plan(self, name: str, floors: bool) -> None:  # noqa: FBT001 - as above
        self._worker(name).judge(floors=floors)

    @rule(name=st.sampled_from(WORKERS))
    def sweep(self, name: str) -> None:
        self._worker(name).sweep()

    @rule(trouble=TROUBLE, name=st.sampled_from(WORKERS), turns=st.integers(1, 6))
    def work(self, trouble: tuple[str, int] | None, name: str, turns: int) -> None:
        """A worker does what is due, waits for what comes next, and so on; it may meet trouble."""
        worker = self._worker(name)
        worker.plan = None if trouble is None else Trouble(*trouble)
        self._work(worker, turns)

    @rule(
        flavor=st.sampled_from(FLAVORS),
        fault=st.one_of(st.none(), st.sampled_from(CARD_FAULTS)),
        trouble=TROUBLE,
        turns=st.integers(2, 6),
    )
    def boot_and_work(
        self,
        flavor: str,
        fault: FaultKind | None,
        trouble: tuple[str, int] | None,
        turns: int,
    ) -> None:
        """A boot fails, and somebody tries to rescue it; its device may not be well."""
        if fault is not None:
            self.cloud.cards.inject(Fault(fault, other="sha3", seconds=20.0))
        self.cloud.servers.boot("wanted", flavor)
        worker = self._worker("a")
        worker.plan = None if trouble is None else Trouble(*trouble)
        self._work(worker, turns)

    @rule(
        number=st.integers(1, 80),
        device=st.sampled_from(DEVICES),
        what=st.sampled_from(MEANWHILE),
        pause=st.sampled_from([0.0, 0.0, 25.0]),
        turns=st.integers(2, 6),
    )
    def work_while(self, number: int, device: str, what: str, pause: float, turns: int) -> None:
        """In the middle of a worker's work, between any two of its calls, others act."""
        worker = self._worker("a")
        passed = 0

        def plan(paused: Worker, when: str, call: str) -> None:
            nonlocal passed
            passed += 1
            if passed != number:
                return
            paused.stalled = pause > 0
            if pause and (when, call) == (BEFORE, "servers.create"):
                self.cloud.checker.paused_creates = True
            self.cloud.clock.advance(pause)
            self._meanwhile(what, device)
            paused.stalled = False

        worker.plan = plan
        self._work(worker, turns)

    def _meanwhile(self, what: str, device: str) -> None:
        if what == "another works":
            other = self._worker("b")
            other.sweep()
            self._work(other, 2)
        elif what == "late":
            self._admit_late(device, 3.0)
        elif what == "drain":
            self.drain(resume=True)
        elif what == "owner":
            for server in self.cloud.servers.servers():
                if server.status is ServerStatus.ERROR:
                    self.cloud.servers.user_delete(server.uuid)
                    return
        else:
            self._rewrite(device, what)

    def _work(self, worker: Worker, turns: int) -> None:
        cloud = self.cloud
        for _ in range(turns):
            cloud.tell_all()
            if not cloud.hints:
                worker.sweep()
            for hint in cloud.due():
                if hint in cloud.hints:
                    cloud.hints.remove(hint)
                    worker.take(hint)
            if worker.dead:
                return
            coming = [hint.due_at - cloud.clock.now() for hint in cloud.hints]
            cloud.clock.advance(max(0.0, min([5.0, *coming])))
        worker.plan = None

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 11.0, 16.0, 70.0, 130.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.cloud.clock.advance(seconds)

    # -- operators --------------------------------------------------------------------------

    @rule(
        function=st.sampled_from(FUNCTIONS),
        device=st.one_of(st.none(), st.sampled_from(DEVICES)),
        count=st.integers(1, 3),
        when=st.sampled_from(["idle", "now-or-fail"]),
    )
    def program(self, function: str, device: str | None, count: int, when: Any) -> None:
        count = 1 if device is not None else count
        self._ask(
            lambda: self.cloud.operator.program(function, device=device, count=count, when=when)
        )

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        with self.cloud.database.read() as tx:
            subjects = [t.id for t in tx.tasks.all()]
            subjects += [b.id for b in tx.boots.listed(over=False, limit=50)]
            subjects += [c.id for c in tx.changeovers.live()]
        if subjects:
            subject = data.draw(st.sampled_from(subjects))
            self._ask(lambda: self.cloud.operator.cancel(subject))

    @rule(on=st.booleans())
    def pause(self, on: bool) -> None:  # noqa: FBT001 - as above
        self.cloud.operator.resume()
        if on:
            self.cloud.operator.pause("for a test")

    @rule(resume=st.booleans())
    def drain(self, resume: bool) -> None:  # noqa: FBT001 - as above
        self.cloud.operator.drain()
        if resume:
            self.cloud.operator.resume()

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        with self.cloud.database.read() as tx:
            held = [
                c.device for c in tx.changeovers.live() if c.state is ChangeoverState.QUARANTINED
            ]
        if held:
            device = data.draw(st.sampled_from(held))
            self._ask(lambda: self.cloud.operator.release(device))

    # -- what goes wrong --------------------------------------------------------------------

    @rule(
        kind=st.sampled_from(CARD_FAULTS),
        device=st.one_of(st.none(), st.sampled_from(DEVICES)),
        leaves=st.sampled_from(["empty", "old"]),
        other=st.sampled_from(["", "sha3", "gzip"]),
        seconds=st.sampled_from([1.0, 20.0, 50.0]),
    )
    def card_fault(
        self, kind: FaultKind, device: str | None, leaves: Any, other: str, seconds: float
    ) -> None:
        self.cloud.cards.inject(
            Fault(kind, device=device, leaves=leaves, other=other, seconds=seconds)
        )

    @rule(kind=st.sampled_from(SERVER_FAULTS), times=st.integers(1, 3))
    def server_fault(self, kind: ServersFault, times: int) -> None:
        self.cloud.servers.inject(kind, times=times, seconds=4.0)

    @rule(host=st.sampled_from(["host1", "host2"]))
    def host(self, host: str) -> None:
        """A host that is up goes down, and the other way round."""
        self.cloud.set_host(host, up=not self.cloud.servers_up.get(host, True))

    @rule(device=st.sampled_from(DEVICES), used=st.booleans())
    def driver_use(self, device: str, used: bool) -> None:  # noqa: FBT001 - as above
        self.cloud.set_users(device, *(["guest"] if used else []))

    # -- others -----------------------------------------------------------------------------

    @rule(device=st.sampled_from(DEVICES), after=st.sampled_from([0.2, 3.0, 9.0]))
    def late_allocation(self, device: str, after: float) -> None:
        """Somebody's allocation is admitted now and lands within the settle time."""
        self._admit_late(device, after)

    def _admit_late(self, device: str, after: float) -> None:
        provider = self.cloud.device(device).provider
        inventories, _ = self.cloud.placement.offers(provider)
        open_ = {rc: 1 for rc, inv in inventories.items() if inv.capacity > 0}
        if not open_:
            return
        self.consumers += 1
        consumer = str(UUID(int=0xABC << 64 | self.consumers))
        admitted = self.cloud.placement.admit(consumer, {provider: open_}, project="p", user="u")
        if admitted is not None:
            self.strangers.append(consumer)
            self.cloud.clock.after(after, admitted.commit)

    @precondition(lambda self: self.strangers)
    @rule()
    def stranger_leaves(self) -> None:
        self.cloud.placement.release(self.strangers.pop(0))

    @rule(device=st.sampled_from(DEVICES), how=st.sampled_from(["open", "close", "trait", "bare"]))
    def other_client(self, device: str, how: str) -> None:
        """Somebody else rewrites what a device offers."""
        self._rewrite(device, how)

    def _rewrite(self, device: str, how: str) -> None:
        cloud = self.cloud
        found = cloud.device(device)
        provider = found.provider
        state = cloud.placement.state(provider)
        inventories, traits = dict(state.inventories), set(state.traits)
        model = cloud.catalog.models[found.model]
        classes = own_classes(model, cloud.catalog)
        if how == "open":
            function = cloud.catalog.functions.get(cloud.cards.function(device))
            inventories = offered(cloud.catalog, found, function)
        elif how == "close":
            inventories = {
                rc: type(inv)(total=inv.total, reserved=inv.total, max_unit=inv.max_unit)
                if rc in classes
                else inv
                for rc, inv in inventories.items()
            }
        with cloud.witness.acting(OTHER):
            cloud.touched_by_other.add(provider)
            if how in {"open", "close"}:
                cloud.placement.put_inventories(provider, state.generation, inventories)
            elif how == "trait":
                cloud.placement.ensure_traits(["CUSTOM_THEIRS"])
                cloud.placement.put_traits(provider, state.generation, {*traits, "CUSTOM_THEIRS"})
            else:
                cloud.placement.put_traits(provider, state.generation, traits)

    # -- and after each of them -------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self) -> None:
        if self.cloud is not None:
            self.cloud.checker.rows()
            self.cloud.checker.check()

    def teardown(self) -> None:
        try:
            if self.cloud is not None:
                self._end()
        finally:
            if self.cloud is not None:
                self.cloud.close()
            shutil.rmtree(self.root, ignore_errors=True)

    def _end(self) -> None:
        cloud = self.cloud
        if cloud.checker.violations:
            return  # told already
        cloud.cards.clear_faults()
        cloud.servers.clear_faults()
        for worker in cloud.workers.values():
            worker.plan = None
        for host in cloud.shape.host_names:
            cloud.set_host(host, up=True)
        for device in DEVICES:
            cloud.set_users(device)
        cloud.operator.resume()
        cloud.calm(drop_hints=True)
        cloud.checker.finally_()
        cloud.checker.check()

    def _worker(self, name: str) -> Worker:
        return self.cloud.worker(name)

    def _ask(self, what: Callable[[], object]) -> None:
        try:
            what()
        except (Refuse, ChangeoverError):
            return


Story.TestCase.settings = settings(
    max_examples=2000 if LONG else 25,
    stateful_step_count=60 if LONG else 40,
    deadline=None,
    derandomize=not LONG,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
TestStory = Story.TestCase
