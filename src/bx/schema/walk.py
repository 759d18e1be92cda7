"""Where a JSON Schema holds other schemas, and how to go through them.

Every function takes linear time and looks at a schema's own levels only: a reference is never followed unless asked
for. This module knows no rules and no models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Path = tuple[str | int, ...]

# Keyword -> a schema, a list of schemas, or schemas by name. `items` and `dependencies` have two forms.
_ONE = (
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")

DEEPEST = 100  # levels of nesting: what is deeper is refused before anything walks it by recursion


def children(schema: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Yield each schema directly inside a schema, a dict or a bool, with the steps that lead to it."""
    for keyword, inside in schema.items():
        if keyword in _ONE and isinstance(inside, (dict, bool)):
            yield (keyword,), inside
        elif keyword in _MANY and isinstance(inside, list):
            yield from (((keyword, at), child) for at, child in enumerate(inside) if isinstance(child, (dict, bool)))
        elif keyword in _NAMED and isinstance(inside, dict):
            yield from (((keyword, name), child) for name, child in inside.items() if isinstance(child, (dict, bool)))


def nodes(schema: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield every schema that is an object, the whole one first, then in the order of the text, with its path."""
    left: list[tuple[Path, Any]] = [((), schema)]
    while left:
        path, node = left.pop()
        if isinstance(node, dict):
            yield path, node
            left += reversed([((*path, *steps), child) for steps, child in children(node)])


def mapped(schema: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Copy a schema with each schema directly inside it replaced; the original is left as it is."""
    copy = dict(schema)
    for steps, child in children(schema):
        keyword = str(steps[0])
        if len(steps) == 1:
            copy[keyword] = change(child)
        else:
            if copy[keyword] is schema[keyword]:
                copy[keyword] = schema[keyword].copy()
            copy[keyword][steps[1]] = change(child)
    return copy


def target(root: Any, reference: str) -> Any:
    """Return what a reference within the document, such as `#/$defs/name`, leads to.

    Raises:
        LookupError: it leads nowhere, or out of the document.
    """
    if not reference.startswith("#"):
        raise LookupError(reference)
    found = root
    for step in pointer(reference):
        try:
            found = found[int(step) if isinstance(found, list) else step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise LookupError(reference) from None
    return found


def pointer(reference: str) -> list[str]:
    """Split the JSON Pointer of a reference (`#/a/b`) into its steps."""
    steps = unquote(reference.removeprefix("#")).split("/")[1:]
    return [step.replace("~1", "/").replace("~0", "~") for step in steps]


def depth(value: Any, most: int = DEEPEST) -> int:
    """Count the levels of nesting of any JSON value; stops counting one level past `most`."""
    level, deep = [value], 0
    while level and deep <= most:
        deep += 1
        inside = [
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))
        ]
        level = [value for values in inside for value in values]
    return deep
