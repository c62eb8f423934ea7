"""A weigher for nova-scheduler: hosts that have the most of a flavor's preferred traits first.

Optional, and the only part of Changeover that runs inside Nova. It needs Nova and this package
alone (``pip install --no-deps changeover``), and this in the scheduler's ``nova.conf``::

    [filter_scheduler]
    weight_classes = nova.scheduler.weights.all_weighers,\
changeover.worker.nova_weigher.PreferredTraitsWeigher

A flavor names what it prefers in its extra spec ``changeover:preferred_traits``; Nova lets it
pass and Placement never sees it. What counts for a host is the best of its allocation candidates:
a trait of a region that is in use counts for nothing. That candidate is also put first, so that
the region which is claimed is the one for which the host was chosen.

A preference must never cost a boot: whatever goes wrong here, all hosts weigh the same. That is
logged once, then again only after it has worked in between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import nova.conf
from nova.scheduler import utils, weights
from nova.scheduler.client import report
from oslo_config import cfg
from oslo_log import log as logging

from changeover.policies.rank import liking, preferred

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

GROUP = "filter_scheduler"
MULTIPLIER = "preferred_traits_weight_multiplier"

KEEP_SECONDS = 5.0
"""How long it is believed which providers have a trait. Traits are hints; a stale one costs
a worse choice at most."""

MOST_TRAITS = 16
"""So many preferred traits are looked at: each costs the scheduler one request."""

_MICROVERSION = "1.18"

CONF.register_opt(
    cfg.FloatOpt(
        MULTIPLIER,
        default=1000.0,
        help="Weight of a host that has all preferred traits of the flavor, of those that any "
        "host has; an aggregate's metadata of the same name overrides it. The default outweighs "
        "Nova's own weighers except those for builds that failed and for other cells.",
    ),
    group=GROUP,
)

Candidate = Mapping[str, Any]


class PreferredTraitsWeigher(weights.BaseHostWeigher):  # type: ignore[misc]  # Nova has no types
    """See the module."""

    minval = 0

    def __init__(self) -> None:
        self._having: dict[str, tuple[float, frozenset[str]]] = {}
        self._failed = False

    def weight_multiplier(self, host_state: Any) -> float:
        """How much the preference counts beside other weighers."""
        configured = getattr(CONF[GROUP], MULTIPLIER)
        return float(utils.get_weight_multiplier(host_state, MULTIPLIER, configured))

    def weigh_objects(self, weighed_obj_list: Sequence[Any], weight_properties: Any) -> list[float]:
        """How many of the preferred traits the best candidate of each host has."""
        try:
            weighed = self._weigh(weighed_obj_list, weight_properties)
        except Exception:  # whatever fails here must not fail a boot
            if not self._failed:
                LOG.exception("preferred traits are not looked at")
            self._failed = True
            return [0.0] * len(weighed_obj_list)
        self._failed = False
        return weighed

    def _weigh_object(self, obj: Any, weight_properties: Any) -> float:
        """One host alone: the base class demands it, Nova asks for all at once."""
        wanted = preferred(weight_properties.flavor.extra_specs)
        return float(self._best_first(obj, self._traits(weight_properties, wanted), wanted))

    def _weigh(self, weighed_obj_list: Sequence[Any], spec: Any) -> list[float]:
        wanted = preferred(spec.flavor.extra_specs)
        if not wanted:
            return [0.0] * len(weighed_obj_list)
        traits = self._traits(spec, wanted)
        return [float(self._best_first(each.obj, traits, wanted)) for each in weighed_obj_list]

    def _best_first(
        self, host: Any, traits: Mapping[str, frozenset[str]], wanted: frozenset[str]
    ) -> int:
        """Put the host's best candidate first; how many preferred traits it has."""

        def likes(candidate: Candidate) -> int:
            providers = {host.uuid, *candidate["allocations"]}
            here = frozenset().union(*(traits.get(uuid, frozenset()) for uuid in providers))
            return liking(here, wanted)

        host.allocation_candidates.sort(key=likes, reverse=True)  # ties keep Placement's order
        if not host.allocation_candidates:  # a rebuild: it stays where it is
            return liking(traits.get(host.uuid, frozenset()), wanted)
        return likes(host.allocation_candidates[0])

    def _traits(self, spec: Any, wanted: frozenset[str]) -> dict[str, frozenset[str]]:
        """The wanted traits that each provider has: one request a trait, whatever the hosts."""
        traits: dict[str, set[str]] = {}
        for trait in sorted(wanted)[:MOST_TRAITS]:
            for uuid in self._providers(spec, trait):
                traits.setdefault(uuid, set()).add(trait)
        return {uuid: frozenset(names) for uuid, names in traits.items()}

    def _providers(self, spec: Any, trait: str) -> frozenset[str]:
        now = time.monotonic()
        until, having = self._having.get(trait, (now, frozenset()))
        if now < until:
            return having
        having = _ask(spec, trait)
        if len(self._having) >= 10 * MOST_TRAITS:  # extra specs are users' input
            self._having.clear()
        self._having[trait] = (now + KEEP_SECONDS, having)
        return having


def _ask(spec: Any, trait: str) -> frozenset[str]:
    answer = report.report_client_singleton().get(
        f"/resource_providers?required={quote(trait, safe='')}",
        version=_MICROVERSION,
        global_request_id=spec._context.global_id,  # noqa: SLF001 - as Nova's own weighers do
    )
    if answer.status_code == HTTPStatus.BAD_REQUEST:  # Placement knows no such trait
        return frozenset()
    if answer.status_code != HTTPStatus.OK:
        raise RuntimeError(f"Placement answered {answer.status_code} for providers with {trait}")
    return frozenset(provider["uuid"] for provider in answer.json()["resource_providers"])
