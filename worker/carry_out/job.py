"""A job: one changeover as this worker carries it out, and the two ways to end it early."""

from __future__ import annotations

from dataclasses import dataclass, replace

from changeover.models.catalog import Device, Function, Model
from changeover.models.changeover import Changeover, Fence
from changeover.models.errors import ChangeoverError
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState
from changeover.worker.world import World


class GiveUp(ChangeoverError):
    """Put the device back as it was: the changeover lost a race, or is not wanted any more."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text, **dict(reason.facts))
        self.reason = reason


class Quarantine(ChangeoverError):
    """Nobody can say what the device does: it stays fenced until an operator looks."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text, **dict(reason.facts))
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Job:
    """A changeover, and the world that it is carried out in.

    What the catalog says of it is looked up when it is needed, and may not be there any more:
    then :class:`~changeover.models.errors.NotFound` is raised.
    """

    world: World
    changeover: Changeover

    @property
    def device(self) -> Device:
        """The catalog's device."""
        return self.world.device(self.changeover.device)

    @property
    def model(self) -> Model:
        """The device's model."""
        return self.world.model(self.device)

    @property
    def function(self) -> Function:
        """The catalog's function that the device is to get."""
        return self.world.function(self.changeover.to_function)

    def at(self, changeover: Changeover) -> Job:
        """The same job, with the changeover as it is now."""
        return replace(self, changeover=changeover)

    def move(
        self, state: ChangeoverState, reason: Reason | None = None, **changes: object
    ) -> Changeover:
        """Move the changeover on; raises :class:`Reread` if it is another worker's by now."""
        with self.world.database.write() as tx:
            return tx.changeovers.move(
                self.changeover, state, self.world.clock.now(), reason=reason, **changes
            )

    def fences(self) -> list[Fence]:
        """What it keeps closed, as journaled."""
        with self.world.database.read() as tx:
            return tx.fences.of(self.changeover.id)
