"""A Cyborg driver for simulated FPGA cards that can be programmed.

A bitstream is a JSON text: ``{"function": "AES", "seconds": 1.0, "fail": false, "lie": false}``.
Programming takes ``seconds``; with ``fail`` it ends badly and the card stays as it was, with
``lie`` it ends badly although the card was programmed. Discovery then reports the trait
``CUSTOM_FPGA_FUNCTION_`` and the function (``NONE``: not programmed yet).

``$SIMCARDS_DIR`` holds one JSON file a card, ``HOST.BUS.json``, and ``journal.jsonl``: one line
when programming begins and one when it ends, with the time, the bitstream's sha256 and the
request that asked for it, as the device itself would know. Whoever judges what happened reads
that, and nobody's word. ``$SIMCARDS_COUNT`` is how many cards this host has.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from cyborg.accelerator.drivers.fpga.base import FPGADriver
from cyborg.conf import CONF
from cyborg.objects.driver_objects import (
    driver_attach_handle,
    driver_attribute,
    driver_controlpath_id,
    driver_deployable,
    driver_device,
)
from oslo_context import context

FIRST_BUS = 0x20
RESOURCE_CLASS = "FPGA"
FUNCTION_TRAIT = "CUSTOM_FPGA_FUNCTION_"
CARD_TRAIT = "CUSTOM_FPGA_SIM"


class SimulatedCards(FPGADriver):
    """The cards of this agent's host."""

    VENDOR = "sim"

    def discover(self) -> list[Any]:
        """All cards with what is loaded now."""
        return [self._device(bus) for bus in _buses()]

    def program(self, controlpath_id: dict[str, Any], image_file_path: str) -> bool:
        """Program one card; blocks for as long as its bitstream says."""
        bus = controlpath_id["cpid_info"]["bus"]
        bitstream = Path(image_file_path).read_bytes()
        wanted = json.loads(bitstream)
        asked_by = context.get_current()
        facts = {
            "card": f"{CONF.host}.{bus}",
            "function": wanted["function"],
            "sha256": hashlib.sha256(bitstream).hexdigest(),
            "call": f"{os.getpid()}-{time.monotonic_ns()}",
            "request": getattr(asked_by, "request_id", None),
            "user": getattr(asked_by, "user_id", None),
        }
        _record(facts, event="begin")
        time.sleep(wanted.get("seconds", 0.5))
        loaded = not wanted.get("fail", False)
        if loaded:
            _load(bus, wanted["function"])
        done = loaded and not wanted.get("lie", False)
        _record(facts, event="end", loaded=loaded, done=done)
        return done

    def _device(self, bus: str) -> Any:
        address = {"domain": "0000", "bus": bus, "device": "00", "function": "0"}
        device = driver_device.DriverDevice()
        device.vendor, device.model, device.type = "0x1234", "simcard", "FPGA"
        device.std_board_info = json.dumps({"device_id": "0x0001", "bus": bus})
        device.vendor_board_info, device.stub = "sim", False
        path = driver_controlpath_id.DriverControlPathID()
        path.cpid_type, path.cpid_info = "PCI", json.dumps(address)
        device.controlpath_id = path
        device.deployable_list = [self._deployable(bus, address)]
        return device

    def _deployable(self, bus: str, address: dict[str, str]) -> Any:
        handle = driver_attach_handle.DriverAttachHandle()
        handle.attach_type, handle.in_use = "TEST_PCI", False
        handle.attach_info = json.dumps({**address, "function": "1"})
        deployable = driver_deployable.DriverDeployable()
        deployable.name = f"{CONF.host}_simcard_{bus}"
        deployable.driver_name, deployable.num_accelerators = "sim", 1
        deployable.attach_handle_list = [handle]
        deployable.attribute_list = []
        traits = (CARD_TRAIT, FUNCTION_TRAIT + _loaded(bus))
        for key, value in (
            ("rc", RESOURCE_CLASS),
            *((f"trait{i}", name) for i, name in enumerate(traits)),
        ):
            attribute = driver_attribute.DriverAttribute()
            attribute.key, attribute.value = key, value
            deployable.attribute_list.append(attribute)
        return deployable


def _buses() -> list[str]:
    return [f"{FIRST_BUS + i:02x}" for i in range(int(os.environ["SIMCARDS_COUNT"]))]


def _home() -> Path:
    return Path(os.environ["SIMCARDS_DIR"])


def _card(bus: str) -> Path:
    return _home() / f"{CONF.host}.{bus}.json"


def _loaded(bus: str) -> str:
    try:
        return str(json.loads(_card(bus).read_text())["function"])
    except FileNotFoundError:
        return "NONE"


def _load(bus: str, function: str) -> None:
    path = _card(bus)
    draft = path.with_suffix(f".{os.getpid()}-{time.monotonic_ns()}")
    draft.write_text(json.dumps({"function": function, "at": time.time()}))
    draft.replace(path)


def _record(facts: dict[str, Any], **more: Any) -> None:
    line = json.dumps({**facts, **more, "at": time.time()}) + "\n"
    # One write of one line, appended: agents of several hosts share the file.
    descriptor = os.open(_home() / "journal.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
