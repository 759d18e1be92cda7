"""A strict JSON Schema from examples: what all of them have, and nothing that none of them has.

Takes linear time in the size of the examples. This module knows no files and no models.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from bx import instances
from bx.schema import walk

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEEPEST = 40  # levels of values; each is two of the schema
_FORMATS = ("date-time", "date", "email", "uuid", "uri")
_FEWEST_FOR_FORMAT = 2  # strings that all have the format
_FEWEST_FOR_ENUM, _MOST_CHOICES, _REPEATED, _LONGEST_CHOICE = 8, 8, 3, 40
_FEWEST_KEYS = 12  # of a dictionary, over at least three objects that share none
_FEWEST_MAPS = 3


class NotInferable(ValueError):
    """No schema can be made of the examples."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def infer(examples: Sequence[Any]) -> dict[str, Any]:
    """Propose a strict schema that every example satisfies; the order of the examples does not change its meaning.

    Objects are closed; a property is required when all of them have it. Objects become a dictionary
    (`additionalProperties` with the schema of all values) when there are at least 3 of them, they have at least 12
    different keys altogether and none of these is in two objects. Strings become an `enum` when there are at least 8
    of them, of at most 8 different values of at most 40 characters, each of which is there 3 times or more. They get
    a `format` when there are at least two different ones, and all have it.

    Args:
        examples: JSON values.

    Raises:
        NotInferable: there are no examples, or one is nested too deeply or is no JSON.
    """
    values = list(examples)
    if not values:
        raise NotInferable("There are no examples", "Give at least one JSON value")
    for number, value in enumerate(values, 1):
        if walk.depth(value, _DEEPEST) > _DEEPEST:
            raise NotInferable(f"Example {number} is nested more than {_DEEPEST} levels deep", "Use fewer levels")
    return _of(values)


def _of(values: list[Any]) -> dict[str, Any]:
    """Infer the schema of all values that occur at one place."""
    kinds: dict[str, list[Any]] = {}
    for value in values:
        kinds.setdefault(_kind(value), []).append(value)
    if "number" in kinds and "integer" in kinds:
        kinds["number"] += kinds.pop("integer")
    branches = {kind: _INFERRED[kind](kinds[kind]) if kind in _INFERRED else {"type": kind} for kind in kinds}
    if len(branches) == 1:
        return next(iter(branches.values()))
    if all(branch.keys() == {"type"} for branch in branches.values()):
        return {"type": [*branches]}
    if len(branches) == 2 and "null" in branches:  # noqa: PLR2004 # one type, or null
        return _nullable(next(branch for kind, branch in branches.items() if kind != "null"))
    return {"anyOf": [*branches.values()]}


def _kind(value: Any) -> str:
    """Name the JSON type of a value, `integer` where it is whole."""
    if isinstance(value, float) and not math.isfinite(value):
        raise NotInferable(f"{value} is no JSON value", "Correct the example that has it")
    for kind, of in _KINDS.items():
        if isinstance(value, of):
            return kind
    raise NotInferable(f"A {type(value).__name__} is no JSON value", "Give values as json.loads returns them")


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if isinstance(schema.get("type"), str) and schema["type"] not in ("object", "array"):
        enum = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
        return {**schema, "type": [schema["type"], "null"], **enum}
    return {"anyOf": [schema, {"type": "null"}]}


def _object(objects: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for item in objects:
        for name, value in item.items():
            if not isinstance(name, str):
                raise NotInferable(f"The key {name!r} is no text", "Give values as json.loads returns them")
            found.setdefault(name, []).append(value)
    shared = any(len(values) > 1 for values in found.values())
    if len(objects) >= _FEWEST_MAPS and len(found) >= _FEWEST_KEYS and not shared and all(objects):
        return {
            "type": "object",
            "additionalProperties": _of([value for values in found.values() for value in values]),
        }
    return {
        "type": "object",
        "properties": {name: _of(values) for name, values in found.items()},
        "required": [name for name, values in found.items() if len(values) == len(objects)],
        "additionalProperties": False,
    }


def _array(arrays: list[list[Any]]) -> dict[str, Any]:
    items = [item for array in arrays for item in array]
    return {"type": "array", "items": _of(items)} if items else {"type": "array"}


def _string(texts: list[str]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    few = len(texts) >= _FEWEST_FOR_ENUM and 1 < len(counts) <= _MOST_CHOICES
    if few and min(counts.values()) >= _REPEATED and max(map(len, counts)) <= _LONGEST_CHOICE:
        return {"type": "string", "enum": [*counts]}
    for form in _FORMATS if len(counts) >= _FEWEST_FOR_FORMAT else ():
        schema = {"type": "string", "format": form}
        if _fits([*counts], {"type": "array", "items": schema}):
            return schema
    return {"type": "string"}


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, which no format admits
        return False
    return instances.violation(value, schema) is None


_KINDS: dict[str, type] = {
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": float,
    "string": str,
    "array": list,
    "object": dict,
}
_INFERRED: dict[str, Any] = {"object": _object, "array": _array, "string": _string}
