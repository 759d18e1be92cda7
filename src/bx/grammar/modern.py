"""A JSON Schema of any draft from 4 on as one of Draft 2020-12, the whole of it at once.

Nothing is rewritten but for the draft. This module knows no grammar and no model.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from bx.grammar.opposite import has_names
from bx.schema import walk

if TYPE_CHECKING:
    from bx.grammar.opposite import Found, Schema

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_DRAFTS = {"draft-03": 4, "draft-04": 4, "draft-06": 6, "draft-07": 7, "2019-09": 2019}
# The draft in which a keyword came: before it, the keyword says nothing.
_SINCE = {
    "const": 6, "contains": 6, "propertyNames": 6, "if": 7, "then": 7, "else": 7, "dependentRequired": 2019,
    "dependentSchemas": 2019, "unevaluatedItems": 2019, "unevaluatedProperties": 2019, "minContains": 2019,
    "maxContains": 2019, "prefixItems": 2020,
}  # fmt: skip
_COUNTS = {f"{bound}{what}" for bound in ("min", "max") for what in ("Length", "Items", "Properties", "Contains")}
DEFINITIONS = ("$defs", "definitions")


class Modern:
    """A schema brought into Draft 2020-12 as a whole, and where each schema in it comes from.

    What a reference leads to is copied to `$defs` where it is no definition already: its place may be rewritten.
    """

    def __init__(self, root: Schema) -> None:
        named = str(root.get("$schema", ""))
        self._draft = next((number for name, number in _DRAFTS.items() if name in named), 2020)
        self._root = root
        self._moved: dict[str, str] = {}
        self.paths: dict[int, walk.Path] = {}
        self.keywords: dict[walk.Path, list[str]] = {}
        old = "id" if self._draft == 4 else "$id"  # noqa: PLR2004 # the draft
        self._fixed = has_names(root) or any(old in node for path, node in walk.nodes(root) if path)
        self.schema = self._brought(root, ())
        self.schema["$schema"] = DRAFT
        done: Schema = {}
        while left := self._moved.keys() - done.keys():
            for reference in sorted(left):
                done[reference] = self._brought(walk.target(root, reference), tuple(walk.pointer(reference)))
        if done:
            more = {self._moved[reference]: child for reference, child in done.items()}
            self.schema["$defs"] = {**self.schema.get("$defs", {}), **more}

    def _brought(self, schema: Found, path: walk.Path) -> Any:
        if not isinstance(schema, dict):
            return schema
        made = self._own(schema)
        if isinstance(made.get("$ref"), str):
            made["$ref"] = self._reference(made["$ref"])
        copy = dict(made)
        for steps, child in walk.children(made):
            keyword = str(steps[0])
            found = self._brought(child, (*path, *_as_it_was(steps, schema)))
            if len(steps) == 1:
                copy[keyword] = found
            else:
                if copy[keyword] is made[keyword]:
                    copy[keyword] = made[keyword].copy()
                copy[keyword][steps[1]] = found
        self.paths[id(copy)] = path
        self.keywords[path] = [*schema]
        return copy

    def _own(self, schema: Schema) -> Schema:
        """Bring a schema's own keywords, not those of the schemas inside it, into Draft 2020-12."""
        if "$ref" in schema and self._draft <= 7:  # noqa: PLR2004 # there, nothing counts beside a reference
            return {name: schema[name] for name in ("$ref", *DEFINITIONS) if name in schema}
        made = {name: value for name, value in schema.items() if _SINCE.get(name, 0) <= self._draft}
        made |= {name: int(made[name]) for name in _COUNTS & made.keys() if isinstance(made[name], float)}
        if self._draft == 4:  # noqa: PLR2004 # the draft
            _renumber(made)
        rest = made.pop("additionalItems", None)
        if isinstance(made.get("items"), list):
            made["prefixItems"] = made.pop("items")
            made |= {} if rest is None else {"items": rest}
        for name, needed in (made.pop("dependencies", None) or {}).items():
            keyword = "dependentRequired" if isinstance(needed, list) else "dependentSchemas"
            made[keyword] = {name: needed} | made.get(keyword, {})
        return made

    def _reference(self, reference: str) -> str:
        steps = walk.pointer(reference) if reference.startswith("#/") else []
        if self._fixed or not steps or (steps[0] in DEFINITIONS and len(steps) == 2):  # noqa: PLR2004 # steps
            return reference
        try:
            if not isinstance(walk.target(self._root, reference), (dict, bool)):
                return reference
        except LookupError:
            return reference
        taken = {*self._root.get("$defs", ()), *self._moved.values()}
        free = (name for at in itertools.count(len(taken)) if (name := f"part-{at}") not in taken)
        return f"#/$defs/{self._moved.setdefault(reference, next(free))}"


def _as_it_was(steps: walk.Path, schema: Schema) -> walk.Path:
    """Return the steps to a child in the words of the older draft."""
    keyword = str(steps[0])
    if keyword == "prefixItems" and "prefixItems" not in schema:
        return ("items", *steps[1:])
    if keyword == "dependentSchemas" and steps[1] not in schema.get(keyword, {}):
        return ("dependencies", *steps[1:])
    return ("additionalItems",) if steps == ("items",) and isinstance(schema.get("items"), list) else steps


def _renumber(schema: Schema) -> None:
    """Draft 4 says by a bool whether a limit is exclusive, and spells `$id` without its sign."""
    for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.pop(exclusive, None) is True and limit in schema:
            schema[exclusive] = schema.pop(limit)
    if isinstance(schema.get("id"), str):
        schema.setdefault("$id", schema.pop("id"))
