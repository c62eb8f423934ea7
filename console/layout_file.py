"""Layout files: ``devices: {NAME: FUNCTION}``, with the line of every problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from changeover.console import given
from changeover.models.errors import Invalid

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """What each device should offer, and on which line the file says so."""

    name: str
    devices: Mapping[str, str]
    lines: Mapping[str, int]

    def problem(self, device: str, said: str) -> str:
        """A problem with a device's line, as ``FILE:LINE: what is wrong``."""
        return f"{self.name}:{self.lines.get(device, 1)}: {said}"


def load_layout(path: Path) -> Layout:
    """Read a layout file; raises ``Invalid`` with all problems, one a line."""
    return parse_layout(given.read(path, MAX_BYTES), str(path))


def parse_layout(data: bytes, name: str) -> Layout:
    """The layout of a YAML text; raises ``Invalid`` with all problems, one a line."""
    from ruamel.yaml.nodes import MappingNode

    root = _compose(data, name)
    if not isinstance(root, MappingNode):
        raise Invalid(f"{name}:1: must be `devices:` with a line `NAME: FUNCTION` for each device")
    reader = _Reader(name)
    for key, value in root.value:
        if str(key.value) == "devices":
            reader.devices_of(key, value)
        else:
            reader.add(key, f"{key.value}: there is no such field; only `devices`")
    if not root.value:
        reader.problems.append(f"{name}:1: devices: is missing")
    if reader.problems:
        raise Invalid("\n".join(reader.problems), problems=reader.problems)
    return Layout(name, reader.devices, reader.lines)


def _compose(data: bytes, name: str) -> Node | None:
    """Parse without making any object: what the nodes say is all that is needed."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    line, said = 1, ""
    try:
        root: Node | None = YAML(typ="safe", pure=True).compose(data.decode("utf-8"))
    except UnicodeDecodeError as exc:
        said = f"is not UTF-8 at byte {exc.start}"
    except MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        said = f"is not YAML: {exc.problem}"
    except (YAMLError, ValueError, RecursionError) as exc:
        said = f"is not YAML: {str(exc).splitlines()[0]}"
    else:
        return root
    raise Invalid(f"{name}:{line}: {said}")


@dataclass(slots=True)
class _Reader:
    """Collects devices, and everything that is wrong."""

    name: str
    devices: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, node: Node, said: str) -> None:
        """Add a problem."""
        self.problems.append(f"{self.name}:{node.start_mark.line + 1}: {said}")

    def devices_of(self, key: Node, value: Node) -> None:
        """Read the mapping of devices."""
        from ruamel.yaml.nodes import MappingNode

        if not isinstance(value, MappingNode):
            self.add(key, "devices: must map device names to functions")
            return
        for device, function in value.value:
            self._device(device, function)

    def _device(self, device: Node, function: Node) -> None:
        from ruamel.yaml.nodes import ScalarNode

        if not isinstance(device, ScalarNode) or not isinstance(function, ScalarNode):
            self.add(device, "devices: must be lines of `NAME: FUNCTION`")
        elif not function.value:
            self.add(device, f"devices.{device.value}: names no function")
        elif device.value in self.devices:
            first = self.lines[device.value]
            self.add(device, f"devices.{device.value}: is there twice, first on line {first}")
        else:
            self.devices[str(device.value)] = str(function.value)
            self.lines[str(device.value)] = device.start_mark.line + 1
