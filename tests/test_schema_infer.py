"""A schema from examples: strict, valid, and satisfied by every one of them."""

from __future__ import annotations

import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bx import instances
from bx.schema import infer as module
from bx.schema.infer import NotInferable, infer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["2026-01-02", "a@example.com", "2026-01-02T03:04:05Z"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcde") | TEXTS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=6))
def test_every_example_satisfies_the_schema(examples):
    schema = infer(examples)
    for value in examples:
        assert instances.violation(value, schema) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5), st.lists(VALUES, max_size=5), st.randoms())
def test_the_order_of_the_examples_does_not_change_what_is_accepted(examples, others, chance):
    shuffled = examples.copy()
    chance.shuffle(shuffled)
    one, two = infer(examples), infer(shuffled)
    for value in others:
        assert (instances.violation(value, one) is None) == (instances.violation(value, two) is None)


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        ([1, 2], {"type": "integer"}),
        ([1, 2.5], {"type": "number"}),
        ([True, 1], {"type": ["boolean", "integer"]}),
        ([1, None], {"type": ["integer", "null"]}),
        (["a", {"x": 1}], {"anyOf": [{"type": "string"}, infer([{"x": 1}])]}),
        ([[1], [], ["a"]], {"type": "array", "items": {"type": ["integer", "string"]}}),
        ([[]], {"type": "array"}),
        (["sev1"], {"type": "string"}),
        (["2026-01-02", "2026-02-01"], {"type": "string", "format": "date"}),
        (["2026-01-02"], {"type": "string"}),
        (["2026-01-02T00:00:00Z", "2026-01-02T00:00:01Z", None], {"type": ["string", "null"], "format": "date-time"}),
        (["a@example.com", "b@example.com"], {"type": "string", "format": "email"}),
        (["a@example.com", "b"], {"type": "string"}),
        (["https://a.example/x", "https://b.example"], {"type": "string", "format": "uri"}),
        (["a", "b"] * 4, {"type": "string", "enum": ["a", "b"]}),
        (["a", "b"] * 3, {"type": "string"}),
        (["a"] * 9, {"type": "string"}),
        (["a", "b"] * 4 + ["c"], {"type": "string"}),
    ],
)
def test_a_schema_is_as_narrow_as_the_examples_justify(examples, expected):
    assert infer(examples) == expected


def test_objects_are_closed_and_what_all_have_is_required_in_the_order_of_appearance():
    assert infer([{"b": 1, "a": "x"}, {"c": None, "b": 2}]) == {
        "type": "object",
        "properties": {"b": {"type": "integer"}, "a": {"type": "string"}, "c": {"type": "null"}},
        "required": ["b"],
        "additionalProperties": False,
    }


def test_an_object_that_may_be_null_keeps_its_properties():
    schema = infer([{"owner": {"name": "Ada"}}, {"owner": None}])
    assert [branch["type"] for branch in schema["properties"]["owner"]["anyOf"]] == ["object", "null"]


def test_objects_whose_keys_are_data_become_a_dictionary():
    maps = [{f"id-{n}-{m}": n for m in range(5)} for n in range(3)]
    assert infer(maps) == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert infer(maps[:2])["additionalProperties"] is False
    assert infer([*maps, maps[0]])["additionalProperties"] is False


@pytest.mark.parametrize(
    "examples", [[], [math.nan], [math.inf], [{1, 2}], [{1: 2}], [[[["x"]] * 2] for _ in range(1)] * 0]
)
def test_what_is_no_json_is_told(examples):
    with pytest.raises(NotInferable) as caught:
        infer(examples)
    assert caught.value.fix
    assert caught.value.exit_code == 2


def test_deep_examples_are_refused_and_large_ones_take_linear_time():
    deep = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotInferable, match="nested"):
        infer([deep])
    just = 1
    for _ in range(module._DEEPEST - 1):
        just = {"a": just}
    instances.violation(None, infer([just, None]))
    chance = random.Random(1)
    started = time.monotonic()
    infer([{f"k{chance.randrange(2000)}": [str(n)] * 3 for n in range(50)} for _ in range(1000)])
    assert time.monotonic() - started < 10
