"""Names for the shell's completion. It never fails and never prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from changeover.console.desk import Desk

if TYPE_CHECKING:
    from changeover.worker.store.devices import DeviceRecord

MOST = 200


def _matching(names: Callable[[Desk], Iterable[str]], incomplete: str) -> list[str]:
    from changeover.console.desk import quiet

    quiet()
    desk = Desk()
    try:
        return [name for name in names(desk) if name.startswith(incomplete)][:MOST]
    except Exception:  # noqa: BLE001 - a shell's line is no place for any error
        return []
    finally:
        desk.close()


def _devices(desk: Desk) -> list[DeviceRecord]:
    with desk.database.read() as tx:
        return tx.devices.all()


def devices(incomplete: str) -> list[str]:
    """Devices that are known."""
    return _matching(lambda desk: [d.name for d in _devices(desk)], incomplete)


def hosts(incomplete: str) -> list[str]:
    """Hosts of known devices."""
    return _matching(lambda desk: sorted({d.host for d in _devices(desk)}), incomplete)


def functions(incomplete: str) -> list[str]:
    """Functions that are known."""

    def names(desk: Desk) -> Iterable[str]:
        with desk.database.read() as tx:
            return tx.functions.known()

    return _matching(names, incomplete)


def boots(incomplete: str) -> list[str]:
    """Unfinished boots first, then finished ones."""

    def names(desk: Desk) -> list[str]:
        with desk.database.read() as tx:
            found = tx.boots.listed(over=False, limit=MOST) + tx.boots.listed(over=True, limit=MOST)
        return [boot.id for boot in found]

    return _matching(names, incomplete)


def changeovers(incomplete: str) -> list[str]:
    """The newest changeovers."""

    def names(desk: Desk) -> list[str]:
        with desk.database.read() as tx:
            return [c.id for c in tx.changeovers.latest(MOST)]

    return _matching(names, incomplete)


def tasks(incomplete: str) -> list[str]:
    """Queued tasks."""

    def names(desk: Desk) -> list[str]:
        with desk.database.read() as tx:
            return [t.id for t in tx.tasks.all(queued_only=True)]

    return _matching(names, incomplete)


def plans(incomplete: str) -> list[str]:
    """Plans that wait for a person first."""

    def names(desk: Desk) -> list[str]:
        with desk.database.read() as tx:
            waiting = [p["id"] for p in tx.plans.open()]
            return list(dict.fromkeys([*waiting, *(p["id"] for p in tx.plans.latest(MOST))]))

    return _matching(names, incomplete)


def subjects(incomplete: str) -> list[str]:
    """Whatever can be explained."""
    return [*devices(incomplete), *boots(incomplete), *changeovers(incomplete), *tasks(incomplete)]


def cancellable(incomplete: str) -> list[str]:
    """Whatever can be cancelled."""
    return [*tasks(incomplete), *boots(incomplete), *changeovers(incomplete)]


def policies(incomplete: str) -> list[str]:
    """Policies that can be backtested."""
    from changeover.console.policies import names

    return [name for name in names() if name.startswith(incomplete)]
