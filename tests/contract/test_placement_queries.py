"""What we ask of Placement for a server is what nova-scheduler asked for it.

Recorded: flavors, images and places, each with the queries of Nova 34's own scheduler.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from changeover.models.aggregate import Aggregate
from changeover.models.flavor import Destination, Flavor, Image, ImageProperties, RequestSpec
from changeover.models.placement import Candidates, ResourceRequest
from changeover.policies.aggregates import within
from changeover.policies.device_profile import profile_groups, with_profile
from changeover.policies.request import request_of_spec
from changeover.worker.adapters.placement_http import HttpPlacement
from changeover.worker.adapters.service_http import Answer, HttpService

DATA = json.loads((Path(__file__).parents[1] / "data" / "placement_queries.json").read_text())
OWNER = "OWNER_NOVA"
"""What Nova adds where all its computes are new enough; every host of Nova's has it."""


class Recorder(HttpService):
    """Notes the queries, and answers that there is nothing."""

    def __init__(self) -> None:
        self.queries: list[list[tuple[str, str]]] = []

    def request(self, method: str, path: str, **of: Any) -> Answer:
        if path == "/":
            body: Any = {"versions": [{"min_version": "1.0", "max_version": "1.39"}]}
        elif path == "/resource_providers":
            (name,) = (value for key, value in of["query"] if key == "name")
            uuid = DATA["hosts"][name]
            facts = {"uuid": uuid, "name": name, "generation": 1, "parent_provider_uuid": None}
            body = {"resource_providers": [{**facts, "root_provider_uuid": uuid}]}
        else:
            assert path == "/allocation_candidates"
            self.queries.append(list(of["query"]))
            body = {"allocation_requests": [], "provider_summaries": {}}
        return Answer(
            call=f"{method} {path}",
            writes=False,
            status=200,
            body=json.dumps(body).encode(),
            headers={},
        )


def request_of(case: dict[str, Any]) -> ResourceRequest:
    """As a notification tells of it, with the device profile and the zone resolved."""
    zone, colon, host = case["where"].get("availability_zone", "").partition(":")
    asked_host = case["where"].get("host")
    single = {k: v for k, v in case["image"].items() if not k.startswith("trait:")}
    traits = tuple(k.removeprefix("trait:") for k in case["image"] if k.startswith("trait:"))
    spec = RequestSpec(
        flavor=Flavor.model_validate(case["flavor"]),
        image=Image(
            id="i",
            disk_format=case.get("disk_format", "raw"),
            properties=ImageProperties.model_validate({**single, "traits_required": traits}),
        ),
        availability_zone=zone if zone and not colon else None,
        force_hosts=(host,) if host else (),
        requested_destination=Destination(host=asked_host) if asked_host else None,
    )
    asked = request_of_spec(spec, case.get("filters", ()))
    request = asked.request
    if asked.device_profile is not None:
        groups = profile_groups(asked.device_profile, DATA["profiles"][asked.device_profile])
        request = with_profile(request, groups)
    there = [Aggregate(uuid, metadata) for uuid, metadata in case.get("aggregates", {}).items()]
    return within(request, there, project=case.get("project"), isolating=True)


def normal(query: list[tuple[str, str]]) -> list[tuple[str, frozenset[str]]]:
    """Without an order, the limit and the owner; an ``in_tree`` of one group is one of all.

    All groups of a candidate are of one tree, so that it says the same in each.
    """
    found = []
    for key, value in query:
        if key == "limit":
            continue
        name = "in_tree" if key.startswith("in_tree") else key
        parts = frozenset(value.split(",")) - {OWNER}
        if parts and (name, parts) not in found:
            found.append((name, parts))
    return sorted(found, key=lambda pair: (pair[0], sorted(pair[1])))


@pytest.mark.parametrize("case", DATA["cases"], ids=lambda case: case["name"])
def test_we_ask_as_nova_does(case: dict[str, Any]) -> None:
    recorder = Recorder()
    placement = HttpPlacement(recorder)
    request = request_of(case)
    unpinned = request.unpinned()
    for each in (request, *([] if unpinned is None else [unpinned])):
        assert placement.candidates(each, 1000) == Candidates((), {})
    theirs = [normal([(key, value) for key, value in asked]) for asked in case["asked"]]
    assert [normal(query) for query in recorder.queries] == theirs


def test_the_recordings_cover_every_form() -> None:
    keys = {key for case in DATA["cases"] for asked in case["asked"] for key, _ in asked}
    assert {"resources", "resources1", "resources_CRYPT", "resourcesdevice_profile_1"} <= keys
    assert {"required", "required1", "root_required", "member_of", "in_tree"} <= keys
    assert "group_policy" in keys
    assert len(DATA["cases"]) >= 25
