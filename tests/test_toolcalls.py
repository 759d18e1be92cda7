"""Tools on the embedded engine: the decision to call, what a call is held to, and tool events that came apart."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EventStreamError
from hypothesis import given
from hypothesis import strategies as st

from bx.converse import collect, deltas, request, text
from bx.engines import toolcalls
from bx.instances import violation

EXAMPLE = json.loads((Path(__file__).parent.parent / "examples" / "report_incident.json").read_text())
INCIDENT = EXAMPLE["inputSchema"]["json"]
WEATHER = {
    "name": "get_weather",
    "description": "Get the current weather in a city",
    "inputSchema": {
        "json": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["celsius", "kelvin"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        }
    },
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def local(loaded, local_weights):
    return loaded


def asked(prompt, *specs, choice=None, **more):
    config = {"tools": [{"toolSpec": spec} for spec in specs], **({"toolChoice": choice} if choice else {})}
    return {**request(prompt, model="local", **{"maxTokens": 100, **more}), "toolConfig": config}


def call_of(response):
    """The one call of a response, which must hold nothing else."""
    assert response["stopReason"] == "tool_use"
    (block,) = response["output"]["message"]["content"]
    return block["toolUse"]


# ---- the real model ----


def test_an_incident_is_reported_and_a_quiet_day_is_answered_in_prose(local):
    incident = "checkout degraded 47 min, config push exhausted the payments DB pool"
    call = call_of(local.converse(**asked(incident, EXAMPLE, maxTokens=None)))
    assert call["name"] == "report_incident"
    assert violation(call["input"], INCIDENT) is None
    assert call["input"]["duration_minutes"] == 47
    assert call["input"]["service"] == "checkout"
    # Without maxTokens, as one that is small would cut off the draft and so decide; one sentence is answer enough.
    quiet = local.converse(**asked("No incident today, all quiet", EXAMPLE, maxTokens=None, stopSequences=["."]))
    assert quiet["stopReason"] != "tool_use"
    assert text(quiet)


@pytest.mark.parametrize(
    "said",
    [
        "No incident today, all quiet",
        "No outages, all services are up",
        "Everything runs fine, nothing broke this week",
    ],
)
def test_a_message_that_only_touches_a_tools_topic_calls_nothing(local, said):
    response = local.converse(**asked(said, EXAMPLE, maxTokens=None, stopSequences=["."]))
    assert response["stopReason"] != "tool_use"


@pytest.mark.parametrize("choice", [{"any": {}}, {"tool": {"name": "get_weather"}}])
def test_a_tool_that_must_be_called_is_called_whatever_was_said(local, choice):
    specs = [WEATHER] if "any" in choice else [EXAMPLE, WEATHER]
    call = call_of(local.converse(**asked("Good morning!", *specs, choice=choice)))
    assert call["name"] == "get_weather"
    assert violation(call["input"], WEATHER["inputSchema"]["json"]) is None


def test_any_chooses_among_the_tools_and_ids_are_unique(local):
    calls = [call_of(local.converse(**asked("Weather in Oslo?", EXAMPLE, WEATHER, choice={"any": {}}))) for _ in "ab"]
    assert {call["name"] for call in calls} <= {"report_incident", "get_weather"}
    ids = {call["toolUseId"] for call in calls}
    assert len(ids) == 2
    assert all(re.fullmatch(r"tooluse_[a-zA-Z0-9_-]{22}", one) for one in ids)


def test_a_call_under_auto_reaches_a_stream_in_the_same_events_as_a_forced_one(local):
    orders = []
    for choice in ({"auto": {}}, {"tool": {"name": "get_weather"}}):
        given = asked("What is the weather in Paris?", WEATHER, choice=choice)
        events = list(local.converse_stream(**given)["stream"])
        call_of(collect(events))
        orders.append([next(iter(event)) for event in events])
    assert orders[0] == orders[1]
    assert "contentBlockStart" in orders[0]


def test_a_call_that_is_cut_off_is_no_call(local):
    response = local.converse(**asked("Weather in Paris?", WEATHER, choice={"any": {}}, maxTokens=4))
    assert response["stopReason"] == "max_tokens"
    given = response["output"]["message"]["content"][0]["toolUse"]["input"]
    assert isinstance(given, str)
    assert given.startswith('{"city"')


@pytest.mark.parametrize(("more", "choice"), [({"strict": True}, {"auto": {}}), ({}, {"any": {}})])
def test_what_must_be_enforced_and_cannot_be_is_refused_with_tool_path_and_keyword(local, more, choice):
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?=x)"}}, "required": ["a"]}
    spec = {"name": "look", "inputSchema": {"json": schema}, **more}
    with pytest.raises(ClientError, match=r"tool look: .*\$\.properties\.a\.pattern") as refused:
        local.converse(**asked("Look", WEATHER, spec, choice=choice))
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def test_without_strict_a_schema_that_cannot_be_enforced_is_in_the_way_of_nothing(local):
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?=x)"}}, "required": ["a"]}
    spec = {"name": "look", "inputSchema": {"json": schema}}
    assert text(local.converse(**asked("Hello, who are you?", spec, maxTokens=8)))


def test_a_schema_and_a_tool_in_one_request_give_a_call_or_text_that_satisfies_the_schema(local):
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    call_of(local.converse(**asked("What is the weather in Paris?", WEATHER, schema=schema)))
    answered = local.converse(**asked("I feel great, thanks", WEATHER, schema=schema))
    assert answered["stopReason"] == "end_turn"
    assert violation(json.loads(text(answered)), schema) is None


def test_after_a_tools_result_the_model_tells_it(local):
    use = {"toolUse": {"toolUseId": "t", "name": "get_weather", "input": {"city": "Paris", "unit": "celsius"}}}
    result = {"toolResult": {"toolUseId": "t", "content": [{"json": {"temperature": 18, "sky": "sunny"}}]}}
    turns = [("user", {"text": "What is the weather in Paris?"}), ("assistant", use), ("user", result)]
    messages = [{"role": role, "content": [block]} for role, block in turns]
    response = local.converse(**asked(messages, WEATHER, temperature=0.0, maxTokens=40))
    assert "18" in text(response) or "sunny" in text(response)


def test_an_answer_that_was_begun_cannot_be_a_forced_call(local):
    messages = [
        {"role": "user", "content": [{"text": "Weather?"}]},
        {"role": "assistant", "content": [{"text": "It is"}]},
    ]
    with pytest.raises(ClientError, match="must end with a user message"):
        local.converse(**asked(messages, WEATHER, choice={"any": {}}))
    assert text(local.converse(**asked(messages, WEATHER, maxTokens=5)))


# ---- what the decision is made of ----


def test_the_words_of_a_message_speak_for_a_call_and_invented_ones_against_it():
    said = "What is the weather in Paris?"
    assert toolcalls.is_called(0, '{"city": "Paris", "unit": "celsius"}', WEATHER, said)
    assert not toolcalls.is_called(0, '{"city": "London", "unit": "celsius"}', WEATHER, said)
    assert toolcalls.is_called(2.2, '{"city": "London", "unit": "celsius"}', WEATHER, said)
    assert not toolcalls.is_called(-1.5, '{"city": "Paris", "unit": "celsius"}', WEATHER, said)


def incident(service, minutes, cause):
    return json.dumps(dict(zip(INCIDENT["required"], (service, "sev2", minutes, cause), strict=True)))


QUIET = "No incident today, all quiet"


@pytest.mark.parametrize(
    ("called", "written", "said"),
    [
        (True, incident("checkout", 47, "bad config"), "checkout degraded 47 min, bad config"),
        (True, incident("checkout", 47, "invented"), "checkout degraded 47 min, bad config"),
        (False, incident("No incident today.", 2, "no_incident"), QUIET),
        (False, incident("incident", 2, "incident"), QUIET),  # the same word, twice
        (False, incident(QUIET, 2, "all quiet"), QUIET),  # the whole message
        (False, incident(QUIET.upper() + "!", 0, ""), QUIET),
        (False, incident("A quiet day without any incident", 12, "none"), QUIET),
        (False, '{"service": "checkout", "sev', "checkout degraded 47 min, bad config"),  # cut off
    ],
)
def test_only_what_was_picked_from_a_message_speaks_for_a_call(called, written, said):
    assert toolcalls.is_called(0.5, written, EXAMPLE, said) is called


def test_a_message_of_numbers_may_be_copied_whole():
    spec = {"name": "sum", "inputSchema": {"json": {"type": "object", "properties": {"terms": {"type": "string"}}}}}
    assert toolcalls.is_called(0, '{"terms": "23 * 19"}', spec, "23 * 19 = ?")
    assert not toolcalls.is_called(0, '{"terms": "I feel sad"}', spec, "I feel sad")


@given(st.floats(-5, 5), st.text(max_size=10) | JSON.map(json.dumps), JSON, st.text(max_size=20))
def test_whatever_a_model_drafts_there_is_a_decision(lean, written, properties, said):
    spec = {"name": "a", "inputSchema": {"json": {"type": "object", "properties": properties}}}
    if written[:1] in ("", "{"):
        assert toolcalls.is_called(lean, written, spec, said) in (True, False)
    assert toolcalls.question(spec, said)["messages"][-1]["role"] == "user"


def test_a_long_message_and_a_long_description_stay_short_in_the_question():
    spec = {**WEATHER, "description": "x" * 10**6}
    assert len(json.dumps(toolcalls.question(spec, "y" * 10**6))) < 5000


def test_the_leaning_counts_every_spelling_of_yes_and_no():
    def chunk(*likely):
        tokens = [{"token": token, "logprob": logprob} for token, logprob in likely]
        return {"choices": [{"delta": {}, "logprobs": {"content": [{"top_logprobs": tokens}]}}]}

    assert toolcalls.leaning([chunk(("Yes", -1.0), ("no", -1.0))]) == pytest.approx(0)
    assert toolcalls.leaning([chunk(("Yes", -1.0), (" yes", -1.0), ("No", -1.0))]) == pytest.approx(0.6931, abs=1e-3)
    assert toolcalls.leaning([chunk(("Maybe", -0.1)), {"choices": []}]) == 0


# ---- events that came apart ----

START = {"contentBlockStart": {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t", "name": "a"}}}}


def fragment(given):
    return {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"toolUse": {"input": given}}}}


def ended(reason):
    return {"messageStop": {"stopReason": reason}}


@pytest.mark.parametrize(
    "events",
    [
        [START, fragment('{"a": '), ended("tool_use")],
        [START, fragment("[" * 100_000), ended("tool_use")],
        [START, fragment(None), ended("tool_use")],
        [START, {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"toolUse": "x"}}}, ended("tool_use")],
        [fragment("{}"), ended("tool_use")],
    ],
)
def test_a_call_that_came_apart_is_a_broken_stream(events):
    with pytest.raises(EventStreamError) as broken:
        collect(events)
    assert broken.value.response["Error"]["Code"] == "modelStreamErrorException"


def test_a_call_without_any_input_has_an_empty_one():
    response = collect([START, ended("tool_use")])
    assert response["output"]["message"]["content"] == [{"toolUse": {"toolUseId": "t", "name": "a", "input": {}}}]


def test_the_input_of_a_call_that_was_cut_off_is_the_text_that_arrived():
    response = collect([START, fragment('{"a": '), fragment('"b'), ended("max_tokens")])
    assert response["output"]["message"]["content"][0]["toolUse"]["input"] == '{"a": "b'


def test_a_call_is_no_text():
    assert list(deltas({"stream": iter([START, fragment("{}"), ended("tool_use")])})) == []
