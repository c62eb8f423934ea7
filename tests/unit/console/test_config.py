"""Configuration: checked, shown without secrets, and begun from examples that load."""

from __future__ import annotations

import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from unit.console.conftest import Teller
from unit.console.home import Home

from changeover.console.config import EXAMPLES, SECTIONS, example, mask
from changeover.console.example_catalog import TEXT
from changeover.worker.catalog_file import load_catalog, load_catalog_file
from changeover.worker.settings import Settings, load_settings, unknown

ROOT = Path(__file__).parents[3]


def test_the_example_is_the_file_and_names_every_setting() -> None:
    written = (ROOT / "changeover.example.toml").read_text(encoding="utf-8")
    assert written == example(), "changeover config example > changeover.example.toml"
    for name in Settings.model_fields:
        assert f"\n#{name} = " in written
    assert SECTIONS.keys() | EXAMPLES.keys() <= Settings.model_fields.keys()


def test_the_example_loads_as_it_is_and_with_every_line_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "changeover.toml"
    monkeypatch.setenv("CHANGEOVER_CONFIG", str(path))
    path.write_text(example(), encoding="utf-8")
    assert load_settings() == Settings()
    in_force = "\n".join(
        line.removeprefix("#") for line in example().splitlines() if not line.startswith("# ")
    )
    path.write_text(in_force, encoding="utf-8")
    assert tomllib.loads(in_force).keys() == Settings.model_fields.keys()
    settings = load_settings()
    assert settings.cloud == "mycloud"
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if name not in EXAMPLES and default is not None:
            assert getattr(settings, name) == default


def test_the_example_catalog_is_the_file_and_loads() -> None:
    path = ROOT / "catalog.example.yaml"
    assert path.read_text(encoding="utf-8") == TEXT, (
        "changeover config example --catalog > catalog.example.yaml"
    )
    catalog = load_catalog_file(path)
    assert catalog == load_catalog(TEXT)
    assert {m.mode for m in catalog.models.values()} == {"single_program", "fully_dynamic"}


def test_the_commands_print_them(tell: Teller) -> None:
    assert tell("config", "example").out == example()
    assert tell("config", "example", "--catalog").out == TEXT


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:5/d", "postgresql://u:***@h:5/d"),
        ("redis://:secret@h:6379/0", "redis://:***@h:6379/0"),
        ("redis+socket:///run/x.sock", "redis+socket:///run/x.sock"),
        ("sqlite:////var/x.sqlite", "sqlite:////var/x.sqlite"),
        ("postgresql://u@h/d?password=secret&a=1", "postgresql://u@h/d?password=***&a=1"),
        ("amqp://u:se:cr@et@h//", "amqp://u:***@h//"),
        ("http://[::1", "***"),
        ("u:secret@h", "***"),
    ],
)
def test_secrets_are_masked(url: str, shown: str) -> None:
    assert mask(url) == shown


def test_show_masks_and_says_where_from(
    tell: Teller, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.path / "changeover.toml").write_text(
        'settle_seconds = 12.0\nbroker_url = "redis://:hunter2@127.0.0.1:1/0"\n'
    )
    monkeypatch.setenv("CHANGEOVER_SEED", "7")
    told = tell("config", "show", "--json")
    assert "hunter2" not in told.out
    rows = {row["setting"]: row for row in told.json}
    assert rows["broker_url"]["value"] == "redis://:***@127.0.0.1:1/0"
    assert (rows["seed"]["value"], rows["seed"]["source"]) == (7, "environment")
    assert (rows["settle_seconds"]["value"], rows["settle_seconds"]["source"]) == (
        12.0,
        "changeover.toml",
    )
    assert rows["max_attempts"]["source"] == "default"
    assert "hunter2" not in tell("config", "show").out


def _verdicts(told: list[dict[str, str]]) -> dict[str, str]:
    return {row["check"]: row["verdict"] for row in told}


def test_check_warns_of_embedded_parts_that_do_not_run_yet(
    tell: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in unknown():  # the tests' own variables are no settings, and it would say so
        monkeypatch.delenv(name)
    told = tell("config", "check", "--json")
    assert told.status == 0
    verdicts = _verdicts(told.json)
    assert verdicts["settings"] == "ok"
    assert verdicts["catalog"] == "ok"
    assert verdicts["database"] == "ok"
    assert verdicts["broker"] == "warning"
    assert verdicts["placement"] == "warning"


def test_check_fails_for_what_is_named_and_silent(
    tell: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANGEOVER_BROKER_URL", "redis://:hunter2@127.0.0.1:1/0")
    monkeypatch.setenv("CHANGEOVER_NOTIFICATION_URL", "amqp://u:hunter2@127.0.0.1:1//")
    monkeypatch.setenv("CHANGEOVER_PLACEMENT_ENDPOINT", "http://127.0.0.1:1")
    told = tell("config", "check", "--json")
    assert told.status == 4
    verdicts = _verdicts(told.json)
    assert {verdicts[name] for name in ("broker", "notifications", "placement")} == {"failed"}
    assert "hunter2" not in told.out + told.err


class _Page(BaseHTTPRequestHandler):
    """Some other server, that answers anything with a page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>It works!</html>")

    def log_message(self, *_: object) -> None:  # type: ignore[override]  # to nobody
        pass


def test_another_server_in_the_place_of_placement_is_named(
    tell: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("CHANGEOVER_PLACEMENT_ENDPOINT", endpoint)
        told = tell("plan", "--json")
        checks = {c["check"]: c for c in tell("config", "check", "--json").json}
        server.shutdown()
    said = checks["placement"]["said"]
    assert told.error["message"] == said
    assert (told.status, checks["placement"]["verdict"]) == (2, "failed")
    assert said.startswith(f"Placement {endpoint}: GET /: the answer 200 is not of the documented")
    assert said.endswith(": check that placement_endpoint is right")


def test_check_names_every_mistake_of_the_catalog(tell: Teller, home: Home) -> None:
    catalog = home.path / "catalog.yaml"
    text = catalog.read_text(encoding="utf-8").replace(
        "resource_class: VGPU", "resource_clas: V", 1
    )
    catalog.write_text(text + "extra: 1\n", encoding="utf-8")
    told = tell("config", "check")
    assert told.status == 2
    assert "resource_clas: there is no such field" in told.out
    assert "extra: there is no such field" in told.out
    assert f"{catalog}:" in told.out
    assert tell("pools").status == 2


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CHANGEOVER_SETTLE_SECONDS", "1", "settle_seconds must be at least 2"),
        ("CHANGEOVER_MAX_ATTEMPTS", "none", "max_attempts"),
        ("CHANGEOVER_NOTIFICATION_TOPICS", '["notifications"]', "versioned topics"),
        ("CHANGEOVER_CONFIG", "/nonexistent.toml", "no such configuration file"),
        ("CHANGEOVER_DATABASE_URL", "mysql://h/d", "not supported"),
        ("CHANGEOVER_DATABASE_URL", "nonsense", "cannot be read"),
        ("CHANGEOVER_DATABASE_URL", "postgresql://u@h:port/d", "cannot be read"),
    ],
)
def test_wrong_settings_are_one_clear_message(
    tell: Teller, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    told = tell("status", "--json")
    assert told.status == 2
    assert said in told.error["message"]
    if "DATABASE" not in name:
        assert tell("config", "check").status == 2


def test_a_kind_of_broker_that_does_not_exist(
    tell: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANGEOVER_BROKER_URL", "carrier-pigeon://h")
    assert "no broker of a known kind" in tell("pause", "--json").error["message"]
    assert _verdicts(tell("config", "check", "--json").json)["settings"] == "failed"


def test_load_and_a_broker_that_answers(
    home_with_placement: Home, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = Teller(home_with_placement)
    monkeypatch.setenv("CHANGEOVER_BROKER_URL", broker_url)
    verdicts = _verdicts(tell("config", "check", "--json").json)
    assert {verdicts[name] for name in ("broker", "placement", "database")} == {"ok"}
    told = tell("config", "load", "--json").json
    assert told == {"functions": 8, "devices": 26, "devices_read": 26}
    assert "26 devices are known" in tell("config", "load").out
    program = tell("program", "--function", "aes")
    assert program.err == ""


@pytest.mark.parametrize("data", [b"settle_seconds =", b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_named_by_each_command(
    tell: Teller, home: Home, monkeypatch: pytest.MonkeyPatch, data: bytes | None
) -> None:
    path = home.path / "broken.toml"
    monkeypatch.setenv("CHANGEOVER_CONFIG", str(path))
    if data is not None:
        path.write_bytes(data)
    for words in (["status"], ["config", "show"], ["boots"]):
        told = tell(*words, "--json")
        assert told.status == 2
        assert "broken.toml" in told.error["message"]
    checks = {c["check"]: c for c in tell("config", "check", "--json").json}
    assert "broken.toml" in checks["settings"]["said"]
