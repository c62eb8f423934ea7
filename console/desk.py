"""What commands work with, opened when it is first used and not before."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from changeover.models.catalog import Catalog
    from changeover.worker.operate import Operator
    from changeover.worker.ports.clock import Clock
    from changeover.worker.ports.placement import PlacementTenant
    from changeover.worker.ports.servers import Servers
    from changeover.worker.settings import Settings
    from changeover.worker.store import Database
    from changeover.worker.world import World

NAME_CHARACTERS = 64


def operator_name() -> str:
    """Who is at the controls, for the audit."""
    import getpass

    try:
        name = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user without a name: as in many containers
        name = f"uid {os.getuid()}"
    return name[:NAME_CHARACTERS]


class Desk:
    """Opens settings, database, catalog and Placement for one command."""

    @cached_property
    def settings(self) -> Settings:
        """The settings in force."""
        from changeover.worker.settings import load_settings

        return load_settings()

    @cached_property
    def clock(self) -> Clock:
        """The real time."""
        from changeover.worker.adapters.clock import SystemClock

        return SystemClock()

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog, with what its rules found; raises ``Invalid`` with all its problems."""
        from changeover.worker.bootstrap import load_catalog

        catalog = load_catalog(self.settings)
        if not catalog.discover:
            return catalog
        with self.database.read() as tx:
            return catalog.with_found(tx.discovered.devices())

    @cached_property
    def database(self) -> Database:
        """The database, of this version's schema and reachable."""
        from changeover.worker.bootstrap import open_database, require_database
        from changeover.worker.migrate import require_current

        require_database(self.settings)
        database = open_database(self.settings)
        with database.read():
            pass  # one that cannot be reached says so here, by its own family of errors
        require_current(database)
        return database

    @cached_property
    def operator(self) -> Operator:
        """A person at the controls; what is asked for is hinted to the workers at once."""
        from changeover.worker.operate import Operator

        return Operator(self.sending_database, lambda: self.catalog, self.clock, operator_name())

    @cached_property
    def device_names(self) -> Mapping[str, str]:
        """What devices are called, by provider: as stored, so that no catalog is needed."""
        with self.database.read() as tx:
            return tx.devices.names()

    @cached_property
    def sending_database(self) -> Database:
        """The database with a courier, if a broker is known; else the sweep sends the hints."""
        from changeover.models.errors import Unreachable
        from changeover.worker.celery_app import make_app
        from changeover.worker.courier import Courier

        database = self.database
        try:
            database.courier = Courier(make_app(self.settings), self.clock)
        except Unreachable:
            database.courier = None
        return database

    @property
    def unsent(self) -> str | None:
        """What to tell a person if the workers were not told at once."""
        courier = self.sending_database.courier
        silent = courier is None or getattr(courier, "silent_until", 0.0) > self.clock.now()
        if not silent:
            return None
        return (
            "stored; no broker answers, so the workers' sweep takes it up "
            f"(every {self.settings.sweep_seconds:g} s while they run)"
        )

    @cached_property
    def placement(self) -> PlacementTenant:
        """Placement, reachable; raises ``Unreachable`` that says what to look at."""
        from changeover.models.errors import ChangeoverError, Unreachable
        from changeover.worker.bootstrap import open_placement

        placement = open_placement(self.settings)
        try:
            placement.providers(name="changeover-looks-whether-it-answers")
        except ChangeoverError as exc:
            cloud = self.settings.cloud
            named = f"of cloud {cloud}" if cloud else self.settings.placement_endpoint
            named = f"Placement {named or 'of `changeover up`'}"
            look = "the cloud's entry in clouds.yaml" if cloud else "placement_endpoint"
            if not isinstance(exc, Unreachable):
                said = f"{named}: {exc.message}: check that {look} is right"
                raise type(exc)(said, **exc.facts) from exc
            raise Unreachable(
                f"{named} does not answer: check that it runs and that {look} is right "
                f"({exc.message.partition(': HTTP')[0]})"
            ) from exc
        return placement

    @cached_property
    def planning_world(self) -> World:
        """A world to preview in: it reads Placement and the database, and creates nothing."""
        from concurrent.futures import ThreadPoolExecutor

        return replace(
            self.remembering_world,
            placement=self.placement,
            pool=ThreadPoolExecutor(self.settings.concurrent_reads),
        )

    @cached_property
    def remembering_world(self) -> World:
        """A world that knows only what is recorded: it asks neither Placement nor Nova."""
        from changeover.worker.bootstrap import open_accelerators
        from changeover.worker.world import World

        return World(
            database=self.database,
            placement=cast("PlacementTenant", None),
            # The console neither creates servers nor programs devices.
            servers=cast("Servers", None),
            programmers={},
            clock=self.clock,
            catalog=self.catalog,
            settings=self.settings,
            owner=f"console:{os.getpid()}",
            accelerators=open_accelerators(self.settings, self.catalog),
        )

    def look(self) -> dict[str, int]:
        """Find what devices came and went, and read every one of them from Placement."""
        from changeover.models.errors import Busy
        from changeover.worker.refresh import look

        looked = look(self.planning_world, full=True)
        if not looked:
            raise Busy("the workers are reading the devices just now: try again in a minute")
        self._close_pool()
        for name in ("catalog", "remembering_world", "planning_world"):  # there may be others
            self.__dict__.pop(name, None)
        return looked

    def close(self) -> None:
        """Close what was opened."""
        self._close_pool()
        if "database" in self.__dict__:
            self.database.dispose()

    def _close_pool(self) -> None:
        if "planning_world" in self.__dict__ and self.planning_world.pool is not None:
            self.planning_world.pool.shutdown(wait=False, cancel_futures=True)


def quiet() -> None:
    """A command answers by itself: its libraries' logs would only stand in between."""
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger().addHandler(logging.NullHandler())
