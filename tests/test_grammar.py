"""Grammars from schemas: narrowing only narrows, a refusal names its place, and no schema can crash or hang us."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bx import grammar
from bx.converse import violation

SAMPLE = Path(os.environ.get("BX_JSONSCHEMABENCH", Path(__file__).parents[2] / "shared/jsonschemabench/sample.jsonl"))

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
        (fields("a", additionalProperties=True), {"additionalProperties": True}),
        (fields("a", required=["b"]), {}),
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
                if violation(value, narrowed) is None:
                    assert violation(value, schema) is None


def test_choices_that_overlap_are_not_narrowed_until_they_do_not():
    schema = {"oneOf": [fields("a", required=["a"]), fields("b")]}
    assert all("additionalProperties" not in candidate for candidate in grammar.candidates(checked(schema)))
    assert "oneOf" in reason(schema)
    schema = {"oneOf": [fields("a"), {"type": "string"}]}
    assert read(next(grammar.candidates(checked(schema))))["oneOf"][1] == {"type": "string", "maxLength": 300}


# ---- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "keyword"),
    [
        ({"not": {"type": "null"}}, "not"),
        ({"if": {"type": "string"}, "then": {"minLength": 2}}, "if"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"type": "string"}}, "contains"),
        ({"type": "string", "format": "uri"}, "format"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"oneOf": [{"type": "string"}, {"minLength": 1}]}, "oneOf"),
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
        ({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, r"\$: the schema combines several multipleOf"),
        ({"allOf": [{"pattern": f"a{at}.*"} for at in range(40)]}, r"\$: the schema combines 40 patterns"),
    ],
)
def test_a_schema_that_is_too_much_for_any_grammar_is_refused_at_once(schema, says):
    started = time.monotonic()
    with pytest.raises(ValueError, match=says):
        grammar.check(schema, "" if "nested" in says else json.dumps(schema))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("step", [0.01, 0.25, 5, 1e-7, 1e6, 86400])
def test_common_steps_are_not_too_much(step):
    assert checked({"type": "number", "multipleOf": step})


def test_no_place_is_left_where_a_list_may_be_endless():
    schema = {"$ref": "#/x/y", "x": {"y": {"type": "array", "maxItems": 10**9}}, "properties": {"enum": {}}}
    for candidate in grammar.candidates(checked(schema)):
        assert "1000000000" not in candidate


@pytest.mark.skipif(
    not SAMPLE.exists(), reason="no JSONSchemaBench sample: set BX_JSONSCHEMABENCH to its sample.jsonl"
)
def test_real_schemas_are_refused_with_a_place_or_narrowed_without_widening():
    for line in SAMPLE.read_text().splitlines():
        case = json.loads(line)
        try:
            schema = checked(case["schema"])
            violation(None, schema)
        except ValueError:
            continue
        compiled = [read(candidate) for candidate in grammar.candidates(schema)]
        usable = [narrowed for narrowed in compiled if grammar._reason(narrowed) is None]
        if not usable:
            assert reason(schema).startswith("$"), case["name"]
        for test in case["tests"]:
            for narrowed in usable:
                if violation(test["data"], narrowed) is None:
                    assert violation(test["data"], schema) is None, case["name"]


PAGE = Path(__file__).parents[1] / "docs" / "local.md"


@pytest.mark.parametrize(("part", "fate"), re.findall(r"^\| `(\{.*\})` \| (\w+)", PAGE.read_text(), re.MULTILINE))
def test_the_page_says_truly_what_is_enforced(part, fate):
    schema = checked(json.loads(part))
    compiled = [grammar._reason(read(candidate)) is None for candidate in grammar.candidates(schema)]
    assert fate == ("enforced" if any(compiled) else "refused")


def test_the_page_names_every_format_that_is_enforced():
    known = ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"]
    others = [
        "idn-email",
        "idn-hostname",
        "uri",
        "uri-reference",
        "iri",
        "regex",
        "json-pointer",
        "relative-json-pointer",
    ]
    assert [name for name in known + others if grammar._reason({"type": "string", "format": name}) is None] == known
    assert all(f"`{name}`" in PAGE.read_text() or f'"{name}"' in PAGE.read_text() for name in known)


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
