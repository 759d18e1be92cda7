"""Two schemas as one that holds exactly when both do, and a schema that admits null as well.

A flat schema, as it is called here, has neither `allOf` nor `$ref` of its own. This module knows no models.
"""

from __future__ import annotations

from typing import Any

from bx.instances import canonical
from bx.schema import conditions, words

Schema = dict[str, Any]

_IMPLIED = {
    "properties": "object", "required": "object", "additionalProperties": "object",
    "items": "array", "minItems": "array", "pattern": "string", "format": "string",
}  # fmt: skip
_SHAPE = ("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "properties", "items", "prefixItems")


def has_shape(schema: Schema) -> bool:
    """Whether a schema says more than what must hold for a shape that is given elsewhere."""
    return any(keyword in schema for keyword in _SHAPE)


def implied(schema: Schema) -> str | list[str] | None:
    """Return the type that the keywords of a schema without one are about, or None."""
    found = list(dict.fromkeys(_IMPLIED[keyword] for keyword in schema if keyword in _IMPLIED))
    return found[0] if len(found) == 1 else found or None


def merged(one: Schema, other: Schema) -> tuple[Schema, Schema | None]:
    """Merge two flat schemas.

    Returns:
        The one schema, and the keywords of `other` that could not be merged; None for those where no value
        satisfies both.
    """
    result, left = {**other, **one}, Schema()
    for keyword in one.keys() & other.keys():
        mine, others = one[keyword], other[keyword]
        if keyword == "description":
            result[keyword] = words.joined(mine, others)
        elif keyword == "required":
            result[keyword] = list(dict.fromkeys([*mine, *others]))
        elif keyword == "minItems":
            result[keyword] = max(mine, others)
        elif keyword == "type":
            result[keyword] = _types(one, other)
        elif keyword == "enum":
            known = {canonical(value) for value in others}
            result[keyword] = [value for value in mine if canonical(value) in known]
        elif keyword == "items" and not isinstance(mine, list) and not isinstance(others, list):
            result[keyword] = _both(mine, others)
        elif keyword not in (*_OBJECT, *conditions.ANNOTATIONS) and mine != others:
            left[keyword] = others
    if any(keyword in one or keyword in other for keyword in _OBJECT):
        result |= _object(one, other)
    impossible = result.get("type") == [] or result.get("enum") == [] or "const" in left
    return result, None if impossible else left


_OBJECT = ("properties", "additionalProperties")


def _types(one: Schema, other: Schema) -> str | list[str]:
    mine, others = conditions.types(one), conditions.types(other)
    both = [name for name in mine if name in others or (name == "integer" and "number" in others)]
    both += [name for name in others if name == "integer" and "number" in mine and name not in both]
    return both[0] if len(both) == 1 else both


def _both(one: Any, other: Any) -> Any:
    if one is True or one == other:
        return other
    if one is False or other is False:
        return False
    return one if other is True else {"allOf": [one, other]}


def _object(one: Schema, other: Schema) -> Schema:
    """Merge what two schemas say about an object's properties: what one forbids is not there in both."""
    mine, others = one.get("properties", {}), other.get("properties", {})
    my_rest, other_rest = one.get("additionalProperties", True), other.get("additionalProperties", True)
    names = list(dict.fromkeys([*mine, *others]))
    properties = {name: _both(mine.get(name, my_rest), others.get(name, other_rest)) for name in names}
    said = {"properties": properties} if names else {}
    rest = _both(my_rest, other_rest)
    return said if rest is True else {**said, "additionalProperties": rest}


def size(schema: Schema) -> int:
    """Count what merging a flat schema has to look at."""
    return 1 + sum(len(schema.get(keyword, ())) for keyword in ("properties", "required", "enum"))


def nullable(schema: Schema) -> Schema:
    """Return a schema, as `fix` writes them, that admits null as well; at no cost in unions where that can be."""
    if "const" in schema:
        without = {name: value for name, value in schema.items() if name not in ("const", "type")}
        return schema if schema["const"] is None else {**without, "enum": [schema["const"], None]}
    if "enum" in schema:
        without = {name: value for name, value in schema.items() if name != "type"}
        return schema if None in schema["enum"] else {**without, "enum": [*schema["enum"], None]}
    if "anyOf" in schema:
        branches = schema["anyOf"]
        return schema if {"type": "null"} in branches else {**schema, "anyOf": [*branches, {"type": "null"}]}
    if "$ref" in schema:
        about = {name: value for name, value in schema.items() if name != "$ref"}
        return {**about, "anyOf": [{"$ref": schema["$ref"]}, {"type": "null"}]}
    named = conditions.types(schema)
    return schema if "null" in named else {**schema, "type": [*named, "null"]}
