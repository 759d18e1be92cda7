"""A JSON Schema against what a family of models takes of it: what is refused, what is not enforced, and the remedy.

The rules are data (`rules.toml`), each with its source and date; their conditions are in `bx.schema.conditions`.
Nothing is sent and nothing is fetched. This module knows families of models, not models.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from bx.instances import invalid_schema, json_path
from bx.schema import conditions, walk
from bx.schema.conditions import Document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FAMILIES = ("claude", "open-weight", "tool", "local")
_MOST_REFERENCES = 30_000  # definitions referred to, times levels: checking a value descends so far at worst
_MOST_COMBINED = 20_000  # schemas that one value is held against: references may double them with each


class InvalidSchema(ValueError):
    """The input is no valid JSON Schema at all, whatever the model."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"This cannot be used as a JSON Schema: {message}")
        self.fix = fix


class Finding(NamedTuple):
    """One place where a family departs from the schema."""

    path: walk.Path  # to the keyword, or to the schema that lacks it
    keyword: str
    level: str  # refused: answered with status 400, or cannot be taken; validated: only checked afterwards, by bx
    says: str  # the service's own text where it is recorded, else what happens in plain words
    recorded: bool
    fix: str
    source: str
    date: str
    rule: str


class _Rules(NamedTuple):
    """The rules of one family, by what they look at."""

    by_keyword: dict[str, list[dict[str, Any]]]
    of_roots: list[dict[str, Any]]
    of_nodes: list[dict[str, Any]]
    of_bools: dict[bool, list[dict[str, Any]]]
    listed: frozenset[str] | None
    formats: frozenset[str]
    most: dict[str, int]


# ---- whether it is a schema -----------------------------------------------------------------------------------


def well_formed(schema: Any) -> None:
    """Check that a value is a JSON Schema: by Draft 2020-12's meta-schema, or by the one that its `$schema` names.

    Raises:
        InvalidSchema: names the place and the reason.
    """
    if not isinstance(schema, (dict, bool)):
        raise InvalidSchema(
            "$: a JSON Schema is an object, or true or false", 'Write an object, such as {"type": "object"}'
        )
    if (deep := walk.depth(schema)) > walk.DEEPEST:
        raise InvalidSchema(f"$: the schema is nested more than {walk.DEEPEST} levels deep", "Use fewer levels")
    try:
        json.dumps(schema, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise InvalidSchema("$: the schema holds a lone surrogate, which is no character", "Remove it") from None
    except (TypeError, ValueError) as cause:
        raise InvalidSchema(f"$: the schema holds what JSON cannot ({cause})", "Use JSON values only") from None
    if reason := invalid_schema(schema):
        raise InvalidSchema(reason, "Correct the schema at that place")
    _check_targets(schema)
    targets = {node["$ref"] for _, node in walk.nodes(schema) if "$ref" in node}
    if len(targets) * deep > _MOST_REFERENCES:
        raise InvalidSchema(f"$: {len(targets)} references over {deep} levels are too many", "Use fewer definitions")
    if targets and walk.combined(schema) > _MOST_COMBINED:
        advice = "Refer to each definition fewer times"
        raise InvalidSchema(f"$: references hold one value against more than {_MOST_COMBINED} schemas", advice)


def _check_targets(schema: Any) -> None:
    """Refuse references to where no schema is looked for: nothing would check what they lead to."""
    known = {id(node) for _, node in walk.nodes(schema)}
    for path, node in walk.nodes(schema):
        target = walk.referred(schema, node.get("$ref"))
        if isinstance(target, dict) and id(target) not in known:
            why = f"the reference {node['$ref']!r} leads to where no schema is looked for"
            raise InvalidSchema(f"{place((*path, '$ref'))}: {why}", "Move what it refers to into `$defs`")


# ---- findings -------------------------------------------------------------------------------------------------


def check(schema: Any, family: str) -> list[Finding]:
    """Compare a well-formed schema with what a family takes; findings come in the order of the document."""
    rules = _rules(family)
    document = _document(schema, rules, _counted(schema, rules.most))
    if isinstance(schema, bool):
        return [_finding(rule, (), family, {"keyword": rule["about"]}) for rule in rules.of_bools[schema]]
    found = _of_root(schema, rules, document, family)
    reported: set[str] = set()
    inevitable = {id(schema)}
    reached = None
    if family == "local":
        reached = walk.reached(schema)
        document = document._replace(unopposed=conditions.unopposed(schema, document.recursive))
    for path, node in walk.nodes(schema):
        for rule, steps, keyword in _matching(node, rules):
            quoted = _asked(rule, node, keyword, document)
            if quoted is None or rule["name"] in reported:
                continue
            if family in rule.get("inevitable", ()) and id(node) not in inevitable:
                continue
            if reached is not None and id(node) not in reached and keyword != "$ref":
                continue
            if rule.get("once"):
                reported.add(rule["name"])
            found.append(
                _finding(
                    rule, (*path, *steps), family, {"keyword": keyword, "value": quoted, "type": node.get("type")}
                )
            )
        if id(node) in inevitable:
            inevitable |= _inevitable(node)
    return found


def limits(schemas: Sequence[Any], strict_tools: int, family: str) -> list[Finding]:
    """Compare the sums over all schemas of one request with a family's limits.

    Args:
        schemas: the output schema, if there is one, and the input schemas of the strict tools.
        strict_tools: how many tools are strict.
        family: the family.
    """
    rules = _rules(family)
    each = [counts(schema) for schema in schemas]
    sums = {name: sum(count[name] for count in each) for name in ("optional", "union")}
    document = _document({}, rules, {**sums, "strict_tools": strict_tools})
    return _of_root({}, rules, document, family)


def counts(schema: Any) -> dict[str, int]:
    """Count what is limited: properties that are not required, and schemas with anyOf or several types."""
    optional = union = 0
    for _, node in walk.nodes(schema):
        named = node.get("properties")
        if isinstance(named, dict):
            required = node.get("required")
            optional += len(named.keys() - (required if isinstance(required, list) else ()))
        union += "anyOf" in node or len(conditions.types(node)) > 1
    return {"optional": optional, "union": union}


def _counted(schema: Any, most: dict[str, int]) -> dict[str, int]:
    """Count what a family limits."""
    if "characters" in most:
        return {"characters": len(json.dumps(schema, ensure_ascii=False))}
    return counts(schema) if most else {}


def remedy(rule: str) -> str:
    """Return what `bx.schema.fix` does about a rule: describe, drop, reshape, refuse or none."""
    return _remedies()[rule]


def remedies(node: dict[str, Any], family: str) -> dict[str, str]:
    """Return what is to be done about each keyword of one schema that a family refuses, not looking inside it."""
    rules = _rules(family)
    document = _document({}, rules, {})
    return {
        keyword: rule["remedy"]
        for rule, steps, keyword in _matching(node, rules)
        if steps and rule["level"] == "refused" and _asked(rule, node, keyword, document) is not None
    }


def place(path: walk.Path) -> str:
    """Spell a finding's path as JSONPath does."""
    return json_path(path)


def _document(schema: Any, rules: _Rules, counted: dict[str, int]) -> Document:
    recursive = walk.looping(schema)
    circular = walk.looping(schema, in_place=True) if recursive else recursive
    return Document(schema, rules.formats, recursive, circular, counted, rules.most)


def _of_root(root: dict[str, Any], rules: _Rules, document: Document, family: str) -> list[Finding]:
    """Ask what is asked once for a document."""
    quoted = [(rule, _asked(rule, root, rule["about"], document)) for rule in rules.of_roots]
    return [
        _finding(rule, (), family, {"keyword": rule["about"], "value": value})
        for rule, value in quoted
        if value is not None
    ]


def _asked(rule: dict[str, Any], node: dict[str, Any], keyword: str, document: Document) -> str | None:
    """Return what a rule's finding may quote, or None where its condition does not hold."""
    found: str | None = conditions.CONDITIONS[rule["when"]](node, keyword, document) if "when" in rule else keyword
    return found


def _matching(node: dict[str, Any], rules: _Rules) -> Iterator[tuple[dict[str, Any], walk.Path, str]]:
    """Yield the rules to ask for a schema, each with the steps to its place and its keyword."""
    for rule in rules.of_nodes:
        yield rule, (), rule["about"]
    for keyword in node:
        if keyword in rules.by_keyword:
            yield from ((rule, (keyword,), keyword) for rule in rules.by_keyword[keyword])
        elif rules.listed is not None and keyword not in rules.listed:
            yield from ((rule, (keyword,), keyword) for rule in rules.by_keyword["*"])
    for steps, child in walk.children(node) if any(rules.of_bools.values()) else ():
        if isinstance(child, bool) and steps[0] not in _BOOLS_HAVE_THEIR_RULE:
            yield from ((rule, steps, rule["about"]) for rule in rules.of_bools[child] if "once" not in rule)


_BOOLS_HAVE_THEIR_RULE = ("additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties")


def _inevitable(node: dict[str, Any]) -> set[int]:
    """Find the schemas inside a schema that every answer meets."""
    named = node.get("properties", {}) if node.get("type") == "object" else {}
    inside = [named.get(name) for name in node.get("required", ()) if isinstance(node.get("required"), list)]
    return {id(child) for child in [*inside, *node.get("allOf", ())] if isinstance(child, dict)}


def _finding(rule: dict[str, Any], path: walk.Path, family: str, words: dict[str, Any]) -> Finding:
    recorded = "text" in rule and family == "claude"
    says = (rule["text"] if recorded else rule["says"]).format(**words)
    level, fix = rule["level"], rule["fix"]
    return Finding(path, words["keyword"], level, says, recorded, fix, rule["source"], rule["date"], rule["name"])


@cache
def _table() -> dict[str, Any]:
    import tomllib
    from importlib.resources import files

    return tomllib.loads(files("bx.schema").joinpath("rules.toml").read_text(encoding="utf-8"))


@cache
def _remedies() -> dict[str, str]:
    return {rule["name"]: rule["remedy"] for rule in _table()["rule"]}


@cache
def _rules(family: str) -> _Rules:
    table = _table()
    by_keyword: dict[str, list[dict[str, Any]]] = {}
    roots: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = []
    bools: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for rule in (rule for rule in table["rule"] if family in rule["families"]):
        for keyword in rule.get("keywords", ()):
            by_keyword.setdefault(keyword, []).append(rule)
        if rule.get("about") in ("true", "false"):
            bools[rule["about"] == "true"].append(rule)
        elif "about" in rule:
            (roots if rule.get("once") else nodes).append(rule)
    listed = frozenset(table["listed"][family]) if family in table["listed"] else None
    formats = frozenset(table["formats"].get(family, ()))
    return _Rules(by_keyword, roots, nodes, bools, listed, formats, table["most"].get(family, {}))
