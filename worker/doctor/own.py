"""Changeover's own parts: versions, catalog, database, processes, and what they saw last."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import text

from changeover.models.states import ChangeoverState
from changeover.worker import migrate
from changeover.worker.doctor.check import Check, fail, ok, skipped, some, warn
from changeover.worker.doctor.site import Site
from changeover.worker.queues import SWEEP
from changeover.worker.secret_files import DIRECTORY, readable_by_all, secret_files, secrets_dir
from changeover.worker.settings import config_file, keys_of
from changeover.worker.versions import KNOWN_BAD, installed

MOST_SKEW = 2.0
"""Seconds by which clocks may differ: leases are longer, and the settle time is not below it."""

ALIVE_SECONDS = 30.0
SILENT_SECONDS = 24 * 3600.0
LATE_SWEEPS = 4


def versions(_: Site) -> Iterator[Check]:
    """Celery and its like without a known defect."""
    found = installed()
    bad = {package: number for package, number in found.items() if (package, number) in KNOWN_BAD}
    for package, number in bad.items():
        yield warn(
            f"versions.{package}",
            f"{package} {number}: {KNOWN_BAD[package, number]}",
            f"nothing, while workers run under `changeover up` or restart by themselves; else "
            f"another version of {package}",
            version=number,
        )
    if not bad:
        yield ok("versions", "no installed version is known to be bad", **found)


def secrets(site: Site) -> Iterator[Check]:
    """Files with secrets are closed to the machine's other users."""
    files = set() if secrets_dir() == DIRECTORY else set(secret_files().values())
    files |= {t.secret_file for t in site.settings.callbacks.values() if t.secret_file is not None}
    if (path := config_file()) is not None and site.settings.secrets & keys_of(path):
        files.add(path)
    stored = site.settings.state_dir / "changeover.sqlite"
    if site.settings.database_url is None and stored.exists():
        files.add(stored)  # with the user data of servers that were asked for
    open_to_all, missing = [], []
    for path in sorted(files):
        try:
            if readable_by_all(path):
                open_to_all.append(str(path))
        except OSError as exc:
            missing.append(f"{path}: {exc.strerror}")
    if missing:
        yield fail("secrets", some(missing), "make it, or name another", files=missing)
    if open_to_all:
        yield warn(
            "secrets.readable",
            f"every user of this machine can read {some(open_to_all)}",
            "chmod o= FILE, or move it to a directory that is closed to others",
            files=open_to_all,
        )
    elif files and not missing:
        yield ok("secrets", f"{len(files)} files with secrets are closed to others")
    elif not files:
        yield skipped("secrets", "no secret is in a file that this machine's users could read")


def catalog(site: Site) -> Iterator[Check]:
    """It loads."""
    loaded = site.open_catalog()
    yield ok(
        "catalog",
        f"{len(site.devices)} devices, {len(loaded.functions)} functions, "
        f"{len(loaded.discover)} rules",
        devices=len(site.devices),
        described=len(loaded.devices),
        functions=len(loaded.functions),
        rules=len(loaded.discover),
    )


def database(site: Site) -> Iterator[Check]:
    """It answers, has this version's schema, and its clock is ours."""
    with site.database.read() as tx:
        name = tx.connection.dialect.name
    found, wanted = migrate.current(site.database.url), migrate.head()
    if found != wanted:
        yield fail(
            "database.schema",
            f"the database is at revision {found or 'none'}, this version needs {wanted}",
            "run `changeover db upgrade`",
            found=found,
            wanted=wanted,
        )
        return
    yield ok("database.schema", f"{name} answers, and has this version's schema", kind=name)
    if name != "postgresql":
        yield skipped("database.clock", "SQLite has no clock of its own")
        return
    with site.database.read() as tx:
        before = site.clock.now()
        asked = tx.connection.execute(text("SELECT extract(epoch FROM clock_timestamp())"))
        skew = float(asked.scalar_one()) - (before + site.clock.now()) / 2
    yield clock("database.clock", "PostgreSQL", skew)


def clock(name: str, whose: str, skew: float, tolerance: float = MOST_SKEW) -> Check:
    """A verdict about a clock that is ``skew`` seconds ahead of ours."""
    if abs(skew) <= tolerance:
        return ok(name, f"{whose}'s clock is ours, to {tolerance:g} s", seconds=round(skew, 3))
    way = "ahead of" if skew > 0 else "behind"
    return warn(
        name,
        f"{whose}'s clock is {abs(skew):.1f} s {way} ours",
        "synchronise the clocks (chrony): ages of failed boots and holds go by them",
        seconds=round(skew, 3),
    )


def processes(site: Site) -> Iterator[Check]:
    """Workers, a listener and a beat say in the database that they live."""
    now = site.clock.now()
    with site.database.read() as tx:
        alive = tx.switches.alive(now - ALIVE_SECONDS)
        swept_at = tx.leases.ran_at(SWEEP)
    for role in ("worker", "listener"):
        mine = [p["process"] for p in alive if p["role"] == role]
        if mine:
            yield ok(f"processes.{role}", f"{len(mine)} {role}(s) live", processes=mine)
        else:
            yield fail(
                f"processes.{role}",
                f"no {role} has said for {ALIVE_SECONDS:g} s that it lives",
                f"start `changeover up`, or `changeover {role}`; if one runs, compare its "
                "database_url",
            )
    late = ALIVE_SECONDS + LATE_SWEEPS * site.settings.sweep_seconds
    if swept_at is not None and now - swept_at <= late:
        yield ok("processes.beat", f"a scheduled sweep ran {max(0.0, now - swept_at):.0f} s ago")
    else:
        said = "no scheduled sweep has ever run"
        if swept_at is not None:
            said = f"the last scheduled sweep ran {now - swept_at:.0f} s ago"
        yield fail(
            "processes.beat",
            said,
            "start `changeover up`, or `changeover beat` and a worker of the sweep queue",
            ran_at=swept_at,
        )
    ahead = {p["process"]: p["at"] - now for p in alive if p["at"] - now > MOST_SKEW}
    for process, skew in sorted(ahead.items())[:1]:
        yield clock("processes.clock", process, skew)


def notifications_seen(site: Site) -> Iterator[Check]:
    """Nova's notifications have arrived, and lately."""
    now = site.clock.now()
    with site.database.read() as tx:
        last = tx.events.last_heard()
        letters = tx.events.count_dead_letters()
    if last is None:
        yield warn(
            "notifications.seen",
            "no notification of Nova has ever arrived",
            "create and delete a server, then look again; if still none arrives, see "
            "[notifications] and [oslo_messaging_notifications] in nova.conf",
        )
    elif now - last > SILENT_SECONDS:
        yield warn(
            "notifications.seen",
            f"the last notification arrived {(now - last) / 3600:.0f} hours ago",
            "on a cloud that is in use that is long: create and delete a server, and look again",
            seconds=now - last,
        )
    else:
        said = f"the last notification arrived {now - last:.0f} s ago"
        yield ok("notifications.seen", said, seconds=now - last)
    if letters:
        yield warn(
            "notifications.understood",
            f"{letters} message(s) could not be understood",
            "see `changeover dead-letters`",
            count=letters,
        )


def late_allocations(site: Site) -> Iterator[Check]:
    """What shows of Placement's retry option: allocations that landed behind a fence."""
    name = "placement.retries"
    advice = (
        "set [placement] allocation_conflict_retry_count = 1 in placement.conf and restart "
        "Placement: with the default of 10 an allocation may land up to 80 ms after a fence"
    )
    with site.database.read() as tx:
        live = tx.changeovers.live()
    late = [
        c.device
        for c in live
        if c.state is ChangeoverState.QUARANTINED and c.reason.code == "device.in_use"
    ]
    if late:
        yield fail(
            name, f"allocations landed behind the fences of {some(late)}", advice, devices=late
        )
    elif site.settings.embedded_cloud and site.settings.placement_endpoint is None:
        yield ok(name, "the embedded Placement runs with allocation_conflict_retry_count = 1")
    else:
        yield skipped(name, "no client can see how Placement's retry option is set", advice)
