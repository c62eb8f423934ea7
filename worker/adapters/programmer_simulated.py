"""The programmer of the embedded cloud: the simulated cards, as a driver sees them."""

from __future__ import annotations

from changeover.models.catalog import Catalog, Device, Function
from changeover.models.errors import NotFound, Refuse
from changeover.worker.ports.programmer import (
    Entitled,
    Outcome,
    ProgramResult,
    Reading,
    always,
)
from changeover.worker.simulator.cards import SimulatedCards


class SimulatedDriver:
    """Programs the simulated cards in the calling process: a killed caller ends the call."""

    on_host = False
    report_seconds = 0.0

    def __init__(self, cards: SimulatedCards, catalog: Catalog | None = None) -> None:
        """With a catalog, calls are over within twice the longest time that it expects."""
        functions = catalog.functions.values() if catalog is not None else ()
        self.drain_seconds = 60.0 + 2 * max((f.seconds for f in functions), default=60.0)
        self._cards = cards

    def stage(self, device: Device, function: Function) -> None:
        """Check the artifact; ``Refuse`` if it is not as described or does not fit the device."""
        if device.model not in function.fits:
            raise Refuse(f"{function.name} does not fit {device.model}", device=device.name)
        if self._cards.corrupt(device.name, function.name):
            raise Refuse(
                f"the artifact of {function.name} is not the one that the catalog describes",
                function=function.name,
                sha256=function.artifact.sha256,
            )

    def program(
        self, device: Device, function: Function, token: str, entitled: Entitled = always
    ) -> ProgramResult:
        """See :class:`~changeover.worker.ports.programmer.Programmer`."""
        try:
            return self._cards.program(
                device.name, function.name, token, function.seconds, entitled
            )
        except NotFound as error:
            return ProgramResult(Outcome.FAILED, error.message)

    def read(self, device: Device) -> Reading:
        """See :class:`~changeover.worker.ports.programmer.Programmer`."""
        return self._cards.read(device.name)
