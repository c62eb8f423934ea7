"""A process that programs one device and says how it ended; the tests kill it half-way."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from changeover.models.catalog import CommandProgrammer as Settings
from changeover.models.catalog import Device, Function
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.adapters.programmer_command import CommandDriver
from changeover.worker.adapters.programmer_simulated import SimulatedDriver
from changeover.worker.ports.programmer import Programmer
from changeover.worker.simulator.cards import SimulatedCards


def programmer(kind: str, where: str) -> Programmer:
    """The programmer of that kind; ``where`` is the cards' directory, or the tool's settings."""
    if kind == "simulated":
        return SimulatedDriver(SimulatedCards(Path(where), SystemClock()))
    return CommandDriver(Settings.model_validate_json(where))


if __name__ == "__main__":
    kind, where, device, function = sys.argv[1:]
    result = programmer(kind, where).program(
        Device.model_validate_json(device), Function.model_validate_json(function), "caller"
    )
    sys.stdout.write(json.dumps([result.outcome, result.detail]))
