"""Where a JSON Schema holds other schemas, and how to go through them.

Every function takes linear time. The first ones look at a schema's own levels only; those that follow references come
last. This module knows no rules and no models.
"""

from __future__ import annotations

import re
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

_INDEX = re.compile("0|[1-9][0-9]*")  # of a list, in a JSON Pointer
_MOST_VALUES = 1_000_000
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
    if not is_internal(reference):
        raise LookupError(reference)
    found = root
    for step in pointer(reference):
        if isinstance(found, list) and not _INDEX.fullmatch(step):
            raise LookupError(reference)
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
    """Count the levels of nesting of any JSON value; stops counting one level past `most`.

    What holds itself has levels without end. So has, to keep the time short, what holds more than a million values:
    in Python, a few objects that share their parts can be as many as that.
    """
    level, deep, left = [value], 0, _MOST_VALUES
    while level and deep <= most:
        deep += 1
        inside = [
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))
        ]
        left -= sum(map(len, inside))
        if left < 0:
            return most + 1
        level = [value for values in inside for value in values]
    return deep


# ---- references -----------------------------------------------------------------------------------------------


def is_internal(reference: str) -> bool:
    """Whether a reference is a JSON Pointer within the document."""
    return reference == "#" or reference.startswith("#/")


def referred(root: Any, reference: Any) -> Any:
    """Return what a reference leads to, or None where it leads nowhere, or to no schema."""
    if not isinstance(reference, str) or not is_internal(reference):
        return None
    try:
        found = target(root, reference)
    except LookupError:
        return None
    return found if isinstance(found, (dict, bool)) else None


def looping(root: Any, *, in_place: bool = False) -> frozenset[int]:
    """Find the ids of the schemas with a reference that leads back to them.

    Args:
        root: the whole schema.
        in_place: count only steps that stay at the same value: references and combinations.
    """
    edges, referring = _edges(root, in_place=in_place)
    if not referring:
        return frozenset()
    return frozenset(referring & edges.keys() - _peeled(edges).keys() - _peeled(_turned(edges)).keys())


def combined(root: Any) -> int:
    """Count the schemas that one value is held against at most, where references lead to the same ones many times."""
    edges, referring = _edges(root, in_place=True)
    return max(_peeled(edges).values(), default=0) if referring else 0


def _edges(root: Any, *, in_place: bool) -> tuple[dict[int, list[int]], set[int]]:
    """Return which schemas lead to which, by their ids, and those that do so by reference."""
    edges: dict[int, list[int]] = {}
    referring: set[int] = set()
    left = [root] if isinstance(root, dict) else []
    while left:
        node = left.pop()
        if id(node) in edges:
            continue
        below = [(steps[0], child) for steps, child in children(node) if isinstance(child, dict)]
        inside = [child for keyword, child in below if not in_place or keyword in _IN_PLACE]
        if "$ref" in node:
            referring.add(id(node))
            target = referred(root, node["$ref"])
            inside += [target] if isinstance(target, dict) else []
        edges[id(node)] = [id(child) for child in inside]
        left += [*inside, *(child for _, child in below)]
    return edges, referring


def leading(root: Any, ends: set[int]) -> frozenset[int]:
    """Find the ids of the schemas that lead to one of some schemas, down their levels and by reference."""
    above = _turned(_edges(root, in_place=False)[0]) if ends else {}
    found: set[int] = set()
    left = list(ends)
    while left:
        if (node := left.pop()) not in found:
            found.add(node)
            left += above.get(node, ())
    return frozenset(found)


def _turned(edges: dict[int, list[int]]) -> dict[int, list[int]]:
    turned: dict[int, list[int]] = {node: [] for node in edges}
    for node, inside in edges.items():
        for child in inside:
            turned[child].append(node)
    return turned


def _peeled(edges: dict[int, list[int]]) -> dict[int, int]:
    """Take away, again and again, what leads nowhere: returns all that leads to no circle, with its ways on."""
    above = _turned(edges)
    open_edges = {node: len(inside) for node, inside in edges.items()}
    ends = [node for node, count in open_edges.items() if not count]
    ways: dict[int, int] = {}
    while ends:
        end = ends.pop()
        ways[end] = min(1 + sum(ways[child] for child in edges[end]), _COUNTED)
        for node in above[end]:
            open_edges[node] -= 1
            if not open_edges[node]:
                ends.append(node)
    return ways


_COUNTED = 10**9  # more need not be told apart
_IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")


def reached(root: Any) -> set[int]:
    """Find the ids of the schemas that count: those outside of definitions, and those that they refer to."""
    found: set[int] = set()
    left = [root]
    while left:
        node = left.pop()
        if not isinstance(node, dict) or id(node) in found:
            continue
        found.add(id(node))
        left += [child for steps, child in children(node) if steps[0] not in ("$defs", "definitions")]
        left.append(referred(root, node.get("$ref")))
    return found


def rooted(schema: dict[str, Any]) -> dict[str, Any]:
    """Put a definition that is the whole schema in its place, unless it is referred to from inside."""
    reference = schema.get("$ref", "")
    inside = {key: value for key, value in schema.items() if key != "$ref"}
    if not reference.startswith("#/$defs/") or any(node.get("$ref") == reference for _, node in nodes(inside)):
        return schema
    name = pointer(reference)[-1]
    definitions = dict(inside.pop("$defs"))
    root = {**definitions.pop(name), **inside}
    return {**root, "$defs": definitions} if definitions else root
