"""The scripted Bedrock of the tests itself, as a real client sees it: else what the others say is worth little."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time

import pytest
from botocore.eventstream import ChecksumMismatch
from botocore.exceptions import ClientError, ConnectionClosedError, EventStreamError, ReadTimeoutError
from urllib3.exceptions import HTTPError

from bx import converse
from bx.engines.echo import Echo
from bx.server.frames import corrupted, event
from scripted import (
    CLOSED,
    HANGUP,
    REFUSED,
    RESET,
    SILENCE,
    STALL,
    Scripted,
    answer,
    broken,
    connected,
    exception,
    failure,
    late,
    reply,
    unmodelled,
)

ARN = "arn:aws:bedrock:eu-west-1:111122223333:application-inference-profile/abc123"
WORDS = "one two three four"
DELTA = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "?"}})


@pytest.fixture
def client(endpoint):
    client = connect(endpoint)
    yield client
    client.close()


def connect(endpoint):
    return connected(endpoint.url, read_timeout=0.3)


class Played:
    """An engine that keeps what it is asked and answers what it is told."""

    def __init__(self, *events, forever=False):
        self.events, self.forever = events, forever
        self.asked = {}
        self.closed = threading.Event()

    def converse(self, **request):
        self.asked = request
        return converse.collect(self.events)

    def converse_stream(self, **request):
        self.asked = request
        return {"stream": self._stream()}

    def _stream(self):
        try:
            yield from self.events
            while self.forever:
                time.sleep(0.01)
                yield {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "more"}}}
        finally:
            self.closed.set()


def test_a_real_client_gets_the_engines_own_answer_and_the_request_is_kept(endpoint, client):
    asked = converse.request(WORDS, model=ARN, system="Sei höflich", maxTokens=3)
    reply, expected = client.converse(**asked), Echo().converse(**asked)
    assert reply["ResponseMetadata"]["RequestId"]
    assert (reply["output"], reply["stopReason"]) == (expected["output"], expected["stopReason"])
    received = endpoint.requests[0]
    assert received.path == "/model/" + ARN.replace(":", "%3A").replace("/", "%2F") + "/converse"
    assert {"modelId": received.model, **received.body} == asked
    assert received.headers["content-type"] == "application/json"
    assert received.arrived <= time.monotonic()


def test_a_real_client_gets_the_engines_events_in_order_and_one_by_one(endpoint, client):
    asked = converse.request(WORDS, model="echo")
    stream = client.converse_stream(**asked)["stream"]
    events = list(stream)
    assert [next(iter(event)) for event in events] == [
        "messageStart", *["contentBlockDelta"] * 4, "contentBlockStop", "messageStop", "metadata",
    ]  # fmt: skip
    assert converse.text(converse.collect(events)) == WORDS


def test_events_arrive_while_the_engine_still_writes_and_hanging_up_closes_its_stream():
    engine = Played({"messageStart": {"role": "assistant"}}, forever=True)
    with Scripted(engine) as endpoint:
        client = connect(endpoint)
        events = client.converse_stream(**converse.request("Go on", model="m"))["stream"]
        assert next(iter(events)) == {"messageStart": {"role": "assistant"}}
        assert not engine.closed.is_set()
        events.close()
        client.close()
        assert engine.closed.wait(5)


def test_bytes_pass_in_both_directions_wherever_the_shapes_have_them():
    data = bytes(range(256))
    engine = Played(
        {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"redactedContent": data}}}},
        {"messageStop": {"stopReason": "end_turn"}},
    )
    image = {"image": {"format": "png", "source": {"bytes": data}}}
    fields = {"bytes": "not a blob"}
    asked = converse.request([{"role": "user", "content": [image]}], model="m", fields=fields)
    with Scripted(engine) as endpoint:
        client = connect(endpoint)
        reply = client.converse(**asked)
        assert reply["output"]["message"]["content"] == [{"reasoningContent": {"redactedContent": data}}]
        assert engine.asked == asked
        assert list(client.converse_stream(**asked)["stream"]) == list(engine.events)
        client.close()


def test_an_engines_errors_have_the_status_and_code_that_boto3_knows(client):
    with pytest.raises(client.exceptions.ValidationException, match="blank") as caught:
        client.converse(**converse.request(" ", model="echo"))
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert caught.value.response["ResponseMetadata"]["RequestId"]


def test_an_engines_error_in_mid_stream_is_an_exception_frame():
    def failing():
        yield {"messageStart": {"role": "assistant"}}
        raise converse.error("ThrottlingException", "Slow down")

    with Scripted(Played()) as endpoint:
        endpoint.engine.events = failing()
        client = connect(endpoint)
        stream = client.converse_stream(**converse.request("Hi", model="m"))["stream"]
        with contextlib.closing(stream), pytest.raises(EventStreamError, match=r"\(throttlingException\).*Slow"):
            list(stream)
        client.close()


def test_an_unknown_route_is_answered_as_aws_does(endpoint):
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"))
    connection.request("POST", "/model/m/sing", body=b"{}")
    response = connection.getresponse()
    assert (response.status, b"UnknownOperationException" in response.read()) == (404, True)
    connection.close()


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (failure(429, "ThrottlingException", "Too many"), ClientError, "ThrottlingException.*Too many"),
        (failure(403, "AccessDeniedException", "No", key="Message"), ClientError, "AccessDeniedException.*No"),
        (reply(502, b"<html>", {}), ClientError, r"\(502\).*Bad Gateway"),
        (reply(body=b'{"output":'), KeyError, "output"),
        (SILENCE, ReadTimeoutError, "."),
        (late(0.5), ReadTimeoutError, "."),
        (CLOSED, ConnectionClosedError, "."),
        (REFUSED, ConnectionClosedError, "."),
    ],
)
def test_a_fault_meets_one_request_and_the_next_one_is_answered(endpoint, client, fault, error, text):
    endpoint.script.append(fault)
    asked = converse.request(WORDS, model="echo")
    with pytest.raises(error, match=text):
        converse.text(client.converse(**asked))
    assert converse.text(client.converse(**asked)) == WORDS
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("pieces", "error", "text"),
    [
        ([], None, None),
        ([DELTA[:-3]], None, None),
        ([HANGUP], HTTPError, "."),
        ([RESET], HTTPError, "reset"),
        ([STALL], HTTPError, "timed out"),
        ([corrupted(DELTA)], ChecksumMismatch, "."),
        ([unmodelled("Strange", "Things")], EventStreamError, r"\(Strange\).*Things"),
        *(
            ([exception(f"{kind}Exception", "Things")], EventStreamError, rf"\({kind}Exception\).*Things")
            for kind in ("internalServer", "modelStreamError", "validation", "throttling", "serviceUnavailable")
        ),
    ],
)
def test_a_fault_cuts_a_stream_after_some_events(endpoint, client, pieces, error, text):
    endpoint.script.append(broken(3, *pieces))
    stream = client.converse_stream(**converse.request(WORDS, model="echo"))["stream"]
    outcome = pytest.raises(error, match=text) if error else contextlib.nullcontext()
    arrived = []
    with contextlib.closing(stream), outcome:  # botocore takes a clean cut for the end
        arrived.extend(stream)
    assert len(arrived) == 3


CONTENT = [
    {"reasoningContent": {"reasoningText": {"text": "They want the weather.", "signature": "c2ln"}}},
    {"text": "Let me look that up."},
    {"toolUse": {"toolUseId": "tooluse_1", "name": "weather", "input": {"city": "Zürich", "days": [1, 2, 3]}}},
    {"toolUse": {"toolUseId": "tooluse_2", "name": "time", "input": {}}},
]


def test_content_blocks_of_every_kind_reach_a_client_in_one_piece_and_in_events(endpoint, client):
    asked = converse.request(WORDS, model="m")
    endpoint.script += [answer(*CONTENT, stop="tool_use")] * 2
    whole = client.converse(**asked)
    events = list(client.converse_stream(**asked)["stream"])
    folded = converse.collect(events)
    for response in (whole, folded):
        assert (response["output"]["message"]["content"], response["stopReason"]) == (CONTENT, "tool_use")
    assert folded["usage"] == whole["usage"]
    fragments = [event for event in events if "toolUse" in event.get("contentBlockDelta", {}).get("delta", {})]
    assert len(fragments) > 3
    assert converse.text(client.converse(**asked)) == WORDS


def test_a_function_answers_each_request_as_it_sees_fit(endpoint, client):
    refusal = failure(400, "ValidationException", "This model doesn't support the toolConfig field.")
    endpoint.respond = lambda request: refusal if "toolConfig" in request else answer(request["modelId"])
    tool = {"toolSpec": {"name": "a", "inputSchema": {"json": {"type": "object"}}}}
    asked = converse.request(WORDS, model="m")
    with pytest.raises(ClientError, match="toolConfig"):
        client.converse(**asked, toolConfig={"tools": [tool]})
    assert converse.text(client.converse(**asked)) == "m"
    assert list(converse.deltas(client.converse_stream(**asked))) == ["m"]
