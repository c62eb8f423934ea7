"""Settings: who wins over whom, and what is wrong is named with where it was said."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from kombu.utils.url import parse_url
from pydantic import ValidationError
from sqlalchemy.engine import make_url

from changeover.models.errors import Invalid
from changeover.worker import secret_files
from changeover.worker import settings as module
from changeover.worker.settings import (
    BROKERS,
    Settings,
    as_environment,
    config_file,
    load_settings,
    source_of,
    unknown,
)

PASSWORD = "hunter2"  # noqa: S105 - a made-up one


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of whoever runs the tests."""
    for name in list(os.environ):
        if name.upper().startswith("CHANGEOVER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(secret_files, "DIRECTORY", tmp_path / "none")
    monkeypatch.setattr(module, "FILES", (tmp_path / "none.toml", tmp_path / "nor.toml"))


def wrote(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    path.write_text(text)
    monkeypatch.setenv("CHANGEOVER_CONFIG", str(path))
    return path


def test_with_nothing_at_all_everything_is_embedded(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.embedded_cloud
    assert settings.state_dir == tmp_path / "state" / "changeover"
    assert settings.database == f"sqlite:///{tmp_path}/state/changeover/changeover.sqlite"
    assert settings.broker_url is None
    assert settings.settle_seconds == 10.0
    assert settings.notification_topics == ("versioned_notifications",)


def test_without_a_state_home_it_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", "/home/me")
    assert load_settings().state_dir == Path("/home/me/.local/state/changeover")


def test_explicit_beats_environment_beats_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote(tmp_path / "c.toml", "seed = 1\nmax_attempts = 1\nhost = 'file'\n", monkeypatch)
    assert (load_settings().seed, load_settings().host) == (1, "file")
    monkeypatch.setenv("CHANGEOVER_SEED", "2")
    monkeypatch.setenv("changeover_max_attempts", "2")
    assert (load_settings().seed, load_settings().max_attempts) == (2, 2)
    settings = load_settings(seed=3)
    assert (settings.seed, settings.max_attempts, settings.host) == (3, 2, "file")


def test_the_first_file_of_the_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here.toml", tmp_path / "there.toml"
    monkeypatch.setattr(module, "FILES", (here, there))
    assert config_file() is None
    there.write_text("seed = 2")
    assert (config_file(), load_settings().seed) == (there, 2)
    here.write_text("seed = 1")
    assert (config_file(), load_settings().seed) == (here, 1)
    wrote(tmp_path / "named.toml", "seed = 3", monkeypatch)
    assert load_settings().seed == 3


def test_tables_and_lists_in_file_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote(
        tmp_path / "c.toml",
        'notification_topics = ["a_versioned", "b"]\n[project_shares]\np1 = 2\n',
        monkeypatch,
    )
    settings = load_settings()
    assert settings.notification_topics == ("a_versioned", "b")
    assert settings.project_shares == {"p1": 2.0}
    monkeypatch.setenv("CHANGEOVER_PROJECT_SHARES", '{"p2": 0.5}')
    monkeypatch.setenv("CHANGEOVER_NOTIFICATION_TOPICS", '["c"]')
    settings = load_settings()
    assert settings.notification_topics == ("c",)
    assert settings.project_shares["p2"] == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("settle_seconds = 'long'", "settle_seconds: Input should be a valid number"),
        ("setle_seconds = 10", "setle_seconds: there is no such setting (nearest: settle_seconds)"),
        ("max_attempts = 0", "max_attempts: Input should be greater than or equal to 1"),
        ("max_attempts = 1.5", "max_attempts: "),
        ("patience_seconds = -1", "patience_seconds: "),
        ("patience_seconds = nan", "patience_seconds: Input should be a finite number"),
        ("patience_seconds = inf", "patience_seconds: Input should be a finite number"),
        ("concurrent_reads = 65", "concurrent_reads: "),
        ("log_format = 'xml'", "log_format: Input should be 'json' or 'console'"),
        ("database_url = 5", "database_url: Input should be a valid string"),
        ("notification_topics = []", "notification_topics: "),
        ("[project_shares]\np = 0", "project_shares.p: Input should be greater than 0"),
        ("[project_shares]\np = -1", "project_shares.p: Input should be greater than 0"),
        ("[project_shares]\np = nan", "project_shares.p: Input should be"),
        ("[nosuch]\nx = 1", "nosuch: there is no such setting"),
        ("seed = ", "Invalid value"),
        ("seed = 1\nseed = 2", "Cannot overwrite"),
        ("\x00", "Invalid"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_file_and_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    path = wrote(tmp_path / "c.toml", text, monkeypatch)
    with pytest.raises(Invalid) as caught:
        load_settings()
    assert caught.value.message.startswith(f"{path}: {said}")


def test_a_file_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"seed = '\xff'")
    monkeypatch.setenv("CHANGEOVER_CONFIG", str(path))
    with pytest.raises(Invalid, match=f"^{re.escape(str(path))}: "):
        load_settings()


@pytest.mark.parametrize("name", ["no/such.toml", "."])
def test_a_named_file_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("CHANGEOVER_CONFIG", str(tmp_path / name))
    with pytest.raises(Invalid, match="no such configuration file"):
        load_settings()


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrote(tmp_path / "c.toml", "max_attempts = 0\nsweep_seconds = 0\n", monkeypatch)
    with pytest.raises(Invalid, match=r"max_attempts: .*; .*sweep_seconds: "):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SEED", "many", "environment: seed: Input should be a valid integer"),
        ("Max_Attempts", "0", "environment: max_attempts: "),
        ("PROJECT_SHARES", "{oops", "environment: .*project_shares"),
        ("PROJECT_SHARES", '{"p": 0}', "environment: project_shares.p: "),
        ("NOTIFICATION_TOPICS", '["notifications"]', "environment: notification_topics: "),
    ],
)
@pytest.mark.parametrize("with_file", [False, True])
def test_what_is_wrong_in_the_environment_is_not_blamed_on_the_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    said: str,
    *,
    with_file: bool,
) -> None:
    if with_file:
        wrote(tmp_path / "c.toml", "host = 'h'\n", monkeypatch)
    monkeypatch.setenv(f"CHANGEOVER_{name}", value)
    with pytest.raises(Invalid, match=f"^{said}"):
        load_settings()


def test_what_is_wrong_in_an_option_is_blamed_on_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote(tmp_path / "c.toml", "seed = 1", monkeypatch)
    with pytest.raises(Invalid, match=r"^option: seed: "):
        load_settings(seed="many")


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1.999])
def test_a_settle_time_that_protects_nothing_is_refused(seconds: float) -> None:
    with pytest.raises(Invalid, match="settle_seconds must be at least 2"):
        load_settings(settle_seconds=seconds)
    assert load_settings(settle_seconds=seconds, allow_short_settle=True).settle_seconds == seconds
    assert load_settings(settle_seconds=2.0).settle_seconds == 2.0


@pytest.mark.parametrize(
    "topic",
    [
        "notifications",
        "notifications.info",
        "notifications.error",
        "#",
        "*",
        "#.error",
        "*.info",
        "*.*",
        "x.#",
        "",
        ".notifications",
    ],
)
def test_legacy_topics_are_refused(topic: str) -> None:
    for topics in ((topic,), ("versioned_notifications", topic)):
        with pytest.raises(Invalid, match="must not be consumed"):
            load_settings(notification_topics=topics)


@pytest.mark.parametrize("topic", ["versioned_notifications", "my_notifications", "x.versioned"])
def test_versioned_topics_of_any_name(topic: str) -> None:
    assert load_settings(notification_topics=(topic,)).notification_topics == (topic,)


SECRETS = {
    "database_url": f"postgresql://u:{PASSWORD}@h/db",
    "broker_url": f"redis://:{PASSWORD}@h:6379/0",
    "notification_url": f"amqp://u:{PASSWORD}@h//",
}


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(f"CHANGEOVER_{name.upper()}", value)
    settings = load_settings()
    assert settings.database == SECRETS["database_url"]
    for shown in (
        repr(settings),
        str(settings),
        repr(settings.model_dump()),
        settings.model_dump_json(),
        f"{settings.broker_url}",
    ):
        assert PASSWORD not in shown


def test_nor_in_an_error_or_what_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANGEOVER_SETTLE_SECONDS", "1")
    for name, value in SECRETS.items():
        monkeypatch.setenv(f"CHANGEOVER_{name.upper()}", value)
    with pytest.raises(Invalid) as caught:
        load_settings()
    error: BaseException | None = caught.value
    while error is not None:
        assert PASSWORD not in str(error)
        assert PASSWORD not in repr(error)
        error = error.__cause__ or error.__context__


def test_a_secret_of_the_wrong_kind_is_not_shown() -> None:
    with pytest.raises(Invalid) as caught:
        load_settings(database_url=[PASSWORD])
    assert PASSWORD not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_they_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().seed = 2


def test_every_setting_says_what_it_is() -> None:
    undescribed = {
        name
        for name, field in Settings.model_fields.items()
        if not field.description and name != "log_level"
    }
    assert not undescribed


@pytest.mark.parametrize("field", ["broker_url", "notification_url"])
@pytest.mark.parametrize(
    "url",
    ["", "redis", "sqs://u:hunter2@h", "redis:/h", "memory://", "sentinel://h", "http://h"],
)
def test_a_broker_of_an_unknown_kind_is_refused_without_its_password(field: str, url: str) -> None:
    with pytest.raises(Invalid, match=f"{field}: .*no broker of a known kind.*redis.*amqp") as said:
        load_settings(**{field: url})
    assert "hunter2" not in str(said.value)


@pytest.mark.parametrize("scheme", BROKERS)
def test_brokers_of_known_kinds_are_taken(scheme: str) -> None:
    assert load_settings(broker_url=f"{scheme}://h/1").broker_url is not None


# ---------------------------------------------------------------- secret files


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "secrets"
    directory.mkdir()
    monkeypatch.setenv("CHANGEOVER_SECRETS_DIR", str(directory))
    return directory


def test_secret_files_win_over_the_file_and_lose_to_the_environment(
    tmp_path: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote(tmp_path / "c.toml", "host = 'file'\nseed = 1\nmax_attempts = 1\n", monkeypatch)
    (secrets / "changeover_host").write_text("secret\n")
    (secrets / "CHANGEOVER_SEED").write_text(" 2 ")
    monkeypatch.setenv("CHANGEOVER_SEED", "3")
    settings = load_settings()
    assert (settings.host, settings.seed, settings.max_attempts) == ("secret", 3, 1)
    told = {name: source_of(name) for name in ("host", "seed", "max_attempts", "log_level")}
    assert told == {
        "host": str(secrets / "changeover_host"),
        "seed": "environment",
        "max_attempts": str(tmp_path / "c.toml"),
        "log_level": "default",
    }


def test_what_else_lies_there_is_left_alone(secrets: Path) -> None:
    (secrets / "tls.key").write_bytes(b"\xff\x00")
    (secrets / "host").write_text("not ours")
    (secrets / "kubernetes.io").mkdir()
    (secrets / "dangling").symlink_to("/nonexistent/file")
    (secrets / "changeover_databse_url").write_text("x")
    assert load_settings() == Settings()
    assert load_settings().host is None
    assert unknown() == {str(secrets / "changeover_databse_url"): "CHANGEOVER_DATABASE_URL"}


def test_as_kubernetes_lays_them_out(secrets: Path) -> None:
    (secrets / "..2026").mkdir()
    (secrets / "..2026" / "changeover_host").write_text("h")
    (secrets / "..data").symlink_to("..2026")
    (secrets / "changeover_host").symlink_to("..data/changeover_host")
    assert load_settings().host == "h"


def test_the_usual_directory_is_taken_where_it_can_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_files, "DIRECTORY", tmp_path / "run")
    assert load_settings().host is None
    (tmp_path / "run").write_text("no directory")
    assert load_settings().host is None
    (tmp_path / "run").unlink()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "changeover_host").write_text("h")
    assert load_settings().host == "h"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert load_settings().host is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b"\xff"), "{path}: is no UTF-8 text"),
        (lambda path: path.write_text(""), "{path}: database_password: .*at least 1"),
        (lambda path: path.mkdir(), ".*{path}.* found a directory instead"),
        (os.mkfifo, ".*{path}.* instead"),
        (lambda path: path.symlink_to(__file__), ".*{path}.* resolves outside of"),
        (lambda path: path.symlink_to(path), ".*{path}.*"),
    ],
)
def test_a_secret_file_that_cannot_be_taken_is_named(
    secrets: Path, make: Callable[[Path], object], said: str
) -> None:
    path = secrets / "changeover_database_password"
    make(path)
    (secrets / "changeover_database_url").write_text("postgresql://u@h/d")
    with pytest.raises(Invalid, match=f"^{said.format(path=path)}"):
        load_settings()


def test_a_secret_file_that_may_not_be_read_is_named(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (secrets / "changeover_host").write_text("h")
    monkeypatch.setattr(Path, "read_text", refuse)  # root may read all
    with pytest.raises(Invalid, match=r"changeover_host: Permission denied$"):
        load_settings()


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_named_directory_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CHANGEOVER_SECRETS_DIR", str(tmp_path / name))
    with pytest.raises(Invalid, match=rf"{name}: .*\(named by CHANGEOVER_SECRETS_DIR\)"):
        load_settings()


def test_tables_in_secret_files_are_json(secrets: Path) -> None:
    path = secrets / "changeover_callbacks"
    path.write_text(f'{{"default": {{"url": "https://h/x", "secret": "{PASSWORD * 3}"}}}}')
    assert load_settings().callback_target("any") == "default"
    path.write_text(f'{{"{PASSWORD}')
    with pytest.raises(Invalid, match=f"^{secrets}: .*callbacks") as caught:
        load_settings()
    assert PASSWORD not in caught.value.message


ODD = "a/b:c@d?e#f;g%20 h+ü"


@pytest.mark.parametrize(
    ("url", "user"),
    [
        ("redis://h:1/0", None),
        ("rediss://u@h:1/0", "u"),
        ("amqp://u@h:5672//", "u"),
        ("amqp://u@h1//;amqp://u@h2//", "u"),
    ],
)
def test_a_password_of_any_characters_reaches_the_broker(url: str, user: str | None) -> None:
    settings = load_settings(notification_url=url, notification_password=ODD)
    assert settings.notifications is not None
    for one in settings.notifications.split(";"):
        parsed = parse_url(one)
        assert (parsed["userid"], parsed["password"]) == (user, ODD)
    assert settings.notifications.count("h") == url.count("h") + settings.notifications.count(
        "%20h"
    )
    assert load_settings(broker_url=url, broker_password=ODD).broker == settings.notifications


@pytest.mark.parametrize("url", ["postgresql://u@h:5432/d?sslmode=require", "postgresql://u@/d"])
def test_a_password_of_any_characters_reaches_the_database(url: str) -> None:
    settings = load_settings(database_url=url, database_password=ODD)
    parsed = make_url(settings.database)
    assert parsed == make_url(url).set(password=ODD)
    assert ODD not in repr(settings)
    assert settings.secrets == {"database_password"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "database_password: there is no database_url"),
        ({"database_url": "postgresql://u:other@h/d"}, "has a password of its own"),
        ({"database_url": "sqlite:////d.sqlite"}, "names no server"),
        ({"broker_url": "redis:///0", "broker_password": ODD}, "broker_url names no server"),
    ],
)
def test_a_password_without_a_place_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        load_settings(**{"database_password": ODD, **given})


def test_secrets_in_files_do_not_get_into_the_environment(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets / "changeover_database_password").write_text(PASSWORD)
    monkeypatch.setenv("CHANGEOVER_DATABASE_URL", "postgresql://u@h/d")
    env = as_environment(load_settings())
    assert env["CHANGEOVER_DATABASE_URL"] == "postgresql://u@h/d"
    assert PASSWORD not in str(env)
    monkeypatch.setenv("CHANGEOVER_DATABASE_PASSWORD", ODD)
    assert as_environment(load_settings())["CHANGEOVER_DATABASE_PASSWORD"] == ODD


def test_an_empty_variable_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = wrote(tmp_path / "c.toml", "host = 'file'\n", monkeypatch)
    for name in ("STATE_DIR", "HOST", "SEED", "DATABASE_URL"):
        monkeypatch.setenv(f"CHANGEOVER_{name}", "")
    settings = load_settings()
    assert settings.state_dir == tmp_path / "state" / "changeover"
    assert (settings.host, settings.seed, settings.database_url) == ("file", 0, None)
    assert source_of("host") == str(path)


@pytest.mark.parametrize("url", ["nonsense", "h:8778", "http://", "http://u:p@h", "ftp://h"])
def test_an_endpoint_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match=r"placement_endpoint: must be http://HOST:PORT"):
        load_settings(placement_endpoint=url)
    assert load_settings(placement_endpoint="http://[::1]:1/placement").placement_endpoint


@pytest.mark.parametrize(
    "url", ["redis://h:port/0", "amqp://u:hunter2@h:1:2//", "redis://h:99999/0"]
)
def test_a_broker_with_a_port_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="broker_url: the port must be a number") as said:
        load_settings(broker_url=url)
    assert PASSWORD not in str(said.value)


def test_what_must_be_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrote(tmp_path / "c.toml", "project_shares = 5\n[callbacks]\ndefault = 5\n", monkeypatch)
    with pytest.raises(
        Invalid, match=r"project_shares: must be a table; .*default: must be a table"
    ):
        load_settings()
