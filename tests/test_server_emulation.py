"""What the named model refuses, with the service's own texts; and what another engine is not to see of a request."""

from __future__ import annotations

import copy
import json

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from bx import foundation
from bx.converse import request as built
from bx.converse import text
from bx.engines.echo import Echo
from bx.server import emulation
from bx.structured import Structured

NOVA = "us.amazon.nova-2-lite-v1:0"
MICRO = "us.amazon.nova-micro-v1:0"
SONNET_4_6 = "us.anthropic.claude-sonnet-4-6"
SONNET_5 = "global.anthropic.claude-sonnet-5"
OPUS_4_1 = "us.anthropic.claude-opus-4-1-20250805-v1:0"
OPUS_4_8 = "us.anthropic.claude-opus-4-8"
OPUS_5_5 = "us.anthropic.claude-opus-5-5"
LLAMA = "us.meta.llama4-maverick-17b-instruct-v1:0"
DEEPSEEK = "deepseek.v3.2"
R1 = "us.deepseek.r1-v1:0"
GPT_OSS = "openai.gpt-oss-120b-1:0"
GPT = "us.openai.gpt-5.6-sol"
ARN = "arn:aws:bedrock:us-east-1"
STRICT = "toolConfig.tools.0.toolSpec.strict"
INVALID = "The provided model identifier is invalid."
TOLD = "The model returned the following errors: "
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
POINT = {"cachePoint": {"type": "default"}}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
HIGH = {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}


def asked(model, **members):
    return {**built("Hello", model=model), **members}


def tool(name="look", schema=SCHEMA, **more):
    return {"toolSpec": {"name": name, "inputSchema": {"json": schema}, **more}}


def tools(*choice, given=None):
    config = {"tools": given or [tool()]}
    return (
        {**config, "toolChoice": {choice[0]: {"name": "look"} if choice[0] == "tool" else {}}} if choice else config
    )


def output(schema=SCHEMA):
    definition = {"schema": schema if isinstance(schema, str) else json.dumps(schema)}
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": definition}}}


def content(*blocks):
    return [{"role": "user", "content": [{"text": "Hello"}, *blocks]}]


def refusal(request, *, stream=False, region=""):
    before = copy.deepcopy(request)
    with pytest.raises(ClientError) as caught:
        emulation.check(request, stream=stream, region=region)
    assert request == before
    return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]


def refused(request, **how):
    code, text = refusal(request, **how)
    assert code == "ValidationException"
    return text


def taken(request, *, stream=False, region=""):
    emulation.check(request, stream=stream, region=region)
    return True


# ---- which model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["local", "gpt-4o", "xx.anthropic.claude-sonnet-4-6", "jp.amazon.nova-pro-v1:0"])
def test_what_is_no_id_is_invalid(model):
    assert refused(asked(model)) == INVALID


@pytest.mark.parametrize("model", [NOVA, f"{ARN}:123456789012:inference-profile/{NOVA}"])
def test_a_profile_of_another_geography_than_the_regions_is_invalid(model):
    assert refused(asked(model), region="eu-west-1") == INVALID
    assert taken(asked(model), region="us-west-2")
    assert taken(asked(model))


def test_a_model_that_a_region_does_not_have_is_invalid_there():
    assert refused(asked("amazon.nova-pro-v1:0"), region="sa-east-1") == INVALID


@pytest.mark.parametrize("prefix", ["", f"{ARN}::foundation-model/"])
def test_the_base_id_of_a_model_with_profiles_only_is_refused(prefix):
    assert refused(asked(f"{prefix}anthropic.claude-sonnet-4-6"), region="us-east-1") == (
        "Invocation of model ID anthropic.claude-sonnet-4-6 with on-demand throughput isn't supported. Retry your "
        "request with the ID or ARN of an inference profile that contains this model."
    )
    assert taken(asked(f"{prefix}anthropic.claude-sonnet-4-6"), region="eu-west-2")


def test_a_model_at_the_end_of_its_life_is_not_found():
    assert refusal(asked("us.amazon.nova-premier-v1:0")) == (
        "ResourceNotFoundException",
        "This model version has reached the end of its life. Please upgrade to an active model on Amazon Bedrock.",
    )


def test_a_model_of_embeddings_does_not_converse():
    assert refused(asked("amazon.titan-embed-text-v2:0")) == (
        "This action doesn't support the model that you provided. Try again with a supported text or chat model."
    )


@pytest.mark.parametrize(
    "model",
    [
        "acme.new-model-v1:0", "us.acme.new-model-v1:0", "anthropic.claude-sonnet-9", f"us-gov.{SONNET_4_6[3:]}",
        f"{ARN}:123456789012:application-inference-profile/abc", f"{ARN}:123456789012:provisioned-model/abcdefghijkl",
    ],
)  # fmt: skip
def test_a_model_that_is_not_known_is_let_through(model):
    assert taken(asked(model))


# ---- structured output ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (NOVA, "This model doesn't support the outputConfig field. Remove outputConfig and try again."),
        (LLAMA, "This model doesn't support the outputConfig field. Remove outputConfig and try again."),
        (GPT, "This model doesn't support the outputConfig field. Remove outputConfig and try again."),
        (SONNET_5, f"{TOLD}output_config.format: Extra inputs are not permitted"),
        (OPUS_5_5, f"{TOLD}output_config.format: Extra inputs are not permitted"),
        (OPUS_4_1, f"{TOLD}output_config: Extra inputs are not permitted"),
    ],
)
def test_a_schema_for_a_model_that_takes_none_is_refused(model, text):
    assert refused(asked(model, outputConfig=output())) == text


@pytest.mark.parametrize("model", [SONNET_4_6, DEEPSEEK, GPT_OSS])
def test_a_schema_for_a_model_that_takes_one_is_not(model):
    assert taken(asked(model, outputConfig=output()), stream=True)


@pytest.mark.parametrize("model", [SONNET_4_6, OPUS_4_8, DEEPSEEK])
def test_effort_is_refused_as_a_field_of_converse(model):
    text = "This model doesn't support the effort field. Remove effort and try again."
    assert refused(asked(model, outputConfig={"effort": "low"})) == text
    assert taken(asked(SONNET_4_6, additionalModelRequestFields={"output_config": {"effort": "low"}}))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"additionalProperties": True}, "For 'object' type, 'additionalProperties' must be explicitly set to false"),
        (
            {"properties": {"a": {"type": "array", "items": {"type": "null"}, "maxItems": 2}}},
            "For 'array' type, property 'maxItems' is not supported",
        ),
        (
            {"properties": {"a": {"type": "integer", "minimum": 1, "maximum": 2}}},
            "For 'integer' type, properties maximum, minimum are not supported",
        ),
    ],
)
def test_a_schema_outside_the_subset_is_refused_with_the_recorded_text(change, text):
    schema = {**SCHEMA, **change}
    assert refused(asked(SONNET_4_6, outputConfig=output(schema))) == f"{TOLD}output_config.format.schema: {text}"
    strict = tools(given=[tool("free"), tool(schema=schema, strict=True)])
    assert refused(asked(SONNET_4_6, toolConfig=strict)) == f"{TOLD}tools.1.custom: {text}"
    assert taken(asked(SONNET_4_6, toolConfig=tools(given=[tool(schema=schema)])))


def test_where_no_text_is_recorded_the_place_is_told():
    schema = {**SCHEMA, "properties": {"a": {"type": "string", "minLength": 1}}}
    assert refused(asked(DEEPSEEK, outputConfig=output(schema))) == (
        "outputConfig.textFormat.structure.jsonSchema.schema: $.properties.a.minLength: `minLength` is not supported"
    )


@pytest.mark.parametrize("schema", ["{", "[]", json.dumps({"type": "nonsense"}), json.dumps({"$ref": "#/nowhere/a"})])
@pytest.mark.parametrize("model", [SONNET_4_6, DEEPSEEK])
def test_what_is_no_schema_is_refused(model, schema):
    assert refused(asked(model, outputConfig=output(schema)))


def test_limits_are_summed_over_the_schema_and_the_strict_tools():
    def optional(count):
        return {**SCHEMA, "properties": {f"p{each}": {"type": "string"} for each in range(count)}, "required": []}

    def unions(count):
        names = [f"p{each}" for each in range(count)]
        kinds = {name: {"type": ["string", "null"]} for name in names}
        return {**SCHEMA, "properties": kinds, "required": names}

    def both(schema, strict=True):
        return asked(
            SONNET_4_6,
            outputConfig=output(schema),
            toolConfig=tools(given=[tool(schema=schema, strict=strict)]),
        )

    text = refused(both(optional(13)))
    assert text.startswith(TOLD)
    assert "too many optional parameters (26)" in text
    assert "too many parameters with union types" in refused(both(unions(9)))
    assert taken(both(optional(12)))
    assert taken(both(optional(13), strict=False))


def test_too_many_strict_tools_are_refused():
    many = [tool(f"tool{each}", strict=True) for each in range(21)]
    assert refused(asked(SONNET_4_6, toolConfig=tools(given=many))) == (
        f"{TOLD}Too many strict tools (21). The maximum number of strict tools supported is 20. "
        "Try reducing the number of tools marked as strict."
    )
    assert taken(asked(SONNET_4_6, toolConfig=tools(given=many[:20])))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (SONNET_5, f"{TOLD}tools.0.custom.strict: Extra inputs are not permitted"),
        (
            NOVA,
            f"This model doesn't support the {STRICT} field. Remove {STRICT} and try again.",
        ),
    ],
)
def test_strict_tools_are_refused_where_there_are_none(model, text):
    assert refused(asked(model, toolConfig=tools(given=[tool(strict=True)]))) == text
    assert taken(asked(model, toolConfig=tools(given=[tool(strict=False)])))


# ---- tools ----------------------------------------------------------------------------------------------------


def test_tools_are_refused_where_there_are_none():
    assert refused(asked(R1, toolConfig=tools())) == "This model doesn't support tool use."


def test_tools_in_a_stream_are_refused_where_they_work_in_one_piece_only():
    request = asked(LLAMA, toolConfig=tools())
    assert refused(request, stream=True) == "This model doesn't support tool use in streaming mode."
    assert taken(request)
    assert taken(asked(LLAMA), stream=True)


@pytest.mark.parametrize("choice", ["any", "tool"])
def test_forced_tools_are_refused_by_the_newest_claude(choice):
    text = f'{TOLD}tool_choice: type "tool" and "any" are not supported for this model.'
    assert refused(asked(OPUS_5_5, toolConfig=tools(choice))) == text
    assert taken(asked(OPUS_5_5, toolConfig=tools("auto")))


@pytest.mark.parametrize(
    ("model", "choice"), [(LLAMA, "any"), (LLAMA, "tool"), (GPT_OSS, "tool"), (DEEPSEEK, "tool")]
)
def test_forced_tools_are_refused_by_others(model, choice):
    field = f"toolConfig.toolChoice.{choice}"
    text = f"This model doesn't support the {field} field. Remove {field} and try again."
    assert refused(asked(model, toolConfig=tools(choice))) == text


@pytest.mark.parametrize(("model", "choice"), [(NOVA, "tool"), (SONNET_4_6, "tool"), (GPT_OSS, "any")])
def test_forced_tools_are_taken_elsewhere(model, choice):
    assert taken(asked(model, toolConfig=tools(choice)))


def test_a_model_that_thinks_cannot_be_forced_to_call():
    text = f"{TOLD}Thinking may not be enabled when tool_choice forces tool use."
    forced = {"toolConfig": tools("any")}
    assert refused(asked(SONNET_4_6, **forced, additionalModelRequestFields=THINKING)) == text
    assert refused(asked(SONNET_5, **forced)) == text
    assert taken(asked(SONNET_5, **forced, additionalModelRequestFields={"thinking": {"type": "disabled"}}))
    assert taken(asked(SONNET_4_6, **forced))
    assert taken(asked(SONNET_4_6, toolConfig=tools(), additionalModelRequestFields=THINKING))


# ---- parameters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "given", "text"),
    [
        (OPUS_4_8, {"temperature": 0}, f"{TOLD}`temperature` is deprecated for this model."),
        (SONNET_5, {"topP": 0.5}, f"{TOLD}`top_p` is deprecated for this model."),
        (
            GPT,
            {"temperature": 0},
            "This model doesn't support the temperature field. Remove temperature and try again.",
        ),
        (
            SONNET_4_6,
            {"temperature": 1, "topP": 0.5},
            f"{TOLD}`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
        ),
    ],
)
def test_sampling_is_refused_where_there_is_none(model, given, text):
    assert refused(asked(model, inferenceConfig=given)) == text


def test_sampling_is_taken_elsewhere():
    assert taken(asked(SONNET_4_6, inferenceConfig={"temperature": 1}))
    assert taken(asked(NOVA, inferenceConfig={"temperature": 1, "topP": 0.5}))
    text = f"{TOLD}`top_k` is deprecated for this model."
    assert refused(asked(OPUS_4_8, additionalModelRequestFields={"top_k": 3})) == text


@pytest.mark.parametrize(("model", "limit"), [("us.amazon.nova-lite-v1:0", 10_000), (SONNET_4_6, 64_000)])
def test_a_limit_above_the_models_is_refused(model, limit):
    assert refused(asked(model, inferenceConfig={"maxTokens": limit + 1})) == (
        f"The maximum tokens you requested exceeds the model limit of {limit}. "
        f"Try again with a maximum tokens value that is lower than {limit}."
    )
    assert taken(asked(model, inferenceConfig={"maxTokens": limit}))


@pytest.mark.parametrize("name", ["maxTokens", "temperature", "topP"])
def test_novas_highest_effort_takes_no_parameters(name):
    request = asked(NOVA, additionalModelRequestFields=HIGH, inferenceConfig={name: 1})
    when = "when reasoningConfig type is 'enabled' and maxReasoningEffort is 'high'"
    assert refused(request) == f"{TOLD}`{name}` must be unset {when}."
    assert taken(asked(NOVA, additionalModelRequestFields=HIGH))


def test_adaptive_thinking_is_refused_by_claude_4_5():
    fields = {"thinking": {"type": "adaptive"}}
    request = asked("us.anthropic.claude-haiku-4-5-20251001-v1:0", additionalModelRequestFields=fields)
    assert refused(request) == f"{TOLD}adaptive thinking is not supported on this model"
    assert taken(asked(SONNET_4_6, additionalModelRequestFields=fields))


NAMES = ["thinking", "type", "reasoningConfig", "output_config", "effort", "inferenceConfig", "topK"]
LEAVES = st.none() | st.booleans() | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES), inner)))
def test_any_json_as_the_models_own_parameters_is_looked_at_without_harm(fields):
    for model in (NOVA, SONNET_5, GPT):
        request = asked(model, additionalModelRequestFields=fields)
        before = copy.deepcopy(request)
        taken(request)
        emulation.adapted(request)
        assert request == before


# ---- content --------------------------------------------------------------------------------------------------

IMAGE = {"image": {"format": "png", "source": {"bytes": b"-"}}}
DOCUMENT = {"document": {"format": "txt", "name": "a", "source": {"bytes": b"-"}}}
VIDEO = {"video": {"format": "mp4", "source": {"bytes": b"-"}}}


@pytest.mark.parametrize(
    ("model", "block", "name"),
    [
        (MICRO, IMAGE, "image"),
        (MICRO, DOCUMENT, "document"),
        (SONNET_4_6, VIDEO, "video"),
        (GPT, DOCUMENT, "document"),
    ],
)
def test_media_are_refused_by_models_without_them(model, block, name):
    ending = f"Remove {name} and try again."
    assert refused(asked(model, messages=content(block))) == (
        f"This model doesn't support the {name} field for user messages. {ending}"
    )
    result = {"toolResult": {"toolUseId": "1", "content": [block]}}
    assert refused(asked(model, messages=content(result))) == (
        f"This model doesn't support the {name} field for tool results. {ending}"
    )


def test_media_are_taken_by_models_with_them():
    assert taken(asked(NOVA, messages=content(IMAGE, DOCUMENT, VIDEO)))
    assert taken(asked(SONNET_4_6, messages=content(IMAGE, DOCUMENT)))


def test_more_than_four_cache_points_are_refused():
    few = asked(SONNET_4_6, messages=content(*[POINT] * 3), system=[{"text": "Be kind."}, POINT])
    assert taken(few)
    text = f"{TOLD}A maximum of 4 blocks with cache_control may be provided. Found 5."
    assert refused({**few, "toolConfig": tools(given=[tool(), POINT])}) == text
    assert refused(asked(NOVA, messages=content(*[POINT] * 5)))


@pytest.mark.parametrize(
    "members",
    [
        {"system": [POINT, {"text": "Be kind."}]},
        {"toolConfig": {"tools": [POINT, tool()]}},
        {"messages": [{"role": "user", "content": [POINT, {"text": "Hello"}]}]},
    ],
)
def test_a_cache_point_with_nothing_before_it_is_refused(members):
    text = "There is nothing available to cache. Please remove the invalid cache point and try again."
    assert refused(asked(SONNET_4_6, **members)) == text


def test_a_cache_point_for_a_model_that_caches_nothing_is_denied():
    text = "You invoked an unsupported model or your request did not allow prompt caching."
    assert refusal(asked(DEEPSEEK, messages=content(POINT))) == (
        "AccessDeniedException",
        f"{text} See the documentation for more information.",
    )


# ---- CountTokens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        SONNET_4_6, f"{ARN}:123456789012:inference-profile/{SONNET_4_6}", "amazon.nova-2-lite-v1:0", GPT_OSS,
        "anthropic.claude-sonnet-5", "anthropic.claude-opus-5-5", "anthropic.claude-haiku-5-5",
    ],
)  # fmt: skip
def test_tokens_are_counted_by_base_ids_of_some_models_only(model):
    with pytest.raises(ClientError) as caught:
        emulation.check_count(model, "us-east-1")
    assert caught.value.response["Error"] == {
        "Code": "ValidationException",
        "Message": "The provided model doesn't support counting tokens.",
    }


@pytest.mark.parametrize(
    "model",
    [
        "anthropic.claude-sonnet-4-6", f"{ARN}::foundation-model/anthropic.claude-haiku-4-5-20251001-v1:0",
        "acme.new-model",
    ],
)  # fmt: skip
def test_tokens_are_counted_where_the_service_does(model):
    emulation.check_count(model)


@pytest.mark.parametrize("model", ["local", "amazon.nova-premier-v1:0"])
def test_tokens_are_not_counted_for_what_is_no_model(model):
    with pytest.raises(ClientError, match=r"identifier is invalid|end of its life"):
        emulation.check_count(model)


# ---- for another engine ---------------------------------------------------------------------------------------


def test_what_only_the_named_model_understands_is_taken_out_and_told():
    reasoning = {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "x"}}}
    request = asked(
        SONNET_4_6,
        messages=[
            {"role": "user", "content": [{"guardContent": {"text": {"text": "Hi", "qualifiers": ["query"]}}}, POINT]},
            {"role": "assistant", "content": [reasoning, {"text": "Hello."}]},
            {"role": "user", "content": [{"text": "And?"}]},
        ],
        system=[{"text": "Be kind."}, POINT],
        toolConfig={"tools": [tool(), POINT], "toolChoice": {"auto": {}}},
        additionalModelRequestFields={**THINKING, "output_config": {"effort": "low"}, "top_k": 3},
        additionalModelResponseFieldPaths=["/stop_sequence"],
        serviceTier={"type": "default"},
        performanceConfig={"latency": "standard"},
        requestMetadata={"team": "a"},
    )
    before = copy.deepcopy(request)
    made, places = emulation.adapted(request)
    assert request == before
    assert made == {
        "modelId": SONNET_4_6,
        "messages": [
            {"role": "user", "content": [{"text": "Hi"}]},
            {"role": "assistant", "content": [{"text": "Hello."}]},
            {"role": "user", "content": [{"text": "And?"}]},
        ],
        "system": [{"text": "Be kind."}],
        "toolConfig": {"tools": [tool()], "toolChoice": {"auto": {}}},
        "additionalModelRequestFields": {"top_k": 3},
        "requestMetadata": {"team": "a"},
    }
    assert places == [
        "$.additionalModelResponseFieldPaths",
        "$.serviceTier",
        "$.performanceConfig",
        "$.system[1].cachePoint",
        "$.messages[0].content[0].guardContent",
        "$.messages[0].content[1].cachePoint",
        "$.messages[1].content[0].reasoningContent",
        "$.toolConfig.tools[1].cachePoint",
        "$.additionalModelRequestFields.thinking",
        "$.additionalModelRequestFields.output_config.effort",
    ]


@pytest.mark.parametrize(
    ("model", "fields", "expected"),
    [
        (NOVA, {**HIGH, "inferenceConfig": {"topK": 20}}, {"top_k": 20}),
        (NOVA, {"inferenceConfig": {"topK": 20, "other": 1}}, {"top_k": 20, "inferenceConfig": {"other": 1}}),
        (NOVA, {"inferenceConfig": {"topK": 20}, "top_k": 5}, {"inferenceConfig": {"topK": 20}, "top_k": 5}),
        (GPT_OSS, {"reasoning_effort": "low", "seed": 1}, {"seed": 1}),
        (GPT, {"reasoning": {"effort": "low"}}, None),
        (SONNET_4_6, {"output_config": {"format": {}}}, {"output_config": {"format": {}}}),
        (SONNET_4_6, {"nonsense": 1, "reasoning_effort": "low"}, {"nonsense": 1, "reasoning_effort": "low"}),
        ("acme.new-model", {"thinking": {}}, {"thinking": {}}),
        (SONNET_4_6, ["thinking"], ["thinking"]),
    ],
)
def test_parameters_that_only_the_family_knows_are_taken_out_and_no_others(model, fields, expected):
    made, _ = emulation.adapted(asked(model, additionalModelRequestFields=fields))
    assert made.get("additionalModelRequestFields") == expected


def test_a_request_that_any_engine_understands_stays_as_it_is():
    request = asked(SONNET_4_6, system=[{"text": "Be kind."}], guardrailConfig={"guardrailIdentifier": "g"})
    assert emulation.adapted(request) == (request, [])


def test_an_adapted_request_is_answered():
    request = asked(
        OPUS_4_8, messages=content(POINT), additionalModelRequestFields={"thinking": {"type": "adaptive"}}
    )
    made, _ = emulation.adapted(request)
    response = emulation.accounted(request, Echo().converse(**made))
    assert response["usage"] | {"cacheReadInputTokens": 0, "cacheWriteInputTokens": 0} == response["usage"]


def test_only_a_request_with_cache_points_is_answered_with_their_counts():
    plain, metadata = asked(SONNET_4_6), {"usage": {"inputTokens": 1}, "metrics": {"latencyMs": 1}}
    assert emulation.accounted(plain, metadata) == metadata
    cached = {**plain, "messages": content(POINT)}
    assert emulation.accounted(cached, {"usage": {"cacheReadInputTokens": 5}})["usage"] == {
        "cacheReadInputTokens": 5,
        "cacheWriteInputTokens": 0,
    }
    assert emulation.accounted(cached, {}) == {}


@pytest.mark.parametrize("model", foundation.models(), ids=lambda model: model.id)
def test_every_living_model_answers_a_plain_question(model):
    if model.end_of_life or not model.converse:
        return
    model_id = model.id if model.in_region else f"{model.geos[0]}.{model.id}"
    assert taken(asked(model_id, inferenceConfig={"maxTokens": 100}), stream=True)


class Emulated:
    """An engine that refuses what the named model does, and answers with the same JSON whichever way it is asked."""

    def converse(self, **request):
        emulation.check(request, stream=False)
        config = request.get("toolConfig")
        call = (
            {"toolUseId": "1", "name": config["tools"][0]["toolSpec"]["name"], "input": {"a": "b"}} if config else {}
        )
        message = {"role": "assistant", "content": [{"toolUse": call} if config else {"text": '{"a": "b"}'}]}
        stop = "tool_use" if config else "end_turn"
        return {"output": {"message": message}, "stopReason": stop, "usage": {}, "metrics": {"latencyMs": 1}}


@pytest.mark.parametrize("model", foundation.models(), ids=lambda model: model.id)
def test_the_ladder_finds_a_way_to_json_on_every_model(model):
    if model.end_of_life or not model.converse:
        return
    model_id = model.id if model.in_region else f"{model.geos[0]}.{model.id}"
    schema = {**SCHEMA, "properties": {"a": {"type": "string", "minLength": 1}}}
    response = Structured(Emulated()).converse(**built("Hello", model=model_id, schema=schema))
    assert text(response) == '{"a": "b"}'
