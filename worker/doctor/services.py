"""The cloud's services: whether they answer, speak as we do, and let our user in.

Whether a write is allowed is found by writing to what does not exist: a service looks at the
user's rights first (403), then for the thing (404). Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from changeover.models.errors import ChangeoverError
from changeover.worker.adapters.microversions import dotted
from changeover.worker.doctor.check import Check, fail, ok, skipped, some, warn
from changeover.worker.doctor.own import MOST_SKEW, clock
from changeover.worker.doctor.site import Answer, Api, NothingToLookAtError, Site
from changeover.worker.ports.servers import NO_VALID_HOST

PLACEMENT_LEAST, PLACEMENT_WANTED = (1, 36), (1, 39)
NOVA_LEAST, NOVA_WANTED = (2, 73), (2, 100)

_PLACEMENT = {"OpenStack-API-Version": "placement 1.36"}
_NOVA = {"OpenStack-API-Version": "compute 2.73"}

SERVICES = ("identity", "placement", "compute", "image", "accelerator")
DAY = 24 * 3600.0
SERVERS_AT_ONCE = 50
TELL_SECONDS = 60.0
"""A failure so young may be told of this moment."""

_ROLES = "docs/openstack.md names the roles and policies that suffice"


def keystone(site: Site) -> Iterator[Check]:
    """It gives our user a token; which roles are in it."""
    user = site.user
    roles = sorted(user.roles)
    facts = {"user": user.name, "project": user.project, "roles": roles}
    yield ok("keystone", f"{user.name} of project {user.project} has {', '.join(roles)}", **facts)


def placement(site: Site) -> Iterator[Check]:
    """It answers, speaks our microversion, and lets us read allocations and write inventories."""
    api = site.api("placement")
    yield _microversion(
        "placement", "Placement", _answered(api.request("GET", "/")), PLACEMENT_LEAST,
        PLACEMENT_WANTED,
    )  # fmt: skip
    nobody = str(uuid4())
    read = api.request("GET", f"/resource_providers/{nobody}/allocations", headers=_PLACEMENT)
    yield _allowed("placement.reads", "Placement", "read allocations", read, "service")
    write = api.request(
        "PUT",
        f"/resource_providers/{nobody}/inventories",
        body={"resource_provider_generation": 0, "inventories": {}},
        headers=_PLACEMENT,
    )
    yield _allowed("placement.writes", "Placement", "write inventories", write, "service")


def nova(site: Site) -> Iterator[Check]:
    """It answers, speaks our microversion, and lets us see all servers and compute services."""
    api = site.api("compute")
    yield _microversion(
        "nova", "Nova", _answered(api.request("GET", "/")), NOVA_LEAST, NOVA_WANTED,
        lacks="; before, scheduler hints are lost, and only its notification tells of a successor "
        "that was deleted before its unanswered create was found",
    )  # fmt: skip
    query = [("all_tenants", "1"), ("limit", "1")]
    listed = api.request("GET", "/servers", query=query, headers=_NOVA)
    rule = "os_compute_api:servers:index:get_all_tenants"
    yield _allowed("nova.lists_servers", "Nova", "see the servers of all projects", listed, rule)
    query = [("all_tenants", "1"), ("uuid", str(uuid4())), ("limit", "1")]
    found = api.request("GET", "/servers/detail", query=query, headers=_NOVA)
    what = "look for one server of all projects"
    if found.ok and found.parse(lambda value: len(value["servers"])):
        rule = "os_compute_api:servers:allow_all_filters"
        said = "Nova ignores the filter by uuid: whether a server is gone cannot be known"
        yield fail("nova.finds_servers", said, f"give our user {rule}: {_ROLES}")
    else:
        rule = "os_compute_api:servers:detail:get_all_tenants"
        yield _allowed("nova.finds_servers", "Nova", what, found, rule)


def compute_services(site: Site) -> Iterator[Check]:
    """The hosts of our devices are up and enabled."""
    name = "nova.services"
    answer = site.api("compute").request(
        "GET", "/os-services", query=[("binary", "nova-compute")], headers=_NOVA
    )
    if answer.status == HTTPStatus.FORBIDDEN:
        rule = "os_compute_api:os-services:list"
        yield _allowed(name, "Nova", "see which compute services are down", answer, rule)
        return
    services = {s["host"]: s for s in _answered(answer).parse(lambda value: value["services"])}
    hosts = sorted({device.host for device in site.devices})
    unknown = [host for host in hosts if host not in services]
    down = [h for h in hosts if h in services and services[h]["state"] != "up"]
    disabled = [h for h in hosts if h in services and services[h]["status"] != "enabled"]
    facts = {"down": down, "disabled": disabled, "unknown": unknown}
    if down or unknown:
        yield warn(
            name,
            f"no compute service is up on {some([*down, *unknown])}",
            "their devices are not programmed: start nova-compute there, or correct the devices' "
            "host in the catalog",
            **facts,
        )
    elif disabled:
        yield warn(
            name,
            f"disabled: {some(disabled)}",
            "Nova schedules nothing there: enable them, or leave their devices out",
            **facts,
        )
    else:
        yield ok(name, f"{len(hosts)} hosts with devices are up and enabled", **facts)


def notifications_arrive(site: Site) -> Iterator[Check]:
    """What Nova shows as failed for want of a host was told to the listener."""
    name = "notifications.arrive"
    query = [("all_tenants", "1"), ("status", "ERROR"), ("limit", str(SERVERS_AT_ONCE))]
    newest = [("sort_key", "created_at"), ("sort_dir", "desc")]
    answer = site.api("compute").request(
        "GET", "/servers/detail", query=[*query, *newest], headers=_NOVA
    )
    if answer.status == HTTPStatus.FORBIDDEN:
        rule = "os_compute_api:servers:detail:get_all_tenants"
        yield _allowed(name, "Nova", "see the servers of all projects", answer, rule)
        return
    now = site.clock.now()
    with site.database.read() as tx:
        since = tx.events.first_heard()
        failed = [
            uuid
            for uuid, at in _answered(answer).parse(_without_host)
            if (since or now - DAY) < at < now - TELL_SECONDS
        ]
        untold = [
            uuid
            for uuid in failed
            if all(event["source"] != "listener" for event in tx.events.of_server(uuid))
        ]
    if untold:
        yield fail(
            name,
            f"Nova told nothing of {len(untold)} of {len(failed)} servers that found no host",
            "see [oslo_messaging_notifications] driver = messagingv2 and [notifications] "
            "notification_format in nova.conf, and that notification_url is Nova's broker",
            servers=untold[:20],
        )
    elif failed:
        yield ok(name, f"Nova told of all {len(failed)} latest servers that found no host")
    else:
        yield skipped(name, "no server has failed for want of a host lately")


def _without_host(value: Any) -> list[tuple[str, float]]:
    """Servers that found no host, with when they were made."""
    return [
        (server["id"], datetime.fromisoformat(server["created"]).timestamp())
        for server in value["servers"]
        if NO_VALID_HOST in server.get("fault", {}).get("message", "")
    ]


def glance(site: Site) -> Iterator[Check]:
    """It answers, and lets us see images."""
    answer = site.api("image").request("GET", "/v2/images", query=[("limit", "1")])
    yield _allowed("glance", "Glance", "see images", answer, "reader")


def cyborg(site: Site) -> Iterator[Check]:
    """It answers, and lets us program deployables, where a programmer of the catalog does."""
    api = site.api("accelerator")
    listed = api.request("GET", "/deployables")
    yield _allowed("cyborg", "Cyborg", "list deployables", listed, "reader")
    if not any(p.kind == "cyborg" for p in site.catalog.programmers.values()):
        yield skipped("cyborg.programs", "no programmer of the catalog is Cyborg")
        return
    nobody = str(uuid4())
    program = [{"path": "/program", "op": "replace", "value": [{"image_uuid": nobody}]}]
    answer = api.request("PATCH", f"/deployables/{nobody}/program", body=program)
    rule = "cyborg:deployable:program"
    yield _allowed("cyborg.programs", "Cyborg", "program deployables", answer, rule)


def clocks(site: Site) -> Iterator[Check]:
    """The services' clocks are ours, as their answers are dated."""
    apis: dict[str, Api] = {}
    for service in SERVICES:
        with suppress(NothingToLookAtError, ChangeoverError):
            apis[service] = site.api(service)
    looked = False
    for service, api in apis.items():
        before = site.clock.now()
        try:
            dated = api.request("GET", "/").headers.get("date")
            at = None if dated is None else parsedate_to_datetime(dated).timestamp()
        except (ChangeoverError, ValueError, TypeError):
            continue  # whether it answers is another check's
        if at is None:
            continue
        looked = True
        after = site.clock.now()
        # A date has whole seconds, and was written some time between the two.
        skew = 0.0 if before - 1 <= at <= after else (at - after if at > after else at + 1 - before)
        yield clock(f"clock.{service}", service, skew, MOST_SKEW)
    if not looked:
        yield skipped("clock", "no service dates its answers")


def _microversion(
    name: str,
    who: str,
    answer: Answer,
    least: tuple[int, int],
    wanted: tuple[int, int],
    *,
    lacks: str = "",
) -> Check:
    lowest, highest = answer.parse(_versions)
    facts = {"least": dotted(lowest), "most": dotted(highest)}
    said = f"{who} speaks microversions {facts['least']} to {facts['most']}"
    if highest < least or lowest > wanted:
        return fail(name, said, f"{dotted(least)} or later is needed: upgrade {who}", **facts)
    if highest < wanted:
        return warn(
            name, said, f"all is possible from {dotted(wanted)} on: upgrade {who}{lacks}", **facts
        )
    return ok(name, said, **facts)


def _versions(value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Placement lists its versions, Nova's endpoint shows one."""
    version = value["version"] if "version" in value else value["versions"][0]
    return _number(version["min_version"]), _number(
        version.get("max_version", version.get("version"))
    )


def _number(dotted: str) -> tuple[int, int]:
    major, _, minor = dotted.partition(".")
    return int(major), int(minor)


def _allowed(name: str, who: str, what: str, answer: Answer, needed: str) -> Check:
    """Whether the user may: anything but a refusal of the user itself says so."""
    facts = {"status": answer.status}
    if answer.status in {HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED}:
        return fail(
            name,
            f"{who} does not let our user {what} ({answer.status})",
            f"give it {needed}: {_ROLES}",
            **facts,
        )
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        said = f"{who} answers {answer.status}: {answer.quoted()[:200]}"
        return fail(name, said, f"see the log of {who}", **facts)
    return ok(name, f"{who} lets our user {what}", **facts)


def _answered(answer: Answer) -> Answer:
    if answer.ok:
        return answer
    raise ServiceRefusedError(answer.status, answer.quoted()[:200])


class ServiceRefusedError(Exception):
    """A service answers a harmless question with an error."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
