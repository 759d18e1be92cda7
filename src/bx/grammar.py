"""A JSON Schema as a grammar that llguidance enforces token by token, or the reason why it cannot be one.

`candidates` narrows a schema so that a small model comes to an end: strings, lists and maps get a bound where they
have none, and objects no keys but their own. A narrower schema never admits an answer that the wider one refuses.
`hint` tells the model the fields in words. This module knows no engine and no model.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from bx.converse import json_path

if TYPE_CHECKING:
    from collections.abc import Iterator

Schema = dict[str, Any]

_LONGEST_STRING = 300  # characters
_LONGEST_LIST = 16  # items, or keys of a map
_DEEPEST = 100  # levels of nesting; deeper ones are refused before anything recurses into them
_REASON_BUDGET = 2_000_000  # characters of schema that may be compiled to find a reason

# Exact separators: free white space lets a small model write blanks until its tokens run out.
_SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

# Where a schema holds other schemas that narrow it. Those that widen or negate (`not`, `if`) are left as they are.
_ONE = ("items", "additionalProperties", "additionalItems")
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("patternProperties", "properties", "definitions", "$defs")  # definitions come first: see `_children`
_COMBINING = ("allOf", "anyOf", "oneOf", "$ref", "patternProperties", "unevaluatedProperties", "if")


def candidates(schema: Schema) -> Iterator[str]:
    """Yield grammars for a schema, the one to prefer first; the last is the schema as it stands.

    Raises:
        ValueError: the schema is nested too deeply.
    """
    if _depth(schema) > _DEEPEST:
        raise ValueError(f"the schema is nested more than {_DEEPEST} levels deep")
    for narrowed in (_bounded(schema, close="allOf" not in json.dumps(schema)), schema):
        yield _grammar({**narrowed, "x-guidance": _SEPARATORS})


def refusal(schema: Schema) -> str:
    """Name the JSON path and the keyword that keep a schema from being enforced, with llguidance's reason."""
    reason = _reason(schema) or "the grammar is too complex"
    budget = _REASON_BUDGET
    path: list[str | int] = []
    node, found = schema, True
    definitions: Schema = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    while found and budget > 0:
        found = False
        for steps, child in _children(node):
            budget -= len(json.dumps(child))
            if _reason({**definitions, **child}) == reason:
                path, node, found = [*path, *steps], child, True
                break
    for keyword in node:
        rest = {name: value for name, value in node.items() if name != keyword}
        if _reason({**definitions, **rest}) != reason:
            return f"{json_path([*path, keyword])}: {reason}"
    return f"{json_path(path)}: {reason}"


def hint(schema: Schema) -> str:
    """Say in one sentence what the answer must hold, in the words that small models follow best."""
    return f"Answer in JSON with {_words(schema)}."


def _grammar(schema: Schema) -> str:
    return f"%llguidance {{}}\nstart: %json {json.dumps(schema, ensure_ascii=False)}"


def _reason(schema: Schema) -> str | None:
    """Return why llguidance cannot compile a schema, or None where it can."""
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(_grammar(schema))
    if not failed:
        return None
    found = re.search(r"failed to compile JSON schema: (.*?)\n +\d+ \| ", messages[0] + "\n 0 | ", re.DOTALL)
    return " ".join((found[1] if found else messages[0]).split())


def _bounded(schema: Any, *, close: bool) -> Any:
    """Copy a schema with a bound on whatever has none; with `close`, objects get no keys but their own."""
    if not isinstance(schema, dict):
        return schema
    narrowed = dict(schema)
    for steps, child in _children(schema):
        _put(narrowed, steps, _bounded(child, close=close))
    kinds = schema.get("type", ())
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    if "string" in kinds and not {"maxLength", "enum", "const", "pattern", "format"} & schema.keys():
        narrowed["maxLength"] = max(_LONGEST_STRING, 2 * schema.get("minLength", 0))
    if "array" in kinds and "maxItems" not in schema:
        prefix = len(schema.get("prefixItems", ()))
        narrowed["maxItems"] = max(_LONGEST_LIST, prefix, schema.get("minItems", 0))
    if "object" in kinds and not {"maxProperties", "properties"} & schema.keys():
        narrowed["maxProperties"] = max(_LONGEST_LIST, schema.get("minProperties", 0))
    if close and _closable(schema):
        narrowed["additionalProperties"] = False
    return narrowed


def _closable(schema: Schema) -> bool:
    """Whether forbidding further keys leaves an object that can still be written."""
    named = schema.get("properties")
    if not isinstance(named, dict) or "additionalProperties" in schema or any(key in schema for key in _COMBINING):
        return False
    return all(name in named for name in schema.get("required", ())) and schema.get("minProperties", 0) <= len(named)


def _children(schema: Schema) -> Iterator[tuple[list[str | int], Schema]]:
    """Yield each schema directly inside a schema with the steps that lead to it."""
    places: list[tuple[list[str | int], Any]] = [([keyword], schema.get(keyword)) for keyword in _ONE]
    for keyword in _NAMED:
        inside = schema.get(keyword)
        places[:0] = [
            ([keyword, name], child) for name, child in (inside if isinstance(inside, dict) else {}).items()
        ]
    for keyword in _MANY:
        inside = schema.get(keyword)
        places += [
            ([keyword, index], child) for index, child in enumerate(inside if isinstance(inside, list) else ())
        ]
    yield from ((steps, child) for steps, child in places if isinstance(child, dict))


def _put(schema: Schema, steps: list[str | int], child: Any) -> None:
    """Replace the schema that `steps` lead to, without touching the original's containers."""
    if len(steps) == 1:
        schema[str(steps[0])] = child
        return
    keyword, key = steps
    held = schema[str(keyword)]
    schema[str(keyword)] = held = held.copy()
    held[key] = child


def _depth(value: Any) -> int:
    """Count the levels of nesting without recursion; stops counting where it is too deep anyway."""
    level, deep = [value], 0
    while level and deep <= _DEEPEST:
        deep += 1
        inside = [
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))
        ]
        level = [value for values in inside for value in values]
    return deep


def _words(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "any value"
    if "const" in schema:
        return f"the value {_spelled(schema['const'])}"
    if isinstance(choices := schema.get("enum"), list):
        return " or ".join(_spelled(choice) for choice in choices)
    if isinstance(named := schema.get("properties"), dict) and named:
        return "the keys " + ", ".join(_field(name, child) for name, child in named.items())
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


_KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "array": "list",
    "object": "object",
}
