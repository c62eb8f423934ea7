"""The exact optimum of one batch, by HiGHS: the yardstick of the planner's benchmark.

The model is written from the definitions of the values, not from the planner's code. Stage one
maximises the score of all but floors and forecasts; stage two the whole score, with as much
urgent value as stage one served. HiGHS proves in a second what CP-SAT did not in half a minute:
the model's linear relaxation is tight, which is what HiGHS lives on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

from ortools.linear_solver.python import model_builder as mip

from changeover.models.planning import DemandClass, DeviceView, PlanInputs
from changeover.policies.problem import LOW

TOLERANCE = 1e-5
"""The solver may stop this close to its bound; gaps are told against the bound."""

ROUNDING = 1e-6
"""What stage two may serve less of urgent value: rounding of the solver's, no unit of demand."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """``urgent`` is the score of stage one, ``score`` that of stage two; bounds where unproven."""

    urgent: float
    score: float
    proven: bool


def optimum(inputs: PlanInputs, limit: float) -> Optimum:
    """The best score that any plan of ``inputs`` can have; ``limit`` seconds for each stage."""
    urgent = replace(inputs, demands=tuple(d for d in inputs.demands if d.kind not in LOW))
    first = _Model(urgent)
    score, proven = first.solve(limit)
    if len(urgent.demands) == len(inputs.demands):
        return Optimum(score, score, proven)
    second = _Model(inputs)
    if second.urgent:
        second.model.add(_sum(second.urgent) >= first.urgent_value() - ROUNDING)
    total, both = second.solve(limit)
    return Optimum(score, total, proven and both)


def _sum(terms: Iterable[mip.LinearExprT]) -> mip.LinearExprT:
    return mip.LinearExpr.sum(list(terms))


class _Model:
    def __init__(self, inputs: PlanInputs) -> None:
        self.inputs = inputs
        self.model = mip.Model()
        self.solver = mip.Solver("highs")
        self.catalog = {f.name: f for f in inputs.functions}
        self.devices = {d.uuid: d for d in inputs.devices}
        self.wanted = {n for d in inputs.demands for need in d.needs for n in need.functions}
        self.programs: dict[tuple[str, str], mip.Variable] = {}
        self.on: dict[tuple[str, str], list[mip.LinearExprT]] = defaultdict(list)
        self.used: dict[str, list[mip.LinearExprT]] = defaultdict(list)
        self.urgent: list[mip.LinearExprT] = []
        self.objective: list[mip.LinearExprT] = []
        self._program_variables()
        for demand in inputs.demands:
            if demand.whole_devices:
                self._whole(demand)
            else:
                self._units(demand)
        self._capacities()
        self._costs()
        self.model.maximize(_sum(self.objective))

    def solve(self, limit: float) -> tuple[float, bool]:
        self.solver.set_time_limit_in_seconds(limit)
        self.solver.set_solver_specific_parameters(f"mip_rel_gap={TOLERANCE}\nlog_to_console=false")
        status = self.solver.solve(self.model)
        if status not in {mip.SolveStatus.OPTIMAL, mip.SolveStatus.FEASIBLE}:
            raise RuntimeError(f"no solution: {status}")
        return self.solver.best_objective_bound, status == mip.SolveStatus.OPTIMAL

    def urgent_value(self) -> float:
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
                    self.programs[device.uuid, name] = x
                    mine.append(x)
            if mine:
                self.model.add(_sum(mine) <= 1)

    def _programmed(self, uuid: str) -> mip.LinearExprT:
        return _sum(self.programs.get((uuid, name), 0) for name in self.wanted)

    def _offers(self, uuid: str) -> str | None:
        device = self.devices[uuid]
        return device.becoming or device.function

    def _whole(self, demand: DemandClass) -> None:
        functions = demand.needs[0].functions
        at: dict[str, list[mip.LinearExprT]] = defaultdict(list)
        for device in self.inputs.devices:
            if demand.devices is not None and device.uuid not in demand.devices:
                continue
            ways: list[mip.LinearExprT] = [
                self.programs[device.uuid, name]
                for name in functions
                if (device.uuid, name) in self.programs
            ]
            if self._offers(device.uuid) in functions:
                ways.append(1 - self._programmed(device.uuid))
            if ways:
                served = self.model.new_bool_var("")
                self.model.add(served <= _sum(ways))
                at[device.host].append(served)
        self._value(demand, {host: _sum(units) for host, units in at.items()})

    def _units(self, demand: DemandClass) -> None:
        parts = [self._parts(demand, k) for k in range(len(demand.needs))]
        units: dict[str, mip.LinearExprT] = {}
        for host in {host: None for at in parts for host in at}:
            if len(parts) == 1:
                units[host] = _sum(parts[0][host])
                continue
            # Any parts of equal units on one host can be paired off: counting them is enough.
            count = self.model.new_int_var(0, len(demand.weights), "")
            units[host] = count
            for at in parts:
                self.model.add(_sum(at.get(host, ())) == count)
        self._value(demand, units)

    def _parts(self, demand: DemandClass, k: int) -> dict[str, list[mip.Variable]]:
        """For each host, how many units have their need ``k`` served by each of its devices."""
        at: dict[str, list[mip.Variable]] = defaultdict(list)
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

    def _value(self, demand: DemandClass, units: dict[str, mip.LinearExprT]) -> None:
        if demand.hosts is not None:
            for host, count in units.items():
                self.model.add(count <= demand.hosts.get(host, 0))
        steps = [self.model.new_bool_var("") for _ in demand.weights]
        self.model.add(_sum(steps) == _sum(units.values()))
        terms = [w * step for w, step in zip(demand.weights, steps, strict=True)]
        self.objective += terms
        if demand.kind not in LOW:
            self.urgent += terms

    def _capacities(self) -> None:
        for (uuid, name), loads in self.on.items():
            device = self.devices[uuid]
            if (uuid, name) in self.programs:
                slots = self.catalog[name].fits[device.model]
                self.model.add(_sum(loads) <= slots * self.programs[uuid, name])
            else:
                self.model.add(_sum(loads) <= device.free * (1 - self._programmed(uuid)))
        budgets = self.inputs.budgets
        if budgets.total is not None:
            self.model.add(_sum(self.programs.values()) <= budgets.total)
        by_function: dict[str, list[mip.Variable]] = defaultdict(list)
        for (_, name), x in self.programs.items():
            by_function[name].append(x)
        for name, xs in by_function.items():
            bound = budgets.for_function(name)
            if bound is not None:
                self.model.add(_sum(xs) <= bound)

    def _costs(self) -> None:
        inputs, weights = self.inputs, self.inputs.weights
        programs = [d.programs for d in inputs.devices]
        least, most = min(programs), max(programs)
        by_host: dict[str, list[mip.Variable]] = defaultdict(list)
        gone: dict[str, list[mip.LinearExprT]] = defaultdict(list)
        for (uuid, name), x in self.programs.items():
            device = self.devices[uuid]
            cost = weights.per_second * self.catalog[name].seconds
            if most:
                cost += weights.wear * (device.programs - least) / most
            self.objective.append(-cost * x)
            by_host[device.host].append(x)
            if device.function is not None and device.free:
                gone[device.function].append(device.free * x)
        for host, xs in by_host.items():
            bound = inputs.budgets.for_host(host)
            if bound is not None:
                self.model.add(_sum(xs) <= bound)
            already = sum(d.becoming is not None and d.host == host for d in inputs.devices)
            steps = [self.model.new_bool_var("") for _ in xs]
            self.model.add(_sum(steps) == _sum(xs))
            self.objective += [
                -weights.spread * (already + k) * step for k, step in enumerate(steps)
            ]
        for name, loads in gone.items():
            self._loss(name, _sum(loads))

    def _loss(self, name: str, gone: mip.LinearExprT) -> None:
        """What the free slots of ``name`` that go away were worth, of those that boots leave."""
        kept = self.inputs.keep.get(name)
        if kept is None:
            self.objective.append(-self.inputs.weights.lost_slot * gone)
            return
        total = sum(d.free for d in self.inputs.devices if self._offers(d.uuid) == name)
        used = _sum(self.used[name])
        kept = kept[:total]
        # What remains is worth its most wanted slots: the objective fills the first steps itself.
        after = [self.model.new_num_var(0, 1, "") for _ in kept]
        self.model.add(_sum(after) <= total - used - gone)
        # What there was to lose counts against the plan: nothing but an order fills these rightly.
        before = [self.model.new_bool_var("") for _ in kept]
        rest = self.model.new_num_var(0, inf, "")
        self.model.add(_sum(before) + rest == total - used)
        for one, next_one in pairwise(before):
            self.model.add(one >= next_one)
        if kept:
            self.model.add(rest <= (total - len(kept)) * before[-1])
        self.objective += [v * step for v, step in zip(kept, after, strict=True)]
        self.objective += [-v * step for v, step in zip(kept, before, strict=True)]
        # Boots that take free slots only make the rest dearer: a bound that relaxes well.
        worth = [*kept, *[0.0] * (total - len(kept))][::-1]
        steps = [self.model.new_num_var(0, 1, "") for _ in worth]
        self.model.add(_sum(steps) == gone)
        self.model.add(
            _sum(v * (b - a) for v, b, a in zip(kept, before, after, strict=True))
            >= _sum(v * step for v, step in zip(worth, steps, strict=True))
        )
