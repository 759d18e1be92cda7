"""What llguidance makes of an object's keys where it makes less of them than the schema says.

It merges `patternProperties` with what closes the same object elsewhere, or lists it, as if both sets of keys were
allowed; further keys may be spelled with escapes (by code), by which a key that is named passes for another; and
they may repeat. This module knows rewritten schemas only, and no model.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from bx.grammar.opposite import QUOTED, has_names, spelled_otherwise, values_of
from bx.schema import walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bx.grammar.opposite import Found, Schema

_DEFINITIONS = ("$defs", "definitions")
_DEEPEST_PARTS = 50  # references and combinations that are followed within one value
_LONGEST_NAME = 60  # characters of a key that others are told from
_LONGEST_NAMES = 1_000  # of all such keys together


class _Keys(NamedTuple):
    """What the schemas of one value say together about an object's keys."""

    limiting: int = 0  # schemas that limit keys beyond those they name
    patterned: bool = False
    listed: bool = False  # whole objects, by `enum` or `const`
    shut: bool = False  # no keys but those that are named
    named: bool = False  # keys have schemas of their own
    required: int = 0
    least: int = 0  # keys


_ANY_KEYS = _Keys(limiting=2, patterned=True, listed=True, named=True, least=2)


def merged_loosely(schema: Schema) -> Iterator[tuple[walk.Path, str]]:
    """Yield the path to each value that a grammar holds to less than the schema says, and the keyword it is about."""
    inside = [child for _, node in walk.nodes(schema) for child in _in_place(node)]
    parts, memo, names = {id(child) for child in inside}, dict[int, _Keys](), has_names(schema)
    for path, node in walk.nodes(schema):
        if path and id(node) in parts:
            continue
        keys = _keys(node, schema, memo, 0)
        if names and any("$ref" in part and part.keys() & _OF_KEYS for part in (node, *_in_place(node))):
            keys = _ANY_KEYS
        if keys.patterned and (keys.limiting > 1 or keys.listed):
            yield path, "patternProperties"
        if keys.named and not keys.shut:
            yield path, "additionalProperties"
        if keys.least > keys.required + 1 and (keys.patterned or not keys.shut):
            yield path, "minProperties"


_OF_KEYS = {"properties", "patternProperties", "additionalProperties", "allOf", "anyOf", "minProperties"}


def _in_place(schema: Schema) -> list[Schema]:
    """List the schemas inside a schema that are no values of their own."""
    inside = [*schema.get("allOf", ()), *schema.get("anyOf", ())]
    inside += [child for word in _DEFINITIONS for child in schema.get(word, {}).values()]
    return [child for child in inside if isinstance(child, dict)]


def _keys(schema: Found, root: Schema, memo: dict[int, _Keys], depth: int) -> _Keys:
    if not isinstance(schema, dict):
        return _Keys(shut=schema is False)
    if depth > _DEEPEST_PARTS:
        return _ANY_KEYS
    if id(schema) in memo:
        return memo[id(schema)]
    memo[id(schema)] = _own_keys(schema)  # for a circle of references
    every = [_own_keys(schema), *(_keys(part, root, memo, depth + 1) for part in schema.get("allOf", ()))]
    if isinstance(schema.get("$ref"), str):
        try:
            every.append(_keys(walk.target(root, schema["$ref"]), root, memo, depth + 1))
        except LookupError:
            every.append(_ANY_KEYS)
    if some := [_keys(choice, root, memo, depth + 1) for choice in schema.get("anyOf", ())]:
        shut, required = all(keys.shut for keys in some), min(keys.required for keys in some)
        every.append(_Keys(*map(max, zip(*some, strict=True)))._replace(shut=shut, required=required))
    found = _Keys(*map(max, zip(*every, strict=True)))._replace(limiting=sum(keys.limiting for keys in every))
    memo[id(schema)] = found
    return found


def _own_keys(schema: Schema) -> _Keys:
    rest, patterns = schema.get("additionalProperties", True), schema.get("patternProperties")
    kinds = schema.get("type", "object")
    if "object" not in kinds:
        return _Keys(shut=True)
    return _Keys(
        limiting=int(rest not in (True, {}) or bool(patterns)),
        patterned=bool(patterns),
        listed=any(isinstance(value, dict) for value in values_of(schema) or ()),
        shut=rest is False or values_of(schema) is not None,
        named=any(
            child not in (True, {}) for child in [*schema.get("properties", {}).values(), *(patterns or {}).values()]
        ),
        required=len(set(schema.get("required", ()))),
        least=schema.get("minProperties", 0),
    )


def keyed(schema: Schema) -> Schema:
    """Say by a pattern, which keys cannot evade by escapes, which further keys there may be beside those named."""
    rest = schema.get("additionalProperties", True)
    names = {*schema.get("properties", ()), *schema.get("required", ())}
    if "additionalProperties" not in schema and schema.get("patternProperties"):
        return schema | ({"additionalProperties": False} if names <= schema.get("properties", {}).keys() else {})
    if rest is False or not schema.get("properties") or schema.get("patternProperties") or values_of(schema):
        return schema
    if (
        any(len(name) > _LONGEST_NAME or {*QUOTED} & {*name} for name in names)
        or sum(map(len, names)) > _LONGEST_NAMES
    ):
        return schema
    named = schema["properties"] | {
        name: rest for name in schema.get("required", ()) if name not in schema["properties"]
    }
    others = {f"^{spelled_otherwise(names)}$": rest}
    return schema | {"properties": named, "patternProperties": others, "additionalProperties": False}


def parts_of(schema: Schema, root: Schema) -> list[Schema]:
    """List the schemas that describe the same value as this one, each once."""
    found: dict[int, Schema] = {}
    left: list[Schema] = [schema]
    for part in left:
        inside = [*part.get("allOf", ()), *part.get("anyOf", ())]
        if isinstance(part.get("$ref"), str):
            with contextlib.suppress(LookupError):
                inside.append(walk.target(root, part["$ref"]))
        fresh = {id(child): child for child in inside if isinstance(child, dict) and id(child) not in found}
        found |= fresh
        left += fresh.values()
    return list(found.values())
