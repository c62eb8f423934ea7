"""Asking for servers, callbacks and reservations, by the command line."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest
from unit.console.home import Home

from changeover.console import request
from changeover.console.desk import Desk
from changeover.console.render import Output
from changeover.models.errors import Invalid, Refuse
from changeover.models.keep import Keep
from changeover.models.reasons import Reason
from changeover.models.reservation import Reservation
from changeover.models.states import BootState

LEAST = ("boot", "--flavor", "f", "--image", "i")


def test_words_become_what_nova_wants(tmp_path: Path) -> None:
    assert request.networks(["auto"]) == "auto"
    assert request.networks(["n1", "port=p1"]) == [{"uuid": "n1"}, {"port": "p1"}]
    assert request.pairs(["a=b=c", "d="], "--property") == {"a": "b=c", "d": ""}
    file = tmp_path / "ud"
    file.write_bytes(b"\x00#!")
    assert request.user_data(file) == base64.b64encode(b"\x00#!").decode()
    assert request.user_data(None) is None
    for words in ([], ["auto", "n1"], ["none", "auto"]):
        with pytest.raises(Invalid, match="--network"):
            request.networks(words)
    for words in (["a"], ["=b"], ["a=1", "a=2"]):
        with pytest.raises(Invalid, match="--hint"):
            request.pairs(words, "--hint")
    with pytest.raises(Invalid, match="--user-data"):
        request.user_data(tmp_path / "none")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (LEAST, "--network: say which network"),
        ((*LEAST, "--network", "auto", "--count", "0"), "count: must be from 1"),
        ((*LEAST, "--network", "auto", "--property", "x"), "--property: must be KEY=VALUE"),
        (("submit", "nosuch.json"), "nosuch.json: No such file"),
        (("submit", "bad.json"), "server.flavorRef: Field required"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_opened(
    home: Home, words: tuple[str, ...], said: str
) -> None:
    (home.path / "bad.json").write_text('{"server": {"name": "a"}}', encoding="utf-8")
    done = home.script(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    with home.database.read() as tx:
        assert all(boot.origin == "failure" for boot in tx.boots.listed(over=None, limit=99))


def test_callbacks_are_listed_and_sent_again(home: Home) -> None:
    home.database.target_of = lambda _project: "default"
    with home.database.write() as tx:
        boot = tx.boots.get(home.waiting)
        assert boot is not None
        tx.boots.move(boot, BootState.EXPIRED, time.time(), reason=Reason("a.b", "too late"))
        [callback] = tx.callbacks.listed(boot=boot.id)
        tx.callbacks.bury(callback, "answered 500: no", time.time())
    listed = json.loads(home.script("callbacks", "--state", "dead", "--json").stdout)
    assert [(c["id"], c["kind"], c["error"]) for c in listed] == [
        (callback.id, "boot.expired", "answered 500: no")
    ]
    assert "answered 500: no" in home.script("explain", home.waiting).stdout
    again = home.script("callbacks", "--retry", callback.id[:8])
    assert again.returncode == 0, again.stderr
    assert "1 callback(s) are sent again" in again.stdout
    assert home.script("callbacks", "--retry", callback.id).returncode == 2
    assert home.script("callbacks", "--retry", "nosuch").returncode == 2
    with home.database.read() as tx:
        assert tx.callbacks.due().keys() == {"default"}


def test_reservations_are_listed_with_what_is_kept(home: Home) -> None:
    now = time.time()
    lease = Reservation("r" * 36, "l", "course", "p", "flavor:instance", now + 90, now + 999, 2)
    keep = Keep(lease.id, home.provider("fpga1"), "lease", 1, now + 600, "p", "", "host1")
    with home.database.write() as tx:
        tx.reservations.sync([lease], now)
        tx.reservations.explain(lease.id, Reason("reservation.served", "1 slot(s) are kept"))
        tx.keeps.put(keep)
    shown = home.script("reservations").stdout
    assert "course" in shown
    assert "fpga1" in shown
    assert "1 slot(s) are kept" in shown
    [row] = json.loads(home.script("reservations", "--json").stdout)
    assert row["reservation"]["units"] == 2
    assert row["kept"][0]["device"] == keep.device


class Clock:
    """Each look is a minute later, and at the fourth the boot is over."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.at = time.time()
        self.slept = 0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        assert seconds == request.LOOK_SECONDS
        self.at += 60.0
        self.slept += 1
        if self.slept == 4:
            self.home.operator.cancel(self.home.waiting)


@pytest.mark.parametrize("worker", [False, True])
def test_who_waits_is_told_that_nobody_works(
    home: Home, capsys: pytest.CaptureFixture[str], *, worker: bool
) -> None:
    if worker:
        with home.database.write() as tx:
            tx.switches.beat("worker:h:1", "worker", time.time() + 600.0)
    desk = Desk()
    desk.__dict__["clock"] = Clock(home)
    with pytest.raises(Refuse, match="1 of 1"):
        request._wait(desk, Output(), [home.waiting])
    desk.close()
    assert capsys.readouterr().err.count("no worker has said for 20 s that it lives") == (
        not worker
    )
