"""Grammars from schemas: narrowing only narrows, a refusal names its place, and no schema can crash or hang us."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bx import grammar
from bx.instances import violation
from bx.schema import walk

pytest.importorskip("llguidance", reason="the extra 'local' is not installed")


def read(candidate):
    """The schema in a grammar."""
    head, found = candidate.split("%json ", 1)
    assert head == "%llguidance {}\nstart: "
    return json.loads(found)


def fields(*names, **given):
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, **given}


def checked(schema):
    grammar.check(schema, json.dumps(schema))
    return schema


def reason(schema):
    return grammar.refusal(checked(schema), lambda _: True)


# ---- narrowing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "bounds"),
    [
        ({"type": "string"}, {"maxLength": 300}),
        ({"type": "string", "minLength": 400}, {"maxLength": 800}),
        ({"type": "string", "maxLength": 5000}, {"maxLength": 5000}),
        ({"type": ["string", "null"]}, {"maxLength": 300}),
        ({"type": "string", "pattern": "a+"}, {}),
        ({"type": "array"}, {"maxItems": 16}),
        ({"type": "array", "minItems": 20}, {"maxItems": 20}),
        ({"type": "array", "maxItems": 10**9}, {"maxItems": 10_000}),
        ({"type": "object"}, {"maxProperties": 16}),
        (fields("a"), {"additionalProperties": False}),
        (fields("a", additionalProperties=True), {"additionalProperties": False}),  # all but "a" by a pattern
        (fields("a", required=["b"]), {"additionalProperties": False}),
    ],
)
def test_what_has_no_bound_gets_one(schema, bounds):
    narrowed = read(next(grammar.candidates(checked(schema))))
    limits = ("maxLength", "maxItems", "maxProperties", "additionalProperties")
    assert {name: narrowed[name] for name in limits if name in narrowed} == bounds


def test_bounds_reach_every_place_of_a_schema_and_leave_the_original_alone():
    free = {"type": "string"}
    schema = {
        "$defs": {"d": dict(free)},
        "properties": {"a": dict(free), "l": {"items": dict(free)}, "p": {"prefixItems": [dict(free)]}},
        "patternProperties": {"^x": dict(free)},
        "anyOf": [dict(free)],
    }
    before = json.dumps(schema)
    narrowed = read(next(grammar.candidates(checked(schema))))
    bound = {"type": "string", "maxLength": 300}
    inside = narrowed["properties"]
    places = [narrowed["$defs"]["d"], inside["a"], inside["l"]["items"], inside["p"]["prefixItems"][0]]
    assert [*places, narrowed["patternProperties"]["^x"], narrowed["anyOf"][0]] == [bound] * 6
    assert json.dumps(schema) == before


def test_the_separators_are_ours_whatever_the_schema_says():
    for candidate in grammar.candidates({"type": "string", "x-guidance": {"lenient": True}}):
        assert read(candidate)["x-guidance"] == {
            "whitespace_flexible": False,
            "item_separator": ", ",
            "key_separator": ": ",
        }


NAMES = st.sampled_from(["a", "b", "c"])
LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 2},
        {"type": "integer"},
        {"type": ["string", "null"]},
        {"enum": ["x", 1, None]},
        {"const": {"a": 1}},
        {"type": "array"},
        {"type": "object"},
        {"$ref": "#/$defs/d"},
        {},
    ]
)


def inner(schemas):
    named = st.dictionaries(NAMES, schemas, max_size=3)
    several = st.lists(schemas, min_size=1, max_size=3)
    objects = st.fixed_dictionaries(
        {"type": st.just("object"), "properties": named},
        optional={"required": st.lists(NAMES, unique=True), "additionalProperties": schemas | st.booleans()},
    )
    lists = st.fixed_dictionaries({"type": st.just("array"), "items": schemas}, optional={"minItems": st.just(1)})
    choices = st.sampled_from(["anyOf", "oneOf", "allOf"]).flatmap(
        lambda word: st.fixed_dictionaries({word: several})
    )
    return objects | lists | choices


SCHEMAS = st.builds(lambda top, shared: top | {"$defs": {"d": shared}}, st.recursive(LEAVES, inner), LEAVES)
VALUES = st.recursive(
    st.none() | st.integers(0, 3) | st.sampled_from(["", "x", "yy", "z" * 301]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(NAMES | st.just("d"), values, max_size=3),
)


@settings(deadline=None, max_examples=400)
@given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=10))
@example({"oneOf": [fields("a", required=["a"]), fields("b")], "$defs": {"d": {}}}, [{"a": "x"}])
def test_what_a_narrowed_schema_admits_the_schema_admits(schema, values):
    assume('"$ref": "#/$defs/d"' not in json.dumps(schema["$defs"]))
    for candidate in grammar.candidates(checked(schema)):
        narrowed = read(candidate)
        if grammar._reason(narrowed) is None:  # what cannot be compiled admits nothing
            for value in values:
                if violation(value, narrowed) is None and not grammar.validated(schema):
                    assert violation(value, schema) is None


def test_what_is_combined_is_closed_once_for_all():
    schema = {"$defs": {"d": fields("a")}, "allOf": [{"$ref": "#/$defs/d"}, fields("b")], "properties": {"c": {}}}
    narrowed = read(next(grammar.candidates(checked(schema))))
    assert narrowed["additionalProperties"] is False
    assert narrowed["properties"].keys() == {"a", "b", "c"}
    assert "additionalProperties" not in narrowed["$defs"]["d"]
    assert grammar._reason(narrowed) is None


# ---- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "keyword"),
    [
        ({"not": {"pattern": "^a"}}, "not"),
        ({"not": {}}, "not"),
        ({"if": {"pattern": "^a"}, "then": {"minLength": 2}}, "if"),
        ({"type": "array", "contains": {"type": "string"}, "maxContains": 1}, "(max)?[cC]ontains"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
        ({"type": "object", "propertyNames": {"format": "uri"}}, "propertyNames"),
        ({"type": "object", "patternProperties": {"^a": {}, "b$": {}}}, "patternProperties"),
        ({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "m(in|ax)imum"),
        ({"type": "string", "maxLength": 10**30}, "maxLength"),
    ],
)
@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda part: part, r"\$"),
        (lambda part: fields("x") | {"properties": {"x": {"type": "null"}, "odd name": part}}, None),
        (lambda part: {"type": "array", "items": part, "minItems": 1}, r"\$\.items"),
        (lambda part: {"$ref": "#/$defs/deep", "$defs": {"deep": part}}, r"\$\.\$defs\.deep"),
        (lambda part: {"anyOf": [{"type": "null"}, part]}, r"\$\.anyOf\[1\]"),
        (lambda part: {"type": "object", "additionalProperties": part, "minProperties": 1}, None),
    ],
    ids=["top", "property", "items", "defs", "anyOf", "additional"],
)
def test_a_refusal_names_the_path_and_the_keyword(part, keyword, wrap, path):
    schema = wrap(part)
    if grammar._reason(schema) is None:
        return  # where this part need not hold, the rest can be enforced
    found = reason(schema)
    where = path or r"\$\.(properties\['odd name'\]|additionalProperties)"
    assert re.match(rf"{where}\.{keyword}: \S", found), found


def test_a_problem_that_shows_only_in_use_is_found_by_using_it():
    schema = fields("a") | {"properties": {"a": {"type": "string"}, "b": {"type": "integer", "multipleOf": 7}}}
    found = grammar.refusal(schema, lambda candidate: "multipleOf" not in candidate)
    assert found == "$.properties.b.multipleOf: no answer satisfies it, or it is too complex"


def test_a_refusal_takes_seconds_at_most():
    schema = {"allOf": [fields(*(f"{at}-{name}" for name in range(100))) for at in range(12)], "not": {}}
    started = time.monotonic()
    assert reason(schema).startswith("$")
    assert time.monotonic() - started < 8


def nested(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (nested(5000), r"\$: the schema is nested more than 100 levels"),
        ({"enum": ["x" * 100_000]}, r"\$: the schema has \d+ characters"),
        ({"enum": ["\ud800"]}, r"\$: the schema holds a lone surrogate"),
        ({"properties": {"\udfff": {}}}, r"\$: the schema holds a lone surrogate"),
        ({"const": float("nan")}, r"\$: the schema holds NaN"),
        ({"items": {"minItems": 10**9}}, r"\$\.items\.minItems: 1000000000 is too many"),
        ({"$ref": "#/const", "const": {"maxItems": 10**9}}, r"\$\.const\.maxItems: 1000000000 is too many"),
        ({"items": {"multipleOf": 999999937}}, r"\$\.items\.multipleOf: the multiples of 999999937"),
        ({"items": {"enum": [1, {"a": [2**53 + 1]}]}}, r"\$\.items\.enum: whole numbers beyond 9007199254740992"),
        ({"not": {"const": -(2**60)}}, r"\$\.not\.const: whole numbers"),
        ({"items": {"pattern": "^[[:alpha:]]+$"}}, r"\$\.items\.pattern: \[ and && within a class"),
        ({"patternProperties": {"^[a-z&&[^b]]$": {}}}, r"\$\.patternProperties: \[ and && within"),
        ({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, r"\$: the schema combines several multipleOf"),
        ({"allOf": [{"pattern": f"a{at}.*"} for at in range(40)]}, r"\$: the schema combines 40 patterns"),
    ],
)
def test_a_schema_that_is_too_much_for_any_grammar_is_refused_at_once(schema, says):
    started = time.monotonic()
    with pytest.raises(ValueError, match=says):
        grammar.check(schema, "" if "nested" in says else json.dumps(schema))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("pattern", [r"^[\[\]]$", "^[a-z]+[0-9]$", r"\[[a&b]", r"^\\[ab]&&[c]"])
def test_common_classes_are_no_sets(pattern):
    assert checked({"type": "string", "pattern": pattern})


@pytest.mark.parametrize("step", [0.01, 0.25, 5, 1e-7, 1e6, 86400])
def test_common_steps_are_not_too_much(step):
    assert checked({"type": "number", "multipleOf": step})


def test_no_place_is_left_where_a_list_may_be_endless():
    schema = {"$ref": "#/x/y", "x": {"y": {"type": "array", "maxItems": 10**9}}, "properties": {"enum": {}}}
    for candidate in grammar.candidates(checked(schema)):
        assert "1000000000" not in candidate


PAGE = Path(__file__).parents[1] / "docs" / "json-schema.md"
ROWS = re.findall(r"^\| `(\{.*?\})` \| (\w+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


LIMITING = {
    "type",
    "enum",
    "const",
    "multipleOf",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "items",
    "prefixItems",
    "additionalItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
    "unevaluatedItems",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "$ref",
    "$dynamicRef",
}
FORMATS = [
    "date-time",
    "date",
    "time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
    "uri-reference",
    "iri",
    "iri-reference",
    "uri-template",
    "json-pointer",
    "relative-json-pointer",
    "idn-email",
    "idn-hostname",
    "regex",
]


@pytest.mark.parametrize(("part", "fate"), ROWS)
def test_the_page_says_truly_what_is_enforced(part, fate):
    schema = json.loads(part)
    try:
        grammar.check(schema, part)
    except ValueError:
        assert fate == "refused"
        return
    compiled = [grammar._reason(read(candidate)) is None for candidate in grammar.candidates(schema)]
    found = "refused" if not any(compiled) else "validated" if grammar.validated(schema) else "enforced"
    assert found == fate
    assert (grammar._reason(schema) is None) == any(compiled)


def test_the_page_has_a_row_for_every_keyword_that_limits_an_answer():
    named = {name for part, _ in ROWS for _, node in walk.nodes(json.loads(part)) for name in node}
    assert named >= LIMITING


@pytest.mark.parametrize("name", FORMATS)
def test_the_page_names_every_format_that_is_enforced(name):
    fate = "validated" if grammar.validated({"type": "string", "format": name}) else "enforced"
    assert grammar._reason({"type": "string", "format": name}) is None
    line = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| {fate}" in line


@pytest.mark.parametrize(("chunks", "held"), [([], False), ([""], False), (["Z"], False), (["", "{"], True)])
def test_only_a_text_that_is_there_proves_that_a_grammar_holds(chunks, held):
    local = pytest.importorskip("bx.engines.local")
    answer = [{"choices": [{"text": text}]} for text in chunks]
    call = SimpleNamespace(begin=lambda: None, chunks=lambda: iter(answer))
    assert local._holds(SimpleNamespace(complete=lambda _: call), "a grammar") is held


# ---- the hint -------------------------------------------------------------------------------------------------


def test_the_hint_names_the_fields():
    schema = {
        "properties": {
            "service": {"type": "string"},
            "severity": {"enum": ["sev1", "sev2"]},
            "minutes": {"type": "integer"},
        }
    }
    fields = "service, severity (sev1 or sev2), minutes (whole number)"
    assert grammar.hint(schema) == f"Find or write {fields}. Answer in JSON."


def test_the_hint_of_a_schema_without_fields_names_what_is_wanted():
    assert (
        grammar.hint({"type": "array", "items": {"type": "integer"}}) == "Answer in JSON with a list of whole number."
    )


@given(SCHEMAS)
def test_there_is_a_hint_for_every_schema(schema):
    assert "Answer in JSON" in grammar.hint(schema)
