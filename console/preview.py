"""What would be decided now, and why not otherwise: a plan that is made and not carried out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from changeover.console.desk import Desk
from changeover.console.render import Column, Output, plain, short
from changeover.models.errors import ChangeoverError
from changeover.models.states import BOOT_WANTS

if TYPE_CHECKING:
    from changeover.models.boot import Boot
    from changeover.models.diagnosis import Diagnosis
    from changeover.models.placement import RequestGroup, ResourceRequest
    from changeover.models.reasons import Reason
    from changeover.worker.judge import Preview

NAMES_SHOWN = 6


def plan(desk: Desk, out: Output) -> None:
    """Show what would be done now for everything that waits."""
    document = previewed(desk)
    if out.as_json:
        out.document(document)
        return
    if not document["requests"] and not document["intents"]:
        out.line("nothing waits, and every floor is kept: nothing would be done")
        return
    show_preview(out, document)


def previewed(desk: Desk, boots: Sequence[Boot] | None = None) -> dict[str, Any]:
    """A preview as JSON-able values: for ``boots``, or for all that wait, parked ones too."""
    from changeover.worker.judge import preview

    world = desk.planning_world
    if boots is None:
        with desk.database.read() as tx:
            boots = tx.boots.in_states(BOOT_WANTS)
    return _document(desk, preview(world, boots))


def preview_or_error(desk: Desk, *boots: Boot) -> dict[str, Any]:
    """A preview, or why there is none: an explanation must not fail with a silent Placement."""
    try:
        return previewed(desk, boots or None)
    except ChangeoverError as exc:
        return {"error": {"kind": type(exc).__name__, "message": exc.message}}


def _document(desk: Desk, seen: Preview) -> dict[str, Any]:
    catalog, gathered, made = desk.catalog, seen.gathered, seen.plan
    names = {d.provider: d.name for d in catalog.devices}
    unmet = {r.subject: r.reason for r in made.unmet}
    served = defaultdict(set)
    for promise in made.promises:
        served[promise.subject].add(promise.device)
    by_task = {p.device for p in made.promises if p.demand.startswith("task:")}
    return {
        "paused": gathered.paused,
        "requests": [
            {
                "key": j.key,
                "flavor": j.boots[0].name,
                "boots": [b.id for b in j.boots],
                "served": [b.id for b in j.boots if b.id in served],
                "fits_now": sorted(j.elsewhere),
                "needs": plain(j.understanding.needs),
                "models": plain(j.understanding.models),
                "candidates_now": len(j.now.candidates),
                "relaxed": plain(j.understanding.relaxed),
                "hosts": plain(j.hosts),
                "nobody": plain(j.understanding.nobody),
                "unmet": plain(unmet.get(j.key)),
                "diagnosis": _diagnosis(seen.diagnoses[j.key], names),
            }
            for j in gathered.judged
        ],
        "intents": [
            {
                **plain(i),
                "device_name": names.get(i.device, i.device),
                "acts": gathered.paused is None
                and (i.device in by_task or catalog.pool(i.to_function).mode == "act"),
                "mode": catalog.pool(i.to_function).mode,
            }
            for i in made.intents
        ],
        "promises": [
            {**plain(p), "device_name": names.get(p.device, p.device)} for p in made.promises
        ],
        "rejected": [
            {
                "device": r.subject,
                "device_name": names.get(r.subject, r.subject),
                "model": next((d.model for d in catalog.devices if d.provider == r.subject), None),
                "reason": plain(r.reason),
            }
            for r in made.rejected
        ],
        "unmet": [{"subject": r.subject, "reason": plain(r.reason)} for r in made.unmet],
        "value": made.value,
        "cost": made.cost,
        "score": made.score,
    }


def _diagnosis(diagnosis: Diagnosis, names: Mapping[str, str]) -> dict[str, Any]:
    devices = [
        {
            "device": r.subject,
            "device_name": names.get(r.subject, r.subject),
            "reason": plain(r.reason),
        }
        for r in diagnosis.devices
    ]
    return {**plain(diagnosis), "devices": devices}


def show_preview(out: Output, document: Mapping[str, Any]) -> None:
    """A preview for people."""
    if document["paused"] is not None:
        out.line(f"paused: {document['paused']}: nothing is started before `changeover resume`")
    for request in document["requests"]:
        _show_request(out, request)
    if document["intents"]:
        out.heading("would be programmed")
        _show_intents(out, document["intents"])
    else:
        out.heading("no device would be programmed")
    told = {
        device["device"]
        for request in document["requests"]
        for device in request["diagnosis"]["devices"]
    }
    wanted = {model for request in document["requests"] for model in request["models"]}
    rejected = [
        r
        for r in document["rejected"]
        if r["device"] not in told and (not wanted or r["model"] in wanted)
    ]
    if rejected:
        out.heading("devices that would not be, and why")
        for reason, devices in by_reason(rejected):
            out.line(f"  {reason}  [{some(devices)}]")
    for lacking in document["unmet"]:
        if lacking["subject"].startswith(("task:", "floor:")):
            kind, _, name = lacking["subject"].partition(":")
            out.line(f"{kind} {short(name)} is not met: {lacking['reason']['text']}")


def _show_request(out: Output, request: Mapping[str, Any]) -> None:
    total = len(request["boots"])
    diagnosis = request["diagnosis"]
    out.heading(
        f"{total} boot{'s' if total > 1 else ''} of {request['flavor'] or 'an unknown flavor'} "
        f"(request {request['key']})"
    )
    out.line(f"  {diagnosis['verdict']}: {diagnosis['reason']['text']}")
    if request["nobody"] is not None:
        return
    needs = " and ".join(
        f"{need['slots']} slot(s) of {' or '.join(need['functions'])}" for need in request["needs"]
    )
    out.line(f"  needs {needs or 'nothing that programming gives'}")
    if request["fits_now"]:
        out.line(f"  {len(request['fits_now'])} can be created now without any changeover")
    groups = "; ".join(described_group(group) for group in request["relaxed"]["groups"])
    hosts = request["hosts"]
    if hosts is None:
        out.line(f"  the rest ({groups or 'nothing'}) was asked of no host")
    elif hosts:
        rooms = ", ".join(f"{host} ({n})" for host, n in sorted(hosts.items()))
        out.line(f"  hosts that could take the rest ({groups or 'nothing'}): {rooms}")
    else:
        out.line(f"  no host with devices can take the rest: {groups}")
    for obstacle in diagnosis["obstacles"]:
        count = len(obstacle["hosts"])
        out.line(f"    {obstacle['constraint']} rules out {count}: {some(obstacle['hosts'])}")
    if request["served"]:
        out.line(f"  {len(request['served'])} of {total} would be served")
    if request["unmet"] is not None:
        out.line(f"  not all are: {request['unmet']['text']}")
    for reason, devices in by_reason(diagnosis["devices"]):
        out.line(f"    {reason}  [{some(devices)}]")
    if diagnosis["devices"] and diagnosis["unsuitable"]:
        out.line(f"    {diagnosis['unsuitable']} other device(s) cannot serve it: wrong model")


def _show_intents(out: Output, intents: Iterable[Mapping[str, Any]]) -> None:
    columns = [
        Column("device", "device"),
        Column("host", "host"),
        Column("from", "from"),
        Column("to", "to"),
        Column("slots", "slots", right=True),
        Column("gain", "gain", right=True),
        Column("cost", "cost", right=True),
        Column("acts", "started"),
        Column("why", "why"),
    ]
    rows = [
        {
            "device": i["device_name"],
            "host": i["host"],
            "from": i["from_function"] or "(empty)",
            "to": i["to_function"],
            "slots": i["slots"],
            "gain": f"{i['gain']:.3f}",
            "cost": f"{i['cost']:.3f}",
            "acts": "yes" if i["acts"] else f"no: mode {i['mode']}",
            "why": "; ".join(reason["text"] for reason in i["reasons"]),
        }
        for i in intents
    ]
    out.table(rows, columns)


def by_reason(rejected: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Devices that share a reason, together; the reasons with the fewest devices first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for entry in rejected:
        groups[entry["reason"]["text"]].append(entry["device_name"])
    return sorted(groups.items(), key=lambda item: (len(item[1]), item[0]))


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    if len(names) <= NAMES_SHOWN:
        return ", ".join(names)
    return ", ".join(names[:NAMES_SHOWN]) + f" and {len(names) - NAMES_SHOWN} more"


def described_group(group: Mapping[str, Any] | RequestGroup) -> str:
    """A group of a request in a line."""
    data: Mapping[str, Any] = group if isinstance(group, Mapping) else group.as_json()
    parts = [f"{n} {rc}" for rc, n in data["resources"].items()]
    for word, key in (("with", "required"), ("without", "forbidden"), ("best with", "preferred")):
        if data[key]:
            parts.append(f"{word} {', '.join(data[key])}")
    parts += [f"with one of {', '.join(choice)}" for choice in data["any_of"]]
    return " ".join(parts)


def described(request: ResourceRequest) -> str:
    """A request in a line."""
    parts = [described_group(group) for group in request.groups] or ["nothing was sent: see Nova"]
    if request.hosts is not None:
        parts.append(f"on {', '.join(request.hosts)}")
    if request.excluded_hosts:
        parts.append(f"not on {', '.join(request.excluded_hosts)}")
    if request.availability_zone is not None:
        parts.append(f"in zone {request.availability_zone}")
    return "; ".join(parts)


def reason_text(reason: Reason | None) -> str | None:
    """A reason's sentence with its static name."""
    return None if reason is None else f"{reason.text} ({reason.code})"
