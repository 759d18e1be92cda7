"""Whatever is sent to a server, it answers or hangs up at once, fails at nothing, and answers the next one."""

from __future__ import annotations

import contextlib
import copy
import http.client
import itertools
import json
import logging
import random
import socket
import struct
import time
import urllib.parse

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import bx
from bx.server.http import Limits
from scripted import answer, events_of

WAIT = 10  # seconds: far longer than anything here takes
MODEL = "amazon.nova-lite-v1:0"
ASKED = {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}
TOOL = {"name": "add", "description": "adds", "inputSchema": {"json": {"type": "object"}}}
FULL = {
    "messages": [
        {"role": "user", "content": [{"text": "hi"}, {"cachePoint": {"type": "default"}}]},
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t1", "name": "add", "input": {"a": [1, 2.5]}}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": "3"}]}}]},
    ],
    "system": [{"text": "be brief"}],
    "inferenceConfig": {"maxTokens": 10, "temperature": 0.5, "stopSequences": ["x"]},
    "toolConfig": {"tools": [{"toolSpec": TOOL}], "toolChoice": {"auto": {}}},
    "additionalModelRequestFields": {"top_k": 5},
    "requestMetadata": {"team": "a"},
}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(SCHEMA), "name": "a"}}}
SEEN = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"text": "what is it?"},
                {"image": {"format": "png", "source": {"bytes": "iVBORw0KGgo="}}},
                {"document": {"format": "txt", "name": "a file", "source": {"bytes": "aGk="}}},
                {"guardContent": {"text": {"text": "x", "qualifiers": ["query"]}}},
            ],
        }
    ],
    "inferenceConfig": {"maxTokens": 2000},
    "outputConfig": {"textFormat": FORMAT},
    "additionalModelRequestFields": {
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "anthropic_beta": ["context-1m-2025-08-07"],
        "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"},
    },
    "performanceConfig": {"latency": "standard"},
}
NATIVE = {
    "anthropic_version": "bedrock-2023-05-31",
    "max_tokens": 9,
    "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "3"}]},
    ],
    "tools": [{"name": "add", "input_schema": SCHEMA}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "disabled"},
}
CALL = {"id": "t1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
OPENAI = {
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "t1", "content": "3"},
    ],
    "max_completion_tokens": 9,
    "tools": [{"type": "function", "function": {"name": "add", "parameters": SCHEMA}}],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    "stop": ["x"],
}
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
GOOD = [
    (f"/model/{MODEL}/converse", ASKED),
    (f"/model/{MODEL}/converse", FULL),
    (f"/model/{CLAUDE}/converse-stream", FULL),
    (f"/model/{CLAUDE}/invoke", {**NATIVE, "messages": [{"role": "user", "content": "hi"}], "stop_sequences": ["x"]}),
    (f"/model/{CLAUDE}/converse", SEEN),
    ("/model/us.amazon.nova-2-lite-v1:0/converse-stream", SEEN),
    (f"/model/{CLAUDE}/invoke-with-response-stream", NATIVE),
    ("/model/openai.gpt-oss-20b-1:0/invoke", OPENAI),
    ("/model/openai.gpt-oss-20b-1:0/invoke-with-response-stream", {**OPENAI, "stream": True}),
    (f"/model/{MODEL}/invoke-with-response-stream", {**ASKED, "inferenceConfig": {"maxTokens": 9}}),
    ("/model/openai.gpt-oss-20b-1:0/invoke", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}),
    (f"/model/{MODEL}/count-tokens", {"input": {"converse": ASKED}}),
    (
        f"/model/{CLAUDE.removeprefix('us.')}/count-tokens",
        {"input": {"converse": {"messages": FULL["messages"], "toolConfig": FULL["toolConfig"]}}},
    ),
    ("/guardrail/g/version/1/apply", {"source": "INPUT", "content": [{"text": {"text": "hi"}}]}),
    ("/_bx/faults", {"fault": "ThrottlingException", "model": "no.such", "nth": 3}),
]
QUOTA = "quota,tpm=1000000000"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

fuzzed = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


class _Failures(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.kept = []

    def emit(self, record):
        self.kept.append(record)


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    kind = getattr(request, "param", "lenient")
    record = tmp_path_factory.mktemp("recordings") if kind == "recording" else None
    engine = None if kind == "lenient" else Willing()
    model = None if engine else "echo"
    with bx.serve(engine, model=model, strict=kind == "strict", record=record) as running:
        yield running


servers = pytest.mark.parametrize("server", ["strict", "lenient", "recording"], indirect=True)


class Willing:
    """An engine that takes whatever it gets, and calls a tool."""

    def converse(self, **request):
        return answer("ok", {"toolUse": {"toolUseId": "t2", "name": "add", "input": {"a": 1}}}, stop="tool_use")

    def converse_stream(self, **request):
        return {"stream": events_of(self.converse())}

    def count_tokens(self, **request):
        return {"inputTokens": 1}


@pytest.fixture
def port(server):
    """A running server's port; afterwards it has failed at nothing, and answers."""
    failures = _Failures()
    names = ("bx.server", "asyncio", "uvicorn.error")
    for name in names:
        logging.getLogger(name).addHandler(failures)
    found = int(server.url.rpartition(":")[2])
    server.faults.add(QUOTA)
    yield found
    server.faults.clear()
    for name in names:
        logging.getLogger(name).removeHandler(failures)
    assert [record.getMessage() + "\n" + str(record.exc_info) for record in failures.kept] == []
    status, _, body = ask(found, "POST", *GOOD[0])
    assert (status, "stopReason" in json.loads(body)) == (200, True)


def ask(port, method, path, body, headers=None):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)) as connection:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def raw(port, data, *, ends=True):
    """Send bytes, and read until the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as client:
        answer = b""
        try:
            client.sendall(data)
            if ends:
                client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65536):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):  # it had hung up before all was sent
            pass
        return answer


def request(path=GOOD[0][0], body=None, *, method="POST", head=b"", length=None):
    data = json.dumps(ASKED).encode() if body is None else body
    line = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode("latin-1")
    return line + head + f"Content-Length: {len(data) if length is None else length}\r\n\r\n".encode() + data


def check(status, headers, body):
    """A reply is one that the service could give."""
    assert status < 500 or status == 503, (status, body)
    assert headers["x-amzn-requestid"]
    assert b"Traceback" not in body
    if headers["content-type"] == "application/vnd.amazon.eventstream":
        buffer = EventStreamBuffer()
        buffer.add_data(body)
        for message in buffer:
            json.loads(message.payload)
            assert message.headers[":message-type"] in ("event", "exception")
    elif headers["content-type"] == "application/json":
        json.loads(body)


# ---- bodies ---------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec=None), max_size=8) | st.sampled_from(
    ["", "text", "user", "\ud800", "\0", "a" * 99]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 10**400, 1e308, 2**63])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*path, key))


@st.composite
def mutated(draw):
    """A good request's path, and its body with something else, less, or more at some places."""
    path, body = draw(st.sampled_from(GOOD))
    whole = {"": copy.deepcopy(body)}
    for _ in range(draw(st.integers(0, 2))):
        *way, last = draw(st.sampled_from(list(places(whole))[1:]))
        target = whole
        for key in way:
            target = target[key]
        change = draw(st.sampled_from(["replace", "remove", "add", "repeat"]))
        if change == "replace" or last == "":
            target[last] = draw(VALUES)
        elif change == "remove":
            del target[last]
        elif change == "add" and isinstance(target, dict):
            target[draw(TEXTS)] = draw(VALUES)
        elif isinstance(target, list):
            target += [copy.deepcopy(target[last])] * draw(st.integers(1, 30))
    return path, whole[""]


@servers
@fuzzed
@given(mutated())
@example((GOOD[0][0], {**ASKED, "additionalModelRequestFields": {"\r\nx-evil: 1": 1}}))
@example((GOOD[0][0], {**ASKED, "requestMetadata": {"\ud800": "\ud800"}}))
def test_a_body_that_is_almost_good_is_answered_as_the_service_would(port, server, case):
    path, body = case
    server.faults.clear()  # one that was fuzzed could hit all the others
    server.faults.add(QUOTA)
    check(*ask(port, "POST", path, body))


@fuzzed
@given(st.sampled_from([path for path, _ in GOOD]), st.binary(max_size=200))
@example(GOOD[0][0], b"\xff\xfe{}")
@example(GOOD[0][0], b"\0")
@example(GOOD[0][0], b"\xef\xbb\xbf{}")
@example(GOOD[0][0], b'{"messages":' + b"9" * 10_000 + b"}")
@example(GOOD[0][0], b'{"a":NaN}')
def test_a_body_of_any_bytes_is_answered(port, path, body):
    check(*ask(port, "POST", path, body))


def nested(depth, opening, closing):
    return opening * depth + b"1" + closing * depth


@servers
@pytest.mark.parametrize("path", sorted({path for path, _ in GOOD}))
@pytest.mark.parametrize("depth", [90, 300, 500, 950, 200_000])
def test_what_is_nested_deeply_is_refused_or_answered(port, path, depth):
    fields = (b"messages", b"additionalModelRequestFields", b"input", b"faults", b"top_k")
    for field, (opening, closing) in itertools.product(fields, ((b"[", b"]"), (b'{"a":', b"}"))):
        deep = nested(depth, opening, closing)
        good = json.dumps({**ASKED, "anthropic_version": "bedrock-2023-05-31", "max_tokens": 9})[1:-1].encode()
        check(*ask(port, "POST", path, b"{" + good + b',"' + field + b'":' + deep + b"}"))
        check(*ask(port, "POST", path, deep))


# ---- heads ----------------------------------------------------------------------------------------------------

SEGMENTS = st.sampled_from(
    [
        "model",
        MODEL,
        "converse",
        "..",
        ".",
        "%00",
        "%2F%2F",
        "%2e%2e",
        "..%2f",
        "%",
        "%zz",
        "%ff",
        "",
        "_bx",
        "faults",
    ]
) | st.text("abc%:/.~-_ é\0", max_size=6).map(urllib.parse.quote)
NAMES = st.sampled_from(
    ["Content-Type", "Accept", "Authorization", "Origin", "Sec-Fetch-Site", "X-Amz-Date", "Cookie"]
)
HEADERS = st.dictionaries(NAMES, st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=30))


@fuzzed
@given(st.lists(SEGMENTS, max_size=5), st.text("abc=&%?/+\xff#", max_size=12), HEADERS)
@example(["model", "a" * 5000, "converse"], "", {})
@example(["model", MODEL, "converse"], "", {"Origin": "http://[::1"})
@example(["model", MODEL, "converse"], "", {"Authorization": "AWS4-HMAC-SHA256 Credential=/////"})
def test_any_path_query_and_headers_are_answered(port, segments, query, headers):
    path = "/" + "/".join(segments) + (f"?{query}" if query else "")
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
    for method in ("POST", "GET"):
        answer = raw(port, request(path, method=method, head=head), ends=False)
        assert answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 4")), answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(method="BREW"), 404),
        (request(method="OPTIONS"), 404),
        (request("*", method="OPTIONS"), 404),
        (request("localhost:80", method="CONNECT"), 404),
        (request(method="TRACE"), 404),
        (request("http://localhost/_bx/health", method="GET"), 404),
        (request("/model/a%00b/converse"), 400),
        (request("/model/a\0b/converse"), 400),
        (request("/model/\xff/converse"), 400),
        (request("/model/..%2F..%2Fetc%2Fpasswd/converse"), 400),
        (request("/model/../../etc/passwd"), 404),
        (request("//model//x//converse"), 404),
        (request(length=5), 400),
        (request(length=-1), 400),
        (request(length="1, 2"), 400),
        (request(length=10**30), 400),
        (request(head=b"Transfer-Encoding: gzip\r\n"), 400),
        (request(head=b"Host: localhost\r\n"), 400),
        (request(head=b"No colon\r\n"), 400),
        (request(head=b"X: a\0b\r\n"), 400),
        (request(head=b"X: " + b"y" * 200_000 + b"\r\n"), 400),
        (request(head=b"".join(b"X-%d: y\r\n" % index for index in range(20_000))), 400),
        (request(head=b"Expect: 100-continue\r\n"), 100),
        (request(head=b"Expect: a miracle\r\n"), 200),
        (request(head=b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"), 200),
        (request(head=b"Upgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"), 200),
        (request().replace(b"HTTP/1.1", b"HTTP/1.0"), 200),
        (b"\x16\x03\x01\x00\xa5\x01" + bytes(100), 400),
        (b"\0" * 100, 400),
    ],
)
def test_a_request_that_is_odd_has_its_status(port, sent, status):
    answer = raw(port, sent, ends=False)
    # A client that still sends when it is hung up on may see nothing of the reply.
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) or (not answer and len(sent) > 65536)


@pytest.mark.parametrize("end", [b"abc", b"5\r\nab", b"zz\r\nab\r\n", b"-1\r\n", b"f" * 40 + b"\r\n", b""])
def test_a_body_in_chunks_that_breaks_off_or_is_none_ends_the_connection(port, end):
    head = b"POST /model/x/converse HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert raw(port, head + end)[:12] in (b"", b"HTTP/1.1 400")


def test_requests_in_a_row_that_wait_for_no_reply_are_answered_in_their_order(port):
    sent = b"".join(request(body=json.dumps(said(str(index))).encode(), head=b"") for index in range(20))
    sent = sent.replace(b"Connection: close\r\n", b"", 19)
    texts = [part.partition(b'"}]}}')[0] for part in raw(port, sent, ends=False).split(b'"text":"')[1:]]
    assert texts == [str(index).encode() for index in range(20)]


def said(text):
    return {"messages": [{"role": "user", "content": [{"text": text}]}]}


# ---- bytes ----------------------------------------------------------------------------------------------------


def frame(kind, flags, stream, payload):
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def packed(*pairs):
    """Header fields of less than 127 bytes, as HPACK has them without its tables."""
    return b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in pairs)


CONVERSE = GOOD[0][0].encode()


def http2(*more, path=CONVERSE, method=b"POST", authority=b"localhost", body=None):
    """A connection with one request, from its preface on."""
    fields = ((b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", authority), *more)
    data = json.dumps(ASKED).encode() if body is None else body
    return PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, packed(*fields)) + frame(0, 1, 1, data)


def spoiled(data, draw):
    """Some bytes changed, taken out, put in or repeated."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(found) + 1)
        change = draw.randrange(4)
        if change == 0 and place < len(found):
            found[place] = draw.randrange(256)
        elif change == 1:
            del found[place : place + draw.randint(1, 20)]
        elif change == 2:
            found[place:place] = draw.randbytes(draw.randint(1, 20))
        else:
            found[place:place] = found[place : place + draw.randint(1, 200)]
    return bytes(found)


@pytest.mark.parametrize("kind", ["http1", "http2"])
@pytest.mark.parametrize("seed", range(150))
def test_spoiled_bytes_are_answered_or_hung_up_on(port, kind, seed):
    draw = random.Random(f"{kind}{seed}")
    path, body = draw.choice(GOOD)
    data = json.dumps(body).encode()
    good = request(path, data) if kind == "http1" else http2(path=path.encode(), body=data)
    answer = raw(port, spoiled(good, draw))
    if answer.startswith(b"HTTP/1.1 "):
        assert answer[9:10] in b"124", answer


@pytest.mark.parametrize("seed", range(30))
def test_garbage_after_the_preface_of_http2_is_hung_up_on(port, seed):
    pytest.importorskip("zttp", reason="there is no HTTP/2 without it")
    draw = random.Random(seed)
    frames = [frame(draw.randrange(12), draw.randrange(256), draw.randrange(4), draw.randbytes(9)) for _ in range(20)]
    garbage = draw.choice([draw.randbytes(2000), b"".join(frames), frame(4, 0, 0, b"") + b"".join(frames)])
    assert not raw(port, PREFACE + garbage).startswith(b"HTTP/1.1 2")


def replied(data):
    """The kinds of the frames that came, besides settings."""
    kinds = []
    while len(data) >= 9:
        length = int.from_bytes(data[:3], "big")
        kinds.append(data[3])
        data = data[9 + length :]
    return [{0: "data", 1: "headers", 3: "reset", 7: "goaway"}[kind] for kind in kinds if kind not in (4, 6, 8)]


@pytest.mark.parametrize(
    "sent",
    [
        http2(path=b"/\xff\xfe"),
        http2(path=b"/a\0b"),
        http2(path=b"/a\r\nX-Evil: 1"),
        http2(path=b"/a\x1b[2J"),
        http2(path=b""),
        http2(method=b"A\r\nB"),
        http2(method=b"\xff"),
        http2((b"x", b"a\r\nb")),
        http2((b"X-Upper", b"a")),
        http2((b"connection", b"close")),
        http2((b":path", b"/")),
        http2((b"host", b"evil.example")),
        http2((b"content-length", b"5")),
        http2((b"content-length", b"many")),
    ],
)
def test_an_http2_request_that_is_none_is_reset_and_its_connection_goes_on(port, sent):
    pytest.importorskip("zttp", reason="there is no HTTP/2 without it")
    fields = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/_bx/health"), (b":authority", b"localhost"))
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as client:
        client.sendall(sent + frame(1, 5, 3, packed(*fields)))
        data = b""
        while "data" not in replied(data):
            piece = client.recv(65536)
            assert piece, replied(data)
            data += piece
    assert replied(data)[0] == "reset"
    assert "headers" in replied(data)


def test_http2_heads_without_end_and_streams_that_are_reset_at_once_are_hung_up_on(port):
    pytest.importorskip("zttp", reason="there is no HTTP/2 without it")
    fields = packed(
        (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/_bx/health"), (b":authority", b"localhost")
    )
    endless = frame(1, 0, 1, fields) + b"".join(frame(9, 0, 1, packed((b"x", b"y" * 120)) * 100) for _ in range(50))
    assert "headers" not in replied(raw(port, PREFACE + frame(4, 0, 0, b"") + endless, ends=False))
    hasty = b"".join(frame(1, 5, n, fields) + frame(3, 0, n, struct.pack("!I", 8)) for n in range(1, 10_001, 2))
    raw(port, PREFACE + frame(4, 0, 0, b"") + hasty, ends=False)


@pytest.mark.parametrize(
    ("begun", "drop"),
    [
        (frame(1, 0, 1, packed((b":method", b"GET"))), frame(9, 0, 1, packed((b"x", b"y")))),
        (b"", frame(6, 0, 0, b"12345678")),
    ],
    ids=["head", "ping"],
)
def test_an_http2_client_that_never_comes_to_a_request_is_hung_up_on(begun, drop):
    pytest.importorskip("zttp", reason="there is no HTTP/2 without it")
    with bx.serve(model="echo", limits=Limits(idle=0.3)) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=0.1) as client:
            client.sendall(PREFACE + frame(4, 0, 0, b"") + begun)
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):
                while time.monotonic() - began < 3:
                    client.sendall(drop)
                    time.sleep(0.1)
                    with contextlib.suppress(TimeoutError):
                        if not client.recv(65536):
                            break
        assert time.monotonic() - began < 2
