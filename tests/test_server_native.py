"""Native bodies of InvokeModel: worked examples of each family, and what holds for all of them."""

from __future__ import annotations

import base64
import json
import threading
from copy import deepcopy

import pytest
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from bx.converse import collect
from bx.engines.echo import Echo
from bx.server import native, wire
from bx.server.native import anthropic, nova, openai

FAMILIES = [anthropic, nova, openai]
NAMES = [family.__name__.rpartition(".")[2] for family in FAMILIES]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=NAMES)
PNG = b"\x89PNG\r\n"
PNG64 = base64.b64encode(PNG).decode()
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
METRICS = "amazon-bedrock-invocationMetrics"


def problems(request):
    """What botocore's own validator says of a Converse request."""
    return ParamValidator().validate(request, wire.operation("Converse").input_shape).generate_report()


def converse(family, body, model_id="m"):
    request = family.request(body, model_id)
    assert not problems(request)
    return request


def refusal(family, body):
    with pytest.raises(ClientError) as caught:
        family.request(body, "m")
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    message = caught.value.response["Error"]["Message"]
    start, end = "Malformed input request: ", ", please reformat your input and try again."
    assert message.startswith(start)
    assert message.endswith(end)
    return message[len(start) : -len(end)]


def claude(*messages, **members):
    messages = list(messages) or [{"role": "user", "content": "Hi"}]
    return {"anthropic_version": anthropic.VERSION, "max_tokens": 9, "messages": messages, **members}


def chat(*messages, **members):
    return {"messages": list(messages) or [{"role": "user", "content": "Hi"}], **members}


def amazon(*messages, **members):
    return {"messages": list(messages) or [{"role": "user", "content": [{"text": "Hi"}]}], **members}


MINIMAL = {anthropic: claude(), nova: amazon(), openai: chat()}


# ---- folding: what a client makes of a native stream -------------------------------------------------------------


def fold_anthropic(events):
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    message = deepcopy(events[0]["message"])
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(message["content"])
            message["content"].append({**event["content_block"]})
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(message["content"]) - 1
            _continue(message["content"][-1], event["delta"])
        elif event["type"] == "message_delta":
            message |= event["delta"]
            message["usage"] = event["usage"]
    for block in message["content"]:
        if "json" in block:
            block["input"] = json.loads(block.pop("json"))
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(message["content"])
    return message


def _continue(block, delta):
    kind = delta["type"]
    if kind == "input_json_delta":
        block["json"] = block.get("json", "") + delta["partial_json"]
    elif kind == "citations_delta":
        block["citations"].append(delta["citation"])
    else:
        name = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}[kind]
        block[name] += delta[name]


def fold_nova(events):
    usage = events[-1]["metadata"]["usage"]
    folded = collect([{kind: body for kind, body in event.items() if kind != METRICS} for event in events])
    return {"output": folded["output"], "stopReason": folded["stopReason"], "usage": usage}


def fold_openai(events):
    message, calls = {"content": ""}, []
    for event in events:
        ((choice),) = event["choices"]
        for name, piece in choice["delta"].items():
            if name == "tool_calls":
                ((call),) = piece
                if "id" in call:
                    assert call["index"] == len(calls)
                    calls.append({"id": call["id"], "type": call["type"], "function": {**call["function"]}})
                else:
                    calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
            elif name == "role":
                message["role"] = piece
            else:
                message[name] = message.get(name, "") + piece
    if calls:
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    envelope = {name: event[name] for name in ("id", "created", "model")}
    choice = {"index": 0, "message": message, "finish_reason": choice["finish_reason"], "logprobs": None}
    return {**envelope, "object": "chat.completion", "choices": [choice], "usage": event["usage"]}


FOLD = {anthropic: fold_anthropic, nova: fold_nova, openai: fold_openai}


def comparable(body):
    """A native answer without what differs from one to the next; the input of calls is read."""
    body = {name: value for name, value in deepcopy(body).items() if name not in ("id", "created")}
    for choice in body.get("choices", []):
        for call in choice["message"].get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return body


def streamed(*blocks, stop="end_turn"):
    """A Converse stream of blocks, each given by its start (or None) and its deltas."""
    yield {"messageStart": {"role": "assistant"}}
    for index, (start, deltas) in enumerate(blocks):
        if start:
            yield {"contentBlockStart": {"contentBlockIndex": index, "start": start}}
        for delta in deltas:
            yield {"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}}
        yield {"contentBlockStop": {"contentBlockIndex": index}}
    yield {"messageStop": {"stopReason": stop}}
    usage = {"inputTokens": 7, "outputTokens": 3, "totalTokens": 15, "cacheReadInputTokens": 5}
    yield {"metadata": {"usage": usage, "metrics": {"latencyMs": 12}}}


def said(*blocks, stop="end_turn", **members):
    message = {"role": "assistant", "content": list(blocks)}
    usage = {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10}
    return {
        "output": {"message": message},
        "stopReason": stop,
        "usage": usage,
        "metrics": {"latencyMs": 1},
        **members,
    }


def called(name="weather", call="t1", **given):
    return {"toolUse": {"toolUseId": call, "name": name, "input": given}}


CALL = (
    {"toolUse": {"toolUseId": "t1", "name": "weather"}},
    [{"toolUse": {"input": '{"city":'}}, {"toolUse": {"input": ' "Rome"}'}}],
)
THOUGHT = (None, [{"reasoningContent": {"text": "Hm"}}, {"reasoningContent": {"text": "m."}}])
SIGNED = (None, [*THOUGHT[1], {"reasoningContent": {"signature": "sig"}}])
TEXT = (None, [{"text": "Hel"}, {"text": "lo"}])


# ---- families ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "family"),
    [
        ("anthropic.claude-sonnet-4-6", anthropic),
        ("us.anthropic.claude-sonnet-4-6", anthropic),
        ("arn:aws:bedrock:eu-west-1::foundation-model/anthropic.claude-haiku-4-5-20251001-v1:0", anthropic),
        ("arn:aws:bedrock:us-east-1:000000000000:inference-profile/global.anthropic.claude-sonnet-4-6", anthropic),
        ("us.amazon.nova-2-lite-v1:0", nova),
        ("openai.gpt-oss-20b-1:0", openai),
        ("qwen.qwen3-32b-v1:0", openai),
        ("mistral.mistral-large-3-675b-instruct", openai),
    ],
)
def test_the_provider_in_a_model_id_tells_the_family(model_id, family):
    for other in FAMILIES:
        assert native.family(model_id, MINIMAL[other]) is family


@pytest.mark.parametrize(
    "model_id", ["local", "echo", "local:/a.b/c.gguf", "arn:aws:bedrock:us-east-1:000000000000:imported-model/abc123"]
)
def test_where_the_id_tells_no_provider_the_body_tells_the_family(model_id):
    for family in FAMILIES:
        assert native.family(model_id, MINIMAL[family]) is family
    assert native.family(model_id, {"inferenceConfig": {}}) is nova
    assert native.family(model_id, {"schemaVersion": "messages-v1"}) is nova
    assert native.family(model_id, []) is openai


# ---- Anthropic, in -----------------------------------------------------------------------------------------------


def test_a_claude_body_is_read_as_the_converse_request_that_it_means():
    body = claude(
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        },
        system=[{"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}],
        max_tokens=5,
        temperature=1,
        top_p=0.5,
        top_k=4,
        stop_sequences=["END"],
        thinking={"type": "adaptive"},
        metadata={"user_id": "u"},
        anthropic_beta=["context-1m-2025-08-07"],
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    )
    assert converse(anthropic, body, "us.anthropic.x") == {
        "modelId": "us.anthropic.x",
        "messages": [{"role": "user", "content": [{"text": "Hi"}, {"cachePoint": {"type": "default", "ttl": "1h"}}]}],
        "system": [{"text": "Be brief"}, {"cachePoint": {"type": "default"}}],
        "inferenceConfig": {"maxTokens": 5, "temperature": 1, "topP": 0.5, "stopSequences": ["END"]},
        "outputConfig": {
            "textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(SCHEMA)}}}
        },
        "additionalModelRequestFields": {
            "top_k": 4,
            "thinking": {"type": "adaptive"},
            "metadata": {"user_id": "u"},
            "anthropic_beta": ["context-1m-2025-08-07"],
            "output_config": {"effort": "low"},
        },
    }


def test_a_claude_conversation_with_tools_is_read():
    tool = {"name": "weather", "description": "Tells it", "input_schema": SCHEMA, "strict": True}
    body = claude(
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": "sig"},
                {"type": "redacted_thinking", "data": "AAE="},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
                {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Sunny"}]},
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "is_error": True,
                    "content": [
                        {"type": "text", "text": "Look"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG64}},
                    ],
                }
            ],
        },
        tools=[
            tool,
            {
                "type": "custom",
                "name": "b",
                "input_schema": {"type": "object"},
                "cache_control": {"type": "ephemeral"},
            },
        ],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    )
    request = converse(anthropic, body)
    assert request["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "sig"}}},
                {"reasoningContent": {"redactedContent": b"\x00\x01"}},
                called(city="Rome"),
                called(call="t2"),
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "t1", "content": [{"text": "Sunny"}]}},
                {
                    "toolResult": {
                        "toolUseId": "t2",
                        "content": [{"text": "Look"}, {"image": {"format": "png", "source": {"bytes": PNG}}}],
                        "status": "error",
                    }
                },
            ],
        },
    ]
    assert request["toolConfig"] == {
        "tools": [
            {
                "toolSpec": {
                    "name": "weather",
                    "description": "Tells it",
                    "inputSchema": {"json": SCHEMA},
                    "strict": True,
                }
            },
            {"toolSpec": {"name": "b", "inputSchema": {"json": {"type": "object"}}}},
            {"cachePoint": {"type": "default"}},
        ],
        "toolChoice": {"tool": {"name": "weather"}},
    }
    assert request["additionalModelRequestFields"] == {"tool_choice": {"disable_parallel_tool_use": True}}


def test_the_documents_of_a_claude_body_are_read():
    pdf = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(b"%PDF").decode()}
    text = {"type": "text", "media_type": "text/plain", "data": "Some"}
    parts = {"type": "content", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    body = claude(
        {
            "role": "user",
            "content": [
                {"type": "document", "source": pdf, "title": "Q1/Q2:  réport.pdf", "citations": {"enabled": True}},
                {"type": "document", "source": text, "context": "About"},
                {"type": "document", "source": parts},
                {
                    "type": "search_result",
                    "source": "s",
                    "title": "t",
                    "content": [{"type": "text", "text": "found"}],
                },
                {"type": "text", "text": "Read"},
            ],
        }
    )
    assert converse(anthropic, body)["messages"][0]["content"] == [
        {
            "document": {
                "format": "pdf",
                "name": "Q1-Q2- r-port-pdf",
                "source": {"bytes": b"%PDF"},
                "citations": {"enabled": True},
            }
        },
        {"document": {"format": "txt", "name": "document", "source": {"text": "Some"}, "context": "About"}},
        {"document": {"name": "document", "source": {"content": [{"text": "a"}, {"text": "b"}]}}},
        {"searchResult": {"source": "s", "title": "t", "content": [{"text": "found"}]}},
        {"text": "Read"},
    ]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"messages": None}, "#: required key [messages] not found"),
        ({"max_tokens": None}, "#: required key [max_tokens] not found"),
        ({"anthropic_version": None}, "#: required key [anthropic_version] not found"),
        ({"anthropic_version": "2023-06-01"}, "#/anthropic_version: 2023-06-01 is not a valid enum value"),
        ({"foo": 1}, "#: extraneous key [foo] is not permitted"),
        ({"stream": True}, "#: extraneous key [stream] is not permitted"),
        ({"max_tokens": "5"}, "#/max_tokens: expected type: Integer, found: String"),
        ({"max_tokens": True}, "#/max_tokens: expected type: Integer, found: Boolean"),
        ({"stop_sequences": ["a", 1]}, "#/stop_sequences/1: expected type: String, found: Integer"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "#/messages/0/role: tool is not a valid enum value"),
        ({"messages": [{"role": "user"}]}, "#/messages/0: required key [content] not found"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "#/messages/0/content/0/type: video is not a valid enum value",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "b": 1}]}]},
            "#/messages/0/content/0: extraneous key [b] is not permitted",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "?"}}
                        ],
                    }
                ]
            },
            "#/messages/0/content/0/source/data: the string is not base64",
        ),
        ({"tool_choice": {"type": "any"}}, "#/tool_choice: there are no tools to choose from"),
        (
            {"tools": [{"type": "bash_20250124", "name": "bash"}]},
            '#/tools/0/type: "bash_20250124" cannot be served here',
        ),
    ],
)
def test_a_claude_body_that_is_not_right_is_refused_by_name(members, says):
    assert refusal(anthropic, {**claude(), **members}) == says


# ---- Anthropic, out ----------------------------------------------------------------------------------------------


def test_an_answer_is_written_as_claude_has_it():
    answer = said(
        {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": b"\x00\x01"}},
        {"text": "Hello"},
        called(city="Rome"),
        stop="tool_use",
    )
    answer["usage"] |= {
        "cacheReadInputTokens": 5,
        "cacheWriteInputTokens": 2,
        "cacheDetails": [{"ttl": "5m", "inputTokens": 2}],
    }
    body = anthropic.response(answer, "us.anthropic.claude-haiku-4-5-20251001-v1:0")
    assert body.pop("id").startswith("msg_bdrk_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "AAE="},
            {"type": "text", "text": "Hello"},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "output_tokens": 3,
            "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 2,
            "cache_creation": {"ephemeral_5m_input_tokens": 2},
        },
    }


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        ("end_turn", "end_turn"),
        ("max_tokens", "max_tokens"),
        ("stop_sequence", "stop_sequence"),
        ("content_filtered", "refusal"),
        ("guardrail_intervened", "refusal"),
        ("model_context_window_exceeded", "model_context_window_exceeded"),
    ],
)
def test_claude_tells_why_an_answer_ended(stop, told):
    assert anthropic.response(said({"text": "a"}, stop=stop), "m")["stop_reason"] == told


def test_the_sequence_that_stopped_claude_is_told_where_the_response_tells_it():
    answer = said({"text": "a"}, stop="stop_sequence", additionalModelResponseFields={"stop_sequence": "END"})
    assert anthropic.response(answer, "m")["stop_sequence"] == "END"


def test_a_call_that_was_cut_off_keeps_what_can_be_read_of_it():
    answer = said(
        {"toolUse": {"toolUseId": "t1", "name": "n", "input": '{"a": {"b": 1}, "city": "Ro'}}, stop="max_tokens"
    )
    assert anthropic.response(answer, "m")["content"][0]["input"] == {"a": {"b": 1}}
    (call,) = openai.response(answer, "m")["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"a": {"b": 1}, "city": "Ro'


def test_what_claude_cites_is_written_with_its_place():
    place = {"documentChar": {"documentIndex": 0, "start": 2, "end": 5}}
    cited = {"title": "Doc", "sourceContent": [{"text": "abc"}], "location": place}
    native_citation = {
        "type": "char_location",
        "cited_text": "abc",
        "document_index": 0,
        "document_title": "Doc",
        "start_char_index": 2,
        "end_char_index": 5,
    }
    block = {"type": "text", "text": "So", "citations": [native_citation]}
    answer = said({"citationsContent": {"content": [{"text": "So"}], "citations": [cited]}})
    assert anthropic.response(answer, "m")["content"] == [block]
    events = list(anthropic.events(streamed((None, [{"citation": cited}, {"text": "So"}])), "m"))
    assert fold_anthropic(events)["content"] == [block]
    found = {"source": "s", "location": {"searchResultLocation": {"searchResultIndex": 1, "start": 0, "end": 1}}}
    answer = said({"citationsContent": {"content": [], "citations": [found, {"location": {"web": {"url": "u"}}}]}})
    result, page = anthropic.response(answer, "m")["content"][0]["citations"]
    assert (result["type"], result["source"], result["search_result_index"]) == ("search_result_location", "s", 1)
    assert (page["type"], page["url"]) == ("web_search_result_location", "u")


def test_a_stream_is_written_as_claude_has_it():
    body = [*anthropic.events(streamed(SIGNED, TEXT, CALL, stop="tool_use"), "anthropic.claude-x-v1:0")]
    assert body[0]["message"]["model"] == "claude-x"
    assert body[0]["message"]["usage"] == {"input_tokens": 0, "output_tokens": 0}
    assert body[1:-1] == [
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "m."}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "sig"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 1},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "t1", "name": "weather", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 2,
            "delta": {"type": "input_json_delta", "partial_json": '{"city":'},
        },
        {
            "type": "content_block_delta",
            "index": 2,
            "delta": {"type": "input_json_delta", "partial_json": ' "Rome"}'},
        },
        {"type": "content_block_stop", "index": 2},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 5},
        },
    ]
    metrics = body[-1].pop(METRICS)
    assert body[-1] == {"type": "message_stop"}
    assert 0 <= metrics.pop("firstByteLatency") <= 12
    expected = {"inputTokenCount": 7, "outputTokenCount": 3, "cacheReadInputTokenCount": 5, "invocationLatency": 12}
    assert metrics == expected


# ---- Nova --------------------------------------------------------------------------------------------------------


def test_a_nova_body_is_read_as_the_converse_request_that_it_means():
    tools = {
        "tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}}}],
        "toolChoice": {"any": {}},
    }
    messages = [
        {"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": PNG64}}}, {"text": "What?"}]},
        {"role": "assistant", "content": [called(city="Rome")]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "content": [{"json": {"sun": None}}]}}]},
    ]
    reasoning = {"type": "enabled", "maxReasoningEffort": "low"}
    body = amazon(
        *messages,
        schemaVersion="messages-v1",
        system=[{"text": "Be brief"}],
        toolConfig=tools,
        inferenceConfig={
            "max_new_tokens": 5,
            "temperature": 0.5,
            "topP": 1,
            "topK": 4,
            "stopSequences": ["END"],
            "reasoningConfig": reasoning,
        },
    )
    read = deepcopy(messages)
    read[0]["content"][0]["image"]["source"]["bytes"] = PNG
    assert converse(nova, body, "us.amazon.nova-2-lite-v1:0") == {
        "modelId": "us.amazon.nova-2-lite-v1:0",
        "messages": read,
        "system": [{"text": "Be brief"}],
        "toolConfig": tools,
        "inferenceConfig": {"maxTokens": 5, "temperature": 0.5, "topP": 1, "stopSequences": ["END"]},
        "additionalModelRequestFields": {"inferenceConfig": {"topK": 4}, "reasoningConfig": reasoning},
    }
    outside = converse(nova, amazon(reasoningConfig=reasoning))
    assert outside["additionalModelRequestFields"] == {"reasoningConfig": reasoning}


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"messages": None}, "#: required key [messages] not found"),
        ({"schemaVersion": "v2"}, '#/schemaVersion: "v2" cannot be served here'),
        ({"outputConfig": {}}, "#: extraneous key [outputConfig] is not permitted"),
        ({"inferenceConfig": {"foo": 1}}, "#/inferenceConfig: extraneous key [foo] is not permitted"),
        (
            {"inferenceConfig": {"maxTokens": 1, "max_new_tokens": 2}},
            "#/inferenceConfig: extraneous key [max_new_tokens] is not permitted",
        ),
        ({"system": "Be brief"}, "#/system: expected type: JSONArray, found: String"),
        ({"messages": [{"content": []}]}, "#/messages/0: required key [role] not found"),
        (
            {"messages": [{"role": "user", "content": "Hi"}]},
            "#/messages/0/content: expected type: JSONArray, found: String",
        ),
        (
            {"messages": [{"role": "user", "content": [{"document": {}}]}]},
            "#/messages/0/content/0: extraneous key [document] is not permitted",
        ),
        (
            {"messages": [{"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": "?"}}}]}]},
            "#/messages/0/content/0/image/source/bytes: the string is not base64",
        ),
        (
            {"reasoningConfig": {}, "inferenceConfig": {"reasoningConfig": {}}},
            "#/inferenceConfig: extraneous key [reasoningConfig] is not permitted",
        ),
    ],
)
def test_a_nova_body_that_is_not_right_is_refused_by_name(members, says):
    assert refusal(nova, {**amazon(), **members}) == says


def test_an_answer_is_written_as_nova_has_it():
    answer = said({"reasoningContent": {"redactedContent": b"\x00"}}, called(city="Rome"), stop="tool_use")
    answer["usage"]["cacheReadInputTokens"] = 5
    content = [{"reasoningContent": {"redactedContent": "AA=="}}, called(city="Rome")]
    assert nova.response(answer, "m") == {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "tool_use",
        "usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10, "cacheReadInputTokenCount": 5},
    }


def test_a_stream_is_written_as_nova_has_it():
    events = [*nova.events(streamed(TEXT), "m")]
    assert events[:-1] == [*streamed(TEXT)][:-1]
    metadata = events[-1]["metadata"]
    assert metadata["usage"]["cacheReadInputTokenCount"] == 5
    assert (metadata["metrics"], metadata["trace"]) == ({}, {})
    assert events[-1][METRICS]["invocationLatency"] == 12


# ---- chat completions --------------------------------------------------------------------------------------------


def test_a_chat_body_is_read_as_the_converse_request_that_it_means():
    body = chat(
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "system", "content": [{"type": "text", "text": "Be kind"}]},
        model="ignored",
        max_completion_tokens=5,
        temperature=1.5,
        top_p=0.5,
        stop="END",
        seed=1,
        reasoning_effort="low",
        presence_penalty=0,
        frequency_penalty=0.5,
        n=1,
        stream=True,
        stream_options={"include_usage": True},
        response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}},
    )
    structure = {"jsonSchema": {"schema": json.dumps(SCHEMA), "name": "place"}}
    assert converse(openai, body) == {
        "modelId": "m",
        "messages": [{"role": "user", "content": [{"text": "Hi"}]}],
        "system": [{"text": "Be brief"}, {"text": "Be kind"}],
        "inferenceConfig": {"maxTokens": 5, "temperature": 1.5, "topP": 0.5, "stopSequences": ["END"]},
        "outputConfig": {"textFormat": {"type": "json_schema", "structure": structure}},
        "additionalModelRequestFields": {"seed": 1, "reasoning_effort": "low", "frequency_penalty": 0.5},
    }


def test_a_chat_conversation_with_tools_is_read():
    def call(name):
        return {"id": name, "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}

    function = {"name": "weather", "description": "Tells it", "parameters": SCHEMA, "strict": True}
    body = chat(
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "reasoning_content": "Hm", "tool_calls": [call("t1"), call("t2")]},
        {"role": "tool", "tool_call_id": "t1", "content": "Sunny"},
        {"role": "tool", "tool_call_id": "t2", "content": [{"type": "text", "text": "Rain"}]},
        {"role": "user", "content": "So?"},
        tools=[{"type": "function", "function": function}, {"type": "function", "function": {"name": "now"}}],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
    )
    request = converse(openai, body)
    assert request["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "Hm"}}},
                called(city="Rome"),
                called(call="t2", city="Rome"),
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "t1", "content": [{"text": "Sunny"}]}},
                {"toolResult": {"toolUseId": "t2", "content": [{"text": "Rain"}]}},
                {"text": "So?"},
            ],
        },
    ]
    spec = {"name": "weather", "description": "Tells it", "inputSchema": {"json": SCHEMA}, "strict": True}
    now = {"name": "now", "inputSchema": {"json": {"type": "object", "properties": {}}}}
    assert request["toolConfig"] == {
        "tools": [{"toolSpec": spec}, {"toolSpec": now}],
        "toolChoice": {"tool": {"name": "weather"}},
    }
    assert request["additionalModelRequestFields"] == {"parallel_tool_calls": False}


@pytest.mark.parametrize(
    ("choice", "read"), [("auto", {"auto": {}}), ("required", {"any": {}}), (None, None), ("none", "no tools at all")]
)
def test_the_choices_of_tools_are_read(choice, read):
    tools = [{"type": "function", "function": {"name": "now"}}]
    config = converse(openai, chat(tools=tools, tool_choice=choice)).get("toolConfig")
    assert (config.get("toolChoice") if config else "no tools at all") == read
    named = {"required": "any"}.get(choice, choice)
    body = claude(tools=[{"name": "now", "input_schema": {"type": "object"}}])
    if choice:
        body["tool_choice"] = {"type": named}
    config = converse(anthropic, body).get("toolConfig")
    assert (config.get("toolChoice") if config else "no tools at all") == read


def test_no_calls_at_all_cannot_be_asked_for_where_tools_were_called():
    body = chat(
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "now", "arguments": ""}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "Noon"},
        tools=[{"type": "function", "function": {"name": "now"}}],
        tool_choice="none",
    )
    expected = "#/tool_choice: none cannot be served in a conversation that has called tools; use auto"
    assert refusal(openai, body) == expected


def test_images_and_sounds_of_a_chat_body_are_read():
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG64}", "detail": "auto"}},
        {"type": "input_audio", "input_audio": {"format": "wav", "data": PNG64}},
    ]
    assert converse(openai, chat({"role": "user", "content": parts}))["messages"][0]["content"] == [
        {"image": {"format": "png", "source": {"bytes": PNG}}},
        {"audio": {"format": "wav", "source": {"bytes": PNG}}},
    ]


def test_json_without_a_schema_is_asked_for_as_any_object():
    request = converse(openai, chat(response_format={"type": "json_object"}))
    assert request["outputConfig"]["textFormat"]["structure"] == {"jsonSchema": {"schema": '{"type": "object"}'}}
    assert "outputConfig" not in converse(openai, chat(response_format={"type": "text"}))


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"messages": None}, "#: required key [messages] not found"),
        ({"foo": 1}, "#: extraneous key [foo] is not permitted"),
        ({"n": 2}, "#/n: 2 cannot be served here"),
        ({"logprobs": True}, "#/logprobs: true cannot be served here"),
        ({"stop": 1}, "#/stop: expected type: String or JSONArray, found: Integer"),
        ({"stop": ["a", None]}, "#/stop/1: expected type: String, found: Null"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "#: extraneous key [max_completion_tokens] is not permitted"),
        ({"tool_choice": "required"}, "#/tool_choice: there are no tools to choose from"),
        ({"tool_choice": "some"}, "#/tool_choice: some is not a valid enum value"),
        ({"messages": [{"role": "assistant"}]}, "#/messages/0: required key [content] not found"),
        (
            {"messages": [{"role": "user", "content": "a", "name": "b"}]},
            "#/messages/0: extraneous key [name] is not permitted",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "t", "function": {"name": "n", "arguments": "[]"}}]}
                ]
            },
            "#/messages/0/tool_calls/0/function/arguments: the string is not the JSON of an object",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a"}}],
                    }
                ]
            },
            (
                "#/messages/0/content/0/image_url/url: the image must stand here as data:image/png;base64,... "
                "(or jpeg, gif, webp)"
            ),
        ),
    ],
)
def test_a_chat_body_that_is_not_right_is_refused_by_name(members, says):
    assert refusal(openai, {**chat(), **members}) == says


def test_an_answer_is_written_as_a_chat_completion():
    answer = said(
        {"reasoningContent": {"reasoningText": {"text": "Hm"}}},
        {"text": "Hello"},
        called(city="Rome"),
        stop="tool_use",
    )
    answer["usage"] |= {"cacheReadInputTokens": 5, "cacheWriteInputTokens": 2}
    body = openai.response(answer, "us.qwen.qwen3-32b-v1:0")
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    function = {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert body == {
        "object": "chat.completion",
        "model": "qwen.qwen3-32b-v1:0",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello",
                    "reasoning_content": "Hm",
                    "tool_calls": [{"id": "t1", "type": "function", "function": function}],
                },
                "finish_reason": "tool_calls",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": 14,
            "completion_tokens": 3,
            "total_tokens": 17,
            "prompt_tokens_details": {"cached_tokens": 5},
        },
    }


def test_gpt_oss_tells_its_reasoning_in_tags():
    answer = collect(streamed(THOUGHT, TEXT))
    message = openai.response(answer, "openai.gpt-oss-20b-1:0")["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "<reasoning>Hmm.</reasoning>Hello"}


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("content_filtered", "content_filter"),
        ("malformed_tool_use", "malformed_tool_use"),
    ],
)
def test_a_chat_completion_tells_why_it_ended(stop, told):
    assert openai.response(said({"text": "a"}, stop=stop), "m")["choices"][0]["finish_reason"] == told


def test_a_stream_is_written_as_chunks():
    chunks = [*openai.events(streamed(TEXT, CALL, stop="tool_use"), "qwen.x")]
    assert {(chunk["object"], chunk["model"], chunk["id"]) for chunk in chunks} == {
        ("chat.completion.chunk", "qwen.x", chunks[0]["id"])
    }
    function = {"name": "weather", "arguments": ""}
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {"tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": function}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ' "Rome"}'}}]},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 6 + ["tool_calls"]
    assert chunks[-1]["usage"]["prompt_tokens"] == 12
    assert chunks[-1][METRICS]["outputTokenCount"] == 3
    assert all("usage" not in chunk for chunk in chunks[:-1])


# ---- what holds for all ------------------------------------------------------------------------------------------


@each_family
def test_a_body_that_is_no_object_is_refused(family):
    assert refusal(family, []) == "#: expected type: JSONObject, found: JSONArray"
    assert refusal(family, None) == "#: expected type: JSONObject, found: Null"


@each_family
def test_a_body_is_left_as_it_was(family):
    body = deepcopy(MINIMAL[family])
    family.request(body, "m")
    assert body == MINIMAL[family]


@each_family
@pytest.mark.parametrize("limit", [None, 2])
def test_an_engine_answers_a_native_body(family, limit):
    request = family.request(MINIMAL[family], "m")
    request["messages"][0]["content"] = [{"text": "one two three"}]
    request["inferenceConfig"] = {"maxTokens": limit} if limit else {}
    whole = family.response(Echo().converse(**request), "m")
    events = list(family.events(Echo().converse_stream(**request)["stream"], "m"))
    assert comparable(FOLD[family](events)) == comparable(whole)
    assert json.loads(json.dumps(events)) == events


@each_family
def test_a_piece_is_passed_on_before_the_next_is_there(family):
    taken = []

    def slow():
        for event in streamed(TEXT):
            taken.append(event)
            yield event

    native_stream = family.events(slow(), "m")
    assert not taken
    for event in native_stream:
        if '"Hel"' in json.dumps(event):
            break
    assert taken[-1]["contentBlockDelta"]["delta"] == {"text": "Hel"}


@each_family
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_closing_a_native_stream_closes_the_one_below(family, steps):
    class Below:
        closed = threading.Event()

        def __iter__(self):
            return streamed(TEXT)

        def close(self):
            self.closed.set()

    below = Below()
    below.closed.clear()
    native_stream = family.events(below, "m")
    for _ in range(steps):
        next(native_stream)
    native_stream.close()
    assert below.closed.is_set()


@each_family
def test_a_stream_that_ends_too_early_is_an_error_and_no_answer(family):
    events = [*streamed(TEXT)][:3]
    with pytest.raises(ClientError, match="ended before the answer did"):
        list(family.events(events, "m"))


@each_family
def test_a_stream_without_counts_tells_none(family):
    events = [event for event in streamed(TEXT) if "metadata" not in event]
    told = list(family.events(events, "m"))
    assert '"outputTokens"' not in json.dumps(told[-1])
    assert '"completion_tokens"' not in json.dumps(told[-1])


@pytest.mark.parametrize("family", [anthropic, openai], ids=["anthropic", "openai"])
def test_an_answer_that_the_form_has_no_word_for_is_an_error(family):
    image = {"format": "png", "source": {"bytes": PNG}}
    with pytest.raises(ClientError, match="image block"):
        family.response(said({"image": image}), "m")
    with pytest.raises(ClientError, match="image block"):
        list(family.events(streamed(({"image": {"format": "png"}}, [])), "m"))
    with pytest.raises(ClientError, match="image block"):
        list(family.events(streamed((None, [{"image": {"source": {"bytes": PNG}}}])), "m"))


def asking(family, text):
    content = [{"text": text}] if family is nova else text
    return {**MINIMAL[family], "messages": [{"role": "user", "content": content}]}


def answered(family, body):
    """The text in a native answer."""
    if family is anthropic:
        return "".join(block["text"] for block in body["content"])
    if family is nova:
        return "".join(block["text"] for block in body["output"]["message"]["content"])
    return body["choices"][0]["message"]["content"]


@each_family
@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_texts_survive_both_ways(family, text):
    request = family.request(asking(family, text), "m")
    assert request["messages"] == [{"role": "user", "content": [{"text": text}]}]
    assert answered(family, family.response(said({"text": text}), "m")) == text


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def cut(draw, text):
    """A text in pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def stream_blocks(draw):
    kind = draw(st.sampled_from(["text", "thought", "call"]))
    if kind == "text":
        return None, [{"text": piece} for piece in draw(cut(draw(st.text(min_size=1))))]
    if kind == "thought":
        pieces = [{"reasoningContent": {"text": piece}} for piece in draw(cut(draw(st.text(min_size=1))))]
        return None, [*pieces, {"reasoningContent": {"signature": "sig"}}]
    arguments = draw(st.none() | st.dictionaries(st.text(max_size=5), json_values, max_size=3))
    written = [] if arguments is None else draw(cut(json.dumps(arguments)))
    start = {"toolUse": {"toolUseId": draw(st.text("abc", min_size=1)), "name": "n"}}
    return start, [{"toolUse": {"input": piece}} for piece in written]


@each_family
@settings(max_examples=60, deadline=None)
@given(blocks=st.lists(stream_blocks(), max_size=4), model_id=st.sampled_from(["m", "openai.gpt-oss-20b-1:0"]))
def test_a_native_stream_folds_into_the_native_answer(family, blocks, model_id):
    events = list(family.events(streamed(*blocks, stop="tool_use"), model_id))
    whole = family.response(collect(streamed(*blocks, stop="tool_use")), model_id)
    assert comparable(FOLD[family](events)) == comparable(whole)


EXAMPLES = {
    anthropic: claude(
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG64}},
                {
                    "type": "document",
                    "title": "t",
                    "source": {"type": "text", "media_type": "text/plain", "data": "d"},
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": "s"},
                {"type": "tool_use", "id": "t1", "name": "n", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "r", "is_error": False}],
        },
        system="Be brief",
        stop_sequences=["END"],
        tools=[{"name": "n", "description": "d", "input_schema": SCHEMA, "strict": True}],
        tool_choice={"type": "tool", "name": "n"},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    ),
    nova: amazon(
        {"role": "user", "content": [{"text": "Hi"}, {"image": {"format": "png", "source": {"bytes": PNG64}}}]},
        {"role": "assistant", "content": [called(a=1)]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": "r"}]}}]},
        system=[{"text": "Be brief"}],
        inferenceConfig={"maxTokens": 5, "topK": 3, "stopSequences": ["END"]},
        toolConfig={"tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}}}]},
    ),
    openai: chat(
        {"role": "system", "content": "Be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG64}"}},
            ],
        },
        {
            "role": "assistant",
            "content": "a",
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "n", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "r"},
        stop=["END"],
        tools=[{"type": "function", "function": {"name": "n", "parameters": SCHEMA}}],
        tool_choice="required",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    ),
}


def places(value):
    """The paths of all parts of a JSON value."""
    yield ()
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    for key, item in inner:
        yield from ((key, *path) for path in places(item))


def changed(value, path, new):
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = changed(value[path[0]], path[1:], new)
    return copied


def check_read(family, body):
    """A body becomes a request that botocore takes for one, but for lengths and ranges, or is refused."""
    try:
        request = family.request(body, "m")
    except ClientError:
        refusal(family, body)
        return
    report = problems(request)
    for problem in ("Invalid type", "Unknown parameter", "Missing required"):
        assert problem not in report, report


@each_family
@settings(max_examples=60, deadline=None)
@given(body=json_values)
def test_any_json_is_read_or_refused(family, body):
    check_read(family, body)
    check_read(family, {**MINIMAL[family], "messages": body})


@each_family
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_change_of_a_body_is_read_or_refused(family, data):
    example = EXAMPLES[family]
    converse(family, example)
    path = data.draw(st.sampled_from(list(places(example))))
    new = data.draw(json_values | st.sampled_from([[], {}, "", [{}], {"type": "text"}, [None], 0, True]))
    check_read(family, changed(example, path, new))


@each_family
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_key_that_nobody_knows_is_refused_wherever_it_stands(family, data):
    """Nothing is dropped silently; only JSON that is the user's own (schemas, inputs) may hold any key."""
    example = EXAMPLES[family]
    own = {"input", "input_schema", "schema", "json", "parameters"}

    def part(path):
        value = example
        for key in path:
            value = value[key]
        return value

    objects = [path for path in places(example) if isinstance(part(path), dict) and not own & set(path)]
    path = data.draw(st.sampled_from(objects))
    says = refusal(family, changed(example, path, {**part(path), "surprise": 1}))
    assert says == f"{'/'.join(['#', *map(str, path)])}: extraneous key [surprise] is not permitted"


def test_a_schema_that_is_nested_too_deeply_is_refused():
    deep = {}
    for _ in range(100_000):
        deep = {"not": deep}
    body = claude(output_config={"format": {"type": "json_schema", "schema": deep}})
    assert refusal(anthropic, body) == "#/output_config/format/schema: the schema is nested too deeply"
    while deep:  # or the collector would recurse
        deep = deep.pop("not")
