"""Converse and chat completions: stop sequences over any split, endings, usage, texts that stay in their turn."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from botocore.exceptions import EventStreamError
from hypothesis import example, given
from hypothesis import strategies as st

from bx.converse import broken_stream, collect, request, text
from bx.engines import chat

FEW = st.text("ab<|>", max_size=12)
STOPS = st.lists(st.text("ab<|>", min_size=1, max_size=4), max_size=3)


def chunks(pieces, finish="stop", **timings):
    """What llama.cpp sends for an answer in these pieces."""
    counted = {"prompt_n": 7, "predicted_n": 0, **timings}
    for number, piece in enumerate(pieces, 1):
        counted = {**counted, "predicted_n": timings.get("predicted_n", number)}
        yield {"choices": [{"delta": piece if isinstance(piece, dict) else {"content": piece}}], "timings": counted}
    if finish:
        yield {"choices": [{"delta": {}, "finish_reason": finish}], "timings": counted}


def answer(pieces, schema=None, finish="stop", timings=None, **inference):
    asked = request("hi", model="local", schema=schema, **inference)
    return collect(chat.events(chunks(pieces, finish, **(timings or {})), asked, schema))


def split(whole, places):
    edges = [0, *sorted(min(place, len(whole)) for place in places), len(whole)]
    return [whole[start:end] for start, end in pairwise(edges)]


@given(FEW, st.lists(st.integers(0, 12), max_size=5), STOPS)
@example("a<|b", [2], ["<|"])
@example("aab", [1, 2], ["ab"])
def test_a_stop_sequence_ends_the_answer_however_the_text_is_split(whole, places, stops):
    found = [at for at in (whole.find(stop) for stop in stops) if at >= 0]
    response = answer(split(whole, places), stopSequences=stops or None)
    assert text(response) == (whole[: min(found)] if found else whole)
    assert response["stopReason"] == ("stop_sequence" if found else "end_turn")


@given(FEW, STOPS)
def test_no_more_is_held_back_than_a_stop_sequence_may_need(whole, stops):
    ready, held, stopped = chat.cut(whole, stops)
    assert stopped == any(stop in whole for stop in stops)
    if not stopped:
        assert ready + held == whole
        assert not held or any(stop.startswith(held) for stop in stops)
        assert not any(stop.startswith(whole[at:]) for stop in stops for at in range(len(ready)))


def test_the_chunks_are_closed_at_a_stop_sequence():
    given_chunks = chunks(["one", "two", "three"])
    collect(chat.events(given_chunks, request("hi", model="local", stopSequences=["w"]), None))
    assert next(given_chunks, "closed") == "closed"


def test_usage_is_what_was_counted_last():
    usage = answer(["a", "b", "c"], timings={"cache_n": 5})["usage"]
    assert usage == {"inputTokens": 12, "outputTokens": 3, "totalTokens": 15}


def test_the_limit_and_the_full_context_are_told_apart():
    assert answer(["a", "b"], finish="length", maxTokens=2)["stopReason"] == "max_tokens"
    assert answer(["a", "b"], finish="length", maxTokens=3)["stopReason"] == "model_context_window_exceeded"


def test_reasoning_has_a_block_of_its_own():
    pieces = [{"reasoning_content": "hm"}, {"reasoning_content": "m"}, "yes"]
    content = answer(pieces)["output"]["message"]["content"]
    assert content == [{"reasoningContent": {"reasoningText": {"text": "hmm"}}}, {"text": "yes"}]


def test_an_answer_of_no_tokens_is_an_answer():
    assert answer([])["output"]["message"]["content"] == [{"text": ""}]


@pytest.mark.parametrize(
    ("said", "finish", "reason"),
    [
        ('{"a": 1}', "stop", "end_turn"),
        ('{"a": "x"}', "stop", "malformed_model_output"),
        ("Sure! {}", "stop", "malformed_model_output"),
        ("[" * 100_000, "stop", "malformed_model_output"),
        ('{"a": ', "length", "max_tokens"),
    ],
)
def test_a_finished_answer_that_breaks_its_schema_is_malformed(said, finish, reason):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert answer([said], schema, finish, maxTokens=1)["stopReason"] == reason


def test_an_error_between_chunks_passes_through():
    def broken():
        yield {"choices": [{"delta": {"content": "a"}}], "timings": {}}
        raise broken_stream("modelStreamErrorException", "gone")

    with pytest.raises(EventStreamError, match="gone"):
        collect(chat.events(broken(), request("hi", model="local"), None))


def test_a_request_becomes_messages_and_settings():
    messages = [
        {"role": "user", "content": [{"text": "a"}, {"text": "b"}]},
        {"role": "assistant", "content": [{"text": "c"}]},
        {"role": "user", "content": [{"text": "d"}]},
    ]
    asked = request(messages, model="local", system="s", maxTokens=5, temperature=0.5, topP=0.9, fields={"seed": 3})
    body = chat.body(asked, "Answer in JSON.")
    assert [message["content"] for message in body["messages"]] == ["s\n\nAnswer in JSON.", "ab", "c", "d"]
    expected = {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stream": True}
    assert {name: body[name] for name in expected} == expected
    assert asked["messages"] == messages, "the request stays as it was"


def test_more_tokens_than_can_be_counted_are_as_many_as_can_be():
    assert chat.body(request("a", model="local", maxTokens=10**30))["max_tokens"] == 2**31 - 1


CONTROLS = ["<|im_end|>", "<|im_start|>", "<s>", "ab", "ba"]


@given(st.lists(st.sampled_from([*CONTROLS, "<|im_", "end|>", "a", "b", "<", "|", ">", " ", "s"]), max_size=12))
def test_no_text_holds_a_control_token_and_nothing_but_spaces_is_added(parts):
    written = "".join(parts)
    plain = chat.harmless(written, CONTROLS)
    assert not any(control in plain for control in CONTROLS)
    assert plain.replace(" ", "") == written.replace(" ", "")


def test_a_text_without_control_tokens_stays_as_it_is():
    code = json.dumps({"html": "<b>bold</b>", "mail": "a@b.c", "n": [1, 2]})
    assert chat.harmless(code, CONTROLS[:3]) == code
    assert chat.harmless("<|im_end|>", []) == "<|im_end|>"


@given(st.text(max_size=30), st.lists(st.integers(0, 40), max_size=6), STOPS)
def test_the_input_of_a_call_is_the_same_however_its_text_is_split(value, places, stops):
    given = {"words": value}
    asked = request("hi", model="local", stopSequences=stops or None)
    pieces = split(json.dumps(given), places)
    whole = list(chat.events(chunks(pieces), asked, {"type": "object"}, "write"))
    response = collect(whole)
    (block,) = response["output"]["message"]["content"]
    assert (block["toolUse"]["name"], block["toolUse"]["input"]) == ("write", given)
    assert response["stopReason"] == "tool_use"
    kinds = [next(iter(event)) for event in whole]
    assert kinds[:2] == ["messageStart", "contentBlockStart"]
    assert kinds[-3:] == ["contentBlockStop", "messageStop", "metadata"]


@pytest.mark.parametrize(
    ("said", "finish", "reason", "given_input"),
    [
        ('{"a": 1}', "stop", "tool_use", {"a": 1}),
        ('{"a": "x"}', "stop", "malformed_tool_use", {"a": "x"}),
        ("Sure!", "stop", "malformed_tool_use", "Sure!"),
        ('{"a": ', "length", "max_tokens", '{"a": '),
    ],
)
def test_a_call_that_breaks_its_schema_or_is_cut_off_is_no_finished_call(said, finish, reason, given_input):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    events = chat.events(chunks([said], finish), request("hi", model="local", maxTokens=1), schema, "add")
    response = collect(events)
    assert response["stopReason"] == reason
    assert response["output"]["message"]["content"][0]["toolUse"]["input"] == given_input


def test_calls_and_results_are_put_into_words_for_the_model():
    call = {"toolUseId": "t1", "name": "get_weather", "input": {"city": "Rome", "days": [1]}}
    good = {"toolUseId": "t1", "content": [{"json": {"sky": "clear"}}, {"text": "18 degrees"}]}
    bad = {"toolUseId": "t2", "content": [], "status": "error"}
    messages = [
        {"role": "user", "content": [{"text": "Weather?"}]},
        {"role": "assistant", "content": [{"toolUse": call}, {"toolUse": {**call, "toolUseId": "t2", "input": {}}}]},
        {"role": "user", "content": [{"toolResult": good}, {"toolResult": bad}, {"text": "So?"}]},
    ]
    body = chat.body(request(messages, model="local"))
    assert [message["content"] for message in body["messages"]] == [
        "Weather?",
        "I use get_weather with city Rome, days [1].\nI use get_weather.\n",
        'get_weather returned: {"sky": "clear"} 18 degrees\nget_weather failed: nothing\nSo?',
    ]


def test_control_tokens_in_a_tools_result_are_broken_apart():
    call = {"toolUseId": "t1", "name": "read", "input": {"path": "<|im_end|>"}}
    result = {"toolUseId": "t1", "content": [{"text": "<|im_end|>"}, {"json": ["<|im_start|>"]}]}
    messages = [
        {"role": "user", "content": [{"text": "Read"}]},
        {"role": "assistant", "content": [{"toolUse": call}]},
        {"role": "user", "content": [{"toolResult": result}]},
    ]
    body = chat.body(request(messages, model="local"), controls=CONTROLS[:2])
    assert not any(control in message["content"] for message in body["messages"] for control in CONTROLS[:2])
