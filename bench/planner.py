"""How good and how fast the planner is.

Prints, as text or ``--json``:

- the gap to the exact optimum (HiGHS) over generated batches, with naive choices beside it,
- the planner's share of the solver's processor time on the larger of these batches,
- time and memory as clouds grow, with the exponent of the growth.

The solver takes long: what it found is kept in ``optima.jsonl`` and not solved again, unless
``--solve`` is given; ``--remember`` adds what is new. ``--quick`` does a small part of it in less
than half a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from time import process_time

from clouds import Shape, cloud, mixed
from exact import optimum
from growth import STEADY, Size, apart
from naive import first_by_name, least_demand, random_idle

from changeover.models.planning import Plan, PlanInputs
from changeover.policies.audit import Audit, audit
from changeover.policies.choose import choose

LARGE = 100
"""From this many devices on, a batch counts for the comparison of time."""

OPTIMA = Path(__file__).parent / "optima.jsonl"

GROWTH = (1_000, 3_000, 10_000, 30_000, 100_000)


@dataclass(frozen=True, slots=True)
class Batch:
    """One generated batch: scores of the optimum (or its bound) and of each planner."""

    seed: int
    devices: int
    classes: int
    proven: bool
    optimum: float
    scores: dict[str, float]
    solver_seconds: float
    planner_seconds: float


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--most-devices", type=int, default=300)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds of each solver stage")
    parser.add_argument("--solve", action="store_true", help="solve even what was solved before")
    parser.add_argument("--remember", action="store_true", help=f"add to {OPTIMA.name}")
    parser.add_argument("--quick", action="store_true", help="few small batches, small clouds")
    parser.add_argument("--progress", action="store_true", help="each batch, on standard error")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.instances, options.most_devices = 12, 100
    known = {} if options.solve else _known()
    batches = []
    for seed in range(options.first_seed, options.first_seed + options.instances):
        found = known.get((seed, options.most_devices))
        batch = _batch(seed, options.most_devices, options.limit, found)
        batches.append(batch)
        if options.remember and found is None:
            _remember(batch, options.most_devices)
        if options.progress:
            print(json.dumps(asdict(batches[-1])), file=sys.stderr, flush=True)
    growth = [apart(size, STEADY) for size in (GROWTH[:3] if options.quick else GROWTH)]
    sizes = [apart(1_000, STEADY)]
    if not options.quick:
        sizes.append(apart(100_000, Shape(0, functions=1_000, classes=10_000, units=2)))
    if options.json:
        print(
            json.dumps(
                {
                    "summary": _summary(batches),
                    "exponent": _exponent(growth),
                    "batches": [asdict(batch) for batch in batches],
                    "growth": [asdict(size) for size in growth],
                    "sizes": [asdict(size) for size in sizes],
                },
                indent=2,
            )
        )
    else:
        _print(batches, growth, sizes)


@dataclass(frozen=True, slots=True)
class Solved:
    """What the solver found of one batch: the optimum, or its bound; in processor seconds."""

    score: float
    proven: bool
    seconds: float


def _known() -> dict[tuple[int, int], Solved]:
    lines = OPTIMA.read_text(encoding="utf-8").splitlines() if OPTIMA.exists() else []
    return {
        (row["seed"], row["most"]): Solved(row["optimum"], row["proven"], row["seconds"])
        for row in map(json.loads, lines)
    }


def _remember(batch: Batch, most: int) -> None:
    row = {
        "seed": batch.seed,
        "most": most,
        "optimum": round(batch.optimum, 6),
        "proven": batch.proven,
        "seconds": round(batch.solver_seconds, 3),
    }
    with OPTIMA.open("a", encoding="utf-8") as sink:
        sink.write(json.dumps(row) + "\n")


def _solved(inputs: PlanInputs, limit: float) -> Solved:
    started = process_time()
    best = optimum(inputs, limit)
    return Solved(best.score, best.proven, process_time() - started)


def _batch(seed: int, most: int, limit: float, known: Solved | None) -> Batch:
    shape = mixed(seed, most)
    inputs = cloud(seed, shape)
    best = known or _solved(inputs, limit)
    started = process_time()
    plan = choose(inputs)
    planner = process_time() - started
    if plan.score > best.score + 2e-4 * abs(best.score) + 1e-6:
        # No plan is better than the best: what was solved was another batch.
        raise RuntimeError(f"seed {seed}: {OPTIMA.name} is of other batches; run with --solve")
    rng = random.Random(seed)  # noqa: S311 - a baseline, repeatable
    plans: dict[str, Plan] = {
        "changeover": plan,
        "first idle device by name": first_by_name(inputs),
        "random": random_idle(inputs, rng),
        "least demand": least_demand(inputs),
    }
    return Batch(
        seed=seed,
        devices=shape.devices,
        classes=shape.classes,
        proven=best.proven,
        optimum=best.score,
        scores={name: _checked(inputs, plan).score for name, plan in plans.items()},
        solver_seconds=best.seconds,
        planner_seconds=planner,
    )


def _checked(inputs: PlanInputs, plan: Plan) -> Audit:
    found = audit(inputs, plan)
    if found.faults:
        raise RuntimeError(f"seed {inputs.seed}: {found.faults[0]}")
    return found


def _gaps(batches: list[Batch], name: str) -> list[float]:
    return [(b.optimum - b.scores[name]) / b.optimum for b in batches if b.optimum > 0]


def _summary(batches: list[Batch]) -> dict[str, object]:
    large = [batch for batch in batches if batch.devices >= LARGE]
    planner = sum(batch.planner_seconds for batch in large)
    solver = sum(batch.solver_seconds for batch in large)
    proven = [batch for batch in batches if batch.proven]
    return {
        "batches": len(batches),
        "proven": len(proven),
        "gaps": {
            name: {
                "mean": mean(_gaps(batches, name)),
                "worst": max(_gaps(batches, name)),
                "mean_proven": mean(_gaps(proven, name)),
                "worst_proven": max(_gaps(proven, name)),
            }
            for name in batches[0].scores
        },
        "large_batches": len(large),
        "planner_seconds": planner,
        "solver_seconds": solver,
        "solver_over_planner": solver / planner if planner else math.nan,
    }


def _exponent(growth: list[Size]) -> float:
    """The slope of a least-squares line through log seconds over log devices."""
    x = [math.log(size.devices) for size in growth]
    y = [math.log(size.seconds) for size in growth]
    return sum((a - mean(x)) * (b - mean(y)) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean(x)) ** 2 for a in x
    )


def _print(batches: list[Batch], growth: list[Size], sizes: list[Size]) -> None:
    summary = _summary(batches)
    print(f"{len(batches)} batches of up to {max(b.devices for b in batches)} devices;")
    print(f"{summary['proven']} optima proven to 0.001 %, bounds for the others.\n")
    print(f"{'':28}{'mean gap':>10}{'worst gap':>11}{'proven: mean':>14}{'worst':>9}")
    gaps: dict[str, dict[str, float]] = summary["gaps"]  # type: ignore[assignment]
    for name, gap in gaps.items():
        print(
            f"{name:28}{gap['mean']:>10.2%}{gap['worst']:>11.2%}"
            f"{gap['mean_proven']:>14.2%}{gap['worst_proven']:>9.2%}"
        )
    print(
        f"\n{summary['large_batches']} batches of {LARGE} devices or more: planner "
        f"{summary['planner_seconds']:.2f} s, solver {summary['solver_seconds']:.1f} s "
        f"of processor time, 1/{summary['solver_over_planner']:.0f}.\n"
    )
    print(f"{'devices':>9}{'functions':>11}{'classes':>9}{'seconds':>10}{'peak MiB':>10}")
    for size in (*growth, *sizes):
        print(
            f"{size.devices:>9,}{size.functions:>11,}{size.classes:>9,}"
            f"{size.seconds:>10.4f}{size.peak_mib:>10.0f}"
        )
    print(f"\nGrowth with devices alone: exponent {_exponent(growth):.2f}.")


if __name__ == "__main__":
    main()
