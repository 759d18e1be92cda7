"""The vocabulary: requests are built, responses read, streams folded, errors made as botocore would."""

from __future__ import annotations

import contextlib
import json
import time

import botocore.session
import pytest
from botocore.exceptions import ClientError, EventStreamError
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from bx import converse, instances
from bx.converse import InvalidAnswer, Stream, collect, deltas

MODEL = botocore.session.get_session().get_service_model("bedrock-runtime")
TEXT = st.text(max_size=30)


def assert_fits(shape, value):
    errors = ParamValidator().validate(value, shape)
    assert not errors.has_errors(), errors.generate_report()


def answer(text, stop="end_turn"):
    message = {"role": "assistant", "content": [{"text": text}]}
    usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
    return {"output": {"message": message}, "stopReason": stop, "usage": usage, "metrics": {"latencyMs": 1}}


# ---- requests -------------------------------------------------------------------------------------------------


def test_a_prompt_alone_is_the_smallest_request():
    assert converse.request("Hi", model="m") == {
        "modelId": "m",
        "messages": [{"role": "user", "content": [{"text": "Hi"}]}],
    }


def test_messages_pass_as_they_are():
    messages = [{"role": "user", "content": [{"text": "Hi"}]}, {"role": "assistant", "content": [{"text": "Yes?"}]}]
    assert converse.request(messages, model="m")["messages"] is messages


@given(
    TEXT.filter(bool),
    st.none() | TEXT,
    st.none() | st.just({"type": "object", "title": "ä😀"}),
    st.none() | st.dictionaries(TEXT, st.integers() | TEXT, max_size=2),
    st.fixed_dictionaries(
        {},
        optional={
            "maxTokens": st.none() | st.integers(1, 100),
            "temperature": st.none() | st.floats(0, 1),
            "topP": st.none() | st.floats(0, 1),
            "stopSequences": st.none() | st.lists(TEXT.filter(bool), max_size=2),
        },
    ),
)
def test_every_request_fits_botocores_own_shape(prompt, system, schema, fields, inference):
    built = converse.request(prompt, model="m", system=system, schema=schema, fields=fields, **inference)
    assert_fits(MODEL.operation_model("Converse").input_shape, built)
    assert converse.schema_of(built) == schema
    assert built.get("inferenceConfig", {}) == {name: value for name, value in inference.items() if value is not None}


@pytest.mark.parametrize("schema", ["", "{", "[]", "1", '{"a":' * 100_000, None, {"type": "object"}])
def test_a_schema_that_is_no_json_object_as_text_is_a_validation_error(schema):
    wrong = converse.request("Hi", model="m", schema={})
    wrong["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"] = schema
    with pytest.raises(ClientError, match=r"\(ValidationException\)"):
        converse.schema_of(wrong)


@pytest.mark.parametrize("text_format", [{}, {"structure": {}}, {"structure": {"jsonSchema": "{}"}}, "json_schema"])
def test_a_text_format_of_another_form_is_a_validation_error(text_format):
    with pytest.raises(ClientError, match=r"\(ValidationException\)"):
        converse.schema_of({"outputConfig": {"textFormat": text_format}})


def test_a_request_without_a_schema_has_none():
    assert converse.schema_of(converse.request("Hi", model="m")) is None
    assert converse.schema_of({"outputConfig": {"effort": "low"}}) is None


# ---- responses ------------------------------------------------------------------------------------------------


def test_all_text_blocks_are_joined_and_others_are_left_out():
    response = answer("")
    response["output"]["message"]["content"] = [
        {"reasoningContent": {"reasoningText": {"text": "Hm. ", "signature": "s"}}},
        {"reasoningContent": {"redactedContent": b"secret"}},
        {"text": "One "},
        {"toolUse": {"toolUseId": "1", "name": "t", "input": {}}},
        {"reasoningContent": {"reasoningText": {"text": "Aha."}}},
        {"text": "two"},
    ]
    assert converse.text(response) == "One two"
    assert converse.reasoning(response) == "Hm. Aha."


def test_an_empty_answer_is_an_empty_text():
    response = answer("")
    response["output"]["message"]["content"] = []
    assert (converse.text(response), converse.reasoning(response)) == ("", "")


@pytest.mark.parametrize("text", ['{"a": 1}', ' \n{"a": 1}\n', '{"a":1.0}'])
def test_data_is_the_parsed_answer(text):
    assert converse.data(answer(text), {"type": "object", "required": ["a"]}) == {"a": 1}


@pytest.mark.parametrize("stop", converse.UNFINISHED)
def test_data_of_an_answer_that_did_not_end_is_invalid_even_if_it_is_json(stop):
    with pytest.raises(InvalidAnswer) as caught:
        converse.data(answer("{}", stop), {})
    assert (str(caught.value), caught.value.fix) == converse.UNFINISHED[stop]
    assert (caught.value.text, caught.value.exit_code) == ("{}", 8)


@pytest.mark.parametrize("stop", ["end_turn", "stop_sequence", "tool_use", "something_new"])
def test_data_of_an_answer_that_ended_otherwise_is_judged_by_its_text(stop):
    assert converse.data(answer("{}", stop), {}) == {}


@pytest.mark.parametrize(
    "text", ["", "Hi", "```json\n{}\n```", "{} {}", "{'a': 1}", '{"a": NaN}', "[-Infinity]", "[" * 100_000, '{"a": 1']
)
def test_data_of_what_is_no_json_is_invalid(text):
    with pytest.raises(InvalidAnswer, match="not JSON") as caught:
        converse.data(answer(text), {})
    assert caught.value.text == text


def test_data_that_breaks_the_schema_is_invalid_and_the_place_is_named():
    schema = {"properties": {"list": {"items": {"properties": {"odd name": {"type": "integer"}}}}}}
    with pytest.raises(InvalidAnswer, match=r"\$\.list\[1\]\['odd name'\]"):
        converse.data(answer('{"list": [{}, {"odd name": "x"}]}'), schema)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"format": "date"}, "2026-11-22", "2026-13-22"),
        ({"format": "email"}, "a@example.org", "nobody"),
        ({"format": "something-of-our-own"}, "anything", None),
        ({"pattern": "^a+$"}, "aa", "ab"),
        ({"pattern": "^(?!b)"}, "a", "b"),  # look-ahead, which the linear engine does not know
        ({"pattern": r"^(.)\1$"}, "aa", "ab"),  # a back-reference neither
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer"}}}, 1, "1"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "integer"}, 1, "1"),
        ({"type": "integer"}, 1.0, 1.5),
        ({"const": 1}, 1, True),
        ({"multipleOf": 0.1}, 0.3, 0.35),
        ({"minLength": 1, "maxLength": 1}, "😀", "ab"),
        (True, None, None),
    ],
)
def test_a_violation_is_named_and_a_valid_value_has_none(schema, good, bad):
    assert instances.violation(good, schema) is None
    if bad is not None:
        assert instances.violation(bad, schema).startswith("$: ")


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "strin"}, r"\$\.type"),
        ({"properties": {"a": {"minimum": "x"}}}, r"\$\.properties\.a\.minimum"),
        ({"properties": {"a b": {"pattern": "("}}}, r"\$\.properties\['a b'\]\.pattern"),
        ({"required": "a"}, r"\$\.required"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"$ref": "https://example.org/x"}, "example.org"),
        ({"$ref": "file:///etc/passwd"}, "passwd"),
    ],
)
def test_a_schema_that_is_none_is_a_value_error_with_the_place(schema, place):
    with pytest.raises(ValueError, match=place):
        instances.violation({}, schema)


def test_a_value_that_is_wrong_on_each_of_its_levels_is_judged_at_once():
    schema = {"properties": {"a": {"$ref": "#"}}, "maxProperties": 0}
    value = None
    for _ in range(5_000):
        value = {"a": value}
    started = time.perf_counter()
    with pytest.raises(ValueError, match="Recursion"):
        instances.violation(value, schema)
    assert time.perf_counter() - started < 1


def test_a_lone_surrogate_is_a_violation_and_no_crash():
    assert instances.violation("\ud800", {"type": "string"}).startswith("$: it holds half of a character")


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "objet"}, '$.type: "objet" is not a type; the types are object, array, string, number, integer, '),
        (
            {"items": {"type": ["a", "null"]}},
            '$.items.type: ["a", "null"] is not a list of different types; the types',
        ),
        ({"properties": {"type": "string"}}, '$.properties.type: "string" is not of types "boolean", "object"'),
        ({"type": "x" * 500}, f'$.type: "{"x" * 79}... is not a type'),
    ],
)
def test_a_type_that_is_none_is_told_with_those_that_there_are(schema, told):
    assert instances.invalid_schema(schema).startswith(told)


def test_a_hostile_pattern_cannot_hang():
    started = time.monotonic()
    assert instances.violation("a" * 5000 + "!", {"pattern": "^(a+)+$"})
    with contextlib.suppress(ValueError):  # with a back-reference, giving up is an answer too
        instances.violation("a" * 60 + "!", {"pattern": r"^(a+)+\1$"})
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("levels", [100, 400, 900])
def test_a_deep_schema_is_judged_or_refused(levels):
    schema, value = {"type": "integer"}, 1
    for _ in range(levels):
        schema, value = {"items": schema}, [value]
    with contextlib.suppress(ValueError):
        assert instances.violation(value, schema) is None


def test_a_schema_that_contains_itself_is_judged():
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    assert instances.violation({"next": {"next": {}}}, tree) is None
    assert instances.violation({"next": {"next": {"x": 1}}}, tree).startswith("$.next.next: ")


@pytest.mark.parametrize(
    ("steps", "path"),
    [
        ([], "$"),
        (["a"], "$.a"),
        (["items", 0, "name"], "$.items[0].name"),
        (["$defs", "ä_1"], "$.$defs.ä_1"),
        (["odd name"], "$['odd name']"),
        (["1st"], "$['1st']"),
        ([""], "$['']"),
    ],
)
def test_a_path_is_spelled_as_jsonpath_does(steps, path):
    assert instances.json_path(steps) == path


@given(st.lists(st.integers(0, 9) | TEXT))
def test_different_paths_are_spelled_differently_and_on_one_line(steps):
    spelled = instances.json_path(steps)
    assert spelled.startswith("$")
    assert "\n" not in spelled
    for other in (steps[:-1], [*steps, 0], [str(step) for step in steps]):
        assert (instances.json_path(other) == spelled) == (other == steps)


# ---- streams --------------------------------------------------------------------------------------------------

BLOCKS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"text": TEXT}),
        st.builds(
            lambda text, signature: {
                "reasoningContent": {
                    "reasoningText": {"text": text, **({"signature": signature} if signature else {})}
                }
            },
            TEXT,
            TEXT,
        ),
        st.builds(lambda data: {"reasoningContent": {"redactedContent": data}}, st.binary(min_size=1, max_size=9)),
        st.builds(
            lambda value: {"toolUse": {"toolUseId": "t1", "name": "tool", "input": value}},
            st.dictionaries(TEXT, st.integers() | TEXT, max_size=3),
        ),
    ),
    max_size=4,
)


@st.composite
def cut(draw, whole):
    """Split a sequence at any places."""
    places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    return [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]


@st.composite
def streamed(draw, blocks):
    """Split the blocks of an answer into the events of a stream, in any way that a service could."""
    events = [{"messageStart": {"role": "assistant"}}]
    for index, block in enumerate(blocks):
        ((kind, content),) = block.items()
        if kind == "toolUse":
            start = {"toolUse": {name: content[name] for name in ("toolUseId", "name")}}
            events.append({"contentBlockStart": {"contentBlockIndex": index, "start": start}})
            deltas = [{"toolUse": {"input": piece}} for piece in draw(cut(json.dumps(content["input"])))]
        elif kind == "text":
            deltas = [{"text": piece} for piece in draw(cut(content))]
        elif "redactedContent" in content:
            deltas = [
                {"reasoningContent": {"redactedContent": piece}} for piece in draw(cut(content["redactedContent"]))
            ]
        else:
            written = content["reasoningText"]
            deltas = [{"reasoningContent": {"text": piece}} for piece in draw(cut(written["text"]))]
            if "signature" in written:
                deltas.append({"reasoningContent": {"signature": written["signature"]}})
        events += [{"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}} for delta in deltas]
        events.append({"contentBlockStop": {"contentBlockIndex": index}})
    events.append({"messageStop": {"stopReason": "end_turn"}})
    events.append({"metadata": {"usage": answer("")["usage"], "metrics": {"latencyMs": 1}}})
    return events


@given(st.data(), BLOCKS)
def test_any_split_of_an_answer_folds_into_the_same_response(data, blocks):
    whole = answer("")
    whole["output"]["message"]["content"] = blocks
    events = data.draw(streamed(blocks))
    before = repr(events)
    folded = converse.collect(iter(events))
    assert folded == whole
    assert repr(events) == before
    assert_fits(MODEL.operation_model("Converse").output_shape, folded)
    assert "".join(converse.deltas({"stream": iter(events)})) == converse.text(whole)


def test_a_tool_call_without_input_has_an_empty_one():
    start = {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t", "name": "n"}}}
    events = [{"contentBlockStart": start}, {"messageStop": {"stopReason": "tool_use"}}]
    assert converse.collect(events)["output"]["message"]["content"][0]["toolUse"]["input"] == {}


def test_citations_are_folded_as_the_unary_answer_has_them():
    citation = {"title": "A page", "source": "https://example.org"}
    deltas = [{"citation": citation}, {"text": "Cited "}, {"text": "text"}]
    events = [{"contentBlockDelta": {"contentBlockIndex": 0, "delta": delta}} for delta in deltas]
    folded = converse.collect([*events, {"messageStop": {"stopReason": "end_turn"}}])
    (block,) = folded["output"]["message"]["content"]
    assert block["citationsContent"]["citations"] == [citation]
    assert "".join(piece["text"] for piece in block["citationsContent"]["content"]) == "Cited text"


def test_members_that_a_stream_adds_are_kept():
    fields = {"stop_sequence": "END"}
    stop = {"messageStop": {"stopReason": "stop_sequence", "additionalModelResponseFields": fields}}
    metadata = {"metadata": {"usage": {}, "metrics": {}, "trace": {"guardrail": {}}, "serviceTier": {"type": "flex"}}}
    folded = converse.collect([stop, metadata])
    assert folded["additionalModelResponseFields"] == fields
    assert folded["serviceTier"] == {"type": "flex"}
    assert folded["trace"] == {"guardrail": {}}


@pytest.mark.parametrize("read", [lambda events: list(converse.deltas({"stream": events})), converse.collect])
def test_a_stream_without_its_end_is_an_error(read):
    events = [{"messageStart": {"role": "assistant"}}, {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {}}}]
    with pytest.raises(EventStreamError, match=r"modelStreamErrorException.*ended before the answer"):
        read(iter(events[:1]))


def test_what_arrived_before_a_stream_broke_is_passed_on():
    arrived = []
    delta = {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "Hi"}}}
    with pytest.raises(EventStreamError):
        arrived.extend(converse.deltas({"stream": iter([delta])}))
    for piece in (pieces := converse.deltas({"stream": iter([delta])})):
        assert piece == "Hi"
        break
    pieces.close()


def test_closing_the_deltas_closes_the_stream_below():
    closed = []

    def events():
        try:
            while True:
                yield {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "more"}}}
        finally:
            closed.append(True)

    below = events()  # kept, so that nothing but a call can close it
    pieces = converse.deltas({"stream": below})
    assert next(pieces) == "more"
    pieces.close()
    assert closed == [True]


def test_a_stream_can_be_closed_before_its_first_event():
    closed = []
    stream = converse.Stream((event for event in ()), lambda: closed.append(True))
    stream.close()
    assert closed == [True]
    assert list(stream) == []


# ---- errors ---------------------------------------------------------------------------------------------------


# What every service of AWS answers before an operation is reached: no service model has it.
OF_ALL_SERVICES = {
    "SerializationException": 400,
    "ExpiredTokenException": 403,
    "IncompleteSignatureException": 403,
    "InvalidSignatureException": 403,
    "MissingAuthenticationTokenException": 403,
    "UnrecognizedClientException": 403,
}


@pytest.mark.parametrize("code", converse._STATUS)
def test_an_error_is_the_one_that_botocore_would_raise(code):
    made = converse.error(code, "Why", resourceName="model")
    assert isinstance(made, ClientError)
    assert made.response["Error"] == {"Code": code, "Message": "Why"}
    assert made.response["resourceName"] == "model"
    operations = map(MODEL.operation_model, MODEL.operation_names)
    shapes = {shape.name: shape.metadata["error"] for operation in operations for shape in operation.error_shapes}
    status = shapes[code]["httpStatusCode"] if code in shapes else OF_ALL_SERVICES[code]
    assert made.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_every_modelled_error_can_be_made():
    assert {shape.name for shape in MODEL.operation_model("Converse").error_shapes} <= converse._STATUS.keys()


def test_a_broken_stream_is_an_event_stream_error():
    made = converse.broken_stream("throttlingException", "Slow down")
    assert isinstance(made, EventStreamError)
    assert made.response["Error"] == {"Code": "throttlingException", "Message": "Slow down"}
    assert made.operation_name == "ConverseStream"


def test_the_pieces_of_a_tool_s_result_are_folded_together():
    start = {"toolResult": {"toolUseId": "a"}}
    pieces = [
        {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"toolResult": [{"text": part}]}}} for part in "xy"
    ]
    events = [
        {"messageStart": {"role": "assistant"}},
        {"contentBlockStart": {"contentBlockIndex": 0, "start": start}},
    ]
    folded = collect([*events, *pieces, {"messageStop": {"stopReason": "end_turn"}}])
    content = [{"text": "x"}, {"text": "y"}]
    assert folded["output"]["message"]["content"] == [{"toolResult": {"toolUseId": "a", "content": content}}]


def test_closing_the_text_of_a_stream_closes_the_stream_before_its_first_event():
    closed = []
    stream = Stream((event for event in []), lambda: closed.append(True))
    deltas({"stream": stream}).close()
    assert closed


def test_a_number_that_is_too_large_is_no_answer():
    with pytest.raises(InvalidAnswer, match="too large"):
        converse.data(answer("83e+747"), {"type": "number"})
