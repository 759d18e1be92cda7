"""The contract of an engine, over every engine there is; botocore's own service model is the oracle."""

from __future__ import annotations

import inspect
import threading
import time

import pytest
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from bx.catalogue import Catalogue, Named
from bx.converse import collect, data, request, text
from bx.engines import Router
from bx.engines.bedrock import Bedrock
from bx.engines.echo import Echo
from bx.instances import violation
from bx.structured import Structured
from bx.turns import Equipped
from scripted import answer, reply

SERVICE = ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"), "bedrock-runtime")
MODELLED = {shape.name for shape in SERVICE.operation_model("Converse").error_shapes}
# The orders in which events may come, as one letter each.
START, DELTA, STOP, END, METADATA = "messageStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"
INPUT = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOL = {"toolSpec": {"name": "get_weather", "description": "Tell the weather", "inputSchema": {"json": INPUT}}}


@pytest.fixture
def echo():
    return Echo(), "echo"


@pytest.fixture
def router():
    return Router(), "echo"


@pytest.fixture
def named():
    return Named(Router(), Catalogue({"mirror": {"id": "echo"}})), "mirror"


@pytest.fixture
def boto3_client(endpoint):
    import boto3

    client = boto3.client("bedrock-runtime", endpoint_url=endpoint.url)
    yield client, "amazon.nova-2-lite-v1:0"
    client.close()


@pytest.fixture
def bedrock(endpoint):
    engine = Bedrock(endpoint_url=endpoint.url)
    yield engine, "amazon.nova-2-lite-v1:0"
    engine.close()


@pytest.fixture
def structured(bedrock, private_home):
    engine, _ = bedrock
    return Structured(engine), "us.anthropic.claude-sonnet-4-6"


@pytest.fixture
def equipped(structured):
    engine, model = structured
    return Equipped(engine, []), model


@pytest.fixture
def local(loaded, local_weights):
    return loaded, "local"


@pytest.fixture(params=["echo", "router", "named", "boto3_client", "bedrock", "structured", "equipped", "local"])
def engine(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["echo", "router", "named", "layers", "local"])
def counting_engine(request):
    """An engine that counts tokens here, without a service."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def layers(private_home):
    return Structured(Named(Router(), Catalogue())), "echo"


@pytest.fixture(params=["echo", "router", "named", "bedrock", "structured", "equipped", "local"])
def own_engine(request):
    """An engine of bx, whose streams can be closed by any thread."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["boto3_client", "bedrock", "local"])
def tool_engine(request, endpoint):
    """An engine that calls a tool: a model here, a script where the models are elsewhere."""
    call = {
        "toolUse": {"toolUseId": "tooluse_1", "name": "get_weather", "input": {"city": "Rome", "unit": "celsius"}}
    }
    endpoint.respond = lambda _: answer(call, stop="tool_use")
    return request.getfixturevalue(request.param)


def valid(operation, value):
    """Whether a value has the output shape of an operation."""
    shape = SERVICE.operation_model(operation).output_shape
    plain = {name: part for name, part in value.items() if name != "ResponseMetadata"}
    report = ParamValidator().validate(plain, shape)
    assert not report.has_errors(), report.generate_report()
    return True


def valid_event(event):
    shape = SERVICE.operation_model("ConverseStream").output_shape.members["stream"]
    report = ParamValidator().validate(event, shape)
    assert not report.has_errors(), report.generate_report()
    return True


def ask(model, prompt="One, two, three.", **more):
    return request(prompt, model=model, **{"maxTokens": 24, "temperature": 0.0, **more})


def test_the_answer_has_the_shape_that_botocore_declares(engine):
    engine, model = engine
    response = engine.converse(**ask(model))
    assert valid("Converse", response)
    assert text(response)
    usage = response["usage"]
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"] > 0


def test_every_event_has_the_shape_that_botocore_declares_and_its_place(engine):
    engine, model = engine
    events = list(engine.converse_stream(**ask(model))["stream"])
    assert all(valid_event(event) for event in events)
    kinds = [next(iter(event)) for event in events]
    assert kinds[0] == START
    assert kinds[-3:] == [STOP, END, METADATA]
    assert set(kinds[1:-3]) == {DELTA}


def test_folding_the_stream_gives_the_answer(engine):
    engine, model = engine
    whole = engine.converse(**ask(model))
    folded = collect(engine.converse_stream(**ask(model))["stream"])
    for part in ("output", "stopReason", "usage"):
        assert folded[part] == whole[part]


def test_a_request_is_given_by_keyword_only(engine):
    engine, model = engine
    for method in (engine.converse, engine.converse_stream):
        with pytest.raises(TypeError):
            method(ask(model))


@pytest.mark.parametrize(
    ("wrong", "named_in_text"),
    [
        ({"messages": [{"role": "assistant", "content": [{"text": "hi"}]}]}, "user message"),
        ({"messages": [{"role": "user", "content": [{"text": "  "}]}]}, "blank"),
        ({"messages": [{"role": "user", "content": []}]}, "content"),
        ({"messages": [{"role": "wizard", "content": [{"text": "hi"}]}]}, "wizard"),
        ({"inferenceConfig": {"temperature": 1.5}}, "temperature"),
        ({"system": [{"text": " "}]}, "blank"),
        ({"toolConfig": {"tools": [TOOL], "toolChoice": {"tool": {"name": "no_such_tool"}}}}, "tool"),
        ({"additionalModelRequestFields": {"no_such_field": 1}}, "no_such_field"),
        ({"guardrailConfig": {"guardrailIdentifier": "a", "guardrailVersion": "1"}}, "guardrailConfig"),
        (
            {"messages": [{"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": b"x"}}}]}]},
            "image",
        ),
        (
            {
                "outputConfig": {
                    "textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": "no json"}}}
                }
            },
            "schema",
        ),
    ],
)
def test_bad_input_is_a_modelled_error_that_names_it(engine, wrong, named_in_text):
    engine, model = engine
    for method in (engine.converse, engine.converse_stream):
        with pytest.raises(ClientError) as refused:
            method(**{**ask(model), **wrong})
        assert refused.value.response["Error"]["Code"] == "ValidationException"
        assert refused.value.response["Error"]["Code"] in MODELLED
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
        assert named_in_text in refused.value.response["Error"]["Message"]


def test_a_limit_of_tokens_cuts_the_answer_off(engine):
    engine, model = engine
    response = engine.converse(**ask(model, "Count from one to ten in words.", maxTokens=2))
    assert response["stopReason"] == "max_tokens"
    assert response["usage"]["outputTokens"] == 2


def test_a_stop_sequence_ends_the_answer_and_is_no_part_of_it(engine):
    engine, model = engine
    whole = text(engine.converse(**ask(model)))
    stop = whole[len(whole) // 2 :][:3]
    response = engine.converse(**ask(model, stopSequences=[stop]))
    assert response["stopReason"] == "stop_sequence"
    assert text(response) == whole[: whole.index(stop)]


def test_a_conversation_of_several_turns_is_answered(engine):
    engine, model = engine
    turns = [("user", "Hello"), ("assistant", "Hello, what do you need?"), ("user", "Count to three")]
    messages = [{"role": role, "content": [{"text": words}]} for role, words in turns]
    response = engine.converse(**ask(model, messages, system="Be brief."))
    assert valid("Converse", response)
    assert response["output"]["message"]["role"] == "assistant"


def test_an_answer_held_to_a_schema_satisfies_it(engine):
    engine, model = engine
    schema = {
        "type": "object",
        "properties": {"level": {"enum": ["low", "high"]}},
        "required": ["level"],
        "additionalProperties": False,
    }
    response = engine.converse(**ask(model, '{"level": "high"}', schema=schema))
    assert data(response, schema)["level"] in ("low", "high")


def test_a_tool_is_called_in_one_piece_and_in_events(tool_engine):
    engine, model = tool_engine
    asked = {**ask(model, "How warm is it in Rome?", maxTokens=60), "toolConfig": {"tools": [TOOL]}}
    asked["toolConfig"]["toolChoice"] = {"tool": {"name": "get_weather"}}
    whole = engine.converse(**asked)
    events = list(engine.converse_stream(**asked)["stream"])
    assert all(valid_event(event) for event in events)
    assert next(iter(events[1])) == "contentBlockStart"
    folded = collect(events)
    for response in (whole, folded):
        assert valid("Converse", response)
        assert response["stopReason"] == "tool_use"
        ((kind, call),) = response["output"]["message"]["content"][0].items()
        assert (kind, call["name"]) == ("toolUse", "get_weather")
        assert violation(call["input"], INPUT) is None
    fragments = [event[DELTA]["delta"]["toolUse"]["input"] for event in events if DELTA in event]
    assert len(fragments) > 1


def test_a_tools_result_goes_back_in_the_next_turn(tool_engine, endpoint):
    engine, model = tool_engine
    endpoint.respond = lambda request: answer(
        request["messages"][2]["content"][0]["toolResult"]["content"][0]["text"]
    )
    call = {
        "toolUse": {"toolUseId": "tooluse_1", "name": "get_weather", "input": {"city": "Rome", "unit": "celsius"}}
    }
    result = {"toolResult": {"toolUseId": "tooluse_1", "content": [{"text": "18 degrees"}], "status": "success"}}
    turns = [("user", {"text": "How warm is it in Rome?"}), ("assistant", call), ("user", result)]
    messages = [{"role": role, "content": [block]} for role, block in turns]
    response = engine.converse(**ask(model, messages), toolConfig={"tools": [TOOL]})
    assert valid("Converse", response)
    assert text(response)


def test_a_closed_stream_frees_the_engine_for_the_next_request(engine):
    engine, model = engine
    unread = engine.converse_stream(**ask(model, maxTokens=500))["stream"]
    unread.close()
    begun = engine.converse_stream(**ask(model, maxTokens=500))["stream"]
    next(iter(begun))
    begun.close()
    assert text(engine.converse(**ask(model)))


def test_a_stream_is_closed_by_another_thread_at_any_moment(own_engine):
    engine, model = own_engine
    for wait in (0, 0.0003, 0.001, 0.01, 0.05):
        stream = engine.converse_stream(**ask(model, "One, two, three. " * 100, maxTokens=500))["stream"]
        outcome = []

        def read(stream=stream, outcome=outcome):
            try:
                outcome.extend(stream)
            except ClientError as broken:
                outcome.append(broken)

        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(wait)
        stream.close()
        reader.join(3)
        assert not reader.is_alive()
        stream.close()
    assert text(engine.converse(**ask(model)))


def test_threads_share_one_engine(engine):
    engine, model = engine
    answers = {}

    def work(number):
        answers[number] = engine.converse(**ask(model, f"Say {number}."))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == list(range(6))
    assert all(valid("Converse", answer) for answer in answers.values())


class TwoMethods:
    """An engine that has what an engine must have, and no more."""

    def __init__(self):
        self._echo = Echo()

    def converse(self, **request):
        return self._echo.converse(**request)

    def converse_stream(self, **request):
        return self._echo.converse_stream(**request)


def count(engine, asked):
    """Count the tokens of a Converse request."""
    kept = ("messages", "system", "toolConfig", "additionalModelRequestFields")
    given = {name: part for name, part in asked.items() if name in kept}
    return engine.count_tokens(modelId=asked["modelId"], input={"converse": given})


TURNS = [
    {"role": "user", "content": [{"text": "Hello"}, {"text": "there"}]},
    {"role": "assistant", "content": [{"text": "Hello, what do you need?"}]},
    {"role": "user", "content": [{"text": "Count to three"}]},
]


@pytest.mark.parametrize(
    ("prompt", "more"),
    [
        ("a", {}),
        ("One, two,  three.\n", {}),
        ("word " * 300, {}),
        ("Hello", {"system": "Be brief, and kind."}),
        (TURNS, {}),
        (TURNS[:2], {}),
    ],
    ids=["a letter", "words", "many words", "system", "turns", "a turn to go on with"],
)
def test_the_tokens_that_are_counted_are_those_that_the_answer_tells(counting_engine, prompt, more):
    engine, model = counting_engine
    asked = ask(model, prompt, maxTokens=1, **more)
    counted = count(engine, asked)
    assert valid("CountTokens", counted)
    assert counted == {"inputTokens": engine.converse(**asked)["usage"]["inputTokens"]}


def test_the_service_counts_what_is_elsewhere(endpoint):
    endpoint.script.append(reply(body=b'{"inputTokens": 7}'))
    engine = Structured(Named(Router({"endpoint_url": endpoint.url}), Catalogue()))
    counted = count(engine, ask("nova", "Hello", system="Be brief."))
    assert valid("CountTokens", counted)
    assert counted["inputTokens"] == 7
    ((path, model, _, body, _),) = endpoint.requests
    assert path.endswith("/count-tokens")
    assert model == "amazon.nova-2-lite-v1:0", "the base id: a profile's is none that CountTokens takes"
    said = {"messages": [{"role": "user", "content": [{"text": "Hello"}]}], "system": [{"text": "Be brief."}]}
    assert body == {"input": {"converse": said}}
    engine.close()


def test_an_engine_that_cannot_count_says_so():
    for engine in (Named(TwoMethods(), Catalogue()), Structured(TwoMethods())):
        with pytest.raises(
            ClientError, match=r"CountTokens operation: .* doesn't support counting tokens"
        ) as refused:
            count(engine, ask("echo"))
        assert refused.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "exactly one"),
        ({"input": None}, "exactly one"),
        ({"input": {}}, "exactly one"),
        ({"input": {"converse": {}, "invokeModel": {}}}, "exactly one"),
        ({"input": {"invokeModel": {"body": b"{}"}}}, "input.converse"),
        ({"input": {"converse": None}}, "input.converse"),
        ({"input": {"converse": {"inferenceConfig": {}}}}, "inferenceConfig"),
        ({"input": {"converse": {}}}, "user message"),
        ({"input": {"converse": {"messages": [{"role": "user", "content": [{"text": " "}]}]}}}, "blank"),
        ({"input": {"converse": {"messages": TURNS}}, "messages": TURNS}, "messages"),
    ],
)
def test_what_cannot_be_counted_is_a_modelled_error(counting_engine, given, says):
    engine, model = counting_engine
    with pytest.raises(ClientError, match=says) as refused:
        engine.count_tokens(modelId=model, **given)
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def test_the_router_finds_the_engine_by_the_model_id_alone(endpoint):
    router = Router({"endpoint_url": endpoint.url})
    assert text(router.converse(**ask("echo:anything"))) == "One, two, three."
    assert not endpoint.requests
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"
    for model_id in ("amazon.nova-2-lite-v1:0", arn, "eu.anthropic.claude-sonnet-4-6"):
        router.converse(**ask(model_id))
        assert endpoint.requests[-1].model == model_id
    router.close()


def test_engines_take_nothing_but_the_request():
    for engine in (Echo, Router, Named, Bedrock, Structured):
        for method in (engine.converse, engine.converse_stream, engine.count_tokens):
            kinds = [parameter.kind for parameter in inspect.signature(method).parameters.values()]
            assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_KEYWORD]
