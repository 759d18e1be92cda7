"""The nearest schema that a family of models takes, and the way back for its answers.

What a family refuses is rewritten where that keeps the shape of the answers, and told in the description where it
only narrows them: the original schema checks the answer afterwards, so nothing is lost. What would change the shape
is refused. This module knows no models; what is refused, and what is done about it, is data in `rules.toml`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from bx.schema import conditions, merge, walk, words
from bx.schema.check import check, counts, place, remedies, remedy, well_formed
from bx.schema.restore import restore

if TYPE_CHECKING:
    from bx.schema.check import Finding

__all__ = ["Change", "Unfixable", "fix", "restore"]

Schema = dict[str, Any]

_MOST_STEPS = 20_000  # schemas looked at: writing references out may double the size with each
_MOST_MERGED = 2_000_000  # properties and listed values looked at for merging: each part may hold them all again
_MOST_REFERENCES = 50  # that lead from one to the next
_MOST_OPTIONAL = 24
_ANY = ["string", "number", "boolean", "null"]


class Change(NamedTuple):
    """One thing that is different in the fixed schema."""

    path: walk.Path
    keyword: str
    what: str
    enforced: bool  # whether the model is still held to it; else the answer is checked against it afterwards


class Unfixable(ValueError):
    """No schema that the family takes has answers of the same shape."""

    exit_code = 8

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class _Impossible(Unfixable):
    """No value satisfies this part of the schema."""


def fix(schema: Any, family: str) -> tuple[Schema, list[Change]]:
    """Rewrite a schema into the nearest one that a family takes.

    Args:
        schema: the schema; it stays as it is.
        family: one of `bx.schema.check.FAMILIES`.

    Returns:
        The schema, in which `check` finds nothing that is refused, and what is different in it.

    Raises:
        InvalidSchema: it is no JSON Schema.
        Unfixable: names the place and the reason.
    """
    well_formed(schema)
    found = _refused(schema, family)
    if not found:
        return ({} if schema is True else schema), []
    for finding in found:
        if remedy(finding.rule) == "refuse" and finding.rule in _WHOLE:
            raise _unfixable(finding)
    _check_bases(schema)
    fixer = _Fixer(schema, family)
    fixed = fixer.whole() if family in ("claude", "open-weight") else fixer.told_only(found)
    if family == "claude":
        fixer.limit(fixed)
    if left := _refused(fixed, family):
        raise _unfixable(left[0])
    return fixed, fixer.changes


# Rules about the document as a whole: one place is enough to refuse it.
_WHOLE = ("recursion", "external-reference", "dangling-reference", "circle-of-references")


def _refused(schema: Any, family: str) -> list[Finding]:
    return [finding for finding in check(schema, family) if finding.level == "refused"]


def _unfixable(finding: Finding) -> Unfixable:
    return Unfixable(f"{place(finding.path)}: {finding.keyword}: {finding.says}", finding.fix)


def _check_bases(schema: Any) -> None:
    """Refuse references under an `$id` of their own: they are meant from there, and not from the root."""
    bases: set[walk.Path] = set()
    for path, node in walk.nodes(schema):
        if path and any(isinstance(node.get(name), str) and node[name][:1] != "#" for name in ("$id", "id")):
            bases.add(path)
        if "$ref" in node and bases and any(path[:length] in bases for length in range(1, len(path) + 1)):
            advice = "Take the `$id` above it away, and refer to #/$defs/name"
            raise Unfixable(f"{place(path)}: $ref: the reference is meant from an `$id` within the schema", advice)


class _Fixer:
    """A schema on its way to a family: what was changed, and which definitions are still needed."""

    def __init__(self, root: Any, family: str) -> None:
        self.root = root
        self.family = family
        self.changes: list[Change] = []
        self._needed: dict[tuple[str, str], Schema] = {}
        self._todo: list[tuple[str, str]] = []
        self._following = 0
        self._levels = 0
        self._left = _MOST_STEPS
        self._left_to_merge = _MOST_MERGED
        self._refs_stand_alone = conditions.refs_stand_alone(root)

    def change(self, path: walk.Path, keyword: str, what: str, *, enforced: bool = True) -> None:
        """Note a change, once."""
        if (change := Change(path, keyword, what, enforced)) not in self.changes[-3:]:
            self.changes.append(change)

    # ---- families that take nearly everything

    def told_only(self, findings: list[Finding]) -> Schema:
        """Move what cannot be enforced into descriptions, and touch nothing else."""
        fixed: Any = copy.deepcopy(self.root)
        places: dict[walk.Path, list[str]] = {}
        for finding in findings:
            if remedy(finding.rule) != "describe":
                raise _unfixable(finding)
            places.setdefault(finding.path[:-1], []).append(finding.keyword)
        for path, keywords in places.items():
            node: Any = fixed
            for step in path:
                node = {} if isinstance(node, dict) and step not in node else node[step]  # it went with one above
            if node:
                node |= (told := self._told(node, path, keywords))
                for keyword in node.keys() - told.keys():
                    del node[keyword]
        return dict(fixed)

    # ---- families that take a subset

    def whole(self) -> Schema:
        """Fix the root, and then each definition that is still referred to."""
        try:
            fixed = self.node(self.root, ())
            for container, name in self._todo:  # which grows meanwhile
                self._needed[container, name] = self.node(self.root[container][name], (container, name))
        except _Impossible as impossible:
            raise Unfixable(str(impossible), impossible.fix) from None
        for container in ("$defs", "definitions"):
            for name in self.root.get(container, ()) if isinstance(self.root, dict) else ():
                if (container, name) not in self._needed:
                    self.change((container, name), container, "it is dropped: nothing refers to it any more")
        for (container, name), definition in self._needed.items():
            fixed.setdefault(container, {})[name] = definition
        return fixed

    def node(self, schema: Any, path: walk.Path) -> Schema:
        """Fix one schema and all inside it."""
        if schema is False:
            raise _Impossible(f"{place(path)}: no value satisfies the schema `false`", "Remove it")
        flat = self.flat({} if schema is True else schema, path)
        if "$ref" in flat:
            return flat
        self._levels += 1
        if self._levels > walk.DEEPEST:
            raise self._too_much(path, f"more than {walk.DEEPEST} levels")
        try:
            if "anyOf" in flat:
                return self._any_of(flat, path)
            return self._listed(flat, path) if "enum" in flat or "const" in flat else self._typed(flat, path)
        finally:
            self._levels -= 1

    def flat(self, schema: Any, path: walk.Path) -> Schema:
        """Bring a schema to one level: nothing in it but a reference, a choice, a list of values, or a type."""
        self._left -= 1
        if self._left < 0:
            raise self._too_much(path, f"more than {_MOST_STEPS} schemas")
        if isinstance(schema, bool):
            return {} if schema else self.node(schema, path)
        if "$ref" in schema and self._refs_stand_alone:
            schema = {name: schema[name] for name in schema if name in conditions.ANNOTATIONS or name == "$ref"}
        if any(conditions.empty_range(schema, keyword) for keyword in schema):
            raise _Impossible(f"{place(path)}: no value is within its bounds", "Correct one of the two bounds")
        todo = remedies(schema, self.family)
        node = self._told(schema, path, [name for name in schema if todo.get(name) == "describe"])
        for name in [name for name in node if todo.get(name) == "drop"]:
            self.change((*path, name), name, f"{name} is dropped: it does not narrow the answer")
            del node[name]
        node.pop("$defs", None)
        node.pop("definitions", None)
        reference, parts = node.pop("$ref", None), node.pop("allOf", [])
        node = self._one_choice(node, path)
        if reference is not None:
            node = self._referring(reference, node, path, alone=not parts)
        for at, part in enumerate(parts):
            part_path = (*path, "allOf", at)
            node = self._merged(node, self._inlined(part, part_path), path)
            self.change(path, "allOf", "the parts of allOf are now one schema")
        return node

    def _too_much(self, path: walk.Path, why: str) -> Unfixable:
        if any("$ref" in node for _, node in walk.nodes(self.root)):
            return Unfixable(f"{place(path)}: {why} once references are written out", "Use fewer references")
        return Unfixable(f"{place(path)}: {why}", "Make the schema smaller, or ask in several requests")

    def _told(self, schema: Schema, path: walk.Path, keywords: list[str]) -> Schema:
        """Move keywords into the description."""
        node = {name: value for name, value in schema.items() if name not in keywords}
        sentences = []
        for keyword in keywords:
            text = words.sentence(schema, keyword)
            sentences.append(text)
            what = f"{keyword} is now told in the description" if text else f"{keyword} is dropped: it says nothing"
            self.change((*path, keyword), keyword, what, enforced=not text)
            if keyword == "minItems":
                node["minItems"] = 1
        if told := words.joined(schema.get("description"), *sentences):
            node["description"] = told
        return node

    def _one_choice(self, node: Schema, path: walk.Path) -> Schema:
        """Make `oneOf` an `anyOf`, and tell a choice that only narrows what stands beside it."""
        if "oneOf" in node and "anyOf" in node:
            return self._told(node, path, ["oneOf"])
        if "oneOf" in node:
            self.change((*path, "oneOf"), "oneOf", "oneOf is now anyOf: more than one may match", enforced=False)
            node = {("anyOf" if name == "oneOf" else name): value for name, value in node.items()}
        branches = node.get("anyOf", [])
        if any(branch is True or branch == {} for branch in branches):
            self.change((*path, "anyOf"), "anyOf", "anyOf is dropped: one of its branches admits everything")
            return {name: value for name, value in node.items() if name != "anyOf"}
        shaped = [isinstance(branch, dict) and merge.has_shape(branch) for branch in branches]
        if branches and not any(shaped):
            return self._told(node, path, ["anyOf"])
        return node

    def _referring(self, reference: str, node: Schema, path: walk.Path, *, alone: bool) -> Schema:
        steps = reference.split("/")
        kept = alone and len(steps) == 3 and steps[1] in ("$defs", "definitions")  # noqa: PLR2004 (#, container, name)
        if kept and not any(name not in conditions.ANNOTATIONS for name in node):
            name = walk.pointer(reference)[1]
            if self.root[steps[1]][name] is False:
                return self.node(False, path)  # noqa: FBT003 (the schema `false`)
            if (steps[1], name) not in self._needed:
                self._needed[steps[1], name] = {}
                self._todo.append((steps[1], name))
            return {"$ref": reference, **node}
        self.change(path, "$ref", f"{reference} is written out in place")
        return self._merged(node, self._inlined({"$ref": reference}, path), path)

    def _inlined(self, part: Any, path: walk.Path) -> Schema:
        """Flatten a schema with its own reference written out."""
        if not isinstance(part, dict) or "$ref" not in part:
            return self.flat(part, path)
        reference = part["$ref"]
        if self._following >= _MOST_REFERENCES:
            raise Unfixable(f"{place(path)}: $ref: too many references lead from one to the next", "Use fewer")
        self._following += 1
        try:
            target = self._inlined(walk.referred(self.root, reference), path)
        finally:
            self._following -= 1
        beside = {name: value for name, value in part.items() if name != "$ref"}
        beside = {} if self._refs_stand_alone else beside
        return self._merged(self.flat(beside, path), target, path) if beside else target

    def _merged(self, one: Schema, other: Schema, path: walk.Path) -> Schema:
        """Merge two flat schemas; what cannot be merged is told."""
        if "$ref" in one:
            one = self._inlined(one, path)
        if "$ref" in other:
            other = self._inlined(other, path)
        self._left_to_merge -= merge.size(one) + merge.size(other)
        if self._left_to_merge < 0:
            raise self._too_much(path, "its parts are too many to be made one schema")
        merged, left = merge.merged(one, other)
        if left is None:
            raise _Impossible(f"{place(path)}: no value satisfies all parts of it", "Correct one of the parts")
        if left:
            told = self._told({**left, "description": merged.get("description", "")}, path, list(left))
            merged["description"] = told["description"]
        return merged

    def _any_of(self, flat: Schema, path: walk.Path) -> Schema:
        about = {name: flat[name] for name in flat if name in conditions.ANNOTATIONS}
        rest = {name: flat[name] for name in flat if name not in conditions.ANNOTATIONS and name != "anyOf"}
        fixed, refusal = [], None
        for at, branch in enumerate(flat["anyOf"]):
            inner = {"allOf": [rest, branch]} if rest else branch
            try:
                fixed.append(self.node(inner, (*path, "anyOf", at)))
            except _Impossible as impossible:
                refusal = impossible
                self.change((*path, "anyOf", at), "anyOf", "the branch is dropped: no value satisfies it")
        if refusal and not fixed:
            raise refusal
        if len(fixed) == 1:
            described = words.joined(about.get("description"), fixed[0].get("description"))
            return {**about, **fixed[0], **({"description": described} if described else {})}
        return {**about, "anyOf": fixed}

    def _listed(self, flat: Schema, path: walk.Path) -> Schema:
        """Fix a schema that lists its values: nothing else is needed beside them."""
        values = [flat["const"]] if "const" in flat else flat["enum"]
        named = conditions.types(flat)
        kept = [value for value in values if not named or any(conditions.is_type(value, name) for name in named)]
        if "const" in flat and "enum" in flat:
            kept = [value for value in kept if any(conditions.same(value, other) for other in flat["enum"])]
        if not kept:
            raise _Impossible(f"{place(path)}: no value satisfies it", "Correct `enum`, `const` or `type` there")
        if any(isinstance(value, (dict, list)) for value in kept):
            advice = "Describe objects by `properties`, each with a `const`"
            raise Unfixable(f"{place(path)}: enum: objects and lists cannot be listed", advice)
        node = {name: flat[name] for name in flat if name in (*conditions.ANNOTATIONS, "type", "pattern", "format")}
        if isinstance(node.get("type"), list):
            del node["type"]  # the values say it, and several types count against a limit
        if "const" in flat:
            return {**node, "const": kept[0]}
        return {**node, "enum": kept}

    def _typed(self, flat: Schema, path: walk.Path) -> Schema:
        node = dict(flat)
        if "type" not in node:
            node["type"] = merge.implied(node) or _ANY
            kinds = ", ".join([node["type"]] if isinstance(node["type"], str) else node["type"])
            self.change(path, "type", f"any value was admitted, and now of these types only: {kinds}")
        named = conditions.types(node)
        if "object" in named:
            node |= self._object(node, path)
        else:
            node = {name: node[name] for name in node if name not in _OF_OBJECTS}
        if "array" in named and "items" in node:
            node |= self._items(node["items"], path)
            if node["items"] is True:
                del node["items"]
        elif "array" not in named:
            node = {name: node[name] for name in node if name not in ("items", "minItems", "prefixItems")}
        return node

    def _items(self, items: Any, path: walk.Path) -> Schema:
        if isinstance(items, list) or items is False:
            what = "a schema for each position" if isinstance(items, list) else "the schema `false`"
            advice = "Use an object with one property for each position"
            raise Unfixable(f"{place((*path, 'items'))}: items: {what} cannot be said otherwise", advice)
        return {"items": items if items is True else self.node(items, (*path, "items"))}

    def _object(self, node: Schema, path: walk.Path) -> Schema:
        required = list(dict.fromkeys(node.get("required", [])))
        extra = node.get("additionalProperties", True)
        properties = {**node.get("properties", {})}
        for name in required:
            properties.setdefault(name, extra)
        if not properties and extra is not False:
            advice = "Name the properties, or use a list of objects with a key and a value"
            raise Unfixable(f"{place(path)}: additionalProperties: an object whose keys have no names", advice)
        fixed = {}
        for name, child in properties.items():
            try:
                fixed[name] = self.node(child, (*path, "properties", name))
            except _Impossible:
                if name in required:
                    raise
                self.change((*path, "properties", name), "properties", "it is dropped: no value satisfies it")
        if extra is not False:
            at = (*path, "additionalProperties")
            self.change(at, "additionalProperties", "additionalProperties is now false: no keys but the named ones")
        return {"properties": fixed, "required": required, "additionalProperties": False}

    # ---- limits

    def limit(self, fixed: Schema) -> None:
        """Make optional properties required and nullable, as many as the limits ask for."""
        many = counts(fixed)
        over = many["optional"] - _MOST_OPTIONAL
        candidates: list[tuple[bool, walk.Path, Schema, str]] = []
        if over > 0:
            for path, node in walk.nodes(fixed):
                for name, child in node.get("properties", {}).items():
                    if name not in node["required"]:
                        costs = counts(merge.nullable(child))["union"] > counts(child)["union"]
                        candidates.append((costs, path, node, name))
        for _, path, node, name in sorted(candidates, key=lambda each: each[0])[: max(over, 0)]:
            node["properties"][name] = merge.nullable(node["properties"][name])
            node["required"] = [*node["required"], name]
            what = "it is now required, and null where there is no value"
            self.change((*path, "properties", name), "required", what)


_OF_OBJECTS = ("properties", "required", "additionalProperties")
