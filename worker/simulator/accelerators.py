"""The embedded cloud's Cyborg: one device profile for each function, of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from changeover.models.catalog import Catalog
from changeover.models.errors import NotFound
from changeover.policies.offer import class_of
from changeover.worker.ports.accelerators import Deployable


class SimulatedAccelerators:
    """The port ``Accelerators``, made of the catalog when it is asked.

    A profile asks for one slot of a device that has the function's traits: of its single-program
    class, where it has one. What a deployable's driver would report is not kept here.
    """

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self._read = catalog

    @cached_property
    def _catalog(self) -> Catalog:
        return self._read()

    def device_profile(self, name: str) -> Sequence[Mapping[str, str]] | None:
        """See :class:`~changeover.worker.ports.accelerators.Accelerators`."""
        function = self._catalog.functions.get(name)
        if function is None:
            return None
        models = [self._catalog.models[model] for model in function.fits]
        single = [model for model in models if model.mode == "single_program"]
        traits = {f"trait:{trait}": "required" for trait in function.traits}
        return [{f"resources:{class_of(function, (single or models)[0])}": "1", **traits}]

    def deployables(self) -> list[Deployable]:
        """See :class:`~changeover.worker.ports.accelerators.Accelerators`."""
        return [self.deployable(device.provider) for device in self._catalog.devices]

    def deployable(self, uuid: str) -> Deployable:
        """See :class:`~changeover.worker.ports.accelerators.Accelerators`."""
        device = self._catalog.device(uuid)
        if device is None:
            raise NotFound(f"no deployable {uuid}", uuid=uuid)
        model = self._catalog.models[device.model]
        return Deployable(
            uuid=device.provider,
            name=device.name,
            provider=device.provider,
            resource_class=model.resource_class,
            traits=frozenset(model.traits),
            accelerators=model.slots,
            driver="simulated",
        )
