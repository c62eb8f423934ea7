"""Layouts: what each device should offer, and how far it is from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Action = Literal["keep", "program", "queued", "refuse"]


@dataclass(frozen=True, slots=True)
class Placed:
    """A device as it is: what it offers, what it is becoming, and what is queued for it."""

    name: str
    provider: str
    model: str
    function: str | None
    becoming: str | None
    queued: str | None
    pinned: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """One line of a layout's difference. ``why`` explains a refusal."""

    device: str
    provider: str
    now: str | None
    wanted: str
    action: Action
    why: str = ""


def differences(
    layout: Mapping[str, str],
    devices: Mapping[str, Placed],
    fits: Mapping[str, frozenset[str]],
) -> tuple[Difference, ...]:
    """Compare a layout (device name -> function) with the devices (by name).

    ``fits`` maps a function to the models that it fits. Applying a layout twice does nothing the
    second time: what offers, is becoming or is queued to become its function is left alone.
    """
    return tuple(
        _difference(name, wanted, devices.get(name), fits)
        for name, wanted in sorted(layout.items())
    )


def _difference(
    name: str, wanted: str, device: Placed | None, fits: Mapping[str, frozenset[str]]
) -> Difference:
    if device is None:
        return Difference(name, "", None, wanted, "refuse", "the catalog has no such device")
    now = device.function

    def said(action: Action, why: str = "") -> Difference:
        return Difference(name, device.provider, now, wanted, action, why)

    if wanted not in fits:
        return said("refuse", f"the catalog has no function {wanted}")
    if device.model not in fits[wanted]:
        return said("refuse", f"{wanted} does not fit model {device.model}")
    if device.becoming == wanted or (device.becoming is None and now == wanted):
        return said("keep")
    if device.queued == wanted:
        return said("queued")
    if device.pinned:
        return said("refuse", "it is pinned")
    return said("program")
