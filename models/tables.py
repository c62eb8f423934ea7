"""The tables. Only the store and the migrations import this module.

Times are seconds since the epoch (UTC) as floats: one form for SQLite, PostgreSQL and virtual
clocks. States are stored by their value. What has a dataclass of its own is stored as JSON by the
dataclass's own ``as_json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from changeover.models.blueprint import Blueprint
from changeover.models.catalog import FoundDevice
from changeover.models.placement import ProviderState, ResourceRequest
from changeover.models.reasons import Reason
from changeover.models.reservation import Reservation
from changeover.models.states import (
    CHANGEOVER_LIVE,
    BootState,
    CallbackState,
    ChangeoverState,
    FoundState,
    PlanState,
    TaskState,
)

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


class Stored(TypeDecorator[T], Generic[T]):
    """A value with ``as_json`` and ``from_json``, stored as JSON."""

    impl = JSON
    cache_ok = True

    def __init__(self, value_type: type[T]) -> None:
        super().__init__(none_as_null=True)
        self.value_type = value_type

    def process_bind_param(self, value: T | None, dialect: Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        return None if value is None else value.as_json()  # type: ignore[attr-defined]  # every stored type has it

    def process_result_value(self, value: Any, dialect: Dialect) -> T | None:  # noqa: ARG002 - SQLAlchemy's signature
        load: Callable[[Mapping[str, Any]], T] = self.value_type.from_json  # type: ignore[attr-defined]  # as above
        return None if value is None else load(value)


class StateColumn(TypeDecorator[E], Generic[E]):
    """A state, stored by its value as text."""

    impl = String(16)
    cache_ok = True

    def __init__(self, enum: type[E]) -> None:
        super().__init__()
        self.enum = enum

    def process_bind_param(self, value: E | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        return None if value is None else self.enum(value).value

    def process_result_value(self, value: Any, dialect: Dialect) -> E | None:  # noqa: ARG002 - SQLAlchemy's signature
        return None if value is None else self.enum(value)


class Base(DeclarativeBase):
    """Names every constraint, so that Alembic can change them on SQLite too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


LIVE_SQL = f"state IN ({', '.join(repr(str(state)) for state in sorted(CHANGEOVER_LIVE))})"
Id = String(36)
Serial = BigInteger().with_variant(Integer, "sqlite")


class EventRow(Base):
    """An accepted notification, once; ``outcome`` says what it came to."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    message_id: Mapped[str] = mapped_column(String(128), unique=True)
    kind: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(32))
    server: Mapped[str | None] = mapped_column(Id, index=True)
    project: Mapped[str | None] = mapped_column(String(255))
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)
    received_at: Mapped[float] = mapped_column(index=True)
    outcome: Mapped[str] = mapped_column(String(64))
    boot_id: Mapped[str | None] = mapped_column(Id)


class RequestKindRow(Base):
    """See :class:`changeover.models.demand.RequestKind`."""

    __tablename__ = "request_kinds"
    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    request: Mapped[ResourceRequest] = mapped_column(Stored(ResourceRequest))
    device_profile: Mapped[str | None] = mapped_column(String(255))


class DemandRow(Base):
    """See :class:`changeover.models.demand.RecordedServer`.

    ``counted`` and ``end_counted``: the history has learnt from its arrival and its end.
    """

    __tablename__ = "demand"
    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    server: Mapped[str] = mapped_column(Id, unique=True)
    kind: Mapped[str] = mapped_column(ForeignKey("request_kinds.key"))
    arrived_at: Mapped[float] = mapped_column(index=True)
    failed: Mapped[bool]
    placed_at: Mapped[float | None]
    ended_at: Mapped[float | None] = mapped_column(index=True)
    counted: Mapped[bool]
    end_counted: Mapped[bool]
    __table_args__ = (
        Index(
            "ix_demand_not_counted",
            "id",
            sqlite_where=text("NOT counted"),
            postgresql_where=text("NOT counted"),
        ),
        Index(
            "ix_demand_not_end_counted",
            "id",
            sqlite_where=text("NOT end_counted"),
            postgresql_where=text("NOT end_counted"),
        ),
    )


class HistoryRow(Base):
    """What was learnt from all demand, in one row; and the outlook that was made from it."""

    __tablename__ = "history"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[dict[str, Any]] = mapped_column(JSON)
    outlook: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[float]


class DeadLetterRow(Base):
    """What was received and could not be understood, kept for inspection and replay."""

    __tablename__ = "dead_letters"
    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    source: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(String(512))
    body: Mapped[str] = mapped_column(Text)
    size: Mapped[int]
    times: Mapped[int]
    received_at: Mapped[float]
    replayed_at: Mapped[float | None]


class BootRow(Base):
    """See :class:`changeover.models.boot.Boot`."""

    __tablename__ = "boots"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    server: Mapped[str | None] = mapped_column(Id, unique=True)
    project: Mapped[str] = mapped_column(String(255), index=True)
    user: Mapped[str] = mapped_column(String(255))
    name: Mapped[str] = mapped_column(String(255))
    group_id: Mapped[str] = mapped_column(String(255))
    request: Mapped[ResourceRequest] = mapped_column(Stored(ResourceRequest))
    request_key: Mapped[str] = mapped_column(String(32), index=True)
    device_profile: Mapped[str | None] = mapped_column(String(255))
    state: Mapped[BootState] = mapped_column(StateColumn(BootState))
    reason: Mapped[Reason] = mapped_column(Stored(Reason))
    priority: Mapped[float]
    failed_at: Mapped[float]
    received_at: Mapped[float]
    expires_at: Mapped[float]
    wake_at: Mapped[float]
    attempt: Mapped[int]
    successor: Mapped[str | None] = mapped_column(Id, unique=True)
    sent_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[float]
    blueprint: Mapped[Blueprint | None] = mapped_column(Stored(Blueprint))
    removed_at: Mapped[float | None]
    origin: Mapped[str] = mapped_column(String(16))
    trust: Mapped[str | None] = mapped_column(String(64))
    trust_withdrawn_at: Mapped[float | None]
    submission: Mapped[str | None] = mapped_column(String(48), unique=True)
    __table_args__ = (Index("ix_boots_state_wake", "state", "wake_at"),)


class PromiseRow(Base):
    """See :class:`changeover.models.boot.BootPromise`."""

    __tablename__ = "promises"
    boot: Mapped[str] = mapped_column(ForeignKey("boots.id"), primary_key=True)
    device: Mapped[str] = mapped_column(Id, primary_key=True, index=True)
    slots: Mapped[int]
    changeover: Mapped[str | None] = mapped_column(Id, index=True)
    held_until: Mapped[float | None]


class KeepRow(Base):
    """See :class:`changeover.models.keep.Keep`."""

    __tablename__ = "keeps"
    subject: Mapped[str] = mapped_column(Id, primary_key=True)
    device: Mapped[str] = mapped_column(Id, primary_key=True, index=True)
    kind: Mapped[str] = mapped_column(String(16))
    slots: Mapped[int]
    until: Mapped[float] = mapped_column(index=True)
    project: Mapped[str] = mapped_column(String(255))
    flavor: Mapped[str] = mapped_column(String(255))
    host: Mapped[str] = mapped_column(String(128))


class CallbackRow(Base):
    """See :class:`changeover.models.callback.Callback`."""

    __tablename__ = "callbacks"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(64))
    boot: Mapped[str] = mapped_column(Id, index=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[CallbackState] = mapped_column(StateColumn(CallbackState))
    created_at: Mapped[float] = mapped_column(index=True)
    due_at: Mapped[float]
    tries: Mapped[int]
    error: Mapped[str | None] = mapped_column(String(512))
    finished_at: Mapped[float | None]
    __table_args__ = (Index("ix_callbacks_state_due", "state", "due_at"),)


class ReservationRow(Base):
    """See :class:`changeover.models.reservation.ReservationRecord`."""

    __tablename__ = "reservations"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    starts_at: Mapped[float] = mapped_column(index=True)
    reservation: Mapped[Reservation] = mapped_column(Stored(Reservation))
    read_at: Mapped[float]
    reason: Mapped[Reason] = mapped_column(Stored(Reason))


class DeviceRow(Base):
    """A device of the catalog, and what is known of it between two readings."""

    __tablename__ = "devices"
    provider: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    model: Mapped[str] = mapped_column(String(128))
    host: Mapped[str] = mapped_column(String(128), index=True)
    known: Mapped[bool]
    function: Mapped[str | None] = mapped_column(String(128))
    slots: Mapped[int]
    used: Mapped[int]
    reserved: Mapped[int]
    generation: Mapped[int | None]
    read_at: Mapped[float | None]
    changed_at: Mapped[float | None]
    offered_until: Mapped[float | None]
    programs: Mapped[int]
    trouble: Mapped[Reason | None] = mapped_column(Stored(Reason))
    unserved: Mapped[str | None] = mapped_column(Id)


class DiscoveredRow(Base):
    """A provider that a rule of the catalog is, was, or might be about."""

    __tablename__ = "discovered"
    provider: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    state: Mapped[FoundState] = mapped_column(StateColumn(FoundState), index=True)
    since: Mapped[float]
    generation: Mapped[int | None]
    classes: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    device: Mapped[FoundDevice | None] = mapped_column(Stored(FoundDevice))
    reason: Mapped[Reason | None] = mapped_column(Stored(Reason))


class RevisionRow(Base):
    """Counts the changes of something that processes keep in memory."""

    __tablename__ = "revisions"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int]


class FunctionRow(Base):
    """A function of the catalog, and whether its artifact has proven bad."""

    __tablename__ = "functions"
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    definition: Mapped[dict[str, Any]] = mapped_column(JSON)
    known: Mapped[bool]
    failed_devices: Mapped[list[str]] = mapped_column(JSON)
    stopped: Mapped[Reason | None] = mapped_column(Stored(Reason))
    updated_at: Mapped[float]


class PlanRow(Base):
    """A plan with the inputs that it was made from."""

    __tablename__ = "plans"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    created_at: Mapped[float] = mapped_column(index=True)
    state: Mapped[PlanState] = mapped_column(StateColumn(PlanState))
    inputs: Mapped[dict[str, Any]] = mapped_column(JSON)
    result: Mapped[dict[str, Any]] = mapped_column(JSON)
    decided_by: Mapped[str | None] = mapped_column(String(64))
    decided_at: Mapped[float | None]
    devices: Mapped[list[str]] = mapped_column(JSON)


class ChangeoverRow(Base):
    """See :class:`changeover.models.changeover.Changeover`."""

    __tablename__ = "changeovers"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    device: Mapped[str] = mapped_column(Id, index=True)
    host: Mapped[str] = mapped_column(String(128))
    from_function: Mapped[str | None] = mapped_column(String(128))
    to_function: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str | None] = mapped_column(Id)
    plan_id: Mapped[str | None] = mapped_column(ForeignKey("plans.id"))
    state: Mapped[ChangeoverState] = mapped_column(StateColumn(ChangeoverState))
    reason: Mapped[Reason] = mapped_column(Stored(Reason))
    priority: Mapped[float]
    created_at: Mapped[float]
    updated_at: Mapped[float]
    due_at: Mapped[float]
    tries: Mapped[int]
    failures: Mapped[int]
    cancel: Mapped[bool]
    token: Mapped[str | None] = mapped_column(String(64))
    sent_at: Mapped[float | None]
    programmed_at: Mapped[float | None]
    read_before: Mapped[str | None] = mapped_column(String(128))
    finished_at: Mapped[float | None]
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[float]
    undoes: Mapped[str | None] = mapped_column(Id)
    __table_args__ = (
        Index("ix_changeovers_state_due", "state", "due_at"),
        Index(
            "uq_changeovers_live_device",
            "device",
            unique=True,
            sqlite_where=text(LIVE_SQL),
            postgresql_where=text(LIVE_SQL),
        ),
    )


class FenceRow(Base):
    """See :class:`changeover.models.changeover.Fence`."""

    __tablename__ = "fences"
    provider: Mapped[str] = mapped_column(Id, primary_key=True)
    changeover: Mapped[str] = mapped_column(ForeignKey("changeovers.id"), index=True)
    before: Mapped[ProviderState | None] = mapped_column(Stored(ProviderState))
    generation: Mapped[int | None]
    fenced_at: Mapped[float | None]


class TaskRow(Base):
    """See :class:`changeover.models.task.Task`."""

    __tablename__ = "tasks"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    function: Mapped[str] = mapped_column(String(128))
    device: Mapped[str | None] = mapped_column(Id)
    host: Mapped[str | None] = mapped_column(String(128))
    count: Mapped[int]
    when: Mapped[str] = mapped_column(String(16))
    priority: Mapped[float]
    state: Mapped[TaskState] = mapped_column(StateColumn(TaskState), index=True)
    reason: Mapped[Reason] = mapped_column(Stored(Reason))
    done: Mapped[int]
    created_at: Mapped[float]
    created_by: Mapped[str] = mapped_column(String(64))
    finished_at: Mapped[float | None]


class HintRow(Base):
    """The outbox: a message that is to be sent. It only says where to look in the database."""

    __tablename__ = "hints"
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    task: Mapped[str] = mapped_column(String(64))
    args: Mapped[list[Any]] = mapped_column(JSON)
    queue: Mapped[str] = mapped_column(String(128))
    due_at: Mapped[float] = mapped_column(index=True)
    created_at: Mapped[float]


class AuditRow(Base):
    """Everything done, by whom, and why."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    at: Mapped[float] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(128), index=True)
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)


class LeaseRow(Base):
    """Who may plan, sweep or balance just now; and when a scheduled job ran last."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(64))
    until: Mapped[float]
    ran_at: Mapped[float]


class SwitchRow(Base):
    """What an operator has switched for everything at once (pause)."""

    __tablename__ = "switches"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[float]


class HeartbeatRow(Base):
    """A process that says it is alive."""

    __tablename__ = "heartbeats"
    process: Mapped[str] = mapped_column(String(128), primary_key=True)
    role: Mapped[str] = mapped_column(String(32))
    at: Mapped[float]
