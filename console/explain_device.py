"""Explain one device: what it offers, who has it, and whether it may be programmed now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from changeover.console.desk import Desk
from changeover.console.devices import device_row
from changeover.console.history import history
from changeover.console.preview import preview_or_error
from changeover.console.render import Output, due, plain, short, span
from changeover.console.show import changeover_listing
from changeover.models.errors import ChangeoverError, NotFound

if TYPE_CHECKING:
    from changeover.models.catalog import Device
    from changeover.models.keep import Keep


def explain_device(desk: Desk, out: Output, provider: str) -> None:
    """Tell everything about the device of that provider."""
    device = desk.catalog.device(provider)
    if device is None:
        raise NotFound(
            f"the catalog no longer has device {provider}: put it back to have it managed again"
        )
    now = desk.clock.now()
    with desk.database.read() as tx:
        record, live = tx.devices.get(provider), tx.changeovers.live_of_device(provider)
        past = tx.changeovers.of_device(provider)
        promises = tx.boots.promises(device=provider)
        keeps = tx.keeps.standing(now, device=provider)
        fences = [f for f in tx.fences.all() if f.provider == provider]
        deeds = tx.audit.of(provider)
    row = device_row(device, record, live, now)
    placement = _in_placement(desk, provider)
    # One that does not answer is not waited for twice.
    verdict = placement if "error" in placement else _verdict(desk, device)
    if out.as_json:
        out.document(
            {
                "kind": "device",
                "device": row,
                "placement": placement,
                "may_be_programmed": verdict,
                "promises": plain(promises),
                "kept": plain(keeps),
                "fences": plain(fences),
                "changeovers": plain(past),
                "history": deeds,
            }
        )
        return
    offers = "nothing: it is empty"
    if row["function"] is not None:
        offers = f"{row['function']}, {row['used']} of {row['slots']} slots used"
    elif record is None:
        offers = "not known: it was not read yet"
    out.facts(
        f"device {device.name}: {row['state']}",
        {
            "provider": device.provider,
            "host": device.host,
            "model": f"{device.model} ({desk.catalog.models[device.model].mode})",
            "card": device.card,
            "address": device.address,
            "offers": offers,
            "read": None
            if row["read_seconds_ago"] is None
            else f"{span(row['read_seconds_ago'])} ago",
            "programmed": f"{row['programs']} times",
            "may have": ", ".join(
                f.name for f in desk.catalog.functions.values() if device.model in f.fits
            ),
            "note": row["note"],
            "fenced": "yes: Placement takes no new allocations on it" if fences else None,
            "promised": ", ".join(f"{p.slots} slot(s) to boot {short(p.boot)}" for p in promises),
            "kept": ", ".join(
                f"{k.slots} slot(s) for {_for_whom(k)}, given up {due(k.until, now)}" for k in keeps
            ),
        },
    )
    out.heading("in Placement now")
    _show_placement(out, placement)
    out.heading("may it be programmed now?")
    _show_verdict(out, verdict)
    if past:
        out.heading("its changeovers")
        changeover_listing(desk, out, past, empty="")
    if deeds:
        out.heading("history")
        history(out, deeds, desk.device_names)


def _in_placement(desk: Desk, provider: str) -> dict[str, Any]:
    """What Placement says of the provider this moment, or why that is not known."""
    try:
        placement = desk.placement
        state, usage = placement.state(provider), placement.usage(provider)
    except ChangeoverError as exc:
        return {"error": {"kind": type(exc).__name__, "message": exc.message}}
    return {**state.as_json(), "allocations": plain(usage.by_consumer)}


def _show_placement(out: Output, placement: Mapping[str, Any]) -> None:
    if "error" in placement:
        out.line(f"  cannot say: {placement['error']['message']}")
        return
    for rc, inventory in placement["inventories"].items():
        used = sum(held.get(rc, 0) for held in placement["allocations"].values())
        reserved = f", {inventory['reserved']} reserved" if inventory["reserved"] else ""
        out.line(f"  {used} of {inventory['total']} {rc} in use{reserved}")
    if not placement["inventories"]:
        out.line("  no inventory: nothing can be scheduled to it")
    out.line(f"  traits: {', '.join(placement['traits']) or 'none'}")
    for consumer, held in placement["allocations"].items():
        amounts = ", ".join(f"{n} {rc}" for rc, n in held.items())
        out.line(f"  used by {consumer}: {amounts}")


def _verdict(desk: Desk, device: Device) -> dict[str, Any]:
    """Whether the device may be programmed, and what the planner would do with it."""
    preview = preview_or_error(desk)
    if "error" in preview:
        return preview
    intent = next((i for i in preview["intents"] if i["device"] == device.provider), None)
    rejection = next((r for r in preview["rejected"] if r["device"] == device.provider), None)
    promised = [p for p in preview["promises"] if p["device"] == device.provider]
    blocked = _blocked(desk, device)
    return {
        "may": blocked is None,
        "blocked": blocked,
        "would_become": None if intent is None else intent["to_function"],
        "would_serve": [p["subject"] for p in promised],
        "not_chosen": None if rejection is None else rejection["reason"],
    }


def _blocked(desk: Desk, device: Device) -> dict[str, Any] | None:
    from changeover.worker.capacity import Capacity, read_ledger

    world = desk.planning_world
    now = desk.clock.now()
    reason = Capacity(world, read_ledger(world, now), now).blocked(device)
    return None if reason is None else reason.as_json()


def _show_verdict(out: Output, verdict: Mapping[str, Any]) -> None:
    if "error" in verdict:
        out.line(f"  cannot say: {verdict['error']['message']}")
        return
    if verdict["blocked"] is not None:
        out.line(f"  no: {verdict['blocked']['text']} ({verdict['blocked']['code']})")
    else:
        out.line("  yes")
    if verdict["would_become"] is not None:
        out.line(f"  it would be programmed with {verdict['would_become']} now")
    elif verdict["not_chosen"] is not None and verdict["blocked"] is None:
        reason = verdict["not_chosen"]
        out.line(f"  but it would not be: {reason['text']} ({reason['code']})")


def _for_whom(keep: Keep) -> str:
    whose = "the owner of boot" if keep.kind == "owner" else "lease"
    return f"{whose} {short(keep.subject)}"
