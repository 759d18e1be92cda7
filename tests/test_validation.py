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


def tool(name="add", **members):
    return {"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object"}}, **members}}


def calling(*ids, name="add"):
    return {
        "role": "assistant",
        "content": [{"toolUse": {"toolUseId": one, "name": name, "input": {"a": 1}}} for one in ids],
    }


def returning(*ids, content=({"text": "2"},), **members):
    results = [{"toolResult": {"toolUseId": one, "content": [*content], **members}} for one in ids]
    return {"role": "user", "content": results}


TOOLS = {"tools": [tool()]}


@pytest.mark.parametrize(
    "accepted",
    [
        request(toolConfig=TOOLS),
        request(
            toolConfig={"tools": [tool(strict=True, description="Add"), tool("b-2_C")], "toolChoice": {"any": {}}}
        ),
        request(toolConfig={**TOOLS, "toolChoice": {"auto": {}}}),
        request(toolConfig={**TOOLS, "toolChoice": {"tool": {"name": "add"}}}),
        request(toolConfig=TOOLS, messages=[USER, calling("t1"), returning("t1")]),
        request(toolConfig=TOOLS, messages=[USER, calling("t1", "t2"), returning("t2", "t1"), MODEL, USER]),
        request(
            toolConfig=TOOLS, messages=[USER, calling("t"), returning("t", content=[{"json": [1]}, {"text": ""}])]
        ),
        request(toolConfig=TOOLS, messages=[USER, calling("t"), returning("t", content=[], status="error")]),
        request(toolConfig=TOOLS, messages=[USER, calling("t"), returning("t"), calling("t"), returning("t")]),
    ],
)
def test_tools_that_can_be_used_pass_where_the_model_can_use_tools(accepted):
    check(accepted, tools=True)
    with pytest.raises(ClientError, match="doesn't support tool use"):
        check(accepted)


def spec(**members):
    return {"toolConfig": {"tools": [tool(**members)]}}


def turns(*messages):
    return {"toolConfig": TOOLS, "messages": [USER, *messages]}


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"toolConfig": None}, "toolConfig must be a structure"),
        ({"toolConfig": {}}, r"toolConfig\.tools must be a list"),
        ({"toolConfig": {"tools": []}}, "Value at 'toolConfig.tools' failed .* length greater than or equal to 1"),
        ({"toolConfig": {**TOOLS, "strict": True}}, r"toolConfig\.strict"),
        ({"toolConfig": {"tools": ["add"]}}, r"toolConfig\.tools\.0 must set exactly one"),
        ({"toolConfig": {"tools": [{"systemTool": {"name": "nova_grounding"}}]}}, "support the systemTool field"),
        ({"toolConfig": {"tools": [tool(), {"cachePoint": {"type": "default"}}]}}, "support the cachePoint field"),
        ({"toolConfig": {"tools": [tool(), tool()]}}, "must be unique: add is there twice"),
        ({"toolConfig": {**TOOLS, "toolChoice": {"none": {}}}}, r"toolChoice\.none"),
        ({"toolConfig": {**TOOLS, "toolChoice": {}}}, "exactly one"),
        ({"toolConfig": {**TOOLS, "toolChoice": {"any": {}, "auto": {}}}}, "exactly one"),
        ({"toolConfig": {**TOOLS, "toolChoice": {"any": {"name": "add"}}}}, r"toolChoice\.any\.name"),
        ({"toolConfig": {**TOOLS, "toolChoice": {"tool": {}}}}, "is None, which is none of the tools: add"),
        (
            {"toolConfig": {**TOOLS, "toolChoice": {"tool": {"name": "sub"}}}},
            "is 'sub', which is none of the tools: add",
        ),
        ({"toolConfig": {**TOOLS, "toolChoice": {"tool": {"name": []}}}}, "none of the tools"),
        (
            spec(name="a b"),
            r"at 'toolConfig\.tools\.1\.member\.toolSpec\.name' failed .* pattern: \[a-zA-Z0-9_-\]\+",
        ),
        (spec(name="a" * 65), "length less than or equal to 64"),
        (spec(name=""), "regular expression"),
        (spec(name="add\n"), "regular expression"),
        (spec(name=5), "Member must be a string"),
        (spec(name=None), "Member must not be null"),
        (spec(description=""), "description must be a string of at least one"),
        (spec(description="\ud800"), "is no JSON"),
        (spec(strict="yes"), r"toolSpec\.strict must be true or false"),
        (spec(inputSchema={}), "inputSchema must be a structure"),
        (spec(inputSchema={"json": "{}"}), "inputSchema must be a structure"),
        (
            spec(inputSchema={"json": {"type": "string"}}),
            r"toolSpec\.inputSchema\.json\.type must be one of .*: object\.",
        ),
        (spec(inputSchema={"json": {"type": "object", "maxProperties": float("inf")}}), "is no JSON"),
        (spec(command=["add"]), r"toolSpec\.command"),
        (
            {"messages": [USER, calling("t"), returning("t")]},
            "toolConfig field must be defined when using toolUse and",
        ),
        (
            turns(calling("t1", "t2"), returning("t2")),
            r"Expected toolResult blocks at messages\.2\.content .*Ids: t1$",
        ),
        (turns(calling("t1")), r"Expected toolResult blocks at messages\.2\.content for the following Ids: t1"),
        (turns(calling("t1"), USER), "Expected toolResult blocks"),
        (turns(calling("t1"), returning("t2")), "Ids: t1"),
        (
            turns(calling("t1", "t1"), returning("t1")),
            r"toolUse blocks at messages\.1\.content contain duplicate Ids: t1",
        ),
        (
            turns(calling("t1"), returning("t1", "t1")),
            r"toolResult blocks at messages\.2\.content contain duplicate Ids",
        ),
        (turns(calling("t1"), returning("t1", "t2")), "exceeds the number of toolUse blocks of previous turn"),
        ({"toolConfig": TOOLS, "messages": [returning("t1")]}, "exceeds the number of toolUse blocks"),
        (turns(calling("t 1"), returning("t 1")), r"messages\.1\.content\.0\.toolUse\.toolUseId"),
        (turns(calling("t1", name="a b"), returning("t1")), r"toolUse\.name"),
        (turns({"role": "assistant", "content": [{"toolUse": "add"}]}), "toolUse must be a structure"),
        (
            turns({"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "a"}}]}),
            "input must be a JSON",
        ),
        (turns(MODEL, {"role": "user", "content": calling("t")["content"]}), "support the toolUse field for user"),
        (
            turns({"role": "assistant", "content": returning("t")["content"]}),
            "support the toolResult field for assistant",
        ),
        (turns(calling("t"), returning("t", status="ok")), r"enum value set: \[success, error\]"),
        (turns(calling("t"), returning("t", content=[{"image": {}}])), "support the image field for tool results"),
        (turns(calling("t"), returning("t", content=[{}])), "exactly one"),
        (turns(calling("t"), returning("t", content=[{"text": 5}])), "must be a string"),
        (turns(calling("t"), returning("t", content=[{"text": "\ud800"}])), "is no JSON"),
        (turns(calling("t"), returning("t", content=[{"json": float("nan")}])), "is no JSON"),
    ],
)
def test_tools_that_cannot_be_used_are_refused_with_their_reason(members, told):
    with pytest.raises(ClientError, match=told) as caught:
        check(request(**members), tools=True)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_input_that_is_nested_without_end_is_refused():
    deep: list = []
    deep.append(deep)
    with pytest.raises(ClientError, match="is no JSON"):
        check(request(**turns(calling("t"), returning("t", content=[{"json": deep}]))), tools=True)


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
MEMBERS = st.sampled_from(
    ["messages", "system", "inferenceConfig", "outputConfig", "additionalModelRequestFields", "toolConfig"]
)
BLOCK = st.dictionaries(
    st.sampled_from(["toolUseId", "name", "input", "content", "status", "tools", "toolSpec"]), JSON
)


@given(MEMBERS, JSON)
def test_whatever_a_member_holds_it_is_accepted_or_refused_as_the_service_does(member, value):
    assert code_of(request(**{member: value})) in (None, "ValidationException")


@given(st.lists(JSON | st.fixed_dictionaries({"role": JSON, "content": JSON}), min_size=1, max_size=3))
def test_whatever_the_messages_hold_they_are_accepted_or_refused_as_the_service_does(messages):
    assert code_of(request(messages=messages)) in (None, "ValidationException")


@given(st.sampled_from(["toolUse", "toolResult", "toolSpec"]), BLOCK)
def test_whatever_a_block_of_tools_holds_it_is_accepted_or_refused_as_the_service_does(kind, block):
    role = {"toolUse": "assistant"}.get(kind, "user")
    members = {"toolConfig": {"tools": [{kind: block}]}} if kind == "toolSpec" else turns()
    if kind != "toolSpec":
        members["messages"] = [USER, calling("t"), returning("t"), {"role": role, "content": [{kind: block}]}]
    assert code_of(request(**members)) in (None, "ValidationException")


def code_of(asked):
    """The code with which a request is refused; another kind of failure fails the test."""
    try:
        check(asked, tools=True)
    except ClientError as refused:
        return refused.response["Error"]["Code"]
