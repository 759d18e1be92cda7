"""Schemas rewritten into what the grammar engine takes: the same answers, and nothing looser that is not listed."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bx import grammar
from bx.grammar import validated
from bx.grammar.opposite import Opposites
from bx.grammar.rewrite import TooLargeError, rewritten
from bx.instances import loads, violation

llguidance = pytest.importorskip("llguidance", reason="the extra 'local' is not installed")
LLMatcher = llguidance.LLMatcher

NAMES = st.sampled_from(["a", "b", "ab"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.sampled_from([0.5, "", "a", "b", "ab", "test", "x\ny"]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(NAMES, values, max_size=3),
    max_leaves=4,
)
KINDS = st.sampled_from(["null", "boolean", "object", "array", "number", "string"])
SIZES = st.integers(0, 3)
LEAVES = st.one_of(
    st.booleans(),
    st.builds(lambda kind: {"type": kind}, KINDS | st.just("integer") | st.lists(KINDS, min_size=1, unique=True)),
    st.builds(lambda value: {"const": value}, VALUES),
    st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=3)),
    st.builds(lambda names: {"required": names}, st.lists(NAMES, min_size=1, max_size=2, unique=True)),
    st.builds(
        lambda word, size: {word: size},
        st.sampled_from(
            [
                *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
                *("minLength", "maxLength", "minItems", "maxItems"),
            ]
        ),
        SIZES,
    ),
)


def combined(schemas):
    several = st.lists(schemas, min_size=1, max_size=3)
    return st.one_of(
        st.builds(lambda word, parts: {word: parts}, st.sampled_from(["anyOf", "oneOf", "allOf"]), several),
        st.builds(lambda part: {"not": part}, schemas),
        st.builds(lambda part, then, other: {"if": part, "then": then, "else": other}, schemas, schemas, schemas),
        st.builds(lambda named: {"properties": named}, st.dictionaries(NAMES, schemas, max_size=2)),
        st.builds(lambda named: {"dependentSchemas": named}, st.dictionaries(NAMES, schemas, max_size=2)),
        st.just({"dependentRequired": {"a": ["b"]}}),
        st.builds(lambda part: {"type": "array", "items": part}, schemas),
        st.builds(lambda parts: {"prefixItems": parts}, several),
        st.just({"$ref": "#/$defs/d"}),
    )


SCHEMAS = st.builds(
    lambda top, more, shared: top | more | {"$defs": {"d": shared}},
    st.recursive(LEAVES, combined, max_leaves=6).filter(lambda schema: isinstance(schema, dict)),
    st.sampled_from([{}, {"type": "object"}, {"type": "string"}]),
    LEAVES,
)


@settings(deadline=None, max_examples=200)
@given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=12))
@example({"oneOf": [{"enum": ["test"]}, {"type": "string"}]}, ["test", "tes", "tests", "", "a", None])
@example({"not": {"const": [1, {"a": True}]}}, [[1, {"a": True}], [1], [1, {"a": 1}], [1, {}], [], None])
@example({"not": {"enum": [1, 2.5]}}, [1, 1.0, 2, 2.5, 3, None, True])
@example({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, [{"a": 1}, {"b": 1}, {"a": 1, "b": 1}, {}, None])
def test_what_is_rewritten_admits_the_same(schema, values):
    written = rewritten(schema, narrow=False)
    assume(grammar._reason(written) is None)
    for value in values:
        kept, found = violation(value, schema) is None, violation(value, written) is None
        assert kept == found or (found and validated(schema)), value


@settings(deadline=None, max_examples=200)
@given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=12))
def test_an_opposite_admits_what_its_schema_does_not(schema, values):
    opposite = Opposites(schema).opposite(schema)
    assume(opposite is not None)
    root = {"allOf": [opposite], "$defs": schema["$defs"]}
    for value in values:
        assert (violation(value, schema) is None) != (violation(value, root) is None), value


@settings(deadline=None, max_examples=100)
@given(SCHEMAS, SCHEMAS, st.lists(VALUES, min_size=1, max_size=12))
def test_what_is_disjoint_has_no_value_in_common(one, other, values):
    other = other | {"$defs": one["$defs"]}
    assume(Opposites(one).disjoint(one, other))
    for value in values:
        assert violation(value, one) is not None or violation(value, other) is not None, value


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True}, [[], [3, 1]], [[1, 1]]),
        ({"type": "array", "items": {"enum": list("abcdefg")}, "uniqueItems": True}, [["a", "g"]], [["a", "a"]]),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, [[], ["a"]], [["a", "a"]]),
        ({"contains": {"const": 1}, "minContains": 2}, [[1, 1, 0], "a"], [[1, 0], []]),
        ({"contains": {"const": 1}, "prefixItems": [{"type": "integer"}]}, [[1, "a"]], [[0], []]),
        ({"properties": {"a": {}, "b": {}}, "type": "object", "minProperties": 1}, [{"a": 1}, {"b": 1}], [{}]),
        ({"properties": {"a": {}, "b": {}}, "maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 2}]),
        ({"type": "object", "propertyNames": {"pattern": "^x"}}, [{}, {"xy": 1}], [{"y": 1}]),
        ({"type": "object", "propertyNames": {"enum": ["a"]}}, [{"a": 1}], [{"b": 1}]),
        ({"type": "object", "propertyNames": {"maxLength": 1}, "properties": {"ab": {}}}, [{"a": 1}], [{"ab": 1}]),
        ({"properties": {"a": {}}, "unevaluatedProperties": False}, [{"a": 1}, 1], [{"b": 1}]),
        ({"properties": {"a": {}, "b": {}, "c": {}}, "dependencies": {"a": ["b"], "c": {"required": ["b"]}}},
         [{}, {"a": 1, "b": 1}], [{"a": 1}, {"c": 1}]),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True}, [2], [1]),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{}], "additionalItems": False}, [[1]],
         [[1, 1]]),
        ({"$schema": "http://json-schema.org/draft-06/schema#", "if": {}, "then": False}, [1], []),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a", "const": 1,
          "definitions": {"a": {"type": "string"}}}, ["a"], [1]),
    ],
)  # fmt: skip
def test_each_way_of_rewriting(schema, good, bad):
    written = rewritten(schema)
    assert validated(schema) == []
    assert grammar._reason(written) is None
    assert all(violation(value, schema) is None and violation(value, written) is None for value in good)
    assert all(violation(value, schema) and violation(value, written) for value in bad)


FORMATS = {
    "date": ["2024-02-29", "2000-02-29", "1999-12-31", "2023-02-28"],
    "time": ["00:00:00Z", "23:59:59.123456+01:00"],
    "date-time": ["2024-02-29T12:00:00Z", "2023-01-01t00:00:00.5z"],
    "hostname": ["a", "www.example.com", "x-y.a1.co", "1.2.3.4.5"],
    "email": ["a@b", "first.middle.last@x-y.example.com", "a+b@c.de"],
    "idn-email": ["a@b"],
    "uri": ["https://a.example/b?c=d#e", "mailto:a@b", "urn:x:y", "file:///x", "http://u:p@h:80/", "a:"],
    "uri-reference": ["", "a/b", "/a", "//h/x", "#f", "?q", "http://x", "a:b", "./c:d"],
    "iri": ["https://é.example/ü"],
    "iri-reference": ["é", "/ü#ß"],
    "uri-template": ["http://x/{id}{?a,b*}", "{+path:3}/x"],
    "json-pointer": ["", "/a/b~0~1", "/é"],
    "relative-json-pointer": ["0", "1/a", "2#"],
    "idn-hostname": ["a.example", "x-y.com"],
}


@pytest.mark.parametrize(
    "name", [name for name in FORMATS if "iri" not in name and name != "idn-email"]
)  # theirs are slow to draw from
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_what_a_format_s_pattern_admits_is_of_the_format(name, data):
    schema = {"type": "string", "format": name}
    pattern = rewritten(schema)["allOf"][0]["pattern"]
    written = data.draw(st.from_regex(pattern.replace("^", "\\A", 1)[:-1] + "\\Z"))
    assert violation(written, schema) is None


@pytest.mark.parametrize("name", FORMATS)
def test_common_texts_of_a_format_are_admitted(name):
    for written in FORMATS[name]:
        assert violation(written, {"format": name}) is None
        assert violation(written, rewritten({"type": "string", "format": name})) is None, written
    assert violation("a b\n\\", rewritten({"type": "string", "format": name}))


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ({"properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}, [("properties", "a", "oneOf")]),
        ({"items": {"format": "regex"}}, [("items", "format")]),
        ({"type": "array", "minItems": 2, "uniqueItems": True}, [("uniqueItems",)]),
        ({"$defs": {"a": {"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}}}, [("$defs", "a", "oneOf")]),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, []),
        ({"oneOf": [{"const": at, "title": f"{at}"} for at in range(300)]}, []),
        ({"type": "array", "maxItems": 1, "uniqueItems": True}, []),
        ({"const": [1, 2], "uniqueItems": True}, []),
    ],
)
def test_what_is_only_validated_is_listed_with_its_path(schema, paths):
    assert validated(schema) == [(path, path[-1]) for path in paths]


# ---- nothing is admitted in silence ---------------------------------------------------------------------------


def admits(candidate, written):
    """Whether a grammar admits a text byte by byte, to its end."""
    matcher = LLMatcher(llguidance.LLTokenizer("byte"), candidate)
    return matcher.try_consume_tokens(list(written.encode())) == len(written.encode()) and matcher.is_accepting()


def usable(schema):
    grammar.check(schema, json.dumps(schema))
    return [
        candidate
        for candidate in grammar.candidates(schema)
        if not LLMatcher.validate_grammar_with_warnings(candidate)[0]
    ]


D4, D7 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#"
CLOSED = {"properties": {"a": {}}, "additionalProperties": False}
PATTERNED = {"properties": {"b": {}}, "patternProperties": {"^c": {}}, "additionalProperties": False}
CHOICE = {"oneOf": [{"$ref": "#/$defs/t"}, {"type": "string", "minLength": 2}]}
NAMED = {"$id": "http://e/x", "$defs": {"t": {"type": "string"}}, **CHOICE}


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"$schema": D4, "type": "integer", "not": {"minimum": 1}}, "5"),
        ({"$schema": D4, "type": "integer", "not": {"enum": [0]}}, "0"),
        ({"$schema": D4, "type": "boolean", "not": {"enum": [True]}}, "true"),
        ({"$schema": D7, "type": "array", "items": {"type": "integer"}, "not": {"const": [1]}}, "[1]"),
        ({"$schema": D7, "type": "array", "not": {"items": [{"type": "string"}]}}, '["a"]'),
        ({"type": "object", "allOf": [PATTERNED, CLOSED]}, '{"c": 1}'),
        ({"allOf": [{"propertyNames": {"maxLength": 1}}, {"propertyNames": {"enum": ["a", "abc"]}}]}, '{"b": 1}'),
        ({"$ref": "#/$defs/x", "properties": {"a": {}, "b": {}}, "maxProperties": 1, "type": "object",
          "$defs": {"x": {"patternProperties": {"^z": {}}}}}, '{"a": 1, "z": 1}'),
        ({"const": {"a": 1}, "patternProperties": {"^x-": {"type": "string"}}}, '{"a": 1, "x-y": "q"}'),
        ({"type": "object", "enum": [{"a": 1}], "patternProperties": {"^x-": {}}}, '{"a": 1, "x-y": 1}'),
        ({"propertyNames": {"const": "a", "enum": ["b"]}, "type": "object"}, '{"a": 1}'),
        ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
          "additionalProperties": {"type": "string"}}, r'{"a": 1, "\u0061": "x"}'),
        ({"type": "object", "properties": {"a": False}, "additionalProperties": True}, r'{"\u0061": 1}'),
        ({"type": "object", "properties": {'a"b': False}, "additionalProperties": True}, r'{"a\"b": 1}'),
        ({"type": "object", "patternProperties": {"^a": {"type": "integer"}},
          "additionalProperties": {"type": "string"}}, r'{"\u0061b": "x"}'),
        ({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2}, '{"x": 1, "x": 2}'),
        ({"type": "object", "properties": {"x": NAMED}, "$defs": {"t": {"type": "integer"}}}, '{"x": "ab"}'),
        ({"$defs": {"a": {"$anchor": "foo", "type": "string"}},
          "oneOf": [{"$ref": "#foo"}, {"type": "string", "minLength": 2}]}, '"ab"'),
        ({"type": "string", "pattern": '^[^"]*$'}, r'"a\"b"'),
        ({"type": "string", "pattern": r"^[^\x00-\x60]*$"}, r'"\""'),
        ({"type": "string", "not": {"const": 'a"b'}}, r'"a\"b"'),
        ({"type": "string", "format": "time"}, '"12:00:60Z"'),
        ({"type": "string", "format": "date-time"}, '"2023-02-28T12:00:60Z"'),
        ({"type": "string", "format": "date"}, '"2023-02-29"'),
        ({"type": "string", "format": "hostname"}, '"xn--a"'),
        ({"type": "string", "format": "hostname"}, f'"{".".join(["a" * 60] * 5)}"'),
        ({"type": "string", "format": "email"}, f'"{"a" * 65}@b.c"'),
        ({"$defs": {"n": {"not": {"anyOf": [True] * 6000}}}, "type": "object",
          "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {}, "b": {}}}, '{"a": 1, "b": 2}'),
        ({"$ref": "#/x/a", "x": {"a": {"type": "array", "uniqueItems": True}}}, "[1, 1]"),
        ({"$schema": D7, "type": "object", "properties": {"m": {"items": [{"type": "string"}]},
          "n": {"$ref": "#/properties/m/items/0"}}}, '{"n": 1}'),
        ({"type": "number", "minimum": 0}, "1e999"),
        ({"type": "number"}, "1e999"),
    ],
)  # fmt: skip
def test_what_a_grammar_admits_is_valid_or_listed(schema, written):
    try:
        invalid = violation(loads(written), schema)
    except ValueError as cause:
        invalid = str(cause)
    assert invalid
    admitted = admits(usable(schema)[0], written) if usable(schema) else False
    assert not admitted or validated(schema)


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
          "additionalProperties": {"type": "string"}}, '{"a": 1, "b": "x", "ab": "y"}'),
        ({"type": "object", "required": ["b"], "properties": {"a": {"type": "integer"}},
          "additionalProperties": {"type": "string"}}, '{"b": "x"}'),
        ({"$schema": D4, "type": "integer", "not": {"minimum": 1}}, "0"),
        ({"$schema": D7, "type": "object", "properties": {"m": {"items": [{"type": "string"}]},
          "n": {"$ref": "#/properties/m/items/0"}}}, '{"n": "a"}'),
        ({"type": "string", "pattern": "^[^a-z,\\s]+$"}, '"A"'),
        ({"type": "number"}, "-1.5"),
        ({"type": "array", "contains": {"const": 1}, "minContains": 2.0, "maxItems": 3.0}, "[1, 1]"),
        ({"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1.0}, '{"b": 1}'),
        ({"type": "array", "items": {"enum": [1, 2]}, "minItems": 1.0, "uniqueItems": True}, "[2, 1]"),
    ],
)  # fmt: skip
def test_what_is_told_apart_is_enforced_and_still_admitted(schema, written):
    assert violation(loads(written), schema) is None
    assert validated(schema) == []
    assert admits(usable(schema)[0], written)


def test_items_that_must_be_several_elsewhere_are_not_cut_to_one():
    several = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    schema = {"allOf": [several, {"minItems": 2}]}
    assert admits(usable(schema)[0], '["a", "b"]')
    assert validated(schema) == [(("allOf", 0, "uniqueItems"), "uniqueItems")]


OPERATION = {"type": "object", "required": ["l"], "properties": {"l": {"$ref": "#/$defs/e"}}}
EITHER = {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}, {"type": "number"}]}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/e", "$defs": {"e": EITHER, "a": OPERATION, "b": OPERATION}},
        {"$ref": "#/$defs/x", "$defs": {"x": {"type": "object", "if": {"$ref": "#/$defs/x"}, "then": False}}},
        {"type": "string", "$defs": {"x": {"type": "object", "oneOf": [{"$ref": "#/$defs/x"}, {"minimum": 1}]}}},
        {"$ref": "#/$defs/d0", "$defs": {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}]} for at in range(150)}
         | {"d150": {"type": "object", "patternProperties": {"^a": {}}}}},
    ],
    ids=range(4),
)  # fmt: skip
def test_references_in_a_circle_come_to_an_end(schema):
    assert isinstance(validated(schema), list)
    assert len([*grammar.candidates(schema)]) <= 3


def tower(levels):
    schema = {"type": "string"}
    for at in range(levels):
        schema = {"oneOf": [{"required": [f"a{at}"]}, {"required": ["b"]}, schema]}
    return schema


def ladder(levels):
    """Every definition holds the next one twice."""
    named = {f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(levels)}
    return {"not": {"$ref": "#/$defs/d0"}, "$defs": named | {f"d{levels}": {"const": 1}}}


@pytest.mark.parametrize(
    "schema",
    [
        tower(12),
        tower(30),
        ladder(60),
        {"oneOf": [{"enum": [f"{at}", f"{at + 1}"]} for at in range(400)]},
        {"oneOf": [{"required": [f"k{at}"]} for at in range(200)]},
        {"not": {"enum": ["x" * 50_000]}},
        {"$ref": "#/$defs/a", "not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "array", "items": {"enum": list(range(9000))}, "uniqueItems": True},
        {"type": "object", "properties": {f"k{at}": {} for at in range(5000)}, "minProperties": 2500},
    ],
    ids=range(9),
)
def test_no_schema_takes_long_to_rewrite(schema):
    started = time.monotonic()
    validated(schema)
    try:
        written = rewritten(schema)
    except TooLargeError:
        written = {}
    assert len(json.dumps(written)) < 10_000_000
    assert time.monotonic() - started < 5


# ---- Bedrock's documented subset ------------------------------------------------------------------------------

BEDROCK_FORMATS = ["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"]
PATTERNS = [r"^[a-z]+$", r"\d{2,4}", r"^(ab|cd)?x*$", r"\w+@\w+", r"^\s[^0-9.]", "a.b", r"^v\d+\.\d+$"]
PLAIN = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5).filter(lambda text: text.isprintable())
BEDROCK_LEAVES = st.one_of(
    st.sampled_from([{"type": kind} for kind in ("string", "integer", "number", "boolean", "null")]),
    st.sampled_from([{"type": ["string", "null"]}, {"type": ["integer", "string", "boolean"]}]),
    st.builds(lambda values: {"enum": values}, st.lists(PLAIN, min_size=1, max_size=4)),
    st.builds(lambda value: {"const": value}, PLAIN),
    st.builds(lambda name: {"type": "string", "format": name}, st.sampled_from(BEDROCK_FORMATS)),
    st.builds(lambda pattern: {"type": "string", "pattern": pattern}, st.sampled_from(PATTERNS)),
    st.sampled_from([{"$ref": "#/$defs/d"}, {"$ref": "#/definitions/e"}]),
    st.just({"type": "string", "default": "a", "title": "b", "description": "c"}),
)


def bedrock(schemas):
    named = st.dictionaries(st.sampled_from(["a", "b", "two words", "é", 'q"']), schemas, max_size=4)
    objects = named.flatmap(
        lambda inside: st.builds(
            lambda required: {
                "type": "object", "properties": inside, "required": required, "additionalProperties": False
            },
            st.lists(st.sampled_from(sorted(inside)), unique=True) if inside else st.just([]),
        )
    )  # fmt: skip
    lists = st.builds(
        lambda items, least: {"type": "array", "items": items} | least,
        schemas,
        st.sampled_from([{}, {"minItems": 0}, {"minItems": 1}]),
    )
    choices = st.builds(lambda parts: {"anyOf": parts}, st.lists(schemas, min_size=1, max_size=3))
    described = st.builds(lambda part: {"allOf": [part, {"description": "d"}]}, schemas)
    return objects | lists | choices | described


@settings(deadline=None, max_examples=250)
@given(st.recursive(BEDROCK_LEAVES, bedrock, max_leaves=8), BEDROCK_LEAVES)
def test_every_schema_of_bedrock_s_subset_is_enforced(schema, shared):
    assume("$ref" not in shared)
    schema = schema | {"$defs": {"d": shared}, "definitions": {"e": {"type": "string", "format": "uri"}}}
    grammar.check(schema, json.dumps(schema))
    assert validated(schema) == []
    failed, messages = LLMatcher.validate_grammar_with_warnings(next(grammar.candidates(schema)))
    assert not failed, messages
