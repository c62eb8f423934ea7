"""Devices and functions of the catalog, and what is known of them between two readings."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import bindparam, func, or_, select, update

from changeover.models.catalog import Catalog, Function
from changeover.models.reasons import Reason
from changeover.models.tables import DeviceRow, FenceRow, FunctionRow, PromiseRow
from changeover.worker.store.session import Session


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """The row of a device.

    ``function`` is what it was last seen or made to offer, ``slots`` and ``used`` as last read,
    ``reserved`` what Placement reserves of them by Changeover's own writing,
    ``generation`` its provider's then. ``offered_until`` is when it was last known to be open to
    the scheduler (``None``: never). ``trouble`` says why it must not be touched, if so.
    ``unserved`` is the changeover that programmed it last, until somebody has used it.
    """

    provider: str
    name: str
    model: str
    host: str
    known: bool
    function: str | None
    slots: int
    used: int
    reserved: int
    generation: int | None
    read_at: float | None
    changed_at: float | None
    offered_until: float | None
    programs: int
    trouble: Reason | None
    unserved: str | None


class Devices:
    """Devices, by provider uuid."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def sync(self, catalog: Catalog) -> None:
        """Make the rows match the catalog; devices that it no longer names stay, unknown."""
        columns = (DeviceRow.provider, DeviceRow.name, DeviceRow.model, DeviceRow.host)
        rows = self.session.rows(select(*columns, DeviceRow.known))
        there = {row["provider"]: dict(row) for row in rows}
        wanted = {
            device.provider: {
                "provider": device.provider,
                "name": device.name,
                "model": device.model,
                "host": device.host,
                "known": True,
            }
            for device in catalog.devices
        }
        self._each(
            update(DeviceRow).where(DeviceRow.provider == bindparam("gone")).values(known=False),
            [{"gone": p} for p, row in there.items() if row["known"] and p not in wanted],
        )
        fresh = {p: values for p, values in wanted.items() if there.get(p) != values}
        self._free_names(there, wanted)
        statement = self.session.insert(DeviceRow)
        described = {key: statement.excluded[key] for key in ("name", "model", "host", "known")}
        self._each(
            statement.on_conflict_do_update(index_elements=[DeviceRow.provider], set_=described),
            [
                {**values, "slots": 0, "used": 0, "reserved": 0, "programs": 0}
                for values in fresh.values()
            ],
        )

    def _each(self, statement: Any, values: list[dict[str, Any]]) -> None:
        """Execute with each of the values, if there are any."""
        if values:
            self.session.connection.execute(statement, values)

    def _free_names(
        self, there: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """A replaced card is a new provider of the same name: the old row gives the name up."""
        taken = {values["name"] for values in wanted.values()}
        for provider, row in there.items():
            if row["name"] in taken and wanted.get(provider, {}).get("name") != row["name"]:
                self.update(provider, name=provider)

    def all(self) -> list[DeviceRecord]:
        """Devices that the catalog knows, by name."""
        rows = self.session.rows(
            select(DeviceRow.__table__).where(DeviceRow.known.is_(True)).order_by(DeviceRow.name)
        )
        return [DeviceRecord(**row) for row in rows]

    def names(self) -> dict[str, str]:
        """What every device is called, by its provider; those that the catalog lost too."""
        rows = self.session.rows(select(DeviceRow.provider, DeviceRow.name))
        return {row["provider"]: row["name"] for row in rows}

    def these(self, providers: Iterable[str]) -> list[DeviceRecord]:
        """The devices of those providers that the catalog knows."""
        rows = self.session.rows(
            select(DeviceRow.__table__).where(
                DeviceRow.known.is_(True), DeviceRow.provider.in_(list(providers))
            )
        )
        return [DeviceRecord(**row) for row in rows]

    def unread(self, limit: int) -> list[str]:
        """Providers that were never read, or not without trouble; the longest unread first."""
        rows = self.session.rows(
            select(DeviceRow.provider)
            .where(
                DeviceRow.known.is_(True),
                or_(DeviceRow.read_at.is_(None), DeviceRow.trouble.is_not(None)),
            )
            .order_by(func.coalesce(DeviceRow.read_at, 0.0), DeviceRow.provider)
            .limit(limit)
        )
        return [row["provider"] for row in rows]

    def ajar(self) -> list[str]:
        """Providers of which Placement reserves another number of slots than boots hold."""
        held = (
            select(func.coalesce(func.sum(PromiseRow.slots), 0))
            .where(PromiseRow.device == DeviceRow.provider, PromiseRow.held_until.is_not(None))
            .scalar_subquery()
        )
        live = select(FenceRow.provider)
        rows = self.session.rows(
            select(DeviceRow.provider).where(
                DeviceRow.known.is_(True),
                DeviceRow.reserved != held,
                DeviceRow.provider.not_in(live),
            )
        )
        return [row["provider"] for row in rows]

    def get(self, name_or_provider: str) -> DeviceRecord | None:
        """The device of that name or provider uuid."""
        row = self.session.row(
            select(DeviceRow.__table__).where(
                (DeviceRow.name == name_or_provider) | (DeviceRow.provider == name_or_provider)
            )
        )
        return None if row is None else DeviceRecord(**row)

    def update(self, provider: str, **facts: Any) -> None:
        """Record what was read or done."""
        self.session.connection.execute(
            update(DeviceRow).where(DeviceRow.provider == provider).values(**facts)
        )

    def learn(self, provider: str, generation: int, **facts: Any) -> None:
        """Record what was read or written at that generation, unless a later one is known.

        A provider's generation only grows, so it puts in order what several workers wrote there,
        whichever of them comes to commit first.
        """
        self.session.connection.execute(
            update(DeviceRow)
            .where(
                DeviceRow.provider == provider,
                or_(DeviceRow.generation.is_(None), DeviceRow.generation <= generation),
            )
            .values(generation=generation, **facts)
        )

    def learn_all(self, learnt: Iterable[tuple[DeviceRecord, Mapping[str, Any]]]) -> None:
        """Record what was read of many, unless somebody who knows better wrote since ``record``.

        Every write of ours to a provider notes its new generation: a row of another generation
        than that of ``record`` is news of a later state than the facts can be.
        """
        alike: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for record, facts in learnt:
            seen = {
                "seen_provider": record.provider,
                "seen_generation": record.generation,
                "seen_function": record.function,
            }
            values = {f"new_{name}": value for name, value in facts.items()}
            alike[tuple(sorted(facts))].append({**values, **seen})
        table = DeviceRow.__table__.c

        def new(name: str) -> Any:
            return bindparam(f"new_{name}", type_=table[name].type)

        def seen_as(name: str) -> Any:
            seen = bindparam(f"seen_{name}", type_=table[name].type)
            return table[name].is_not_distinct_from(seen)

        for columns, all_values in alike.items():
            statement = (
                update(DeviceRow)
                .where(
                    DeviceRow.provider == bindparam("seen_provider"),
                    seen_as("generation"),
                    seen_as("function"),
                )
                .values({name: new(name) for name in columns})
            )
            self._each(statement, all_values)

    def programmed(self, provider: str, changeover: str) -> str | None:
        """Count one more program; returns the changeover whose program served nobody, if so."""
        row = self.session.row(
            select(DeviceRow.unserved).where(DeviceRow.provider == provider).with_for_update()
        )
        self.update(provider, programs=DeviceRow.programs + 1, unserved=changeover)
        undone = None if row is None else row["unserved"]
        return None if undone == changeover else undone


class Functions:
    """Functions, by name."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def sync(self, catalog: Catalog, now: float) -> None:
        """Make the rows match the catalog. A changed artifact lifts a stop."""
        self.session.connection.execute(update(FunctionRow).values(known=False))
        for function in catalog.functions.values():
            definition = function.model_dump(mode="json")
            old = self.session.row(
                select(FunctionRow.definition).where(FunctionRow.name == function.name)
            )
            if old is not None and _shown_as(old["definition"]) != _shown_as(definition):
                self._keep_former(old["definition"], now)
            fresh: dict[str, Any] = {"definition": definition, "known": True, "updated_at": now}
            if old is not None and old["definition"].get("artifact") != definition["artifact"]:
                fresh.update(failed_devices=[], stopped=None)
            values = {"failed_devices": [], "stopped": None, **fresh}
            self.session.connection.execute(
                self.session.insert(FunctionRow)
                .values(name=function.name, **values)
                .on_conflict_do_update(index_elements=[FunctionRow.name], set_=fresh)
            )

        gone = select(FunctionRow.name).where(FunctionRow.known.is_(False))
        self._unread(gone)

    def _keep_former(self, definition: dict[str, Any], now: float) -> None:
        """Remember what devices may still offer: their function is shown otherwise from now on."""
        name = definition["name"]
        digest = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()
        values = {"definition": definition, "known": False, "updated_at": now}
        self.session.connection.execute(
            self.session.insert(FunctionRow)
            .values(name=f"{name[:100]} #{digest[:8]}", failed_devices=[], stopped=None, **values)
            .on_conflict_do_nothing()
        )
        self._unread([name])

    def _unread(self, functions: Any) -> None:
        """Devices that offered these are to be read anew before any of them is touched."""
        self.session.connection.execute(
            update(DeviceRow).where(DeviceRow.function.in_(functions)).values(read_at=None)
        )

    def ever(self) -> list[Function]:
        """All functions that a catalog ever had, once for each way in which Placement shows it."""
        rows = self.session.rows(select(FunctionRow.definition).order_by(FunctionRow.name))
        found = []
        for row in rows:
            with suppress(ValidationError):  # of a release that described functions otherwise
                found.append(Function.model_validate(row["definition"]))
        return found

    def known(self) -> dict[str, dict[str, Any]]:
        """Functions that the catalog knew when it was loaded: each as it stood there, by name."""
        columns = select(FunctionRow.name, FunctionRow.definition)
        rows = self.session.rows(
            columns.where(FunctionRow.known.is_(True)).order_by(FunctionRow.name)
        )
        return {row["name"]: row["definition"] for row in rows}

    def stopped(self) -> dict[str, Reason]:
        """Functions that may not be programmed, and why."""
        rows = self.session.rows(select(FunctionRow.name, FunctionRow.stopped))
        return {row["name"]: row["stopped"] for row in rows if row["stopped"] is not None}

    def failed(self, name: str, device: str, limit: int, now: float) -> Reason | None:
        """The function's artifact failed on a device; the reason if that stops the function.

        ``limit`` different devices without a success in between stop it: then it is the artifact
        that is bad, not the devices.
        """
        row = self.session.row(
            select(FunctionRow.failed_devices, FunctionRow.stopped)
            .where(FunctionRow.name == name)
            .with_for_update()  # else the failures of two devices at once would count as one
        )
        if row is None or row["stopped"] is not None:
            return None if row is None else row["stopped"]
        failed = sorted({*row["failed_devices"], device})
        reason = None
        if len(failed) >= limit:
            reason = Reason(
                "function.stopped",
                f"programming {name} failed on {len(failed)} devices: the artifact is suspect; "
                f"mend it in the catalog, or `changeover functions --allow {name}`",
                {"devices": failed},
            )
        self._set(name, failed_devices=failed, stopped=reason, updated_at=now)
        return reason

    def stop(self, name: str, why: str, now: float) -> None:
        """The function's artifact was refused: no device can have it before somebody mends it."""
        reason = Reason(
            "function.stopped",
            f"the artifact of {name} was refused: {why}; mend it, or correct the catalog, then "
            f"`changeover functions --allow {name}`",
        )
        self._set(name, stopped=reason, updated_at=now)

    def succeeded(self, name: str) -> None:
        """The artifact works."""
        self._set(name, failed_devices=[])

    def allow(self, name: str, now: float) -> None:
        """An operator lifts a stop."""
        self._set(name, failed_devices=[], stopped=None, updated_at=now)

    def _set(self, name: str, **values: Any) -> None:
        self.session.connection.execute(
            update(FunctionRow).where(FunctionRow.name == name).values(**values)
        )


def _shown_as(definition: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """By what Placement shows that a device has the function."""
    return definition.get("resource_class"), sorted(definition.get("traits", ()))


def by_provider(records: Iterable[DeviceRecord]) -> Mapping[str, DeviceRecord]:
    """Records by provider uuid."""
    return {record.provider: record for record in records}
