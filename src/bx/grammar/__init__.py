"""A JSON Schema as a grammar that llguidance enforces token by token, or the reason why it cannot be one.

`candidates` narrows a schema so that a small model comes to an end: strings, lists and maps get a bound where they
have none, and objects no keys but their own. What is narrowed admits no answer that the wider one refuses.
`hint` tells the model the fields in words. This module knows no engine and no model.
"""

from __future__ import annotations

import json
import math
import re
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from bx.grammar.keys import keyed, merged_loosely, parts_of
from bx.grammar.rewrite import TooLargeError, Written, rewritten
from bx.instances import json_path
from bx.schema import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["candidates", "check", "hint", "refusal", "validated"]

Schema = dict[str, Any]

_LONGEST_STRING = 300  # characters
_LONGEST_LIST = 16  # items, or keys of a map
_LARGEST_INTEGER = 10**18  # either way; llguidance refuses ranges that reach 2**63
_LARGEST_NUMBER = 1e15  # either way; a number without a bound may be 1e999, which is beyond what can be read
_EXACT = 2**53  # whole numbers beyond are rounded
# A class in a class, or their intersection: by the standard, the characters themselves.
_SETS = re.compile(r"(?<!\\)(?:\\\\)*\[\^?\]?(?:[^\\\]\[&]|\\.|&(?!&))*(?:\[|&&)", re.DOTALL)
_SET_REASON = "[ and && within a class are taken for sets of characters. Write \\\\[ and &"
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_REASON_SECONDS = 2  # that may be spent on finding the place of a problem

# What is refused or capped before llguidance sees it, which would take minutes or all memory over it.
_LARGEST = 100_000  # characters
_MOST_ITEMS = 10_000  # more would not fit into an answer anyway
_MOST_PATTERNS = 12  # in a schema that combines patterns: the time doubles with each
_MOST_REMAINDERS = 100_000  # of a `multipleOf`: each is a state

_UNUSABLE = "no answer satisfies it, or it is too complex"

# Exact separators: free white space lets a small model write blanks until its tokens run out.
_SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

# Where a problem is looked for; in what is negated or a condition, nothing is in the way by itself.
_PLACES = {
    "$defs", "definitions", "properties", "patternProperties", "dependencies", "dependentSchemas", "items",
    "additionalProperties", "additionalItems", "anyOf", "oneOf", "allOf", "prefixItems", "then", "else",
}  # fmt: skip
_DEFINITIONS = ("$defs", "definitions")


def check(schema: Schema, text: str) -> None:
    """Refuse a schema that is too much for any grammar.

    Args:
        schema: the schema.
        text: the JSON that it was read from.

    Raises:
        ValueError: says where the schema is too large, too deep or no JSON.
    """
    if len(text) > _LARGEST:
        raise ValueError(f"$: the schema has {len(text)} characters, and {_LARGEST} is the most")
    if walk.depth(schema) > walk.DEEPEST:
        raise ValueError(f"$: the schema is nested more than {walk.DEEPEST} levels deep")
    try:
        json.dumps(schema, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("$: the schema holds a lone surrogate, which is no character") from None
    except ValueError:
        raise ValueError("$: the schema holds NaN or Infinity, which are no JSON") from None
    for at, node in walk.nodes(schema):
        _check_values(at, node)
    for path, node in _objects(schema):
        # The values of `enum` and `const` must stay as they are, so `_capped` must find nothing in them.
        limits = ("minItems", "maxItems") if {"enum", "const"} & {*path} else ("minItems",)
        for keyword in limits:
            if _is_many(node.get(keyword)):
                raise ValueError(f"{json_path([*path, keyword])}: {node[keyword]} is too many for one answer")
        if _remainders(node) > _MOST_REMAINDERS:
            step = node["multipleOf"]
            raise ValueError(
                f"{json_path([*path, 'multipleOf'])}: the multiples of {step} take too long to tell apart"
            )
    _check_combined([node for _, node in _objects(schema)])


def _check_values(path: walk.Path, node: Schema) -> None:
    """Refuse the numbers and expressions of one schema that llguidance takes for others."""
    for keyword in {"const", "enum"} & node.keys():
        if _has_inexact(node[keyword]):
            raise ValueError(f"{json_path([*path, keyword])}: whole numbers beyond {_EXACT} would be rounded")
    for steps, pattern in _patterns(node):
        if _SETS.search(pattern):
            raise ValueError(f"{json_path([*path, *steps])}: {_SET_REASON}")


def _patterns(node: Schema) -> list[tuple[walk.Path, str]]:
    named = node.get("patternProperties")
    found: list[tuple[walk.Path, str]] = [(("patternProperties",), name) for name in named or ()]
    return found + ([(("pattern",), node["pattern"])] if isinstance(node.get("pattern"), str) else [])


def _has_inexact(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return any(map(_has_inexact, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and abs(value) > _EXACT


def _check_combined(nodes: list[dict[str, Any]]) -> None:
    """Refuse what is quick to tell alone and not when it must hold all at once."""
    if not any("allOf" in node or ("$ref" in node and len(node) > 1) for node in nodes):
        return
    patterns = {node["pattern"] for node in nodes if isinstance(node.get("pattern"), str)}
    for node in nodes:
        named = node.get("patternProperties")
        patterns |= named.keys() if isinstance(named, dict) else set()
    if len(patterns) > _MOST_PATTERNS:
        raise ValueError(f"$: the schema combines {len(patterns)} patterns, and {_MOST_PATTERNS} is the most")
    if math.prod({_remainders(node) for node in nodes}) > _MOST_REMAINDERS:
        raise ValueError("$: the schema combines several multipleOf, which take too long to tell apart")


def _remainders(schema: Schema) -> int:
    """Count what may be left over when a number is divided by `multipleOf`, its powers of ten aside."""
    step = schema.get("multipleOf")
    if isinstance(step, bool) or not isinstance(step, (int, float)) or step <= 0:
        return 1
    return int("".join(map(str, Decimal(str(step)).normalize().as_tuple().digits)))


def candidates(schema: Schema) -> Iterator[str]:
    """Yield grammars for a schema that passed `check`, the one to prefer first; the last is nearly as it stands."""
    try:
        found = [*_narrowed(Written(_capped(schema), narrow=True).schema)]
    except TooLargeError:
        return
    tight = [candidate for candidate in found if not any(merged_loosely(candidate))]
    yield from map(_grammar, tight or found)


def validated(schema: Schema) -> list[tuple[walk.Path, str]]:
    """List what a grammar for a schema does not enforce, so that it shows only when the answer is validated.

    Returns:
        The path to each such keyword, the keyword included, and the keyword; nothing where there is no grammar.
    """
    try:
        written = Written(_capped(schema), narrow=True)
    except TooLargeError:
        return []
    loose = [[*merged_loosely(candidate)] for candidate in _narrowed(written.schema)]
    places = {path: written.places.get(id(node), ()) for path, node in walk.nodes(written.schema)}
    merged = [written.place(places.get(path, ()), keyword) for path, keyword in (loose[0] if all(loose) else ())]
    return list(dict.fromkeys([*written.loosened, *merged]))


def _narrowed(written: Schema) -> Iterator[Schema]:
    heads = [node for _, node in walk.nodes(written) if _combines(node)]
    together = {id(part) for node in heads for part in parts_of(node, written)}
    yield _bounded(written, written, together)
    if heads:  # closing what is combined may close a circle of references, too
        yield _bounded(written, written, together | set(map(id, heads)))
    yield written


def refusal(schema: Schema, holds: Callable[[str], bool]) -> str:
    """Name the JSON path and the keyword that keep a schema from being enforced, with the reason.

    Args:
        schema: the schema.
        holds: whether a model can be held to a grammar, for the problems that show only when it is used.
    """
    schema = _capped(schema)
    definitions: Schema = {name: schema[name] for name in (*_DEFINITIONS, "$schema") if name in schema}
    until = time.monotonic() + _REASON_SECONDS
    late = _reason(schema) is None  # llguidance compiles it, and stumbles over it later

    def why(part: Schema) -> str | None:
        if time.monotonic() > until:
            return None
        part = definitions | part
        return _reason(part) or (_UNUSABLE if late and not holds(_grammar(rewritten(part))) else None)

    reason = why(schema) or _UNUSABLE
    path: list[str | int] = []
    node, found = schema, True
    while found:
        found = False
        for steps, child in _places(node):
            inner = why(child)
            # What cannot be satisfied has its own reason, and is one for whatever it is part of.
            if inner and (inner == reason or "nsatisfiable" in reason):
                path, node, reason, found = [*path, *steps], child, inner, True
                break
    # What is named in the reason comes first; what is wrong is hardly ever the type or a name.
    for keyword in sorted(node, key=lambda keyword: (f'"{keyword}"' not in reason, keyword in ("type", "$id", "id"))):
        if why({name: value for name, value in node.items() if name != keyword}) != reason:
            return f"{json_path([*path, keyword])}: {reason}"
    return f"{json_path(path)}: {reason}"


def hint(schema: Schema) -> str:
    """Say in one sentence what the answer must hold, in the words that small models follow best."""
    words = _words(schema)
    fields = words.removeprefix(_KEYS)
    return f"Answer in JSON with {words}." if fields == words else f"Find or write {fields}. Answer in JSON."


def _grammar(schema: Schema) -> str:
    return f"%llguidance {{}}\nstart: %json {json.dumps(schema | {'x-guidance': _SEPARATORS}, ensure_ascii=False)}"


def _reason(schema: Schema) -> str | None:
    """Return why llguidance cannot compile a schema, or None where it can."""
    from llguidance import LLMatcher

    try:
        failed, messages = LLMatcher.validate_grammar_with_warnings(_grammar(rewritten(schema)))
    except TooLargeError as cause:
        return str(cause).removeprefix("$: ")
    if not failed:
        return None
    found = re.search(r"failed to compile JSON schema: (.*?)\n +\d+ \| ", messages[0] + "\n 0 | ", re.DOTALL)
    reason = " ".join((found[1] if found else messages[0]).split())
    return re.sub(r" while processing json-schema:\S+", "", reason)


def _capped(value: Any) -> Any:
    """Copy a schema with no `maxItems` beyond what can be written."""
    if isinstance(value, list):
        return [_capped(item) for item in value]
    if not isinstance(value, dict):
        return value
    capped = {name: _capped(inner) for name, inner in value.items()}
    if _is_many(capped.get("maxItems")):
        capped["maxItems"] = _MOST_ITEMS
    return capped


def _is_many(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > _MOST_ITEMS


def _bounded(schema: Any, root: Schema, together: set[int]) -> Any:
    """Copy a rewritten schema with a bound on whatever has none, and no keys but their own for objects.

    Args:
        schema: the schema.
        root: the whole, for its references.
        together: the schemas, by `id`, that describe one value with others; by itself, none can forbid further keys.
    """
    if not isinstance(schema, dict):
        return schema
    narrowed = walk.mapped(schema, lambda child: _bounded(child, root, together))
    kinds = schema.get("type", ())
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    if "string" in kinds and not {"maxLength", "enum", "const", "pattern", "format"} & schema.keys():
        narrowed["maxLength"] = max(_LONGEST_STRING, 2 * schema.get("minLength", 0))
    if "array" in kinds and "maxItems" not in schema:
        prefix = len(schema.get("prefixItems", ()))
        narrowed["maxItems"] = max(_LONGEST_LIST, prefix, schema.get("minItems", 0))
    limits = [schema[keyword] for keyword in _LIMITS if keyword in schema]
    if "integer" in kinds and "number" not in kinds and all(abs(limit) < _LARGEST_INTEGER for limit in limits):
        narrowed = {"minimum": -_LARGEST_INTEGER, "maximum": _LARGEST_INTEGER, **narrowed}
    if "number" in kinds and not limits and "multipleOf" not in schema:
        narrowed = {"minimum": -_LARGEST_NUMBER, "maximum": _LARGEST_NUMBER, **narrowed}
    if id(schema) in together:
        return narrowed
    if "object" in kinds and not {"maxProperties", "properties"} & schema.keys() and not _combines(schema):
        narrowed["maxProperties"] = max(_LONGEST_LIST, schema.get("minProperties", 0))
    narrowed |= _closed(schema, narrowed, root)
    return narrowed if {"allOf", "anyOf", "$ref"} & schema.keys() else keyed(narrowed)


def _closed(schema: Schema, narrowed: Schema, root: Schema) -> Schema:
    """Return what forbids further keys, where that leaves an object that can still be written; else nothing."""
    parts = [schema, *parts_of(schema, root)] if _combines(schema) else [schema]
    open_ended = {"additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames"}
    if any(open_ended & part.keys() for part in parts) or not any("properties" in part for part in parts):
        return {}
    named = dict.fromkeys(name for part in parts for name in part.get("properties", ()))
    needed = {name for part in parts for name in part.get("required", ())}
    if not needed <= named.keys() or any(part.get("minProperties", 0) > len(named) for part in parts):
        return {}
    own = narrowed.get("properties", {})
    return {"properties": {name: own.get(name, True) for name in named}, "additionalProperties": False}


def _combines(schema: Schema) -> bool:
    """Whether a schema describes a value together with others."""
    return "allOf" in schema or bool(
        {"anyOf", "$ref"} & schema.keys() and {"properties", "required", "additionalProperties"} & schema.keys()
    )


def _places(schema: Schema) -> list[tuple[walk.Path, Schema]]:
    """List the schemas directly inside a schema where a problem may lie, definitions first."""
    places = [
        (steps, child) for steps, child in walk.children(schema) if steps[0] in _PLACES and isinstance(child, dict)
    ]
    return sorted(places, key=lambda place: place[0][0] not in _DEFINITIONS)


def _objects(schema: Schema) -> Iterator[tuple[list[str | int], dict[str, Any]]]:
    """Yield every object in a schema, whatever it stands for, with the path to it."""
    left: list[tuple[list[str | int], Any]] = [([], schema)]
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            yield path, value
            left += [([*path, name], inner) for name, inner in value.items()]
        elif isinstance(value, list):
            left += [([*path, index], inner) for index, inner in enumerate(value)]


def _words(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "any value"
    if "const" in schema:
        return f"the value {_spelled(schema['const'])}"
    if isinstance(choices := schema.get("enum"), list):
        return " or ".join(_spelled(choice) for choice in choices)
    if isinstance(named := schema.get("properties"), dict) and named:
        return _KEYS + ", ".join(_field(name, child) for name, child in named.items())
    if isinstance(items := schema.get("items"), dict):
        return f"a list of {_words(items)}"
    kinds = schema.get("type", "value")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return " or ".join(_KINDS.get(kind, str(kind)) for kind in kinds)


def _field(name: str, schema: Any) -> str:
    """Name a field; a plain text needs no more words, anything else its type and description."""
    words = _words(schema)
    about = [] if words == _KINDS["string"] else [words]
    if isinstance(schema, dict) and schema.get("description"):
        about.append(str(schema["description"]))
    return f"{name} ({': '.join(about)})" if about else name


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


_KEYS = "the keys "
_KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "array": "list",
    "object": "object",
}
