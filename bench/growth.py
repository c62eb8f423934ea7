"""Time and memory of the planner for one size of cloud, measured in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from time import process_time

from clouds import Shape, cloud

from changeover.policies.choose import choose

STEADY = Shape(devices=0, functions=50, classes=200, units=2, budgets=0.0)
"""What is held fixed while the devices grow."""


@dataclass(frozen=True, slots=True)
class Size:
    """Time and memory for one size of cloud."""

    devices: int
    functions: int
    classes: int
    seconds: float
    peak_mib: float
    intents: int
    served: int


def apart(devices: int, shape: Shape) -> Size:
    """Measure in a process of its own, so that its peak of memory is its own."""
    size = (str(devices), str(shape.functions), str(shape.classes), str(shape.units))
    out = subprocess.run(
        [sys.executable, __file__, *size], check=True, capture_output=True, text=True
    )
    return Size(**json.loads(out.stdout))


def measure(devices: int, functions: int, classes: int, units: int) -> Size:
    shape = replace(STEADY, devices=devices, functions=functions, classes=classes, units=units)
    inputs = cloud(1, shape)
    took = []
    for _ in range(3 if devices > 10_000 else 9):
        started = process_time()
        plan = choose(inputs)
        took.append(process_time() - started)
    return Size(
        devices=devices,
        functions=functions,
        classes=classes,
        seconds=min(took),
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        intents=len(plan.intents),
        served=len({(promise.demand, promise.subject) for promise in plan.promises}),
    )


if __name__ == "__main__":
    print(json.dumps(asdict(measure(*map(int, sys.argv[1:])))))
