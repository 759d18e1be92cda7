"""A minimal instance of a JSON Schema: required properties only, the shortest texts, the smallest numbers.

Values are proposed, and what is returned was validated: where no proposal fits, there is an error instead. The work
is bounded, whatever the schema asks for. This module knows no files and no models.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from bx import instances
from bx.schema import values, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

Schema = dict[str, Any]
Path = tuple[str | int, ...]

_STEPS = 50_000  # of work: schemas looked at, and values made
_A_STEP = 20  # properties and listed values: merging looks at all of them again
_CHECKS = 400  # of proposals against a part of the schema
_TRIES, _TRIES_EACH = 300, 60  # proposals for one place, and for each way to satisfy its schema
_DEEPEST = 40  # levels of the instance, and references in a row
_DEPTHS = (4, 8, 16, _DEEPEST)  # tried in this order: what refers to itself shall end early
_LONGEST = 5_000  # characters of a text, or items of a list
_TYPES = ("null", "string", "integer", "number", "boolean", "array", "object")
_HINTS = {  # type -> the keywords that speak of it
    "object": ("properties", "required", "additionalProperties", "patternProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems", "contains"),
    "string": ("pattern", "minLength", "maxLength", "format"),
    "number": ("minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"),
}
_COMBINING = ("$ref", "allOf", "anyOf", "oneOf", "if", "then", "else")
# A proposal that follows all other keywords is right by the way it was made.
_CHECKED = (
    *_COMBINING, "not", "pattern", "format", "contains", "uniqueItems", "patternProperties", "propertyNames",
    "dependencies", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems", "enum", "const", "default",
    "examples", "maxProperties", "maxItems", "maxLength", "$dynamicRef", "$recursiveRef", "multipleOf",
)  # fmt: skip
_LEAST = ("minimum", "minLength", "minItems", "minProperties")
_MOST = ("maximum", "maxLength", "maxItems", "maxProperties")


class NoExample(ValueError):
    """No instance could be made, at a JSON path."""

    exit_code = 8
    fix = "Loosen the schema at that place, or give a valid value in its `examples`"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"No example can be made: {instances.json_path(path)}: {why}")


def example(schema: dict[str, Any]) -> Any:
    """Make a minimal instance that satisfies a schema.

    Raises:
        NoExample: none was found, or nothing can satisfy the schema; names the place in the instance.
        ValueError: the schema is no valid JSON Schema.
    """
    if walk.depth(schema) > walk.DEEPEST:
        raise NoExample((), f"the schema is nested more than {walk.DEEPEST} levels deep")
    instances.violation(None, schema)
    value = _made(schema)
    if broken := instances.violation(value, schema):
        raise NoExample((), f"the best try breaks it at {broken}")
    return value


def _made(schema: Schema) -> Any:
    for deepest in _DEPTHS:
        try:
            return _Maker(schema, deepest).made(schema, ())
        except NoExample as failure:
            last = failure
    raise last


class _Maker:
    """Makes instances for the parts of one schema, and counts the work."""

    def __init__(self, root: Schema, deepest: int) -> None:
        self._root = root
        self._deepest = deepest
        self._steps = _STEPS
        self._checks = _CHECKS

    def made(self, schema: Any, path: Path) -> Any:
        """Return the first proposal that fits."""
        return self.several(schema, path, 1)[0]

    def several(self, schema: Any, path: Path, count: int) -> list[Any]:
        """Return different values that fit."""
        if len(path) > self._deepest:
            raise NoExample(path[:4], f"it goes on for more than {self._deepest} levels")
        found: list[Any] = []
        keys: set[str] = set()
        failures: list[NoExample] = []
        for value in itertools.islice(self._proposals(schema, path, failures, count), _TRIES + 2 * count):
            self._spend(path)
            key = instances.canonical(value) if count > 1 else str(len(keys))
            if key not in keys and self._fits(value, schema):
                keys.add(key)
                found.append(value)
                if len(found) == count:
                    return found
        if failures:
            raise failures[0]
        why = "no value was found that fits" if not found else f"only {len(found)} of {count} different values"
        raise NoExample(path, why)

    def _spend(self, path: Path, steps: int = 1) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise _Exhausted(path, "the schema asks for too much")

    def _fits(self, value: Any, schema: Any) -> bool:
        if not isinstance(schema, dict) or not any(keyword in schema for keyword in _CHECKED):
            return True
        self._checks -= 1
        if self._checks < 0:  # the whole is validated in the end
            return True
        outer: Schema = {name: self._root[name] for name in ("$defs", "definitions", "$schema") if name in self._root}
        try:
            return instances.violation(value, self._root if schema is self._root else {**outer, **schema}) is None
        except ValueError:  # a reference to elsewhere in the whole
            return True

    # ---- combinations -----------------------------------------------------------------------------------------

    def _proposals(self, schema: Any, path: Path, failures: list[NoExample], count: int) -> Iterator[Any]:
        for plain in self._plain(schema, path):
            try:
                yield from itertools.islice(self._values(plain, path), _TRIES_EACH + 2 * count)
            except _Exhausted:
                raise
            except NoExample as failure:
                failures.append(failure)

    def _plain(self, schema: Any, path: Path) -> Iterator[Schema]:
        """Yield schemas without references and combinations, each a way to satisfy this one."""
        left: list[tuple[Schema, list[Any], int]] = [({}, [schema], 0)]
        while left:
            plain, todo, followed = left.pop()
            while todo and plain is not None:
                self._spend(path, 1 + _held(plain) // _A_STEP)
                part = todo.pop()
                if part is False:
                    break
                if part is True:
                    continue
                plain = _both(plain, {key: value for key, value in part.items() if key not in _COMBINING})
                if "$ref" in part:
                    followed += 1
                    todo += self._target(part["$ref"]) if followed <= _DEEPEST else [False]
                todo += reversed(part.get("allOf", []))
                options = _options(part)
                if options:
                    left += [(plain, [*todo, *option], followed) for option in reversed(options)]
                    break
            else:
                yield plain

    def _target(self, reference: str) -> list[Any]:
        try:
            return [walk.target(self._root, reference)]
        except LookupError:
            return [True]  # by an anchor or an identifier: the validation will tell

    # ---- values -----------------------------------------------------------------------------------------------

    def _values(self, plain: Schema, path: Path) -> Iterator[Any]:
        if "const" in plain:
            yield plain["const"]
        elif "enum" in plain:
            yield from plain["enum"]
        else:
            yield from _suggested(plain)
            for kind in _types(plain):
                yield from self._of_type(kind, plain, path)

    def _of_type(self, kind: str, plain: Schema, path: Path) -> Iterator[Any]:
        if kind == "object":
            return self._objects(plain, path)
        if kind == "array":
            return self._arrays(plain, path)
        if kind == "string" and plain.get("minLength", 0) > _LONGEST:
            raise NoExample(path, f"{plain['minLength']} characters are too many")
        return values.OF_TYPE[kind](plain) if kind in values.OF_TYPE else iter(_CONSTANTS[kind])

    def _objects(self, plain: Schema, path: Path) -> Iterator[Any]:
        required = dict.fromkeys(plain.get("required", []))
        properties = plain.get("properties", {})
        names = [
            *(name for name in properties if name in required),
            *(name for name in required if name not in properties),
        ]
        minimal = self._object(plain, path, names)
        yield minimal
        yield self._object(plain, path, [*names, *(name for name in properties if name not in required)])
        for name in names:  # other values, where several different objects are asked for
            inner = self._property(plain, name)
            proposals = itertools.islice(self._proposals(inner, (*path, name), [], 1), _TRIES)
            yield from ({**minimal, name: value} for value in proposals if self._fits(value, inner))

    def _object(self, plain: Schema, path: Path, names: list[str]) -> Any:
        least, made = plain.get("minProperties", 0), dict[str, Any]()
        self._spend(path, int(min(least, _STEPS + 1)))
        needs = {**plain.get("dependencies", {}), **plain.get("dependentRequired", {})}
        todo = [*reversed(names)]
        spare = self._spare_names(plain, path)
        while todo or len(made) < least:
            name = todo.pop() if todo else next(spare, None)
            if name is None:
                raise NoExample(path, f"it needs {least} properties, and admits {len(made)}")
            if name not in made:
                made[name] = self.made(self._property(plain, name), (*path, name))
                todo += [other for other in needs.get(name, []) if isinstance(needs[name], list)]
        return made

    def _property(self, plain: Schema, name: str) -> Any:
        patterns = [
            inner
            for expression, inner in plain.get("patternProperties", {}).items()
            if self._fits(name, {"pattern": expression})
        ]
        own = [plain["properties"][name]] if name in plain.get("properties", {}) else []
        found = [*own, *patterns] or [plain.get("additionalProperties", True)]
        return found[0] if len(found) == 1 else {"allOf": found}

    def _spare_names(self, plain: Schema, path: Path) -> Iterator[str]:
        """Propose names for the properties that `minProperties` still asks for."""
        yield from plain.get("properties", {})
        for expression in plain.get("patternProperties", {}):
            yield from itertools.islice(values.matches(expression), _TRIES)
        if plain.get("additionalProperties", True) is not False:
            names = plain.get("propertyNames", {})
            yield from (
                name for name in itertools.islice(self._proposals(names, path, [], 1), _TRIES) if _is_text(name)
            )
            yield from (f"key{number}" for number in range(_LONGEST))

    def _arrays(self, plain: Schema, path: Path) -> Iterator[Any]:
        items = plain.get("items", True)
        tuple_items = plain.get("prefixItems", items if isinstance(items, list) else [])
        rest = plain.get("additionalItems", True) if isinstance(items, list) else items
        wanted = int(plain.get("minContains", 1)) if "contains" in plain else 0
        least = int(max(plain.get("minItems", 0), wanted))
        if least > _LONGEST:
            raise NoExample(path, f"{least} items are too many")
        made = [self.made(inner, (*path, at)) for at, inner in enumerate(tuple_items[:least])]
        holding = {"allOf": [rest, plain["contains"]]} if wanted else rest
        made += self._items(holding, path, min(wanted, least - len(made)), plain)
        yield made + self._items(rest, path, least - len(made), plain, made)

    def _items(
        self, schema: Any, path: Path, count: int, plain: Schema, before: list[Any] | None = None
    ) -> list[Any]:
        if count <= 0:
            return []
        at = (*path, len(before or []))
        if plain.get("uniqueItems"):
            known = {instances.canonical(value) for value in before or []}
            values = (
                self.several(schema, at, min(count + len(known), _LONGEST))
                if not known
                else self._fresh(schema, at, count, known)
            )
            return values[:count]
        value = self.made(schema, at)
        self._spend(path, count * _size(value))
        return [value] * count

    def _fresh(self, schema: Any, path: Path, count: int, known: set[str]) -> list[Any]:
        """Make different values that are none of those that are known."""
        for extra in range(len(known) + 1):
            values = [
                value
                for value in self.several(schema, path, count + extra)
                if instances.canonical(value) not in known
            ]
            if len(values) >= count:
                return values
        raise NoExample(path, f"no {count} different values were found")


class _Exhausted(NoExample):
    """There was too much to do."""


# ---- schemas --------------------------------------------------------------------------------------------------


def _options(part: Schema) -> list[list[Any]]:
    """List the ways to satisfy a schema's alternatives, each as schemas that hold together."""
    ways: list[list[Any]] = [[]]
    for keyword in ("anyOf", "oneOf"):
        if keyword in part:
            ways = [[*way, option] for way in ways for option in part[keyword]][:_TRIES]
    if "if" in part:
        chosen = ([part.get("else", True)], [part["if"], part.get("then", True)])
        ways = [[*way, *more] for way in ways for more in chosen]
    return ways if ways != [[]] else []


def _both(first: Schema, second: Schema) -> Schema:
    """Join the keywords of two schemas; where they cannot be joined the first one's stays."""
    both = {**second, **first}
    for keyword in first.keys() & second.keys():
        one, other = first[keyword], second[keyword]
        if keyword == "properties":
            both[keyword] = {
                name: {"allOf": [one[name], other[name]]}
                if name in one and name in other
                else one.get(name, other.get(name))
                for name in {**one, **other}
            }
        elif keyword == "required" and isinstance(one, list):
            both[keyword] = [*dict.fromkeys([*one, *other])]
        elif keyword in _LEAST:
            both[keyword] = max(one, other)
        elif keyword in _MOST:
            both[keyword] = min(one, other)
        elif keyword == "type":
            both[keyword] = _shared_types(one, other)
        elif keyword == "enum":
            keys = {instances.canonical(value) for value in other}
            both[keyword] = [value for value in one if instances.canonical(value) in keys]
        elif keyword in ("items", "additionalProperties") and not isinstance(one, list) and one != other:
            both[keyword] = {"allOf": [one, other]}
    return both


def _held(plain: Schema) -> int:
    return sum(len(plain.get(keyword, ())) for keyword in ("properties", "required", "enum"))


def _shared_types(one: Any, other: Any) -> list[str]:
    first, second = ([kinds] if isinstance(kinds, str) else kinds for kinds in (one, other))
    wide = {*second, "integer"} if "number" in second else {*second}
    narrow = ["integer"] if "integer" in second and "number" in first and "integer" not in first else []
    return [kind for kind in first if kind in wide] + narrow


def _types(plain: Schema) -> list[str]:
    kinds = plain.get("type")
    if kinds is None:
        hinted = [kind for kind, keywords in _HINTS.items() if any(keyword in plain for keyword in keywords)]
        return [*hinted, *(kind for kind in _TYPES if kind not in hinted)]
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _suggested(plain: Schema) -> list[Any]:
    examples = plain.get("examples", [])
    default = [plain["default"]] if "default" in plain else []
    return default + (examples if isinstance(examples, list) else [])


def _size(value: Any) -> int:
    """Count the values in a value."""
    left, size = [value], 0
    while left:
        item = left.pop()
        size += 1
        left += item.values() if isinstance(item, dict) else item if isinstance(item, list) else []
    return size


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_CONSTANTS: dict[str, list[Any]] = {"null": [None], "boolean": [False, True]}
