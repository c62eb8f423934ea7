"""Where servers are not created: the capacity is made, the owner is told, and boots again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from e2e.deployment import Deployment, deployed, eventually
from unit.worker.test_deliver import documented_verify

from changeover.models.states import BootState, CallbackState
from changeover.worker.ports.servers import ServerStatus

KEY = "a key for these tests"


@dataclass
class Owner:
    """Whoever listens for callbacks: does not answer the first, and checks each signature."""

    port: int = 0
    heard: list[bytes] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def owner() -> Iterator[Owner]:
    made = Owner()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.heard.append(body)
            try:
                documented_verify()(self.headers["Changeover-Signature"], body, {"1": KEY.encode()})
            except (ValueError, KeyError) as exc:
                made.bad.append(repr(exc))
            self.send_response(503 if len(made.heard) == 1 else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    made.port = server.server_port
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, owner: Owner) -> Iterator[Deployment]:
    target = {"url": f"http://127.0.0.1:{owner.port}/", "secret": KEY}
    state_dir = tmp_path_factory.mktemp("capacity")
    with deployed(state_dir, recreate="never", callbacks={"default": target}) as deployment:
        yield deployment


def test_capacity_is_made_and_the_owner_is_told_and_boots_again(
    cloud: Deployment, owner: Owner
) -> None:
    [server] = cloud.servers.boot("x", "vgpu.8q")
    boot = cloud.outcome(server)
    assert boot.state is BootState.DECLINED
    assert boot.reason.code == "boot.capacity_made"
    assert boot.attempt == 0
    failed = cloud.servers.get(server)
    assert failed is not None
    assert failed.status is ServerStatus.ERROR, "nobody touched the owner's server"

    eventually(lambda: len(owner.heard) > 1)
    assert owner.bad == []
    assert len(set(owner.heard)) == 1, "the first was not taken: sent again, the same"
    event = json.loads(owner.heard[-1])
    assert event["type"] == "changeover.boot.capacity_made"
    assert event["data"]["server"] == server

    # Told is there already: the owner needs not wait, and meanwhile nobody takes the device away.
    with cloud.database.read() as tx:
        [kept] = tx.keeps.standing(0.0, subject=boot.id)
    [again] = cloud.servers.boot("x", "vgpu.8q")
    built = cloud.servers.get(again)
    assert built is not None
    assert built.status is ServerStatus.ACTIVE
    assert kept.device in cloud.placement.held(again)

    def taken() -> bool:
        with cloud.database.read() as tx:
            return not tx.keeps.standing(0.0)

    eventually(taken)

    def noted() -> bool:
        with cloud.database.read() as tx:
            return tx.callbacks.counts() == {CallbackState.DELIVERED: 1}

    eventually(noted)
