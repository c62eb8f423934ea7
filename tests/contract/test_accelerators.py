"""What both Cyborgs must do: the simulated one, and the client on Cyborg's own wire form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest
from cyborg_service import Card, CyborgService, _Reply

from changeover.models.errors import AskOperator, Garbled, NotFound, Unreachable
from changeover.worker.adapters import cyborg_http
from changeover.worker.adapters.cyborg_http import CyborgClient
from changeover.worker.adapters.service_http import HttpService, Timeouts
from changeover.worker.ports.accelerators import Accelerators
from changeover.worker.simulator.accelerators import SimulatedAccelerators
from changeover.worker.simulator.fleet import describe_fleet

TOKEN = "t"  # noqa: S105 - nobody's
PROVIDER = "11111111-1111-4111-8111-111111111111"
AES = [{"resources:CUSTOM_FPGA": "1", "trait:CUSTOM_FPGA_FUNCTION_AES": "required"}]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def service() -> Iterator[CyborgService]:
    service = CyborgService()
    service.profiles["aes"] = AES
    service.card(PROVIDER)
    yield service
    service.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(service: CyborgService, clock: Clock) -> Iterator[CyborgClient]:
    limits = Timeouts(connect=1.0, read=2.0, total=5.0)
    http = HttpService.noauth(
        "Cyborg", "accelerator", f"{service.url}/v2", token=TOKEN, timeouts=limits
    )
    client = CyborgClient(http, monotonic=clock)
    yield client
    client.close()


@pytest.fixture(params=["simulated", "http"])
def accelerators(request: pytest.FixtureRequest) -> Accelerators:
    if request.param == "simulated":
        return SimulatedAccelerators(lambda: describe_fleet().catalog)
    made: Accelerators = request.getfixturevalue("client")
    return made


def test_a_profile_is_its_groups(accelerators: Accelerators) -> None:
    groups = accelerators.device_profile("aes")
    assert groups is not None
    assert [dict(group) for group in groups] == AES


def test_an_unknown_profile_is_none(accelerators: Accelerators) -> None:
    assert accelerators.device_profile("nosuch") is None
    assert accelerators.device_profile("aes,nosuch") is None


def test_deployables_name_their_providers(accelerators: Accelerators) -> None:
    found = accelerators.deployables()
    assert found
    assert all(one.provider for one in found)
    assert accelerators.deployable(found[0].uuid) == found[0]
    with pytest.raises(NotFound):
        accelerators.deployable("11111111-2222-4333-8444-555555555555")


def test_what_the_driver_reported(client: CyborgClient, service: CyborgService) -> None:
    (card,) = service.cards.values()
    (found,) = client.deployables()
    assert (found.name, found.provider, found.driver) == ("host_card", PROVIDER, "sim")
    assert (found.resource_class, found.accelerators) == ("FPGA", 1)
    assert found.traits == {"CUSTOM_FPGA_SIM", "CUSTOM_FPGA_FUNCTION_NONE"}
    card.function = "AES"
    service.report(card)
    assert "CUSTOM_FPGA_FUNCTION_AES" in client.deployable(card.uuid).traits


def test_a_profile_is_remembered_for_a_while(
    client: CyborgClient, service: CyborgService, clock: Clock
) -> None:
    assert client.device_profile("aes")
    service.profiles["aes"] = [{"resources:FPGA": "1"}]
    assert client.device_profile("aes") == tuple(AES)
    assert service.asked["GET device_profiles"] == 1
    clock.now += cyborg_http.PROFILE_SECONDS
    assert client.device_profile("aes") == ({"resources:FPGA": "1"},)


def test_that_there_is_no_profile_is_remembered_too(
    client: CyborgClient, service: CyborgService, clock: Clock
) -> None:
    assert client.device_profile("new") is None
    service.profiles["new"] = AES
    assert client.device_profile("new") is None
    clock.now += cyborg_http.PROFILE_SECONDS
    assert client.device_profile("new") is not None


@pytest.mark.parametrize(
    ("status", "error"), [(500, Unreachable), (503, Unreachable), (403, AskOperator)]
)
def test_what_its_answers_mean(
    client: CyborgClient, service: CyborgService, status: int, error: type[Exception]
) -> None:
    service.status = status
    with pytest.raises(error, match="out of order"):
        client.device_profile("aes")
    service.status = None
    assert client.device_profile("aes") is not None


def test_nobody_there() -> None:
    http = HttpService.noauth("Cyborg", "accelerator", "http://127.0.0.1:9/v2", token=TOKEN)
    with pytest.raises(Unreachable):
        CyborgClient(http).device_profile("aes")


@pytest.mark.parametrize("address", ["", "0000:3b:00.0", "../devices", "a/b"])
def test_what_is_no_uuid_is_no_deployable(client: CyborgClient, address: str) -> None:
    with pytest.raises(NotFound):
        client.deployable(address)


@pytest.mark.parametrize(
    "attributes", ["no json", json.dumps({"rc": "FPGA"}), json.dumps([{"rc": 1}]), json.dumps([1])]
)
def test_a_garbled_answer(
    client: CyborgClient,
    attributes: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def garbled(_card: Card) -> dict[str, object]:
        return {
            "uuid": "u",
            "name": "n",
            "rp_uuid": None,
            "num_accelerators": 1,
            "driver_name": None,
            "attributes_list": attributes,
        }

    monkeypatch.setattr("cyborg_service._deployable", garbled)
    with pytest.raises(Garbled):
        client.deployables()


@pytest.mark.parametrize("status", [400, 404])
def test_what_a_proxy_does_not_find_cyborg_may_have(
    client: CyborgClient, service: CyborgService, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    page = _Reply(status, b"<html>no</html>", "text/html")
    monkeypatch.setattr(service, "answer", lambda *_: page)
    with pytest.raises(Garbled):
        client.device_profile("aes")
    with pytest.raises(Garbled):
        client.deployable(str(uuid4()))
