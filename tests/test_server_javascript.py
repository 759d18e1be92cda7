"""The server as the AWS SDK for JavaScript has it: over HTTP/2 (its default) and HTTP/1.1, in the clear and over TLS.

`javascript/scenarios.mjs` asks; what it got is looked at here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from bx.converse import Stream, collect
from bx.engines.echo import Echo
from bx.instances import violation
from bx.server.endpoint import Endpoint, Options, Route
from scripted import answer, events_of

FOLDER = Path(__file__).with_name("javascript")
NODE = shutil.which("node")
pytestmark = [
    pytest.mark.skipif(NODE is None, reason="Node.js is not installed"),
    pytest.mark.skipif(
        not (FOLDER / "node_modules").is_dir(),
        reason="the AWS SDK for JavaScript is not installed: npm install --prefix tests/javascript",
    ),
]
WAIT = 60  # seconds: far longer than all scenarios take
SCHEMA = {
    "type": "object",
    "properties": {"service": {"enum": ["checkout", "search"]}, "minutes": {"type": "integer"}},
    "required": ["service", "minutes"],
    "additionalProperties": False,
}
CALL = {"toolUse": {"toolUseId": "tooluse_1", "name": "add", "input": {"a": 1, "b": 2}}}
EXCEPTIONS = {
    "ThrottlingException": 429,
    "ServiceUnavailableException": 503,
    "InternalServerException": 500,
    "ModelTimeoutException": 408,
    "ModelErrorException": 424,
    "ModelNotReadyException": 429,
    "ValidationException": 400,
    "AccessDeniedException": 403,
    "ResourceNotFoundException": 404,
    "ExpiredTokenException": 403,
    "UnrecognizedClientException": 403,
}
IN_STREAMS = [
    "ThrottlingException",
    "ServiceUnavailableException",
    "InternalServerException",
    "ModelStreamErrorException",
    "ValidationException",
]
FAULTS = [
    *({"fault": name, "model": f"*/{name}", "message": "As scripted."} for name in EXCEPTIONS),
    *({"fault": name, "model": f"*/stream-{name}", "message": "As scripted.", "after": 3} for name in IN_STREAMS),
    *({"fault": name, "model": f"*/{name}", "after": 3} for name in ("truncate", "hangup", "reset", "bad-crc")),
]


class Stage:
    """An engine that does what its prompt names, and else repeats it."""

    def __init__(self):
        self.go_on, self.closed = threading.Event(), threading.Event()

    def converse(self, **request):
        return collect(self.converse_stream(**request)["stream"])

    def count_tokens(self, **request):
        return Echo().count_tokens(**request)

    def converse_stream(self, **request):
        last = request["messages"][-1]["content"][-1]
        if "toolResult" in last:
            return played(answer(f"It is {last['toolResult']['content'][0]['json']['sum']}."))
        plays = {"pause": self.pause, "forever": self.forever, "go on": self.goes_on, "closed?": self.is_closed}
        if last["text"] in plays:
            return plays[last["text"]]()
        if "toolConfig" in request:
            return played(answer("Let me see.", CALL, stop="tool_use"))
        if "outputConfig" in request:
            return played(answer('{"service": "search", "minutes": 1}'))
        return Echo().converse_stream(**request)

    def pause(self):
        self.go_on.clear()
        return spoken(self.paused(), lambda: None)

    def paused(self):
        yield "before"
        yield "after" if self.go_on.wait(10) else "nobody asked"

    def goes_on(self):
        self.go_on.set()
        return played(answer("Going on."))

    def forever(self):
        closed = self.closed = threading.Event()
        return spoken(endless(closed), closed.set)

    def is_closed(self):
        return played(answer("yes" if self.closed.wait(1) else "no"))


def played(response):
    events = events_of(response)
    return {"stream": Stream(events, events.close)}


def endless(closed):
    while not closed.wait(0.01):
        yield "more"


def spoken(words, close):
    def events():
        yield {"messageStart": {"role": "assistant"}}
        for word in words:
            yield {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": word}}}
        yield {"contentBlockStop": {"contentBlockIndex": 0}}
        yield {"messageStop": {"stopReason": "end_turn"}}
        usage = {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}
        yield {"metadata": {"usage": usage, "metrics": {"latencyMs": 1}}}

    return {"stream": Stream(events(), close)}


@pytest.fixture(scope="module", params=["http", "https"])
def endpoint(request, loaded, fetched_weights, tmp_path_factory):
    secure = {"self_signed": tmp_path_factory.mktemp("tls")} if request.param == "https" else {}
    embedded = Route("us.anthropic.claude-haiku-*", loaded, f"local:{fetched_weights}")
    routes = [] if secure else [embedded]  # which is the slowest part of it
    with Endpoint([*routes, Route("*", Stage(), "stage")], Options(faults=FAULTS, **secure)) as running:
        yield running


@pytest.fixture(scope="module", params=["default", "http1"])
def got(request, endpoint):
    """What the scenarios got, by their names."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NODE_"))}
    trusted = {"NODE_EXTRA_CA_CERTS": str(endpoint.authority)} if endpoint.authority else {}
    done = subprocess.run(
        [NODE, str(FOLDER / "scenarios.mjs"), endpoint.url, request.param],
        env={**plain, **trusted},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {"transport": request.param, **{line["name"]: line["result"] for line in lines}}


def test_converse_is_answered(got):
    result = got["converse"]
    assert result.pop("requestId")
    usage = {"inputTokens": 3, "outputTokens": 3, "totalTokens": 6}
    assert result == {"content": [{"text": "one two three"}], "stopReason": "end_turn", "usage": usage}


def test_a_stream_is_answered(got):
    assert (got["stream"]["text"], got["stream"]["stop"]) == ("one two three", "end_turn")
    assert (got["stream"]["kinds"][0], got["stream"]["kinds"][-1]) == ("messageStart", "metadata")
    assert got["stream"]["usage"]["totalTokens"] == 6


def test_streams_side_by_side_are_not_mixed_up(got):
    assert got["many"] == [f"number {number}" for number in range(20)]


def test_an_arn_arrives(got):
    assert got["arn"] == [{"text": "here"}]


def test_a_tool_makes_its_round_trip(got):
    assert (got["tools"]["stop"], got["tools"]["said"]) == ("tool_use", [{"text": "It is 3."}])
    streamed = got["tools"]["streamed"]
    assert (streamed["text"], json.loads(streamed["input"])) == ("Let me see.", {"a": 1, "b": 2})
    assert streamed["stop"] == "tool_use"


def test_a_schema_is_passed_on_and_enforced(got):
    assert len(got["structured"]) == 2
    for written in got["structured"]:
        assert not violation(json.loads(written), SCHEMA)


def test_native_bodies_are_answered(got):
    assert got["native"]["whole"]["content"] == [{"type": "text", "text": "one two three"}]
    assert got["native"]["text"] == "one two three"


def test_tokens_are_counted(got):
    assert got["count"] == 3


def test_the_control_plane_is_answered(got):
    assert got["control"]["same"] is True
    assert set(got["control"]["pages"][:-1]) == {7}
    assert got["control"]["unknown"]["status"] == 404


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("base", "with on-demand throughput isn't supported"),
        ("conversation", "A conversation must start with a user message."),
        ("constraint", "Value at 'inferenceConfig.temperature' failed to satisfy constraint"),
        ("image", "This model doesn't support the image field"),
    ],
)
def test_a_request_is_refused_by_the_modelled_error(got, case, says):
    for told in got["refusals"][case]:
        assert (told["name"], told["status"]) == ("ValidationException", 400)
        assert says in told["message"]
        assert told["requestId"]


def test_every_exception_is_the_modelled_one(got):
    told = {name: (error["name"], error["status"], error["message"]) for name, error in got["exceptions"].items()}
    assert told == {name: (name, status, "As scripted.") for name, status in EXCEPTIONS.items()}


def test_an_exception_within_a_stream_ends_it(got):
    assert set(got["exceptionsInStreams"]) == set(IN_STREAMS)
    for name, read in got["exceptionsInStreams"].items():
        assert len(read["kinds"]) == 3
        assert (read["error"]["name"], read["error"]["message"]) == (name, "As scripted.")


def test_a_stream_that_breaks_is_no_whole_answer(got):
    for read in got["broken"].values():
        assert "stop" not in read
    assert len(got["broken"]["truncate"]["kinds"]) == 3
    assert "checksum" in got["broken"]["bad-crc"]["error"]["message"]
    if got["transport"] == "http1":  # over HTTP/2 the SDK takes the end of the connection for that of the stream
        assert got["broken"]["hangup"]["error"]["name"]
        assert got["broken"]["reset"]["error"]["name"]


def test_a_word_leaves_when_the_engine_yields_it(got):
    assert got["incremental"] == ["before", "after"]


def test_hanging_up_closes_the_answer_within_a_second(got):
    assert got["hangupOnStream"] == {"count": 3, "closed": "yes"}
    assert got["hangupOnCall"] == {"error": "AbortError", "closed": "yes"}
