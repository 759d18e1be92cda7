"""A minimal instance of a schema: valid, small, found in bounded time, or a named place where there is none."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sample
from bx import instances
from bx.schema import values
from bx.schema.example import NoExample, example

MAP = {"type": "object", "patternProperties": {"^x-": {}}, "additionalProperties": False}
DRAFT_4 = "http://json-schema.org/draft-04/schema#"
# Kept before the tests' private home clears such variables.


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, None),
        ({"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]}, {"a": ""}),
        ({"type": "string", "minLength": 3}, "aaa"),
        ({"enum": ["x", "y"]}, "x"),
        ({"type": "integer", "enum": ["x", 2]}, 2),
        ({"const": {"a": 1}}, {"a": 1}),
        ({"type": "string", "default": "abc"}, "abc"),
        ({"type": "string", "default": 5}, ""),
        ({"type": "integer", "examples": ["x", 42]}, 42),
        ({"type": "integer", "exclusiveMinimum": 3, "multipleOf": 7}, 7),
        ({"type": "integer", "maximum": -5}, -5),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-5}, 5e-6),
        ({"$schema": DRAFT_4, "type": "integer", "minimum": 3, "exclusiveMinimum": True}, 4),
        ({"type": "number", "multipleOf": 0.01, "minimum": 0.005}, 0.01),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [False, False]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": True}, [0, 1, -1]),
        ({"type": "array", "items": {"type": "integer"}, "contains": {"const": 5}, "minItems": 2}, [5, 0]),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "minItems": 2, "items": False}, [1, 2]),
        ({"anyOf": [{"type": "string", "enum": []}, {"const": 2}]}, 2),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, 0.5),
        ({"allOf": [{"required": ["a"]}, {"type": "object", "properties": {"a": {"const": 1}}}]}, {"a": 1}),
        ({"not": {"type": "null"}}, ""),
        ({"type": "object", "required": ["a"], "dependentRequired": {"a": ["b"]}}, {"a": None, "b": None}),
        ({"type": "object", "if": {"required": ["a"]}, "else": {"required": ["b"]}}, {"b": None}),
        ({"type": "object", "minProperties": 1, "properties": {"a": {"const": 1}}}, {"a": 1}),
        ({**MAP, "minProperties": 2}, {"x-": None, "x-1": None}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "format": "date"}}}, "2026-01-01"),
    ],
)  # fmt: skip
def test_an_example_is_valid_and_minimal(schema, expected):
    assert example(schema) == expected
    assert type(example(schema)) is type(expected)


@pytest.mark.parametrize("form", [*values._SAMPLES])
def test_every_format_has_an_example(form):
    assert example({"type": "string", "format": form})
    assert len(example({"type": "string", "format": "uri", "minLength": 60})) >= 60


@pytest.mark.parametrize(
    "pattern",
    [
        "^[A-Z]{2}-\\d{3,}$", "^(?:a|b)+(c|d)?$", "\\.png$", "^\\p{Lu}\\p{L}+\\s$", "^[^a-z]+$",
        "^(?<year>\\d{4})-x$",
        "^(?!a)[a-z]$", "^[\\w.+-]+@[\\w-]+\\.\\w{2,4}$", "a|b",
        "^\\u00e4[\\]x]?$", "^#([a-fA-F0-9]{6})$", "^\\S+\\b$", "",
    ],
)  # fmt: skip
def test_a_pattern_is_matched(pattern):
    assert instances.violation(example({"type": "string", "pattern": pattern}), {"pattern": pattern}) is None
    assert len(example({"type": "string", "pattern": "^[A-Z]{2}-\\d{3,}$", "minLength": 9})) >= 9


def test_different_objects_are_found_where_they_are_asked_for():
    item = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert len(example({"type": "array", "items": item, "minItems": 20, "uniqueItems": True})) == 20


def test_what_refers_to_itself_comes_to_an_end():
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }
    assert len(json.dumps(example(node))) < 100
    assert example(
        {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}, "required": ["kids"]}
    ) == {"kids": []}


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        (False, None),
        ({"not": {}}, "$:"),
        ({"enum": []}, "$:"),
        ({"$ref": "#"}, "$:"),
        ({"type": "object", "properties": {"a": {"type": "string", "enum": [1]}}, "required": ["a"]}, "$.a:"),
        ({"type": "object", "properties": {}, "required": ["a"], "additionalProperties": False}, "$.a:"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"}, "$.a.a"),
        ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 3}, "$[0]"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "$:"),
        ({"type": "array", "minItems": 10**9}, "$:"),
        ({"type": "string", "minLength": 10**9}, "$:"),
        ({"type": "object", "minProperties": 10**9}, "$:"),
        ({"type": "array", "minItems": 4000, "items": {"type": "array", "minItems": 4000}}, "$"),
        ({"allOf": [*({"anyOf": [{"const": n} for n in range(30)]} for _ in range(12)), {"const": "x"}]}, "$:"),
    ],
)
def test_where_there_is_no_example_the_place_is_named_in_bounded_time(schema, where):
    started = time.monotonic()
    with pytest.raises(NoExample) as caught:
        example({"allOf": [schema]} if schema is False else schema)
    assert (where or "$:") in str(caught.value)
    assert caught.value.fix
    assert caught.value.exit_code == 8
    assert time.monotonic() - started < 10


def test_a_schema_that_is_none_is_a_value_error():
    with pytest.raises(ValueError, match="not a valid JSON Schema"):
        example({"type": "strin"})


LEAVES = [
    {"type": "string"},
    {"type": "integer", "minimum": 2},
    {"enum": [1, "a"]},
    {"$ref": "#"},
    {},
    {"type": "null"},
    {"type": "string", "pattern": "^a+$"},
    {"not": {"type": "string"}},
]


def bigger(inner):
    names, one = st.sampled_from("abc"), st.fixed_dictionaries
    array = {"type": st.just("array"), "items": inner, "minItems": st.integers(0, 3), "uniqueItems": st.booleans()}
    record = {
        "type": st.just("object"),
        "properties": st.dictionaries(names, inner),
        "required": st.lists(names, unique=True),
        "additionalProperties": st.booleans(),
    }
    combined = ({keyword: st.lists(inner, min_size=1, max_size=3)} for keyword in ("anyOf", "oneOf", "allOf"))
    return st.one_of(one(array), one(record), *map(one, combined), one({"if": inner, "then": inner, "else": inner}))


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.sampled_from(LEAVES), bigger, max_leaves=8))
def test_any_schema_has_a_valid_example_or_an_error(schema):
    try:
        value = example(schema)
    except NoExample:
        return
    assert instances.violation(value, schema) is None


@sample.needed
def test_most_schemas_of_a_public_corpus_have_an_example():
    found, schemas = 0, [case["schema"] for case in sample.cases()]
    for schema in schemas:
        try:
            found += instances.violation(example(schema), schema) is None
        except NoExample:
            continue
    assert found >= 0.97 * len(schemas)


@pytest.mark.parametrize(
    "part",
    [
        lambda at: {"properties": {f"p{at}": {"type": "string"}}, "required": [f"p{at}"]},
        lambda at: {"properties": {f"p{at}": {}}},
        lambda at: {"required": [f"p{at}"]},
        lambda at: {"title": str(at), "minLength": at % 7},
    ],
)
def test_thousands_of_parts_take_a_short_time(part):
    started = time.perf_counter()
    with contextlib.suppress(NoExample):
        example({"allOf": [part(at) for at in range(8_000)]})
    assert time.perf_counter() - started < 4


def test_hundreds_of_parts_have_an_example():
    parts = [{"properties": {f"p{at}": {"type": "null"}}, "required": [f"p{at}"]} for at in range(300)]
    assert len(example({"allOf": parts})) == 300
