"""The ladder: JSON for a schema on every model, from the strongest rung that it takes, over real HTTP."""

from __future__ import annotations

import itertools
import json
import logging

import pytest
from botocore.exceptions import ClientError

from bx import capabilities
from bx.converse import InvalidAnswer, collect, data, request, text
from bx.engines.bedrock import Bedrock
from bx.schema.fix import Unfixable
from bx.structured import NotEnforced, Structured
from scripted import answer, failure
from test_engines import valid, valid_event

pytestmark = pytest.mark.usefixtures("private_home")

CLAUDE, NOVA, OPUS_5_5 = (
    "us.anthropic.claude-sonnet-4-6",
    "us.amazon.nova-2-lite-v1:0",
    "us.anthropic.claude-opus-5-5",
)
INCIDENT = {
    "type": "object",
    "properties": {
        "service": {"type": "string", "maxLength": 40},
        "severity": {"enum": ["sev1", "sev2"]},
        "minutes": {"type": "integer"},
    },
    "required": ["service", "severity", "minutes"],
}
GOOD = {"service": "checkout", "severity": "sev1", "minutes": 47}
ENOUGH = "Remove outputConfig and try again."
# The service's own words, and the rung that they lead to.
REFUSALS = {
    f"This model doesn't support the outputConfig field. {ENOUGH}": "tool",
    "The model returned the following errors: output_config.format: Extra inputs are not permitted": "tool",
    "The model returned the following errors: output_config: Extra inputs are not permitted": "tool",
    "Schema is too complex.": "tool",
    "Schema is too complex for compilation.": "tool",
    "compilation exceeded limits: Schema is too complex": "tool",
    "Grammar compilation timed out.": "tool",
    "The compiled grammar is too large, which would cause performance issues. Simplify your tool schemas.": "tool",
}
LASTING = list(REFUSALS)[:3]
FORCED = (
    'The model returned the following errors: tool_choice: type "tool" and "any" are not supported for this model.'
)
THINKING = "The model returned the following errors: Thinking may not be enabled when tool_choice forces tool use."
STREAMING = "This model doesn't support tool use in streaming mode."
STRICT = "The model returned the following errors: tools.0.custom.strict: Extra inputs are not permitted"


@pytest.fixture
def bedrock(endpoint):
    engine = Bedrock(region="us-east-1", endpoint_url=endpoint.url)
    yield engine
    engine.close()


@pytest.fixture
def ladder(bedrock):
    return Structured(bedrock)


def ask(model, schema=INCIDENT, prompt="Extract", **more):
    return request(prompt, model=model, schema=schema, **more)


def call(value, name="answer"):
    return {"toolUse": {"toolUseId": "tooluse_1", "name": name, "input": value}}


def refused(message):
    return failure(400, "ValidationException", message)


def rung(body):
    """The rung that a request stands on."""
    if "outputConfig" in body:
        return "native"
    return "tool" if "toolConfig" in body else "prompt"


def by_rung(endpoint, answers):
    """Let the endpoint answer by the rung that it is asked on; a text is a refusal."""

    def respond(body):
        told = answers[rung(body)]
        return refused(told) if isinstance(told, str) else told

    endpoint.respond = respond


def told(response):
    return response["ResponseMetadata"]["StructuredOutput"]


# ---- the rungs ------------------------------------------------------------------------------------------------


def test_a_model_with_structured_outputs_is_asked_natively_and_its_schema_is_fitted(endpoint, ladder):
    endpoint.script.append(answer(json.dumps(GOOD)))
    response = ladder.converse(**ask(CLAUDE))
    sent = json.loads(endpoint.requests[0].body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"])
    assert sent["additionalProperties"] is False
    assert "maxLength" not in sent["properties"]["service"]
    assert "40 characters" in sent["properties"]["service"]["description"]
    assert data(response, INCIDENT) == GOOD
    assert told(response) == {"Rung": "native", "Enforced": False, "Attempts": 1}  # not all of it: maxLength


def test_a_schema_that_the_model_takes_is_sent_as_it_was_written(endpoint, ladder):
    schema = {**INCIDENT, "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
    endpoint.script.append(answer('{"a": "b"}'))
    asked = ask(CLAUDE, schema)
    response = ladder.converse(**asked)
    assert endpoint.requests[0].body["outputConfig"] == asked["outputConfig"]
    assert told(response) == {"Rung": "native", "Enforced": True, "Attempts": 1}


def test_a_model_without_them_is_made_to_call_a_tool(endpoint, ladder, caplog):
    endpoint.script.append(answer(call(GOOD), stop="tool_use"))
    response = ladder.converse(**ask(NOVA))
    body = endpoint.requests[0].body
    assert rung(body) == "tool"
    assert body["toolConfig"]["toolChoice"] == {"tool": {"name": "answer"}}
    assert body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"] == INCIDENT
    assert "strict" not in body["toolConfig"]["tools"][0]["toolSpec"]
    assert valid("Converse", response)
    assert response["stopReason"] == "end_turn"
    assert data(response, INCIDENT) == GOOD
    assert told(response) == {"Rung": "tool", "Enforced": False, "Attempts": 1}
    assert "checked, not enforced" in caplog.text


def test_a_model_that_takes_neither_is_asked_in_words(endpoint, ladder):
    endpoint.script.append(answer("Here you are:\n```json\n" + json.dumps(GOOD, indent=1) + "\n```\nAnything else?"))
    response = ladder.converse(**ask(OPUS_5_5, system="Be brief."))
    body = endpoint.requests[0].body
    assert rung(body) == "prompt"
    assert json.dumps(INCIDENT) in body["messages"][-1]["content"][-1]["text"]
    assert json.loads(text(response)) == GOOD
    assert told(response)["Rung"] == "prompt"


@pytest.mark.parametrize("words", REFUSALS)
def test_a_refusal_leads_one_rung_down_and_nothing_is_sent_twice(endpoint, ladder, words):
    by_rung(endpoint, {"native": words, "tool": answer(call(GOOD), stop="tool_use")})
    response = ladder.converse(**ask(CLAUDE))
    assert [rung(each.body) for each in endpoint.requests] == ["native", REFUSALS[words]]
    assert data(response, INCIDENT) == GOOD


@pytest.mark.parametrize("words", REFUSALS)
def test_what_is_so_for_the_model_is_remembered_and_what_is_so_for_the_schema_is_not(endpoint, bedrock, words):
    by_rung(endpoint, {"native": words, "tool": answer(call(GOOD), stop="tool_use")})
    Structured(bedrock, scope="us-east-1").converse(**ask(CLAUDE))
    del endpoint.requests[:]
    Structured(bedrock, scope="us-east-1").converse(**ask(CLAUDE))
    known = ["tool"] if words in LASTING else ["native", "tool"]
    assert [rung(each.body) for each in endpoint.requests] == known


def test_what_was_learned_holds_for_the_scope_and_until_it_is_to_be_learned_again(endpoint, bedrock):
    by_rung(endpoint, {"native": LASTING[0], "tool": answer(call(GOOD), stop="tool_use")})
    Structured(bedrock, scope="us-east-1").converse(**ask(CLAUDE))
    del endpoint.requests[:]
    Structured(bedrock, scope="eu-west-1").converse(**ask(CLAUDE))
    assert rung(endpoint.requests[0].body) == "native"
    del endpoint.requests[:]
    endpoint.respond = lambda _: answer(json.dumps(GOOD))
    Structured(bedrock, scope="us-east-1", relearn=True).converse(**ask(CLAUDE))
    Structured(bedrock, scope="us-east-1").converse(**ask(CLAUDE))
    assert [rung(each.body) for each in endpoint.requests] == ["native", "native"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_refuses_forced_tools_is_asked_in_words(endpoint, ladder, stream):
    by_rung(endpoint, {"native": LASTING[1], "tool": FORCED, "prompt": answer(json.dumps(GOOD))})
    response = collect(ladder.converse_stream(**ask(CLAUDE))["stream"]) if stream else ladder.converse(**ask(CLAUDE))
    assert [rung(each.body) for each in endpoint.requests] == ["native", "tool", "prompt"]
    assert data(response, INCIDENT) == GOOD


def test_a_model_that_only_takes_any_is_forced_that_way(endpoint, ladder):
    field = "toolConfig.toolChoice.tool"
    words = refused(f"This model doesn't support the {field} field. Remove {field} and try again.")
    endpoint.script.extend([words, answer(call(GOOD), stop="tool_use")])
    ladder.converse(**ask(NOVA))
    choices = [each.body["toolConfig"]["toolChoice"] for each in endpoint.requests]
    assert choices == [{"tool": {"name": "answer"}}, {"any": {}}]


def test_thinking_is_turned_off_for_a_forced_tool_where_the_model_thinks_unasked(endpoint, ladder):
    endpoint.script.append(answer(call(GOOD), stop="tool_use"))
    ladder.converse(**ask("global.anthropic.claude-sonnet-5"))
    assert endpoint.requests[0].body["additionalModelRequestFields"] == {"thinking": {"type": "disabled"}}


def test_thinking_that_was_asked_for_is_kept_and_the_rung_given_up(endpoint, ladder):
    thinking = {"thinking": {"type": "adaptive"}}
    by_rung(endpoint, {"tool": THINKING, "prompt": answer(json.dumps(GOOD))})
    ladder.converse(**ask("global.anthropic.claude-sonnet-5", fields=thinking))
    assert all(each.body["additionalModelRequestFields"] == thinking for each in endpoint.requests)
    assert rung(endpoint.requests[-1].body) == "prompt"


def test_any_other_refusal_is_told_and_not_climbed_around(endpoint, ladder):
    endpoint.script.append(refused("The maximum tokens you requested exceeds the model limit of 10000."))
    with pytest.raises(ClientError, match="maximum tokens"):
        ladder.converse(**ask(CLAUDE))
    assert len(endpoint.requests) == 1


def test_a_refusal_that_no_rung_helps_against_ends(endpoint, ladder):
    endpoint.respond = lambda _: refused("This model doesn't support tool use.")
    with pytest.raises(ClientError, match="doesn't support tool use"):
        ladder.converse(**ask(NOVA))
    assert [rung(each.body) for each in endpoint.requests] == ["tool", "prompt"]


# ---- the answers ----------------------------------------------------------------------------------------------


def test_an_array_travels_in_an_object_and_references_find_their_targets(endpoint, ladder):
    schema = {
        "type": "array",
        "items": {"$ref": "#/$defs/row"},
        "$defs": {"row": {"type": "object", "properties": {"more": {"$ref": "#"}}}},
    }
    endpoint.script.append(answer(call({"answer": [{"more": []}]}), stop="tool_use"))
    response = ladder.converse(**ask(NOVA, schema))
    sent = endpoint.requests[0].body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]
    inner = sent["properties"]["answer"]
    assert inner["items"] == {"$ref": "#/properties/answer/$defs/row"}
    assert inner["$defs"]["row"]["properties"]["more"] == {"$ref": "#/properties/answer"}
    assert data(response, schema) == [{"more": []}]


@pytest.mark.parametrize(
    "written",
    [
        json.dumps(GOOD) + "\n" * 300,
        "Sure! " + json.dumps(GOOD),
        "{" + json.dumps(GOOD) + "}",
        json.dumps({**GOOD, "severity": "SEV1"}),
    ],
    ids=["trailing white space", "prose", "doubled braces", "another case"],
)
def test_what_models_do_to_json_is_undone(endpoint, ladder, written):
    endpoint.script.append(answer(written))
    assert data(ladder.converse(**ask(OPUS_5_5)), INCIDENT) == GOOD


def test_reasoning_before_the_answer_is_kept_and_not_taken_for_it(endpoint, ladder):
    thought = {"reasoningContent": {"reasoningText": {"text": 'perhaps {"service": "x"}', "signature": "c2ln"}}}
    endpoint.script.append(answer(thought, json.dumps(GOOD)))
    response = ladder.converse(**ask(CLAUDE))
    assert data(response, INCIDENT) == GOOD
    assert response["output"]["message"]["content"][0] == thought


def test_an_answer_in_text_beside_the_tool_is_read_too(endpoint, ladder):
    endpoint.script.append(answer("I could not call it: " + json.dumps(GOOD)))
    assert data(ladder.converse(**ask(NOVA)), INCIDENT) == GOOD


@pytest.mark.parametrize("bad", [{}, {**GOOD, "minutes": "47"}, {**GOOD, "service": "x" * 41}])
def test_a_wrong_answer_is_asked_for_again_with_the_reason_and_at_what_cost(endpoint, ladder, caplog, bad):
    endpoint.script.extend([answer(call(bad), stop="tool_use"), answer(call(GOOD), stop="tool_use")])
    response = ladder.converse(**ask(NOVA))
    assert data(response, INCIDENT) == GOOD
    assert told(response)["Attempts"] == 2
    assert response["usage"]["totalTokens"] == 24
    assert "asking again" in caplog.text
    assert "tokens: 12" in caplog.text
    again = endpoint.requests[1].body["messages"]
    assert [turn["role"] for turn in again] == ["user", "assistant", "user"]
    assert json.loads(again[1]["content"][0]["text"]) == bad
    assert "$" in again[2]["content"][0]["text"]


def test_answers_that_stay_wrong_end_in_an_error_that_names_the_place(endpoint, ladder):
    endpoint.respond = lambda _: answer(call({**GOOD, "minutes": "47"}), stop="tool_use")
    response = ladder.converse(**ask(NOVA))
    assert len(endpoint.requests) == 3
    assert response["stopReason"] == "malformed_model_output"
    with pytest.raises(InvalidAnswer, match=r"\$\.minutes"):
        data(response, INCIDENT)


def test_a_malformed_call_is_asked_for_in_words(endpoint, ladder):
    endpoint.script.append(answer("<__function=answer>...", stop="malformed_tool_use"))
    endpoint.script.append(answer(json.dumps(GOOD)))
    response = ladder.converse(**ask(NOVA))
    assert [rung(each.body) for each in endpoint.requests] == ["tool", "prompt"]
    assert data(response, INCIDENT) == GOOD


def test_an_answer_that_was_cut_off_is_not_asked_for_again(endpoint, ladder):
    endpoint.script.append(answer(call({"service": "che"}), stop="max_tokens"))
    with pytest.raises(InvalidAnswer, match="cut off") as cut:
        data(ladder.converse(**ask(NOVA)), INCIDENT)
    assert "--max-tokens" in cut.value.fix
    assert len(endpoint.requests) == 1


def test_many_optional_properties_become_nullable_and_their_nulls_are_taken_out_again(endpoint, ladder):
    names = [f"p{number}" for number in range(30)]
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    value = dict.fromkeys(names[:20], "x") | dict.fromkeys(names[20:])
    endpoint.respond = lambda _: answer(json.dumps(value))
    expected = dict.fromkeys(names[:20], "x")
    assert data(ladder.converse(**ask(CLAUDE, schema)), schema) == expected
    assert data(collect(ladder.converse_stream(**ask(CLAUDE, schema))["stream"]), schema) == expected


# ---- guarantees -----------------------------------------------------------------------------------------------


def test_enforced_refuses_models_without_a_grammar_before_anything_is_sent(endpoint, bedrock):
    ladder = Structured(bedrock, "enforced", names={"claude": CLAUDE, "nova": NOVA, "local": "local"})
    with pytest.raises(NotEnforced, match="No grammar holds us") as refusal:
        ladder.converse(**ask(NOVA))
    assert refusal.value.exit_code == 8
    assert "claude, local" in refusal.value.fix
    assert not endpoint.requests


def test_enforced_refuses_constraints_that_would_only_be_checked(endpoint, bedrock):
    with pytest.raises(NotEnforced, match=r"\$\.properties\.service\.maxLength"):
        Structured(bedrock, "enforced").converse(**ask(CLAUDE))
    assert not endpoint.requests


def test_enforced_never_goes_below_a_grammar(endpoint, bedrock):
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    by_rung(endpoint, {"native": LASTING[0], "tool": STRICT})
    with pytest.raises(NotEnforced, match=r"The model refused: .*strict"):
        Structured(bedrock, "enforced").converse(**ask(CLAUDE, schema))
    assert [rung(each.body) for each in endpoint.requests] == ["native", "tool"]
    assert endpoint.requests[1].body["toolConfig"]["tools"][0]["toolSpec"]["strict"] is True


def test_a_strict_tool_is_a_grammar_too_where_the_model_takes_it(endpoint, bedrock):
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    by_rung(endpoint, {"native": LASTING[0], "tool": answer(call({}), stop="tool_use")})
    response = Structured(bedrock, "enforced").converse(**ask(CLAUDE, schema))
    assert told(response) == {"Rung": "tool", "Enforced": True, "Attempts": 1}


def test_any_takes_what_is_json_and_says_what_is_wrong_with_it(endpoint, bedrock, caplog):
    bad = {**GOOD, "minutes": "47"}
    endpoint.script.append(answer(call(bad), stop="tool_use"))
    response = Structured(bedrock, "any").converse(**ask(NOVA))
    assert json.loads(text(response)) == bad
    assert "$.minutes" in told(response)["Violation"]
    assert "$.minutes" in caplog.text
    assert len(endpoint.requests) == 1


def test_a_schema_that_cannot_be_fitted_goes_down_a_rung_or_is_refused(endpoint, bedrock, caplog):
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}}, "additionalProperties": False}
    endpoint.script.append(answer(call({"left": {}}), stop="tool_use"))
    response = Structured(bedrock).converse(**ask(CLAUDE, tree))
    assert data(response, tree) == {"left": {}}
    assert [rung(each.body) for each in endpoint.requests] == ["tool"]
    assert "cannot be held" in caplog.text
    with pytest.raises(Unfixable):
        Structured(bedrock, "enforced").converse(**ask(CLAUDE, tree))


def test_an_unknown_guarantee_names_those_there_are(bedrock):
    with pytest.raises(ValueError, match="maybe") as unknown:
        Structured(bedrock, "maybe")
    assert "enforced, validated, any" in unknown.value.fix


# ---- streams --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [CLAUDE, NOVA, OPUS_5_5])
@pytest.mark.parametrize("schema", [INCIDENT, {"type": "array", "items": INCIDENT}], ids=["object", "array"])
def test_json_is_streamed_on_every_rung_as_it_is_written(endpoint, ladder, model, schema):
    value = GOOD if schema is INCIDENT else [GOOD, GOOD]
    wrapped = value if schema is INCIDENT else {"answer": value}
    thought = {"reasoningContent": {"reasoningText": {"text": "Hm, {}.", "signature": "c2ln"}}}
    by_rung(
        endpoint,
        {
            "native": answer(thought, json.dumps(value)),
            "tool": answer(thought, "Let me see.", call(wrapped), stop="tool_use"),
            "prompt": answer(thought, f"Here:\n```\n{json.dumps(wrapped)}\n```"),
        },
    )
    response = ladder.converse_stream(**ask(model, schema))
    events = list(response["stream"])
    assert all(valid_event(event) for event in events)
    pieces = [event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event]
    assert len([piece for piece in pieces if "text" in piece]) > 4
    whole = collect(events)
    assert data(whole, schema) == value
    assert whole["stopReason"] == "end_turn"
    assert whole["output"]["message"]["content"][0] == thought
    assert told(response)["Rung"] == capabilities.plan(model).rung
    places = [next(iter(event)) for event in events]
    assert places.count("contentBlockStop") == len(whole["output"]["message"]["content"]) == 2


def test_a_stream_without_a_call_gives_the_text_that_came_instead(endpoint, ladder):
    endpoint.script.append(answer("I will not call it. " + json.dumps(GOOD)))
    assert data(collect(ladder.converse_stream(**ask(NOVA))["stream"]), INCIDENT) == GOOD


def test_a_model_that_cannot_stream_tools_answers_in_one_piece(endpoint, ladder, caplog):
    def respond(body):
        if rung(body) == "tool" and endpoint.requests[-1].path.endswith("stream"):
            return refused(STREAMING)
        return answer(call(GOOD), stop="tool_use")

    endpoint.respond = respond
    response = ladder.converse_stream(**ask(NOVA))
    assert data(collect(response["stream"]), INCIDENT) == GOOD
    assert [each.path.rpartition("/")[2] for each in endpoint.requests] == ["converse-stream", "converse"]
    assert "one piece" in caplog.text


def test_a_model_lost_in_white_space_is_stopped(endpoint, ladder):
    endpoint.respond = lambda _: answer(json.dumps(GOOD) + " " * 5_000)
    taken = list(ladder.converse_stream(**ask(CLAUDE))["stream"])
    assert len(taken) < 200
    assert taken[-1] == {"messageStop": {"stopReason": "end_turn"}}
    endpoint.respond = lambda _: answer('{"service": ' + " " * 5_000)
    *_, last = ladder.converse_stream(**ask(CLAUDE))["stream"]
    assert last == {"messageStop": {"stopReason": "malformed_model_output"}}


def test_closing_an_unread_stream_closes_the_one_below(endpoint, ladder):
    stream = ladder.converse_stream(**ask(NOVA))["stream"]
    stream.close()
    assert list(stream) == []


# ---- tools of the caller ---------------------------------------------------------------------------------------


def tool(name="report", **more):
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}, "required": ["n"]}
    return {"toolSpec": {"name": name, "inputSchema": {"json": schema}, **more}}


def test_strict_tools_are_fitted_where_the_model_takes_them_and_loosened_where_not(endpoint, ladder, caplog):
    endpoint.respond = lambda _: answer("Hello")
    asked = {**request("Hi", model=CLAUDE), "toolConfig": {"tools": [tool(strict=True), tool("other")]}}
    ladder.converse(**asked)
    strict, other = (each["toolSpec"] for each in endpoint.requests[0].body["toolConfig"]["tools"])
    assert strict["strict"] is True
    assert strict["inputSchema"]["json"]["additionalProperties"] is False
    assert other == tool("other")["toolSpec"]
    ladder.converse(**{**asked, "modelId": NOVA})
    assert endpoint.requests[1].body["toolConfig"]["tools"][0] == tool()
    assert "report is not enforced" in caplog.text


def test_more_strict_tools_than_a_request_may_have_are_loosened_before_they_are_sent(endpoint, ladder, caplog):
    endpoint.respond = lambda _: answer("Hello")
    tools = [tool(f"tool_{number}", strict=True) for number in range(21)]
    ladder.converse(**request("Hi", model=CLAUDE), toolConfig={"tools": tools})
    assert "strict" not in str(endpoint.requests[0].body)
    assert "20" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_refuses_strict_is_asked_without_it(endpoint, ladder, stream):
    endpoint.respond = lambda body: refused(STRICT) if "strict" in str(body["toolConfig"]) else answer("Hello")
    asked = {**request("Hi", model=CLAUDE), "toolConfig": {"tools": [tool(strict=True)]}}
    if stream:
        assert text(collect(ladder.converse_stream(**asked)["stream"])) == "Hello"
    else:
        assert text(ladder.converse(**asked)) == "Hello"
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_and_tools_leave_the_model_the_choice(endpoint, ladder, stream):
    def ask_both():
        asked = {**ask(NOVA), "toolConfig": {"tools": [tool()]}}
        return collect(ladder.converse_stream(**asked)["stream"]) if stream else ladder.converse(**asked)

    endpoint.script.append(answer("Let me report.", call({"n": 1}, "report"), stop="tool_use"))
    called = ask_both()
    assert called["stopReason"] == "tool_use"
    assert text(called) == "Let me report."
    assert called["output"]["message"]["content"][1]["toolUse"]["input"] == {"n": 1}
    assert endpoint.requests[0].body["toolConfig"]["toolChoice"] == {"any": {}}
    endpoint.script.append(answer(call(GOOD), stop="tool_use"))
    assert data(ask_both(), INCIDENT) == GOOD


# ---- what is known ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "rung", "enforced"),
    [
        ("us.amazon.nova-2-lite-v1:0", "tool", False),
        ("amazon.nova-pro-v1:0", "tool", False),
        ("global.anthropic.claude-haiku-4-5-20251001-v1:0", "native", True),
        ("anthropic.claude-opus-4-7", "tool", False),
        ("eu.anthropic.claude-opus-5-5", "prompt", False),
        ("arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-6", "native", True),
        ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3", "native", True),
        ("us.meta.llama4-scout-17b-instruct-v1:0", "tool", False),
        ("deepseek.v3.2", "native", True),
        ("us.deepseek.r1-v1:0", "prompt", False),
        ("qwen.qwen3-32b-v1:0", "native", True),
        ("google.gemma-3-4b-it", "tool", False),
        ("google.gemma-3-27b-it", "native", True),
        ("local:qwen", "native", True),
        ("echo", "native", False),
    ],
)
def test_where_a_model_starts_is_known_by_its_id(model_id, rung, enforced):
    plan = capabilities.plan(model_id)
    assert (plan.rung, plan.enforced) == (rung, enforced)


def test_every_alias_has_a_rung_of_its_own():
    from bx.catalogue import Catalogue

    assert set(capabilities.enforcing(Catalogue().ids())) == {
        "claude", "deepseek", "gpt-oss", "haiku", "local", "mistral", "opus", "opus-4-5", "qwen", "sonnet-4-5",
    }  # fmt: skip


def test_waiting_for_a_grammar_is_explained(endpoint, ladder, caplog, monkeypatch):
    from scripted import late

    monkeypatch.setattr("bx.structured._PATIENCE", 0.2)
    endpoint.script.append(late(0.6))
    with caplog.at_level(logging.WARNING):
        ladder.converse(**ask(CLAUDE, {"type": "object", "properties": {"a": {}}}, prompt='{"a": 1}'))
    assert "minutes to prepare a schema" in caplog.text


def test_the_first_request_can_be_looked_at_without_sending_it(endpoint, ladder):
    assert rung(ladder.first(ask(NOVA))) == "tool"
    assert rung(ladder.first(ask(CLAUDE))) == "native"
    assert not endpoint.requests


def test_refusals_are_read_by_the_rung_that_they_are_about():
    plans = [
        capabilities.Plan(rung=rung, strict=strict, choice=choice)
        for rung, strict, choice in itertools.product(("native", "tool", "prompt"), (True, False), ("tool", "any"))
    ]
    for words, plan in itertools.product([*REFUSALS, FORCED, THINKING, STREAMING, STRICT], plans):
        found = capabilities.after(plan, words)
        assert found is None or found[0] != plan, (words, plan)


# ---- what must not go wrong ------------------------------------------------------------------------------------

TOOL_USE = "This model doesn't support tool use."
CALLERS_MISTAKE = "The toolConfig field must be defined when using toolUse and toolResult content blocks."
BAD_SCHEMA = (
    "The model returned the following errors: output_config.format.schema: For 'object' type, x is not supported"
)


def both(ladder, asked):
    """The answer whole, and folded from its stream."""
    return [ladder.converse(**asked), collect(ladder.converse_stream(**asked)["stream"])]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("words", [TOOL_USE, THINKING, CALLERS_MISTAKE])
def test_without_a_schema_nothing_is_sent_twice_nor_remembered(endpoint, ladder, words, stream):
    endpoint.respond = lambda _: refused(words)
    asked = {**request("Hi", model=NOVA), "toolConfig": {"tools": [tool()]}}
    with pytest.raises(ClientError, match=words[:30]):
        (ladder.converse_stream if stream else ladder.converse)(**asked)
    assert len(endpoint.requests) == 1
    assert rung(ladder.first(ask(NOVA))) == "tool"


def test_a_mistake_of_the_caller_or_of_a_schema_says_nothing_about_the_model(endpoint, ladder):
    endpoint.respond = lambda _: refused(CALLERS_MISTAKE)
    with pytest.raises(ClientError):
        ladder.converse(**ask(NOVA))
    assert len(endpoint.requests) == 1
    by_rung(endpoint, {"native": BAD_SCHEMA, "tool": answer(call(GOOD), stop="tool_use")})
    ladder.converse(**ask(CLAUDE))
    assert rung(ladder.first(ask(CLAUDE))) == "native"


def test_tools_that_cannot_be_streamed_come_in_one_piece_on_any_model(endpoint, ladder):
    def respond(_):
        if endpoint.requests[-1].path.endswith("stream"):
            return refused(STREAMING)
        return answer("Let me see.", call({"n": 1}, "report"), stop="tool_use")

    endpoint.respond = respond
    asked = {**request("Hi", model=CLAUDE), "toolConfig": {"tools": [tool()]}}
    response = ladder.converse_stream(**asked)
    assert response.keys() == {"ResponseMetadata", "stream"}
    events = list(response["stream"])
    assert all(valid_event(event) for event in events)
    whole = collect(events)
    assert (text(whole), whole["stopReason"]) == ("Let me see.", "tool_use")


def test_a_refusal_that_comes_as_the_first_event_is_read_too(endpoint, ladder):
    from scripted import broken, exception

    endpoint.script.append(broken(0, exception("validationException", "Schema is too complex.")))
    endpoint.script.append(answer(call(GOOD), stop="tool_use"))
    assert data(collect(ladder.converse_stream(**ask(CLAUDE))["stream"]), INCIDENT) == GOOD
    assert [rung(each.body) for each in endpoint.requests] == ["native", "tool"]


def test_a_network_that_fails_is_told_as_it_is(endpoint, ladder):
    from botocore.exceptions import HTTPClientError

    from scripted import CLOSED

    endpoint.script.append(CLOSED)
    with pytest.raises(HTTPClientError):
        ladder.converse(**ask(CLAUDE))


@pytest.mark.parametrize(
    "case",
    [
        (OPUS_5_5, {"type": "array"}, ["[1, 2]"], [1, 2]),
        (OPUS_5_5, {"type": "array"}, ["Here:\n```json\n[1, 2]\n```"], [1, 2]),
        (NOVA, {"type": "array"}, ["I will not call it: [1, 2]"], [1, 2]),
        (CLAUDE, INCIDENT, ["```json\n" + json.dumps(GOOD) + "\n```"], GOOD),
        (CLAUDE, INCIDENT, ["{" + json.dumps(GOOD) + "}"], GOOD),
        (CLAUDE, {"type": "object"}, [json.dumps({"a": " " * 700})], {"a": " " * 700}),
        (NOVA, INCIDENT, [call(GOOD), call({"service": "other"})], GOOD),
        (NOVA, INCIDENT, [call(GOOD), call({"n": 1}, "report")], GOOD),
    ],
)
def test_whole_or_streamed_the_same_answer_is_understood(endpoint, ladder, case):
    model, schema, content, value = case
    endpoint.respond = lambda _: answer(*content, stop="tool_use" if "toolUse" in content[-1] else "end_turn")
    for response in both(ladder, ask(model, schema)):
        assert response["stopReason"] == "end_turn"
        assert data(response, schema) == value


def test_a_list_that_was_written_as_a_text_is_read_where_it_can_be(endpoint, ladder):
    endpoint.script.append(answer(call({"answer": "[1]"}), stop="tool_use"))
    assert data(ladder.converse(**ask(NOVA, {"type": "array"})), {"type": "array"}) == [1]
    endpoint.script.append(answer(call({"answer": "[1]"}), stop="tool_use"))
    assert data(ladder.converse(**ask(NOVA, {"type": "string"})), {"type": "string"}) == "[1]"


def test_text_that_is_no_json_is_not_lost_in_a_stream(endpoint, ladder):
    endpoint.respond = lambda _: answer("I cannot do that.")
    for model in (CLAUDE, NOVA, OPUS_5_5):
        assert text(collect(ladder.converse_stream(**ask(model))["stream"])) == "I cannot do that."


def test_another_tool_is_called_after_prose_on_every_rung(endpoint, ladder):
    endpoint.respond = lambda _: answer("Let me look.", call({"n": 1}, "report"), stop="tool_use")
    for model in (CLAUDE, NOVA, OPUS_5_5):
        for response in both(ladder, {**ask(model), "toolConfig": {"tools": [tool()]}}):
            assert response["stopReason"] == "tool_use", model
            assert text(response) == "Let me look."
            assert [block for block in response["output"]["message"]["content"] if "toolUse" in block]


def test_a_whole_document_before_endless_white_space_is_an_answer(endpoint, ladder):
    endpoint.script.append(answer(json.dumps(GOOD) + "\n" * 300, stop="max_tokens"))
    assert data(ladder.converse(**ask(CLAUDE)), INCIDENT) == GOOD


def test_a_call_that_nobody_asked_for_is_no_answer(endpoint, ladder):
    endpoint.respond = lambda _: answer(call({"service": 1}), stop="tool_use")
    with pytest.raises(InvalidAnswer):
        data(ladder.converse(**ask(CLAUDE)), INCIDENT)


def test_relearning_forgets_once_and_looking_forgets_nothing(endpoint, bedrock):
    by_rung(endpoint, {"native": LASTING[0], "tool": answer(call(GOOD), stop="tool_use")})
    Structured(bedrock).converse(**ask(CLAUDE))
    again = Structured(bedrock, relearn=True)
    assert rung(again.first(ask(CLAUDE))) == "native"
    assert rung(Structured(bedrock).first(ask(CLAUDE))) == "tool"
    endpoint.requests.clear()
    again.converse(**ask(CLAUDE))
    again.converse(**ask(CLAUDE))
    assert [rung(each.body) for each in endpoint.requests] == ["native", "tool", "tool"]


@pytest.mark.parametrize("model", [CLAUDE, NOVA, OPUS_5_5])
@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": None},
        {"messages": "Hi"},
        {"messages": ["Hi"]},
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [{"content": [{"text": "Hi"}]}]},
        {"toolConfig": "x"},
        {"toolConfig": None},
        {"toolConfig": {"tools": 5}},
        {"toolConfig": {"tools": [{"toolSpec": "x"}]}},
        {"toolConfig": {"tools": [{"toolSpec": {"name": "a", "strict": True}}]}},
        {"outputConfig": "x"},
        {"outputConfig": None},
        {"additionalModelRequestFields": "x", "outputConfig": 1},
    ],
)
def test_what_is_no_request_is_refused_by_the_engine_below(endpoint, ladder, model, wrong):
    from botocore.exceptions import ParamValidationError

    for method in (ladder.converse, ladder.converse_stream):
        with pytest.raises((ParamValidationError, ClientError)):
            method(**{**ask(model), **wrong})


def test_the_limits_are_those_of_the_schema_and_the_tools_together(endpoint, ladder, caplog):
    endpoint.respond = lambda _: answer(json.dumps({}))
    loose = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(20)}}
    big = {"toolSpec": {"name": "big", "inputSchema": {"json": loose}, "strict": True}}
    ladder.converse(**ask(CLAUDE, loose), toolConfig={"tools": [big]})
    sent = endpoint.requests[0].body
    assert rung(sent) == "native"
    assert "strict" not in sent["toolConfig"]["tools"][0]["toolSpec"]
    assert "24" in caplog.text


def test_a_strict_tool_with_constraints_that_are_only_checked_is_told_or_refused(endpoint, bedrock, caplog):
    endpoint.respond = lambda _: answer("Hello")
    asked = {**request("Hi", model=CLAUDE), "toolConfig": {"tools": [tool(strict=True)]}}
    Structured(bedrock).converse(**asked)
    assert "$.properties.n.minimum would be checked only" in caplog.text
    with pytest.raises(NotEnforced, match=r"\$\.properties\.n\.minimum"):
        Structured(bedrock, "enforced").converse(**asked)
