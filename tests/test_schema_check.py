"""The schema checker: what each family refuses, in the service's own words where they are known."""

from __future__ import annotations

import itertools
import json
import time
import tomllib
from pathlib import Path

import pytest

import sample
from bx.schema import check as checker
from bx.schema import conditions
from bx.schema.check import FAMILIES, InvalidSchema, check, counts, limits, well_formed

ROOT = Path(__file__).parent.parent
RULES = tomllib.loads((ROOT / "src" / "bx" / "schema" / "rules.toml").read_text())["rule"]


def closed(**properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def chain(length):
    names = [f"d{at}" for at in range(length)]
    links = {name: {"$ref": f"#/$defs/{after}"} for name, after in itertools.pairwise(names)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, names[-1]: {"type": "string"}}}


def hostile():
    return {
        "itself": {"$ref": "#"},
        "circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "chain": chain(5_000),
        "doubling": {
            "$ref": "#/$defs/d0",
            "$defs": {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(500)}
            | {"d500": {"type": "string"}},
        },
        "many values": {"enum": list(range(300_000))},
        "ten megabytes": {"type": "string", "description": "a" * 10_000_000},
        "wide": closed(**{f"p{at}": {"type": "string", "maxLength": at} for at in range(20_000)}),
        "many branches": {"oneOf": [{"pattern": str(at)} for at in range(20_000)]},
        "opposites": {
            "anyOf": [{"not": {"$ref": "#/$defs/d"}} for _ in range(2_000)],
            "$defs": {"d": {"anyOf": [{"type": "string", "maxLength": at} for at in range(2_000)]}},
        },
        "patterns": {"patternProperties": {f"^a{at}[x]": {"type": "string"} for at in range(5_000)}},
        "long pattern": {"type": "string", "pattern": "(" * 200 + "a{1,2}" * 20_000 + ")" * 200},
    }


DRAFT_7 = "http://json-schema.org/draft-07/schema#"
OPTIONAL = {**closed(**{f"p{at}": {"type": "string"} for at in range(25)}), "required": []}
UNIONS = closed(**{f"p{at}": {"type": ["string", "null"]} for at in range(17)})
OVERLAPPING = {"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}
IMPOSSIBLE = {"type": "object", "properties": {}, "required": ["a"], "additionalProperties": False}

DRAFT_4 = {"$schema": "http://json-schema.org/draft-04/schema#"}
TREE = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}
OVERLAPS = [("^a", "b$"), ("a", "b"), ("^a", "^ab"), ("^x-", "^y", "^x-y"), ("a[$]", r"\^b")]
APART = [("^a", "^b"), ("^a$", "^ab$"), ("^[a-m]", "^[n-z]"), ("^a$", "b")]
UNSAID = [
    {"propertyNames": {"maxLength": 3}, "patternProperties": {"^a": {}}},
    {"propertyNames": {"pattern": "^a"}, "properties": {"a": {"type": "null"}}},
    {"propertyNames": {"enum": ["a"], "maxLength": 3}},
    {"propertyNames": {"type": "integer"}},
    {"propertyNames": False},
]

# Rule, family, a schema that provokes it, and where.
PROVOKING = [
    ("too-many-optional", "claude", OPTIONAL, "$"),
    ("too-many-unions", "claude", UNIONS, "$"),
    ("nothing-enforced", "tool", closed(), "$"),
    ("tool-root", "tool", {"type": "string"}, "$"),
    ("tool-root", "tool", {"type": "object", "anyOf": [{"required": ["a"]}]}, "$"),
    ("letter-case", "claude", closed(a={"enum": ["sev1", 2]}), "$.properties.a.enum"),
    ("false-at-the-root", "tool", False, "$"),
    ("false-at-the-root", "local", False, "$"),
    ("required-not-possible", "claude", IMPOSSIBLE, "$.required"),
    ("required-not-possible", "local", closed(a=IMPOSSIBLE), "$.properties.a.required"),
    ("required-not-possible", "tool", closed(a=False), "$.required"),
    ("empty-range", "claude", {"type": "array", "minItems": 3, "maxItems": 2}, "$.minItems"),
    ("empty-range", "tool", {"type": "integer", "minimum": 3, "maximum": 2}, "$.minimum"),
    ("empty-range", "local", {"type": "number", "exclusiveMinimum": 2, "maximum": 2}, "$.exclusiveMinimum"),
    ("empty-range", "local", {"type": "number", "minimum": 2, "exclusiveMaximum": 2}, "$.minimum"),
    (
        "empty-range",
        "tool",
        {"type": "integer", "minimum": 5, "exclusiveMinimum": True, "maximum": 5} | DRAFT_4,
        None,
    ),
    (
        "empty-range",
        "tool",
        {"type": "integer", "minimum": 5, "exclusiveMaximum": True, "maximum": 5} | DRAFT_4,
        None,
    ),
    ("not-anything", "local", closed(a={"not": {}}), "$.properties.a.not"),
    ("not-anything", "tool", {"not": True}, "$.not"),
    ("contradicting-values", "claude", {"enum": ["a", "b"], "const": "c"}, "$.const"),
    ("contradicting-values", "open-weight", {"type": "integer", "enum": ["a", 1.5, True]}, "$.enum"),
    ("contradicting-values", "tool", {"const": True, "enum": [1]}, "$.const"),
    ("external-reference", "claude", {"$ref": "https://example.com/a.json"}, "$['$ref']"),
    ("external-reference", "tool", closed(a={"$ref": "#anchor"}), "$.properties.a.$ref"),
    ("dangling-reference", "local", {"$ref": "#/$defs/nowhere"}, "$.$ref"),
    ("recursion", "claude", {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, None),
    ("recursion", "open-weight", closed(a={"$ref": "#"}), "$.properties.a.$ref"),
    ("circle-of-references", "local", {"$ref": "#"}, "$.$ref"),
    ("circle-of-references", "tool", {"allOf": [{"$ref": "#"}]}, "$.allOf[0].$ref"),
    ("reference-with-siblings", "claude", {"$ref": "#/$defs/a", "type": "string", "$defs": {"a": {}}}, "$.$ref"),
    ("dynamic-reference", "local", {"$dynamicRef": "#a"}, "$.$dynamicRef"),
    ("all-of-reference", "claude", {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "null"}}}, "$.allOf"),
    ("one-of", "claude", {"oneOf": [{"type": "null"}]}, "$.oneOf"),
    *(("conditions", "claude", {"type": "null", name: {}}, f"$.{name}") for name in ("not", "if", "then", "else")),
    ("conditions", "claude", {"type": "null", "dependentRequired": {"a": ["b"]}}, "$.dependentRequired"),
    ("open-object", "claude", {"type": "object"}, "$"),
    ("open-object", "open-weight", closed(a={"properties": {"b": {"type": "null"}}}), "$.properties.a"),
    ("open-object", "claude", {"type": ["object", "null"]}, "$"),
    ("dictionary", "claude", {"type": "object", "additionalProperties": True}, "$.additionalProperties"),
    ("dictionary", "claude", {"type": "object", "additionalProperties": {"type": "null"}}, "$.additionalProperties"),
    ("keys", "claude", {**closed(), "patternProperties": {"^x-": {}}}, "$.patternProperties"),
    ("keys", "open-weight", {**closed(), "minProperties": 1}, "$.minProperties"),
    ("tuple", "claude", {"type": "array", "prefixItems": [{"type": "null"}]}, "$.prefixItems"),
    ("tuple", "claude", {"$schema": DRAFT_7, "items": [{"type": "null"}]}, "$.items"),
    ("min-items", "claude", {"type": "array", "minItems": 2}, "$.minItems"),
    ("max-items", "claude", {"type": "array", "maxItems": 2}, "$.maxItems"),
    ("list-members", "claude", {"type": "array", "uniqueItems": True}, "$.uniqueItems"),
    ("list-members", "claude", {"type": "array", "contains": {"type": "null"}}, "$.contains"),
    ("number-range", "claude", {"type": "integer", "minimum": 1, "maximum": 2}, "$.minimum"),
    ("number-bound", "claude", {"type": "integer", "minimum": 1}, "$.minimum"),
    ("number-bound", "open-weight", {"type": "number", "multipleOf": 2}, "$.multipleOf"),
    ("text-length", "claude", {"type": "string", "maxLength": 300}, "$.maxLength"),
    ("format", "claude", {"type": "string", "format": "path"}, "$.format"),
    ("pattern", "claude", {"type": "string", "pattern": r"^(a)\1$"}, "$.pattern"),
    ("pattern-unlisted", "open-weight", {"type": "string", "pattern": "a"}, "$.pattern"),
    ("pattern-local", "local", {"type": "string", "pattern": "(?=a)"}, "$.pattern"),
    ("pattern-local", "local", {"patternProperties": {"(?<!a)b": {}}}, "$.patternProperties"),
    ("size-local", "local", {"type": "string", "description": "ä" * 100_000}, "$"),
    *(("overlap-local", "local", {"patternProperties": {key: {} for key in names}}, None) for names in OVERLAPS),
    ("opposite-local", "local", {"not": {"pattern": "^a"}}, "$.not"),
    ("opposite-local", "local", {"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"pattern": "^a"}}}, "$.not"),
    ("opposite-local", "local", {"not": {"$ref": "#/$defs/a"}, "$defs": {"a": TREE}}, "$.not"),
    *(("keys-local", "local", {**closed(), **more}, "$.propertyNames") for more in UNSAID),
    ("unevaluated-local", "local", {"contains": {"type": "null"}, "unevaluatedItems": False}, None),
    ("opposite-local", "local", {"if": {"pattern": "^a"}, "then": {"minLength": 2}}, "$.if"),
    ("keys-local", "local", {"propertyNames": {"format": "uri"}}, "$.propertyNames"),
    ("unevaluated-local", "local", {"allOf": [{}], "unevaluatedProperties": False}, "$.unevaluatedProperties"),
    ("max-contains-local", "local", {"contains": {"type": "string"}, "maxContains": 1}, "$.maxContains"),
    ("unique-local", "local", {"type": "array", "minItems": 2, "uniqueItems": True}, "$.uniqueItems"),
    ("one-of-local", "local", OVERLAPPING, "$.oneOf"),
    ("format-regex-local", "local", {"type": "string", "format": "regex"}, "$.format"),
    ("values", "claude", {"enum": [{"a": 1}, 2]}, "$.enum"),
    ("values", "open-weight", {"const": [1]}, "$.const"),
    ("true-schema", "claude", True, "$"),
    ("true-schema", "claude", closed(a=True), "$.properties.a"),
    ("false-schema", "claude", {**closed(a=False), "required": []}, "$.properties.a"),
    ("no-type", "claude", closed(a={"description": "anything"}), "$.properties.a"),
    ("not-listed", "claude", {"type": "null", "$comment": "a"}, "$.$comment"),
    ("not-listed", "open-weight", {"type": "null", "default": None}, "$.default"),
]


@pytest.mark.parametrize(("rule", "family", "schema", "where"), PROVOKING)
def test_each_rule_is_found_where_it_is_broken(rule, family, schema, where):
    well_formed(schema)
    found = [finding for finding in check(schema, family) if finding.rule == rule]
    assert found
    if where is not None:
        assert checker.place(found[0].path) == where.replace("['$ref']", ".$ref")
    assert found[0].says
    assert "{" not in found[0].fix
    assert found[0].date.startswith("2026-")


def test_no_rule_is_without_a_schema_that_provokes_it():
    elsewhere = {"too-many-strict-tools"}  # a sum over tools: tested below
    assert {rule["name"] for rule in RULES} == {rule for rule, *_ in PROVOKING} | elsewhere


def test_rules_are_complete_and_their_names_and_conditions_are_known():
    assert len({rule["name"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert set(rule["families"]) <= set(FAMILIES)
        assert rule["level"] in ("refused", "validated")
        assert rule["remedy"] in ("describe", "drop", "reshape", "refuse", "none")
        assert {"says", "fix", "source", "date"} <= rule.keys()
        assert "when" not in rule or rule["when"] in conditions.CONDITIONS
        assert bool(rule.get("keywords")) != bool(rule.get("about"))
    assert {rule["when"] for rule in RULES if "when" in rule} == conditions.CONDITIONS.keys()


# ---- the service's own words ------------------------------------------------------------------------------------

ONE_OBJECT = "For 'object' type, 'additionalProperties' must be explicitly set to false"


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "object"}, ONE_OBJECT),
        ({"type": "object", "additionalProperties": True}, ONE_OBJECT),
        ({"type": "array", "minItems": 2}, "For 'array' type, 'minItems' values other than 0 or 1 are not supported"),
        ({"type": "array", "maxItems": 2}, "For 'array' type, property 'maxItems' is not supported"),
        (
            {"type": "integer", "minimum": 1, "maximum": 2},
            "For 'integer' type, properties maximum, minimum are not supported",
        ),
        (
            {"type": "number", "minimum": 1, "maximum": 2},
            "For 'number' type, properties maximum, minimum are not supported",
        ),
        (OPTIONAL, "...too many optional parameters (25)...limit: 24"),
        (UNIONS, "Schemas contains too many parameters with union types (... limit: 16 ...)"),
    ],
)
def test_the_recorded_answer_of_the_service_is_quoted_and_for_its_own_family_only(schema, text):
    assert text in [finding.says for finding in check(schema, "claude") if finding.recorded]
    assert not any(finding.recorded for family in FAMILIES[1:] for finding in check(schema, family))


def test_strict_tools_are_counted_over_the_whole_request():
    (found,) = limits([], 21, "claude")
    assert found.says == (
        "Too many strict tools (21). The maximum number of strict tools supported is 20. "
        "Try reducing the number of tools marked as strict."
    )
    assert limits([], 20, "claude") == []
    assert limits([], 21, "open-weight") == limits([], 21, "local") == []


def test_limits_are_sums_over_all_schemas_of_a_request():
    half = {**closed(**{f"p{at}": {"type": "string"} for at in range(13)}), "required": []}
    assert limits([half], 1, "claude") == []
    assert [finding.rule for finding in limits([half, half], 2, "claude")] == ["too-many-optional"]


def test_optional_and_union_parameters_are_counted_through_nesting():
    inner = {"type": "object", "properties": {"c": {"type": ["string", "null"]}, "d": {"type": ["null"]}}}
    schema = {
        "properties": {"a": {"items": inner}, "b": {"anyOf": [{"type": "null"}]}},
        "required": ["b"],
        "$defs": {"e": inner},
    }
    assert counts(schema) == {"optional": 5, "union": 3}
    assert counts(True) == {"optional": 0, "union": 0}


# ---- what is taken ----------------------------------------------------------------------------------------------

LISTED = closed(
    text={"type": "string", "title": "A", "description": "b", "default": "c", "pattern": "^[a-z]{1,3}(b|c)+$"},
    when={"type": "string", "format": "date-time"},
    maybe={"anyOf": [{"$ref": "#/$defs/item"}, {"type": "null"}]},
    many={"type": "array", "items": {"type": ["integer", "null"]}, "minItems": 1},
    level={"enum": [1, 2, None, True]},
    both={"allOf": [{"type": "string"}]},
) | {"$defs": {"item": closed(a={"const": 1})}}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_documented_subset_is_taken_by_every_family(family):
    schema = json.loads(json.dumps(LISTED))
    if family == "open-weight":
        del schema["properties"]["text"]["pattern"], schema["properties"]["text"]["default"]
    assert [finding for finding in check(schema, family) if finding.level == "refused"] == []


@pytest.mark.parametrize("names", APART)
def test_patterns_that_may_be_apart_are_left_to_the_engine(names):
    assert check({"type": "object", "patternProperties": {key: {} for key in names}}, "local") == []


UNUSED = {"a": {"not": {"pattern": "a"}}, "b": {"items": {"maxContains": 1, "contains": {"pattern": "(?=a)"}}}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "$defs": UNUSED},
        {"anyOf": [{"not": {}}, {"type": "null"}]},
        {"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "string"}}},
        closed() | {"propertyNames": {"maxLength": 3}},
        closed() | {"propertyNames": {"enum": ["a"]}},
        closed() | {"propertyNames": {"pattern": "^a"}, "properties": {}},
        {"type": "string", "description": "a" * 99_900},
    ],
)
def test_what_the_embedded_grammar_can_say_or_never_meets_is_not_found(schema):
    assert check(schema, "local") == []


def test_what_is_not_found_is_compiled_by_the_engine_and_what_is_refused_is_not():
    from llguidance import LLMatcher

    from bx import grammar

    found = [(schema, check(schema, "local")) for _, family, schema, _ in PROVOKING if family == "local"]
    found += [(schema, []) for schema in ({"patternProperties": {key: {} for key in names}} for names in APART)]
    for schema, findings in found:
        if not any(finding.level == "refused" for finding in findings):
            last = [*grammar.candidates(schema)][-1]
            assert not LLMatcher.validate_grammar_with_warnings(last)[0], schema
    for schema in ({"patternProperties": {key: {} for key in names}} for names in OVERLAPS):
        for text in grammar.candidates(schema):
            assert LLMatcher.validate_grammar_with_warnings(text)[0], schema
    for more in UNSAID:
        for text in grammar.candidates({**closed(), **more}):
            assert LLMatcher.validate_grammar_with_warnings(text)[0], more


def test_a_tool_takes_nearly_everything_and_says_once_that_nothing_is_enforced():
    schema = {"type": "object", "patternProperties": {"a": {"not": {"minLength": 3}}}, "x": 1}
    assert [finding.rule for finding in check(schema, "tool")] == ["nothing-enforced"]


def test_a_branch_that_nothing_satisfies_does_not_keep_other_answers_from_being_given():
    schema = {"anyOf": [IMPOSSIBLE, {"type": "null"}]}
    assert {finding.level for finding in check(schema, "tool")} == {"validated"}
    assert check(schema, "local") == []


@pytest.mark.parametrize(
    "word", ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri"]
)
def test_the_listed_formats_are_taken(word):
    assert check({"type": "string", "format": word}, "claude") == []


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d+\.\w*\s?$",
        r"[\\p]",
        "(a{10}|b){10}c{100}(d{100})",
        "[^(?=\\]]",
        r"(a|b){2,5}",
        "a{3}",
        r"\\b",
        "(?:a)",
        "ü+",
        "{x}",
    ],
)
def test_simple_patterns_are_taken(pattern):
    assert conditions.irregular(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r"(a)\1", "back-reference"),
        ("(?<!a)b", "look-behind"),
        ("(?!a)", "look-ahead"),
        (r"\bword", "word boundary"),
        (r"a\B", "word boundary"),
        ("a{1,1000}", "large repetition"),
        ("a{99999999999999999999999}", "large repetition"),
        ("(a{100}){100}", "large repetition ({100})"),
        ("((ab{5}|c){20}x){2,}", "large repetition ({2,})"),
        ("(a{99999}){99999}{99999}", "large repetition"),
        (r"[\p{L}]", "Unicode class"),
        (r"[a\\\P{L}]", "Unicode class"),
        (r"\p{L}", "Unicode class"),
        ("(?i)a", "flag"),
    ],
)
def test_a_pattern_outside_of_the_subset_is_named(pattern, names):
    assert names in conditions.irregular(pattern)


def test_findings_come_in_the_order_of_the_document():
    schema = closed(b={"type": "string", "maxLength": 1}, a={"type": "string", "minLength": 1}) | {"$comment": ""}
    assert [checker.place(finding.path) for finding in check(schema, "claude")] == [
        "$.$comment",
        "$.properties.b.maxLength",
        "$.properties.a.minLength",
    ]


# ---- what is no schema ------------------------------------------------------------------------------------------

DEEP: list = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "$: a JSON Schema is an object"),
        (None, "$: a JSON Schema is an object"),
        ({"type": "strin"}, "$.type: "),
        ({"properties": {"a": {"required": "b"}}}, "$.properties.a.required: "),
        ({"properties": {"a": {"pattern": "("}}}, "$.properties.a.pattern: "),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "required": []}, "$.required: "),
        ({"$schema": "https://example.com/mine"}, "$.$schema: 'https://example.com/mine' is no draft that is known"),
        ({"$schema": 5}, "$.$schema: 5"),
        ({"$schema": ""}, "$.$schema: ''"),
        ({"enum": DEEP}, "$: the schema is nested more than 100 levels deep"),
        ({"const": float("nan")}, "$: the schema holds"),
        ({"maximum": float("inf")}, "$: the schema holds"),
        ({"title": "\ud800"}, "$: the schema holds a lone surrogate"),
        ({"\udfff": 1}, "$: the schema holds a lone surrogate"),
        ({"enum": [{1}]}, "$: the schema holds"),
        (hostile()["doubling"], "$: references hold one value against more than 20000 schemas"),
        (
            closed(a={"$ref": "#/x"}) | {"x": {"type": "array", "minItems": "five"}},
            "$.properties.a.$ref: the reference '#/x' leads to where no schema is looked for",
        ),
        ({"$ref": "#/enum/0", "enum": [{"items": 5}]}, "$.$ref: the reference '#/enum/0'"),
        (chain(20_000), "$: 20000 references over"),
    ],
)
def test_what_is_no_json_schema_is_told_apart_with_its_place(value, says):
    with pytest.raises(InvalidSchema) as refused:
        well_formed(value)
    assert str(refused.value).removeprefix("This cannot be used as a JSON Schema: ").startswith(says)
    assert refused.value.exit_code == 2
    assert refused.value.fix


@pytest.mark.parametrize("draft", ["draft-04/schema#", "draft-04/schema", "draft-06/schema#", "draft-07/schema#"])
def test_an_older_draft_is_read_by_its_own_rules(draft):
    well_formed({"$schema": f"http://json-schema.org/{draft}", "definitions": {"a": {}}, "items": [{}]})
    with pytest.raises(InvalidSchema, match=r"\$\.items"):
        well_formed({"items": [{}]})


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_schema_neither_hangs_nor_crashes(name):
    schema = hostile()[name]
    started = time.perf_counter()
    try:
        well_formed(schema)
    except InvalidSchema:
        assert name in ("long pattern", "doubling", "opposites")
    for family in FAMILIES:
        check(schema, family)
    assert time.perf_counter() - started < 15


def test_time_grows_with_the_size_and_no_faster():
    def seconds(size):
        schema = closed(**{f"p{at}": {"$ref": "#/$defs/a"} for at in range(size)})
        schema["$defs"] = {"a": {"oneOf": [{"type": "string", "maxLength": at} for at in range(size)]}}
        best = 1e9
        for _ in range(3):
            started = time.perf_counter()
            check(schema, "claude")
            best = min(best, time.perf_counter() - started)
        return best

    assert seconds(8_000) < 8 * seconds(2_000)  # 4 times the size; a quadratic step would make it 16 times


@sample.needed
def test_real_schemas_are_checked_in_well_under_a_millisecond_each():
    schemas = [case["schema"] for case in sample.cases()]
    started = time.perf_counter()
    for schema in schemas:
        well_formed(schema)
    formed = time.perf_counter()
    for schema in schemas:
        for family in FAMILIES:
            check(schema, family)
    checked = time.perf_counter()
    print(
        f"{(formed - started) / len(schemas) * 1e3:.2f} ms a schema to see that it is one, "
        f"{(checked - formed) / len(schemas) / len(FAMILIES) * 1e3:.2f} ms to check it for a family"
    )
    assert (checked - formed) / len(schemas) / len(
        FAMILIES
    ) < 0.005  # ten times what it takes: others use the machine
