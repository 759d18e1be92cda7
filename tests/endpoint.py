"""A Bedrock runtime on the loopback: any engine behind `converse` and `converse-stream` on AWS's wire, with faults.

    with Endpoint() as endpoint:
        endpoint.script.append(failure(429, "ThrottlingException", "Too many requests"))
        endpoint.script.append(broken(2, RESET))
        ...a real client, pointed at endpoint.url...
        assert endpoint.requests[0].model == "amazon.nova-lite-v1:0"

Each request takes the next item of `script`; when there is none, `respond(request)` answers it where that is set,
and else the engine. An item is the `Reply` to send, a function that changes the ordinary reply, or a whole response
of Converse, as `answer` makes them; `respond` gives a response or a `Reply`. ConverseStream gets it as events:

    call = {"toolUse": {"toolUseId": "tooluse_1", "name": "add", "input": {"a": 1}}}
    endpoint.script.append(answer("Let me see.", call, stop="tool_use"))
    endpoint.respond = lambda request: answer("No") if "outputConfig" in request else failure(400, ...)
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import itertools
import json
import re
import select
import socket
import struct
import sys
import threading
import time
import urllib.parse
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel

from bx.engines.echo import Echo

if TYPE_CHECKING:
    from email.message import Message

    from bx.converse import Engine


class Act(Enum):
    """What a body can do besides sending bytes."""

    STALL = "send nothing more until the client hangs up"
    HANGUP = "close the connection without the end of the body"
    RESET = "reset the connection"


STALL, HANGUP, RESET = Act


class Reply(NamedTuple):
    """An HTTP response. A `body` of bytes has a length; one of pieces is sent in chunks, each as it comes.

    Status 0 sends no status line and no headers. `wait` is the seconds before the first byte.
    """

    status: int = 200
    body: bytes | Iterable[bytes | Act] = b""
    headers: Mapping[str, str] = {"Content-Type": "application/json"}
    wait: float = 0


Fault = Reply | Callable[[Reply], Reply] | dict[str, Any]

SILENCE = Reply(0, [STALL])
CLOSED = Reply(0, [HANGUP])
REFUSED = Reply(0, [RESET])


def failure(status: int, code: str, message: str, *, key: str = "message", **members: Any) -> Reply:
    """AWS's way to say no. IAM spells the `key` of the text `Message`; `members` stand beside it."""
    kind = {"x-amzn-errortype": f"{code}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
    return Reply(status, json.dumps({key: message, **members}).encode(), {"Content-Type": "application/json", **kind})


def answer(*content: str | dict[str, Any], stop: str = "end_turn", **members: Any) -> dict[str, Any]:
    """A response of Converse with content blocks; a text stands for its block, `members` replace others.

    A `toolUse` whose input is a text reaches a stream as that text, JSON or not.
    """
    blocks = [{"text": block} if isinstance(block, str) else block for block in content]
    usage = {"inputTokens": 7, "outputTokens": 5, "totalTokens": 12}
    message = {"role": "assistant", "content": blocks}
    return {
        "output": {"message": message},
        "stopReason": stop,
        "usage": usage,
        "metrics": {"latencyMs": 1},
        **members,
    }


def events_of(response: dict[str, Any]) -> Generator[dict[str, Any]]:
    """The events that AWS sends for a response: each block in several pieces."""
    message = response["output"]["message"]
    yield {"messageStart": {"role": message["role"]}}
    for index, block in enumerate(message["content"]):
        place = {"contentBlockIndex": index}
        if call := block.get("toolUse"):
            start = {name: value for name, value in call.items() if name != "input"}
            yield {"contentBlockStart": {**place, "start": {"toolUse": start}}}
        for delta in _deltas(block):
            yield {"contentBlockDelta": {**place, "delta": delta}}
        yield {"contentBlockStop": place}
    fields = ("stopReason", "additionalModelResponseFields")
    yield {"messageStop": {name: response[name] for name in fields if name in response}}
    yield {"metadata": {name: response[name] for name in response if name not in ("output", *fields)}}


def _deltas(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    ((kind, value),) = block.items()
    if kind == "text":
        yield from ({"text": piece} for piece in _pieces(value))
    elif kind == "toolUse":
        given = value["input"]
        written = given if isinstance(given, str) else json.dumps(given)
        yield from ({"toolUse": {"input": piece}} for piece in ("", *_pieces(written)))
    elif kind == "reasoningContent":
        for name, part in {**value, **value.get("reasoningText", {})}.items():
            if name != "reasoningText":
                yield from ({kind: {name: piece}} for piece in (_pieces(part) if name == "text" else [part]))
    else:
        raise ValueError(f"no way to stream a block of {kind}")


def _pieces(text: str) -> list[str]:
    return [text[start : start + 8] for start in range(0, len(text), 8)]


def late(seconds: float) -> Fault:
    """The engine's reply, after a while."""
    return lambda reply: reply._replace(wait=seconds)


def broken(after: int, *pieces: bytes | Act) -> Fault:
    """The engine's stream, cut after some events; then `pieces`, and a clean end if these do not prevent it."""

    def cut(frames: Generator[bytes]) -> Iterator[bytes | Act]:
        with contextlib.closing(frames):
            yield from itertools.islice(frames, after)
        yield from pieces

    return lambda reply: reply._replace(body=cut(reply.body))


def event(kind: str, body: dict[str, Any]) -> bytes:
    """A frame with an event of ConverseStream."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, _json(body))


def exception(kind: str, message: str, **members: Any) -> bytes:
    """A frame with a modelled exception, named as `throttlingException` is."""
    headers = {":message-type": "exception", ":exception-type": kind, ":content-type": "application/json"}
    return frame(headers, _json({"message": message, **members}))


def unmodelled(code: str, message: str) -> bytes:
    """A frame of the message type `error`."""
    return frame({":message-type": "error", ":error-code": code, ":error-message": message}, b"")


def corrupted(whole: bytes) -> bytes:
    """A frame whose last checksum is wrong."""
    return whole[:-1] + bytes([whole[-1] ^ 0xFF])


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """Encode a message of the AWS event stream."""
    head = b"".join(
        struct.pack(f"!B{len(name)}sBH", len(name), name.encode(), 7, len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(head) + len(payload), len(head))
    start = prelude + struct.pack("!I", binascii.crc32(prelude)) + head + payload
    return start + struct.pack("!I", binascii.crc32(start))


@contextlib.contextmanager
def silent_listener() -> Iterator[str]:
    """Yield the URL of a port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def full_listener() -> Iterator[str]:
    """Yield the URL of a port where no connection is ever made, for its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as queue:
        for _ in range(4):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def closed_port() -> str:
    """Return the URL of a port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


class Received(NamedTuple):
    """A request as it arrived: `model` is decoded, `headers` know no case, `arrived` is `time.monotonic()`."""

    path: str
    model: str
    headers: Message
    body: dict[str, Any]
    arrived: float


class Endpoint:
    """The server; it runs while its context does, and then raises what went wrong inside it."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine or Echo()
        self.requests: list[Received] = []
        self.script: deque[Fault] = deque()
        self.respond: Callable[[dict[str, Any]], dict[str, Any] | Reply] | None = None
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        serve = functools.partial(self._server.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if self._server.surprises and kind is None:
            raise self._server.surprises[0]

    def reply(self, received: Received) -> Reply:
        """Answer by the next item of the script, or else by `respond` or the engine."""
        fault = self.script.popleft() if self.script else None
        if isinstance(fault, Reply):
            return fault
        if isinstance(fault, dict):
            return self._ordinary(received, lambda _: fault)
        reply = self._ordinary(received, self.respond)
        return fault(reply) if fault else reply

    def _ordinary(
        self, received: Received, respond: Callable[[dict[str, Any]], dict[str, Any] | Reply] | None
    ) -> Reply:
        found = re.fullmatch(r"/model/[^/]+/(converse|converse-stream)", received.path)
        if not found:
            kind = "com.amazon.coral.service#UnknownOperationException"
            return Reply(404, _json({"Output": {"__type": kind}, "Version": "1.0"}))
        shape = _operation("Converse").input_shape
        request = {**_translate(shape, received.body, base64.b64decode), "modelId": received.model}
        told = respond(request) if respond else None
        if isinstance(told, Reply):
            return told
        try:
            if found[1] == "converse":
                response = told or self.engine.converse(**request)
                return Reply(body=_json(_encoded(_operation("Converse").output_shape, response)))
            events = events_of(told) if told else self.engine.converse_stream(**request)["stream"]
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return failure(status, error.response["Error"]["Code"], error.response["Error"]["Message"])
        return Reply(body=_frames(events), headers={"Content-Type": "application/vnd.amazon.eventstream"})


def _frames(events: Any) -> Generator[bytes]:
    """Encode an engine's events; closing this closes the engine's stream."""
    kinds = _operation("ConverseStream").output_shape.members["stream"].members
    try:
        for number, ((kind, body),) in enumerate(item.items() for item in events):
            padding = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP"[: 7 * number % 42]
            yield event(kind, {**_encoded(kinds[kind], body), "p": padding})
    except ClientError as error:
        code = error.response["Error"]["Code"]
        yield exception(code[0].lower() + code[1:], error.response["Error"]["Message"])
    finally:
        if close := getattr(events, "close", None):
            close()


def _encoded(shape: Any, value: Any) -> Any:
    return _translate(shape, value, lambda data: base64.b64encode(data).decode())


def _translate(shape: Any, value: Any, blob: Callable[[Any], Any]) -> Any:
    """Copy a value, passing what the shape calls a blob through `blob`; members it does not know stay."""
    kind = shape.type_name
    if kind == "blob":
        return blob(value)
    if kind == "list":
        return [_translate(shape.member, item, blob) for item in value]
    if kind == "map":
        return {name: _translate(shape.value, item, blob) for name, item in value.items()}
    if kind == "structure" and not shape.is_document_type:
        known = shape.members
        return {name: _translate(known[name], item, blob) if name in known else item for name, item in value.items()}
    return value


@functools.cache
def _operation(name: str) -> Any:
    model = Loader().load_service_model("bedrock-runtime", "service-2")
    return ServiceModel(model, "bedrock-runtime").operation_model(name)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class _Server(ThreadingHTTPServer):
    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.connections: set[socket.socket] = set()
        self.surprises: list[BaseException] = []
        super().__init__(("127.0.0.1", 0), _Exchange)

    def handle_error(self, request: Any, client_address: Any) -> None:
        surprise = sys.exception()
        if surprise and not isinstance(surprise, ConnectionError):
            self.surprises.append(surprise)


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_POST(self) -> None:
        arrived = time.monotonic()
        payload = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_json = self.headers.get_content_type() == "application/json"
        body = json.loads(payload) if is_json else {}
        label = [*self.path.split("/"), "", "", ""][2]
        received = Received(self.path, urllib.parse.unquote(label), self.headers, body, arrived)
        self.server.endpoint.requests.append(received)
        self._send(self.server.endpoint.reply(received))

    do_GET = do_POST  # noqa: N815 # the base's spelling

    def _send(self, reply: Reply) -> None:
        time.sleep(reply.wait)
        in_pieces = not isinstance(reply.body, bytes)
        if reply.status:
            self._send_head(reply, {} if in_pieces else {"Content-Length": str(len(reply.body))})
        if not in_pieces:
            self.wfile.write(reply.body)
            return
        try:
            for piece in reply.body:
                if isinstance(piece, Act):
                    self._act(piece)
                    return
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        finally:
            if close := getattr(reply.body, "close", None):
                close()

    def _send_head(self, reply: Reply, length: dict[str, str]) -> None:
        how = length or {"Transfer-Encoding": "chunked"}
        self.send_response(reply.status)
        for name, value in {**how, "x-amzn-RequestId": str(uuid.uuid4()), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _act(self, act: Act) -> None:
        self.close_connection = True
        if act is STALL:
            select.select([self.connection], [], [])  # readable when the client hangs up, or the endpoint ends
        elif act is RESET:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.server.connections.discard(self.connection)
            socket.close(self.connection.detach())  # not by the server, which would first say good-bye

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the base's signature
        """Say nothing."""
