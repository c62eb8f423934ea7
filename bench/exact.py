"""The exact optimum of one batch, by OR-tools' CP-SAT: the yardstick of the planner's benchmark.

The model is written from the definitions of the values, not from the planner's code. Stage one
maximises the score of all but floors and forecasts; stage two the whole score, with as much
urgent value as stage one served.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import accumulate
from time import perf_counter

from ortools.sat.python import cp_model

from changeover.models.planning import DemandClass, DeviceView, PlanInputs
from changeover.policies.problem import LOW

SCALE = 1_000_000
TOLERANCE = 1e-4
"""The solver may stop this close to its bound; gaps are told against the bound."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """``urgent`` is the score of stage one, ``score`` that of stage two; bounds where unproven."""

    urgent: float
    score: float
    proven: bool
    seconds: float


def optimum(inputs: PlanInputs, limit: float, workers: int) -> Optimum:
    """The best score that any plan of ``inputs`` can have."""
    started = perf_counter()
    urgent = replace(inputs, demands=tuple(d for d in inputs.demands if d.kind not in LOW))
    first = _Model(urgent)
    score, proven = first.solve(limit, workers)
    if len(urgent.demands) == len(inputs.demands):
        return Optimum(score, score, proven, perf_counter() - started)
    second = _Model(inputs)
    second.model.add(sum(second.urgent) >= first.urgent_value())
    second.hint(first)
    total, both = second.solve(limit, workers)
    return Optimum(score, total, proven and both, perf_counter() - started)


def _scaled(value: float) -> int:
    return round(value * SCALE)


class _Model:
    def __init__(self, inputs: PlanInputs) -> None:
        self.inputs = inputs
        self.model = cp_model.CpModel()
        self.solver = cp_model.CpSolver()
        self.catalog = {f.name: f for f in inputs.functions}
        self.devices = {d.uuid: d for d in inputs.devices}
        self.wanted = {n for d in inputs.demands for need in d.needs for n in need.functions}
        self.named: dict[tuple[object, ...], cp_model.IntVar] = {}
        self.programs: dict[tuple[str, str], cp_model.IntVar] = {}
        self.on: dict[tuple[str, str], list[cp_model.LinearExprT]] = defaultdict(list)
        self.used: dict[str, list[cp_model.LinearExprT]] = defaultdict(list)
        self.urgent: list[cp_model.LinearExprT] = []
        self.objective: list[cp_model.LinearExprT] = []
        self._program_variables()
        for demand in inputs.demands:
            if demand.whole_devices:
                self._whole(demand)
            else:
                self._units(demand)
        self._capacities()
        self._costs()
        self.model.maximize(sum(self.objective))

    def solve(self, limit: float, workers: int) -> tuple[float, bool]:
        # Counted work, not seconds: what is proven does not depend on how busy the machine is.
        self.solver.parameters.max_deterministic_time = limit
        self.solver.parameters.num_workers = workers
        self.solver.parameters.relative_gap_limit = TOLERANCE
        status = self.solver.solve(self.model)
        if status not in {cp_model.OPTIMAL, cp_model.FEASIBLE}:
            raise RuntimeError(f"no solution: {status}")
        return self.solver.best_objective_bound / SCALE, status == cp_model.OPTIMAL

    def hint(self, other: _Model) -> None:
        """Start from the solution of ``other``."""
        for name, variable in other.named.items():
            self.model.add_hint(self.named[name], other.solver.value(variable))

    def urgent_value(self) -> int:
        return sum(self.solver.value(term) for term in self.urgent)

    def _program_variables(self) -> None:
        for device in self.inputs.devices:
            if device.blocked is not None or device.becoming is not None:
                continue
            mine = []
            for name in sorted(self.wanted):
                function = self.catalog[name]
                if (
                    function.stopped is None
                    and function.fits.get(device.model, 0)
                    and name != device.function
                ):
                    x = self.model.new_bool_var("")
                    self.programs[device.uuid, name] = self.named[device.uuid, name] = x
                    mine.append(x)
            if mine:
                self.model.add_at_most_one(mine)

    def _programmed(self, uuid: str) -> cp_model.LinearExprT:
        return sum(self.programs.get((uuid, name), 0) for name in self.wanted)

    def _offers(self, uuid: str) -> str | None:
        device = self.devices[uuid]
        return device.becoming or device.function

    def _whole(self, demand: DemandClass) -> None:
        functions = demand.needs[0].functions
        at: dict[str, list[cp_model.LinearExprT]] = defaultdict(list)
        for device in self.inputs.devices:
            if demand.devices is not None and device.uuid not in demand.devices:
                continue
            ways: list[cp_model.LinearExprT] = [
                self.programs[device.uuid, name]
                for name in functions
                if (device.uuid, name) in self.programs
            ]
            if self._offers(device.uuid) in functions:
                ways.append(1 - self._programmed(device.uuid))
            if ways:
                served = self.model.new_bool_var("")
                self.named[demand.key, device.uuid] = served
                self.model.add(served <= sum(ways))
                at[device.host].append(served)
        self._value(demand, {host: sum(units) for host, units in at.items()})

    def _units(self, demand: DemandClass) -> None:
        parts = [self._parts(demand, k) for k in range(len(demand.needs))]
        units: dict[str, cp_model.LinearExprT] = {}
        for host in {host: None for at in parts for host in at}:
            if len(parts) == 1:
                units[host] = sum(parts[0][host])
                continue
            # Any parts of equal units on one host can be paired off: counting them is enough.
            count = self.model.new_int_var(0, len(demand.weights), "")
            units[host] = count
            for at in parts:
                self.model.add(sum(at.get(host, ())) == count)
        self._value(demand, units)

    def _parts(self, demand: DemandClass, k: int) -> dict[str, list[cp_model.IntVar]]:
        """For each host, how many units have their need ``k`` served by each of its devices."""
        at: dict[str, list[cp_model.IntVar]] = defaultdict(list)
        need = demand.needs[k]
        for device in self.inputs.devices:
            if demand.devices is not None and device.uuid not in demand.devices:
                continue
            if need.devices is not None and device.uuid not in need.devices:
                continue
            if demand.hosts is not None and not demand.hosts.get(device.host, 0):
                continue
            for name in need.functions:
                most = min(self._slots(device, name) // need.slots, len(demand.weights))
                if not most:
                    continue
                count = self.model.new_int_var(0, most, "")
                self.named[demand.key, k, device.uuid, name] = count
                at[device.host].append(count)
                self.on[device.uuid, name].append(need.slots * count)
                if (device.uuid, name) in self.programs:
                    # Implied by the slots, but the solver's bound is far better with it.
                    self.model.add(count <= most * self.programs[device.uuid, name])
                elif demand.kind not in LOW:
                    self.used[name].append(need.slots * count)
        return at

    def _slots(self, device: DeviceView, name: str) -> int:
        if (device.uuid, name) in self.programs:
            return self.catalog[name].fits[device.model]
        return device.free if self._offers(device.uuid) == name else 0

    def _value(self, demand: DemandClass, units: dict[str, cp_model.LinearExprT]) -> None:
        if demand.hosts is not None:
            for host, count in units.items():
                self.model.add(count <= demand.hosts.get(host, 0))
        steps = [self.model.new_bool_var("") for _ in demand.weights]
        self.model.add(sum(steps) == sum(units.values()))
        terms = [_scaled(w) * step for w, step in zip(demand.weights, steps, strict=True)]
        self.objective += terms
        if demand.kind not in LOW:
            self.urgent += terms

    def _capacities(self) -> None:
        for (uuid, name), loads in self.on.items():
            device = self.devices[uuid]
            if (uuid, name) in self.programs:
                slots = self.catalog[name].fits[device.model]
                self.model.add(sum(loads) <= slots * self.programs[uuid, name])
            else:
                self.model.add(sum(loads) <= device.free * (1 - self._programmed(uuid)))
        budgets = self.inputs.budgets
        if budgets.total is not None:
            self.model.add(sum(self.programs.values()) <= budgets.total)
        by_function: dict[str, list[cp_model.IntVar]] = defaultdict(list)
        for (_, name), x in self.programs.items():
            by_function[name].append(x)
        for name, xs in by_function.items():
            bound = budgets.for_function(name)
            if bound is not None:
                self.model.add(sum(xs) <= bound)

    def _costs(self) -> None:
        inputs, weights = self.inputs, self.inputs.weights
        programs = [d.programs for d in inputs.devices]
        least, most = min(programs), max(programs)
        by_host: dict[str, list[cp_model.IntVar]] = defaultdict(list)
        gone: dict[str, list[cp_model.LinearExprT]] = defaultdict(list)
        for (uuid, name), x in self.programs.items():
            device = self.devices[uuid]
            cost = weights.per_second * self.catalog[name].seconds
            if most:
                cost += weights.wear * (device.programs - least) / most
            self.objective.append(-_scaled(cost) * x)
            by_host[device.host].append(x)
            if device.function is not None and device.free:
                gone[device.function].append(device.free * x)
        for host, xs in by_host.items():
            bound = inputs.budgets.for_host(host)
            if bound is not None:
                self.model.add(sum(xs) <= bound)
            already = sum(d.becoming is not None and d.host == host for d in inputs.devices)
            steps = [self.model.new_bool_var("") for _ in xs]
            self.model.add(sum(steps) == sum(xs))
            self.objective += [
                -_scaled(weights.spread * (already + k)) * step for k, step in enumerate(steps)
            ]
        for name, loads in gone.items():
            self._loss(name, sum(loads))

    def _loss(self, name: str, gone: cp_model.LinearExpr | int) -> None:
        kept = self.inputs.keep.get(name)
        if kept is None:
            self.objective.append(-_scaled(self.inputs.weights.lost_slot) * gone)
            return
        total = sum(d.free for d in self.inputs.devices if self._offers(d.uuid) == name)
        prefix = [0, *(_scaled(v) for v in accumulate(kept))]
        table = [prefix[min(m, len(kept))] for m in range(total + 1)]
        before = self.model.new_int_var(0, total, "")
        after = self.model.new_int_var(0, total, "")
        self.model.add(before == total - sum(self.used[name]))
        self.model.add(after == before - gone)
        kept_before = self.model.new_int_var(0, table[-1], "")
        kept_after = self.model.new_int_var(0, table[-1], "")
        self.model.add_element(before, table, kept_before)
        self.model.add_element(after, table, kept_after)
        loss = self.model.new_int_var(0, table[-1], "")
        self.model.add(loss == kept_before - kept_after)
        # Boots that take free slots only make the rest dearer: a bound that relaxes well.
        steps = [self.model.new_bool_var("") for _ in range(total)]
        self.model.add(sum(steps) == gone)
        worth = [table[total - k] - table[total - k - 1] for k in range(total)]
        self.model.add(loss >= sum(v * step for v, step in zip(worth, steps, strict=True)))
        self.objective.append(-loss)
