"""What the engines that run here refuse, with Amazon Bedrock's own code and, where it is known, its text."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from bx import converse
from bx.validation import check

USER = {"role": "user", "content": [{"text": "Hi"}]}
MODEL = {"role": "assistant", "content": [{"text": "Yes?"}]}


def request(**members):
    return {"modelId": "m", "messages": [USER], **members}


@pytest.mark.parametrize(
    "accepted",
    [
        request(),
        request(messages=[USER, MODEL]),
        request(messages=[USER, MODEL, USER]),
        request(messages=[{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]),
        request(system=[{"text": "Be brief"}, {"text": "Be kind"}]),
        request(system=[]),
        request(inferenceConfig={}),
        request(inferenceConfig={"maxTokens": 1, "temperature": 0, "topP": 1, "stopSequences": ["a"]}),
        request(inferenceConfig={"temperature": 0.5, "topP": 0.0, "stopSequences": []}),
        request(requestMetadata={"team": "a"}),
        request(additionalModelRequestFields={}),
        request(guardrailConfig={}),
        converse.request("Hi", model="m", schema={"type": "object"}),
    ],
)
def test_a_request_that_can_be_answered_passes(accepted):
    check(accepted)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"max_tokens": 5}, 'Unknown parameter in input: "max_tokens", must be one of: modelId, messages'),
        ({"messages": []}, "A conversation must start with a user message"),
        ({"messages": [MODEL]}, "A conversation must start with a user message"),
        ({"messages": [USER, USER]}, "must alternate between user and assistant"),
        ({"messages": "Hi"}, "messages must be a list, not str"),
        ({"messages": None}, "messages must be a list, not NoneType"),
        ({"messages": ["Hi"]}, "messages must be a list of structures"),
        (
            {"messages": [{"role": "robot", "content": [{"text": "Hi"}]}]},
            r"Value 'robot' at 'messages\.1\.member\.role'",
        ),
        ({"messages": [{"content": [{"text": "Hi"}]}]}, "Value 'None'"),
        ({"messages": [{"role": "user"}]}, r"content field in the Message object at messages\.0 is empty"),
        ({"messages": [{"role": "user", "content": []}]}, "is empty"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, r"messages\.0\.content must be a list"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "must set exactly one of its fields"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "must set exactly one of its fields"),
        ({"messages": [{"role": "user", "content": [{"text": "a", "image": {}}]}]}, "exactly one"),
        ({"messages": [{"role": "user", "content": [{"text": " \n"}]}]}, "is blank"),
        ({"messages": [{"role": "user", "content": [{"text": 5}]}]}, "must be a string"),
        ({"messages": [{"role": "user", "content": [{"text": "a\ud800"}]}]}, "lone surrogate at index 1"),
        ({"messages": [{"role": "user", "content": [{"image": {}}]}]}, "doesn't support the image field for user"),
        ({"messages": [USER, {"role": "assistant", "content": [{"toolUse": {}}]}]}, "toolUse field for assistant"),
        ({"system": [{"text": ""}]}, r"system\.0 is blank"),
        ({"system": [{"cachePoint": {"type": "default"}}]}, "cachePoint field for system prompts"),
        ({"system": "Be brief"}, "system must be a list"),
        ({"toolConfig": {"tools": []}}, "doesn't support tool use"),
        ({"guardrailConfig": {"guardrailIdentifier": "x"}}, "doesn't support the guardrailConfig field"),
        ({"performanceConfig": {"latency": "optimized"}}, "performanceConfig"),
        ({"serviceTier": {"type": "flex"}}, "serviceTier"),
        ({"promptVariables": {"a": {"text": "b"}}}, "promptVariables"),
        ({"additionalModelRequestFields": {"top_k": 4}}, r"additionalModelRequestFields\.top_k"),
        ({"additionalModelRequestFields": 4}, "additionalModelRequestFields must be a structure, not int"),
        ({"outputConfig": {"effort": "low"}}, r"outputConfig\.effort"),
        ({"outputConfig": []}, "outputConfig must be a structure"),
        ({"inferenceConfig": []}, "inferenceConfig must be a structure"),
        ({"inferenceConfig": {"max_tokens": 5}}, r"inferenceConfig\.max_tokens"),
        ({"inferenceConfig": {"maxTokens": 0}}, "greater than or equal to 1"),
        ({"inferenceConfig": {"maxTokens": 1.5}}, "must be a number, not 1.5"),
        ({"inferenceConfig": {"maxTokens": True}}, "must be a number, not True"),
        ({"inferenceConfig": {"maxTokens": None}}, "must be a number, not None"),
        ({"inferenceConfig": {"temperature": 1.1}}, "less than or equal to 1"),
        ({"inferenceConfig": {"temperature": -0.1}}, "greater than or equal to 0"),
        ({"inferenceConfig": {"temperature": float("nan")}}, "temperature"),
        ({"inferenceConfig": {"temperature": "hot"}}, "must be a number, not 'hot'"),
        ({"inferenceConfig": {"topP": 2}}, "less than or equal to 1"),
        ({"inferenceConfig": {"stopSequences": "END"}}, "must be a list"),
        ({"inferenceConfig": {"stopSequences": [""]}}, "at least one character"),
        ({"inferenceConfig": {"stopSequences": [1]}}, "at least one character"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_with_its_reason(members, told):
    with pytest.raises(ClientError, match=told) as caught:
        check(request(**members))
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_fields_that_a_model_knows_are_accepted():
    asked = request(additionalModelRequestFields={"seed": 1, "top_k": 4})
    check(asked, fields=["seed", "top_k"])
    with pytest.raises(ClientError, match="top_k"):
        check(asked, fields=["seed"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = st.sampled_from(["messages", "system", "inferenceConfig", "outputConfig", "additionalModelRequestFields"])


@given(MEMBERS, JSON)
def test_whatever_a_member_holds_it_is_accepted_or_refused_as_the_service_does(member, value):
    assert code_of(request(**{member: value})) in (None, "ValidationException")


@given(st.lists(JSON | st.fixed_dictionaries({"role": JSON, "content": JSON}), min_size=1, max_size=3))
def test_whatever_the_messages_hold_they_are_accepted_or_refused_as_the_service_does(messages):
    assert code_of(request(messages=messages)) in (None, "ValidationException")


def code_of(asked):
    """The code with which a request is refused; another kind of failure fails the test."""
    try:
        check(asked)
    except ClientError as refused:
        return refused.response["Error"]["Code"]
