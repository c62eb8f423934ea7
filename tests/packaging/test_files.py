"""Files that people run and read: compose.yaml, README, Makefile, lock files, .ci/run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
from build_context import build_context
from ruamel.yaml import YAML
from services import free_port
from typer.main import get_command

from changeover.console.cli import app
from changeover.models.catalog import Catalog
from changeover.worker.embedded.child import start_child
from changeover.worker.settings import OTHER_VARIABLES, Settings, load_settings

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-placement.lock")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def parses(words: list[str]) -> None:
    """Raise unless the command line understands these words; nothing is run."""
    command: Any = get_command(app)
    context = command.make_context("changeover", words, resilient_parsing=False)
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        if not rest and getattr(command, "no_args_is_help", False):
            raise AssertionError(f"{name} needs a subcommand")
        context = command.make_context(name, rest, parent=context)
        if hasattr(command, "commands") and not context._protected_args:
            assert command.invoke_without_command, name
            return


def misunderstood(words: list[str]) -> str | None:
    """What is wrong with a document's command. One in running text may lack what it needs."""
    if "--help" in words or "--install-completion" in words:  # they act when they are parsed
        return None
    try:
        parses(words)
    except typer.TyperException as exc:
        named_only = len(words) <= 2 and "Missing" in str(exc)
        return None if named_only else str(exc)
    return None


# ---------------------------------------------------------------- compose.yaml


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(read("compose.yaml"))
    return loaded


@pytest.fixture(scope="module")
def ours(compose: dict[str, Any]) -> dict[str, Any]:
    """The services that run our own image."""
    return {
        name: service
        for name, service in compose["services"].items()
        if service["image"].startswith("changeover:")
    }


def test_compose_is_valid(compose: dict[str, Any]) -> None:
    schema = json.loads(read("tests/data/compose-spec.json"))
    jsonschema.validate(compose, schema)


def test_compose_has_every_part(compose: dict[str, Any], ours: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() >= {"redis", "postgres", "rabbitmq", "placement", "migrations"}
    assert ours.keys() >= {"migrations", "listener", "beat"}
    served = {s["command"][2] for s in ours.values() if s["command"][:2] == ["worker", "--queues"]}
    assert served == {"plan", "advance", "boot", "sweep", "callback"}
    for name, service in services.items():
        runs_once = name in {"migrations", "catalog", "placement-migrations", "cli"}
        assert runs_once or service["restart"] == "unless-stopped", name
        assert runs_once or "healthcheck" in service, name
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in compose["volumes"], name
        for other in service.get("depends_on", ()):
            assert other in services
    for name in ("redis", "postgres", "rabbitmq", "placement-db"):
        assert services[name]["volumes"], name
        assert services[name]["stop_grace_period"] == "60s", name


def test_every_command_and_setting_of_compose_exists(ours: dict[str, Any]) -> None:
    for service in ours.values():
        parses(service["command"])
        check = service.get("healthcheck", {}).get("test")
        if check is not None:
            assert check[:2] == ["CMD", "changeover"]
            parses(check[2:])
        for name in service["environment"]:
            assert name.removeprefix("CHANGEOVER_").lower() in Settings.model_fields, name


def make_secrets(where: Path) -> Path:
    """What the Makefile makes for compose.yaml, in a copy of both."""
    for name in ("Makefile", "compose.yaml"):
        shutil.copy(ROOT / name, where)
    subprocess.run(["make", "secrets"], cwd=where, check=True, capture_output=True)
    return where / "secrets"


def test_the_settings_of_compose_load(
    ours: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    made = make_secrets(tmp_path)
    mounted = tmp_path / "run"
    mounted.mkdir()
    for name in ours["listener"]["secrets"]:
        shutil.copy(made / name, mounted)
    monkeypatch.setenv("CHANGEOVER_SECRETS_DIR", str(mounted))
    for name, value in ours["listener"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{(\w+):-([^}]*)\}", r"\2", value))
    settings = load_settings()
    password = (made / "changeover_database_password").read_text()
    assert settings.database == f"postgresql://changeover:{password}@postgres:5432/changeover"
    password = (made / "changeover_broker_password").read_text()
    assert settings.broker == f"redis://:{password}@redis:6379/0"
    password = (made / "changeover_notification_password").read_text()
    assert settings.notifications == f"amqp://changeover:{password}@rabbitmq:5672//"


def test_passwords_are_made_once_and_their_directory_is_closed(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    made = make_secrets(tmp_path)
    first = {path.name: path.read_text() for path in made.iterdir()}
    assert first.keys() == compose["secrets"].keys()
    assert len(set(first.values())) == len(first)
    for name, text in first.items():
        assert re.fullmatch(r"[0-9a-f]{48}", text)  # a part of a URL as it is
        assert compose["secrets"][name] == {"file": f"secrets/{name}"}
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o644
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    (made / "placement_database_password").write_text("")
    make_secrets(tmp_path)
    second = {path.name: path.read_text() for path in made.iterdir()}
    assert {n for n in first if first[n] != second[n]} == {"placement_database_password"}


def test_compose_holds_no_secret(compose: dict[str, Any]) -> None:
    asked = set(re.findall(r"\$\{(\w+):-", read("compose.yaml")))
    assert asked == set(re.findall(r"^#(\w+)=", read(".env.example"), re.MULTILINE))
    for service in compose["services"].values():
        used = set(re.findall(r"/run/secrets/(\w+)", str(service)))
        ours = {
            name
            for name in service.get("secrets", ())
            if name.removeprefix("changeover_") in Settings.model_fields
        }
        assert used | ours == set(service.get("secrets", ()))
        for name, value in service.get("environment", {}).items():
            # A random one is written to the database's log.
            assert not name.endswith("RANDOM_ROOT_PASSWORD")
            assert not re.search(r"PASS(WORD)?$|AUTH$", name)
            assert not re.search(r"://[^/@]*:[^@/]*@", value)


def test_what_is_built_here_is_built_once_and_never_fetched(compose: dict[str, Any]) -> None:
    """Several builders of one name race for it: "already exists"."""
    services = compose["services"].values()
    built = [service["image"] for service in services if "build" in service]
    assert sorted(built) == ["changeover-placement:local", "changeover:local"]
    for service in services:
        assert (service.get("pull_policy") == "never") is (service["image"] in built)


def test_what_is_built_here_runs_with_the_least_rights(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if service.get("pull_policy") != "never":
            continue
        assert service["read_only"] is True, name
        assert service["tmpfs"] == ["/tmp"], name  # noqa: S108 - the container's own
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"] is True, name  # Python as process 1 would not heed SIGTERM


def test_checks_have_time_on_a_small_machine(ours: dict[str, Any]) -> None:
    """Ten of them begin at once and take a second of one core each; two cores may be busy."""
    for name, service in ours.items():
        if check := service.get("healthcheck"):
            assert int(check["timeout"].removesuffix("s")) >= 30, name
            assert int(check["interval"].removesuffix("s")) >= 60, name


def test_up_waits_for_what_runs_once(compose: dict[str, Any]) -> None:
    """`up --wait` takes one that has ended for a failure unless somebody waits for its end."""
    awaited = {
        (other, how["condition"])
        for service in compose["services"].values()
        for other, how in service.get("depends_on", {}).items()
    }
    for name, service in compose["services"].items():
        if "profiles" not in service and service["restart"] != "unless-stopped":
            assert (name, "service_completed_successfully") in awaited, name


def test_redis_gives_up_root_and_answers_only_with_its_password(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    """Its real command, with a stand-in for the image's entrypoint; the port is another."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    entrypoint = tmp_path / "docker-entrypoint.sh"
    entrypoint.write_text(f'#!/bin/sh\ntouch {tmp_path}/used\nexec "$@" --port {port} --dir .\n')
    entrypoint.chmod(0o755)
    service = compose["services"]["redis"]
    [name] = service["secrets"]
    password = tmp_path / name
    password.write_text("s3cret\n")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def here(word: str) -> str:
        return word.replace("$$", "$").replace("/run/secrets", str(tmp_path))

    kind, test = service["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    check = ["sh", "-c", here(test).replace("redis-cli", f"redis-cli -p {port}")]
    server = start_child(
        [here(word) for word in service["command"]],
        name="redis",
        env=env,
        cwd=tmp_path,
        log_path=tmp_path / "log",
    )
    try:
        server.wait_until(
            lambda: not subprocess.run(check, env=env, capture_output=True, check=False).returncode,
            timeout=30.0,
        )
        assert (tmp_path / "used").exists()
        assert b"s3cret" not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
        password.write_text("other")
        assert subprocess.run(check, env=env, capture_output=True, check=False).returncode
    finally:
        server.stop()


def test_nothing_but_what_is_installed_gets_into_an_image() -> None:
    sent = set(build_context(ROOT))
    tops = {path.parts[0] for path in sent}
    text = read("Dockerfile")
    locks = set(re.findall(r"^COPY (?!--from)(\S+\.lock) ", text, re.MULTILINE))
    project = {"pyproject.toml", "README.md", "src", "models", "policies", "worker", "console"}
    assert tops == locks | project
    for path in sent:
        assert "__pycache__" not in path.parts
        assert not any(part.endswith(".egg-info") for part in path.parts)


def test_the_dockerfile_has_the_targets_and_copies_what_is_there(compose: dict[str, Any]) -> None:
    text = read("Dockerfile")
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    for service in compose["services"].values():
        if "build" in service:
            assert service["build"]["target"] in targets
    for copied in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (ROOT / copied).exists(), copied
    for stage in ("placement", "changeover"):
        last = text.split(f" AS {stage}\n")[1].split("\nFROM ")[0]
        assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)


# ---------------------------------------------------------------- documents


def commands_of(text: str) -> Iterator[list[str]]:
    """Every ``changeover …`` of a document's console blocks and of its running text."""
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if found := re.match(r"\$ (?:\S*/)?changeover (.*)", line):
                yield shlex.split(found[1].partition(" > ")[0], comments=True)
    for quoted in re.findall(
        r"`changeover ([^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    ):
        words = shlex.split(quoted)
        yield [word for word in words if word not in {"…", "..."}]


DOCUMENTS = [
    "README.md",
    "docs/operators.md",
    "docs/openstack.md",
    "docs/callbacks.md",
    "docs/reservations.md",
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_exists(document: str) -> None:
    commands = list(commands_of(read(document)))
    assert commands
    wrong = {shlex.join(words): said for words in commands if (said := misunderstood(words))}
    assert not wrong


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_setting_and_make_target_of_a_document_exists(document: str) -> None:
    text = read(document)
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        assert (ROOT / document).parent.joinpath(link).exists(), link
    for name in re.findall(r"CHANGEOVER_([A-Z_]+[A-Z])", text):
        other = f"CHANGEOVER_{name}" in OTHER_VARIABLES
        assert other or name.lower() in Settings.model_fields, name
    for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        Settings(**tomllib.loads(block))
    targets = re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE)
    for target in re.findall(r"make ([a-z]+)", text):
        assert target in targets or target.startswith("environment"), target


def test_the_catalogs_of_the_openstack_page_load() -> None:
    example = YAML(typ="safe").load(read("catalog.example.yaml"))
    snippets = [
        block
        for block in re.findall(r"```yaml\n(.*?)```", read("docs/openstack.md"), re.DOTALL)
        if block.startswith("discover:")
    ]
    assert snippets
    for snippet in snippets:
        Catalog.model_validate({**example, **YAML(typ="safe").load(snippet)})


def test_every_command_is_in_the_operators_handbook() -> None:
    text = read("docs/operators.md")
    for name in get_command(app).commands:  # type: ignore[attr-defined]  # it is a group
        assert f"changeover {name}" in text, name


# ---------------------------------------------------------------- make, locks, CI


def test_lock_files_hold_names_versions_and_hashes_only() -> None:
    for name in LOCKS:
        for line in read(name).splitlines():
            assert re.fullmatch(
                r"[a-z0-9._-]+==[0-9a-z.+]+( ; [A-Za-z_0-9 '<>=!.()-]+)? \\|"
                r"    --hash=sha256:[0-9a-f]{64}( \\)?",
                line,
            ), f"{name}: {line}"


def _locked(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", read(name), re.MULTILINE))


def test_lock_files_agree_and_have_all_that_is_declared() -> None:
    run = _locked("requirements.lock")
    for name in LOCKS[1:]:
        other = _locked(name)
        assert {k: v for k, v in other.items() if k in run} == {
            k: v for k, v in run.items() if k in other
        }
    project = tomllib.loads(read("pyproject.toml"))
    groups = project["dependency-groups"]
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["embedded"],
        *groups["build"],
    ]
    assert {_name(r) for r in wanted} <= run.keys()
    dev = [*wanted, *groups["test"], *groups["lint"], *groups["bench"]]
    assert {_name(r) for r in dev} <= _locked("requirements-dev.lock").keys()
    assert {_name(r) for r in groups["placement"]} <= _locked("requirements-placement.lock").keys()


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ]", requirement)[0]).lower()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_names_every_target() -> None:
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("run", "test", "lint", "bench", "clean"):
        assert f"make {target}" in told.stdout


def test_ci_runs_and_names_no_machine() -> None:
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", path], check=True)
    told = subprocess.run(
        [path, "nonsense"], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert told.returncode == 2
    text = path.read_text(encoding="utf-8").split("\n", 1)[1]
    assert "http" not in text
    assert "index-url" not in text
    assert not re.search(r"(?<![\w$./\"])/(?!usr/sbin/policy-rc\.d|dev/null|bin/sh)[a-z]+/", text)
