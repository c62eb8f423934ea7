"""Why devices were not chosen and demand was not met: one reason each, shared among equals."""

from __future__ import annotations

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
BUDGET_TOTAL: Final = Reason("device.budget_total", "The budget of changeovers is spent for now.")
SAME: Final = Reason(
    "device.function_same", "It already offers the only wanted function that fits it."
)
HOST_CANNOT: Final = Reason(
    "device.host_cannot", "Its host cannot take the rest of any waiting request."
)
NOT_NAMED: Final = Reason("device.not_named", "The waiting demand names other devices.")
NO_DEMAND: Final = Reason("device.not_needed", "Nothing waits.")


def refused_devices(problem: Problem, state: State) -> tuple[Rejection, ...]:
    """One rejection for every device that is neither programmed nor promised to anybody."""
    judge = _Judge(problem, state)
    number, on, target = problem.number, state.on, state.target
    rejected = []
    for device in problem.inputs.devices:
        i = number.get(device.uuid)
        if i is not None and (target[i] != NOBODY or on[i]):
            continue
        rejected.append(Rejection(device.uuid, device.blocked or judge.reason(i, device)))
    rejected.sort(key=_subject)
    return tuple(rejected)


def unmet_demands(problem: Problem, state: State) -> tuple[Rejection, ...]:
    """One rejection for every class with units that nothing serves."""
    judge = _Judge(problem, state)
    unmet = [
        Rejection(want.demand.key, judge.unmet(want))
        for want in problem.wants
        if len(state.served[want.number]) < want.units
    ]
    unmet.sort(key=_subject)
    return tuple(unmet)


def _subject(rejection: Rejection) -> str:
    return rejection.subject


class _Judge:
    """Finds the reason of a refusal, and remembers it for equal devices."""

    def __init__(self, problem: Problem, state: State) -> None:
        self.problem = problem
        self.state = state
        self.unmet_by_function: dict[int, list[Want]] = {}
        for want in problem.wants:
            if state.waiting(want):
                for functions, _ in want.needs:
                    for function in functions:
                        self.unmet_by_function.setdefault(function, []).append(want)
        self.programmed = {function for function in state.target if function != NOBODY}
        self._models: dict[str, Reason] = {}
        self._shared: dict[tuple[object, ...], Reason] = {}

    def reason(self, i: int | None, device: DeviceView) -> Reason:
        """Why a device that may be programmed was not."""
        if device.becoming is not None:
            return UNDER_WAY
        useful = self.problem.useful.get(device.model)
        if useful is None:
            return self._model(device.model)
        if i is None:
            return SAME
        wanting = [f for f in useful if f in self.unmet_by_function and f != self.problem.offer[i]]
        if not wanting:
            if any(f in self.programmed for f in useful):
                return COSTS_MORE
            return NOT_NEEDED
        return self._against(i, device, wanting)

    def _model(self, model: str) -> Reason:
        if not self.problem.functions:
            return NO_DEMAND
        reason = self._models.get(model)
        if reason is None:
            reason = self._models[model] = Reason(
                "device.model",
                f"No wanted function that may be programmed now fits model {model}.",
                {"model": model},
            )
        return reason

    def _against(self, i: int, device: DeviceView, wanting: list[int]) -> Reason:
        """Why ``i`` does not serve demand that waits for the functions ``wanting``."""
        state = self.state
        useful = self.problem.useful[device.model]
        wants = [
            (want, function)
            for function in wanting
            for want in self.unmet_by_function[function]
            if want.whole
            or any(
                function in functions and slots <= useful[function]
                for functions, slots in want.needs
            )
        ]
        if not wants:
            return COSTS_MORE if any(f in self.programmed for f in useful) else NOT_NEEDED
        wants = [pair for pair in wants if pair[0].named is None or i in pair[0].named]
        if not wants:
            return NOT_NAMED
        wants = [pair for pair in wants if state.room_at(pair[0], device.host) > 0]
        if not wants:
            return HOST_CANNOT
        if state.total_left <= 0:
            return BUDGET_TOTAL
        if state.left_at(device.host) <= 0:
            return self._share(
                "device.budget_host",
                f"The budget of changeovers on {device.host} is spent.",
                "host",
                device.host,
            )
        wants = [pair for pair in wants if state.function_left[pair[1]] > 0]
        if not wants:
            name = self.problem.functions[wanting[0]]
            return self._share(
                "device.budget_function",
                f"The budget of changeovers to {name} is spent.",
                "function",
                name,
            )
        if all(len(want.needs) > 1 for want, _ in wants):
            return self._share(
                "device.gang",
                "Its host lacks devices for the other needs of the waiting units.",
                "host",
                device.host,
            )
        return self._too_dear(i, device)

    def _too_dear(self, i: int, device: DeviceView) -> Reason:
        old = self.problem.offer[i]
        if old != NOBODY and device.free and self.problem.keep[old] is not None:
            name = self.problem.functions[old]
            return self._share(
                "device.free_slots_wanted",
                f"Its free slots of {name} are worth more than what it would serve.",
                "function",
                name,
            )
        return self._share(
            "device.not_worth",
            "What it would serve is worth less than programming it costs.",
            "model",
            device.model,
        )

    def _share(self, code: str, text: str, fact: str, value: object) -> Reason:
        key = (code, value)
        reason = self._shared.get(key)
        if reason is None:
            reason = self._shared[key] = Reason(code, text, {fact: value})
        return reason

    def unmet(self, want: Want) -> Reason:
        """Why units of ``want`` are not served."""
        problem, state = self.problem, self.state
        facts = {"waiting": state.waiting(want), "units": want.units}
        for functions, slots in want.needs:
            if not any(
                after >= (1 if want.whole else slots)
                for function in functions
                for after in problem.fits[function].values()
            ):
                names = [problem.functions[function] for function in functions]
                stopped = {
                    function.name: function.stopped.as_json()
                    for function in problem.inputs.functions
                    if function.name in names and function.stopped is not None
                }
                if stopped:
                    return Reason(
                        "unmet.function_stopped",
                        f"Programming {', '.join(stopped)} is stopped.",
                        {**facts, "stopped": stopped},
                    )
                return Reason(
                    "unmet.no_function",
                    f"No function that may be programmed gives {slots} slots of "
                    f"{' or '.join(names)} on one device.",
                    {**facts, "functions": names},
                )
        if want.hosts is not None and all(state.room_at(want, host) <= 0 for host in want.hosts):
            return Reason(
                "unmet.hosts_cannot",
                "No host can take more of these requests, whatever the devices offer.",
                facts,
            )
        devices = [
            i
            for i in (sorted(want.named) if want.named is not None else range(len(state.target)))
            if problem.may[i]
            and state.room_at(want, problem.host[i]) > 0
            and any(
                function in problem.useful[problem.devices[i].model]
                for functions, _ in want.needs
                for function in functions
            )
        ]
        if not devices:
            return Reason(
                "unmet.no_device",
                "No device that fits may be programmed on a host that can take the request.",
                facts,
            )
        idle = [i for i in devices if state.idle(i)]
        if not idle:
            return Reason(
                "unmet.devices_taken",
                "Every device that fits serves demand that is worth as much or more.",
                {**facts, "devices": len(devices)},
            )
        if not any(
            state.allowed(i, function)
            for i in idle
            for functions, _ in want.needs
            for function in functions
            if function in problem.useful[problem.devices[i].model]
        ):
            return Reason(
                "unmet.budget",
                "The budgets of changeovers are spent for now.",
                {**facts, "devices": len(idle)},
            )
        if len(want.needs) > 1:
            return Reason(
                "unmet.gang",
                "No host has devices for all its needs at once that are worth their cost.",
                {**facts, "devices": len(idle)},
            )
        return Reason(
            "unmet.not_worth",
            "Programming a device for it costs more than it is worth.",
            {**facts, "devices": len(idle)},
        )
