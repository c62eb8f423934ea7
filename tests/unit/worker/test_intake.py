"""Intake: whatever comes has exactly one outcome, is kept durably, and is never lost or doubled."""

from __future__ import annotations

import contextlib
import copy
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from selecting import selecting
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from changeover.models.boot import Boot, BootPromise
from changeover.models.changeover import Changeover
from changeover.models.errors import Busy, Reread, Retry, Unreachable
from changeover.models.limited_json import MAX_BYTES, MAX_DEPTH
from changeover.models.reasons import Reason
from changeover.models.states import BootState, ChangeoverState, TaskState
from changeover.models.tables import Base, BootRow
from changeover.models.task import Task
from changeover.worker import migrate
from changeover.worker.intake import KEPT_CHARACTERS, Accepted, Intake
from changeover.worker.queues import JUDGE, REBOOT
from changeover.worker.settings import Settings
from changeover.worker.simulator.clock import VirtualClock
from changeover.worker.store import Database, Hint, Tx

DATA = Path(__file__).parents[2] / "data" / "notifications"
NOW = 1_795_420_000.0
SECRET = "gAAAAABn0t-a_real=token"  # noqa: S105 - a made-up token is what is tested

OUTCOMES = {
    "boot",
    "dead_letter",
    "demand",
    "duplicate",
    "ignored",
    "known",
    "owner_deleted",
    "successor_built",
    "successor_failed",
    "successor_told",
    "woke",
}


def captured(name: str) -> list[dict[str, Any]]:
    lines = (DATA / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line)["message"] for line in lines]


def enveloped(message: object) -> str:
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)})


def failure(server: str | None = None, **head: object) -> dict[str, Any]:
    """A failed build, of a server and message of its own."""
    message: dict[str, Any] = captured("novalidhost_one_server")[2]
    message.update({"message_id": str(uuid4()), **head})
    message["payload"]["nova_object.data"]["instance_uuid"] = server or str(uuid4())
    return message


def about(event: str, server: str) -> dict[str, Any]:
    """``create`` or ``delete`` of a server."""
    name = {"create": "boot_succeeds", "delete": "delete_server"}[event]
    message = captured(name)[-1]
    message["message_id"] = str(uuid4())
    message["payload"]["nova_object.data"]["uuid"] = server
    return message


def make(database: Database) -> Intake:
    return Intake(database, VirtualClock(NOW), Settings(patience_seconds=1000.0))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("template") / "db"
    migrate.upgrade(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def database(template: bytes, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "db.sqlite"
    path.write_bytes(template)
    found = Database(f"sqlite:///{path}")
    yield found
    found.dispose()


@pytest.fixture
def intake(database: Database) -> Intake:
    return make(database)


def boots(database: Database) -> list[Boot]:
    with database.read() as tx:
        return tx.boots.listed(over=None, limit=10_000)


def letters(database: Database) -> list[dict[str, Any]]:
    with database.read() as tx:
        return tx.events.dead_letters(10_000)


def hints(database: Database) -> Counter[str]:
    with database.write() as tx:
        return Counter(hint.task for hint in tx.hints.overdue(NOW + 1e6, NOW, 1000))


def outcomes(accepted: Sequence[Accepted]) -> list[str]:
    return [a.outcome for a in accepted]


# ---------------------------------------------------------------- captured notifications


@pytest.mark.parametrize("form", [json.dumps, enveloped, lambda m: enveloped(m).encode()])
def test_one_failed_server(intake: Intake, database: Database, form: Any) -> None:
    sent: list[Hint] = []
    database.courier = sent.extend
    messages = captured("novalidhost_one_server")
    accepted = intake.accept_all([form(m) for m in messages], "test")
    assert outcomes(accepted) == ["ignored", "ignored", "boot"]
    (boot,) = boots(database)
    assert boot.id == accepted[2].boot
    assert boot.server == "c28a7a66-4a03-47ed-a90c-3d5011bdb73e"
    assert boot.state is BootState.RECEIVED
    assert boot.failed_at == pytest.approx(1795416644.515492)  # when it failed, not when it came
    assert (boot.received_at, boot.expires_at) == (NOW, NOW + 1000.0)
    assert boot.request.groups[0].required == {"CUSTOM_FPGA_FUNCTION_AES"}
    assert boot.request_key == boot.request.key
    assert [h.task for h in sent] == [JUDGE]
    with database.read() as tx:
        (event,) = tx.events.of_server(boot.server)
        assert (event["outcome"], event["boot_id"], event["source"]) == ("boot", boot.id, "test")
    assert letters(database) == []


def test_three_servers_of_one_request(intake: Intake, database: Database) -> None:
    messages = captured("novalidhost_three_servers")
    accepted = intake.accept_all([enveloped(m) for m in messages], "test")
    assert Counter(outcomes(accepted)) == {"ignored": 3, "boot": 3}
    found = boots(database)
    assert len({b.server for b in found}) == 3
    assert len({b.request_key for b in found}) == 1
    (group,) = {b.group_id for b in found}
    assert group.startswith("req-")
    assert hints(database) == {JUDGE: 1}


def test_everything_captured_in_any_order_and_twice(intake: Intake, database: Database) -> None:
    messages = [m for path in sorted(DATA.glob("*.jsonl")) for m in captured(path.stem)]
    first = intake.accept_all([enveloped(m) for m in reversed(messages)], "test")
    assert Counter(outcomes(first)) == {"ignored": 21, "boot": 4, "woke": 1}
    again = intake.accept_all([json.dumps(m) for m in messages], "other")
    assert Counter(outcomes(again)) == {"ignored": 21, "duplicate": 5}
    assert len(boots(database)) == 4
    assert letters(database) == []


def test_what_another_message_says_of_the_same_server_makes_no_second_boot(
    intake: Intake, database: Database
) -> None:
    server = str(uuid4())
    first, second = (intake.accept(json.dumps(failure(server)), "test") for _ in range(2))
    assert (first.outcome, second.outcome) == ("boot", "known")
    assert second.boot == first.boot
    assert len(boots(database)) == 1
    with database.read() as tx:
        assert [e["outcome"] for e in tx.events.of_server(server)] == ["boot", "known"]


def test_the_same_message_twice_in_one_batch(intake: Intake, database: Database) -> None:
    body = enveloped(failure())
    assert outcomes(intake.accept_all([body, body, body], "test")) == [
        "boot",
        "duplicate",
        "duplicate",
    ]
    assert len(boots(database)) == 1


@pytest.mark.parametrize("turned", [False, True])
def test_the_order_of_what_is_told_of_one_server_counts_in_a_batch_too(
    intake: Intake, *, turned: bool
) -> None:
    server = str(uuid4())
    told = [failure(server), about("delete", server)]
    told = [*(reversed(told) if turned else told), failure()]
    accepted = intake.accept_all([json.dumps(message) for message in told], "test")
    expected = ["woke", "gone", "boot"] if turned else ["boot", "owner_deleted", "boot"]
    assert outcomes(accepted) == expected


@pytest.mark.parametrize(
    ("timestamp", "failed_at"),
    [
        ("2099-01-01 00:00:00", NOW),  # of a clock that is ahead
        ("1960-01-01 00:00:00", NOW),
        ("2026-11-23 06:50:44.5", 1795416644.5),
    ],
)
def test_a_boot_is_as_old_as_its_event_but_not_from_the_future(
    intake: Intake, database: Database, timestamp: str, failed_at: float
) -> None:
    assert intake.accept(json.dumps(failure(timestamp=timestamp)), "test").outcome == "boot"
    assert boots(database)[0].failed_at == pytest.approx(failed_at)


def test_a_device_profile_is_kept_for_cyborg_to_resolve(intake: Intake, database: Database) -> None:
    message = failure()
    spec = message["payload"]["nova_object.data"]["request_spec"]["nova_object.data"]
    flavor = spec["flavor"]["nova_object.data"]
    flavor["extra_specs"] = {"accel:device_profile": "fpga-aes"}
    assert intake.accept(json.dumps(message), "test").outcome == "boot"
    assert boots(database)[0].device_profile == "fpga-aes"


def test_without_a_request_spec_there_is_a_boot_all_the_same(
    intake: Intake, database: Database
) -> None:
    message = failure()
    message["payload"]["nova_object.data"]["request_spec"] = None
    assert intake.accept(json.dumps(message), "test").outcome == "boot"
    (boot,) = boots(database)
    assert boot.request.groups == ()
    assert boot.project == "9b04663e9e72432fb50f0403147c1e60"


def test_a_flavor_that_placement_could_only_refuse_is_a_dead_letter(
    intake: Intake, database: Database
) -> None:
    message = failure()
    spec = message["payload"]["nova_object.data"]["request_spec"]["nova_object.data"]
    spec["flavor"]["nova_object.data"]["extra_specs"] = {"resources:CUSTOM_FPGA": "9" * 11}
    accepted = intake.accept(json.dumps(message), "test")
    assert accepted.outcome == "dead_letter"
    assert "resources:CUSTOM_FPGA" in accepted.reason
    assert boots(database) == []
    with database.read() as tx:  # mended, it may come again
        assert not tx.events.seen(message["message_id"])


# ---------------------------------------------------------------- what happens to the server


def put(database: Database, state: BootState, **changes: Any) -> Boot:
    """A boot in some state of its life."""
    intake = make(database)
    made = intake.accept(json.dumps(failure()), "test")
    with database.write() as tx:
        tx.connection.execute(
            BootRow.__table__.update().where(BootRow.id == made.boot).values(state=state, **changes)
        )
        found = tx.boots.get(made.boot or "")
        tx.hints.overdue(NOW + 1e6, NOW, 100)
        for task in (JUDGE, REBOOT):
            tx.hints.take(task)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("state", "ends"),
    [
        (BootState.RECEIVED, BootState.CANCELLED),
        (BootState.WAITING, BootState.CANCELLED),
        (BootState.PROMISED, BootState.CANCELLED),
        (BootState.READY, BootState.CANCELLED),
        # A create is at work: whoever watches it decides.
        (BootState.CREATING, BootState.CREATING),
        (BootState.BUILDING, BootState.BUILDING),
    ],
)
def test_its_owner_deletes_the_failed_server(
    database: Database, intake: Intake, state: BootState, ends: BootState
) -> None:
    boot = put(database, state)
    accepted = intake.accept(json.dumps(about("delete", boot.server)), "test")
    assert accepted == Accepted("owner_deleted", boot.id)
    with database.read() as tx:
        found = tx.boots.get(boot.id)
    assert found is not None
    assert found.state is ends
    assert hints(database) == ({} if ends is BootState.CANCELLED else {REBOOT: 1})


def test_what_an_unanswered_create_made_is_told(database: Database, intake: Intake) -> None:
    boot = put(database, BootState.CREATING, attempt=2, sent_at=NOW)
    server = str(uuid4())

    def told(marker: str = boot.marker, project: str = boot.project) -> str:
        return intake.accept(json.dumps(selecting(server, marker, project)), "test").outcome

    assert told(marker=f"{boot.id}.1") == "ignored"
    assert told(project="another") == "ignored"
    assert hints(database) == {}
    message = json.dumps(selecting(server, boot.marker, boot.project))
    assert intake.accept(message, "test") == Accepted("successor_told", boot.id)
    assert intake.accept(message, "test").outcome == "duplicate"
    with database.read() as tx:
        found = tx.boots.get(boot.id)
    assert found is not None
    # It is still looked for by its marker.
    assert (found.state, found.successor) == (BootState.CREATING, server)
    assert hints(database) == {REBOOT: 1}
    server = str(uuid4())
    assert told() == "ignored"


@pytest.mark.parametrize(
    ("state", "sent_at"),
    [(BootState.CREATING, None), (BootState.BUILDING, NOW), (BootState.WAITING, None)],
)
def test_what_no_unanswered_create_made_is_not_taken(
    database: Database, intake: Intake, state: BootState, sent_at: float | None
) -> None:
    boot = put(database, state, attempt=1, sent_at=sent_at)
    message = selecting(str(uuid4()), boot.marker, boot.project)
    assert intake.accept(json.dumps(message), "test").outcome == "ignored"
    with database.read() as tx:
        found = tx.boots.get(boot.id)
    assert found is not None
    assert found.successor is None


def test_a_create_of_others_is_not_looked_into(database: Database, intake: Intake) -> None:
    put(database, BootState.CREATING, attempt=1, sent_at=NOW)
    message = selecting("no uuid", "m", "p")
    message["_context_global_request_id"] = None
    assert intake.accept(json.dumps(message), "test").outcome == "ignored"
    message["_context_global_request_id"] = "req-of-heat"
    assert intake.accept(json.dumps(message), "test").outcome == "dead_letter"


def test_a_deletion_is_judged_only_where_somebody_waits(database: Database, intake: Intake) -> None:
    intake.accept(json.dumps(about("delete", str(uuid4()))), "test")
    assert hints(database) == {}
    put(database, BootState.WAITING, wake_at=NOW + 60.0)
    intake.accept(json.dumps(about("delete", str(uuid4()))), "test")
    assert hints(database) == {JUDGE: 1}


def test_a_deletion_is_judged_where_a_task_is_queued(database: Database, intake: Intake) -> None:
    task = Task(
        id="t",
        function="aes",
        device=None,
        host=None,
        count=1,
        when="idle",
        priority=1.0,
        state=TaskState.QUEUED,
        reason=Reason("task.queued", ""),
        done=0,
        created_at=NOW,
        created_by="",
    )
    with database.write() as tx:
        tx.tasks.add(task)
    intake.accept(json.dumps(about("delete", str(uuid4()))), "test")
    assert hints(database) == {JUDGE: 1}


def test_that_changeover_deleted_the_failed_server_ends_nothing(
    database: Database, intake: Intake
) -> None:
    """It made room for its successor, whose create was refused all the same."""
    boot = put(database, BootState.WAITING, removed_at=NOW, wake_at=NOW)
    accepted = intake.accept(json.dumps(about("delete", boot.server)), "test")
    assert accepted == Accepted("woke", boot.id)
    assert boots(database) == [boot]


@pytest.mark.parametrize(
    ("changes", "ends"),
    [({}, True), ({"removed_at": NOW}, False), ({"successor": str(uuid4())}, False)],
    ids=["given up", "makes room", "replaced"],
)
def test_demand_ends_with_its_server_unless_that_has_a_successor(
    database: Database, intake: Intake, changes: dict[str, Any], *, ends: bool
) -> None:
    boot = put(database, BootState.CREATING, attempt=1, **changes)
    intake.accept(json.dumps(about("delete", boot.server)), "test")
    with database.read() as tx:
        (asked,) = tx.demand.recorded(0.0, 10)
    assert (asked.server, asked.ended_at is not None) == (boot.server, ends)


def test_a_deletion_cancels_the_changeover_that_only_this_boot_wanted(
    database: Database, intake: Intake
) -> None:
    one, two = put(database, BootState.PROMISED), put(database, BootState.PROMISED)
    with database.write() as tx:
        tx.changeovers.add(changeover("c1"))
        tx.changeovers.add(changeover("c2"))
        promise(tx, one.id, "c1")
        promise(tx, one.id, "c2")
        promise(tx, two.id, "c2")
    intake.accept(json.dumps(about("delete", one.server)), "test")
    with database.read() as tx:
        cancelled = {c.id: c.cancel for c in tx.changeovers.live()}
    assert cancelled == {"c1": True, "c2": False}


def changeover(changeover_id: str) -> Changeover:
    return Changeover(
        id=changeover_id,
        device=changeover_id,
        host="h",
        from_function=None,
        to_function="aes",
        kind="boot",
        subject=None,
        plan_id=None,
        state=ChangeoverState.PLANNED,
        reason=Reason("x.y", "z"),
        priority=1.0,
        created_at=NOW,
        updated_at=NOW,
        due_at=NOW,
        tries=0,
        failures=0,
        cancel=False,
    )


def promise(tx: Tx, boot: str, made_by: str) -> None:
    tx.boots.promise(BootPromise(boot, made_by, 1, made_by, None))


def test_a_deletion_wakes_whoever_waits(database: Database, intake: Intake) -> None:
    boot = put(database, BootState.WAITING, wake_at=NOW + 60)
    accepted = intake.accept(json.dumps(about("delete", str(uuid4()))), "test")
    assert accepted == Accepted("woke", None)
    with database.read() as tx:
        found = tx.boots.get(boot.id)
    assert found is not None
    assert found.wake_at == NOW
    assert hints(database)[JUDGE] == 1


def test_whoever_works_on_a_cancelled_boot_learns_it_before_it_creates(
    database: Database, intake: Intake
) -> None:
    boot = put(database, BootState.READY, lease_owner="w", lease_until=NOW + 10)
    intake.accept(json.dumps(about("delete", boot.server)), "test")
    with database.write() as tx, pytest.raises(Reread):
        tx.boots.move(boot, BootState.CREATING, NOW, attempt=1)
    with database.read() as tx:
        found = tx.boots.get(boot.id)
    assert found is not None
    assert found.state is BootState.CANCELLED


@pytest.mark.parametrize("state", [BootState.BOOTED, BootState.EXPIRED, BootState.CANCELLED])
def test_what_is_over_stays_over(database: Database, intake: Intake, state: BootState) -> None:
    boot = put(database, state, successor=str(uuid4()))
    assert intake.accept(json.dumps(about("delete", boot.server)), "test").outcome == "woke"
    assert intake.accept(json.dumps(failure(boot.server)), "test").outcome == "known"
    assert intake.accept(json.dumps(failure(boot.successor)), "test").outcome == "known"
    assert intake.accept(json.dumps(about("create", boot.successor or "")), "t").outcome == (
        "ignored"
    )
    with database.read() as tx:
        assert tx.boots.get(boot.id) == boot


def test_the_successors_fate_is_looked_at(database: Database, intake: Intake) -> None:
    for message, outcome in (("create", "successor_built"), ("fail", "successor_failed")):
        boot = put(database, BootState.BUILDING, successor=str(uuid4()))
        assert boot.successor is not None
        body = failure(boot.successor) if message == "fail" else about(message, boot.successor)
        assert intake.accept(json.dumps(body), "test") == Accepted(outcome, boot.id)
        assert hints(database)[REBOOT] == 1
        with database.write() as tx:
            tx.hints.take(REBOOT, boot.id)
    assert len(boots(database)) == 2


@pytest.mark.parametrize("state", [BootState.WAITING, BootState.READY, BootState.BUILDING])
def test_that_a_successor_is_deleted_does_not_cancel_the_boot(
    database: Database, intake: Intake, state: BootState
) -> None:
    """Changeover itself deletes those that failed; and whose it was is looked at before that."""
    boot = put(database, state, successor=str(uuid4()), wake_at=NOW)
    accepted = intake.accept(json.dumps(about("delete", boot.successor or "")), "test")
    assert accepted == Accepted("woke", boot.id)
    with database.read() as tx:
        assert tx.boots.get(boot.id) == boot


def test_a_server_of_somebody_elses_is_ignored(database: Database, intake: Intake) -> None:
    assert intake.accept(json.dumps(about("create", str(uuid4()))), "test").outcome == "ignored"
    with database.read() as tx:
        assert tx.events.count() == 0


# ---------------------------------------------------------------- hostile bodies


def changed(path: str, value: object) -> str:
    message = failure()
    *parents, last = path.split("/")
    here: Any = message
    for part in parents:
        here = here[part]
    here[last] = value
    return json.dumps(message)


PAYLOAD = "payload/nova_object.data"

HOSTILE: dict[str, bytes | str] = {
    "empty": b"",
    "no JSON": b"\xff\xfe\x00",
    "half": enveloped(failure()).encode()[:2000],
    "half of a character": '{"a": "ü'.encode()[:-1],
    "a number": "1",
    "a list": "[]",
    "null": b"null",
    "huge": b'{"event_type": "' + b"x" * MAX_BYTES + b'"}',
    "deep": "[" * 100_000 + "]" * 100_000,
    "just too deep": '{"a": ' * (MAX_DEPTH + 2) + "1" + "}" * (MAX_DEPTH + 2),
    "endless digits": '{"event_type": ' + "9" * 100_000 + "}",
    "NaN": '{"event_type": NaN}',
    "a key twice": '{"event_type": "x", "event_type": "instance.delete.end"}',
    "an envelope of nothing": '{"oslo.message": null}',
    "an envelope of an envelope": enveloped({"oslo.message": "{}"}),
    "no event type": "{}",
    "an event type of a list": '{"event_type": []}',
    "no payload": json.dumps({**failure(), "payload": None}),
    "a legacy payload": json.dumps({**failure(), "payload": {"instance_uuid": str(uuid4())}}),
    "a server that is no uuid": changed(f"{PAYLOAD}/instance_uuid", "'; DROP TABLE boots; --"),
    "a server that is a number": changed(f"{PAYLOAD}/instance_uuid", 7),
    "NUL": changed("_context_project_id", "a\x00b"),
    "a lone surrogate": changed("_context_request_id", "a\ud800b"),
    "a raw lone surrogate": '{"event_type": "\ud800"}',
    "a name without end": changed("_context_user_id", "u" * 256),
    "a time that is none": changed("timestamp", "yesterday"),
    "a message id of a list": changed("message_id", ["x"]),
    "NUL bytes": b"\x00" * 100,
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bodies_become_dead_letters(
    intake: Intake, database: Database, body: bytes | str
) -> None:
    accepted = intake.accept(body, "test")
    assert accepted.outcome == "dead_letter"
    assert accepted.reason
    assert "\n" not in accepted.reason
    (letter,) = letters(database)
    assert letter["reason"] == accepted.reason[:512]
    assert letter["times"] == 1
    assert len(letter["body"]) <= KEPT_CHARACTERS
    raw = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    assert letter["size"] == len(raw)
    assert intake.accept(raw, "test").outcome == "dead_letter"
    (letter,) = letters(database)
    assert letter["times"] == 2
    assert boots(database) == []


def test_a_dead_letter_that_was_kept_whole_can_be_replayed(
    intake: Intake, database: Database
) -> None:
    body = changed("timestamp", "yesterday")
    intake.accept(enveloped(json.loads(body)), "test")
    (letter,) = letters(database)
    mended = letter["body"].replace("yesterday", "2026-11-23 06:50:44")
    assert intake.accept(mended, "replay").outcome == "boot"


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"_context_auth_token": SECRET}),
        json.dumps({"_context_auth_token": SECRET}, indent=1),
        json.dumps({"oslo.message": json.dumps({"_context_auth_token": SECRET})}),
        json.dumps({"x": json.dumps({"y": json.dumps({"auth_token": SECRET})})}),
        json.dumps({"auth_token": SECRET})[:-4],  # cut off in the middle
        str({"authtoken": SECRET}),
        json.dumps({"admin_password": SECRET}),
        json.dumps({"adminPass": SECRET}),
        json.dumps({"admin_pass": SECRET}),
        json.dumps({"X-Auth-Token": SECRET}),
        json.dumps({"X-Subject-Token": SECRET}),
        json.dumps({"client_secret": SECRET}),
        json.dumps({"auth_token": "x" * 5000 + SECRET}),
        json.dumps({"password": 'quo"ted ' + SECRET}),
        json.dumps({"x": json.dumps({"password": "quo\"ted \\ ' " + SECRET})}),
        json.dumps({"_context_auth_token": SECRET}).encode("utf-16"),
        ("é" * 40_000 + json.dumps({"auth_token": SECRET})).encode(),
    ],
)
def test_no_credential_is_kept(intake: Intake, database: Database, body: bytes | str) -> None:
    assert intake.accept(body, "test").outcome == "dead_letter"
    (letter,) = letters(database)
    kept = letter["body"].replace("\\0", "")
    for part in (SECRET, SECRET[:12], SECRET[-12:]):
        assert part not in kept
    assert SECRET not in letter["reason"]


def test_what_stands_beside_a_credential_is_kept(intake: Intake, database: Database) -> None:
    body = {"a": "before", "_context_auth_token": SECRET, "b": "after", "auth_token": None}
    for message in (json.dumps(body), enveloped(body)):
        intake.accept(message, "test")
    for letter in letters(database):
        for word in ("before", "after", "[removed]", "null"):
            assert word in letter["body"]


# ---------------------------------------------------------------- one bad apple


def test_one_poison_message_does_not_lose_the_others(intake: Intake, database: Database) -> None:
    bodies: list[bytes | str] = [enveloped(failure()) for _ in range(99)]
    bodies.insert(40, b"\x00poison")
    accepted = intake.accept_all(bodies, "test")
    assert Counter(outcomes(accepted)) == {"boot": 99, "dead_letter": 1}
    assert accepted[40].outcome == "dead_letter"
    assert len(boots(database)) == 99


def test_what_only_the_database_refuses_is_set_aside_alone(
    intake: Intake, database: Database
) -> None:
    messages = [failure() for _ in range(100)]
    bad = messages[60]["payload"]["nova_object.data"]["instance_uuid"]
    with database.write() as tx:  # as PostgreSQL does for what is too long for its column
        tx.connection.execute(
            text(
                f"CREATE TRIGGER strict BEFORE INSERT ON boots WHEN NEW.server = '{bad}' "
                "BEGIN SELECT RAISE(ABORT, 'value too long'); END"
            )
        )
    accepted = intake.accept_all([enveloped(m) for m in messages], "test")
    assert Counter(outcomes(accepted)) == {"boot": 99, "dead_letter": 1}
    assert accepted[60].outcome == "dead_letter"
    assert len(boots(database)) == 99
    (letter,) = letters(database)
    assert letter["reason"] == "the database refuses its values"


# ---------------------------------------------------------------- the database is away


def test_a_database_that_is_away_means_retry_and_nothing_is_lost(
    database: Database, intake: Intake, tmp_path: Path
) -> None:
    bodies = [enveloped(failure()), b"poison", enveloped(about("delete", str(uuid4())))]
    nowhere = Database(f"sqlite:///{tmp_path}/no/such/directory/db")
    with pytest.raises(Retry) as caught:
        make(nowhere).accept_all(bodies, "test")
    assert isinstance(caught.value, Unreachable)
    nowhere.dispose()
    assert outcomes(intake.accept_all(bodies, "test")) == ["boot", "dead_letter", "woke"]
    assert outcomes(intake.accept_all(bodies, "test")) == ["duplicate", "dead_letter", "duplicate"]
    assert len(boots(database)) == 1


@pytest.mark.parametrize("broken", ["dead_letters", "events", "boots", "hints"])
def test_a_database_that_fails_in_the_middle_takes_all_back(
    database: Database, intake: Intake, broken: str
) -> None:
    bodies = [enveloped(failure()), b"poison", enveloped(failure())]
    sent: list[Hint] = []
    database.courier = sent.extend

    def fail(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(f"INSERT INTO {broken}"):
            raise Busy("the database is busy")

    event.listen(database.engine, "before_cursor_execute", fail)
    with pytest.raises(Retry):
        intake.accept_all(bodies, "test")
    event.remove(database.engine, "before_cursor_execute", fail)
    assert (boots(database), letters(database), sent) == ([], [], [])
    assert outcomes(intake.accept_all(bodies, "test")) == ["boot", "dead_letter", "boot"]


def test_it_goes_away_while_one_is_set_aside(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are committed, one at a time, when it goes: all come again, none is doubled."""
    bodies = [enveloped(failure()) for _ in range(4)]
    intake = make(database)
    store, calls = intake._store, []

    def breaks(some: Any, parsed: Any, source: str) -> list[Accepted]:
        calls.append(len(some))
        if len(some) > 1:
            raise DBAPIError("INSERT", {}, sqlite3.DataError("value too long"))
        if len(calls) == 4:
            raise Unreachable("gone")
        return store(some, parsed, source)

    with monkeypatch.context() as patch:
        patch.setattr(intake, "_store", breaks)
        with pytest.raises(Retry):
            intake.accept_all(bodies, "test")
    assert len(boots(database)) == 2
    again = intake.accept_all(bodies, "test")
    assert Counter(outcomes(again)) == {"duplicate": 2, "boot": 2}
    assert len(boots(database)) == 4


def test_nothing_is_nothing(intake: Intake) -> None:
    assert intake.accept_all([], "test") == []


# ---------------------------------------------------------------- anything at all

ALL = [m for path in sorted(DATA.glob("*.jsonl")) for m in captured(path.stem)]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=300),
    st.sampled_from(["\x00", "\ud800", "x" * 300, "NoValidHost", "", "1", "required"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from places(item, (*path, key))


PLACES = [list(places(message)) for message in ALL]
FAILURES = [
    index
    for index, message in enumerate(ALL)
    if message["event_type"].endswith("build_instances.error")
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes | str:
    index = draw(st.sampled_from(FAILURES) | st.integers(0, len(ALL) - 1))
    message = copy.deepcopy(ALL[index])
    if draw(st.booleans()):
        message["message_id"] = str(uuid4())
    for _ in range(draw(st.integers(0, 3))):
        *parents, last = draw(st.sampled_from(PLACES[index]))
        here: Any = message
        with contextlib.suppress(LookupError, TypeError):  # a mutation before took it away
            for key in parents:
                here = here[key]
            if draw(st.booleans()):
                del here[last]
            else:
                here[last] = draw(ODD)
    text = enveloped(message) if draw(st.booleans()) else json.dumps(message)
    if draw(st.booleans()):
        return text
    body = bytearray(text.encode())
    kind = draw(st.sampled_from(["as it is", "cut", "flipped", "doubled", "spliced"]))
    at = draw(st.integers(0, len(body) - 1))
    if kind == "cut":
        return bytes(body[:at])
    if kind == "flipped":
        body[at] ^= draw(st.integers(1, 255))
    elif kind == "doubled":
        body[at:at] = body
    elif kind == "spliced":
        body[at:at] = draw(st.binary(max_size=8))
    return bytes(body)


@pytest.fixture(scope="module")
def in_memory() -> Iterator[Database]:
    database = Database("sqlite://")
    with database.engine.begin() as connection:
        Base.metadata.create_all(connection)
    yield database
    database.dispose()


def stored(database: Database) -> Counter[str]:
    counts = {
        "boots": "SELECT count(*) FROM boots",
        "events": "SELECT count(*) FROM events",
        "letters": "SELECT coalesce(sum(times), 0) FROM dead_letters",
    }
    with database.read() as tx:
        return Counter({k: tx.connection.execute(text(q)).scalar_one() for k, q in counts.items()})


@settings(max_examples=120, deadline=None)
@example(["", b"", enveloped(ALL[0])])
@given(st.lists(mutated() | st.binary(max_size=50) | st.text(max_size=50), min_size=1, max_size=4))
def test_nothing_escapes_and_each_message_has_one_outcome(
    in_memory: Database, bodies: list[bytes | str]
) -> None:
    before = stored(in_memory)
    accepted = make(in_memory).accept_all(bodies, "fuzz")
    counted = Counter(outcomes(accepted))
    assert len(accepted) == len(bodies)
    assert set(counted) <= OUTCOMES
    after = stored(in_memory)
    assert after["boots"] - before["boots"] == counted["boot"]
    assert after["letters"] - before["letters"] == counted["dead_letter"]
    kept = len(bodies) - sum(counted[o] for o in ("dead_letter", "duplicate", "ignored"))
    assert after["events"] - before["events"] == kept
    for one in accepted:
        assert (one.boot is not None) or one.outcome not in {"boot", "known"}
    again = make(in_memory).accept_all(bodies, "fuzz")
    for first, second in zip(accepted, again, strict=True):
        repeated = {"ignored": "ignored", "dead_letter": "dead_letter"}
        assert second.outcome == repeated.get(first.outcome, "duplicate")
