"""What production does, scripted: each fault over plain calls, its replies decoded by botocore."""

from __future__ import annotations

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from bx.converse import error
from bx.engines.echo import Echo
from bx.server import bodies, wire
from bx.server.exchange import Act, Call, Received, Reply
from bx.server.faults import FaultError, Faults, described, options, parse

MODEL = "us.anthropic.claude-sonnet-4-6"
PROMPT = "one two three four five six seven eight nine ten eleven twelve"
TOOL = {"toolSpec": {"name": "weather", "inputSchema": {"json": {"type": "object"}}}}
TOOLS = {"tools": [TOOL]}
EVENTS = 16  # messageStart, a word an event, contentBlockStop, messageStop, metadata
STREAM = [f"{kind}Exception" for kind in ("internalServer", "modelStreamError", "validation", "throttling")]
STREAM += ["serviceUnavailableException"]


def asked(operation="Converse", *, model=MODEL, **members):
    received = Received("POST", "/", "", {}, b"", "http")
    if operation.startswith("Converse"):
        members = {"messages": [{"role": "user", "content": [{"text": PROMPT}]}], **members}
    if operation.startswith("Invoke"):
        members["body"] = json.dumps({"max_tokens": 100, **members.pop("body", {})}).encode()
    return Call(operation, {"modelId": model, **members}, received)


class Service:
    """Echo behind the wire; it keeps what it was asked, and whether its stream was closed."""

    def __init__(self):
        self.calls, self.closed = [], False

    def __call__(self, call):
        self.calls.append(call)
        request = {name: value for name, value in call.request.items() if name not in ("toolConfig", "outputConfig")}
        if call.operation == "Converse":
            return wire.reply("Converse", Echo().converse(**request))
        if call.operation == "ConverseStream":
            return wire.stream("ConverseStream", Closing(Echo().converse_stream(**request)["stream"], self))
        if call.operation == "InvokeModelWithResponseStream":
            chunks = ({"chunk": {"bytes": json.dumps({"number": number}).encode()}} for number in range(6))
            return wire.stream(call.operation, Closing(chunks, self), contentType="application/json")
        return Reply(200, {"Content-Type": "application/json"}, b'{"inputTokens": 3}')


class Closing:
    def __init__(self, events, service):
        self.events, self.service = events, service

    def __iter__(self):
        return self.events

    def close(self):
        self.service.closed = True


def answered(spec, call=None, service=None):
    """The reply to one call with one fault in force."""
    return Faults([spec]).perform(call or asked(), service or Service())


def streamed(spec, operation="ConverseStream", **members):
    return sent(answered(spec, asked(operation, **members)))


def sent(reply):
    """What a client sees of a stream: its decoded events, then how it ended (None where cleanly)."""
    buffer, found, end = EventStreamBuffer(), [], None
    for piece in reply.body:
        if isinstance(piece, Act):
            end = piece
        else:
            buffer.add_data(piece)
            found.extend((_kind(message), json.loads(message.payload)) for message in buffer)
    return found, end


def _kind(message):
    return message.headers.get(":event-type") or message.headers[":exception-type"]


def kinds(events):
    return [kind for kind, _ in events]


def refused(reply):
    """The status, code and text of an error."""
    code = reply.headers["x-amzn-errortype"].partition(":")[0]
    return reply.status, code, json.loads(reply.body)["message"]


# ---- reading --------------------------------------------------------------------------------------------------


def test_the_two_spellings_mean_the_same():
    spelled = parse("ThrottlingException, nth=3 ,share=0.5,retry-after=250,model=us.*,operation=Converse")
    given = {"nth": 3, "share": 0.5, "retry_after": 250, "model": "us.*", "operation": "Converse"}
    assert spelled == parse({"fault": "ThrottlingException", **given})
    assert spelled["retry_after"] == 250


words = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"], exclude_characters="="), min_size=1)
VALUES = {
    "nth": st.integers(1, 10**6),
    "first": st.integers(1, 10**6),
    "share": st.floats(0, 1),
    "model": st.just("us.*"),
    "operation": st.sampled_from(["Converse*", "*Stream", "*"]),
    "message": words,
    "retry_after": st.integers(0, 10**6),
    "after": st.integers(0, 100),
    "action": st.just("bedrock:InvokeModelWithResponseStream"),
    "seconds": st.floats(0, 86_400),
    "mid_frame": st.booleans(),
    "timeout": st.booleans(),
    **{name: st.integers(1, 10**9) for name in ("tokens", "rpm", "tpm", "tpd")},
}


@st.composite
def faults(draw):
    entry = draw(st.sampled_from(described()))
    names = [*entry["options"], "nth", "first", "share", "model"]
    chosen = draw(st.lists(st.sampled_from(names), unique=True))
    if entry["name"] == "quota" and not {"rpm", "tpm", "tpd"} & set(chosen):
        chosen.append("rpm")
    return {"fault": entry["name"], **{name: draw(VALUES[name]) for name in chosen}}


@settings(max_examples=100, deadline=None)
@given(faults())
def test_every_fault_with_its_options_can_be_written_both_ways_and_read_again(fault):
    pairs = [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in fault.items()]
    read = parse(fault)
    assert parse(",".join([fault["fault"], *pairs[1:]])) == read
    assert parse(read) == read
    assert {**read, **fault} == read


def test_a_comma_is_part_of_a_message_unless_an_option_follows_it():
    fault = parse("ThrottlingException,message=Too many, far too many, please wait.,nth=2")
    assert (fault["message"], fault["nth"]) == ("Too many, far too many, please wait.", 2)


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists)
names = st.text() | st.sampled_from([*options(), "fault"])


@settings(max_examples=100, deadline=None)
@given(st.text() | st.dictionaries(names, values | st.sampled_from(["stall", "quota", "AccessDeniedException"])))
def test_what_is_no_fault_is_refused_with_the_remedy(spec):
    try:
        assert parse(spec)["fault"]
    except FaultError as cause:
        refused = cause
        assert refused.fix
        assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("spec", "says", "fix"),
    [
        ("ThrotlingException", "There is no fault", "Did you mean ThrottlingException? There are: "),
        ("", "There is no fault ''", "There are: ThrottlingException"),
        ("stall,nht=3", "The fault stall has no 'nht'", "Did you mean nth? There are: "),
        ("stall,tokens=3", "The fault stall has no 'tokens'", "There are: operation, model, nth, first, share"),
        ("stall,nth=0", "nth='0' cannot be used", "nth is a whole number of at least 1"),
        ("stall,share=nan", "share='nan' cannot be used", "share is a number from 0 to 1"),
        ("latency,seconds=1e999", "seconds='1e999' cannot", "seconds is a number of seconds, from 0 to 86400"),
        ("truncate,mid_frame=yes", "mid_frame='yes' cannot be used", "mid_frame is true or false"),
        ("stall,3", "'3' in the fault 'stall,3' is no KEY=VALUE", "Write it as ThrottlingException,nth=3"),
        ("stall,after=1,after=2", "The fault 'stall,after=1,after=2' has after more than once", "Give it once"),
        ("quota", "The fault quota lacks its limits", "Give one of: rpm, tpm, tpd"),
        ("stall,operation=ConverseStrem", "There is no operation 'ConverseStrem'", "Did you mean ConverseStream?"),
        ("AccessDeniedException,action=InvokeModel", "There is no action", "Did you mean bedrock:InvokeModel?"),
        ("bad-crc,operation=Converse", "The fault bad-crc with operation=Converse, after=3 could", "Remove"),
        ({"nth": 3}, "{'nth': 3} is no fault", 'Write it as {"fault": "ThrottlingException", "nth": 3}'),
        ({"fault": "stall", "nth": True}, "nth=True cannot be used", "nth is a whole number of at least 1"),
        (7, "7 is no fault", "Write it as"),
    ],
)  # fmt: skip
def test_a_fault_that_cannot_be_understood_says_what_there_is(spec, says, fix):
    with pytest.raises(FaultError) as caught:
        parse(spec)
    assert str(caught.value).startswith(says)
    assert caught.value.fix.startswith(fix)


def test_of_several_faults_all_are_added_or_none():
    scripted = Faults()
    with pytest.raises(FaultError):
        scripted.add("stall", "nonsense")
    assert scripted.listed() == []


def test_what_there_is_is_told_for_help_and_docs():
    told = {entry["name"]: entry for entry in described()}
    assert told["ModelErrorException"]["status"] == 424
    assert told["stall"]["options"] == {"after": 3}
    assert told["latency"]["status"] is None
    for entry in told.values():
        assert entry["says"]
        assert "\n" not in entry["says"]
        assert set(entry["options"]) <= set(options())


# ---- which requests -------------------------------------------------------------------------------------------


def hits(spec, calls, **how):
    scripted = Faults([spec], **how)
    return [scripted.perform(call, Service()).status == 429 for call in calls]


def test_the_nth_matching_request_alone_is_hit():
    assert hits("ThrottlingException,nth=3", [asked()] * 5) == [False, False, True, False, False]


def test_the_first_matching_requests_are_hit():
    assert hits("ThrottlingException,first=2", [asked()] * 4) == [True, True, False, False]


def test_operation_and_model_say_what_counts():
    calls = [asked("CountTokens"), asked(model="amazon.nova-micro-v1:0"), asked("ConverseStream"), asked(), asked()]
    spec = "ThrottlingException,operation=Converse,model=us.anthropic.*,nth=2"
    assert hits(spec, calls) == [False, False, False, False, True]
    assert hits("ThrottlingException,operation=Converse*", calls) == [False, True, True, True, True]


def test_a_share_is_the_same_for_the_same_seed_and_another_for_another():
    drawn = [hits("ThrottlingException,share=0.2", [asked()] * 300, seed=seed) for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert 40 <= sum(drawn[0]) <= 80
    assert sum(hits("ThrottlingException,share=0", [asked()] * 20)) == 0
    assert sum(hits("ThrottlingException,share=1", [asked()] * 20)) == 20


def test_two_faults_draw_by_themselves():
    scripted = Faults(["latency,seconds=0,share=0.5", "stall,share=0.5,after=99,operation=ConverseStream"], seed=1)
    found = {scripted.perform(asked("ConverseStream"), Service()).headers.get("x-bx-fault") for _ in range(60)}
    assert found == {None, "latency", "stall", "latency, stall"}


def test_faults_count_by_themselves_and_the_first_one_ends_the_request():
    scripted = Faults(["ThrottlingException,nth=1", "ServiceUnavailableException,first=2"])
    replies = [scripted.perform(asked(), Service()) for _ in range(3)]
    assert [reply.status for reply in replies] == [429, 503, 200]
    assert [reply.headers.get("x-bx-fault") for reply in replies] == [
        "ThrottlingException", "ServiceUnavailableException", None,
    ]  # fmt: skip
    assert [(each["met"], each["hit"]) for each in scripted.listed()] == [(3, 1), (3, 1)]


def test_faults_can_be_listed_added_and_cleared_while_it_runs():
    scripted = Faults(["stall"])
    scripted.add({"fault": "latency", "seconds": 0})
    scripted.perform(asked("ConverseStream"), Service())
    assert scripted.listed() == [
        {"fault": "stall", "after": 3, "met": 1, "hit": 1},
        {"fault": "latency", "seconds": 0.0, "met": 1, "hit": 1},
    ]
    scripted.clear()
    assert scripted.listed() == []
    assert "x-bx-fault" not in scripted.perform(asked(), Service()).headers


def test_threads_count_together():
    scripted = Faults(["ThrottlingException,first=37", "ServiceUnavailableException,nth=50"])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: scripted.perform(asked("CountTokens"), Service()).status, range(200)))
    assert (found.count(429), found.count(503), found.count(200)) == (37, 1, 162)
    assert [each["met"] for each in scripted.listed()] == [200, 200]


def test_an_error_of_the_service_itself_is_raised_and_named_only_when_a_fault_hit():
    def failing(call):
        raise error("ValidationException", "No.")

    with pytest.raises(ClientError, match="No"):
        Faults(["ThrottlingException,nth=2"]).perform(asked(), failing)
    call = asked()
    reply = Faults(["latency,seconds=0"]).perform(call, failing)
    assert refused(reply) == (400, "ValidationException", "No.")
    assert reply.headers["x-bx-fault"] == "latency"
    assert (call.received.notes["faults"], call.received.notes["code"]) == (["latency"], "ValidationException")


# ---- each fault -----------------------------------------------------------------------------------------------


EXCEPTIONS = {
    "ThrottlingException": (429, "Too many requests, please wait before trying again."),
    "ServiceUnavailableException": (503, "Bedrock is unable to process your request."),
    "InternalServerException": (500, "The system encountered an unexpected error during processing."),
    "ModelTimeoutException": (408, "Model has timed out in processing the request."),
    "ModelErrorException": (424, "Model produced invalid sequence as part of ToolUse."),
    "ModelNotReadyException": (429, "Model is not ready for inference."),
    "ValidationException": (400, "Input is too long for requested model."),
    "AccessDeniedException": (403, "User: arn:aws:sts::000000000000:assumed-role/developer/bx is not authorized"),
    "ResourceNotFoundException": (404, "Model use case details have not been submitted for this account."),
    "ExpiredTokenException": (403, "The security token included in the request is expired"),
    "UnrecognizedClientException": (403, "The security token included in the request is invalid."),
    "ServiceQuotaExceededException": (400, "Your request exceeds the service quota for your account."),
}


@pytest.mark.parametrize("operation", ["Converse", "ConverseStream", "InvokeModel", "InvokeModelWithResponseStream"])
@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_comes_before_the_answer_with_its_status_and_the_services_text(name, operation):
    service = Service()
    reply = answered(name, asked(operation), service)
    status, code, text = refused(reply)
    assert (status, code) == (EXCEPTIONS[name][0], name)
    assert text.startswith(EXCEPTIONS[name][1])
    assert service.calls == []


def test_an_exception_can_have_another_text_and_a_time_to_wait():
    reply = answered("ThrottlingException,message=Too many {tokens}, wait.,retry_after=1500")
    assert refused(reply) == (429, "ThrottlingException", "Too many {tokens}, wait.")
    assert reply.headers["x-amz-retry-after"] == "1500"


def test_a_model_error_says_whose_it_is():
    told = json.loads(answered("ModelErrorException").body)
    assert told["originalStatusCode"] == 424
    assert told["resourceName"] == f"arn:aws:bedrock:us-east-1:000000000000:inference-profile/{MODEL}"


@pytest.mark.parametrize("kind", STREAM)
def test_each_exception_of_a_stream_comes_after_so_many_events(kind):
    name = kind[:1].upper() + kind[1:]
    service, call = Service(), asked("ConverseStream")
    events, end = sent(answered(f"{name},after=2,message=Broken.", call, service))
    assert kinds(events) == ["messageStart", "contentBlockDelta", kind]
    assert events[-1][1]["message"] == "Broken."
    assert end is None
    assert service.closed
    assert call.received.notes["code"] == name


def test_a_model_stream_error_comes_by_itself_in_streams_only():
    assert kinds(streamed("ModelStreamErrorException")[0])[3:] == ["modelStreamErrorException"]
    assert "x-bx-fault" not in answered("ModelStreamErrorException").headers


def test_a_model_timeout_within_a_stream_is_invoke_models_alone():
    spec = "ModelTimeoutException,after=1"
    assert kinds(streamed(spec, "InvokeModelWithResponseStream")[0]) == ["chunk", "modelTimeoutException"]
    assert len(streamed(spec)[0]) == EVENTS
    with pytest.raises(FaultError, match="could not hit any request"):
        parse(f"{spec},operation=ConverseStream")


def test_exceptions_that_no_stream_has_take_no_number_of_events():
    for name in set(EXCEPTIONS) - {"ModelTimeoutException"}:
        if name[:1].lower() + name[1:] not in STREAM:
            with pytest.raises(FaultError, match="has no 'after'"):
                parse(f"{name},after=1")


def test_a_stream_with_fewer_events_is_whole():
    for spec in (
        "ThrottlingException,after=16",
        "stall,after=16",
        "truncate,after=16",
        "reset,after=16",
        "bad-crc,after=16",
    ):
        events, end = streamed(spec)
        assert (len(events), end) == (EVENTS, None)


@pytest.mark.parametrize("operation", ["Converse", "ConverseStream", "CountTokens"])
def test_access_can_be_denied_for_one_action_alone(operation):
    needs = {
        "Converse": "InvokeModel",
        "ConverseStream": "InvokeModelWithResponseStream",
        "CountTokens": "CountTokens",
    }
    for action in needs.values():
        denied = answered(f"AccessDeniedException,action=bedrock:{action}", asked(operation)).status == 403
        assert denied == (needs[operation] == action)


def test_a_denied_access_names_the_action_and_the_resource_in_the_region_of_the_request():
    call = asked(model="amazon.nova-micro-v1:0")
    call.received.notes["region"] = "eu-west-2"
    text = refused(answered("AccessDeniedException", call))[2]
    assert (
        "perform: bedrock:InvokeModel on resource: arn:aws:bedrock:eu-west-2::foundation-model/amazon.nova-micro"
        in text
    )
    assert text.endswith("because no identity-based policy allows the bedrock:InvokeModel action")
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"
    assert f"resource: {arn} because" in refused(answered("AccessDeniedException", asked(model=arn)))[2]


def test_latency_comes_before_everything():
    started = time.monotonic()
    assert answered("latency,seconds=0.1").status == 200
    assert time.monotonic() - started >= 0.1


def test_who_hangs_up_is_not_waited_for():
    call, service = asked(), Service()
    threading.Timer(0.05, call.received.hangup.happen).start()
    started = time.monotonic()
    assert answered("latency,seconds=60", call, service).body == [Act.HANGUP]
    assert time.monotonic() - started < 10
    assert service.calls == []
    grammatical = asked(toolConfig={"tools": [{"toolSpec": {**TOOL["toolSpec"], "strict": True}}]})
    threading.Timer(0.05, grammatical.received.hangup.happen).start()
    assert answered("slow-compile,seconds=60", grammatical, service).body == [Act.HANGUP]


def test_a_slow_first_token_comes_after_the_headers():
    call = asked("ConverseStream")
    reply = answered("slow-first-token,seconds=0.1", call)
    started = time.monotonic()
    assert reply.status == 200
    first = next(iter(reply.body))
    assert time.monotonic() - started >= 0.1
    assert bodies.opened(first)[0] == "messageStart"


def test_slow_events_come_with_pauses_between_them():
    reply = answered("slow-events,seconds=0.03", asked("ConverseStream"))
    moments = [time.monotonic() for _ in reply.body]
    assert all(later - sooner >= 0.025 for sooner, later in itertools.pairwise(moments))


def test_a_pause_ends_when_the_client_hangs_up():
    call = asked("ConverseStream")
    call.received.hangup.happen()
    started = time.monotonic()
    assert len(sent(answered("slow-events,seconds=60", call))[0]) == EVENTS
    assert time.monotonic() - started < 10


def test_a_stream_stalls_after_so_many_events_and_its_engine_is_free():
    service = Service()
    events, end = sent(answered("stall,after=4", asked("ConverseStream"), service))
    assert (len(events), end, service.closed) == (4, Act.STALL, True)


def test_an_answer_in_one_piece_stalls_before_it_begins():
    service = Service()
    assert answered("stall", asked(), service) == Reply(0, {"x-bx-fault": "stall"}, [Act.STALL])
    assert service.calls == []


def test_a_truncated_stream_ends_cleanly():
    events, end = streamed("truncate")
    assert (kinds(events), end) == (["messageStart", "contentBlockDelta", "contentBlockDelta"], None)


def test_a_stream_can_be_truncated_within_a_frame():
    whole = list(answered("latency,seconds=0", asked("ConverseStream")).body)
    cut = list(answered("truncate,after=3,mid_frame=true", asked("ConverseStream")).body)
    assert cut[:3] == whole[:3]
    assert len(cut) == 4
    assert whole[3].startswith(cut[3])
    assert 0 < len(cut[3]) < len(whole[3])


def test_half_of_an_answer_in_one_piece_comes_when_it_is_truncated():
    whole = Service()(asked()).body
    (half,) = answered("truncate").body
    assert whole.startswith(half[:40])
    with pytest.raises(ValueError):  # noqa: PT011 # any: it is no JSON
        json.loads(half)


@pytest.mark.parametrize(("name", "act"), [("hangup", Act.HANGUP), ("reset", Act.RESET)])
@pytest.mark.parametrize("operation", ["Converse", "ConverseStream"])
def test_a_connection_breaks_at_once_or_within_the_answer(name, act, operation):
    service = Service()
    assert answered(name, asked(operation), service)[0::2] == (0, [act])
    assert service.calls == []
    reply = answered(f"{name},after=2", asked(operation), service)
    assert reply.status == 200
    if operation == "Converse":
        half, end = reply.body
        assert 0 < len(half) < len(Service()(asked()).body)
    else:
        events, end = sent(reply)
        assert len(events) == 2
        assert service.closed
    assert end is act


def test_the_checksum_of_one_event_is_wrong():
    pieces = list(answered("bad-crc,after=2", asked("ConverseStream")).body)
    assert [bodies.opened(piece) is None for piece in pieces] == [index == 2 for index in range(EVENTS)]
    buffer = EventStreamBuffer()
    for piece in pieces:
        buffer.add_data(piece)
    assert [_kind(next(buffer)) for _ in range(2)] == ["messageStart", "contentBlockDelta"]
    with pytest.raises(ChecksumMismatch):
        next(buffer)


def test_the_engine_itself_cuts_the_answer_at_the_most_tokens():
    response = json.loads(answered("max-tokens,tokens=2").body)
    assert response["stopReason"] == "max_tokens"
    assert response["output"]["message"]["content"] == [{"text": "one two"}]
    events, _ = streamed("max-tokens,tokens=2")
    assert dict(events)["messageStop"]["stopReason"] == "max_tokens"


@pytest.mark.parametrize(
    ("model", "body", "capped"),
    [
        (MODEL, {"max_tokens": 100}, {"max_tokens": 2}),
        ("openai.gpt-oss-20b-1:0", {"max_completion_tokens": 1}, {"max_completion_tokens": 1}),
        ("openai.gpt-oss-20b-1:0", {}, {"max_tokens": 2}),
        ("us.amazon.nova-lite-v1:0", {}, {"inferenceConfig": {"maxTokens": 2}}),
        (
            "x",
            {"inferenceConfig": {"max_new_tokens": 9, "topK": 1}},
            {"inferenceConfig": {"max_new_tokens": 2, "topK": 1}},
        ),
    ],
)
def test_native_bodies_are_cut_as_well(model, body, capped):
    service, call = Service(), asked("InvokeModel", model=model)
    call.request["body"] = json.dumps({"kept": True, **body}).encode()
    answered("max-tokens,tokens=2", call, service)
    assert json.loads(service.calls[0].request["body"]) == {"kept": True, **capped}


def test_a_limit_below_the_most_tokens_stays_and_the_request_itself_is_not_changed():
    service, call = Service(), asked(inferenceConfig={"maxTokens": 1, "temperature": 0})
    answered("max-tokens,tokens=5", call, service)
    assert service.calls[0].request["inferenceConfig"] == {"maxTokens": 1, "temperature": 0}
    call = asked()
    answered("max-tokens,tokens=5", call, service)
    assert "inferenceConfig" not in call.request
    assert service.calls[1].request["inferenceConfig"] == {"maxTokens": 5}


CALL = {"city": "Köln", "days": [1, 2], "unit": {"name": "C"}}
PRINTED = """<tools>
  <__function=weather>
    <__parameter=city>Köln</__parameter>
    <__parameter=days>[1,2]</__parameter>
    <__parameter=unit>{"name":"C"}</__parameter>"""


def calling(call):
    """Answer with a text and a tool call, in one piece or in events."""
    usage = {"usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}, "metrics": {"latencyMs": 1}}
    if call.operation == "Converse":
        use = {"toolUse": {"toolUseId": "tooluse_1", "name": "weather", "input": CALL}}
        message = {"role": "assistant", "content": [{"text": "Let me see."}, use]}
        return wire.reply("Converse", {"output": {"message": message}, "stopReason": "tool_use", **usage})
    start, text = {"toolUse": {"toolUseId": "tooluse_1", "name": "weather"}}, json.dumps(CALL, ensure_ascii=False)
    events = [
        {"messageStart": {"role": "assistant"}},
        {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "Let me see."}}},
        {"contentBlockStop": {"contentBlockIndex": 0}},
        {"contentBlockStart": {"contentBlockIndex": 1, "start": start}},
        *({"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"toolUse": {"input": piece}}}} for piece in text),
        {"contentBlockStop": {"contentBlockIndex": 1}},
        {"messageStop": {"stopReason": "tool_use"}},
        {"metadata": usage},
    ]
    return wire.stream("ConverseStream", events)


def test_a_malformed_tool_use_comes_as_the_text_that_nova_prints():
    response = json.loads(answered("malformed-tool-use", asked(toolConfig=TOOLS), calling).body)
    assert response["stopReason"] == "malformed_tool_use"
    assert response["output"]["message"]["content"] == [{"text": "Let me see."}, {"text": PRINTED}]


def test_a_malformed_tool_use_comes_as_text_in_a_stream_too():
    events, _ = sent(answered("malformed-tool-use", asked("ConverseStream", toolConfig=TOOLS), calling))
    block = ["contentBlockDelta", "contentBlockStop"]
    assert kinds(events) == ["messageStart", *block, *block, "messageStop", "metadata"]
    assert events[3][1]["delta"] == {"text": PRINTED}
    assert events[5][1]["stopReason"] == "malformed_tool_use"


def test_a_request_without_tools_has_no_malformed_tool_use():
    assert "x-bx-fault" not in answered("malformed-tool-use").headers


@pytest.mark.parametrize("operation", ["Converse", "ConverseStream"])
def test_a_malformed_output_says_so_and_no_more(operation):
    reply = answered("malformed-output", asked(operation))
    if operation == "Converse":
        response = json.loads(reply.body)
        assert response["output"]["message"]["content"] == [{"text": PROMPT}]
        assert response["stopReason"] == "malformed_model_output"
    else:
        events, _ = sent(reply)
        assert len(events) == EVENTS
        assert dict(events)["messageStop"]["stopReason"] == "malformed_model_output"


@pytest.mark.parametrize("operation", ["Converse", "ConverseStream"])
def test_a_guardrail_answers_instead_of_the_model(operation):
    service = Service()
    guardrail = {"guardrailIdentifier": "abc", "guardrailVersion": "1", "trace": "enabled"}
    reply = answered("guardrail,message=Blocked.", asked(operation, guardrailConfig=guardrail), service)
    assert service.calls == []
    assert reply.status == 200
    if operation == "Converse":
        told = json.loads(reply.body)
        assert told["output"]["message"]["content"] == [{"text": "Blocked."}]
    else:
        events = dict(sent(reply)[0])
        assert events["contentBlockDelta"]["delta"] == {"text": "Blocked."}
        told = {**events["messageStop"], **events["metadata"]}
    assert told["stopReason"] == "guardrail_intervened"
    assert told["trace"]["guardrail"]["inputAssessment"]["abc"]["topicPolicy"]["topics"][0]["action"] == "BLOCKED"
    assert "trace" not in json.loads(answered("guardrail").body)


def grammatical(schema):
    definition = {"schema": json.dumps(schema)}
    text_format = {"type": "json_schema", "structure": {"jsonSchema": definition}}
    return asked(outputConfig={"textFormat": text_format})


def test_the_first_request_with_a_new_schema_waits_for_its_grammar():
    schema = {"type": "object", "properties": {"description": {"type": "string", "description": "Short."}}}
    other = {"type": "object", "properties": {"description": {"type": "integer"}}}
    reworded = {"properties": {"description": {"description": "Long.", "type": "string"}}, "type": "object"}
    scripted, service = Faults(["slow-compile,seconds=0.1"]), Service()
    waited = []
    for call in [asked(), grammatical(schema), grammatical(schema), grammatical(reworded), grammatical(other)]:
        started = time.monotonic()
        scripted.perform(call, service)
        waited.append(time.monotonic() - started >= 0.1)
    assert waited == [False, True, False, False, True]
    assert scripted.listed()[0]["met"] == 4
    assert scripted.listed()[0]["hit"] == 2


@pytest.mark.parametrize(
    "body",
    [
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
        {"tools": [{"name": "a", "input_schema": {}, "strict": True}]},
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": {}, "strict": True}}]},
    ],
)
def test_native_bodies_need_grammars_too(body):
    assert bodies.grammar(asked("InvokeModel", body=body))
    assert bodies.grammar(asked("InvokeModel", body={"tools": [{"name": "a", "strict": False}]})) is None


def test_a_compilation_can_take_too_long_each_time():
    scripted = Faults(["slow-compile,seconds=0.01,timeout=true"])
    for _ in range(2):
        reply = scripted.perform(grammatical({"type": "object"}), Service())
        assert refused(reply) == (400, "ValidationException", "Grammar compilation timed out.")


def test_a_compilation_goes_on_when_its_client_gives_up():
    now = [0.0]
    scripted = Faults(["slow-compile,seconds=100"], clock=lambda: now[0])
    gone = grammatical({"type": "object"})
    gone.received.hangup.happen()
    assert scripted.perform(gone, Service()).body == [Act.HANGUP]
    now[0] = 100.0
    assert scripted.perform(grammatical({"type": "object"}), Service()).status == 200
    assert scripted.listed()[0]["hit"] == 1


def test_a_quota_throttles_and_only_then_counts_as_a_hit():
    scripted = Faults(["quota,rpm=2"])
    replies = [scripted.perform(asked(), Service()) for _ in range(3)]
    assert [reply.headers.get("x-bx-fault") for reply in replies] == [None, None, "quota"]
    assert refused(replies[2]) == (429, "ThrottlingException", "Too many requests, please wait before trying again.")
    assert scripted.listed() == [{"fault": "quota", "rpm": 2, "met": 3, "hit": 1}]


def test_every_fault_that_there_is_hits_the_request_that_it_is_about():
    calls = [
        asked(operation, toolConfig=TOOLS)._replace(received=Received("POST", "/", "", {}, b"", "http"))
        for operation in ("Converse", "ConverseStream")
    ]
    for entry in described():
        spec = {"fault": entry["name"], **({"seconds": 0} if "seconds" in entry["options"] else {})}
        if entry["name"] == "quota":
            spec["tpd"] = 1
        if entry["name"] == "slow-compile":
            spec["seconds"] = 0.001
        scripted = Faults([spec])
        for call in [*calls, grammatical({"type": "object"})]:
            reply = scripted.perform(call, Service())
            assert isinstance(reply.body, bytes) or list(reply.body), entry["name"]
        assert scripted.listed()[0]["hit"], entry["name"]


# ---- streams from several threads -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["stall", "bad-crc", "slow-first-token,seconds=60", "malformed-output", "quota,tpm=9999"]
)
def test_a_stream_that_nobody_begins_to_read_is_closed_all_the_same(spec):
    service = Service()
    answered(spec, asked("ConverseStream"), service).body.close()
    assert service.closed


def test_a_stream_that_waits_is_closed_from_another_thread():
    call, service = asked("ConverseStream"), Service()
    body = answered("slow-first-token,seconds=60", call, service).body
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: list(body))
        time.sleep(0.05)
        body.close()
        call.received.hangup.happen()
        reading.result(timeout=10)
    assert service.closed


# ---- the page -------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "docs" / "faults.md"
MARK = "<!-- From here on generated from src/bx/server/faults.toml: python tests/test_server_faults.py -->\n"
KINDS = {
    "Exceptions": lambda name: name.endswith("Exception"),
    "Everything else": lambda name: not name.endswith("Exception"),
}


def generated():
    """The page's tables of what there is."""
    own = {name for entry in described() for name in entry["options"]}
    lines = ["", "## Options", "", "What stands after `=` below holds where an option is left out.", ""]
    lines += ["| option | |", "|---|---|"]
    lines += [f"| `{name}` | {says} |" for name, says in options().items() if name in own]
    for title, belongs in KINDS.items():
        lines += ["", f"## {title}"]
        for entry in described():
            if belongs(entry["name"]):
                lines += ["", *told(entry)]
    return "\n".join(lines) + "\n"


def told(entry):
    """What the page says of a fault."""
    status = f" HTTP status {entry['status']}." if entry["status"] else ""
    yield from (f"### {entry['name']}", "", f"{entry['says']}.{status}")
    if entry["text"]:
        yield from ("", f"> {entry['text']}")
    if entry["options"]:
        defaults = {
            name: "" if value is None else f"={json.dumps(value)}" for name, value in entry["options"].items()
        }
        yield from ("", f"Options: {', '.join(f'`{name}{value}`' for name, value in defaults.items())}.")


def test_the_page_of_faults_is_up_to_date():
    head, _, rest = PAGE.read_text().partition(MARK)
    assert rest == generated()
    own = {name for entry in described() for name in entry["options"]}
    for name, says in options().items():
        assert name in own or f"| `{name}` | {says} |" in head, name


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().partition(MARK)[0] + MARK + generated())
