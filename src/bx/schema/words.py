"""Constraints in plain English, for a model that is told what nothing holds it to.

This module knows JSON Schema's keywords, and no model.
"""

from __future__ import annotations

import json
from typing import Any

_SENTENCES = {
    "minLength": "At least {} characters.",
    "maxLength": "At most {} characters.",
    "minimum": "At least {}.",
    "maximum": "At most {}.",
    "exclusiveMinimum": "More than {}.",
    "exclusiveMaximum": "Less than {}.",
    "multipleOf": "A multiple of {}.",
    "minItems": "At least {} items.",
    "maxItems": "At most {} items.",
    "minProperties": "At least {} keys.",
    "maxProperties": "At most {} keys.",
    "pattern": "Matches the regular expression {}.",
    "format": "Format: {}.",
    "uniqueItems": "No item comes twice.",
    "if": "Where it satisfies the JSON Schema {}, the next holds.",
    "then": "Then it satisfies the JSON Schema {}.",
    "else": "Else it satisfies the JSON Schema {}.",
    "not": "Does not satisfy the JSON Schema {}.",
    "oneOf": "Satisfies exactly one of the JSON Schemas {}.",
    "anyOf": "Satisfies at least one of the JSON Schemas {}.",
    "contains": "Holds items that satisfy the JSON Schema {}.",
    "minContains": "At least {} such items.",
    "maxContains": "At most {} such items.",
    "propertyNames": "Each key satisfies the JSON Schema {}.",
    "patternProperties": "Keys that match a regular expression have values that satisfy its JSON Schema: {}.",
}
# Keyword -> the value with which it says nothing.
_EMPTY = {
    "minLength": 0, "minItems": 0, "minProperties": 0, "uniqueItems": False,
    "exclusiveMinimum": False, "exclusiveMaximum": False,
    "propertyNames": True, "unevaluatedProperties": True, "unevaluatedItems": True,
    "additionalItems": True,
}  # fmt: skip
_FOLLOWED = {"then": "if", "else": "if", "minContains": "contains", "maxContains": "contains"}


def sentence(node: dict[str, Any], keyword: str) -> str:
    """Say what a keyword of a schema asks for; empty where it asks for nothing."""
    value = node[keyword]
    if _says_nothing(node, keyword):
        return ""
    if keyword in ("exclusiveMinimum", "exclusiveMaximum") and value is True:
        return f"The {'lower' if keyword == 'exclusiveMinimum' else 'upper'} bound itself is excluded."
    if keyword == "dependentRequired":
        return " ".join(f"With {name}, {' and '.join(also)} must be there." for name, also in value.items() if also)
    said = _SENTENCES.get(keyword, f"JSON Schema's {keyword}: {{}}.").format(_spelled(value))
    return said.removesuffix("s.") + "." if value == 1 and said.endswith("s.") else said


def _says_nothing(node: dict[str, Any], keyword: str) -> bool:
    above = _FOLLOWED.get(keyword, keyword)
    return above not in node or (keyword in _EMPTY and node[keyword] == _EMPTY[keyword])


def joined(*texts: Any) -> str:
    """Join sentences with blanks; what is no text, or there already, is left out.

    What another sentence follows gets a full stop, unless it has its own end.
    """
    kept = list(dict.fromkeys(text for text in texts if isinstance(text, str) and text.strip()))
    closed = [text if text[-1:] in _ENDS else f"{text}." for text in map(str.rstrip, kept[:-1])]
    return " ".join([*closed, *kept[-1:]])


_ENDS = tuple(".:;,!?…。！？")  # noqa: RUF001 # the marks of other languages


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
