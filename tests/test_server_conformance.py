"""The server as boto3 sees it: every operation, refusal and fault, by an unmodified client over real HTTP."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import threading
import time
import urllib.error
import urllib.request
from typing import NamedTuple

import boto3
import pytest
from botocore.config import Config
from botocore.eventstream import ChecksumMismatch
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    EventStreamError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from urllib3.exceptions import ProtocolError
from urllib3.exceptions import ReadTimeoutError as StreamTimeout

import bx
from bx.converse import Stream, collect, text
from bx.engines.echo import Echo
from bx.instances import violation
from bx.server.endpoint import Endpoint, Options, Route
from bx.server.faults import described
from scripted import answer, events_of

WAIT = 10  # seconds: far longer than anything here takes
SONNET = "us.anthropic.claude-sonnet-4-6"
NOVA = "us.amazon.nova-lite-v1:0"
GPT = "openai.gpt-oss-20b-1:0"
COUNTABLE = "anthropic.claude-sonnet-4-20250514-v1:0"
WORDS = "one two three four five six seven eight nine ten"
PNG = b"\x89PNG\r\n\x1a\n"
STORY = "Write a very long story about a lighthouse keeper, a storm and a lost ship."
SCHEMA = {
    "type": "object",
    "properties": {"service": {"enum": ["checkout", "search"]}, "minutes": {"type": "integer"}},
    "required": ["service", "minutes"],
    "additionalProperties": False,
}
MINUTES = {"type": "integer", "minimum": 3}
TOOL = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
TOOLS = {"tools": [{"toolSpec": {"name": "add", "description": "Adds.", "inputSchema": {"json": TOOL}}}]}
CALL = {"toolUse": {"toolUseId": "tooluse_1", "name": "add", "input": {"a": 1, "b": 2}}}


def said(*content, role="user"):
    blocks = [{"text": block} if isinstance(block, str) else block for block in content]
    return {"role": role, "content": blocks}


def asked(*content, model=SONNET, **members):
    """The members of a Converse request."""
    return {"modelId": model, "messages": [said(*(content or [WORDS]))], **members}


def formatted(schema):
    structure = {"jsonSchema": {"schema": json.dumps(schema)}}
    return {"textFormat": {"type": "json_schema", "structure": structure}}


# ---- engines that tests hold in their hands, and clients ------------------------------------------------------


class Answering:
    """An engine that answers with what a function gives for a request; it keeps the requests."""

    def __init__(self, respond):
        self.respond, self.requests = respond, []

    def converse(self, **request):
        self.requests.append(request)
        return self.respond(request)

    def converse_stream(self, **request):
        events = events_of(self.converse(**request))
        return {"stream": Stream(events, events.close)}


class Gated(Answering):
    """An engine that says each word when it is let to."""

    def __init__(self):
        super().__init__(lambda _: answer(WORDS))
        self.gate, self.closed = threading.Semaphore(0), threading.Event()

    def converse_stream(self, **request):
        return {"stream": Stream(self.events(), self.closed.set)}

    def events(self):
        yield {"messageStart": {"role": "assistant"}}
        for word in WORDS.split():
            assert self.gate.acquire(timeout=WAIT)
            if self.closed.is_set():
                return
            yield {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": word}}}
        yield {"contentBlockStop": {"contentBlockIndex": 0}}
        yield {"messageStop": {"stopReason": "end_turn"}}
        usage = {"inputTokens": 1, "outputTokens": 10, "totalTokens": 11}
        yield {"metadata": {"usage": usage, "metrics": {"latencyMs": 1}}}

    def let(self, words=100):
        self.gate.release(words)


class Watched:
    """An engine that tells when a stream of it has come to its end."""

    def __init__(self, engine):
        self.engine, self.began, self.ended, self.count = engine, threading.Event(), threading.Event(), 0

    def converse(self, **request):
        return collect(self.converse_stream(**request)["stream"])

    def converse_stream(self, **request):
        events = self.engine.converse_stream(**request)["stream"]
        return {"stream": Stream(self.events(events), events.close)}

    def count_tokens(self, **request):
        return self.engine.count_tokens(**request)

    def events(self, events):
        try:
            for event in events:
                self.count += 1
                self.began.set()
                yield event
        finally:
            events.close()
            self.ended.set()


class Served(NamedTuple):
    """A server, and clients of both services."""

    endpoint: Endpoint
    runtime: object
    control: object

    def get(self, path, method="GET", body=None, **headers):
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(self.endpoint.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as failed:
            with failed:
                return failed.code, failed.headers, failed.read()


@functools.cache
def shared_session():
    """What all clients are made by: it reads the models of the services once."""
    return boto3.Session(aws_access_key_id="id", aws_secret_access_key="key", region_name="us-east-1")


@pytest.fixture
def running():
    """The servers of a test, which stop after its clients are closed."""
    with contextlib.ExitStack() as servers:
        yield servers


@pytest.fixture
def connect(running):
    """Make a boto3 client that asks once, and does not look at what it sends."""
    made = []

    def connected(url, service="bedrock-runtime", region="us-east-1", *, session=None, verify=None, **config):
        chosen = Config(parameter_validation=False, retries={"total_max_attempts": 1}, proxies={}, **config)
        client = (session or shared_session()).client(service, region, endpoint_url=url, config=chosen, verify=verify)
        made.append(client)
        return client

    yield connected
    for client in made:
        client.close()


@pytest.fixture
def serve(running, connect):
    """Start a server: over echo, an engine, or routes."""

    def start(engine=None, *, routes=None, read_timeout=6 * WAIT, **options):
        endpoint = (
            Endpoint(routes, Options(**options))
            if routes
            else bx.serve(engine, model=None if engine else "echo", **options)
        )
        running.enter_context(endpoint)
        if endpoint.authority:
            return Served(endpoint, None, None)
        runtime = connect(endpoint.url, read_timeout=read_timeout)
        return Served(endpoint, runtime, connect(endpoint.url, "bedrock"))

    return start


@pytest.fixture
def local(loaded, local_weights):
    """The route to the embedded model, behind which a test can watch it."""
    watched = Watched(loaded)
    return [Route("*", watched, "local")], watched


def refused(ask, *arguments, **members):
    """The error that a call is answered with, as a boto3 client has it; it has its request id."""
    with pytest.raises(ClientError) as caught:
        ask(*arguments, **members)
    failed = caught.value
    assert failed.response["ResponseMetadata"]["RequestId"]
    return failed


def told(failed):
    return failed.response["ResponseMetadata"]["HTTPStatusCode"], failed.response["Error"]["Code"]


def header(response, name):
    return response["ResponseMetadata"]["HTTPHeaders"].get(name)


# ---- Converse -------------------------------------------------------------------------------------------------


def test_converse_is_answered_with_the_members_that_the_sdk_reads(serve):
    response = serve().runtime.converse(**asked(inferenceConfig={"maxTokens": 4}))
    assert response["output"]["message"] == said("one two three four", role="assistant")
    assert response["stopReason"] == "max_tokens"
    assert response["usage"] == {"inputTokens": 10, "outputTokens": 4, "totalTokens": 14}
    assert response["metrics"]["latencyMs"] >= 0
    assert response["ResponseMetadata"]["RequestId"]
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_converse_stream_says_what_converse_does(serve):
    runtime = serve().runtime
    response = runtime.converse_stream(**asked())
    assert header(response, "content-type") == "application/vnd.amazon.eventstream"
    whole, streamed = runtime.converse(**asked()), collect(response["stream"])
    assert [streamed[name] for name in ("output", "stopReason", "usage")] == [
        whole[name] for name in ("output", "stopReason", "usage")
    ]


def test_each_token_leaves_when_the_engine_yields_it(serve):
    engine = Gated()
    stream = iter(serve(engine).runtime.converse_stream(**asked())["stream"])
    assert next(stream) == {"messageStart": {"role": "assistant"}}
    for word in WORDS.split():
        engine.let(1)
        assert next(stream)["contentBlockDelta"]["delta"] == {"text": word}
    assert [next(iter(event)) for event in stream] == ["contentBlockStop", "messageStop", "metadata"]


def test_reasoning_and_tool_calls_arrive_as_the_engine_gave_them(serve):
    thought = {"reasoningContent": {"reasoningText": {"text": "One and two?", "signature": "c2ln"}}}
    given = answer(thought, "Let me add.", CALL, stop="tool_use")
    runtime = serve(Answering(lambda _: given)).runtime
    request = asked(toolConfig=TOOLS)
    for got in (runtime.converse(**request), collect(runtime.converse_stream(**request)["stream"])):
        assert got["output"] == given["output"]
        assert got["stopReason"] == "tool_use"


def test_what_an_engine_thinks_in_secret_arrives_as_the_same_bytes(serve):
    given = answer({"reasoningContent": {"redactedContent": b"\x00\xffsecret"}}, "Three.")
    runtime = serve(Answering(lambda _: given)).runtime
    assert runtime.converse(**asked())["output"] == given["output"]
    assert collect(runtime.converse_stream(**asked())["stream"])["output"] == given["output"]


def adding(request):
    last = request["messages"][-1]["content"][0]
    if "toolResult" not in last:
        return answer("Let me add.", CALL, stop="tool_use")
    return answer(f"It is {last['toolResult']['content'][0]['json']['sum']}.")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_makes_its_round_trip(serve, streamed):
    engine = Answering(adding)
    runtime = serve(engine).runtime

    def ask(messages):
        request = {"modelId": SONNET, "messages": messages, "toolConfig": TOOLS}
        if streamed:
            return collect(runtime.converse_stream(**request)["stream"])
        return runtime.converse(**request)

    first = ask([said("1 + 2?")])
    call = first["output"]["message"]["content"][1]["toolUse"]
    assert (first["stopReason"], call["name"], call["input"]) == ("tool_use", "add", {"a": 1, "b": 2})
    result = {"toolResult": {"toolUseId": call["toolUseId"], "content": [{"json": {"sum": 3}}]}}
    messages = [said("1 + 2?"), first["output"]["message"], said(result)]
    assert text(ask(messages)) == "It is 3."
    assert engine.requests[-1]["messages"] == messages


def test_an_engine_of_the_users_own_gets_the_request_as_the_client_wrote_it(serve):
    engine = Answering(lambda _: answer("A small picture."))
    image = {"image": {"format": "png", "source": {"bytes": PNG}}}
    document = {"document": {"format": "txt", "name": "notes", "source": {"bytes": b"\x00\xff"}}}
    request = asked("What is it?", image, document, system=[{"text": "Be brief."}], requestMetadata={"team": "a"})
    serve(engine).runtime.converse(**request)
    assert engine.requests == [request]


# ---- the embedded model ---------------------------------------------------------------------------------------


def test_the_embedded_model_answers_in_whole_in_a_stream_and_natively(serve, local):
    runtime = serve(routes=local[0]).runtime
    request = asked("Say hello.", inferenceConfig={"maxTokens": 8, "temperature": 0})
    whole, streamed = runtime.converse(**request), collect(runtime.converse_stream(**request)["stream"])
    assert text(whole) == text(streamed) != ""
    assert whole["usage"] == streamed["usage"]
    body = {**NATIVE[SONNET], "max_tokens": 8, "temperature": 0}
    body["messages"] = [{"role": "user", "content": "Say hello."}]
    native = json.loads(runtime.invoke_model(modelId=SONNET, body=json.dumps(body))["body"].read())
    assert native["content"] == [{"type": "text", "text": text(whole)}]
    assert native["usage"]["input_tokens"] == whole["usage"]["inputTokens"]
    counted = runtime.count_tokens(modelId=COUNTABLE, input={"converse": {"messages": request["messages"]}})
    assert counted["inputTokens"] == whole["usage"]["inputTokens"]


def test_a_schema_is_enforced_through_the_wire(serve, local):
    """The prompt asks for something else, and a model that is not held to the schema gives that."""
    runtime = serve(routes=local[0]).runtime
    prompt, config = "Write a haiku about rain. No JSON, please.", {"maxTokens": 60, "temperature": 0}
    request = asked(prompt, inferenceConfig=config, outputConfig=formatted(SCHEMA))
    for got in (runtime.converse(**request), collect(runtime.converse_stream(**request)["stream"])):
        assert not violation(json.loads(text(got)), SCHEMA)
        assert got["stopReason"] == "end_turn"
    body = {**NATIVE[SONNET], "max_tokens": 60, "messages": [{"role": "user", "content": prompt}]}
    body["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
    native = json.loads(runtime.invoke_model(modelId=SONNET, body=json.dumps(body))["body"].read())
    assert not violation(json.loads(native["content"][0]["text"]), SCHEMA)


def test_the_embedded_model_calls_the_tool_that_it_must(serve, local):
    runtime = serve(routes=local[0]).runtime
    forced = {**TOOLS, "toolChoice": {"tool": {"name": "add"}}}
    request = asked("What is 1 + 2?", toolConfig=forced, inferenceConfig={"maxTokens": 80, "temperature": 0})
    for got in (runtime.converse(**request), collect(runtime.converse_stream(**request)["stream"])):
        assert got["stopReason"] == "tool_use"
        (call,) = [block["toolUse"] for block in got["output"]["message"]["content"] if "toolUse" in block]
        assert call["name"] == "add"
        assert not violation(call["input"], TOOL)


MEDIA = {
    "image": {"image": {"format": "png", "source": {"bytes": PNG}}},
    "document": {"document": {"format": "pdf", "name": "report", "source": {"bytes": b"%PDF"}}},
}


@pytest.mark.parametrize("kind", MEDIA)
@pytest.mark.parametrize("operation", ["converse", "converse_stream"])
def test_what_the_embedded_model_cannot_read_is_refused_in_the_service_s_words(serve, local, kind, operation):
    failed = refused(getattr(serve(routes=local[0]).runtime, operation), **asked("What is it?", MEDIA[kind]))
    words = f"This model doesn't support the {kind} field for user messages. Remove {kind} and try again."
    assert (told(failed), failed.response["Error"]["Message"]) == ((400, "ValidationException"), words)


def idle():
    """Whether this process soon does next to nothing for a while; the whole answer would take it far longer."""
    for _ in range(10):
        before = time.process_time()
        time.sleep(0.2)
        if time.process_time() - before < 0.05:
            return True
    return False


def test_hanging_up_on_a_stream_stops_the_embedded_model_within_a_second(serve, local):
    routes, watched = local
    request = asked(STORY, inferenceConfig={"maxTokens": 4000, "temperature": 0})
    stream = serve(routes=routes).runtime.converse_stream(**request)["stream"]
    assert len(list(itertools.islice(stream, 3))) == 3
    stream.close()
    assert watched.ended.wait(1)
    assert watched.count < 1000
    assert idle()


def test_hanging_up_on_a_call_stops_the_embedded_model_within_a_second(serve, local):
    routes, watched = local
    watched.engine.converse(**asked("Hi.", model="local", inferenceConfig={"maxTokens": 1}))  # which loads the model
    runtime = serve(routes=routes, read_timeout=1).runtime
    with pytest.raises(ReadTimeoutError):
        runtime.converse(**asked(STORY, inferenceConfig={"maxTokens": 4000, "temperature": 0}))
    assert watched.began.is_set()
    assert watched.ended.wait(1)
    assert idle()


def test_hanging_up_closes_an_engine_that_has_nothing_to_say_yet(serve):
    engine = Gated()
    stream = serve(engine).runtime.converse_stream(**asked())["stream"]
    assert next(iter(stream)) == {"messageStart": {"role": "assistant"}}
    stream.close()
    assert engine.closed.wait(1)
    engine.let()


# ---- InvokeModel ----------------------------------------------------------------------------------------------

NATIVE = {
    SONNET: {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": WORDS}],
    },
    NOVA: {"messages": [{"role": "user", "content": [{"text": WORDS}]}]},
    GPT: {"messages": [{"role": "user", "content": WORDS}]},
}
METRICS = "amazon-bedrock-invocationMetrics"
# How the text of an answer is read, and that of an event.
READ = {
    SONNET: lambda got: got["content"][0]["text"],
    NOVA: lambda got: got["output"]["message"]["content"][0]["text"],
    GPT: lambda got: got["choices"][0]["message"]["content"],
}
READ_EVENT = {
    SONNET: lambda event: event.get("delta", {}).get("text", ""),
    NOVA: lambda event: event.get("contentBlockDelta", {}).get("delta", {}).get("text", ""),
    GPT: lambda event: "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ())),
}
each_family = pytest.mark.parametrize("model", NATIVE, ids=["anthropic", "nova", "openai"])


def chunks(response):
    return (json.loads(event["chunk"]["bytes"]) for event in response["body"])


@each_family
def test_a_native_body_is_answered_natively(serve, model):
    response = serve().runtime.invoke_model(modelId=model, body=json.dumps(NATIVE[model]))
    assert response["contentType"] == "application/json"
    assert READ[model](json.loads(response["body"].read())) == WORDS
    assert header(response, "x-amzn-bedrock-input-token-count") == "10"
    assert header(response, "x-amzn-bedrock-output-token-count") == "10"
    assert header(response, "x-amzn-bedrock-invocation-latency").isdigit()


@each_family
def test_a_native_stream_says_the_same_and_ends_with_its_metrics(serve, model):
    response = serve().runtime.invoke_model_with_response_stream(modelId=model, body=json.dumps(NATIVE[model]))
    assert response["contentType"] == "application/json"
    events = list(chunks(response))
    assert "".join(READ_EVENT[model](event) for event in events) == WORDS
    assert (events[-1][METRICS]["inputTokenCount"], events[-1][METRICS]["outputTokenCount"]) == (10, 10)


@each_family
def test_each_token_of_a_native_stream_leaves_when_the_engine_yields_it(serve, model):
    engine = Gated()
    runtime = serve(engine).runtime
    stream = chunks(runtime.invoke_model_with_response_stream(modelId=model, body=json.dumps(NATIVE[model])))
    for word in WORDS.split():
        engine.let(1)
        assert next(piece for event in stream if (piece := READ_EVENT[model](event))) == word
    list(stream)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("{not json", "Malformed input request, please reformat"),
        ("{}", "#: required key [anthropic_version] not found"),
        (json.dumps({**NATIVE[SONNET], "max_tokens": "9"}), "max_tokens"),
    ],
)
def test_a_native_body_that_is_none_is_refused(serve, body, says):
    runtime = serve().runtime
    for ask in (runtime.invoke_model, runtime.invoke_model_with_response_stream):
        failed = refused(ask, modelId=SONNET, body=body)
        assert isinstance(failed, runtime.exceptions.ValidationException)
        assert says in failed.response["Error"]["Message"]


# ---- the other operations -------------------------------------------------------------------------------------


def test_tokens_are_counted_of_both_kinds_of_request(serve):
    runtime = serve().runtime
    body = json.dumps(NATIVE[SONNET]).encode()
    for given in ({"converse": {"messages": [said(WORDS)]}}, {"invokeModel": {"body": body}}):
        assert runtime.count_tokens(modelId=COUNTABLE, input=given)["inputTokens"] == 10


@pytest.mark.parametrize("model", [SONNET, "amazon.nova-lite-v1:0"])
def test_tokens_are_not_counted_of_what_counttokens_does_not_take(serve, model):
    failed = refused(serve().runtime.count_tokens, modelId=model, input={"converse": {"messages": [said("hi")]}})
    assert failed.response["Error"]["Message"] == "The provided model doesn't support counting tokens."


def test_a_guardrail_is_answered_as_not_configured(serve):
    runtime = serve().runtime
    content = [{"text": {"text": "hi"}}]
    failed = refused(
        runtime.apply_guardrail, guardrailIdentifier="abc", guardrailVersion="1", source="INPUT", content=content
    )
    assert isinstance(failed, runtime.exceptions.ResourceNotFoundException)
    assert told(failed) == (404, "ResourceNotFoundException")


def test_models_are_listed_filtered_and_got(serve):
    control = serve().control
    everything = control.list_foundation_models()["modelSummaries"]
    anthropic = control.list_foundation_models(byProvider="anthropic")["modelSummaries"]
    assert anthropic == [model for model in everything if model["providerName"] == "Anthropic"] != []
    embedding = control.list_foundation_models(byOutputModality="EMBEDDING")["modelSummaries"]
    assert embedding == [model for model in everything if "EMBEDDING" in model["outputModalities"]] != []
    on_demand = control.list_foundation_models(byInferenceType="ON_DEMAND")["modelSummaries"]
    assert on_demand == [model for model in everything if "ON_DEMAND" in model["inferenceTypesSupported"]] != []
    assert control.list_foundation_models(byCustomizationType="FINE_TUNING")["modelSummaries"] == []
    for identifier in (anthropic[0]["modelId"], anthropic[0]["modelArn"]):
        assert control.get_foundation_model(modelIdentifier=identifier)["modelDetails"] == anthropic[0]


def test_profiles_are_listed_page_by_page_and_got(serve):
    control = serve().control
    everything = control.list_inference_profiles()["inferenceProfileSummaries"]
    paginator = control.get_paginator("list_inference_profiles")
    pages = [page["inferenceProfileSummaries"] for page in paginator.paginate(PaginationConfig={"PageSize": 7})]
    assert [*itertools.chain(*pages)] == everything
    assert {len(page) for page in pages[:-1]} == {7}
    assert len(pages) > 2
    assert control.list_inference_profiles(typeEquals="APPLICATION")["inferenceProfileSummaries"] == []
    for name in ("inferenceProfileId", "inferenceProfileArn"):
        got = control.get_inference_profile(inferenceProfileIdentifier=everything[0][name])
        del got["ResponseMetadata"]
        assert got == everything[0]


def test_the_control_plane_answers_for_the_region_that_the_client_signs_for(serve, connect):
    served = serve()
    control = connect(served.endpoint.url, "bedrock", "eu-west-1")
    arns = [model["modelArn"] for model in control.list_foundation_models()["modelSummaries"]]
    assert all(arn.startswith("arn:aws:bedrock:eu-west-1:") for arn in arns)
    ids = [each["inferenceProfileId"] for each in control.list_inference_profiles()["inferenceProfileSummaries"]]
    assert {each.partition(".")[0] for each in ids} == {"eu", "global"}
    failed = refused(connect(served.endpoint.url, region="eu-west-1").converse, **asked())
    assert failed.response["Error"]["Message"] == "The provided model identifier is invalid."


@pytest.mark.parametrize(
    ("operation", "request_", "status", "code"),
    [
        ("get_foundation_model", {"modelIdentifier": "acme.model-one-v1:0"}, 404, "ResourceNotFoundException"),
        ("get_foundation_model", {"modelIdentifier": "no model"}, 400, "ValidationException"),
        ("get_inference_profile", {"inferenceProfileIdentifier": "us.acme"}, 404, "ResourceNotFoundException"),
        ("list_foundation_models", {"byOutputModality": "SMELL"}, 400, "ValidationException"),
        ("list_inference_profiles", {"maxResults": 0}, 400, "ValidationException"),
        ("list_inference_profiles", {"nextToken": "made up"}, 400, "ValidationException"),
    ],
)
def test_the_control_plane_refuses_by_its_modelled_errors(serve, operation, request_, status, code):
    control = serve().control
    failed = refused(getattr(control, operation), **request_)
    assert isinstance(failed, getattr(control.exceptions, code))
    assert told(failed) == (status, code)


def test_operations_that_are_not_served_are_answered_with_the_recorded_404(serve):
    served = serve()
    for ask in (served.control.list_guardrails, served.runtime.list_async_invokes, served.control.list_custom_models):
        assert told(refused(ask)) == (404, "UnknownOperationException")
    for path in ("/", "/model", "/model//converse", "/models/x/converse"):
        status, headers, body = served.get(path, "POST", b"{}")
        assert (status, headers["x-amzn-errortype"]) == (404, "UnknownOperationException")
        assert json.loads(body) == {
            "Output": {"__type": "com.amazon.coral.service#UnknownOperationException"},
            "Version": "1.0",
        }


# ---- model ids ------------------------------------------------------------------------------------------------

ACCOUNT = "arn:aws:bedrock:us-east-1:123456789012"


@pytest.mark.parametrize(
    "model",
    [
        SONNET,
        "amazon.nova-lite-v1:0",
        "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0",
        f"{ACCOUNT}:inference-profile/{SONNET}",
        f"{ACCOUNT}:inference-profile/us.anthropic.claude-3-5-haiku-20241022-v1:0",
        f"{ACCOUNT}:application-inference-profile/abc123def456",
        f"{ACCOUNT}:provisioned-model/abc123def456",
        f"{ACCOUNT}:imported-model/abc123def456",
        f"{ACCOUNT}:custom-model-deployment/abc123def456",
        f"{ACCOUNT}:prompt-router/anthropic.claude:1",
        "arn:aws:sagemaker:us-east-1:123456789012:endpoint/mine",
    ],
)
def test_a_model_id_with_slashes_and_colons_arrives_as_it_was_given(serve, model):
    engine = Answering(lambda _: answer("Here."))
    runtime = serve(engine).runtime
    assert text(runtime.converse(**asked(model=model))) == "Here."
    assert text(collect(runtime.converse_stream(**asked(model=model))["stream"])) == "Here."
    assert [request["modelId"] for request in engine.requests] == [model, model]


def test_ids_are_routed_to_engines_by_their_patterns(serve):
    engines = {name: Answering(lambda _, name=name: answer(name)) for name in ("claude", "pictures", "rest")}
    served = serve(
        routes=[
            Route("us.anthropic.*", engines["claude"], "local:claude"),
            Route("*:inference-profile/*", engines["pictures"], forward=True),
            Route("*", engines["rest"], "echo"),
        ]
    )
    arn = f"{ACCOUNT}:inference-profile/{NOVA}"
    assert [text(served.runtime.converse(**asked(model=model))) for model in (SONNET, arn, NOVA)] == [*engines]
    assert [engine.requests[0]["modelId"] for engine in engines.values()] == ["local:claude", arn, "echo"]
    body = json.dumps(NATIVE[SONNET])
    assert READ[SONNET](json.loads(served.runtime.invoke_model(modelId=SONNET, body=body)["body"].read())) == "claude"


def test_an_id_that_no_route_takes_is_no_model(serve):
    failed = refused(serve(routes=[Route("us.*", Echo())]).runtime.converse, **asked(model="amazon.nova-pro-v1:0"))
    assert failed.response["Error"]["Message"] == "The provided model identifier is invalid."


# ---- refusals -------------------------------------------------------------------------------------------------

SECOND = said("And?")
RESULT = {"toolResult": {"toolUseId": "tooluse_1", "content": [{"text": "3"}]}}
ROUND = [said("1 + 2?"), said(CALL, role="assistant"), said(RESULT)]
# Of the shapes, of a conversation, of the model that is named: a request, and what its refusal says.
REFUSALS = {
    "no message": (asked(messages=[]), "A conversation must start with a user message."),
    "an unknown role": (
        asked(messages=[said("hi", role="robot")]),
        "Value 'robot' at 'messages.1.member.role' failed",
    ),
    "an empty union": (asked({}), "at 'messages.1.member.content.1.member' failed to satisfy constraint"),
    "a full union": (asked({"text": "a", **MEDIA["image"]}), "Member must set exactly one of the following keys"),
    "a hot temperature": (
        asked(inferenceConfig={"temperature": 2}),
        "Value at 'inferenceConfig.temperature' failed to satisfy constraint: Member must have value less than or",
    ),
    "no token": (asked(inferenceConfig={"maxTokens": 0}), "Member must have value greater than or equal to 1"),
    "an empty stop": (
        asked(inferenceConfig={"stopSequences": [""]}),
        "Member must have length greater than or equal",
    ),
    "a bad tool name": (
        asked(toolConfig={"tools": [{"toolSpec": {**TOOLS["tools"][0]["toolSpec"], "name": "a b"}}]}),
        "Member must satisfy regular expression pattern: [a-zA-Z0-9_-]+",
    ),
    "a bad image format": (asked("a", {"image": {"format": "bmp", "source": {"bytes": PNG}}}), "enum value set"),
    "no message content": (
        asked(messages=[said()]),
        "The content field in the Message object at messages.0 is empty.",
    ),
    "a blank text": (asked("  "), "The text field in the ContentBlock object at messages.0.content.0 is blank."),
    "two turns in a row": (asked(messages=[SECOND, SECOND]), "must alternate between user and assistant roles."),
    "21 images": (asked("a", *[MEDIA["image"]] * 21), "You can't include more than 20 images in a message."),
    "a bad document name": (
        asked("a", {"document": {"format": "pdf", "name": "a.b", "source": {"bytes": b"%PDF"}}}),
        "The document file name can only contain alphanumeric characters",
    ),
    "a document alone": (asked(MEDIA["document"]), "A text block must be included when using documents."),
    "a result without a call": (asked(RESULT, toolConfig=TOOLS), "exceeds the number of toolUse blocks of previous"),
    "a call without a result": (
        asked(messages=[*ROUND[:2], SECOND], toolConfig=TOOLS),
        "Expected toolResult blocks at messages.2.content for the following Ids: tooluse_1",
    ),
    "tools that are gone": (asked(messages=ROUND), "The toolConfig field must be defined when using toolUse"),
    "no model": (asked(model="nonsense"), "The provided model identifier is invalid."),
    "no model id": (asked(model="no model"), "Value at 'modelId' failed to satisfy constraint"),
    "a base id of a profile's": (
        asked(model="amazon.nova-2-lite-v1:0"),
        "Invocation of model ID amazon.nova-2-lite-v1:0 with on-demand throughput isn't supported.",
    ),
    "outputConfig on Nova": (
        asked(model=NOVA, outputConfig=formatted(SCHEMA)),
        "This model doesn't support the outputConfig field. Remove outputConfig and try again.",
    ),
    "temperature on Opus": (
        asked(model="us.anthropic.claude-opus-4-7", inferenceConfig={"temperature": 0.5}),
        "The model returned the following errors: `temperature` is deprecated for this model.",
    ),
    "too many tokens": (
        asked(model=NOVA, inferenceConfig={"maxTokens": 10_001}),
        "The maximum tokens you requested exceeds the model limit of 10000.",
    ),
    "an image for a model of text": (
        asked("a", MEDIA["image"], model="us.amazon.nova-micro-v1:0"),
        "This model doesn't support the image field for user messages. Remove image and try again.",
    ),
    "tools for a model without": (
        asked(model="us.deepseek.r1-v1:0", toolConfig=TOOLS),
        "This model doesn't support tool use.",
    ),
    "a schema outside the subset": (
        asked(outputConfig=formatted({**SCHEMA, "properties": {**SCHEMA["properties"], "minutes": MINUTES}})),
        "`minimum` is not supported",
    ),
    "a schema that is none": (asked(outputConfig=formatted({"type": "thing"})), "thing"),
    "an embedding model": (
        asked(model="amazon.titan-embed-text-v2:0"),
        "This action doesn't support the model that you provided.",
    ),
    "a guardrail": (
        asked(guardrailConfig={"guardrailIdentifier": "abc", "guardrailVersion": "1"}),
        "The guardrail identifier or version provided in the request does not exist.",
    ),
}


@pytest.fixture(scope="module")
def refusing():
    """A client of one strict server for all refusals."""
    with bx.serve(model="echo") as endpoint:
        config = Config(parameter_validation=False, retries={"total_max_attempts": 1}, proxies={})
        client = shared_session().client("bedrock-runtime", endpoint_url=endpoint.url, config=config)
        yield client
        client.close()


@pytest.mark.parametrize("operation", ["converse", "converse_stream"])
@pytest.mark.parametrize("case", REFUSALS)
def test_a_request_is_refused_by_the_modelled_error_with_the_service_s_words(refusing, case, operation):
    request, says = REFUSALS[case]
    failed = refused(getattr(refusing, operation), **request)
    assert isinstance(failed, refusing.exceptions.ValidationException)
    assert told(failed) == (400, "ValidationException")
    assert says in failed.response["Error"]["Message"]
    assert header(failed.response, "x-amzn-errortype").startswith("ValidationException:")


def test_tools_are_refused_in_a_stream_alone_where_the_model_takes_them_otherwise(serve):
    runtime = serve(Answering(adding)).runtime
    request = asked(model="us.meta.llama4-scout-17b-instruct-v1:0", toolConfig=TOOLS)
    assert runtime.converse(**request)["stopReason"] == "tool_use"
    failed = refused(runtime.converse_stream, **request)
    assert failed.response["Error"]["Message"] == "This model doesn't support tool use in streaming mode."


def test_a_model_at_the_end_of_its_life_is_not_found(serve):
    failed = refused(serve().runtime.converse, **asked(model="us.amazon.nova-premier-v1:0"))
    assert told(failed) == (404, "ResourceNotFoundException")
    assert "has reached the end of its life" in failed.response["Error"]["Message"]


def test_a_cache_point_on_a_model_without_a_cache_is_denied(serve):
    blocks = [{"text": "Be brief."}, {"cachePoint": {"type": "default"}}]
    failed = refused(serve().runtime.converse, **asked(model="us.deepseek.r1-v1:0", system=blocks))
    assert told(failed) == (403, "AccessDeniedException")


def test_a_body_that_is_no_json_is_refused(serve):
    status, headers, _ = serve().get(
        f"/model/{SONNET}/converse", "POST", b"{", **{"Content-Type": "application/json"}
    )
    assert (status, headers["x-amzn-errortype"].partition(":")[0]) == (400, "SerializationException")


def test_a_lenient_server_answers_what_the_named_model_would_refuse(serve):
    runtime = serve(strict=False).runtime
    for case in (
        "a base id of a profile's",
        "temperature on Opus",
        "too many tokens",
        "no model",
        "an embedding model",
    ):
        assert text(runtime.converse(**REFUSALS[case][0])) == WORDS


def test_the_sdk_itself_accepts_what_the_server_answers(serve):
    """A client that checks its own requests, as they come by default, is content with all of these."""
    served = serve()
    client = shared_session().client("bedrock-runtime", endpoint_url=served.endpoint.url)
    assert text(client.converse(**asked(inferenceConfig={"maxTokens": 100}, system=[{"text": "Be brief."}]))) == WORDS
    client.close()


def test_what_had_no_effect_is_told_in_a_header(serve):
    runtime = serve().runtime
    fields = {"thinking": {"type": "enabled", "budget_tokens": 2000}}
    request = asked(system=[{"text": "Be brief."}, {"cachePoint": {"type": "default"}}])
    request["additionalModelRequestFields"] = fields
    places = "$.system[1].cachePoint, $.additionalModelRequestFields.thinking"
    response = runtime.converse(**request)
    assert header(response, "x-bx-ignored") == places
    assert (response["usage"]["cacheReadInputTokens"], response["usage"]["cacheWriteInputTokens"]) == (0, 0)
    streamed = runtime.converse_stream(**request)
    assert header(streamed, "x-bx-ignored") == places
    list(streamed["stream"])
    assert header(runtime.converse(**asked()), "x-bx-ignored") is None


@pytest.mark.parametrize("streamed", [False, True])
def test_an_error_of_the_engine_is_the_client_s(serve, streamed):
    def fail(_):
        raise bx.converse.error("ModelErrorException", "The model broke", originalStatusCode=424, resourceName="x")

    runtime = serve(Answering(fail)).runtime
    failed = refused(runtime.converse_stream if streamed else runtime.converse, **asked())
    assert isinstance(failed, runtime.exceptions.ModelErrorException)
    assert (failed.response["originalStatusCode"], failed.response["resourceName"]) == (424, "x")


def test_an_engine_that_breaks_within_a_stream_ends_it_with_the_modelled_error(serve):
    class Breaking(Gated):
        def events(self):
            yield from itertools.islice(super().events(), 3)
            raise bx.converse.error("ThrottlingException", "Too many tokens")

    engine = Breaking()
    engine.let()
    events, failed = broken(serve(engine).runtime.converse_stream(**asked()))
    assert len(events) == 3
    assert (type(failed), failed.response["Error"]) == (
        EventStreamError,
        {"Code": "throttlingException", "Message": "Too many tokens"},
    )


# ---- faults ---------------------------------------------------------------------------------------------------


def broken(response, member="stream"):
    """The events of a stream that arrive, and the error that it ends with, or None."""
    events = []
    try:
        events.extend(response[member])
    except (ClientError, ChecksumMismatch, ResponseStreamingError, ProtocolError, StreamTimeout) as failed:
        return events, failed
    finally:
        response[member].close()
    return events, None


FACTS = {fault["name"]: fault for fault in described()}
# What clients ask when a fault hits whole answers: those that its operations are not all of.
ASKED_OF = {"ServiceQuotaExceededException": "invoke_model", "ModelStreamErrorException": None}
IN_STREAM = ["InternalServer", "ModelStreamError", "Validation", "Throttling", "ServiceUnavailable"]


def exception_is_answered(name, serve):
    operation = ASKED_OF.get(name, "converse")
    if operation is None:  # it comes in streams alone
        return exception_comes_within_a_stream(name, serve)
    runtime = serve(faults=[f"{name},nth=2"]).runtime
    ask = {"converse": lambda: runtime.converse(**asked()), "invoke_model": lambda: invoked(runtime)}[operation]
    ask()
    failed = refused(ask)
    assert told(failed) == (FACTS[name]["status"], name)
    assert isinstance(failed, getattr(runtime.exceptions, name, ClientError))
    assert failed.response["Error"]["Message"] != ""
    assert header(failed.response, "x-bx-fault") == name
    ask()
    if f"{name[: -len('Exception')]}" in IN_STREAM:
        exception_comes_within_a_stream(name, serve)
    return None


def exception_comes_within_a_stream(name, serve):
    runtime = serve(faults=[{"fault": name, "after": 3, "message": "As scripted."}]).runtime
    response = runtime.converse_stream(**asked())
    events, failed = broken(response)
    assert len(events) == 3
    assert isinstance(failed, EventStreamError)
    code = name[0].lower() + name[1:]
    assert failed.response["Error"] == {"Code": code, "Message": "As scripted."}
    assert header(response, "x-bx-fault") == name
    body = json.dumps(NATIVE[SONNET])
    events, failed = broken(runtime.invoke_model_with_response_stream(modelId=SONNET, body=body), "body")
    assert (len(events), failed.response["Error"]["Code"]) == (3, code)


def invoked(runtime):
    return json.loads(runtime.invoke_model(modelId=SONNET, body=json.dumps(NATIVE[SONNET]))["body"].read())


def timed(ask):
    began = time.monotonic()
    return ask(), time.monotonic() - began


def latency(serve):
    runtime = serve(faults=["latency,seconds=0.3"]).runtime
    response, seconds = timed(lambda: runtime.converse(**asked()))
    assert (text(response), seconds >= 0.3) == (WORDS, True)


def slow_first_token(serve):
    runtime = serve(faults=["slow-first-token,seconds=0.6"]).runtime
    events = iter(runtime.converse_stream(**asked())["stream"])
    (_, first), (rest, more) = timed(lambda: next(events)), timed(lambda: list(events))
    assert first > 0.5 > more
    assert len(rest) == 13


def slow_events(serve):
    runtime = serve(faults=["slow-events,seconds=0.05"]).runtime
    answered, seconds = timed(lambda: collect(runtime.converse_stream(**asked())["stream"]))
    assert (text(answered), seconds > 13 * 0.05) == (WORDS, True)


def slow_compile(serve):
    engine = Answering(lambda _: answer('{"service": "search", "minutes": 1}'))
    runtime = serve(engine, faults=["slow-compile,seconds=0.6"]).runtime
    request = asked(outputConfig=formatted(SCHEMA))
    times = [timed(lambda: runtime.converse(**request))[1] for _ in range(2)]
    assert times[0] >= 0.6 > times[1]
    runtime = serve(engine, faults=["slow-compile,seconds=0,timeout=true"]).runtime
    assert refused(runtime.converse, **request).response["Error"]["Message"] == "Grammar compilation timed out."


def stall(serve):
    runtime = serve(faults=["stall"], read_timeout=0.6).runtime
    with pytest.raises(ReadTimeoutError):
        runtime.converse(**asked())
    events, failed = broken(runtime.converse_stream(**asked()))
    assert (len(events), type(failed)) == (3, StreamTimeout)


def truncate(serve):
    events, failed = broken(serve(faults=["truncate"]).runtime.converse_stream(**asked()))
    assert (len(events), failed) == (3, None)
    with pytest.raises(ClientError) as caught:
        collect(iter(events))
    assert "ended" in str(caught.value)
    events, failed = broken(serve(faults=["truncate,mid_frame=true"]).runtime.converse_stream(**asked()))
    assert (len(events), failed) == (3, None), "botocore itself does not notice"
    assert "output" not in serve(faults=["truncate"]).runtime.converse(**asked()), "nor that it is no JSON"


def hangup(serve):
    with pytest.raises(ConnectionClosedError):
        serve(faults=["hangup"]).runtime.converse(**asked())
    events, failed = broken(serve(faults=["hangup,after=2"]).runtime.converse_stream(**asked()))
    assert (len(events), isinstance(failed, ProtocolError | ResponseStreamingError)) == (2, True)


def reset(serve):
    with pytest.raises(ConnectionClosedError):
        serve(faults=["reset"]).runtime.converse(**asked())
    events, failed = broken(serve(faults=["reset,after=2"]).runtime.converse_stream(**asked()))
    assert (len(events) <= 2, isinstance(failed, ProtocolError | ResponseStreamingError)) == (True, True)


def bad_crc(serve):
    events, failed = broken(serve(faults=["bad-crc"]).runtime.converse_stream(**asked()))
    assert (len(events), type(failed)) == (3, ChecksumMismatch)


def max_tokens(serve):
    runtime = serve(faults=["max-tokens,tokens=2"]).runtime
    for got in (runtime.converse(**asked()), collect(runtime.converse_stream(**asked())["stream"])):
        assert (text(got), got["stopReason"]) == ("one two", "max_tokens")
    assert (invoked(runtime)["stop_reason"], READ[SONNET](invoked(runtime))) == ("max_tokens", "one two")


def malformed_tool_use(serve):
    runtime = serve(Answering(adding), faults=["malformed-tool-use"]).runtime
    request = asked(toolConfig=TOOLS)
    for got in (runtime.converse(**request), collect(runtime.converse_stream(**request)["stream"])):
        assert got["stopReason"] == "malformed_tool_use"
        assert "<__function=add>" in text(got)
        assert not any("toolUse" in block for block in got["output"]["message"]["content"])


def malformed_output(serve):
    runtime = serve(faults=["malformed-output"]).runtime
    for got in (runtime.converse(**asked()), collect(runtime.converse_stream(**asked())["stream"])):
        assert (text(got), got["stopReason"]) == (WORDS, "malformed_model_output")


def guardrail(serve):
    runtime = serve(faults=["guardrail,message=Not that."]).runtime
    for got in (runtime.converse(**asked()), collect(runtime.converse_stream(**asked())["stream"])):
        assert (text(got), got["stopReason"]) == ("Not that.", "guardrail_intervened")


def quota(serve):
    runtime = serve(faults=["quota,rpm=2"]).runtime
    assert [text(runtime.converse(**asked())) for _ in range(2)] == [WORDS] * 2
    failed = refused(runtime.converse, **asked())
    assert isinstance(failed, runtime.exceptions.ThrottlingException)
    assert text(runtime.converse(**asked(model=NOVA))) == WORDS
    runtime = serve(faults=["quota,tpm=100"]).runtime
    failed = refused(runtime.converse, **asked(inferenceConfig={"maxTokens": 200}))
    assert "Too many tokens" in failed.response["Error"]["Message"]


SEEN = {
    **{name: functools.partial(exception_is_answered, name) for name in FACTS if name.endswith("Exception")},
    "latency": latency,
    "slow-first-token": slow_first_token,
    "slow-events": slow_events,
    "slow-compile": slow_compile,
    "stall": stall,
    "truncate": truncate,
    "hangup": hangup,
    "reset": reset,
    "bad-crc": bad_crc,
    "max-tokens": max_tokens,
    "malformed-tool-use": malformed_tool_use,
    "malformed-output": malformed_output,
    "guardrail": guardrail,
    "quota": quota,
}


@pytest.mark.parametrize("name", FACTS)
def test_each_fault_is_seen_by_a_real_client(serve, name):
    SEEN[name](serve)


@pytest.mark.parametrize(
    ("action", "denied", "allowed"),
    [
        ("bedrock:InvokeModel", "converse", "converse_stream"),
        ("bedrock:InvokeModelWithResponseStream", "converse_stream", "converse"),
    ],
)
def test_one_action_alone_is_denied(serve, action, denied, allowed):
    runtime = serve(faults=[{"fault": "AccessDeniedException", "action": action}]).runtime
    got = getattr(runtime, allowed)(**asked())
    assert text(collect(got["stream"]) if "stream" in got else got) == WORDS
    failed = refused(getattr(runtime, denied), **asked())
    assert isinstance(failed, runtime.exceptions.AccessDeniedException)
    assert f"is not authorized to perform: {action} on resource: arn:aws:bedrock" in str(failed)


def test_the_sdk_s_own_retries_get_past_a_throttled_request(serve):
    served = serve(faults=["ThrottlingException,first=1,retry_after=10"])
    config = Config(retries={"mode": "standard", "total_max_attempts": 3}, proxies={})
    client = shared_session().client("bedrock-runtime", endpoint_url=served.endpoint.url, config=config)
    response = client.converse(**asked())
    client.close()
    assert response["ResponseMetadata"]["RetryAttempts"] == 1
    assert text(response) == WORDS


# ---- record and replay ----------------------------------------------------------------------------------------


def test_a_recording_is_replayed_to_the_same_client(serve, tmp_path):
    asks = {
        "converse": lambda client: client.converse(**asked())["output"],
        "stream": lambda client: list(client.converse_stream(**asked())["stream"]),
        "native": invoked,
        "refused": lambda client: refused(client.converse, **asked(messages=[])).response["Error"],
    }
    recorded = serve(record=tmp_path / "kept").runtime
    before = {name: ask(recorded) for name, ask in asks.items()}
    replayed = serve(replay=tmp_path / "kept").runtime
    assert {name: ask(replayed) for name, ask in asks.items()} == before
    assert asks["stream"](replayed) == before["stream"], "again, and again"


def test_what_was_not_recorded_is_an_error_and_never_an_invention(serve, tmp_path):
    serve(record=tmp_path / "kept").runtime.converse(**asked())
    failed = refused(serve(replay=tmp_path / "kept").runtime.converse, **asked("something else"))
    assert failed.response["ResponseMetadata"]["HTTPStatusCode"] >= 400


# ---- who may ask ----------------------------------------------------------------------------------------------

KEYS = """\
[default]
aws_access_key_id = AKIDEXAMPLE
aws_secret_access_key = very secret
[temporary]
aws_access_key_id = ASIAEXAMPLE
aws_secret_access_key = also secret
aws_session_token = a token
[key]
bearer_token = a bearer key
"""


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text(KEYS)
    file.chmod(0o600)
    return file


def session(access_key, secret, token=None):
    return boto3.Session(
        aws_access_key_id=access_key, aws_secret_access_key=secret, aws_session_token=token, region_name="us-east-1"
    )


@pytest.mark.parametrize(
    ("pair", "code"),
    [
        (("AKIDEXAMPLE", "very secret"), None),
        (("ASIAEXAMPLE", "also secret", "a token"), None),
        (("AKIDEXAMPLE", "guessed"), "InvalidSignatureException"),
        (("AKIDOTHER", "very secret"), "UnrecognizedClientException"),
        (("ASIAEXAMPLE", "also secret"), "UnrecognizedClientException"),
        (("ASIAEXAMPLE", "also secret", "an old token"), "UnrecognizedClientException"),
    ],
)
def test_signatures_are_verified_where_there_are_keys(serve, connect, keys, pair, code):
    url = serve(auth=keys).endpoint.url
    runtime = connect(url, session=session(*pair))
    if code is None:
        for model in (SONNET, f"{ACCOUNT}:inference-profile/{SONNET}"):
            assert text(runtime.converse(**asked(model=model))) == WORDS
        assert invoked(runtime)["stop_reason"] == "end_turn"
        control = connect(url, "bedrock", session=session(*pair))
        assert control.list_foundation_models(byProvider="Meta")["modelSummaries"]
        assert control.list_inference_profiles(maxResults=3)["nextToken"]
    else:
        for ask in (runtime.converse, runtime.converse_stream):
            assert told(refused(ask, **asked())) == (403, code)


def test_any_signature_will_do_without_keys(serve, connect):
    assert text(connect(serve().endpoint.url, session=session("x", "y")).converse(**asked())) == WORDS


@pytest.fixture
def secure(serve, keys, tmp_path):
    """A server with keys and a certificate of its own."""
    return serve(auth=keys, self_signed=tmp_path / "tls").endpoint


@pytest.mark.parametrize(("bearer", "code"), [("a bearer key", None), ("guessed", "AccessDeniedException")])
def test_a_bearer_key_is_let_in_over_a_self_signed_certificate(secure, connect, monkeypatch, bearer, code):
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", bearer)
    assert secure.url.startswith("https://")
    runtime = connect(secure.url, session=boto3.Session(), verify=str(secure.authority))
    if code:
        assert told(refused(runtime.converse, **asked())) == (403, code)
    else:
        assert text(runtime.converse(**asked())) == WORDS
        assert text(collect(runtime.converse_stream(**asked())["stream"])) == WORDS


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_page_of_another_site_is_refused_whatever_it_signs(serve, headers):
    runtime = serve().runtime

    def as_a_page(request, **_):
        for name, value in headers.items():
            request.headers[name] = value

    assert runtime.converse(**asked())
    runtime.meta.events.register("before-send.bedrock-runtime.*", as_a_page)
    assert told(refused(runtime.converse, **asked())) == (403, "AccessDeniedException")


def test_a_name_of_another_site_for_this_machine_is_refused(serve):
    served = serve()
    port = served.endpoint.url.rpartition(":")[2]
    for host, status in [("evil.example", 403), (f"evil.example:{port}", 403), (f"localhost:{port}", 200)]:
        assert served.get("/foundation-models", Host=host)[0] == status


# ---- running it -----------------------------------------------------------------------------------------------


def test_a_stop_lets_a_stream_finish_and_then_nothing_listens(serve):
    engine = Gated()
    served = serve(engine)
    stream = iter(served.runtime.converse_stream(**asked())["stream"])
    next(stream)
    stopping = threading.Thread(target=lambda: served.endpoint.stop(WAIT))
    stopping.start()
    engine.let()
    assert [next(iter(event)) for event in stream][-1] == "metadata"
    stopping.join(WAIT)
    assert not stopping.is_alive()
    with pytest.raises(EndpointConnectionError):
        served.runtime.converse(**asked())


def test_a_stream_that_outlasts_the_grace_ends_with_the_modelled_exception(serve):
    engine = Gated()
    served = serve(engine)
    response = served.runtime.converse_stream(**asked())
    engine.let(3)
    stopping = threading.Timer(0.2, lambda: served.endpoint.stop(0.2))
    stopping.start()
    events, failed = broken(response)
    assert (len(events), failed.response["Error"]["Code"]) == (4, "serviceUnavailableException")
    assert engine.closed.wait(1)
    engine.let()
    stopping.join(WAIT)


def test_the_server_tells_its_health_and_what_it_has_done(serve):
    served = serve(faults=["ThrottlingException,nth=2"])
    assert json.loads(served.get("/_bx/health")[2])["status"] == "ok"
    served.runtime.converse(**asked())
    refused(served.runtime.converse, **asked())
    list(served.runtime.converse_stream(**asked())["stream"])
    stats = json.loads(served.get("/_bx/stats")[2])
    assert (stats["requests"]["Converse"], stats["requests"]["ConverseStream"]) == (2, 1)
    assert stats["tokens"] == {"input": 20, "output": 20}
    assert stats["status"]["429"] == 1
    _, headers, metrics = served.get("/_bx/metrics")
    assert headers["content-type"].startswith("text/plain")
    labels = f'code="ThrottlingException",model="{SONNET}",operation="Converse",status="429"'
    assert f"bx_requests_total{{{labels}}} 1.0" in metrics.decode()
    assert 'bx_faults_total{fault="ThrottlingException"} 1.0' in metrics.decode()


def test_faults_are_scripted_while_the_server_runs(serve):
    served = serve()
    status, _, body = served.get("/_bx/faults", "POST", {"fault": "ServiceUnavailableException", "first": 1})
    assert (status, [fault["fault"] for fault in json.loads(body)["faults"]]) == (
        200,
        ["ServiceUnavailableException"],
    )
    assert told(refused(served.runtime.converse, **asked())) == (503, "ServiceUnavailableException")
    assert text(served.runtime.converse(**asked())) == WORDS
    listed = json.loads(served.get("/_bx/faults")[2])["faults"]
    assert [(fault["met"], fault["hit"]) for fault in listed] == [(2, 1)]
    assert served.get("/_bx/faults", "DELETE")[0] == 200
    assert json.loads(served.get("/_bx/faults")[2]) == {"faults": []}
    status, _, body = served.get("/_bx/faults", "POST", {"fault": "Throttling"})
    assert status == 400
    assert "ThrottlingException" in json.loads(body)["message"]
