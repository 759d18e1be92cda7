"""An answer to a fixed schema, back in the terms of the original: nulls that stand for "not there", letter case.

This module knows JSON values and schemas, and no models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bx.instances import checker, violation
from bx.schema import conditions

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_STEPS = 50_000  # schemas looked at: references may double the ways with each


def restore(value: Any, original: Any) -> Any:
    """Take an answer to a fixed schema back into the original's terms.

    A null is dropped where the original has the property as optional and does not admit null. Listed texts get the
    original's upper and lower case where exactly one matches. A value that satisfies the original stays as it is.

    Args:
        value: the answer, which stays as it is.
        original: the schema before it was fixed.
    """
    if not isinstance(original, dict) or not _is_broken(value, original):
        return value
    try:
        return _Restorer(original).value(value, [original])
    except (_TooMuchError, RecursionError, ValueError):  # circles, depth, or a pattern that takes too long
        return value


def _is_broken(value: Any, schema: Any) -> bool:
    try:
        return violation(value, schema) is not None
    except ValueError:  # the value is too deep to tell, and the validation that follows will say so
        return False


class _TooMuchError(Exception):
    """The schema has too many ways to look at a value."""


class _Restorer:
    """The steps that are left for one value and its schema."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = _MOST_STEPS
        self._refs_stand_alone = conditions.refs_stand_alone(root)
        self._patterns: dict[str, Callable[[Any], str | None]] = {}

    def value(self, value: Any, schemas: list[Any]) -> Any:
        """Restore a value that must satisfy all the schemas."""
        views = self._views(schemas)
        for view in views:
            for choice in ("anyOf", "oneOf"):
                value = self._chosen(value, view[choice]) if choice in view else value
        if isinstance(value, str):
            return self._spelled(value, views)
        if isinstance(value, list):
            return [self.value(item, _item_schemas(views, at)) for at, item in enumerate(value)]
        return self._object(value, views) if isinstance(value, dict) else value

    def _views(self, schemas: list[Any]) -> list[dict[str, Any]]:
        """Collect the schemas that hold at one place, through references and `allOf`."""
        views: list[dict[str, Any]] = []
        seen: set[int] = set()
        left = list(schemas)
        while left:
            schema = left.pop(0)
            self._step()
            if not isinstance(schema, dict) or id(schema) in seen:
                continue
            seen.add(id(schema))
            if "$ref" in schema and self._refs_stand_alone:
                left.append(conditions.referred(self._root, schema["$ref"]))
                continue
            views.append(schema)
            left += [*schema.get("allOf", ()), conditions.referred(self._root, schema.get("$ref"))]
        return views

    def _chosen(self, value: Any, branches: list[Any]) -> Any:
        if any(self._fits(value, branch) for branch in branches):
            return value
        tried = (self.value(value, [branch]) for branch in branches)
        return next((each for each, branch in zip(tried, branches, strict=True) if self._fits(each, branch)), value)

    def _object(self, value: dict[str, Any], views: list[dict[str, Any]]) -> dict[str, Any]:
        required = {name for view in views for name in view.get("required", ())}
        restored = {}
        for name, inner in value.items():
            schemas = [view["properties"][name] for view in views if name in view.get("properties", {})]
            matching = [schema for view in views for schema in self._matching(name, view)]
            rest = [
                view.get("additionalProperties")
                for view in views
                if name not in view.get("properties", {}) and not self._matching(name, view)
            ]
            is_absent = inner is None and name not in required and schemas
            if is_absent and not all(self._fits(None, schema) for schema in schemas):
                continue
            restored[name] = self.value(inner, [*schemas, *matching] or rest)
        return restored

    def _matching(self, name: str, view: dict[str, Any]) -> list[Any]:
        """List the schemas of the patterns that a key matches."""
        found = []
        for pattern, schema in view.get("patternProperties", {}).items():
            self._step()
            if pattern not in self._patterns:
                self._patterns[pattern] = checker({"pattern": pattern})
            if self._patterns[pattern](name) is None:
                found.append(schema)
        return found

    def _spelled(self, value: str, views: list[dict[str, Any]]) -> str:
        for view in views:
            listed = [view["const"]] if "const" in view else view.get("enum", [])
            texts: list[str] = [text for text in listed if isinstance(text, str)]
            alike = [text for text in texts if text.casefold() == value.casefold()]
            if value not in texts and len(alike) == 1:
                return alike[0]
        return value

    def _fits(self, value: Any, schema: Any) -> bool:
        """Whether a value satisfies a schema as far as types, listed values, keys and combinations tell."""
        if schema is False:
            return False
        return all(self._fits_view(value, view) for view in self._views([schema]))

    def _fits_view(self, value: Any, view: dict[str, Any]) -> bool:
        named = conditions.types(view)
        values = [view["const"]] if "const" in view else view.get("enum", [value])
        if named and not any(conditions.is_type(value, name) for name in named):
            return False
        if not any(conditions.same(value, each) for each in values):
            return False
        for choice in ("anyOf", "oneOf"):
            if choice in view and not any(self._fits(value, branch) for branch in view[choice]):
                return False
        if isinstance(value, list):
            return all(
                self._fits(item, schema) for at, item in enumerate(value) for schema in _item_schemas([view], at)
            )
        return not isinstance(value, dict) or self._fits_object(value, view)

    def _fits_object(self, value: dict[str, Any], view: dict[str, Any]) -> bool:
        if any(name not in value for name in view.get("required", ())):
            return False
        named, rest = view.get("properties", {}), view.get("additionalProperties", True)
        for name, inner in value.items():
            schemas = [*([named[name]] if name in named else ()), *self._matching(name, view)] or [rest]
            if not all(self._fits(inner, schema) for schema in schemas):
                return False
        return True

    def _step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _TooMuchError


def _item_schemas(views: list[dict[str, Any]], at: int) -> list[Any]:
    found = []
    for view in views:
        first = view.get("prefixItems", view["items"] if isinstance(view.get("items"), list) else [])
        if at < len(first):
            found.append(first[at])
        elif not isinstance(view.get("items", []), list):
            found.append(view["items"])
    return found
