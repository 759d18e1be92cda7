"""The fixed schema is one that the family takes, says what is different, and its answers go back to the original."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sample
from bx.instances import violation
from bx.schema import words
from bx.schema.check import FAMILIES, InvalidSchema, check, counts
from bx.schema.fix import Unfixable, fix, restore
from test_schema_check import closed

ROOT = Path(__file__).parent.parent
TEXT = {"type": "string"}
B = {"const": "B"}
TEXTS_7 = {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"s": {"type": "string"}}}
MATCHED = {
    "properties": {"b": B},
    "patternProperties": {"^x-": TEXT},
    "additionalProperties": {"const": "A"},
}
NULL = {"type": "null"}


def fixed(schema, family="claude"):
    """The fixed schema, after checking what holds for each one."""
    before = copy.deepcopy(schema)
    result, _ = fix(schema, family)
    assert schema == before
    assert [finding for finding in check(result, family) if finding.level == "refused"] == []
    assert fix(result, family) == (result, [])
    return result


# ---- what becomes of each keyword -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "result"),
    [
        ({"type": "string", "maxLength": 300}, {"type": "string", "description": "At most 300 characters."}),
        (
            {"type": "string", "description": "A name.", "minLength": 1, "pattern": r"\bA"},
            {"type": "string", "description": r"A name. At least 1 character. Matches the regular expression \bA."},
        ),
        (
            {"type": "integer", "minimum": 1, "exclusiveMaximum": 9, "multipleOf": 2},
            {"type": "integer", "description": "At least 1. Less than 9. A multiple of 2."},
        ),
        (
            {"type": "array", "items": TEXT, "minItems": 3, "maxItems": 5, "uniqueItems": True},
            {
                "type": "array",
                "items": TEXT,
                "minItems": 1,
                "description": "At least 3 items. At most 5 items. No item comes twice.",
            },
        ),
        ({"type": "array", "uniqueItems": False}, {"type": "array"}),
        ({"type": "string", "format": "path"}, {"type": "string", "description": "Format: path."}),
        (
            {"type": "string", "not": {"const": "a"}},
            {"type": "string", "description": 'Does not satisfy the JSON Schema {"const": "a"}.'},
        ),
        ({"type": "object", "properties": {"a": TEXT}, "required": ["a"]}, closed(a=TEXT)),
        ({**closed(a=TEXT), "additionalProperties": TEXT}, closed(a=TEXT)),
        ({"properties": {"a": TEXT}, "required": ["a"]}, closed(a=TEXT)),
        (
            {"type": "object", "required": ["a"]},
            closed(a={"type": ["string", "number", "boolean", "null"]}),
        ),
        ({"oneOf": [TEXT, NULL]}, {"anyOf": [TEXT, NULL]}),
        ({"anyOf": [TEXT], "$comment": ""}, TEXT),
        ({"anyOf": [TEXT, False, NULL]}, {"anyOf": [TEXT, NULL]}),
        (
            {"type": "string", "oneOf": [{"const": "a"}, {"enum": ["b", 1]}]},
            {"anyOf": [{"const": "a", "type": "string"}, {"enum": ["b"], "type": "string"}]},
        ),
        ({"allOf": [closed(a=TEXT)], "$id": "a"}, closed(a=TEXT)),
        (
            {"allOf": [{"properties": {"a": TEXT}, "required": ["a"]}, {"properties": {"b": NULL}}]},
            {**closed(a=TEXT, b=NULL), "required": ["a"]},
        ),
        ({"allOf": [{"type": ["integer", "string"]}, {"type": "number", "$id": "a"}]}, {"type": "integer"}),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "maxLength": 2}, "unused": {"x": 1}}},
            {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "description": "At most 2 characters."}}},
        ),
        ({"allOf": [{"$ref": "#/definitions/a"}], "definitions": {"a": TEXT}}, TEXT),
        (
            {"$ref": "#/$defs/a", "properties": {"b": NULL}, "$defs": {"a": {"type": "object", "required": ["b"]}}},
            closed(b=NULL),
        ),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a", "type": "null"}
            | {"definitions": {"a": TEXT}},
            {"$ref": "#/definitions/a", "definitions": {"a": TEXT}},
        ),
        (
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "$id": "a",
                "type": "null",
                "examples": [None],
            },
            NULL,
        ),
        ({**closed(a=TEXT, b=False), "required": ["a"], "x-order": 1}, closed(a=TEXT)),
        (closed(a=True), closed(a={"type": ["string", "number", "boolean", "null"]})),
        ({"type": ["string", "null"], "enum": ["a", None, {"b": 1}]}, {"enum": ["a", None]}),
    ],
)
def test_a_schema_becomes_the_nearest_one_that_is_taken(schema, result):
    assert fixed(schema) == result


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        ({"type": "array", "prefixItems": [TEXT]}, "prefixItems"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [TEXT]}, "$.items: items"),
        (closed(a={"items": {"$ref": "#"}}), "$.properties.a.items.$ref: $ref"),
        ({"$ref": "https://example.com/a"}, "$.$ref: $ref"),
        ({"$ref": "#/$defs/a"}, "leads nowhere"),
        (closed(a={"$id": "https://a/b", "items": {"$ref": "#/$defs/c"}}) | {"$defs": {"c": TEXT}}, "meant from an"),
        (closed(a={"type": "object"}), "$.properties.a: additionalProperties: an object whose keys have no names"),
        ({"type": "object", "patternProperties": {"^x-": TEXT}}, "$: additionalProperties"),
        ({"enum": [{"a": 1}]}, "$: enum: objects and lists"),
        ({"allOf": [TEXT, NULL], "$comment": ""}, "$: no value satisfies"),
        (closed(a=False), "$.properties.a: no value"),
        (False, "$: no value"),
        ({"type": "array", "items": TEXT, "minItems": 3, "maxItems": 2}, "$: no value is within its bounds"),
    ],
)
def test_what_would_change_the_shape_of_answers_is_refused_with_its_place(schema, names):
    with pytest.raises(Unfixable) as refused:
        fix(schema, "claude")
    assert names in str(refused.value)
    assert refused.value.exit_code == 8
    assert refused.value.fix


def test_what_is_no_schema_is_not_fixed():
    with pytest.raises(InvalidSchema):
        fix({"type": "strin"}, "claude")


def test_every_change_is_listed_and_says_whether_the_model_is_still_held_to_it():
    schema = {
        "type": "object",
        "properties": {"a": {"oneOf": [{"type": "string", "maxLength": 9}, NULL]}},
        "$id": "a",
    }
    changes = {(change.path, change.what, change.enforced) for change in fix(schema, "claude")[1]}
    assert changes == {
        (("$id",), "$id is dropped: it does not narrow the answer", True),
        (
            ("additionalProperties",),
            "additionalProperties is now false: no keys but the named ones",
            True,
        ),
        (("properties", "a", "oneOf"), "oneOf is now anyOf: more than one may match", False),
        (("properties", "a", "anyOf", 0, "maxLength"), "maxLength is now told in the description", False),
    }


def test_a_schema_that_is_taken_stays_as_it_is():
    schema = {**closed(a=TEXT, b=TEXT), "required": ["a"]}
    assert fix(schema, "claude") == (schema, [])
    assert fix(schema, "open-weight") == (schema, [])


def test_a_tool_and_the_embedded_grammar_get_nearly_everything_as_it_is():
    schema = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}, "$id": "a"}
    for family in ("tool", "local"):
        assert fix(schema, family) == (schema, [])
    told, changes = fix(closed(a={"not": {"pattern": "a"}}), "local")
    assert told == closed(a={"description": 'Does not satisfy the JSON Schema {"pattern": "a"}.'})
    assert [change.path for change in changes] == [("properties", "a", "not")]


# ---- limits -----------------------------------------------------------------------------------------------------


def optional(**properties):
    return {**closed(**properties), "required": []}


def test_only_as_many_properties_become_required_as_the_limit_asks_for():
    schema = optional(**{f"p{at}": TEXT for at in range(30)})
    result = fixed(schema)
    assert counts(result) == {"optional": 24, "union": 6}
    assert result["required"] == [f"p{at}" for at in range(6)]
    assert fixed(schema, "open-weight") == schema


def test_what_costs_no_union_becomes_nullable_first():
    free = {
        "a": {"enum": ["x", "y"]},
        "b": {"const": 1},
        "c": {"type": ["string", "null"]},
        "d": {"anyOf": [TEXT, NULL]},
    }
    result = fixed(optional(**{f"p{at}": TEXT for at in range(24)}, **free))
    assert result["required"] == ["a", "b", "c", "d"]
    assert result["properties"]["a"] == {"enum": ["x", "y", None]}
    assert result["properties"]["b"] == {"enum": [1, None]}
    assert counts(result) == {"optional": 24, "union": 2}


def test_both_limits_hold_or_the_schema_cannot_be_fixed():
    assert counts(fixed(optional(**{f"p{at}": TEXT for at in range(40)}))) == {"optional": 24, "union": 16}
    with pytest.raises(Unfixable, match="limit: 16"):
        fix(optional(**{f"p{at}": TEXT for at in range(41)}), "claude")


def test_references_that_double_are_not_written_out_for_ever():
    doubling = {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(40)} | {"d40": TEXT}
    with pytest.raises(InvalidSchema, match="references"):
        fix({"$ref": "#/$defs/d0", "$defs": doubling}, "claude")
    long = {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}]} for at in range(500)} | {"d500": TEXT}
    with pytest.raises(Unfixable, match="references"):
        fix({"allOf": [{"$ref": "#/$defs/d0"}], "$defs": long}, "claude")


def nested(count):
    links = {f"d{at}": closed(a={"allOf": [{"$ref": f"#/$defs/d{at + 1}"}]}) for at in range(count)}
    return {"allOf": [{"$ref": "#/$defs/d0"}], "$defs": links | {f"d{count}": TEXT}}


def test_references_that_lead_deeper_and_deeper_are_not_written_out_for_ever():
    assert fixed(nested(20))["properties"]["a"]["properties"]["a"]["type"] == "object"
    for schema in (
        nested(1_000),
        {**nested(200), "description": "a"},
    ):
        with pytest.raises(Unfixable, match=r"more than 100 levels once references are written out"):
            fix(schema, "claude")


def test_a_part_that_nothing_satisfies_leaves_the_count_of_references_as_it_was():
    never = {"allOf": [{"$ref": "#/$defs/text"}, {"$ref": "#/$defs/null"}]}
    choices = [{"allOf": [{"$ref": "#/$defs/never"}], "title": str(at)} for at in range(60)]
    schema = {"anyOf": [*choices, TEXT], "$defs": {"text": TEXT, "null": NULL, "never": never}}
    assert fixed(schema) == TEXT


def test_merging_takes_no_more_than_linear_time_or_is_refused():
    values = [str(at) for at in range(20_000)]
    both = {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}
    started = time.perf_counter()
    many = fixed({**both, "$defs": {"a": {"enum": values}, "b": {"enum": [*values[::-1], True, 1.0]}}})
    assert many == {"enum": values}
    parts = {"allOf": [optional(**{f"p{at}": TEXT}) for at in range(20_000)]}
    with pytest.raises(Unfixable) as refused:
        fix(parts, "claude")
    assert "reference" not in str(refused.value) + refused.value.fix
    assert fixed({"allOf": [{"$comment": str(at)} for at in range(4_000)] + [TEXT]})["type"] == "string"
    assert time.perf_counter() - started < 10


def test_listed_values_are_merged_as_json_tells_them_apart():
    assert fixed({"allOf": [{"enum": [1, True, "1", 0]}, {"enum": [1.0, False, "1"]}], "$comment": ""}) == {
        "enum": [1, "1"]
    }


def test_a_schema_that_is_too_large_without_references_is_not_told_of_any():
    schema = closed(**{f"p{at}": {"type": "string", "maxLength": 9} for at in range(21_000)})
    with pytest.raises(Unfixable) as refused:
        fix(schema, "claude")
    assert "reference" not in str(refused.value) + refused.value.fix


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        (["how long", "At least 0."], "how long. At least 0."),
        (["How long?", "At least 0."], "How long? At least 0."),
        (["in minutes:\n", "At least 0."], "in minutes: At least 0."),
        (["一分钟。", "At least 0."], "一分钟。 At least 0."),
        (["how long", "how long", None, "", " "], "how long"),
        (["  "], ""),
    ],
)
def test_sentences_are_joined_with_an_end_each(texts, whole):
    assert words.joined(*texts) == whole


# ---- the way back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "answer", "restored"),
    [
        (optional(a=TEXT, b=TEXT), {"a": None, "b": "x"}, {"b": "x"}),
        (optional(a={"$ref": "#/$defs/t"}) | {"$defs": {"t": TEXT}}, {"a": None}, {}),
        (optional(a={"type": ["string", "null"]}, b=TEXT), {"a": None, "b": None}, {"a": None}),
        (optional(a={"anyOf": [TEXT, NULL]}, b=TEXT), {"a": None, "b": None}, {"a": None}),
        (closed(a=TEXT), {"a": None}, {"a": None}),
        ({"type": "array", "items": optional(a=TEXT)}, [{"a": None}, {"a": "x"}], [{}, {"a": "x"}]),
        ({"allOf": [optional(a=TEXT)]}, {"a": None}, {}),
        ({"anyOf": [NULL, optional(a=TEXT)]}, {"a": None}, {}),
        (
            {"oneOf": [closed(k={"const": 1}, a=NULL), optional(k={"const": 2}, a=TEXT)]},
            {"k": 2, "a": None},
            {"k": 2},
        ),
        ({"enum": ["Sev1", "sev2", 3]}, "SEV1", "Sev1"),
        ({"enum": ["a", "A"]}, "ª", "ª"),
        ({"enum": ["ab", "aB"]}, "AB", "AB"),
        (closed(a={"const": "OK"}), {"a": "ok"}, {"a": "OK"}),
        ({"anyOf": [{"const": "Yes"}, {"const": "No"}]}, "no", "No"),
        (
            closed(a={"$ref": "#/definitions/s", "enum": ["A"]}, b=B) | TEXTS_7,
            {"a": "a", "b": "b"},
            {"a": "a", "b": "B"},
        ),
        (closed(a={"$ref": "#/$defs/s", "enum": ["A"]}) | {"$defs": {"s": TEXT}}, {"a": "a"}, {"a": "A"}),
        (MATCHED, {"x-a": "a", "a": "a", "b": "b"}, {"x-a": "a", "a": "A", "b": "B"}),
        ({"anyOf": [{**MATCHED, "required": ["b"]}, NULL]}, {"x-a": "a", "b": "b"}, {"x-a": "a", "b": "B"}),
        ({"patternProperties": {"^x": B}}, {"x": "b", "y": "b"}, {"x": "B", "y": "b"}),
        ({"type": "array", "prefixItems": [{"const": "A"}], "items": {"const": "B"}}, ["a", "b"], ["A", "B"]),
    ],
)
def test_an_answer_goes_back_into_the_terms_of_the_original(original, answer, restored):
    before = copy.deepcopy(answer)
    assert restore(answer, original) == restored
    assert answer == before


def test_a_schema_with_too_many_ways_to_look_at_a_value_leaves_it_as_it_is():
    doubling = {f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(11)}
    schema = {"$ref": "#/$defs/d0", "$defs": doubling | {"d11": optional(a=TEXT)}}
    assert restore({"a": None, "b": 1}, schema) == {"a": None, "b": 1}


def test_references_in_a_circle_and_answers_without_end_are_left_as_they_are():
    assert restore("a", {"anyOf": [{"$ref": "#"}, {"$ref": "#"}], "type": "null"}) == "a"
    answer = None
    for _ in range(5_000):
        answer = {"a": answer}
    assert restore(answer, {**optional(a={"$ref": "#"}), "maxProperties": 0}) is answer


# ---- for all schemas --------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
SCALARS = st.sampled_from([None, True, 0, 1, 2.5, "", "a", "A", "bb"])
SIMPLE = st.one_of(
    st.builds(lambda name: {"type": name}, st.sampled_from(["string", "number", "integer", "boolean", "null"])),
    st.builds(
        lambda least, most: {"type": "integer", "minimum": least, "maximum": most},
        st.integers(0, 2),
        SCALARS.filter(lambda v: type(v) is int),
    ),
    st.builds(lambda most: {"type": "string", "maxLength": most, "$comment": "x"}, st.integers(0, 3)),
    st.builds(lambda pattern: {"pattern": pattern}, st.sampled_from(["^a", r"\ba", "(a)\\1"])),
    st.builds(lambda values: {"enum": values}, st.lists(SCALARS, min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, SCALARS),
    st.builds(lambda name: {"$ref": f"#/$defs/{name}"}, NAMES),
    st.sampled_from(
        [{}, True, False, {"format": "uuid"}, {"type": ["string", "null"]}, {"type": ["object", "null"]}]
    ),
)


def compound(inner):
    named = st.dictionaries(NAMES, inner, max_size=3)
    required = st.lists(NAMES, unique=True, max_size=2)
    some = st.lists(inner, min_size=1, max_size=3)
    extra = st.one_of(st.just({}), st.builds(lambda schema: {"additionalProperties": schema}, inner))
    return st.one_of(
        st.builds(lambda n, r, e: {"type": "object", "properties": n, "required": r, **e}, named, required, extra),
        st.builds(lambda n, r: {"properties": n, "required": r}, named, required),
        st.builds(lambda i, least: {"type": "array", "items": i, "minItems": least}, inner, st.integers(0, 2)),
        st.builds(lambda k, s: {k: s}, st.sampled_from(["anyOf", "oneOf", "allOf"]), some),
        st.builds(
            lambda k, s, n: {k: s, "type": "object", "properties": n},
            st.sampled_from(["anyOf", "allOf"]),
            some,
            named,
        ),
        st.builds(lambda i, s: {**(i if isinstance(i, dict) else {}), "not": s}, inner, inner),
        st.builds(lambda i, s: {"if": i, "then": s}, inner, inner),
    )


PARTS = st.recursive(SIMPLE, compound, max_leaves=8)
SCHEMAS = st.builds(
    lambda whole, defs: {**whole, "$defs": defs} if isinstance(whole, dict) else whole,
    PARTS,
    st.fixed_dictionaries({"a": PARTS, "b": SIMPLE, "c": st.just(closed(a=TEXT))}),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
FEW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@FEW
@given(SCHEMAS, st.sampled_from(FAMILIES))
def test_what_is_fixed_is_taken_and_fixing_twice_changes_nothing(schema, family):
    before = copy.deepcopy(schema)
    try:
        result, changes = fix(schema, family)
    except Unfixable:
        return
    finally:
        assert schema == before
    assert [finding for finding in check(result, family) if finding.level == "refused"] == []
    assert fix(result, family) == (result, [])
    assert bool(changes) == (result != ({} if schema is True else schema))


@FEW
@given(SCHEMAS, st.lists(VALUES, min_size=5, max_size=30), st.sampled_from(["claude", "open-weight", "local"]))
def test_what_the_fixed_schema_admits_satisfies_the_original_unless_a_change_says_otherwise(schema, values, family):
    try:
        result, changes = fix(schema, family)
    except Unfixable:
        return
    if not all(change.enforced for change in changes):
        return
    for value in values:
        if violation(value, result) is None:
            restored = restore(value, schema)
            assert schema is True or violation(restored, schema) is None


@FEW
@given(SCHEMAS.filter(lambda schema: isinstance(schema, dict)), VALUES)
def test_restoring_never_makes_a_valid_value_invalid_and_never_changes_one(schema, value):
    if violation(value, schema) is None:
        assert restore(value, schema) is value
    else:
        again = restore(value, schema)
        assert restore(again, schema) == again


@sample.needed
@pytest.mark.parametrize("family", FAMILIES)
def test_real_schemas_are_fixed_and_their_valid_instances_pass(family):
    done = 0
    for case in sample.cases():
        try:
            result, _ = fix(case["schema"], family)
        except Unfixable:
            continue
        done += 1
        assert fix(result, family) == (result, []), case["name"]
        for test in case["tests"]:
            if test["valid"] and violation(test["data"], result) is None:
                assert violation(restore(test["data"], case["schema"]), case["schema"]) is None, case["name"]
    assert done >= {"claude": 170, "open-weight": 170, "tool": 200, "local": 200}[family]
