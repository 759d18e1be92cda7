"""What a JSON Schema leaves out: its exact opposite, and whether two schemas exclude each other.

Both are written in the keywords of Draft 2020-12, into which `modern` brings the keywords of the older drafts. An
opposite that cannot be written exactly is None, and what cannot be proven to be disjoint counts as overlapping; so
does whatever takes too many steps. This module knows no grammar and no model.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bx.schema import walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Schema = dict[str, Any]
Found = Schema | bool

_STEPS = 5_000  # for all opposites and comparisons within one schema
_MOST_VALUES = 64  # of an `enum` whose opposite is written
_LONGEST_VALUES = 2_000  # characters of those that are strings, together
_LONGEST_VALUE = 100  # characters of one of them: as deep is its expression nested
_KINDS = ("null", "boolean", "object", "array", "number", "string")
_DRAFTS = {"draft-03": 4, "draft-04": 4, "draft-06": 6, "draft-07": 7, "2019-09": 2019}
# The draft in which a keyword came: before it, the keyword says nothing.
_SINCE = {
    "const": 6, "contains": 6, "propertyNames": 6, "if": 7, "then": 7, "else": 7, "dependentRequired": 2019,
    "dependentSchemas": 2019, "unevaluatedItems": 2019, "unevaluatedProperties": 2019, "minContains": 2019,
    "maxContains": 2019, "prefixItems": 2020,
}  # fmt: skip
# A limit -> the type it speaks of, and the limit and distance by which it is broken.
_BROKEN_BY = {
    "minimum": ("number", "exclusiveMaximum", 0),
    "maximum": ("number", "exclusiveMinimum", 0),
    "exclusiveMinimum": ("number", "maximum", 0),
    "exclusiveMaximum": ("number", "minimum", 0),
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
    "maxProperties": ("object", "minProperties", 1),
}
_RANGES = {
    "number": ("minimum", "maximum"),
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
}
# Keywords that limit what is admitted, and whose opposite is not written here.
_CLOSED = {
    "additionalProperties", "dependentRequired", "dependentSchemas", "format", "items", "maxContains", "minContains",
    "multipleOf", "oneOf", "pattern", "patternProperties", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties", "uniqueItems", "$dynamicRef", "$recursiveRef",
}  # fmt: skip


class Opposites:
    """The opposites within one schema.

    Args:
        root: the whole schema, for its draft and its references.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._steps = _STEPS
        named = str(root.get("$schema", ""))
        self.draft = next((number for name, number in _DRAFTS.items() if name in named), 2020)

    def modern(self, schema: Schema) -> Schema:
        """Bring a schema's own keywords, not those of the schemas inside it, into Draft 2020-12."""
        if "$ref" in schema and self.draft <= 7:  # noqa: PLR2004 # there, nothing counts beside a reference
            return {name: schema[name] for name in ("$ref", "$defs", "definitions") if name in schema}
        made = {name: value for name, value in schema.items() if _SINCE.get(name, 0) <= self.draft}
        if self.draft == 4:  # noqa: PLR2004 # the draft
            _renumber(made)
        rest = made.pop("additionalItems", None)
        if isinstance(made.get("items"), list):
            made["prefixItems"] = made.pop("items")
            made |= {} if rest is None else {"items": rest}
        for name, needed in (made.pop("dependencies", None) or {}).items():
            keyword = "dependentRequired" if isinstance(needed, list) else "dependentSchemas"
            made[keyword] = {name: needed} | made.get(keyword, {})
        return made

    def resolved(self, schema: Found) -> Found | None:
        """Follow a schema that is nothing but a reference; None where it leads nowhere."""
        for _ in range(10):
            if isinstance(schema, bool):
                return schema
            made = self.modern(schema)
            if "$ref" not in made or made.keys() - {"$ref", "$defs", "definitions", "title", "description"}:
                return made
            try:
                schema = walk.target(self._root, made["$ref"])
            except LookupError:
                return None
        return None

    def opposite(self, schema: Found) -> Found | None:
        """Return the schema that admits exactly what this one does not, or None."""
        self._steps -= 1
        if self._steps < 0 or (found := self.resolved(schema)) is None:
            return None
        if isinstance(found, bool):
            return not found
        if found.keys() & _CLOSED - self._idle(found) or "$ref" in found:
            return None
        choices: list[Found | None] = [choice for keyword in found for choice in self._choices(keyword, found)]
        return either(choices)

    def disjoint(self, one: Found, other: Found) -> bool:
        """Whether no value is admitted by both, as far as that can be proven."""
        self._steps -= 1
        first, second = self.resolved(one), self.resolved(other)
        if self._steps < 0 or first is None or second is None:
            return False
        if isinstance(first, bool) or isinstance(second, bool):
            return first is False or second is False
        for here, there in ((first, second), (second, first)):
            if any(self.disjoint(part, there) for part in here.get("allOf", ())):
                return True
            for word in ("anyOf", "oneOf"):
                if here.get(word) and all(self.disjoint(choice, there) for choice in here[word]):
                    return True
        kinds = _kinds(first) & _kinds(second)
        return not kinds or _other_values(first, second) or self._apart(first, second, kinds)

    def _apart(self, one: Schema, other: Schema, kinds: set[str]) -> bool:
        """Whether two schemas of the same type exclude each other by their limits or their keys."""
        kind = next(iter(kinds))
        if len(kinds) == 1 and kind in _RANGES:
            least, most = _RANGES[kind]
            pairs = ((one, other), (other, one))
            return any(here[most] < there[least] for here, there in pairs if most in here and least in there)
        if kinds != {"object"}:
            return False
        named, others = one.get("properties", {}), other.get("properties", {})
        for name in dict.fromkeys([*one.get("required", ()), *other.get("required", ())]):
            if self.disjoint(_property(one, name, named), _property(other, name, others)):
                return True
        return False

    def _idle(self, schema: Schema) -> set[str]:
        """Keywords that limit nothing the way they stand here."""
        return {name for name in ("items", "additionalProperties") if schema.get(name) in ({}, True)}

    def _choices(self, keyword: str, schema: Schema) -> Iterator[Found | None]:
        """Yield the ways in which a keyword can be broken."""
        value = schema[keyword]
        if keyword in _BROKEN_BY:
            kind, limit, distance = _BROKEN_BY[keyword]
            if value + distance >= 0 or kind == "number":
                yield {"type": kind, limit: value + distance}
        elif keyword == "type":
            yield _other_kinds(value)
        elif keyword in ("const", "enum"):
            yield _other_than([value] if keyword == "const" else value)
        elif keyword == "required":
            yield from ({"type": "object", "properties": {name: False}} for name in value)
        elif keyword == "properties":
            for name, child in value.items():
                yield _with(self.opposite(child), lambda found, name=name: _holding(name, found))
        elif keyword == "prefixItems":
            for at, child in enumerate(value):
                yield _with(self.opposite(child), lambda found, at=at: _item(at, found))
        else:
            yield from self._combined(keyword, schema)

    def _combined(self, keyword: str, schema: Schema) -> Iterator[Found | None]:
        value = schema[keyword]
        if keyword == "not":
            yield value
        elif keyword == "allOf":
            yield from (self.opposite(part) for part in value)
        elif keyword == "anyOf":
            yield both([self.opposite(choice) for choice in value])
        elif keyword == "contains" and not {"minContains", "maxContains"} & schema.keys():
            yield _with(self.opposite(value), lambda found: {"type": "array", "items": found})
        elif keyword == "contains":
            yield None
        elif keyword == "if":
            yield both([value, self.opposite(schema.get("then", True))])
            yield both([self.opposite(value), self.opposite(schema.get("else", True))])


def either(choices: list[Found | None]) -> Found | None:
    """Combine schemas of which one must hold; None where one of them is None."""
    if any(choice is None for choice in choices):
        return None
    left = [choice for choice in choices if choice is not False]
    if any(choice is True for choice in left):
        return True
    return False if not left else left[0] if len(left) == 1 else {"anyOf": left}


def both(parts: list[Found | None]) -> Found | None:
    """Combine schemas that must all hold; None where one of them is None."""
    if any(part is None for part in parts):
        return None
    left = [part for part in parts if part is not True]
    if any(part is False for part in left):
        return False
    return True if not left else left[0] if len(left) == 1 else {"allOf": left}


def values_of(schema: Found | None) -> list[Any] | None:
    """Return the values of a schema that lists them, each once, or None."""
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return [schema["const"]]
    if schema.get("type") == "boolean" and "enum" not in schema:
        return [True, False]
    listed = schema.get("enum")
    return list({canonical(value): value for value in listed}.values()) if isinstance(listed, list) else None


def canonical(value: Any) -> str:
    """Spell a JSON value so that equal values are spelled alike: 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(name)}:{canonical(value[name])}' for name in sorted(value))}}}"
    return json.dumps(value)


def _renumber(schema: Schema) -> None:
    """Draft 4 says by a bool whether a limit is exclusive, and spells `$id` without its sign."""
    for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.pop(exclusive, None) is True and limit in schema:
            schema[exclusive] = schema.pop(limit)
    if isinstance(schema.get("id"), str):
        schema.setdefault("$id", schema.pop("id"))


def _kinds(schema: Schema) -> set[str]:
    """The types of what a schema may admit, whole numbers being numbers."""
    listed = values_of(schema)
    if listed is not None:
        return {_kind(value) for value in listed}
    kinds = schema.get("type", _KINDS)
    return {"number" if kind == "integer" else kind for kind in ([kinds] if isinstance(kinds, str) else kinds)}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object" if isinstance(value, dict) else "null"


def _other_kinds(kinds: Any) -> Found | None:
    named = {kinds} if isinstance(kinds, str) else set(kinds)
    if "integer" in named and "number" not in named:
        return None  # no keyword says that a number is not whole
    left = [kind for kind in _KINDS if kind not in named]
    return {"type": left} if left else False


def _other_values(one: Schema, other: Schema) -> bool:
    listed, others = values_of(one), values_of(other)
    if listed is None or others is None:
        return False
    return not {canonical(value) for value in listed} & {canonical(value) for value in others}


def _property(schema: Schema, name: str, named: Schema) -> Found:
    """What a schema wants of a key that is there."""
    if name in named or schema.get("patternProperties"):
        found: Found = named.get(name, True)
        return found
    rest: Found = schema.get("additionalProperties", True)
    return rest


def _with(found: Found | None, make: Any) -> Found | None:
    return make(found) if found else found


def _holding(name: str, schema: Found) -> Schema:
    return {"type": "object", "properties": {name: schema}, "required": [name]}


def _item(at: int, schema: Found) -> Schema:
    return {"type": "array", "prefixItems": [*[True] * at, schema], "minItems": at + 1}


def _other_than(values: list[Any]) -> Found | None:
    """Return the schema of every value but these."""
    if len(values) > _MOST_VALUES:
        return None
    kinds = {_kind(value) for value in values}
    choices: list[Found | None] = [_other_kinds(sorted(kinds))]
    for kind in sorted(kinds):
        of_kind = [value for value in values if _kind(value) == kind]
        choices.append(_others_of_kind(kind, of_kind))
    return either(choices)


def _others_of_kind(kind: str, values: list[Any]) -> Found | None:
    if kind == "string":
        sizes = [len(value) for value in values]
        short = sum(sizes) <= _LONGEST_VALUES and max(sizes) <= _LONGEST_VALUE
        return {"type": "string", "pattern": f"^{_spelled_otherwise(set(values))}$"} if short else None
    if kind == "number":
        return either(list(_between(sorted(set(values)))))
    if kind == "boolean":
        return either([{"const": value} for value in (True, False) if value not in values])
    return False if kind == "null" else both([_other_container(value) for value in values])


def _between(numbers: list[float]) -> Iterator[Schema]:
    """Yield the ranges that numbers leave between them."""
    for least, most in zip([None, *numbers], [*numbers, None], strict=True):
        lower = {} if least is None else {"exclusiveMinimum": least}
        yield {"type": "number"} | lower | ({} if most is None else {"exclusiveMaximum": most})


def _other_container(value: list[Any] | dict[str, Any]) -> Found | None:
    """Return the schema of every list but this one, or every object but this one."""
    size = len(value)
    if isinstance(value, list):
        longer: Schema = {"type": "array", "minItems": size + 1}
        choices = [_with(_other_than([item]), lambda found, at=at: _item(at, found)) for at, item in enumerate(value)]
        shorter: list[Found | None] = [{"type": "array", "maxItems": size - 1}] if size else []
        return either([longer, *shorter, *choices])
    more: Schema = {"type": "object", "minProperties": size + 1}
    without: Iterable[Found] = ({"type": "object", "properties": {name: False}} for name in value)
    changed = [
        _with(_other_than([item]), lambda found, name=name: _holding(name, found)) for name, item in value.items()
    ]
    return either([more, *without, *changed])


def _spelled_otherwise(words: set[str]) -> str:
    """Return the regular expression of every text but these."""
    by_first: dict[str, set[str]] = {}
    for word in words - {""}:
        by_first.setdefault(word[0], set()).add(word[1:])
    firsts = "".join(f"\\u{{{ord(first):x}}}" for first in sorted(by_first))
    longer = [f"[^{firsts}](?s:.)*" if firsts else "(?s:.)+"]
    longer += [_letter(first) + _spelled_otherwise(rest) for first, rest in sorted(by_first.items())]
    return f"(?:{'|'.join(longer)}){'' if '' in words else '?'}"


def _letter(letter: str) -> str:
    return letter if letter.isalnum() and letter.isascii() else f"\\u{{{ord(letter):x}}}"
