"""Going through a schema: every schema once, whatever else looks like one."""

from __future__ import annotations

import pytest

from bx.schema import walk

SCHEMA = {
    "properties": {"a": {"items": [{"type": "string"}, True]}, "properties": {"not": {"const": 1}}},
    "enum": [{"properties": {"no": {"type": "schema"}}}],
    "anyOf": [{"$ref": "#/$defs/a~1b%25"}],
    "$defs": {"a/b%": {"additionalProperties": False}},
}


def test_every_schema_is_found_once_with_its_path_and_values_are_not_taken_for_schemas():
    assert [path for path, _ in walk.nodes(SCHEMA)] == [
        (),
        ("properties", "a"),
        ("properties", "a", "items", 0),
        ("properties", "properties"),
        ("properties", "properties", "not"),
        ("anyOf", 0),
        ("$defs", "a/b%"),
    ]


def test_a_copy_has_its_inner_schemas_replaced_and_the_original_has_not():
    copy = walk.mapped(SCHEMA, lambda child: {"was": child})
    assert copy["properties"]["a"] == {"was": SCHEMA["properties"]["a"]}
    assert copy["anyOf"] == [{"was": {"$ref": "#/$defs/a~1b%25"}}]
    assert "was" not in SCHEMA["properties"]["a"]


def test_a_reference_leads_to_its_target_or_nowhere():
    assert walk.target(SCHEMA, "#/$defs/a~1b%25") == {"additionalProperties": False}
    assert walk.target(SCHEMA, "#") is SCHEMA
    assert walk.target(SCHEMA, "#/anyOf/0") == SCHEMA["anyOf"][0]
    for nowhere in (
        "#/$defs/c",
        "#/anyOf/x",
        "#/anyOf/-1",
        "#/anyOf/00",
        "#/anyOf/\u0660",
        "#defs",
        "",
        "#/anyOf/0/$ref/x",
        "https://example.com/a",
    ):
        with pytest.raises(LookupError):
            walk.target(SCHEMA, nowhere)


def test_depth_is_counted_without_recursion_and_only_as_far_as_asked():
    deep = 1
    for _ in range(100_000):
        deep = [deep]
    assert walk.depth(deep, 50) == 51
    assert walk.depth({"a": [{}]}) == 3


def test_depth_of_what_holds_itself_or_shares_its_parts_ends():
    itself: dict = {}
    itself["items"] = itself
    assert walk.depth(itself) == walk.DEEPEST + 1
    shared: dict = {}
    for _ in range(45):
        shared = {"anyOf": [shared, shared]}
    assert walk.depth(shared) == walk.DEEPEST + 1
    assert walk.depth({"enum": [*range(500_000)]}) == 3


def test_definitions_that_nothing_refers_to_are_not_reached():
    used, unused = {"properties": {"b": {"type": "null"}}}, {"$ref": "#/$defs/used"}
    schema = {"items": {"$ref": "#/$defs/used"}, "$defs": {"used": used, "unused": unused}}
    assert walk.reached(schema) == {id(schema), id(schema["items"]), id(used), id(used["properties"]["b"])}
    assert id(schema) in walk.reached({"$ref": "#", "$defs": {}} | {"not": schema})
