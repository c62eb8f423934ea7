"""Small generated clouds for the planner's tests, and all plans that they allow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from random import Random
from typing import Any

from hypothesis import strategies as st

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

IN_USE = Reason("device.in_use", "A server uses it.")
RESTING = Reason("device.resting", "It was programmed a short while ago.")
STOPPED = Reason("function.stopped", "Its artifact fails.")
NAMES = ("aes", "fft", "gzip")
HOSTS = ("h1", "h2", "h3")
MODELS = ("u", "v")


def device(
    uuid: str,
    host: str = "h1",
    model: str = "u",
    function: str | None = None,
    free: int = 0,
    **more: Any,
) -> DeviceView:
    return DeviceView(uuid, uuid, host, model, "single_program", function, free, **more)


def demand(
    key: str,
    *functions: str,
    units: int = 1,
    weight: float = 1.0,
    kind: DemandKind = "boot",
    slots: int = 1,
    **more: Any,
) -> DemandClass:
    """A class of equal units, each with one need for every function named."""
    return DemandClass(
        key,
        kind,
        tuple(Need((name,), slots) for name in functions),
        (weight,) * units,
        tuple(f"{key}-{k}" for k in range(units)),
        **more,
    )


def inputs(
    functions: tuple[FunctionView, ...],
    devices: tuple[DeviceView, ...],
    demands: tuple[DemandClass, ...],
    **more: Any,
) -> PlanInputs:
    return PlanInputs(0.0, 1, functions, devices, demands, **more)


@st.composite
def _functions(draw: st.DrawFn) -> tuple[FunctionView, ...]:
    return tuple(
        FunctionView(
            name,
            draw(st.dictionaries(st.sampled_from(MODELS), st.integers(1, 3), min_size=1)),
            seconds=draw(st.sampled_from((10.0, 60.0))),
            stopped=STOPPED if draw(st.integers(0, 9)) == 0 else None,
        )
        for name in NAMES
    )


@st.composite
def _device(draw: st.DrawFn, uuid: str) -> DeviceView:
    function = draw(st.sampled_from((None, None, *NAMES)))
    becoming = draw(st.sampled_from((None, None, None, None, *NAMES)))
    blocked = becoming is not None or draw(st.integers(0, 3)) == 0
    return device(
        uuid,
        draw(st.sampled_from(HOSTS)),
        draw(st.sampled_from(MODELS)),
        function,
        draw(st.integers(0, 2)) if function or becoming else 0,
        becoming=becoming,
        blocked=IN_USE if blocked else None,
        programs=draw(st.integers(0, 9)),
        traits=frozenset(draw(st.sampled_from(((), ("FAST",))))),
        resting=RESTING if draw(st.integers(0, 5)) == 0 else None,
    )


@st.composite
def _demand(draw: st.DrawFn, key: str, uuids: tuple[str, ...]) -> DemandClass:
    kinds: tuple[DemandKind, ...] = ("boot", "boot", "boot", "task", "floor", "forecast")
    kind = draw(st.sampled_from(kinds))
    whole = kind == "task"
    units = draw(st.integers(1, 3))
    gang = 1 if kind != "boot" else draw(st.sampled_from((1, 1, 2)))
    low = kind in {"floor", "forecast"}
    weights = draw(
        st.lists(
            st.sampled_from((0.05, 0.1) if low else (0.5, 1.0, 2.0)),
            min_size=units,
            max_size=units,
        )
    )
    room = None
    if draw(st.booleans()):
        room = draw(st.dictionaries(st.sampled_from(HOSTS), st.integers(1, 2)))
    named = None
    if whole and draw(st.booleans()):
        named = frozenset(draw(st.lists(st.sampled_from(uuids), min_size=1)))
    return DemandClass(
        key,
        kind,
        tuple(
            Need(
                tuple(draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True))),
                draw(st.sampled_from((1, 1, 2))),
                draw(st.sampled_from((None, None, frozenset(uuids[::2])))),
            )
            for _ in range(gang)
        ),
        tuple(sorted(weights, reverse=True)),
        tuple(f"{key}-{k}" for k in range(units)),
        hosts=room,
        preferred=frozenset(draw(st.sampled_from(((), (), ("FAST",))))),
        devices=named,
        whole_devices=whole,
        apart=gang > 1 and draw(st.booleans()),
    )


def _budgets() -> st.SearchStrategy[Budgets]:
    some = st.sampled_from((None, None, 0, 1, 2))
    return st.builds(
        Budgets,
        total=some,
        per_host=some,
        per_function=some,
        host_left=st.dictionaries(st.sampled_from(HOSTS), st.integers(0, 1), max_size=1),
        function_left=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 1), max_size=1),
    )


def crowded(seed: int) -> PlanInputs:
    """A cloud in which much waits and budgets, hosts and names are in the way of it.

    Drawn evenly: what Hypothesis draws is mostly small and free of budgets, and a planner that
    ignores them passes.
    """
    rng = Random(seed)
    some = (None, 0, 1, 2, 3)
    devices = tuple(_crowded_device(rng, f"d{k}") for k in range(rng.randint(4, 14)))
    return PlanInputs(
        now=0.0,
        seed=rng.randint(0, 3),
        functions=tuple(
            FunctionView(name, {m: rng.randint(1, 4) for m in MODELS}, rng.choice((10.0, 60.0)))
            for name in NAMES
        ),
        devices=devices,
        demands=tuple(_crowded_demand(rng, f"c{k}", devices) for k in range(rng.randint(3, 8))),
        budgets=Budgets(
            total=rng.choice((None, *some)),
            per_host=rng.choice(some),
            per_function=rng.choice(some),
            host_left={host: rng.randint(0, 2) for host in HOSTS if rng.random() < 0.2},
            function_left={name: rng.randint(0, 2) for name in NAMES if rng.random() < 0.2},
        ),
        keep={name: (0.4, 0.2, 0.1) for name in NAMES if rng.random() < 0.4},
    )


def _crowded_device(rng: Random, uuid: str) -> DeviceView:
    function = rng.choice((None, *NAMES))
    becoming = rng.choice((*NAMES, *(None,) * 12))
    return device(
        uuid,
        rng.choice(HOSTS),
        rng.choice(MODELS),
        function,
        rng.randint(0, 2) if function or becoming else 0,
        becoming=becoming,
        blocked=IN_USE if rng.random() < 0.15 else None,
        programs=rng.randint(0, 9),
        resting=RESTING if rng.random() < 0.15 else None,
    )


def _crowded_demand(rng: Random, key: str, devices: tuple[DeviceView, ...]) -> DemandClass:
    kinds: tuple[DemandKind, ...] = ("boot", "boot", "boot", "task", "floor", "forecast")
    kind = rng.choice(kinds)
    uuids = [d.uuid for d in devices]
    gang = rng.choice((1, 1, 2, 3)) if kind == "boot" else 1
    units = rng.randint(1, 4)
    weights = (0.05, 0.1, 0.3) if kind in {"floor", "forecast"} else (0.5, 1.0, 2.0)
    return DemandClass(
        key,
        kind,
        tuple(
            Need(
                tuple(rng.sample(NAMES, rng.randint(1, 2))),
                rng.choice((1, 1, 2, 3)),
                frozenset(rng.sample(uuids, len(uuids) // 2)) if rng.random() < 0.25 else None,
            )
            for _ in range(gang)
        ),
        tuple(sorted((rng.choice(weights) for _ in range(units)), reverse=True)),
        tuple(f"{key}-{k}" for k in range(units)),
        hosts={h: rng.randint(0, 2) for h in HOSTS} if rng.random() < 0.4 else None,
        devices=frozenset(rng.sample(uuids, 2)) if rng.random() < 0.2 else None,
        whole_devices=kind == "task",
        apart=gang > 1 and rng.random() < 0.5,
    )


@st.composite
def clouds(draw: st.DrawFn, devices: int = 8, classes: int = 5) -> PlanInputs:
    """Any cloud of that many devices and classes at most."""
    uuids = tuple(f"d{k}" for k in range(draw(st.integers(1, devices))))
    keys = tuple(f"c{k}" for k in range(draw(st.integers(1, classes))))
    kept = st.lists(st.sampled_from((0.3, 0.2, 0.0)), max_size=3)
    return PlanInputs(
        now=0.0,
        seed=draw(st.integers(0, 3)),
        functions=draw(_functions()),
        devices=tuple(draw(_device(uuid)) for uuid in uuids),
        demands=tuple(draw(_demand(key, uuids)) for key in keys),
        budgets=draw(_budgets()),
        keep={
            name: tuple(sorted(values, reverse=True))
            for name, values in draw(
                st.dictionaries(st.sampled_from(NAMES), kept, max_size=2)
            ).items()
        },
    )


def targets(cloud: PlanInputs) -> Iterator[dict[str, str]]:
    """Every choice of functions for devices that budgets and models allow."""
    choices = []
    for d in cloud.devices:
        may = d.blocked is None and d.becoming is None
        names = [
            f.name
            for f in cloud.functions
            if may and f.stopped is None and d.model in f.fits and f.name != d.function
        ]
        choices.append([None, *names])
    for chosen in product(*choices):
        yield {d.uuid: n for d, n in zip(cloud.devices, chosen, strict=True) if n is not None}
