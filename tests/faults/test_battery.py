"""The battery itself, very small: that it runs, judges and says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from changeover.models.errors import AskOperator
from changeover.worker import celery_app
from changeover.worker.celery_app import make_app
from changeover.worker.settings import Settings

BATTERY = Path(__file__).with_name("battery.py")


@pytest.mark.timeout(240)
def test_a_very_small_battery(tmp_path: Path) -> None:
    said = tmp_path / "said.json"
    done = subprocess.run(
        [
            sys.executable, BATTERY, "--size", "tiny", "--json", said,
            "--only", "kills", "--only", "broker-valkey",
        ],
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    result = json.loads(said.read_text())
    assert [row["section"] for row in result["sections"]] == ["kills", "broker valkey"]
    assert all(row["faults"] and row["rounds"] for row in result["sections"])
    assert result["all"]["violations"] == 0


def test_what_breaks_celery_when_it_reconnects_is_not_used(tmp_path: Path) -> None:
    """Celery 5.7.0 dies on Redis if it reconnects while it holds emulated or late acks."""
    app = make_app(Settings(state_dir=tmp_path, broker_url=SecretStr("redis://127.0.0.1:1/0")))
    assert app.conf.task_acks_late is False
    assert app.conf.task_reject_on_worker_lost is None
    assert app.conf.broker_transport_options["ack_emulation"] is False
    assert all(not task.acks_late for task in app.tasks.values())


@pytest.mark.parametrize(
    ("package", "release"), [("celery", "5.4.0"), ("celery", "5.70.0"), ("kombu", "6.0.0")]
)
def test_a_release_that_nobody_has_seen_reconnect_is_refused_at_the_start(
    package: str, release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = celery_app.version
    monkeypatch.setattr(
        celery_app, "version", lambda name: release if name == package else real(name)
    )
    settings = Settings(state_dir=tmp_path, broker_url=SecretStr("redis://127.0.0.1:1/0"))
    with pytest.raises(AskOperator, match=f"{package} {release} is installed.*install {package}"):
        make_app(settings)
