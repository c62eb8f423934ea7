"""What Nova's scheduler asks of Placement for the cases of ``tests/data/placement_queries.json``.

    PYTHON_OF_A_NOVA tests/tools/ask_as_nova.py CASES.json > CASES_WITH_ASKED.json

Nova's own request filters and requests do it, on its own API database (in SQLite, with each case's
aggregates). Only that all computes are new enough is said, not looked up; forced hosts, which take
a cell, are left as they are.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl
from uuid import uuid4

import nova.conf
import sqlalchemy as sa
from nova import config, context, objects
from nova.accelerator import cyborg
from nova.db import migration
from nova.db.api import api as database
from nova.scheduler import request_filter, utils

CONF = nova.conf.CONF

ALWAYS = ("enable_isolated_aggregate_filtering", "limit_tenants_to_placement_aggregate")
"""Options that mean nothing where no aggregate has the metadata that they are about."""

PER_CASE = ("query_placement_for_image_type_support", "image_metadata_prefilter")


def asked(case: dict[str, Any], profiles: dict[str, Any]) -> list[list[list[str]]]:
    """The first query; the second one, where CPUs are dedicated, stays as it was recorded."""
    who = context.RequestContext("user", case.get("project", "somebody"))
    for option in PER_CASE:
        CONF.set_override(option, option in case.get("filters", ()), "scheduler")
    _aggregates(who, case.get("aggregates", {}))
    specs = case["flavor"]["extra_specs"]
    flavor = objects.Flavor(
        who, id=1, flavorid="f", rxtx_factor=1.0, is_public=True, vcpu_weight=0, disabled=False,
        **case["flavor"],
    )  # fmt: skip
    spec = objects.RequestSpec.from_components(
        who,
        str(uuid4()),
        {
            "id": str(uuid4()),
            "disk_format": case.get("disk_format", "raw"),
            "properties": case["image"],
        },
        flavor,
        None,
        None,
        {},
        None,
        case["where"].get("availability_zone"),
        project_id=who.project_id,
    )
    spec.is_bfv = False
    spec.requested_networks = objects.NetworkRequestList(objects=[])
    if name := specs.get("accel:device_profile"):
        groups = cyborg._CyborgClient.get_device_request_groups(None, profiles[name], None)
        spec.requested_resources.extend(groups)
    request_filter.process_reqspec(who, spec)
    query = utils.resources_from_request_spec(who, spec, None).to_querystring()
    return [[list(pair) for pair in sorted(parse_qsl(query))]]


def _aggregates(who: context.RequestContext, wanted: dict[str, dict[str, str]]) -> None:
    with database.context_manager.writer.using(who):
        for table in ("aggregate_metadata", "aggregates"):
            who.session.execute(sa.text(f"DELETE FROM {table}"))  # noqa: S608 - named here
    for uuid, metadata in wanted.items():
        objects.Aggregate(who, name=uuid, uuid=uuid, metadata=metadata).create()


def main() -> None:
    """See above."""
    config.parse_args(["nova", "--config-file", "/dev/null"], configure_db=False, init_rpc=False)
    objects.register_all()
    for option in ALWAYS:
        CONF.set_override(option, override=True, group="scheduler")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        CONF.set_override("connection", f"sqlite:///{folder}/api.sqlite", "api_database")
        database.configure(CONF)
        migration.db_sync(database="api")
        # New aggregates are told to everybody; here there is nobody.
        for name in (
            "nova.rpc.get_notifier",
            "nova.rpc.get_versioned_notifier",
            "nova.compute.utils.notify_about_aggregate_action",
        ):
            stack.enter_context(mock.patch(name))
        new_enough = mock.patch.object(request_filter, "_should_filter_by_owner", return_value=True)
        stack.enter_context(new_enough)
        data = json.loads(Path(sys.argv[1]).read_text())
        for case in data["cases"]:
            where = case["where"]
            if "host" not in where and ":" not in where.get("availability_zone", ""):
                case["asked"] = [*asked(case, data["profiles"]), *case.get("asked", [])[1:]]
    json.dump(data, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
