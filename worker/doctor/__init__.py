"""The doctor: everything checked against what really runs, and what to change. It changes nothing.

Each check is a function of the :class:`~changeover.worker.doctor.site.Site`; several run at once.
What does not answer fails the checks that need it, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from changeover.models.errors import ChangeoverError
from changeover.worker.doctor import aggregates, inventory, messages, own, services
from changeover.worker.doctor.check import Check, Verdict, fail, skipped
from changeover.worker.doctor.services import ServiceRefusedError
from changeover.worker.doctor.site import NothingToLookAtError, Site

__all__ = ["CHECKS", "Check", "Site", "Verdict", "examine"]

AT_ONCE = 8

Examine = Callable[[Site], Iterator[Check]]

CHECKS: tuple[tuple[str, Examine], ...] = (
    ("versions", own.versions),
    ("secrets", own.secrets),
    ("catalog", own.catalog),
    ("database", own.database),
    ("processes", own.processes),
    ("broker", messages.broker),
    ("notifications.queue", messages.notification_queue),
    ("notifications.seen", own.notifications_seen),
    ("notifications.unread", messages.unread_queues),
    ("notifications.arrive", services.notifications_arrive),
    ("keystone", services.keystone),
    ("placement", services.placement),
    ("placement.retries", own.late_allocations),
    ("placement.names", inventory.names),
    ("nova", services.nova),
    ("nova.services", services.compute_services),
    ("nova.aggregates", aggregates.aggregates),
    ("glance", services.glance),
    ("glance.images", inventory.images),
    ("cyborg", services.cyborg),
    ("devices", inventory.devices),
    ("devices.unclear", inventory.rules),
    ("fences.leaked", inventory.leaked_fences),
    ("clock", services.clocks),
)
"""In the order in which they are told. The name is that of a check which could not be made."""


def examine(site: Site) -> list[Check]:
    """All checks, several at once."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="doctor") as pool:
        made = pool.map(lambda named: _made(site, *named), CHECKS)
        return [check for checks in made for check in checks]


def _made(site: Site, name: str, check: Examine) -> list[Check]:
    found: list[Check] = []
    try:
        found.extend(check(site))
    except NothingToLookAtError as exc:
        found.append(skipped(name, str(exc)))
    except ChangeoverError as exc:
        found.append(fail(name, exc.message, "see docs/openstack.md", **_kind(exc)))
    except ServiceRefusedError as exc:
        found.append(fail(name, f"the service answers {exc}", "see its log"))
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        # A service that answers in no documented form must not end the whole examination.
        said = f"the answer is not of the documented form ({type(exc).__name__}: {exc})"
        found.append(fail(name, said, "check that the endpoint is that service's"))
    return found


def _kind(exc: ChangeoverError) -> dict[str, str]:
    return {"error": type(exc).__name__}
