"""Whoever asks for servers of the simulated cloud: any project and user, and nobody is refused."""

from __future__ import annotations

from changeover.models.flavor import Flavor, Image, ImageProperties
from changeover.worker.simulator.servers import SimulatedServers


class SimulatedRequester:
    """The port ``Requester``: networks and key pairs are as they are called."""

    def __init__(self, servers: SimulatedServers, project: str, user: str) -> None:
        self.project = project
        self.user = user
        self._servers = servers

    def flavor(self, name_or_id: str) -> Flavor:
        """See :class:`~changeover.worker.ports.requester.Requester`."""
        return self._servers.flavor(name_or_id)

    def image(self, name_or_id: str) -> Image:
        """See :class:`~changeover.worker.ports.requester.Requester`."""
        traits = self._servers.image_traits(name_or_id)
        return Image(id=name_or_id, properties=ImageProperties(traits_required=traits))

    def network(self, name_or_id: str) -> str:
        """See :class:`~changeover.worker.ports.requester.Requester`."""
        return name_or_id

    def check_key(self, name: str) -> None:
        """See :class:`~changeover.worker.ports.requester.Requester`."""

    def entrust(self, until: float) -> None:
        """See :class:`~changeover.worker.ports.requester.Requester`: here nobody has to."""

    def withdraw(self, trust: str) -> None:
        """See :class:`~changeover.worker.ports.requester.Requester`."""
