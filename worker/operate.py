"""What operators may do. Everything they ask for goes through the same changeovers as boots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from changeover.models.boot import Boot
from changeover.models.catalog import Catalog, Device
from changeover.models.changeover import Changeover
from changeover.models.errors import Invalid, NotFound, Refuse, Reread
from changeover.models.reasons import Reason
from changeover.models.states import (
    BOOT_OVER,
    CHANGEOVER_MOVING,
    BootState,
    ChangeoverState,
    PlanState,
    TaskState,
)
from changeover.models.task import Task, When
from changeover.policies.layout import Difference, Placed, differences
from changeover.worker.cancel import cancel_boot, cancel_task
from changeover.worker.ports.clock import Clock
from changeover.worker.queues import JUDGE, PLAN_QUEUE
from changeover.worker.store import Database, Tx

PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Operator:
    """A person at the controls: ``name`` goes into the audit.

    ``open_catalog`` is asked only for what concerns the catalog: an emergency stop, or a word on
    what is stored, must not fail for want of one.
    """

    database: Database
    open_catalog: Callable[[], Catalog]
    clock: Clock
    name: str

    @property
    def catalog(self) -> Catalog:
        """The catalog; raises what opening it raises."""
        return self.open_catalog()

    def program(
        self,
        function: str,
        *,
        device: str | None = None,
        host: str | None = None,
        count: int = 1,
        when: When = "idle",
        priority: float = 1.0,
    ) -> Task:
        """Queue a programming task. Raises :class:`NotFound` or :class:`Invalid`."""
        self._known_function(function)
        named = None if device is None else self._known_device(device)
        if named is not None:
            if count != 1 or host is not None:
                raise Invalid("--device names one device: leave out --count and --host")
            self._fits(function, named)
        there = sum(host is None or d.host == host for d in self.catalog.devices)
        if host is not None and not there:
            raise NotFound(f"no device of the catalog is on host {host}")
        if not 1 <= count <= max(1, there):
            where = "the catalog" if host is None else f"host {host}"
            raise Invalid(f"--count must be from 1 to {there}, the devices of {where}: not {count}")
        if not 0 < priority < float("inf"):
            raise Invalid(f"--priority must be a number above 0, not {priority:g}")
        with self.database.write() as tx:
            return self._queue(
                tx,
                function,
                device=None if named is None else named.provider,
                host=host,
                count=count,
                when=when,
                priority=priority,
            )

    def _queue(
        self,
        tx: Tx,
        function: str,
        *,
        device: str | None,
        host: str | None = None,
        count: int = 1,
        when: When = "idle",
        priority: float = 1.0,
    ) -> Task:
        now = self.clock.now()
        task = Task(
            id=str(uuid4()),
            function=function,
            device=device,
            host=host,
            count=count,
            when=when,
            priority=priority,
            state=TaskState.QUEUED,
            reason=Reason("task.queued", f"queued by {self.name}"),
            done=0,
            created_at=now,
            created_by=self.name,
        )
        tx.tasks.add(task)
        tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)
        return task

    def cancel(self, subject: str) -> Task | Boot | Changeover:
        """Cancel a task, a boot or a changeover by its id. Raises :class:`Refuse` if too late."""
        with self.database.write() as tx:
            now = self.clock.now()
            if (task := tx.tasks.get(subject)) is not None:
                if task.state is not TaskState.QUEUED or not cancel_task(tx, task, now, self.name):
                    raise Refuse(f"task {subject} is {task.state} already")
                return task
            if (boot := tx.boots.get(subject)) is not None:
                return self._cancel_boot(tx, boot, now)
            if (changeover := tx.changeovers.get(subject)) is not None:
                if not tx.changeovers.ask_cancel(subject):
                    raise Refuse(f"changeover {subject} is {changeover.state} already")
                tx.audit.add(now, self.name, "changeover.cancel_asked", subject)
                return changeover
        raise NotFound(f"there is no task, boot or changeover {subject}")

    def _cancel_boot(self, tx: Tx, boot: Boot, now: float) -> Boot:
        if boot.state in BOOT_OVER:
            raise Refuse(f"boot {boot.id} is {boot.state} already")
        try:
            return cancel_boot(tx, boot, Reason("boot.cancelled", f"cancelled by {self.name}"), now)
        except (Reread, Refuse) as exc:
            raise Refuse(f"boot {boot.id} is {boot.state}: too late to cancel it") from exc

    def compare(self, layout: Mapping[str, str]) -> tuple[Difference, ...]:
        """How far the devices are from a layout (device name -> function)."""
        with self.database.read() as tx:
            records = {r.name: r for r in tx.devices.all()}
            live = {c.device: c for c in tx.changeovers.live()}
            queued = {
                t.device: t.function for t in tx.tasks.all(queued_only=True) if t.device is not None
            }
        placed = {}
        for device in self.catalog.devices:
            record = records.get(device.name)
            changeover = live.get(device.provider)
            moving = changeover is not None and changeover.state in CHANGEOVER_MOVING
            placed[device.name] = Placed(
                name=device.name,
                provider=device.provider,
                model=device.model,
                function=None if record is None else record.function,
                becoming=changeover.to_function if changeover is not None and moving else None,
                queued=queued.get(device.provider),
                pinned=device.pinned,
            )
        fits = {f.name: frozenset(f.fits) for f in self.catalog.functions.values()}
        return differences(layout, placed, fits)

    def apply(self, wanted: Sequence[Difference], when: When = "idle") -> list[Task]:
        """Queue what a comparison says is to be programmed."""
        with self.database.write() as tx:
            return [
                self._queue(tx, line.wanted, device=line.provider, when=when)
                for line in wanted
                if line.action == "program"
            ]

    def release(self, device_name: str) -> Changeover:
        """Let a quarantined device be programmed again; it counts as empty.

        Its fence stays: it offers nothing until the next changeover has published it.
        """
        with self.database.write() as tx:
            now = self.clock.now()
            device = tx.devices.get(device_name)
            if device is None:
                raise NotFound(f"there is no device {device_name}; see `changeover devices`")
            changeover = tx.changeovers.live_of_device(device.provider)
            if changeover is None or changeover.state is not ChangeoverState.QUARANTINED:
                raise Refuse(f"{device.name} is not quarantined")
            reason = Reason("changeover.released", f"released by {self.name}")
            released = tx.changeovers.move(changeover, ChangeoverState.RELEASED, now, reason=reason)
            fences = tx.fences.of(changeover.id)
            tx.fences.drop(changeover.id)
            for fence in fences:
                tx.devices.update(
                    fence.provider, function=None, slots=0, used=0, reserved=0, read_at=None
                )
            tx.audit.add(now, self.name, "device.released", device.provider)
            tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)
            return released

    def approve(
        self, plan_id: str, *, only: Sequence[str] = (), without: Sequence[str] = ()
    ) -> list[str]:
        """Approve a recommended plan, or some devices of it; returns their names.

        Nothing is done on stale knowledge: what of it a fresh look still wants is started.
        """
        with self.database.write() as tx:
            plan = self._recommended(tx, plan_id)
            called = tx.devices.names()
            names = {p: called.get(p, p) for p in plan["devices"]}
            for name in (*only, *without):
                if name not in names.values():
                    among = ", ".join(sorted(names.values()))
                    raise NotFound(f"plan {plan_id} has no device {name}; it has: {among}")
            chosen = [
                p for p, name in names.items() if (not only or name in only) and name not in without
            ]
            if not chosen:
                raise Invalid("nothing of the plan is left to approve: refuse it instead")
            for intent in plan["result"]["intents"]:
                mode = self.catalog.pool(intent["to_function"]).mode
                if intent["device"] in chosen and mode == "observe":
                    raise Refuse(
                        f"the pool of {intent['to_function']} only observes: set its mode to "
                        "approve or act in the catalog"
                    )
            now = self.clock.now()
            tx.plans.decide(plan_id, PlanState.APPROVED, self.name, now, chosen)
            tx.audit.add(now, self.name, "plan.approved", plan_id, devices=chosen)
            tx.boots.wake(now)
            tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)
            return sorted(names[p] for p in chosen)

    def refuse(self, plan_id: str) -> None:
        """Refuse a recommended plan."""
        with self.database.write() as tx:
            self._recommended(tx, plan_id)
            now = self.clock.now()
            tx.plans.decide(plan_id, PlanState.REFUSED, self.name, now)
            tx.audit.add(now, self.name, "plan.refused", plan_id)
            tx.boots.wake(now)  # they say that it waits for a person
            tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)

    def _recommended(self, tx: Tx, plan_id: str) -> dict[str, Any]:
        plan = tx.plans.get(plan_id)
        if plan is None:
            raise NotFound(f"there is no plan {plan_id}; see `changeover plans`")
        if plan["state"] is PlanState.EXPIRED:
            raise Refuse(
                f"plan {plan_id} is expired: nobody decided on it in time; what still helps is "
                "planned anew: see `changeover plans`"
            )
        if plan["state"] is not PlanState.RECOMMENDED:
            raise Refuse(f"plan {plan_id} is {plan['state']}: only recommended ones are decided")
        return plan

    def pause(self, why: str) -> None:
        """Start no changeover until :meth:`resume`; those under way are finished."""
        self._switch({"on": True, "why": why, "by": self.name}, "pause")

    def resume(self) -> None:
        """Act again."""
        self._switch({"on": False, "why": "", "by": self.name}, "resume")

    def drain(self) -> int:
        """Pause, and give up what is not programming yet; returns how many were asked to."""
        self.pause("draining")
        with self.database.write() as tx:
            moving = [c for c in tx.changeovers.live() if c.state in CHANGEOVER_MOVING]
            return sum(tx.changeovers.ask_cancel(c.id) for c in moving)

    def allow(self, function: str) -> None:
        """Lift the stop of a function whose artifact failed on several devices."""
        with self.database.write() as tx:
            now = self.clock.now()
            known = tx.functions.known()
            if function not in known:
                there = ", ".join(known) or "none"
                raise NotFound(f"there is no function {function}; there are: {there}")
            tx.functions.allow(function, now)
            tx.audit.add(now, self.name, "function.allowed", function)
            tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)

    def retry(self, boot_id: str) -> None:
        """Judge a waiting boot again now."""
        with self.database.write() as tx:
            boot = tx.boots.get(boot_id)
            if boot is None:
                raise NotFound(f"there is no boot {boot_id}")
            if boot.state is not BootState.WAITING:
                raise Refuse(f"boot {boot_id} is {boot.state}: only waiting boots are judged again")
            now = self.clock.now()
            tx.boots.move(boot, BootState.WAITING, now, wake_at=now)
            tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)

    def _switch(self, value: dict[str, object], action: str) -> None:
        with self.database.write() as tx:
            now = self.clock.now()
            tx.switches.set(PAUSE, value, now)
            tx.audit.add(now, self.name, action, "everything", why=str(value["why"]))
            tx.hints.add(JUDGE, queue=PLAN_QUEUE, now=now)

    def _known_function(self, name: str) -> None:
        if name not in self.catalog.functions:
            known = ", ".join(sorted(self.catalog.functions)) or "none"
            raise NotFound(f"the catalog has no function {name}; it has: {known}")

    def _known_device(self, name: str) -> Device:
        device = self.catalog.device(name)
        if device is None:
            raise NotFound(f"the catalog has no device {name}; see `changeover devices`")
        return device

    def _fits(self, function: str, device: Device) -> None:
        if device.model not in self.catalog.functions[function].fits:
            raise Invalid(f"{function} does not fit {device.name}: its model is {device.model}")
        if device.pinned:
            raise Refuse(f"{device.name} is pinned in the catalog")
