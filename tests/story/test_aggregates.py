"""Zones, projects and isolation: hosts that Nova's scheduler rules out are not programmed for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from story.world import Cloud

from changeover.models.boot import Boot
from changeover.models.errors import AskOperator, ChangeoverError, Unreachable
from changeover.models.states import BootState
from changeover.worker.demand import classes_of
from changeover.worker.judge import preview

LIMITED = {"limit_tenants_to_placement_aggregate": True}
ISOLATING = {"enable_isolated_aggregate_filtering": True}


def aggregate(cloud: Cloud, host: str, **metadata: str) -> None:
    """A host aggregate with one host; in keys, ``__`` stands for ``:``."""
    uuid, root = str(uuid4()), cloud.shape.uuid(host)
    cloud.placement.put_aggregates(root, cloud.placement.state(root).generation, [uuid])
    cloud.servers.set_aggregate(uuid, {k.replace("__", ":"): v for k, v in metadata.items()})


def outcome(cloud: Cloud) -> list[Boot]:
    """Let everything happen, and look at it; all boots, in order of their ids."""
    cloud.calm()
    cloud.checker.finally_()
    cloud.checker.check()
    return boots(cloud)


def boots(cloud: Cloud) -> list[Boot]:
    with cloud.database.read() as tx:
        return tx.boots.in_states(list(BootState))


def programmed(cloud: Cloud) -> list[str]:
    """The hosts of the devices that were programmed."""
    with cloud.database.read() as tx:
        return [done.host for done in tx.changeovers.latest()]


def test_only_hosts_of_the_zone_are_programmed_for(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        first, second = cloud.shape.host_names[:2]
        cloud.servers.set_host(first, zone="blue")
        cloud.servers.set_host(second, zone="green")
        aggregate(cloud, second, availability_zone="green")
        cloud.fail_boot("fpga.regex", availability_zone="green")
        (boot,) = outcome(cloud)
        assert boot.state is BootState.BOOTED
        assert programmed(cloud) == [second]


def test_only_hosts_of_the_project_are_programmed_for(tmp_path: Path) -> None:
    with Cloud(tmp_path, **LIMITED) as cloud:
        first, second = cloud.shape.host_names[:2]
        aggregate(cloud, second, filter_tenant_id="demo")
        aggregate(cloud, first, filter_tenant_id__2="other")
        cloud.fail_boot("fpga.regex", project="other")
        cloud.fail_boot("fpga.regex", project="demo")
        # The same flavor, and not the same verdict.
        classes = classes_of(cloud.worker("a").world, boots(cloud))
        assert sorted(boot.project for (boot,) in classes) == ["demo", "other"]
        assert {boot.state for boot in outcome(cloud)} == {BootState.BOOTED}
        hosts = {s.project: s.host for s in cloud.servers.servers() if s.host is not None}
        assert hosts == {"demo": second, "other": first}
        assert sorted(programmed(cloud)) == [first, second]


def test_projects_share_a_verdict_where_nova_treats_them_alike(tmp_path: Path) -> None:
    with Cloud(tmp_path) as cloud:
        cloud.fail_boot("fpga.regex", project="one")
        cloud.fail_boot("fpga.regex", project="two")
        assert len(classes_of(cloud.worker("a").world, boots(cloud))) == 1


def test_a_project_without_an_aggregate_where_each_needs_one(tmp_path: Path) -> None:
    with Cloud(tmp_path, placement_aggregate_required_for_tenants=True, **LIMITED) as cloud:
        aggregate(cloud, cloud.shape.host_names[0], filter_tenant_id="other")
        cloud.fail_boot("fpga.regex")
        cloud.worker("a").judge()
        (boot,) = boots(cloud)
        assert boot.reason.code == "demand.tenant_without_aggregate"
        assert boot.state is BootState.DECLINED
        assert not programmed(cloud)


def test_isolated_hosts_are_programmed_for_whom_they_are_there_for(tmp_path: Path) -> None:
    with Cloud(tmp_path, **ISOLATING) as cloud:
        first, second = cloud.shape.host_names[:2]
        aggregate(cloud, first, trait__CUSTOM_LICENSED="required")
        cloud.fail_boot("fpga.regex")
        (boot,) = outcome(cloud)
        assert boot.state is BootState.BOOTED
        assert programmed(cloud) == [second]


def test_where_all_are_isolated_it_is_said(tmp_path: Path) -> None:
    with Cloud(tmp_path, patience_seconds=30.0, **ISOLATING) as cloud:
        for host in cloud.shape.host_names:
            aggregate(cloud, host, trait__CUSTOM_LICENSED="required")
        cloud.fail_boot("fpga.regex")
        (boot,) = outcome(cloud)
        assert boot.state is BootState.EXPIRED
        assert not programmed(cloud)
        (diagnosis,) = preview(cloud.worker("a").world, [boot]).diagnoses.values()
        assert diagnosis.relaxing == (("no aggregate that wants traits it does not ask for",),)
        assert set(diagnosis.obstacles[0].hosts) == set(cloud.shape.host_names)


@pytest.mark.parametrize(
    ("settings", "error", "code"),
    [
        ({}, Unreachable("nobody there"), "demand.nova_silent"),
        (ISOLATING, Unreachable("nobody there"), "demand.nova_silent"),
        (ISOLATING, AskOperator("403"), "demand.aggregates_hidden"),
        (LIMITED, AskOperator("403"), "demand.aggregates_hidden"),
    ],
)
def test_without_the_aggregates_nothing_is_decided(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, bool],
    error: ChangeoverError,
    code: str,
) -> None:
    with Cloud(tmp_path, **settings) as cloud:
        cloud.fail_boot("fpga.regex", availability_zone="green")

        def silent() -> Sequence[object]:
            raise error

        monkeypatch.setattr(cloud.servers, "aggregates", silent)
        cloud.worker("a").judge()
        (boot,) = boots(cloud)
        assert (boot.state, boot.reason.code) == (BootState.WAITING, code)
        assert not programmed(cloud)
