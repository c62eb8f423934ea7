"""JSON from outside, parsed within limits: whatever the bytes are, a value or ``Invalid``."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pydantic import ValidationError

from changeover.models.errors import Invalid

MAX_BYTES = 1024 * 1024
"""Longest body that is parsed, in bytes. Real ones have about 6 KB."""

MAX_DEPTH = 32
"""Deepest nesting of objects and lists. Real ones have about 12."""

NESTING = (dict, list)
"""What a JSON value can be nested in."""

_INTEGER_DIGITS = 20  # more than 64 bits need; int() is quadratic in the number of digits


def load(body: object, where: str) -> object:
    """The value of a JSON text; ``where`` names it in the error.

    Raises ``Invalid`` (one line of ASCII, at most 300 characters) for what is no JSON, is too long
    or too deep, holds a key twice, or numbers that are none.
    """
    if not isinstance(body, bytes | str):
        refuse(f"{where}: is neither bytes nor text")
    if len(body) > MAX_BYTES:
        refuse(f"{where}: is longer than {MAX_BYTES} bytes")
    try:
        text = body if isinstance(body, str) else body.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        refuse(f"{where}: is not UTF-8 at byte {error.start}")
    except RecursionError:
        refuse(f"{where}: is nested deeper than {MAX_DEPTH}")
    except json.JSONDecodeError as error:
        refuse(f"{where}: is not JSON: {error.msg} at character {error.pos}")
    except ValueError as error:  # the hooks below
        refuse(f"{where}: {error}")
    _limit_depth(value, where)
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _INTEGER_DIGITS:
        raise ValueError(f"holds an integer of more than {_INTEGER_DIGITS} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("holds a number that is too large")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is not JSON")


def _limit_depth(value: object, where: str) -> None:
    level: list[Any] = [value] if isinstance(value, NESTING) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, NESTING)
        ]
    if not level:
        return
    refuse(f"{where}: is nested deeper than {MAX_DEPTH}")


def shown(text: str) -> str:
    """Text from outside, fit for one line of ASCII."""
    return text[:80].encode("unicode_escape").decode("ascii")


def refuse(reason: str) -> NoReturn:
    """Raise ``Invalid`` with a reason that every log can take."""
    # Names in the reason may come from outside: keep it one line that every log can take.
    raise Invalid(reason.encode("unicode_escape").decode("ascii")[:300]) from None


def first_problem(error: ValidationError, whole: str) -> str:
    """The first thing that is wrong, with its place; ``whole`` names the value as such.

    Only the place and the rule are shown: inputs may hold what must not be logged.
    """
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = ".".join(str(part) for part in first["loc"]) or whole
    if first["type"] in {"model_type", "model_attributes_type", "dict_type"}:
        return f"{path}: must be a JSON object"
    return f"{path}: {first['msg'].removeprefix('Value error, ')}"
