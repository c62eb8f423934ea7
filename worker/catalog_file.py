"""The catalog's YAML file: read safely, and every problem named with file, line and field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from changeover.models.catalog import Catalog
from changeover.models.errors import Invalid

MAX_BYTES = 8 * 1024 * 1024
"""Longest file that is read, in bytes: more than 10,000 devices need."""

MAX_NODES = 400_000
"""Most values that a file may expand to: aliases can make a small file enormous."""

MAX_DEPTH = 20

_WORDS = {
    "extra_forbidden": "there is no such field",
    "missing": "is missing",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
}

Path_ = tuple[str | int, ...]
Place = tuple[int, int]


def load_catalog_file(path: Path) -> Catalog:
    """The catalog of a file; raises ``Invalid`` with all problems, one a line."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}", path=str(path)) from error
    return load_catalog(data, str(path))


def load_catalog(data: bytes | str, name: str = "catalog.yaml") -> Catalog:
    """The catalog of a YAML text; ``name`` is what messages call it. Raises ``Invalid``."""
    if len(data) > MAX_BYTES:
        raise Invalid(f"{name}: is longer than {MAX_BYTES} bytes", path=name)
    document = _read(data, name)
    if document.problems:
        raise document.invalid()
    try:
        return Catalog.model_validate(document.value)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            said = _WORDS.get(problem["type"], problem["msg"])
            document.add(tuple(problem["loc"]), said, missing=problem["type"] == "missing")
        raise document.invalid() from None


@dataclass
class _Document:
    """Plain values, where each of them stands, and what is wrong with them."""

    name: str
    value: Any = None
    places: dict[Path_, Place] = field(default_factory=dict)
    problems: list[tuple[Place, str]] = field(default_factory=list)
    nodes: int = 0

    def add(self, where: Path_, said: str, *, missing: bool = False) -> None:
        """Add a problem of the models; one of the whole catalog names its fields itself."""
        said = said.removeprefix("Value error, ")
        if where:
            known = self._known(where)
            field_ = known + where[-1:] if missing else known
            self.problems.append((self._place(known), f"{_dotted(field_)}: {said}"))
            return
        for part in said.split("; "):
            text, colon, _ = part.partition(": ")
            self.problems.append(
                (self._place(self._named(text)), part if colon else f"the file: {part}")
            )

    def invalid(self) -> Invalid:
        """All problems in order of lines."""
        lines = [
            f"{self.name}:{line}:{column}: {said}" for (line, column), said in sorted(self.problems)
        ]
        return Invalid("\n".join(lines), path=self.name, problems=lines)

    def _place(self, path: Path_) -> Place:
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))

    def _known(self, where: Path_) -> Path_:
        """The part of pydantic's path that is in the file: unions add names of their own."""
        path: Path_ = ()
        for part in where:
            if (*path, part) in self.places:
                path = (*path, part)
        return path

    def _named(self, text: str) -> Path_:
        """The path that a dotted text means; names may have dots themselves."""
        path: Path_ = ()
        rest = text
        while rest:
            keys = [
                key
                for key in _keys(self.value, path)
                if rest == str(key) or rest.startswith(f"{key}.")
            ]
            if not keys:
                break
            key = max(keys, key=lambda k: len(str(k)))
            path, rest = (*path, key), rest[len(str(key)) + 1 :]
        return path


def _keys(value: Any, path: Path_) -> Iterator[str | int]:
    for part in path:
        value = value[part]
    if isinstance(value, dict):
        yield from value
    elif isinstance(value, list):
        yield from range(len(value))


def _dotted(path: Path_) -> str:
    return ".".join(str(part) for part in path) or "the file"


# ---------------------------------------------------------------- YAML, with places


def _read(data: bytes | str, name: str) -> _Document:
    """Parse without making any object but text, numbers, booleans, lists and mappings."""
    document = _Document(name)
    yaml = YAML(typ="safe", pure=True)
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        root = yaml.compose(text)
    except UnicodeDecodeError as error:
        document.problems.append(((1, 1), f"is not UTF-8 at byte {error.start}"))
        return document
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        said = " ".join(part for part in (error.context, error.problem) if part)
        document.problems.append((place, f"is not YAML: {said}"))
        return document
    except (YAMLError, ValueError) as error:
        said = str(error).splitlines()[0]
        document.problems.append(((1, 1), f"is not YAML: {said}"))
        return document
    except (LookupError, AttributeError, TypeError, AssertionError) as error:
        # What the library does not foresee, such as a YAML version that it does not know.
        said = f"the reader stumbles over it ({type(error).__name__})"
        document.problems.append(((1, 1), f"is not YAML that can be read: {said}"))
        return document
    except RecursionError:
        document.problems.append(((1, 1), f"has more than {MAX_DEPTH} levels"))
        return document
    if root is None:
        document.problems.append(((1, 1), "is empty"))
        return document
    document.value = _plain(document, root, (), yaml.constructor.construct_object)
    return document


def _plain(document: _Document, node: Node, path: Path_, construct: Callable[..., Any]) -> Any:
    place = (node.start_mark.line + 1, node.start_mark.column + 1)
    document.places.setdefault(path, place)
    document.nodes += 1
    if len(path) > MAX_DEPTH or document.nodes > MAX_NODES:
        limit = f"more than {MAX_DEPTH} levels" if len(path) > MAX_DEPTH else "too many values"
        if not document.problems:  # once is enough; the rest is not read
            document.problems.append((place, f"{_dotted(path[:3])}: has {limit}"))
        return None
    if isinstance(node, MappingNode):
        return _mapping(document, node, path, construct)
    if isinstance(node, SequenceNode):
        return [
            _plain(document, item, (*path, index), construct)
            for index, item in enumerate(node.value)
        ]
    return _scalar(document, node, path, place, construct)


def _mapping(
    document: _Document, node: MappingNode, path: Path_, construct: Callable[..., Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if not isinstance(key_node, ScalarNode):
            document.problems.append((place, f"{_dotted(path)}: a key must be a name"))
            continue
        key = str(key_node.value)  # as written: a model may be called 40 or no
        if key in found:
            first = document.places[(*path, key)][0]
            said = f"{_dotted((*path, key))}: is there twice, first on line {first}"
            document.problems.append((place, said))
            continue
        document.places[(*path, key)] = place
        found[key] = _plain(document, value_node, (*path, key), construct)
    return found


_SCALARS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")
)


def _scalar(
    document: _Document, node: Node, path: Path_, place: Place, construct: Callable[..., Any]
) -> Any:
    tag = str(node.tag)
    if tag == "tag:yaml.org,2002:timestamp":
        return str(node.value)  # what looks like a date is a name here
    if tag not in _SCALARS:
        document.problems.append((place, f"{_dotted(path)}: the tag {tag} is not allowed"))
        return None
    try:
        return construct(node)
    except (ValueError, LookupError, AttributeError, YAMLError):
        # The library stumbles over values like an empty !!int.
        document.problems.append((place, f"{_dotted(path)}: is not a value of its kind"))
        return None
