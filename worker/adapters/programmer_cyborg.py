"""The programmer that programs through Cyborg's API.

Cyborg has no lock and no in-use check: both are Changeover's. It answers when its agent has, or
gives up after ``rpc_response_timeout`` while the agent goes on: the outcome is unknown then. What
a card holds is read from what Cyborg's driver last reported; nothing else says so.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final
from uuid import uuid4

from changeover.models.catalog import Catalog, CyborgProgrammer, Device, Function
from changeover.models.errors import (
    AskOperator,
    ChangeoverError,
    Garbled,
    NotFound,
    OutcomeUnknown,
    Refuse,
    Unreachable,
)
from changeover.policies.offer import function_reported
from changeover.worker.adapters.cyborg_http import CyborgClient, fault_of, own_words
from changeover.worker.adapters.glance_http import GlanceImages
from changeover.worker.adapters.service_http import Answer, failure
from changeover.worker.ports.accelerators import Deployable
from changeover.worker.ports.programmer import (
    Entitled,
    Outcome,
    ProgramResult,
    Reading,
    always,
)

RPC_SECONDS: Final = 60.0
"""How long a call may lie in the agent's queue: RabbitMQ drops it with ``rpc_response_timeout``."""

_OVER = re.compile(r"FPGA programming failed|Remote error:")
"""Errors that the agent itself reported: its call is over."""

_NO_IMAGE = re.compile(r"Image not found")


class CyborgDriver:
    """Programs deployables; a device's ``address`` is the uuid of its deployable."""

    on_host = False

    def __init__(
        self,
        settings: CyborgProgrammer,
        cyborg: CyborgClient,
        images: GlanceImages,
        catalog: Catalog,
    ) -> None:
        longest = max((f.seconds for f in catalog.functions.values()), default=60.0)
        self.drain_seconds = settings.drain_seconds or 2 * RPC_SECONDS + 4 * longest
        self.report_seconds = settings.report_seconds
        self._settings = settings
        self._cyborg = cyborg
        self._images = images
        self._catalog = catalog

    def stage(self, device: Device, function: Function) -> None:
        """Check the image, the deployable, and that the agent of its host answers.

        ``Refuse`` is about the artifact; ``AskOperator`` about the device, ``Unreachable`` about
        Cyborg or its agent.
        """
        image = function.artifact.image
        if device.model not in function.fits or image is None:
            raise Refuse(f"{function.name} does not fit {device.model}", device=device.name)
        deployable = self._deployable(device)
        self._images.check(image, function.artifact.sha256 or "")
        if self._settings.probe:
            self._probe(device, deployable)

    def program(
        self, device: Device, function: Function, token: str, entitled: Entitled = always
    ) -> ProgramResult:
        """See :class:`~changeover.worker.ports.programmer.Programmer`.

        Cyborg keeps no token. Raises ``Unreachable`` or ``AskOperator`` if nothing was sent.
        """
        del token
        image = function.artifact.image or ""
        deployable = self._deployable(device)
        if not entitled():
            return ProgramResult(Outcome.SUPERSEDED)
        try:
            answer = self._send(deployable.uuid, image)
        except OutcomeUnknown as error:
            return ProgramResult(Outcome.UNKNOWN, error.message)
        return _result(answer)

    def read(self, device: Device) -> Reading:
        """What Cyborg's driver reported last, and whose accelerator requests are bound to it."""
        try:
            deployable = self._deployable(device)
            users = self._cyborg.bound_to(device.provider)
        except ChangeoverError:
            return Reading(readable=False)
        model = self._catalog.models[device.model]
        function = function_reported(deployable.traits, model, self._catalog)
        name = "" if function is None else function.name
        return Reading(readable=True, function=name, users=users)

    def _deployable(self, device: Device) -> Deployable:
        """The deployable, if it is the device's: a wrong address would program another card."""
        try:
            deployable = self._cyborg.deployable(device.address)
        except NotFound as error:
            raise AskOperator(
                f"Cyborg has no deployable {device.address or '(none)'}: correct the address of "
                f"{device.name} in the catalog",
                device=device.name,
            ) from error
        except Garbled as error:  # that is no word about the artifact
            raise Unreachable(error.message) from error
        if deployable.provider != device.provider:
            raise AskOperator(
                f"deployable {device.address} stands for provider {deployable.provider}, not for "
                f"{device.name}'s {device.provider}: correct the catalog",
                device=device.name,
            )
        return deployable

    def _send(self, deployable: str, image: str) -> Answer:
        return self._cyborg.program(deployable, image, wait_seconds=self._settings.answer_seconds)

    def _probe(self, device: Device, deployable: Deployable) -> None:
        """Ask the agent for an image that does not exist: it looks for it before anything else.

        Cyborg has no other sign of life. Without an agent a call to program would lie in its
        queue, and its outcome be unknown.
        """
        try:
            answer = self._send(deployable.uuid, str(uuid4()))
        except OutcomeUnknown as error:
            raise Unreachable(f"Cyborg did not answer a probe: {error.message}") from error
        said = fault_of(answer)
        if answer.status == HTTPStatus.NOT_FOUND and _NO_IMAGE.search(said):
            return
        if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise failure(answer, said)
        raise Unreachable(
            f"the Cyborg agent of {device.host} does not answer: {answer.status}: {said}",
            host=device.host,
        )


def _result(answer: Answer) -> ProgramResult:
    """What the answer to a call to program proves."""
    said = fault_of(answer)
    if answer.ok:
        return ProgramResult(Outcome.PROGRAMMED)
    detail = f"{answer.status}: {said}"
    if answer.status in {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.TOO_MANY_REQUESTS,
    }:
        raise failure(answer, said)  # nothing reached the agent, and the artifact is not to blame
    if HTTPStatus.BAD_REQUEST <= answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        # A proxy's own refusal says nothing of what became of the call behind it.
        return ProgramResult(Outcome.FAILED if own_words(answer) else Outcome.UNKNOWN, detail)
    # A 500 may be the agent's own answer, or mean that nobody heard it: the agent goes on then.
    over = answer.status == HTTPStatus.INTERNAL_SERVER_ERROR and _OVER.match(said)
    return ProgramResult(Outcome.FAILED if over else Outcome.UNKNOWN, detail)
