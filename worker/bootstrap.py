"""The one place that names concrete adapters: settings in, a world out."""

from __future__ import annotations

import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from changeover.models.catalog import Catalog, CommandProgrammer, CyborgProgrammer
from changeover.models.errors import AskOperator, Invalid, Unreachable
from changeover.worker.adapters.clock import SystemClock
from changeover.worker.circuit import guarded
from changeover.worker.ports.accelerators import Accelerators
from changeover.worker.ports.clock import Clock
from changeover.worker.ports.placement import PlacementTenant
from changeover.worker.ports.programmer import Programmer
from changeover.worker.ports.requester import Requester
from changeover.worker.ports.reservations import Reservations
from changeover.worker.ports.servers import Servers
from changeover.worker.ports.webhook import Webhook
from changeover.worker.settings import Settings
from changeover.worker.store import Database
from changeover.worker.world import World

if TYPE_CHECKING:
    from changeover.worker.adapters.cyborg_http import CyborgClient
    from changeover.worker.adapters.service_http import HttpService, Timeouts
    from changeover.worker.doctor.site import CloudUser, Site
    from changeover.worker.simulator.cards import SimulatedCards
    from changeover.worker.simulator.servers import SimulatedServers

_lock = threading.Lock()
_worlds: dict[int, World] = {}
_found: dict[int, tuple[World, int, World]] = {}


ENDPOINTS = "endpoints.json"


def write_endpoints(settings: Settings) -> None:
    """Leave a note where the embedded services are, for commands run beside `changeover up`."""
    path = settings.state_dir / ENDPOINTS
    note = {
        "broker_url": broker_url(settings),
        "placement_endpoint": settings.placement_endpoint,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(note), encoding="utf-8")


def _noted(settings: Settings, name: str) -> str:
    """An embedded service's address; raises :class:`Unreachable` if none was started."""
    path = settings.state_dir / ENDPOINTS
    try:
        value = json.loads(path.read_text(encoding="utf-8")).get(name)
    except (OSError, ValueError):
        value = None
    if not isinstance(value, str):
        raise Unreachable(
            f"no {name} is configured and no `changeover up` runs on {settings.state_dir}: start "
            f"one, or set {name}"
        )
    return value


def broker_url(settings: Settings) -> str:
    """Where Celery's messages go. Raises :class:`Unreachable` if nobody says where."""
    return settings.broker or _noted(settings, "broker_url")


def notification_url(settings: Settings) -> str:
    """Where Nova's notifications arrive."""
    return settings.notifications or broker_url(settings)


def open_database(settings: Settings) -> Database:
    """The database; the directory of an SQLite file is made."""
    url = settings.database
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return Database(url, settings.callback_target)


def require_database(settings: Settings) -> None:
    """Raise :class:`AskOperator` where an SQLite file is missing: looking must not make one."""
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - see below
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415 - see below

    try:
        url = make_url(settings.database)
    except (ArgumentError, ValueError):
        return  # opening it says what is wrong
    file = url.database or ""
    if url.get_backend_name() != "sqlite" or file in {"", ":memory:"} or Path(file).exists():
        return
    raise AskOperator(
        f"there is no database at {file}: start `changeover up`, or make it with "
        "`changeover db upgrade`; another place is named with database_url or state_dir"
    )


def load_catalog(settings: Settings) -> Catalog:
    """The catalog that the settings name; the embedded fleet's by default."""
    from changeover.worker.catalog_file import load_catalog_file  # noqa: PLC0415 - YAML is slow

    path = settings.catalog or settings.state_dir / "catalog.yaml"
    if not path.is_file():
        raise Invalid(
            f"{path}: no such catalog; name one with `catalog` in changeover.toml or "
            "CHANGEOVER_CATALOG (`changeover up` makes one for the embedded cloud)"
        )
    return load_catalog_file(path)


WHOLE_ANSWER = 6
"""Times the longest silence of a service that an answer which keeps coming may take."""


def _limits(settings: Settings) -> Timeouts:
    """How long to wait for a service of the cloud."""
    from changeover.worker.adapters.service_http import Timeouts  # noqa: PLC0415 - see above

    silence = settings.request_timeout_seconds
    return Timeouts(read=silence, total=WHOLE_ANSWER * silence)


def open_placement(settings: Settings) -> PlacementTenant:
    """Placement of the named cloud, or the embedded one."""
    from changeover.worker.adapters.placement_http import (  # noqa: PLC0415 - see above
        HttpPlacement,
    )

    limits = _limits(settings)
    if settings.cloud is not None:
        return HttpPlacement.from_cloud(settings.cloud, timeouts=limits)
    endpoint = settings.placement_endpoint or _noted(settings, "placement_endpoint")
    return HttpPlacement.noauth(endpoint, timeouts=limits)


def open_servers(settings: Settings, placement: PlacementTenant, clock: Clock) -> Servers:
    """The servers of the cloud: Nova's, or simulated ones."""
    if settings.embedded_cloud:
        return open_simulated_servers(settings, placement, clock)
    from changeover.worker.adapters.servers_nova import NovaServers  # noqa: PLC0415 - see above

    return NovaServers.from_cloud(
        settings.cloud,
        clock,
        longest_request_seconds=settings.longest_request_seconds,
        timeouts=_limits(settings),
    )


def open_accelerators(settings: Settings, catalog: Catalog) -> Accelerators | None:
    """The Cyborg of the named cloud, or the embedded one."""
    if settings.embedded_cloud:
        from changeover.worker.simulator.accelerators import (  # noqa: PLC0415 - see above
            SimulatedAccelerators,
        )

        return SimulatedAccelerators(lambda: catalog)
    return None if settings.cloud is None else open_cyborg(settings)


def open_cyborg(settings: Settings) -> CyborgClient:
    """The Cyborg of the named cloud."""
    from changeover.worker.adapters.cyborg_http import CyborgClient  # noqa: PLC0415 - see above

    limits = _limits(settings)
    return CyborgClient.from_cloud(settings.cloud, timeouts=limits)


def open_simulated_servers(
    settings: Settings, placement: PlacementTenant, clock: Clock
) -> SimulatedServers:
    """The embedded cloud's Nova, publishing its notifications where ours are listened to."""
    from changeover.worker.simulator.accelerators import (  # noqa: PLC0415 - see above
        SimulatedAccelerators,
    )
    from changeover.worker.simulator.servers import SimulatedServers  # noqa: PLC0415 - see above
    from changeover.worker.simulator.wire import KombuEmitter  # noqa: PLC0415 - see above

    emit = KombuEmitter(notification_url(settings), exchange=settings.notification_exchange)
    return SimulatedServers(
        settings.state_dir / "servers.sqlite",
        placement,
        clock,
        emit,
        accelerators=SimulatedAccelerators(lambda: load_catalog(settings)),
    )


def open_requester(
    settings: Settings, *, cloud: str | None, project: str | None, user: str | None
) -> Requester:
    """Whoever asks for servers: somebody of clouds.yaml, else the service user for others."""
    if settings.embedded_cloud:
        if cloud is not None:
            raise Invalid("--os-cloud: the simulated cloud has no Keystone; use --project, --user")
        from changeover.worker.simulator.requester import (  # noqa: PLC0415 - see above
            SimulatedRequester,
        )

        servers = open_simulated_servers(settings, open_placement(settings), SystemClock())
        return SimulatedRequester(servers, project or "demo", user or "alice")
    from changeover.worker.adapters.requester_openstack import (  # noqa: PLC0415 - see above
        OpenStackRequester,
        ServiceRequester,
    )

    limits = _limits(settings)
    service = settings.cloud or ""
    if cloud is not None:
        return OpenStackRequester(
            cloud, trustee_cloud=service, roles=settings.trust_roles, timeouts=limits
        )
    if project is None:
        raise Invalid(
            "say in whose name: --os-cloud NAME (you, as in clouds.yaml), or as an operator "
            "--project ID and --user ID"
        )
    servers_port = open_servers(settings, open_placement(settings), SystemClock())
    return ServiceRequester(service, servers_port.authority, project, user, timeouts=limits)


def open_reservations(settings: Settings) -> Reservations:
    """The Blazar of the named cloud, or the embedded one's leases."""
    if settings.embedded_cloud:
        from changeover.worker.adapters.reservations_simulated import (  # noqa: PLC0415 - see above
            SimulatedReservations,
        )

        return SimulatedReservations(settings.state_dir / "leases.json")
    from changeover.worker.adapters.reservations_blazar import (  # noqa: PLC0415 - see above
        BlazarReservations,
    )

    limits = _limits(settings)
    return BlazarReservations.from_cloud(settings.cloud, timeouts=limits)


def open_webhook(settings: Settings) -> Webhook:
    """How callbacks are sent."""
    from changeover.worker.adapters.webhook_http import HttpWebhook  # noqa: PLC0415 - see above

    return HttpWebhook(settings.request_timeout_seconds)


def open_cards(settings: Settings, clock: Clock) -> SimulatedCards:
    """The embedded cloud's cards."""
    from changeover.worker.simulator.cards import SimulatedCards  # noqa: PLC0415 - see above

    return SimulatedCards(settings.state_dir / "cards", clock=clock)


def open_programmers(settings: Settings, catalog: Catalog, clock: Clock) -> dict[str, Programmer]:
    """The drivers that the catalog names."""
    from changeover.worker.adapters.programmer_command import (  # noqa: PLC0415 - see above
        CommandDriver,
    )
    from changeover.worker.adapters.programmer_simulated import (  # noqa: PLC0415 - see above
        SimulatedDriver,
    )

    drivers: dict[str, Programmer] = {}
    for name, programmer in catalog.programmers.items():
        if isinstance(programmer, CommandProgrammer):
            drivers[name] = CommandDriver(programmer, catalog)
        elif isinstance(programmer, CyborgProgrammer):
            drivers[name] = open_cyborg_driver(settings, programmer, catalog)
        else:
            drivers[name] = SimulatedDriver(open_cards(settings, clock), catalog)
    return drivers


def open_cyborg_driver(
    settings: Settings, programmer: CyborgProgrammer, catalog: Catalog
) -> Programmer:
    """The driver that programs through the named cloud's Cyborg."""
    from changeover.worker.adapters.glance_http import GlanceImages  # noqa: PLC0415 - see above
    from changeover.worker.adapters.programmer_cyborg import (  # noqa: PLC0415 - see above
        CyborgDriver,
    )

    if settings.cloud is None:
        raise Invalid(
            "a programmer of kind cyborg needs a cloud: name one of clouds.yaml in `cloud`"
        )
    images = GlanceImages.from_cloud(
        settings.cloud,
        most_bytes=programmer.largest_image_bytes,
        timeouts=_limits(settings),
    )
    return CyborgDriver(programmer, open_cyborg(settings), images, catalog)


def open_site(settings: Settings) -> Site:
    """What the doctor examines. Nothing is connected before it is looked at."""
    from changeover.worker.adapters.service_http import (  # noqa: PLC0415 - see above
        HttpService,
        open_region,
    )
    from changeover.worker.doctor.site import CloudUser, Site  # noqa: PLC0415 - the doctor's alone

    limits = _limits(settings)
    region = cache(lambda: open_region(settings.cloud))  # one session: one token for all

    def api(service_type: str) -> HttpService | None:
        if settings.cloud is not None:
            return HttpService.of_region(service_type, service_type, *region(), timeouts=limits)
        if service_type != "placement":
            return None
        endpoint = settings.placement_endpoint or _noted(settings, "placement_endpoint")
        token = "admin"  # noqa: S105 - what noauth2 takes for an administrator; not a secret
        return HttpService.noauth("Placement", service_type, endpoint, token=token, timeouts=limits)

    def user() -> CloudUser | None:
        if settings.cloud is None:
            return None
        return CloudUser(*HttpService.of_region("Keystone", "identity", *region()).user())

    def database() -> Database:
        require_database(settings)
        return open_database(settings)

    return Site(
        settings=settings,
        clock=SystemClock(),
        open_catalog=lambda: load_catalog(settings),
        open_database=database,
        open_placement=lambda: open_placement(settings),
        open_api=api,
        open_user=user,
        broker=lambda: broker_url(settings),
        notifications=lambda: notification_url(settings),
    )


def make_world(settings: Settings) -> World:
    """A world of the settings' adapters. Nothing is connected before it is used."""
    clock = SystemClock()
    catalog = load_catalog(settings)
    database = open_database(settings)
    placement = open_placement(settings)
    servers = open_servers(settings, placement, clock)
    accelerators = open_accelerators(settings, catalog)
    if accelerators is not None:
        accelerators = guarded(accelerators, "Cyborg", clock, database)
    return World(
        database=database,
        placement=guarded(placement, "Placement", clock, database),
        servers=guarded(servers, "Nova", clock, database),
        programmers=open_programmers(settings, catalog, clock),
        clock=clock,
        catalog=catalog,
        settings=settings,
        owner=f"{socket.gethostname()[:24]}:{os.getpid()}:{uuid4().hex[:8]}",
        pool=ThreadPoolExecutor(settings.concurrent_reads, thread_name_prefix="read"),
        accelerators=accelerators,
    )


def the_world(settings: Settings) -> World:
    """This process's world, made at first use, with hints sent by Celery."""
    with _lock:
        world = _worlds.get(os.getpid())
        if world is None:
            from changeover.worker.celery_app import make_app  # noqa: PLC0415 - it imports this
            from changeover.worker.courier import Courier  # noqa: PLC0415 - see above

            world = make_world(settings)
            world.database.courier = Courier(make_app(settings), world.clock)
            _worlds.clear()
            _worlds[os.getpid()] = world
        return as_found(world)


def as_found(world: World) -> World:
    """The world with the devices that rules have found, as the database has them now.

    Looked at once a task: what a task began with it keeps. They are read anew only when they have
    changed.
    """
    if not world.catalog.discover:
        return world
    with world.database.read() as tx:
        revision = tx.discovered.revision()
        known = _found.get(os.getpid())
        if known is not None and known[0] is world and known[1] == revision:
            return known[2]
        devices = tx.discovered.devices()
    found = world.with_found(devices)
    found = replace(found, programmers=open_programmers(world.settings, found.catalog, world.clock))
    _found.clear()
    _found[os.getpid()] = (world, revision, found)
    return found


def close_world() -> None:
    """Forget the world; connections of this process are closed."""
    with _lock:
        world = _worlds.pop(os.getpid(), None)
        _worlds.clear()
        _found.clear()
    if world is not None:
        if world.pool is not None:
            world.pool.shutdown(wait=False, cancel_futures=True)
        world.database.dispose()
