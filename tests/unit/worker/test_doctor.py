"""Each check of the doctor finds what it is there for, and says what to change."""

from __future__ import annotations

import json
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from kombu import Connection, Exchange, Queue
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url

from changeover.models.catalog import Catalog
from changeover.models.changeover import Changeover
from changeover.models.errors import AskOperator, Invalid, Unreachable
from changeover.models.placement import Inventory
from changeover.models.reasons import Reason
from changeover.models.states import ChangeoverState, FoundState
from changeover.worker import doctor
from changeover.worker.adapters.service_http import Answer, HttpService
from changeover.worker.bootstrap import open_site
from changeover.worker.doctor import (
    CHECKS,
    Check,
    Verdict,
    aggregates,
    examine,
    inventory,
    messages,
    own,
)
from changeover.worker.doctor import services as cloud
from changeover.worker.doctor.site import Api, CloudUser, Site
from changeover.worker.listener import QUEUE, notification_queue
from changeover.worker.migrate import upgrade
from changeover.worker.queues import SWEEP
from changeover.worker.settings import Settings
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.simulator.placement import MemoryPlacement
from changeover.worker.store import Database, Tx
from changeover.worker.store.discovered import DiscoveredRecord

CARD, AES = "CUSTOM_CARD", "CUSTOM_AES"
SHA = "a" * 64
IMAGE = str(UUID(int=7))
NOW = 1_795_000_000.0
OK, WARN, FAIL, SKIPPED = Verdict


def catalog(**changes: Any) -> Catalog:
    return Catalog.model_validate(
        {
            "programmers": {"cyborg": {"kind": "cyborg"}},
            "models": {"u50": {"programmer": "cyborg", "traits": [CARD]}},
            "functions": {
                "aes": {
                    "traits": [AES],
                    "resource_class": "CUSTOM_FPGA",
                    "artifact": {"image": IMAGE, "sha256": SHA},
                    "fits": {"u50": 1},
                }
            },
            "devices": [
                card1(),
            ],
            **changes,
        }
    )


def card1(**changes: str) -> dict[str, str]:
    """The catalog's device."""
    return {
        "name": "card1", "provider": uuid(2), "model": "u50", "host": "compute1",
        "owner": "cyborg", "address": uuid(77), **changes,
    }  # fmt: skip


def uuid(number: int) -> str:
    return str(UUID(int=number))


@dataclass
class Scripted:
    """A service whose answers are given: path -> status and body."""

    answers: Mapping[str, tuple[int, Any]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),  # noqa: ARG002 - the port's signature
        body: object = None,  # noqa: ARG002 - the port's signature
        headers: Mapping[str, str] | None = None,  # noqa: ARG002 - the port's signature
    ) -> Answer:
        self.asked.append((method, path))
        found = [
            key for key in self.answers if path == key or (key != "/" and path.startswith(key))
        ]
        status, value = self.answers[max(found, key=len)] if found else (404, {})
        call = f"{method} {path}"
        return Answer(call, method != "GET", status, json.dumps(value).encode(), self.headers)


class Ground:
    """A site of real parts where they are embedded, and of scripted services."""

    def __init__(self, root: Path) -> None:
        self.url = f"sqlite:///{root / 'changeover.sqlite'}"
        self.clock = VirtualClock(NOW)
        self.placement = MemoryPlacement()
        self.placement.ensure_traits([CARD, AES])
        self.placement.ensure_resource_classes(["CUSTOM_FPGA"])
        self.placement.create_provider(uuid(1), "compute1")
        self.apis: dict[str, Api] = {}
        self.catalog = catalog()
        self.settings = Settings(state_dir=root)
        self.broker = "memory://"
        self.opened: list[Site] = []

    @property
    def site(self) -> Site:
        """The site as one examination opens it."""
        site = Site(
            settings=self.settings,
            clock=self.clock,
            open_catalog=lambda: self.catalog,
            open_database=lambda: Database(self.url),
            open_placement=lambda: self.placement,
            open_api=self.apis.get,
            open_user=lambda: None,
            broker=lambda: self.broker,
            notifications=lambda: self.broker,
        )
        self.opened.append(site)
        return site

    def write(self, change: Callable[[Tx], object]) -> None:
        database = Database(self.url)
        with database.write() as tx:
            change(tx)
        database.dispose()

    def card(
        self, number: int = 2, *, slots: int = 1, reserved: int = 0, used: bool = False
    ) -> str:
        """A card with the function, on the host."""
        made = self.placement.create_provider(uuid(number), f"card{number}", uuid(1))
        generation = self.placement.put_traits(made.uuid, made.generation, [CARD, AES])
        if slots:
            offered = {"CUSTOM_FPGA": Inventory(slots)}
            generation = self.placement.put_inventories(made.uuid, generation, offered)
        if used:
            taken = {made.uuid: {"CUSTOM_FPGA": slots}}
            self.placement.claim(str(uuid4()), taken, project="p", user="u")
        if reserved:
            generation = self.placement.usage(made.uuid).generation
            offered = {"CUSTOM_FPGA": Inventory(slots, reserved)}
            self.placement.put_inventories(made.uuid, generation, offered)
        return made.uuid


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    upgrade(made.url)
    yield made
    for site in made.opened:
        site.close()


def made(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.id: check for check in checks}


def verdicts(checks: Iterator[Check]) -> dict[str, Verdict]:
    found = list(checks)
    assert all(c.advice for c in found if c.verdict in {WARN, FAIL})
    return {check.id: check.verdict for check in found}


# ---------------------------------------------------------------- our own parts


def test_versions_with_a_known_defect(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "installed", lambda: {"celery": "5.7.0", "kombu": "5.7.0"})
    assert verdicts(own.versions(ground.site)) == {"versions.celery": WARN}
    monkeypatch.setattr(own, "installed", lambda: {"celery": "5.6.3"})
    assert verdicts(own.versions(ground.site)) == {"versions": OK}


def test_secrets_that_everybody_can_read(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Path(tempfile.gettempdir()).resolve()
    if not all(path.stat().st_mode & stat.S_IXOTH for path in (shared, *shared.parents)):
        pytest.skip(f"{shared} is closed to others")
    stored = tmp_path / "changeover.sqlite"
    assert stored.exists()
    assert verdicts(own.secrets(ground.site)) == {"secrets": OK}
    ground.settings = Settings(database_url=SecretStr(f"sqlite:///{stored}"), state_dir=tmp_path)
    assert verdicts(own.secrets(ground.site)) == {"secrets": SKIPPED}
    with tempfile.TemporaryDirectory() as name:  # above pytest's own nobody may look
        directory = Path(name)
        path = directory / "changeover_database_password"
        path.write_text("p")
        path.chmod(0o644)
        monkeypatch.setenv("CHANGEOVER_SECRETS_DIR", name)
        assert verdicts(own.secrets(ground.site)) == {"secrets": OK}
        directory.chmod(0o755)
        [check] = own.secrets(ground.site)
        assert (check.verdict, check.facts) == (WARN, {"files": [str(path)]})
        path.chmod(0o640)
        assert verdicts(own.secrets(ground.site)) == {"secrets": OK}
        path.chmod(0o644)
        monkeypatch.setattr(own, "DIRECTORY", directory)  # a container's own
        assert verdicts(own.secrets(ground.site)) == {"secrets": SKIPPED}
        monkeypatch.delenv("CHANGEOVER_SECRETS_DIR")
        (directory / "changeover.sqlite").touch()
        (directory / "changeover.sqlite").chmod(0o644)
        ground.settings = Settings(state_dir=directory)
        [check] = own.secrets(ground.site)
        assert check.facts == {"files": [str(directory / "changeover.sqlite")]}
    config = tmp_path / "changeover.toml"
    config.write_text("broker_password = 'x'\n")
    monkeypatch.setenv("CHANGEOVER_CONFIG", str(config))
    ground.settings = Settings(broker_url=SecretStr("redis://h"), state_dir=tmp_path)
    assert ground.settings.secrets == {"broker_password"}
    assert verdicts(own.secrets(ground.site)) == {"secrets": OK}
    missing = tmp_path / "none"
    target = {"default": {"url": "https://h/x", "secret_file": str(missing)}}
    ground.settings = Settings.model_validate({"broker_url": "redis://h", "callbacks": target})
    found = made(own.secrets(ground.site))
    assert found["secrets"].verdict is FAIL
    assert str(missing) in found["secrets"].said


def test_a_database_of_another_version(ground: Ground, tmp_path: Path) -> None:
    assert verdicts(own.database(ground.site)) == {"database.schema": OK, "database.clock": SKIPPED}
    ground.url = f"sqlite:///{tmp_path / 'old.sqlite'}"
    upgrade(ground.url, "0001")
    [check] = own.database(ground.site)
    assert (check.verdict, check.facts["found"]) == (FAIL, "0001")


def test_the_clock_of_postgresql(ground: Ground, postgres_url: str) -> None:
    name = f"doctor_{uuid4().hex[:8]}"
    admin = Database(postgres_url)
    with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    admin.dispose()
    server = make_url(postgres_url).set(database=name)
    ground.url = server.render_as_string(hide_password=False)
    upgrade(ground.url)
    ground.clock = VirtualClock(time.time())
    assert verdicts(own.database(ground.site))["database.clock"] is OK
    ground.clock = VirtualClock(time.time() - 100)
    check = made(own.database(ground.site))["database.clock"]
    assert (check.verdict, round(check.facts["seconds"])) == (WARN, 100)
    assert "ahead" in check.said


def test_processes_that_do_not_live(ground: Ground) -> None:
    silent = {"processes.worker": FAIL, "processes.listener": FAIL, "processes.beat": FAIL}
    assert verdicts(own.processes(ground.site)) == silent

    def beat(tx: Tx) -> None:
        tx.switches.beat("worker:a:1", "worker", NOW)
        tx.switches.beat("listener:a:2", "listener", NOW + 10)
        tx.leases.due(SWEEP, NOW, 1.0)

    ground.write(beat)
    found = made(own.processes(ground.site))
    assert found.pop("processes.clock").facts == {"seconds": 10.0}
    assert {check.verdict for check in found.values()} == {OK}
    ground.clock.advance(200)
    assert verdicts(own.processes(ground.site)) == silent


def test_notifications_that_do_not_arrive(ground: Ground) -> None:
    assert verdicts(own.notifications_seen(ground.site)) == {"notifications.seen": WARN}
    ground.write(lambda tx: tx.events.add(**event("m1", uuid(9), NOW)))
    ground.write(
        lambda tx: tx.events.dead_letter(
            digest="d", source="listener", reason="no JSON", body="{", size=1, now=NOW
        )
    )
    seen = verdicts(own.notifications_seen(ground.site))
    assert seen == {"notifications.seen": OK, "notifications.understood": WARN}
    ground.clock.advance(own.SILENT_SECONDS + 1)
    assert verdicts(own.notifications_seen(ground.site))["notifications.seen"] is WARN


def event(message: str, server: str, at: float, source: str = "listener") -> dict[str, Any]:
    return {
        "message_id": message, "kind": "build_failed", "source": source, "server": server,
        "project": "p", "facts": {}, "received_at": at, "outcome": "accepted", "boot_id": None,
    }  # fmt: skip


def quarantined(device: str, code: str) -> Changeover:
    return Changeover(
        id=str(uuid4()), device=device, host="compute1", from_function=None, to_function="aes",
        kind="task", subject=None, plan_id=None, state=ChangeoverState.QUARANTINED,
        reason=Reason(code, "test"), priority=1.0, created_at=NOW, updated_at=NOW, due_at=NOW,
        tries=0, failures=0, cancel=False,
    )  # fmt: skip


def test_what_shows_of_placements_retry_option(ground: Ground) -> None:
    assert verdicts(own.late_allocations(ground.site)) == {"placement.retries": OK}
    ground.settings = Settings(state_dir=ground.settings.state_dir, cloud="mycloud")
    [check] = own.late_allocations(ground.site)
    assert check.verdict is SKIPPED
    assert "allocation_conflict_retry_count = 1" in str(check.advice)
    ground.write(lambda tx: tx.changeovers.add(quarantined(uuid(2), "device.in_use")))
    assert verdicts(own.late_allocations(ground.site)) == {"placement.retries": FAIL}


# ---------------------------------------------------------------- brokers and Nova's queues


def test_brokers_that_do_not_answer(ground: Ground) -> None:
    ground.broker = "amqp://u:hunter2@127.0.0.1:1//"
    for check in (messages.broker, messages.notification_queue, messages.unread_queues):
        with pytest.raises(Unreachable) as caught:
            list(check(ground.site))
        assert "hunter2" not in caught.value.message


def test_an_embedded_broker(ground: Ground, broker_url: str) -> None:
    ground.broker = broker_url
    assert verdicts(messages.broker(ground.site)) == {"broker": OK}
    assert set(verdicts(messages.unread_queues(ground.site)).values()) == {SKIPPED}
    with Connection(broker_url) as connection:
        bound = notification_queue(ground.settings)(connection.channel())
        bound.declare()
        bound.delete()  # a listener of another test may have left it bound
        assert verdicts(messages.notification_queue(ground.site)) == {"notifications.queue": FAIL}
        bound.declare()
        assert verdicts(messages.notification_queue(ground.site)) == {"notifications.queue": OK}
        bound.delete()


def test_queues_on_rabbitmq(
    ground: Ground, rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = f"nova-{uuid4().hex[:8]}"
    ground.broker = rabbitmq_url
    ground.settings = Settings(state_dir=ground.settings.state_dir, notification_exchange=exchange)
    monkeypatch.setattr(messages, "MANY_UNREAD", 2)
    monkeypatch.setattr(messages, "FALLEN_BEHIND", 2)

    def look() -> dict[str, Verdict]:
        site = ground.site
        return verdicts(
            check
            for made_by in (messages.notification_queue, messages.unread_queues)
            for check in made_by(site)
        )

    with Connection(rabbitmq_url) as connection:
        channel = connection.channel()
        for name in (QUEUE, "versioned_notifications.error", "notifications.error"):
            Queue(name, channel=channel).delete()
        nothing = {
            "notifications.exchange": FAIL,
            "notifications.queue": FAIL,
            "notifications.unread": OK,
            "notifications.legacy": OK,
        }
        assert look() == nothing
        bound = notification_queue(ground.settings)(channel)
        bound.declare()
        unread = look()
        assert "notifications.exchange" not in unread
        assert unread["notifications.queue"] is FAIL  # it is there, and nobody reads it
        with connection.channel() as reading:
            bound(reading).consume("reader")
            assert look()["notifications.queue"] is OK
            bound(reading).cancel("reader")
        topic = Exchange(exchange, type="topic", durable=False)
        versioned = Queue("versioned_notifications.error", topic, "versioned_notifications.error")
        legacy = Queue("notifications.error", topic, "notifications.error")
        for queue in (versioned, legacy):
            queue(channel).declare()
        assert look()["notifications.legacy"] is WARN  # empty, and yet they are sent
        producer = connection.Producer(channel)
        for queue in (versioned, legacy):
            for _ in range(3):
                producer.publish("{}", exchange=topic, routing_key=queue.routing_key)
        assert wait_for(lambda: look()["notifications.unread"] is WARN)
        found = made(messages.unread_queues(ground.site))
        assert found["notifications.legacy"].facts["queues"] == {"notifications.error": 3}
        assert found["notifications.unread"].facts["queues"] == {"versioned_notifications.error": 3}
        # Nothing was taken: a legacy message is a tenant's token.
        assert legacy(channel).queue_declare(passive=True).message_count == 3
        for queue in (bound, versioned, legacy):
            queue(channel).delete()


def wait_for(happens: Callable[[], bool], tries: int = 100) -> bool:
    """RabbitMQ counts what was published a moment later."""
    for _ in range(tries):
        if happens():
            return True
        time.sleep(0.05)
    return False


# ---------------------------------------------------------------- services and roles


def test_the_users_roles_or_no_token(ground: Ground) -> None:
    site = ground.site
    site.open_user = lambda: CloudUser("changeover", "service", frozenset({"reader", "service"}))
    [check] = cloud.keystone(site)
    assert (check.verdict, check.facts["roles"]) == (OK, ["reader", "service"])

    def refused() -> CloudUser:
        raise AskOperator("Keystone refused the credentials")

    site = ground.site
    site.open_user = refused
    assert by_id(examine(site))["keystone"].verdict is FAIL


def by_id(checks: Sequence[Check]) -> dict[str, Check]:
    return {check.id: check for check in checks}


@pytest.mark.parametrize(
    ("token", "verdict"), [("admin", OK), ("project:user", FAIL)], ids=["admin", "nobody"]
)
def test_a_real_placement_and_a_user_without_a_role(
    ground: Ground, placement_url: str, token: str, verdict: Verdict
) -> None:
    ground.apis["placement"] = HttpService.noauth(
        "Placement", "placement", placement_url, token=token
    )
    found = verdicts(cloud.placement(ground.site))
    expected = {"placement": OK, "placement.reads": verdict, "placement.writes": verdict}
    assert found == expected


@pytest.mark.parametrize(("most", "verdict"), [("1.20", FAIL), ("1.37", WARN), ("1.39", OK)])
def test_old_microversions(ground: Ground, most: str, verdict: Verdict) -> None:
    versions = {"versions": [{"min_version": "1.0", "max_version": most}]}
    ground.apis["placement"] = Scripted({"/": (200, versions)})
    assert made(cloud.placement(ground.site))["placement"].verdict is verdict


NOVA = {"version": {"min_version": "2.1", "version": "2.104"}}


def test_a_nova_that_hides_other_projects(ground: Ground) -> None:
    ground.apis["compute"] = Scripted({"/": (200, NOVA), "/servers": (200, {"servers": []})})
    well = {"nova": OK, "nova.lists_servers": OK, "nova.finds_servers": OK}
    assert verdicts(cloud.nova(ground.site)) == well
    anybody = {"/": (200, NOVA), "/servers": (200, {"servers": [{"id": "somebody"}]})}
    ground.apis["compute"] = Scripted(anybody)
    found = made(cloud.nova(ground.site))["nova.finds_servers"]
    assert found.verdict is FAIL
    assert "allow_all_filters" in str(found.advice)
    ground.apis["compute"] = Scripted({"/": (200, NOVA), "/servers": (403, {})})
    found = made(cloud.nova(ground.site))["nova.lists_servers"]
    assert found.verdict is FAIL
    assert "get_all_tenants" in str(found.advice)
    ground.apis["compute"] = Scripted({"/": (503, {})})
    assert by_id(examine(ground.site))["nova"].verdict is FAIL


@pytest.mark.parametrize(
    ("services", "verdict"),
    [
        ([("compute1", "up", "enabled")], OK),
        ([("compute1", "down", "enabled")], WARN),
        ([("compute1", "up", "disabled")], WARN),
        ([("compute2", "up", "enabled")], WARN),
        (None, FAIL),
    ],
    ids=["up", "down", "disabled", "unknown", "forbidden"],
)
def test_compute_services(
    ground: Ground, services: list[tuple[str, str, str]] | None, verdict: Verdict
) -> None:
    listed = [{"host": h, "state": s, "status": t} for h, s, t in services or []]
    answer = (403, {}) if services is None else (200, {"services": listed})
    ground.apis["compute"] = Scripted({"/os-services": answer})
    assert verdicts(cloud.compute_services(ground.site)) == {"nova.services": verdict}


def _aggregate(number: int, *hosts: str, **metadata: str) -> dict[str, Any]:
    named = {key.replace("__", ":"): value for key, value in metadata.items()}
    return {"uuid": uuid(number), "name": f"a{number}", "metadata": named, "hosts": list(hosts)}


@pytest.mark.parametrize(
    ("listed", "settings", "wrong"),
    [
        ([], {}, set()),
        ([_aggregate(50, ssd="true")], {}, set()),
        (
            [_aggregate(50, trait__CUSTOM_LICENSED="required")],
            {},
            {"nova.enable_isolated_aggregate_filtering"},
        ),
        (
            [_aggregate(50, trait__CUSTOM_LICENSED="required")],
            {"enable_isolated_aggregate_filtering": True},
            set(),
        ),
        ([_aggregate(50, trait__CUSTOM_LICENSED="forbidden")], {}, set()),
        (
            [_aggregate(50, filter_tenant_id_2="demo")],
            {},
            {"nova.limit_tenants_to_placement_aggregate"},
        ),
        (
            [_aggregate(50, filter_tenant_id_2="demo")],
            {"limit_tenants_to_placement_aggregate": True},
            set(),
        ),
        ([_aggregate(51, "compute1", availability_zone="green")], {}, set()),
        (
            [_aggregate(50, "compute1", availability_zone="green")],
            {},
            {"nova.aggregates_mirrored"},
        ),
        ([_aggregate(50, "compute1", ssd="true")], {}, set()),
    ],
)
def test_what_aggregates_are_there_for_is_asked_for(
    ground: Ground, listed: list[dict[str, Any]], settings: dict[str, bool], wrong: set[str]
) -> None:
    ground.placement.put_aggregates(uuid(1), 0, [uuid(51)])
    ground.settings = ground.settings.model_copy(update=settings)
    ground.apis["compute"] = Scripted({"/os-aggregates": (200, {"aggregates": listed})})
    found = verdicts(aggregates.aggregates(ground.site))
    assert found == {"nova.aggregates": OK, **dict.fromkeys(wrong, WARN)}


def test_aggregates_that_are_not_shown(ground: Ground) -> None:
    ground.apis["compute"] = Scripted({"/os-aggregates": (403, {})})
    assert verdicts(aggregates.aggregates(ground.site)) == {"nova.aggregates": FAIL}


def test_failed_servers_of_which_nova_did_not_tell(ground: Ground) -> None:
    def failed(server: str, seconds_ago: float) -> dict[str, Any]:
        at = datetime.fromtimestamp(NOW - seconds_ago, UTC)
        fault = {"message": "No valid host was found."}
        return {"id": server, "created": at.strftime("%Y-%m-%dT%H:%M:%SZ"), "fault": fault}

    def serve(*servers: dict[str, Any]) -> dict[str, Verdict]:
        ground.apis["compute"] = Scripted({"/servers/detail": (200, {"servers": list(servers)})})
        return verdicts(cloud.notifications_arrive(ground.site))

    told, untold, young = failed(uuid(11), 600), failed(uuid(12), 300), failed(uuid(13), 5)
    old = failed(uuid(14), 9000)
    ground.write(lambda tx: tx.events.add(**event("m1", uuid(11), NOW - 700)))
    ground.write(lambda tx: tx.events.add(**event("m2", uuid(12), NOW - 200, source="look")))
    assert serve() == {"notifications.arrive": SKIPPED}
    assert serve(told, young, old) == {"notifications.arrive": OK}
    assert serve(told, untold) == {"notifications.arrive": FAIL}
    ground.apis["compute"] = Scripted({"/servers/detail": (403, {})})
    assert verdicts(cloud.notifications_arrive(ground.site)) == {"notifications.arrive": FAIL}


@pytest.mark.parametrize(("status", "verdict"), [(404, OK), (403, FAIL), (401, FAIL), (500, FAIL)])
def test_whether_deployables_may_be_programmed(
    ground: Ground, status: int, verdict: Verdict
) -> None:
    service = Scripted({"/deployables": (200, {"deployables": []}), "/deployables/": (status, {})})
    ground.apis["accelerator"] = service
    assert verdicts(cloud.cyborg(ground.site)) == {"cyborg": OK, "cyborg.programs": verdict}
    # Asked of a deployable that cannot exist: nothing is changed.
    [(_, path)] = [call for call in service.asked if call[0] == "PATCH"]
    assert path.startswith("/deployables/")


def test_cyborg_is_not_asked_to_program_where_it_does_not(ground: Ground) -> None:
    ground.catalog = catalog(programmers={"cyborg": {"kind": "simulated"}})
    ground.apis["accelerator"] = Scripted({"/deployables": (403, {})})
    found = verdicts(cloud.cyborg(ground.site))
    assert found == {"cyborg": FAIL, "cyborg.programs": SKIPPED}
    assert verdicts(inventory.images(ground.site)) == {"glance.images": SKIPPED}


def test_clocks_that_differ(ground: Ground) -> None:
    ground.apis["placement"] = Scripted({"/": (200, {})}, {"date": formatdate(NOW, usegmt=True)})
    ground.apis["compute"] = Scripted({}, {"date": formatdate(NOW - 90, usegmt=True)})
    ground.apis["image"] = Scripted({}, {"date": "yesterday"})
    found = made(cloud.clocks(ground.site))
    assert (found["clock.placement"].verdict, found["clock.compute"].verdict) == (OK, WARN)
    assert "behind" in found["clock.compute"].said
    assert "clock.image" not in found
    ground.apis.clear()
    ground.apis["placement"] = Scripted()
    assert verdicts(cloud.clocks(ground.site)) == {"clock": SKIPPED}


# ---------------------------------------------------------------- catalog against cloud


def test_names_that_a_real_placement_lacks(ground: Ground, placement_url: str) -> None:
    ground.apis["placement"] = HttpService.noauth(
        "Placement",
        "placement",
        placement_url,
        token="admin",  # noqa: S106 - what noauth2 takes for an administrator; not a secret
    )
    custom = f"CUSTOM_NEVER_{uuid4().hex.upper()}"
    function = catalog().functions["aes"].model_dump(exclude={"name"})
    ground.catalog = catalog(functions={"aes": {**function, "traits": [custom]}})
    found = made(inventory.names(ground.site))
    assert found["placement.traits"].verdict is WARN
    assert custom in found["placement.traits"].facts["missing"]
    odd = {**function, "traits": ["HW_NO_SUCH_THING"], "resource_class": "NO_SUCH_CLASS"}
    ground.catalog = catalog(functions={"aes": odd})
    assert verdicts(inventory.names(ground.site)) == {
        "placement.traits": FAIL, "placement.classes": FAIL,
    }  # fmt: skip
    known = {**function, "traits": ["HW_CPU_X86_AVX2"], "resource_class": "FPGA"}
    model = {"u50": {"programmer": "cyborg"}}
    ground.catalog = catalog(functions={"aes": known}, models=model)
    assert set(verdicts(inventory.names(ground.site)).values()) == {OK}


def test_devices_that_placement_lacks_or_nothing_describes(ground: Ground) -> None:
    assert verdicts(inventory.devices(ground.site))["devices.missing"] is FAIL
    ground.card(2)
    assert set(verdicts(inventory.devices(ground.site)).values()) == {OK}
    ground.card(3)
    found = made(inventory.devices(ground.site))["devices.undescribed"]
    assert (found.verdict, found.facts["providers"]) == (WARN, ["card3"])
    left_out = {"cards": {"model": "u50", "traits": [CARD], "exclude": ["card3"]}}
    ground.catalog = catalog(discover=left_out)
    assert verdicts(inventory.devices(ground.site))["devices.undescribed"] is OK
    ground.catalog = catalog(devices=[card1(host="compute9")])
    assert verdicts(inventory.devices(ground.site))["devices.missing"] is WARN


def test_what_rules_cannot_tell_apart(ground: Ground) -> None:
    assert verdicts(inventory.rules(ground.site)) == {"devices.unclear": SKIPPED}
    ground.catalog = catalog(discover={"cards": {"model": "u50", "traits": [CARD]}})
    assert verdicts(inventory.rules(ground.site)) == {"devices.unclear": WARN}  # never applied
    ground.write(lambda tx: tx.leases.due("full_refresh", NOW, 1.0))
    assert verdicts(inventory.rules(ground.site)) == {"devices.unclear": OK}
    why = Reason("discover.two_rules", "card3 matches the rules a and b")
    row = DiscoveredRecord(uuid(3), "card3", FoundState.UNCLEAR, NOW, None, None, None, why)
    ground.write(lambda tx: tx.discovered.put([row]))
    [check] = inventory.rules(ground.site)
    assert (check.verdict, check.facts["unclear"]) == (WARN, {"card3": "discover.two_rules"})


@pytest.mark.parametrize(
    ("images", "verdict"),
    [
        ([{"status": "active"}], OK),
        ([{"status": "active", "os_hash_algo": "sha256", "os_hash_value": SHA}], OK),
        ([{"status": "active", "os_hash_algo": "sha256", "os_hash_value": "b" * 64}], FAIL),
        ([{"status": "active", "os_hash_algo": "sha512", "os_hash_value": "b" * 128}], OK),
        ([{"status": "queued"}], FAIL),
        ([], FAIL),
        ([{"status": "active"}, {"status": "active"}], FAIL),
    ],
    ids=["there", "same sha256", "other sha256", "other kind of hash", "queued", "none", "two"],
)
def test_images(ground: Ground, images: list[dict[str, str]], verdict: Verdict) -> None:
    ground.apis["image"] = Scripted({"/v2/images": (200, {"images": images})})
    assert verdicts(inventory.images(ground.site)) == {"glance.images": verdict}
    ground.apis["image"] = Scripted({"/v2/images": (403, {})})
    assert verdicts(cloud.glance(ground.site)) == {"glance": FAIL}


@pytest.mark.parametrize(
    ("card", "closed"),
    [
        ({}, False),
        ({"used": True}, False),
        ({"reserved": 1}, True),
        ({"slots": 0}, True),
    ],
    ids=["open", "in use", "reserved", "class taken away"],
)
def test_fences_without_a_row(ground: Ground, card: dict[str, Any], *, closed: bool) -> None:
    provider = ground.card(2, **card)

    def known(tx: Tx) -> None:
        tx.devices.sync(ground.catalog)
        tx.devices.update(provider, function="aes", slots=1, read_at=NOW)

    ground.write(known)
    expected = FAIL if closed else OK
    assert verdicts(inventory.leaked_fences(ground.site)) == {"fences.leaked": expected}
    ground.write(lambda tx: tx.changeovers.add(quarantined(provider, "device.other_function")))
    assert verdicts(inventory.leaked_fences(ground.site)) == {"fences.leaked": OK}


# ---------------------------------------------------------------- the whole


def test_what_does_not_answer_fails_its_own_checks_and_no_other(ground: Ground) -> None:
    site = ground.site

    def silent() -> Any:
        raise Unreachable("it does not answer")

    site.open_placement = silent
    site.open_catalog = lambda: ground.catalog
    found = by_id(examine(site))
    assert found["devices"].verdict is FAIL
    assert found["database.schema"].verdict is OK
    assert {found[name].verdict for name in ("nova", "glance", "cyborg", "keystone")} == {SKIPPED}

    def wrong() -> Catalog:
        raise Invalid("catalog.yaml:3:1: functions.aes: there is no such field")

    site = ground.site
    site.open_catalog = wrong
    found = by_id(examine(site))
    assert found["catalog"].verdict is FAIL
    assert "there is no such field" in found["catalog"].said


def test_a_service_that_answers_nonsense_ends_nothing(ground: Ground) -> None:
    class Odd(Scripted):
        def request(self, *_: Any, **__: Any) -> Answer:
            return Answer("GET /", writes=False, status=200, body=b"[1]", headers={})

    for service in cloud.SERVICES:
        ground.apis[service] = cast("Api", Odd())
    found = by_id(examine(ground.site))
    assert {found[n].verdict for n in ("placement", "nova", "nova.services")} == {FAIL}
    assert all(isinstance(check.as_json()["verdict"], str) for check in found.values())


def test_the_embedded_cloud_is_examined_and_nothing_is_made(
    tmp_path: Path, placement_url: str
) -> None:
    settings = Settings(state_dir=tmp_path, placement_endpoint=placement_url)
    site = open_site(settings)
    found = by_id(examine(site))
    site.close()
    assert list(tmp_path.iterdir()) == []
    assert found["database"].verdict is FAIL
    assert "no database" in found["database"].said
    assert {found[n].verdict for n in ("keystone", "nova", "glance", "cyborg")} == {SKIPPED}
    assert found["placement.writes"].verdict is OK
    assert len({name for name, _ in CHECKS}) == len(CHECKS) == len(doctor.CHECKS)
