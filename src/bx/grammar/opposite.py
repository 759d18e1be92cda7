"""What a JSON Schema leaves out: its exact opposite, and whether two schemas exclude each other.

Both are read and written in the keywords of Draft 2020-12. An
opposite that cannot be written exactly is None, and what cannot be proven to be disjoint counts as overlapping; so
does whatever takes too many steps. This module knows no grammar and no model.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from bx.instances import canonical
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
_DEEPEST = 40  # opposites within opposites: references may lead in a circle
QUOTED = '"\\'  # what a class such as [^"] does not exclude for the grammar engine, as JSON writes two characters
_EXACT = 2**53  # larger whole numbers are rounded by the grammar engine
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
        root: the whole schema in Draft 2020-12, for its references.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._steps = _STEPS
        self._depth = 0
        self._named = has_names(root)

    def resolved(self, schema: Found) -> Found | None:
        """Follow a schema that is nothing but a reference; None where it leads nowhere."""
        for _ in range(10):
            if isinstance(schema, bool):
                return schema
            if "$ref" not in schema or schema.keys() - {"$ref", "$defs", "definitions", "title", "description"}:
                return schema
            if self._named:
                return None
            try:
                schema = walk.target(self._root, schema["$ref"])
            except LookupError:
                return None
        return None

    def opposite(self, schema: Found) -> Found | None:
        """Return the schema that admits exactly what this one does not, or None."""
        with self._step() as free:
            if not free or (found := self.resolved(schema)) is None:
                return None
            if isinstance(found, bool):
                return not found
            if found.keys() & _CLOSED - self._idle(found) or "$ref" in found:
                return None
            choices: list[Found | None] = [choice for keyword in found for choice in self._choices(keyword, found)]
            return either(choices)

    def disjoint(self, one: Found, other: Found) -> bool:
        """Whether no value is admitted by both, as far as that can be proven."""
        with self._step() as free:
            first, second = self.resolved(one), self.resolved(other)
            if not free or first is None or second is None:
                return False
            if isinstance(first, bool) or isinstance(second, bool):
                return first is False or second is False
            return self._exclude(first, second)

    @contextlib.contextmanager
    def _step(self) -> Iterator[bool]:
        """Go one level deeper; False where that is too deep, or the steps are spent."""
        self._steps -= 1
        self._depth += 1
        yield self._steps >= 0 and self._depth <= _DEEPEST
        self._depth -= 1

    def _exclude(self, first: Schema, second: Schema) -> bool:
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
            yield from _broken(keyword, value)
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
        fits = "enum" not in schema or canonical(schema["const"]) in map(canonical, schema["enum"])
        return [schema["const"]] if fits else []
    if schema.get("type") == "boolean" and "enum" not in schema:
        return [True, False]
    listed = schema.get("enum")
    return list({canonical(value): value for value in listed}.values()) if isinstance(listed, list) else None


def has_names(root: Schema) -> bool:
    """Whether a schema inside has a name of its own, so that a reference may lead elsewhere than its text says."""
    names = {"$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"}
    return any(names & node.keys() for path, node in walk.nodes(root) if path) or "$anchor" in root


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


def _broken(keyword: str, value: Any) -> Iterator[Found | None]:
    kind, limit, distance = _BROKEN_BY[keyword]
    if abs(value) > _EXACT:
        yield None
    elif value + distance >= 0 or kind == "number":
        yield {"type": kind, limit: value + distance}


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
        if any(sign in value for value in values for sign in QUOTED):
            return None
        short = sum(sizes) <= _LONGEST_VALUES and max(sizes) <= _LONGEST_VALUE
        return {"type": "string", "pattern": f"^{spelled_otherwise(set(values))}$"} if short else None
    if kind == "number" and any(abs(value) > _EXACT for value in values):
        return None
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


def spelled_otherwise(words: set[str]) -> str:
    """Return the regular expression of every text but these."""
    by_first: dict[str, set[str]] = {}
    for word in words - {""}:
        by_first.setdefault(word[0], set()).add(word[1:])
    firsts = "".join(f"\\u{{{ord(first):x}}}" for first in sorted(by_first))
    longer = [f"[^{firsts}](?s:.)*" if firsts else "(?s:.)+"]
    longer += [_letter(first) + spelled_otherwise(rest) for first, rest in sorted(by_first.items())]
    return f"(?:{'|'.join(longer)}){'' if '' in words else '?'}"


def _letter(letter: str) -> str:
    return letter if letter.isalnum() and letter.isascii() else f"\\u{{{ord(letter):x}}}"
