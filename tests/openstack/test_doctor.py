"""The doctor tells a cloud that is set up from one that is not, by its real services."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.catalogs import catalog_of_rules
from harness.client import Cards, Changeover, checks, eventually


def test_a_deployment_that_is_set_up(cards: Cards, changeover: Callable[..., Changeover]) -> None:
    rule = {"source": "cyborg", "model": "simcard", "names": ["*_simcard_*"]}
    deployment = changeover(
        catalog_of_rules(cards, "DOCTOR", all=rule), request_timeout_seconds=60.0
    )
    eventually(lambda: deployment.run("alive", "beat").returncode == 0)
    found = checks(deployment.run("doctor", "--json"))
    failed = {name: check["said"] for name, check in found.items() if check["verdict"] == "fail"}
    # Other tests' failed servers were told to other deployments, or to none.
    failed.pop("notifications.arrive", None)
    assert failed == {}
    well = (
        "keystone", "placement.writes", "nova.lists_servers", "nova.finds_servers", "nova.services",
        "glance.images",
        "cyborg.programs", "devices.missing", "notifications.queue", "clock.compute",
    )  # fmt: skip
    assert {name: found[name]["verdict"] for name in well} == dict.fromkeys(well, "ok")
    assert found["placement.retries"]["verdict"] == "skipped"


@pytest.mark.parametrize(
    ("roles", "may"),
    [
        (("reader",), {"glance", "cyborg"}),
        (("service",), {"placement.reads", "placement.writes", "cyborg"}),
        (("service", "reader"), {"placement.reads", "placement.writes", "glance", "cyborg"}),
    ],
    ids=["reader", "service", "both"],
)
def test_the_roles_that_docs_openstack_names(
    doctor: Callable[[Path], subprocess.CompletedProcess[str]],
    user_with: Callable[..., Path],
    roles: tuple[str, ...],
    may: set[str],
) -> None:
    told = doctor(user_with(*roles))
    found = checks(told)
    asked = ("placement.reads", "placement.writes", "nova.lists_servers", "glance", "cyborg",
             "cyborg.programs")  # fmt: skip
    assert {name for name in asked if found[name]["verdict"] == "ok"} == may
    assert found["keystone"]["facts"]["roles"] == sorted(roles)
    assert told.returncode == 3
