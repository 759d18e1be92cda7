"""The conditions that the rules of `rules.toml` name: questions about one schema, answered from its own keywords.

A condition takes the schema, the keyword that the rule is about and the document; it returns None for no, or for yes
what the finding may quote. Each takes linear time. This module knows no model and none of the rules.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from bx.instances import canonical
from bx.schema import walk

if TYPE_CHECKING:
    from collections.abc import Callable

Schema = dict[str, Any]

_NUMBERS = {"integer", "number"}
# Lower bound -> the types that it holds for.
_BOUNDED = {
    "minContains": {"array"},
    "minItems": {"array"},
    "minLength": {"string"},
    "minProperties": {"object"},
    "minimum": _NUMBERS,
    "exclusiveMinimum": _NUMBERS,
}
ANNOTATIONS = frozenset({"title", "description", "default", "$comment", "examples", "deprecated", "readOnly"})
# Keywords that say which values there are; a schema without any of them admits every value.
SHAPING = ("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref")
_BOUNDS = {
    "minContains": "maxContains",
    "minItems": "maxItems",
    "minLength": "maxLength",
    "minProperties": "maxProperties",
}
_LARGEST_REPEAT = 100  # the service says "large" without a number


class Document(NamedTuple):
    """A whole schema, and what is known of its family and references."""

    root: Any
    formats: frozenset[str]
    recursive: frozenset[int]  # the ids of the schemas whose reference leads back to them
    circular: frozenset[int]  # the same, with nothing but references and combinations between
    counts: dict[str, int]
    most: dict[str, int]  # the family's limits of the counts
    unopposed: frozenset[int] = frozenset()  # the ids of the schemas whose opposite is not known


# ---- references -----------------------------------------------------------------------------------------------

referred = walk.referred


def refs_stand_alone(root: Any) -> bool:
    """Whether nothing counts beside `$ref`: so it was before Draft 2019-09."""
    draft = str(root.get("$schema", "")) if isinstance(root, dict) else ""
    return any(old in draft for old in ("draft-03", "draft-04", "draft-06", "draft-07"))


def _external(node: Schema, keyword: str, document: Document) -> str | None:
    del document
    return None if walk.is_internal(node[keyword]) else repr(node[keyword])


def _dangling(node: Schema, keyword: str, document: Document) -> str | None:
    reference = node[keyword]
    return repr(reference) if walk.is_internal(reference) and referred(document.root, reference) is None else None


# ---- values and types -----------------------------------------------------------------------------------------


def types(node: Schema) -> list[str]:
    """List the types that a schema names; empty where it names none."""
    named = node.get("type", [])
    return [named] if isinstance(named, str) else named


def is_type(value: Any, name: str) -> bool:
    """Whether a JSON value is of a type in JSON Schema's sense: 1.0 is an integer, true is no number."""
    if name == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if name == "integer":
        return is_type(value, "number") and (isinstance(value, int) or value.is_integer())
    kinds: dict[str, type] = {"string": str, "boolean": bool, "null": type(None), "array": list, "object": dict}
    return isinstance(value, kinds[name])


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: unlike in Python, true is not 1."""
    return bool(one == other) and canonical(one) == canonical(other)


def is_object(node: Schema) -> bool:
    """Whether a schema describes an object: by its type, or by properties where it has none."""
    named = types(node)
    return "object" in named if named else "properties" in node


def _contradicts(node: Schema, keyword: str, document: Document) -> str | None:
    del document
    values = [node["const"]] if keyword == "const" else node["enum"]
    named = types(node)
    if named and not any(is_type(value, name) for value in values for name in named):
        return keyword
    if keyword == "const" and "enum" in node and not any(same(value, node["const"]) for value in node["enum"]):
        return keyword
    return None if values else keyword


def _forbidden(node: Schema, keyword: str, document: Document) -> str | None:
    """Name a required property that can never be there."""
    named = node.get("properties", {})
    closed = node.get("additionalProperties") is False and not node.get("patternProperties")
    if "object" not in types(node) or not isinstance(node[keyword], list):
        return None
    for name in node[keyword]:
        inner = named.get(name, not closed)
        if inner is False or (isinstance(inner, dict) and referred(document.root, inner.get("$ref")) is False):
            return repr(name)
    return None


def empty_range(node: Schema, keyword: str) -> str | None:
    """Return a lower bound that is above the upper one beside it, where the type leaves no other values."""
    if keyword not in _BOUNDED or not types(node) or not {*types(node)} <= _BOUNDED[keyword]:
        return None
    if keyword in _BOUNDS:
        upper = node.get(_BOUNDS[keyword])
        return None if upper is None or node[keyword] <= upper else keyword
    lower, most, below = node[keyword], node.get("maximum"), node.get("exclusiveMaximum")
    if isinstance(lower, bool):  # Draft 4: `minimum` and `maximum` with a flag beside them
        return None
    is_open = keyword == "exclusiveMinimum" or node.get("exclusiveMinimum") is True or below is True
    if most is not None and (lower > most or (is_open and lower == most)):
        return keyword
    return keyword if below is not None and not isinstance(below, bool) and lower >= below else None


def _no_type(node: Schema, keyword: str, document: Document) -> str | None:
    return None if any(name in node for name in SHAPING) else keyword if document else None


def _not_a_tools_root(node: Schema, keyword: str, document: Document) -> str | None:
    plain = node.get("type") == "object" and not {"anyOf", "oneOf", "allOf", "$ref"} & node.keys()
    return None if plain or not document else keyword


# ---- combinations ---------------------------------------------------------------------------------------------


def disjoint(root: Any, branches: list[Any]) -> bool:
    """Whether no value can satisfy two of the branches, as far as their types and constants tell."""
    seen: list[tuple[set[str], dict[str, set[str]]]] = []
    kinds = [_marks(root, branch) for branch in branches]
    for named, marks in kinds:
        for others, other_marks in seen:
            shared = marks.keys() & other_marks.keys()
            if named & others and all(marks[name] & other_marks[name] for name in shared):
                return False
        seen.append((named, marks))
        if len(seen) > _MOST_BRANCHES:
            return False
    return True


def unopposed(root: Any, recursive: frozenset[int]) -> frozenset[int]:
    """Find the ids of the schemas whose opposite the embedded grammar does not know, as far as keywords tell."""
    own = {
        id(node)
        for _, node in walk.nodes(root)
        if node.keys() & _WITHOUT_OPPOSITE
        or "integer" in types(node)
        or ("$ref" in node and (len(node) > 1 or id(node) in recursive))
    }
    return walk.leading(root, own)


def _no_known_opposite(node: Schema, keyword: str, document: Document) -> str | None:
    return keyword if id(node[keyword]) in document.unopposed else None


def _may_overlap(node: Schema, keyword: str, document: Document) -> str | None:
    is_known = document.unopposed.isdisjoint(map(id, node[keyword]))
    return None if is_known or disjoint(document.root, node[keyword]) else keyword


def _unsaid_names(node: Schema, keyword: str) -> bool:
    """Whether `propertyNames` says what the embedded grammar cannot say by the keywords beside it."""
    rule, named = node[keyword], node.get("properties")
    if rule is True or rule == {}:
        return False
    if rule is False or node.get("patternProperties") or rule.get("type", "string") != "string":
        return True
    said = rule.keys() - {"type", "title", "description"}
    is_open = not named or node.get("additionalProperties", True) in (True, {})
    by_length = said <= {"minLength", "maxLength"} and is_open
    return not (by_length or (said == {"pattern"} and not named) or (said and said <= {"const", "enum"}))


_EVALUATING = ("allOf", "anyOf", "oneOf", "not", "if", "$ref", "dependentSchemas", "dependencies", "contains")
_WITHOUT_OPPOSITE = frozenset({
    "additionalProperties", "dependentRequired", "dependentSchemas", "dependencies", "format", "items", "maxContains",
    "minContains", "multipleOf", "oneOf", "pattern", "patternProperties", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties", "uniqueItems", "$dynamicRef", "$recursiveRef",
})  # fmt: skip


def _marks(root: Any, branch: Any) -> tuple[set[str], dict[str, set[str]]]:
    """Return the types that a branch admits, and the values of each required property that lists them."""
    branch = referred(root, branch["$ref"]) if isinstance(branch, dict) and "$ref" in branch else branch
    if not isinstance(branch, dict):
        return set(_ALL), {}
    named = {"number" if name == "integer" else name for name in types(branch)} or set(_ALL)
    marks = {"": _values(branch)} if _values(branch) else {}
    if named == {"object"}:
        required = branch.get("required", [])
        inner = branch.get("properties", {})
        listed = {name: _values(inner.get(name)) for name in required if isinstance(inner.get(name), dict)}
        marks |= {f".{name}": values for name, values in listed.items() if values}
    return named, marks


def _values(node: Any) -> set[str]:
    values = [node["const"]] if "const" in node else node.get("enum", [])
    return {f"{value!r}" if not isinstance(value, float) else f"{value:g}" for value in values}


_ALL = ("object", "array", "string", "number", "boolean", "null")
_MOST_BRANCHES = 100  # compared pair by pair; more are taken for overlapping


# ---- patterns -------------------------------------------------------------------------------------------------

_CLASS = r"\[(?:\\.|[^\]\\])*\]"
_PIECES = re.compile(
    rf"(?P<back>\\[1-9]|\\k<)|(?P<boundary>\\[bB])|(?P<property>\\[pP])|\\.|{_CLASS}"
    r"|(?P<around>\(\?<?[=!])|(?P<group>\(\?(?!:))|\{(?P<least>\d+)(?:,(?P<most>\d*))?\}|.",
    re.DOTALL,
)
_WORDS = {
    "back": "a back-reference",
    "boundary": "a word boundary (\\b or \\B)",
    "around": "look-ahead or look-behind",
    "property": "a Unicode class (\\p)",
    "group": "a named group or a flag",
}


def irregular(pattern: str, kinds: tuple[str, ...] = tuple(_WORDS), most: int = _LARGEST_REPEAT) -> str | None:
    """Name the first thing in a regular expression that is outside of the subset, or return None."""
    groups, inner = [1], 1  # the largest repetition in each open group, and in what is repeated next
    for piece in _PIECES.finditer(pattern):
        if piece.lastgroup in kinds:
            return _WORDS[piece.lastgroup]
        if "property" in kinds and piece[0][0] == "[" and _IN_CLASS.search(piece[0]):
            return _WORDS["property"]
        if piece["least"]:
            numbers = [digits for digits in (piece["least"], piece["most"]) if digits]
            if any(len(digits) > len(str(most)) or int(digits) * inner > most for digits in numbers):
                return f"a large repetition ({piece[0]})"
            inner *= max(1, *map(int, numbers))
            groups[-1] = max(groups[-1], inner)
        elif piece[0][0] == "(":
            groups.append(1)
        elif piece[0] == ")" and len(groups) > 1:
            inner = groups.pop()
            groups[-1] = max(groups[-1], inner)
        else:
            inner = 1
    return None


def _overlapping(node: Schema, keyword: str) -> bool:
    """Whether a key can match two of the patterns, as far as their ends and plain beginnings tell."""
    patterns = list(node[keyword])[:_MOST_BRANCHES]
    plain = [_ESCAPED.sub("", pattern) for pattern in patterns]
    starts, ends = (["^" not in text for text in plain], ["$" not in text for text in plain])
    for at, pattern in enumerate(patterns):
        for other in range(at):
            if (starts[at] and ends[other]) or (starts[other] and ends[at]):
                return True
            words = (pattern, patterns[other])
            if all(map(_PREFIX.fullmatch, words)) and (
                words[0].startswith(words[1]) or words[1].startswith(words[0])
            ):
                return True
    return False


_IN_CLASS = re.compile(r"(?<!\\)(?:\\\\)*\\[pP]")
_ESCAPED = re.compile(rf"\\.|{_CLASS}", re.DOTALL)
_PREFIX = re.compile(r"\^[\w -]*")  # `^` and characters that stand for themselves


def _not_regular(node: Schema, keyword: str, document: Document) -> str | None:
    del document
    patterns = node[keyword] if isinstance(node[keyword], dict) else [node[keyword]]
    found = (irregular(pattern, ("back", "boundary", "around"), 10**9) for pattern in patterns)
    return next((words for words in found if words), None)


def _over(name: str) -> Any:
    """Make the condition that a count is over the family's limit."""
    return lambda _, __, of: str(of.counts[name]) if of.counts.get(name, 0) > of.most.get(name, 0) else None


def _beside(node: Schema) -> bool:
    return any(name not in ANNOTATIONS and name not in ("$ref", "$defs", "definitions") for name in node)


def _listed_texts(node: Schema, keyword: str) -> bool:
    values = node[keyword] if keyword == "enum" else [node[keyword]]
    return any(isinstance(value, str) and value.upper() != value.lower() for value in values)


def _holds_containers(node: Schema, keyword: str) -> bool:
    values = node[keyword] if keyword == "enum" else [node[keyword]]
    return any(isinstance(value, (dict, list)) for value in values)


def _yes(test: Callable[[Schema, str], Any]) -> Any:
    """Make a condition of a question that needs no document and quotes the keyword's value."""
    return lambda node, keyword, _: str(node.get(keyword, keyword)) if test(node, keyword) else None


CONDITIONS: dict[str, Callable[[Schema, str, Document], str | None]] = {
    "too_many_optional": _over("optional"),
    "too_many_unions": _over("union"),
    "too_many_strict_tools": _over("strict_tools"),
    "too_many_characters": _over("characters"),
    "leaves_nothing": _yes(lambda node, keyword: node[keyword] is True or node[keyword] == {}),
    "overlaps": _yes(_overlapping),
    "is_no_tool_root": _not_a_tools_root,
    "has_letters": _yes(_listed_texts),
    "requires_what_is_forbidden": _forbidden,
    "has_an_empty_range": lambda node, keyword, _: empty_range(node, keyword),
    "contradicts": _contradicts,
    "refers_outside": _external,
    "refers_to_nothing": _dangling,
    "is_recursive": lambda node, keyword, of: repr(node[keyword]) if id(node) in of.recursive else None,
    "is_circular": lambda node, keyword, of: repr(node[keyword]) if id(node) in of.circular else None,
    "has_siblings": _yes(lambda node, _: _beside(node)),
    "holds_references": _yes(
        lambda node, keyword: any(isinstance(child, dict) and "$ref" in child for child in node[keyword])
    ),
    "is_open_object": _yes(lambda node, _: is_object(node) and "additionalProperties" not in node),
    "is_not_false": _yes(lambda node, keyword: node[keyword] is not False),
    "is_a_tuple": _yes(lambda node, keyword: isinstance(node[keyword], list)),
    "is_above_one": _yes(lambda node, keyword: node[keyword] > 1),
    "compares_many_items": _yes(lambda node, keyword: node[keyword] is True and node.get("minItems", 0) > 1),
    "may_overlap": _may_overlap,
    "has_no_known_opposite": _no_known_opposite,
    "cannot_be_said_of_keys": _yes(_unsaid_names),
    "stands_beside_combinations": _yes(lambda node, _: any(name in node for name in _EVALUATING)),
    "has_both_bounds": _yes(lambda node, _: _ranged(node)),
    "has_not_both_bounds": _yes(lambda node, keyword: keyword not in ("minimum", "maximum") or not _ranged(node)),
    "is_no_listed_format": lambda node, keyword, of: None if node[keyword] in of.formats else repr(node[keyword]),
    "is_regex": _yes(lambda node, keyword: node[keyword] == "regex"),
    "is_no_simple_pattern": lambda node, keyword, _: irregular(node[keyword]),
    "is_no_regular_pattern": _not_regular,
    "holds_containers": _yes(_holds_containers),
    "has_no_type": _no_type,
}


def _ranged(node: Schema) -> bool:
    return "minimum" in node and "maximum" in node and node.get("type") in ("integer", "number")
