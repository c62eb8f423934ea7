"""Why devices were not chosen and demand was not met: one reason each, shared among equals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from operator import attrgetter
from typing import Final

from changeover.models.planning import DeviceView, Rejection
from changeover.models.reasons import Reason
from changeover.policies.problem import NOBODY, Problem, Want
from changeover.policies.score import State

UNDER_WAY: Final = Reason("device.becoming", "A changeover of the device is under way.")
NOT_NEEDED: Final = Reason("device.not_needed", "No waiting demand that it could serve is left.")
COSTS_MORE: Final = Reason(
    "device.costs_more", "Devices that cost less serve all demand that it could serve."
)
SAME: Final = Reason(
    "device.function_same", "It already offers the only wanted function that fits it."
)
HOST_CANNOT: Final = Reason(
    "device.host_cannot", "Its host cannot take the rest of any waiting request."
)
BUDGET_TOTAL: Final = Reason("device.budget_total", "The budget of changeovers is spent for now.")
BUDGET_HOST: Final = Reason(
    "device.budget_host", "The budget of changeovers on its host is spent for now."
)
BUDGET_FUNCTION: Final = Reason(
    "device.budget_function", "The budget of changeovers to the waiting function is spent for now."
)
GANG: Final = Reason(
    "device.gang", "Its host lacks devices for the other needs of the waiting units."
)
FREE_SLOTS_WANTED: Final = Reason(
    "device.free_slots_wanted", "Its free slots are worth more than what it would serve."
)
NOT_WORTH: Final = Reason(
    "device.not_worth", "What it would serve is worth less than programming it costs."
)

NEARER: Final = (
    HOST_CANNOT,
    BUDGET_TOTAL,
    BUDGET_HOST,
    BUDGET_FUNCTION,
    GANG,
    NOT_WORTH,
)
"""How near a device came to serving one want, from far to near; the nearest is told."""

NO_USE, ROOM, TOTAL, HOST, FUNCTION, MATES, WORTH = range(-1, 6)

_SUBJECT: Final = attrgetter("subject")

LOOKS: Final = 4
"""How many waiting wants are looked at for the reason of one device."""


def refused_devices(problem: Problem, state: State) -> tuple[Rejection, ...]:
    """One rejection for every device that is neither programmed nor promised to anybody."""
    judge = _DeviceJudge(problem, state)
    on, target = state.on, state.target
    rejected = [
        Rejection(device.uuid, device.blocked or judge.reason(None, device))
        for device in problem.aside
    ]
    rejected += [
        Rejection(device.uuid, device.blocked or judge.reason(i, device))
        for i, device in enumerate(problem.devices)
        if target[i] == NOBODY and not on[i]
    ]
    rejected.sort(key=_SUBJECT)
    return tuple(rejected)


def unmet_demands(problem: Problem, state: State) -> tuple[Rejection, ...]:
    """One rejection for every class with units that nothing serves."""
    judge = _WantJudge(problem, state)
    unmet = [
        Rejection(want.demand.key, judge.reason(want))
        for want in problem.wants
        if len(state.served[want.number]) < want.units
    ]
    unmet.sort(key=_SUBJECT)
    return tuple(unmet)


_Wish = tuple[int, AbstractSet[int] | None, AbstractSet[int] | None, int]
"""What waits for a function: on which devices, on which hosts (``None``: any), and how near a
device is to serving it there, total and host budgets aside."""


class _DeviceJudge:
    """Finds the reason of a refused device."""

    def __init__(self, problem: Problem, state: State) -> None:
        self.problem = problem
        self.state = state
        self.programmed = {function for function in state.target if function != NOBODY}
        self._models: dict[str, Reason] = {}
        self._waiting: dict[str, list[_Wish]] = {}
        self._by_function: dict[int, list[tuple[Want, int]]] = {}
        for want in problem.wants:
            if state.waiting(want) > 0:
                for functions, slots in want.needs:
                    for function in functions:
                        least = 1 if want.whole else slots
                        self._by_function.setdefault(function, []).append((want, least))

    def reason(self, i: int | None, device: DeviceView) -> Reason:
        """Why ``device``, of which nothing is blocked, was not programmed."""
        if device.becoming is not None:
            return UNDER_WAY
        useful = self.problem.useful.get(device.model)
        if useful is None:
            return self._model(device.model)
        if i is None:
            return SAME
        nearest = self._nearest(i)
        if device.resting is not None and nearest != NO_USE and not self.problem.may[i]:
            return device.resting
        if nearest == NO_USE:
            return NOT_NEEDED if self.programmed.isdisjoint(useful) else COSTS_MORE
        reason = NEARER[nearest]
        free_wanted = device.free and self.problem.keep[self.problem.offer[i]] is not None
        return FREE_SLOTS_WANTED if reason is NOT_WORTH and free_wanted else reason

    def _nearest(self, i: int) -> int:
        """How near ``i`` came to serving anything that waits."""
        state, offer, host = self.state, self.problem.offer[i], self.problem.host[i]
        spent = TOTAL if state.total_left <= 0 else HOST if state.host_left[host] <= 0 else WORTH
        nearest = NO_USE
        for function, named, hosts, there in self._wishes(self.problem.model[i]):
            if function == offer or (named is not None and i not in named):
                continue
            near = there if hosts is None or host in hosts else ROOM
            if near > nearest:
                nearest = min(near, spent)
                if nearest == spent:
                    break
        return nearest

    def _wishes(self, model: str) -> list[_Wish]:
        """Some waiting wants that ``model`` fits, each with the function that would serve it."""
        wishes = self._waiting.get(model)
        if wishes is None:
            pairs = [
                (want, function)
                for function, after in self.problem.useful[model].items()
                for want, least in self._by_function.get(function, ())
                if after >= least
            ]
            pairs.sort(key=self._ease)
            wishes = self._waiting[model] = [self._wish(*pair) for pair in pairs[:LOOKS]]
        return wishes

    def _wish(self, want: Want, function: int) -> _Wish:
        state = self.state
        near = MATES if want.gang else WORTH
        if state.function_left[function] <= 0:
            near = FUNCTION
        hosts = None
        if want.hosts is not None:
            hosts = {host for host in want.hosts if state.room_at(want, host) > 0}
        return function, want.named, hosts, near

    def _ease(self, pair: tuple[Want, int]) -> tuple[bool, bool, bool, bool]:
        """Those first that most devices could serve, so that few need be looked at."""
        want, function = pair
        spent = self.state.function_left[function] <= 0
        return (spent, want.gang, want.named is not None, want.hosts is not None)

    def _model(self, model: str) -> Reason:
        reason = self._models.get(model)
        if reason is None:
            reason = self._models[model] = Reason(
                "device.model",
                f"No wanted function that may be programmed now fits model {model}.",
                {"model": model},
            )
        return reason


class _WantJudge:
    """Finds the reason of units that nothing serves."""

    def __init__(self, problem: Problem, state: State) -> None:
        self.problem = problem
        self.state = state
        may = [
            device.blocked is None and device.becoming is None and device.model in problem.useful
            for device in problem.devices
        ]
        self.may = may
        self.idle = [
            may[i] and state.target[i] == NOBODY and not state.on[i] for i in range(len(may))
        ]
        self.may_by_model = Counter(m for i, m in enumerate(problem.model) if may[i])
        self.idle_by_model = Counter(m for i, m in enumerate(problem.model) if self.idle[i])
        self.stopped = {f.name: f.stopped for f in problem.inputs.functions if f.stopped}

    def reason(self, want: Want) -> Reason:
        """Why units of ``want`` wait on."""
        facts = {"waiting": self.state.waiting(want), "units": want.units}
        for functions, slots in want.needs:
            if not self._models(want, functions, slots):
                return self._no_function(
                    [self.problem.functions[f] for f in functions], slots, facts
                )
        state = self.state
        hosts = want.demand.hosts
        if hosts is not None and sum(hosts.values()) <= len(state.served[want.number]):
            return Reason(
                "unmet.hosts_cannot",
                "No host can take more of these requests, whatever the devices offer.",
                facts,
            )
        may, idle = self._devices(want)
        if not may:
            return Reason(
                "unmet.no_device",
                "No device that fits may be programmed where the request can go.",
                facts,
            )
        if not idle:
            return Reason(
                "unmet.devices_taken",
                "Every device that fits is programmed for, or promised to, other demand.",
                {**facts, "devices": may},
            )
        facts["devices"] = idle
        if self._no_budget(want):
            return Reason("unmet.budget", "The budgets of changeovers are spent for now.", facts)
        if want.gang:
            return Reason(
                "unmet.gang",
                "No host was found with devices for all its needs at once, worth their cost.",
                facts,
            )
        return Reason(
            "unmet.not_worth", "Programming a device for it costs more than it is worth.", facts
        )

    def _models(self, want: Want, functions: tuple[int, ...], slots: int) -> set[str]:
        least = 1 if want.whole else slots
        fits = self.problem.fits
        return {m for f in functions for m, after in fits[f].items() if after >= least}

    def _no_function(self, names: list[str], slots: int, facts: dict[str, int]) -> Reason:
        stopped = {name: self.stopped[name] for name in names if name in self.stopped}
        if stopped:
            return Reason(
                "unmet.function_stopped",
                f"Programming {', '.join(stopped)} is stopped.",
                {**facts, "stopped": {n: r.as_json() for n, r in stopped.items() if r}},
            )
        return Reason(
            "unmet.no_function",
            f"No function gives {slots} slots of {' or '.join(names)} on one device.",
            {**facts, "functions": names},
        )

    def _places(self, want: Want) -> list[int] | None:
        """The devices that ``want`` is tied to; ``None``: any."""
        at, state = self.problem.at, self.state
        if want.named is not None:
            return sorted(want.named)
        if want.hosts is not None:
            return [i for host in want.hosts if state.room_at(want, host) > 0 for i in at[host]]
        return None

    def _devices(self, want: Want) -> tuple[int, int]:
        """How many devices fit a need of ``want``, and how many of these are idle."""
        models = set().union(*(self._models(want, *need) for need in want.needs))
        places = self._places(want)
        if places is None:
            return (
                sum(self.may_by_model[model] for model in models),
                sum(self.idle_by_model[model] for model in models),
            )
        fitting = [i for i in places if self.may[i] and self.problem.model[i] in models]
        return len(fitting), sum(self.idle[i] for i in fitting)

    def _no_budget(self, want: Want) -> bool:
        state = self.state
        if state.total_left <= 0 or any(
            all(state.function_left[function] <= 0 for function in functions)
            for functions, _ in want.needs
        ):
            return True
        if want.named is not None:
            return all(state.host_left[self.problem.host[i]] <= 0 for i in want.named)
        hosts = range(len(state.host_left)) if want.hosts is None else want.hosts
        return all(state.host_left[host] <= 0 for host in hosts)
