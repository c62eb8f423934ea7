"""What a plan is made from, and what it is: plain values, JSON-able, replayable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from changeover.models.reasons import Reason

Mode = Literal["single_program", "fully_dynamic"]
DemandKind = Literal["boot", "task", "layout", "floor", "forecast", "early-lease", "lease"]


@dataclass(frozen=True, slots=True)
class FunctionView:
    """A function of the catalog, as the planner needs it.

    ``fits`` maps a device model to the slots that it yields; ``seconds`` is how long programming
    is expected to take; ``stopped`` says why the function may not be programmed now, if so.
    """

    name: str
    fits: Mapping[str, int]
    seconds: float = 60.0
    stopped: Reason | None = None


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device as it was read, and whether it may be programmed.

    ``function`` is what it offers now (``None``: empty). ``free`` are its free slots of that
    function that are promised to nobody. ``becoming`` is the function that a changeover under way
    gives it; then ``free`` counts the slots to come that are promised to nobody, and
    ``ready_in`` the seconds until then. ``blocked`` is the reason why it may not be programmed
    (in use, pinned, quarantined, cooling down, host down, changeover under way), if any;
    ``resting`` why not for floors and forecasts alone.
    ``programs`` counts how often it was programmed (wear). ``traits`` are those that it has
    whatever its function.
    """

    uuid: str
    name: str
    host: str
    model: str
    mode: Mode
    function: str | None = None
    free: int = 0
    becoming: str | None = None
    ready_in: float = 0.0
    blocked: Reason | None = None
    programs: int = 0
    idle_seconds: float = 0.0
    traits: frozenset[str] = frozenset()
    resting: Reason | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """``slots`` slots of one of ``functions``, all on one device (of ``devices``, if said)."""

    functions: tuple[str, ...]
    slots: int = 1
    devices: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class DemandClass:
    """Equal demands, judged together.

    A *unit* is one boot (or one device of a task): it needs every entry of ``needs`` at once, on
    one host. ``weights`` has one value per waiting unit, greatest first (priority, age and fair
    share in one number; 1.0 is an ordinary boot that just failed). ``subjects`` are the units'
    ids in the same order. ``hosts`` says how many units each host could take besides the device
    (``None``: any host, any number); ``devices`` restricts to named devices.
    ``preferred`` traits only rank devices. ``whole_devices`` counts units in devices: a unit is
    served by a device being programmed, whatever its slots (tasks, layouts). ``apart``: the needs
    of one unit must be served by different devices.
    """

    key: str
    kind: DemandKind
    needs: tuple[Need, ...]
    weights: tuple[float, ...]
    subjects: tuple[str, ...]
    hosts: Mapping[str, int] | None = None
    devices: frozenset[str] | None = None
    preferred: frozenset[str] = frozenset()
    whole_devices: bool = False
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Budgets:
    """How many changeovers may be *started* now; ``None`` means no bound.

    Changeovers under way have been subtracted by the caller.
    """

    total: int | None = None
    per_host: int | None = None
    per_function: int | None = None
    host_left: Mapping[str, int] = field(default_factory=dict)
    function_left: Mapping[str, int] = field(default_factory=dict)

    def for_host(self, host: str) -> int | None:
        """What is left for ``host``."""
        return self.host_left.get(host, self.per_host)

    def for_function(self, function: str) -> int | None:
        """What is left for ``function``."""
        return self.function_left.get(function, self.per_function)


@dataclass(frozen=True, slots=True)
class Weights:
    """The terms of the score, in units of one ordinary waiting boot.

    ``per_second`` is the cost of a second of programming (a device that offers nothing),
    ``wear`` of one more program on a device relative to the least programmed one, at most,
    ``lost_slot`` of a free slot of the old function that goes away where nothing is known of its
    demand (``keep`` of the inputs says more), ``spread`` of putting one more changeover on a
    host that already has some. ``least_gain`` is what a changeover must bring at least.
    """

    per_second: float = 0.0005
    wear: float = 0.02
    lost_slot: float = 0.01
    spread: float = 0.01
    least_gain: float = 0.0


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """Everything that a plan depends on; equal inputs give equal plans.

    ``keep`` maps a function to the value of its free slots, the first (most wanted) first: what
    the forecast says is lost when the k-th free slot of the function goes away.
    ``seed`` orders what is otherwise equal.
    """

    now: float
    seed: int
    functions: tuple[FunctionView, ...]
    devices: tuple[DeviceView, ...]
    demands: tuple[DemandClass, ...]
    budgets: Budgets = field(default_factory=Budgets)
    weights: Weights = field(default_factory=Weights)
    keep: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Promise:
    """Slots of one device, promised to one unit of demand."""

    demand: str
    subject: str
    device: str
    function: str
    slots: int


@dataclass(frozen=True, slots=True)
class Intent:
    """One device to be programmed with one function, and why."""

    device: str
    host: str
    from_function: str | None
    to_function: str
    slots: int
    gain: float
    cost: float
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a device, or a unit's class, was not chosen. ``subject`` is a device uuid or a key."""

    subject: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision over one batch.

    ``intents`` are the devices to program. ``promises`` say which unit is served by which slots:
    of intents, of devices under way, and of slots that are free now (those boots need only be
    tried again). ``rejected`` names every device that was looked at and not chosen; ``unmet``
    every class with units that nothing serves.
    """

    intents: tuple[Intent, ...]
    promises: tuple[Promise, ...]
    rejected: tuple[Rejection, ...]
    unmet: tuple[Rejection, ...]
    value: float = 0.0
    cost: float = 0.0

    @property
    def score(self) -> float:
        """Value less cost, in ordinary waiting boots."""
        return self.value - self.cost
