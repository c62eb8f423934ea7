"""From a forecast and the state of the devices to programs, for who waits and for the future.

An idle device is worth what its slots save where they are: the expected loss over `span` if they
were not there. Boots that wait get the device that is worth least; then devices are moved to
where they are worth more, as long as one move gains more than the price of a program.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from changeover.policies.balancing.fleet import BLANK, FleetState, Program
from changeover.policies.balancing.forecast import Forecast
from changeover.policies.balancing.history import Floats


@dataclass(frozen=True, slots=True)
class BalanceKnobs:
    """What a program may cost."""

    span: float = 24 * 3600.0
    """Seconds for which a device is credited with what it saves where it lies."""
    holdings: float = 2.0
    """The same in mean holding times, where it is shorter and the function is in use: its free
    slots will be others by then."""
    price: float = 0.8
    """Expected loss (failed boots and shares of patience) that one program must save."""
    at_once: int = 2
    """Forecast programs begun at one time at most."""
    dwell: float = 120.0
    """Seconds after a program during which only failed boots may move the device again."""
    failed_price: float = 0.05
    """The same for a function that has just failed, though too late to save that boot."""


class Balancer:
    """One round of balancing over a snapshot; plans on copies, changes nothing."""

    def __init__(
        self,
        now: float,
        fleet: FleetState,
        expected: Forecast,
        patience: float,
        knobs: BalanceKnobs,
    ) -> None:
        """Work out what free slots are worth now."""
        self._fleet = fleet
        self._knobs = knobs
        # A miss costs the failed first try, and the wait for a program as a share of patience.
        miss = 1 + min(1.0, fleet.program_seconds / patience)
        lost = expected.lost_boots(knobs.span) * miss
        busy = {fleet.function[d] for d, used in enumerate(fleet.used) if used}
        brief = np.minimum(1.0, knobs.holdings * expected.holding / knobs.span)
        self._lasting = np.where([f in busy for f in range(len(brief))], brief, 1.0)
        most = lost.shape[1]
        self._most = most
        self._saved = np.zeros((lost.shape[0], most + 1))
        np.cumsum(lost, axis=1, out=self._saved[:, 1:])
        self._rows = np.arange(lost.shape[0])
        self._spare = np.array(fleet.free) + np.array(fleet.coming)
        self._late: list[int] = []
        for function, queue in enumerate(fleet.waiting):
            if queue:
                wanted = sum(boot.slots for boot in queue)
                # A boot whose patience ends before a program could be ready is no reason for one.
                savable = sum(
                    boot.slots
                    for boot in queue
                    if boot.since + patience >= now + fleet.program_seconds
                )
                if wanted > self._spare[function]:
                    self._late.append(function)
                self._spare[function] -= savable
        self._idle = list(fleet.idle())
        self._rested = {
            d
            for d in self._idle
            if fleet.function[d] == BLANK or fleet.ready_at[d] + knobs.dwell <= now
        }
        self._slots = {row: np.array(row) for row in {fleet.slots[d] for d in self._idle}}
        self.programs: list[Program] = []

    def serve_waiting(self) -> None:
        """Give each function with missing slots the devices that are worth least elsewhere."""
        fleet = self._fleet
        order = sorted(
            (queue[0].since, queue[0].boot, f) for f, queue in enumerate(fleet.waiting) if queue
        )
        for _, _, function in order:
            while self._spare[function] < 0:
                fit = [
                    (worth, device)
                    for device in self._idle
                    if fleet.slots[device][function]
                    and fleet.function[device] != function
                    and (worth := self._worth(device)) < np.inf
                ]
                if not fit:
                    break
                self._take(min(fit)[1], function, "boots wait")

    def follow_failures(self) -> None:
        """Program for functions whose boots cannot be saved any more, where it gains at all."""
        fleet = self._fleet
        for function in self._late:
            if self._spare[function] < 0 or fleet.coming[function]:
                continue
            fit = [
                (worth, device)
                for device in self._idle
                if fleet.slots[device][function]
                and fleet.function[device] != function
                and (worth := self._worth(device)) < np.inf
            ]
            if not fit:
                continue
            worth, device = min(fit)
            gain = self._gains(self._slots[fleet.slots[device]])[function] - max(worth, 0.0)
            if gain > self._knobs.failed_price:
                self._take(device, function, f"just failed, saves {gain:.2f} boots")

    def prepare(self, price: float, at_most: int) -> None:
        """Move idle devices to where they save more, the best move first."""
        fleet = self._fleet
        for _ in range(at_most):
            best: tuple[float, int, int] | None = None
            for row, slots in self._slots.items():
                lots: dict[int, int] = {}
                for device in self._idle:
                    if device in self._rested and fleet.slots[device] == row:
                        lots.setdefault(fleet.function[device], device)
                gains = self._gains(slots)
                for old, device in lots.items():
                    worth = self._worth(device)
                    if worth == np.inf:
                        continue
                    net = gains - max(worth, 0.0)
                    if old != BLANK:
                        # A lead lasts as long as both sides stay as they are.
                        net *= np.minimum(self._lasting, self._lasting[old])
                        net[old] = -1.0
                    function = int(net.argmax())
                    gain = float(net[function])
                    if gain > price and (best is None or gain > best[0]):
                        best = (gain, device, function)
            if best is None:
                return
            self._take(best[1], best[2], f"forecast saves {best[0]:.2f} boots")

    def _gains(self, slots: Floats) -> Floats:
        """What one further device would save, per function."""
        low = np.clip(self._spare, 0, self._most)
        high = np.minimum(low + slots, self._most)
        gains: Floats = self._saved[self._rows, high] - self._saved[self._rows, low]
        gains[(slots == 0) | (self._spare < 0)] = -1.0
        return gains

    def _worth(self, device: int) -> float:
        """What the idle device saves where it is; infinite where boots wait for it."""
        function = self._fleet.function[device]
        if function == BLANK:
            return -1.0
        high = int(self._spare[function])
        low = high - self._fleet.slots[device][function]
        if low < 0:
            return float("inf")
        saved = self._saved[function]
        return float(saved[min(high, self._most)] - saved[min(low, self._most)])

    def _take(self, device: int, function: int, reason: str) -> None:
        old = self._fleet.function[device]
        if old != BLANK:
            self._spare[old] -= self._fleet.slots[device][old]
        self._spare[function] += self._fleet.slots[device][function]
        self._idle.remove(device)
        self.programs.append(Program(device, function, reason))
