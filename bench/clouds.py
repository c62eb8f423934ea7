"""Made-up clouds with waiting demand, for the planner's benchmark: equal seeds, equal clouds."""

from __future__ import annotations

import random
from dataclasses import dataclass

from changeover.models.planning import (
    Budgets,
    DemandClass,
    DemandKind,
    DeviceView,
    FunctionView,
    Need,
    PlanInputs,
)
from changeover.models.reasons import Reason

MODELS = ("u200", "u250", "u55c", "n3000", "a30", "l40s")
IN_USE = Reason("device.in_use", "A server uses it.")
PINNED = Reason("device.pinned", "An operator pinned it.")
QUARANTINED = Reason("device.quarantined", "Its last changeover failed.")


@dataclass(frozen=True, slots=True)
class Shape:
    """How big a cloud is and how much waits; shares are of 1."""

    devices: int
    functions: int
    classes: int
    units: int = 4
    slots: tuple[int, ...] = (1, 1, 2, 4, 8)
    gangs: float = 0.15
    budgets: float = 0.5
    restricted: float = 0.5
    low: float = 0.18
    keep: float = 0.5
    hosts_listed: int = 40


def mixed(seed: int, most: int = 300) -> Shape:
    """A shape of up to ``most`` devices: from plenty to more demand than devices can serve."""
    rng = random.Random(seed)  # noqa: S311 - repeatable inputs, no secret
    devices = rng.choice([size for size in (20, 40, 70, 100, 150, 200, 250, 300) if size <= most])
    return Shape(
        devices=devices,
        functions=max(4, devices // 10),
        classes=max(4, int(devices * rng.uniform(0.05, 0.25))),
        units=rng.choice((1, 2, 3)),
        gangs=rng.choice((0.0, 0.1, 0.2)),
        slots=rng.choice(((1,), (1, 2), (1, 1, 2, 4), (1, 1, 2, 4, 8))),
    )


def cloud(seed: int, shape: Shape) -> PlanInputs:
    """One generated batch."""
    rng = random.Random(seed)  # noqa: S311 - repeatable inputs, no secret
    functions = tuple(_function(rng, k, shape.slots) for k in range(shape.functions))
    hosts = [f"host-{k:05}" for k in range(max(1, shape.devices // rng.choice((2, 4, 4, 8))))]
    devices = tuple(_device(rng, k, hosts, functions) for k in range(shape.devices))
    fitting = {f.name: [d for d in devices[:2000] if d.model in f.fits] for f in functions}
    demands = tuple(_demand(rng, k, shape, hosts, functions, fitting) for k in range(shape.classes))
    return PlanInputs(
        now=0.0,
        seed=seed,
        functions=functions,
        devices=devices,
        demands=demands,
        budgets=_budgets(rng, shape, hosts, functions),
        keep={
            f.name: tuple(sorted((rng.uniform(0, 0.4) for _ in range(20)), reverse=True))
            for f in functions
            if rng.random() < shape.keep
        },
    )


def _function(rng: random.Random, k: int, slots: tuple[int, ...]) -> FunctionView:
    models = rng.sample(MODELS, rng.choice((1, 1, 2, 3)))
    stopped = Reason("function.stopped", "Its artifact fails.") if rng.random() < 0.04 else None
    return FunctionView(
        name=f"function-{k:04}",
        fits={model: rng.choice(slots) for model in models},
        seconds=rng.choice((5.0, 30.0, 60.0, 180.0)),
        stopped=stopped,
    )


def _device(
    rng: random.Random, k: int, hosts: list[str], functions: tuple[FunctionView, ...]
) -> DeviceView:
    model, host = rng.choice(MODELS), hosts[k % len(hosts)]
    draw = rng.random()
    fitting = None
    for _ in range(12):
        function = rng.choice(functions)
        if model in function.fits:
            fitting = function
            break
    becoming = blocked = name = None
    free = 0
    ready_in = 0.0
    if draw < 0.25 or fitting is None:
        pass
    elif draw < 0.6:
        name, free = fitting.name, fitting.fits[model]
    elif draw < 0.85:
        name, blocked = fitting.name, IN_USE
        free = rng.randrange(fitting.fits[model])
    elif draw < 0.9:
        becoming, free, ready_in = fitting.name, rng.randint(0, fitting.fits[model]), 30.0
        blocked = Reason("device.becoming", "A changeover of it is under way.")
    elif draw < 0.95:
        name, blocked = fitting.name, QUARANTINED
    else:
        name, free, blocked = fitting.name, fitting.fits[model], PINNED
    return DeviceView(
        uuid=f"{rng.getrandbits(128):032x}",
        name=f"device-{k:06}",
        host=host,
        model=model,
        mode="single_program",
        function=name,
        free=free,
        becoming=becoming,
        ready_in=ready_in,
        blocked=blocked,
        programs=rng.randrange(200),
    )


def _demand(
    rng: random.Random,
    k: int,
    shape: Shape,
    hosts: list[str],
    functions: tuple[FunctionView, ...],
    fitting: dict[str, list[DeviceView]],
) -> DemandClass:
    kind: DemandKind = "boot"
    draw = rng.random()
    if draw < shape.low:
        kind = rng.choice(("floor", "forecast"))
    elif draw < shape.low + 0.1:
        kind = rng.choice(("task", "layout"))
    units = rng.randint(1, 2 * shape.units - 1)
    base = rng.choice((0.5, 1.0, 1.0, 1.0, 2.0))
    needs = 1
    named = None
    if kind == "boot":
        needs = rng.choice((2, 2, 3)) if rng.random() < shape.gangs else 1
    elif kind in {"floor", "forecast"}:
        base = 0.1
    functions_of = [rng.sample(functions, rng.choice((1, 1, 1, 2))) for _ in range(needs)]
    if kind == "task" and rng.random() < 0.6:
        places = fitting[functions_of[0][0].name]
        if places:
            named = frozenset(d.uuid for d in rng.sample(places, min(len(places), 3)))
            units = len(named)
    weights = sorted((base * (1 + rng.expovariate(3)) for _ in range(units)), reverse=True)
    room = None
    if kind == "boot" and rng.random() < shape.restricted:
        count = min(len(hosts), shape.hosts_listed, max(1, int(len(hosts) * rng.random())))
        room = {host: rng.randint(1, 3) for host in rng.sample(hosts, count)}
    return DemandClass(
        key=f"class-{k:05}",
        kind=kind,
        needs=tuple(
            Need(tuple(f.name for f in chosen), rng.choice((1, 1, 1, 2)) if kind == "boot" else 1)
            for chosen in functions_of
        ),
        weights=tuple(weights),
        subjects=tuple(f"{k:05}-{unit:03}" for unit in range(units)),
        hosts=room,
        devices=named,
        whole_devices=kind in {"task", "layout"},
    )


def _budgets(
    rng: random.Random,
    shape: Shape,
    hosts: list[str],
    functions: tuple[FunctionView, ...],
) -> Budgets:
    if rng.random() >= shape.budgets:
        return Budgets()
    return Budgets(
        total=max(1, int(shape.devices * rng.uniform(0.05, 0.4))),
        per_host=rng.choice((None, 1, 2)),
        per_function=rng.choice((None, 3, 8)),
        host_left={host: 0 for host in hosts if rng.random() < 0.05},
        function_left={f.name: rng.randint(0, 2) for f in functions if rng.random() < 0.1},
    )
