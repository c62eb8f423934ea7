"""Boot on request: queue servers, and wait for them if that is wanted."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from changeover.console import given
from changeover.console.desk import Desk
from changeover.console.render import Output, plain, short, span
from changeover.console.status import ALIVE_SECONDS
from changeover.models.errors import Invalid, Refuse
from changeover.models.states import BOOT_OVER, BootState

if TYPE_CHECKING:
    from changeover.models.boot import Boot
    from changeover.models.server_request import ServerRequest
    from changeover.worker.submit import Terms

LOOK_SECONDS = 0.5

UNTOLD_SECONDS = 5.0
"""For so long nobody wonders why nothing happens, and workers may be about to start."""


@dataclass(frozen=True, slots=True)
class InWhoseName:
    """Somebody of clouds.yaml; or a project and user for which the service user acts."""

    os_cloud: str | None
    project: str | None
    user: str | None


def pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """``KEY=VALUE`` words as a mapping; raises :class:`Invalid` that names the option."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise Invalid(f"{option}: must be KEY=VALUE, not {word!r}")
        if key in found:
            raise Invalid(f"{option}: {key} is given twice")
        found[key] = value
    return found


def networks(words: Sequence[str]) -> str | list[dict[str, str]]:
    """``auto``, ``none``, networks by name or id, or ``port=ID``."""
    if list(words) in (["auto"], ["none"]):
        return words[0]
    if not words:
        raise Invalid("--network: say which network, or auto, or none; repeatable")
    if {"auto", "none"} & set(words):
        raise Invalid("--network: auto and none stand alone")
    return [
        {"port": word.removeprefix("port=")} if word.startswith("port=") else {"uuid": word}
        for word in words
    ]


def user_data(path: Path | None) -> str | None:
    """The file as Nova wants it; ``-`` is standard input."""
    if path is None:
        return None
    try:
        return base64.b64encode(given.read(path)).decode()
    except Invalid as exc:
        raise Invalid(f"--user-data: {exc.message}") from exc


def read_request(path: Path) -> ServerRequest:
    """Nova's own create request from a file; ``-`` is standard input."""
    from changeover.models.server_request import parse_server_request

    return parse_server_request(given.read(path))


def submit(
    desk: Desk,
    out: Output,
    request: ServerRequest,
    *,
    name: InWhoseName,
    terms: Callable[[float], Terms],
    wait: bool,
) -> int:
    """Queue a request; returns the exit status."""
    from changeover.worker.bootstrap import open_requester
    from changeover.worker.submit import submit as queue

    if name.os_cloud is not None and (name.project is not None or name.user is not None):
        raise Invalid("--os-cloud says who you are: leave out --project and --user")
    requester = open_requester(
        desk.settings, cloud=name.os_cloud, project=name.project, user=name.user
    )
    patience = terms(desk.settings.patience_seconds)
    filters = desk.settings.request_filters
    done = queue(desk.sending_database, desk.clock, requester, request, patience, filters)
    if not wait:
        if out.as_json:
            out.document({"fresh": done.fresh, "boots": plain(done.boots)})
            return 0
        said = "queued" if done.fresh else "was queued before:"
        for boot in done.boots:
            out.line(f"{said} boot {boot.id}: {_called(boot)} of flavor {boot.name}")
        out.line(f"follow it with `changeover explain {short(done.boots[0].id)}`")
        if (unsent := desk.unsent) is not None:
            out.note(unsent)
        return 0
    return _wait(desk, out, [boot.id for boot in done.boots])


def _called(boot: Boot) -> str:
    return "server" if boot.blueprint is None else f"server {boot.blueprint.name}"


def _wait(desk: Desk, out: Output, ids: list[str]) -> int:
    """Show what becomes of the boots until all are over; 0 if all of them run."""
    said: dict[str, tuple[str, str]] = {}
    began = desk.clock.now()
    told = False
    while True:
        with desk.database.read() as tx:
            boots = [boot for one in ids if (boot := tx.boots.get(one)) is not None]
        if not told and not out.as_json and desk.clock.now() - began > UNTOLD_SECONDS:
            with desk.database.read() as tx:
                seen = tx.switches.alive(desk.clock.now() - ALIVE_SECONDS)
            told = not any(process["role"] == "worker" for process in seen)
            if told:
                out.note(
                    f"no worker has said for {ALIVE_SECONDS:g} s that it lives: this goes on when "
                    "`changeover up` or `changeover worker` runs"
                )
        for boot in boots:
            now_said = (str(boot.state), boot.reason.text)
            if said.get(boot.id) != now_said and not out.as_json:
                age = span(desk.clock.now() - began)
                out.line(f"{age:>6}  {_called(boot)}: {boot.state}: {boot.reason.text}")
            said[boot.id] = now_said
        if all(boot.state in BOOT_OVER for boot in boots):
            break
        desk.clock.sleep(LOOK_SECONDS)
    if out.as_json:
        document: Any = {"boots": plain(boots)}
        out.document(document)
    failed = [boot for boot in boots if boot.state is not BootState.BOOTED]
    if failed and not out.as_json:
        raise Refuse(f"{len(failed)} of {len(boots)} server(s) were not created")
    return 2 if failed else 0
