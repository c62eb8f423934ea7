"""Does reprogramming help a class of failed requests, and if not, why not: one of five verdicts.

*Candidates exist now*, *soon*, *the hosts cannot*, *no device may*, *nobody can*; or the plan
programs devices for it, and a changeover helps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from changeover.models.diagnosis import Diagnosis, Obstacle, Verdict
from changeover.models.planning import DeviceView, Plan, PlanInputs, Rejection
from changeover.models.reasons import Reason
from changeover.policies.relax import Answers, constraints_of, smallest
from changeover.policies.understand import Understanding

SOON = "seconds"
"""The fact of a reason that passes by itself: in so many seconds."""


def suitable(understanding: Understanding, inputs: PlanInputs, key: str) -> tuple[DeviceView, ...]:
    """The devices that the class ``key`` could use, whatever they are just now."""
    named = next((demand.devices for demand in inputs.demands if demand.key == key), None)
    tied = [need.devices for need in understanding.needs]
    return tuple(
        device
        for device in inputs.devices
        if device.model in understanding.models
        and (named is None or device.uuid in named)
        and any(devices is None or device.uuid in devices for devices in tied)
    )


def hosts_cannot(
    understanding: Understanding, hosts: Mapping[str, int] | None, inputs: PlanInputs, key: str
) -> bool:
    """Whether no host with a suitable device can take the rest of the request."""
    return hosts is not None and not any(
        hosts.get(device.host, 0) > 0 for device in suitable(understanding, inputs, key)
    )


def diagnose(
    understanding: Understanding,
    *,
    key: str,
    subjects: Collection[str],
    fits_now: Collection[str],
    hosts: Mapping[str, int] | None,
    inputs: PlanInputs,
    plan: Plan,
    answers: Answers | None = None,
) -> Diagnosis:
    """Judge one class by what was gathered and planned.

    ``subjects`` are its boots, ``fits_now`` those that fit without any device of the catalog,
    ``hosts`` how many units each host could take besides the device (``None``: any). ``answers``
    are those that :mod:`changeover.policies.relax` needs, where the hosts cannot.
    """
    made = Diagnosis(Verdict.CANDIDATES_NOW, _FITS, len(subjects), len(fits_now))
    programmed = {intent.device for intent in plan.intents}
    coming = {device.uuid for device in inputs.devices if device.becoming is not None}
    by_subject: dict[str, set[str]] = {subject: set() for subject in subjects}
    for promise in plan.promises:
        if promise.demand == key and promise.subject in by_subject:
            by_subject[promise.subject].add(promise.device)
    served = {subject: devices for subject, devices in by_subject.items() if devices}
    made = replace(made, served=len(served.keys() | set(fits_now)))
    if made.served == made.units or (understanding.nobody is not None and fits_now):
        return _served(made, list(served.values()), programmed, coming, inputs)
    if understanding.nobody is not None:
        return replace(made, verdict=Verdict.NOBODY_CAN, reason=understanding.nobody)
    devices = suitable(understanding, inputs, key)
    made = replace(made, unsuitable=len(inputs.devices) - len(devices))
    if hosts_cannot(understanding, hosts, inputs, key):
        return _hosts_cannot(made, understanding, devices, answers)
    return _no_device_may(made, understanding, key, hosts, devices, plan)


_FITS = Reason("demand.fits_now", "candidates exist now: boot it again, nothing is to be done")


def _served(
    made: Diagnosis,
    served: list[set[str]],
    programmed: set[str],
    coming: set[str],
    inputs: PlanInputs,
) -> Diagnosis:
    used = set().union(*served)
    if used & programmed:
        reason = Reason("demand.changeover", "programming devices makes the slots that it needs")
        return replace(made, verdict=Verdict.CHANGEOVER, reason=reason)
    if used & coming:
        seconds = max(d.ready_in for d in inputs.devices if d.uuid in used & coming)
        return _soon(made, seconds, "a device that is being programmed will have its slots")
    return made


def _soon(made: Diagnosis, seconds: float, why: str) -> Diagnosis:
    text = f"{why}, in {seconds:.0f} s at the latest: waiting beats acting"
    reason = Reason("demand.soon", text, {SOON: seconds})
    return replace(made, verdict=Verdict.SOON, reason=reason, seconds=seconds)


def _hosts_cannot(
    made: Diagnosis,
    understanding: Understanding,
    devices: tuple[DeviceView, ...],
    answers: Answers | None,
) -> Diagnosis:
    with_devices = {device.host for device in devices}
    if not with_devices:
        text = "the catalog has no device that it could use"
        reason = Reason("demand.no_model", text, {"models": sorted(understanding.models)})
        return replace(made, verdict=Verdict.NO_DEVICE_MAY, reason=reason)
    obstacles: list[Obstacle] = []
    relaxing: list[tuple[str, ...]] = []
    if answers is not None:
        for constraint in constraints_of(answers.request):
            out = answers.alone.get(constraint, frozenset()) & answers.hosts
            if out:
                obstacles.append(Obstacle(constraint.text, tuple(sorted(out))))
        relaxing = [tuple(c.text for c in sorted(relaxed)) for relaxed in smallest(answers)]
    obstacles.sort(key=lambda o: (-len(o.hosts), o.constraint))
    text = f"none of the {len(with_devices)} host(s) with suitable devices can take the rest of it"
    if relaxing:
        ways = "; or ".join(" and ".join(names) for names in relaxing)
        text += f"; it would fit without: {ways}"
    reason = Reason("demand.hosts_cannot", text, {"hosts": sorted(with_devices)})
    return replace(
        made,
        verdict=Verdict.HOSTS_CANNOT,
        reason=reason,
        obstacles=tuple(obstacles),
        relaxing=tuple(relaxing),
    )


def _no_device_may(
    made: Diagnosis,
    understanding: Understanding,
    key: str,
    hosts: Mapping[str, int] | None,
    devices: tuple[DeviceView, ...],
    plan: Plan,
) -> Diagnosis:
    wanted = {name for need in understanding.needs for name in need.functions}
    rejected = {rejection.subject: rejection.reason for rejection in plan.rejected}
    taken = {promise.device for promise in plan.promises}
    reasons = []
    soon: list[float] = []
    for device in devices:
        if hosts is not None and hosts.get(device.host, 0) <= 0:
            text = f"{device.host} cannot take the rest of the request"
            reasons.append(Rejection(device.uuid, Reason("device.host_cannot", text)))
            continue
        seconds = _passing(device, wanted)
        if seconds is not None:
            soon.append(seconds)
        reason = device.blocked or rejected.get(device.uuid)
        if reason is None or device.uuid in taken:
            reason = Reason("device.taken", f"{device.name} serves other demand in this plan")
        reasons.append(Rejection(device.uuid, reason))
    made = replace(made, devices=tuple(sorted(reasons, key=lambda r: r.subject)))
    if soon:
        return _soon(made, min(soon), "a suitable device is about to be free")
    unmet = next((r.reason for r in plan.unmet if r.subject == key), None)
    text = "no device that it could use may be programmed for it now"
    if unmet is not None:
        text = f"{text}: {unmet.text[0].lower()}{unmet.text[1:].rstrip('.')}"
    facts = {} if unmet is None else {"unmet": unmet.as_json()}
    return replace(
        made, verdict=Verdict.NO_DEVICE_MAY, reason=Reason("demand.no_device", text, facts)
    )


def _passing(device: DeviceView, wanted: set[str]) -> float | None:
    """In how many seconds the device can be used, if that comes by itself."""
    if device.becoming is not None:
        # Its slots go to others; once it is ready and idle it may be programmed again.
        return device.ready_in if device.becoming in wanted else None
    seconds = None if device.blocked is None else device.blocked.facts.get(SOON)
    return float(seconds) if isinstance(seconds, int | float) else None
