"""The default policy keeps its budget, and its shadow is the reference."""

from __future__ import annotations

import numpy as np
import pytest
from unit.balancing.backtest_support import example, run

from changeover.policies.backtest.score import score
from changeover.policies.balancing.default import DefaultKnobs, DefaultPolicy
from changeover.policies.balancing.fleet import Arrival, Departure, FleetState, News
from changeover.policies.balancing.forecast import Forecast, ForecastKnobs, forecast_at
from changeover.policies.balancing.history import DemandHistory
from changeover.policies.balancing.policy import Decision
from changeover.policies.balancing.reactive import Reactive
from changeover.policies.balancing.shadow import Shadow
from changeover.policies.balancing.synthetic import SyntheticWorkload, generate


class Beside:
    """The reference with its own shadow, to compare their counts at every step."""

    def __init__(self, fleet: FleetState, patience: float, seed: int) -> None:
        self.policy = Reactive(fleet, patience, seed)
        self.shadow = Shadow(fleet, patience)
        self.programs = 0

    def decide(self, now: float, fleet: FleetState, news: News) -> Decision:
        self.shadow.follow(now, news)
        decision = self.policy.decide(now, fleet, news)
        self.programs += len(decision.programs)
        assert self.programs == self.shadow.programs
        return decision


@pytest.mark.parametrize("seed", range(5))
def test_the_shadow_of_the_reference_is_the_reference(seed: int) -> None:
    boots, fleet = generate(SyntheticWorkload(days=1, devices=6, gang=0.2, residents=0), seed)
    run(boots, fleet, Beside, 10.0, 600.0)


def test_a_server_that_gave_up_in_the_shadow_ends_nobody_else_there() -> None:
    fleet = FleetState(["d0"], ["f"], [[2]], 120.0)
    fleet.install(0, 0, 0.0)
    fleet.place(0, 2)
    shadow = Shadow(fleet, 60.0)
    # In truth there was room: the boot starts at once and ends. In the shadow it gives up.
    shadow.follow(1.0, News([Arrival(1.0, 7, 0, 1, failed=False)]))
    shadow.follow(100.0, News(departures=[Departure(100.0, 7, 0, 1)]))
    shadow.follow(200.0, News([Arrival(200.0, 8, 0, 1, failed=True)]))
    assert shadow.waiting() == 1


def test_a_server_that_gave_up_in_truth_is_held_in_the_shadow() -> None:
    fleet = FleetState(["d0"], ["f"], [[1]], 10.0)
    fleet.install(0, 0, 0.0)
    shadow = Shadow(fleet, 60.0)
    shadow.follow(0.0, News([Arrival(0.0, 1, 0, 1, failed=False)]))
    shadow.follow(300.0, News([], [Departure(300.0, 1, 0, 1)]))
    shadow.follow(400.0, News([Arrival(400.0, 2, 0, 1, failed=True)]))
    shadow.follow(460.0, News(abandoned=[2]))
    # Servers were held for 300 s: the one that gave up at 460 runs in the shadow until 760.
    for time, waiting in ((650.0, 1), (760.0, 0)):
        shadow.follow(time, News([Arrival(time, int(time), 0, 1, failed=True)]))
        assert shadow.waiting() == waiting
        shadow.follow(time + 60.0, News())


@pytest.mark.parametrize("cell", [(10.0, 60.0), (120.0, 600.0)])
def test_programs_stay_within_the_budget(cell: tuple[float, float]) -> None:
    boots, fleet = example()
    programs = {}
    for make in (Reactive, DefaultPolicy):
        journal = run(boots, fleet, make, *cell).journal
        programs[make.__name__] = score(boots, journal, cell[1]).programs
    assert programs["DefaultPolicy"] <= 2 * programs["Reactive"] + DefaultKnobs().allowance


def test_another_forecast_can_take_the_place_of_the_own() -> None:
    def nothing(history: DemandHistory, knobs: ForecastKnobs) -> Forecast:
        return forecast_at(history, np.zeros(len(history.functions)), knobs)

    boots, fleet = example()
    blind = run(boots, fleet, lambda f, p, s: DefaultPolicy(f, p, s, foresee=nothing)).journal
    seeing = run(boots, fleet, DefaultPolicy).journal
    assert score(boots, blind, 60.0).programs < score(boots, seeing, 60.0).programs


def test_it_loses_less_than_the_reference_on_the_example() -> None:
    boots, fleet = example()
    loss = [
        score(boots, run(boots, fleet, make).journal, 60.0).loss
        for make in (DefaultPolicy, Reactive)
    ]
    assert loss[0] < loss[1]
