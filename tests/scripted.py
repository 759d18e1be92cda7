"""bx's own Bedrock on the loopback, with every answer and every fault in the hands of a test.

    with Scripted() as endpoint:
        endpoint.script.append(failure(429, "ThrottlingException", "Too many requests"))
        endpoint.script.append(broken(2, RESET))
        ...a real client, pointed at endpoint.url...
        assert endpoint.requests[0].model == "amazon.nova-lite-v1:0"

It is the server of `bx serve`, over any engine. Each request takes the next item of `script`; when there is none,
`respond(request)` answers it where that is set, and else the engine. An item is the `Reply` to send, a function that
changes the ordinary one, or a whole response of Converse, as `answer` makes them; `respond` gives a response or a
`Reply`. ConverseStream gets it as events:

    call = {"toolUse": {"toolUseId": "tooluse_1", "name": "add", "input": {"a": 1}}}
    endpoint.script.append(answer("Let me see.", call, stop="tool_use"))
    endpoint.respond = lambda request: answer("No") if "outputConfig" in request else failure(400, ...)
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from botocore.awsrequest import HeadersDict

from bx.converse import Stream
from bx.engines.echo import Echo
from bx.server import frames
from bx.server.endpoint import Options, Route, answering, listening
from bx.server.exchange import Act, Received, Reply
from bx.server.http import Application, Limits
from bx.server.running import Running
from bx.server.service import Service

if TYPE_CHECKING:
    from bx.converse import Engine

STALL, HANGUP, RESET = Act
JSON = {"Content-Type": "application/json"}

Fault = Reply | Callable[[Reply], Reply] | dict[str, Any]


def reply(status: int = 200, body: Any = b"", headers: dict[str, str] = JSON) -> Reply:
    """An HTTP response. A `body` of bytes has a length; one of pieces is sent in chunks, each as it comes."""
    return Reply(status, headers, body)


SILENCE = reply(0, [STALL])
CLOSED = reply(0, [HANGUP])
REFUSED = reply(0, [RESET])


def failure(status: int, code: str, message: str, *, key: str = "message", **members: Any) -> Reply:
    """AWS's way to say no. IAM spells the `key` of the text `Message`; `members` stand beside it."""
    kind = {"x-amzn-errortype": f"{code}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
    return reply(status, frames.dumped({key: message, **members}), {**JSON, **kind})


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
    """The ordinary reply, after a while."""

    def wait(ordinary: Reply) -> Reply:
        time.sleep(seconds)
        return ordinary

    return wait


def broken(after: int, *pieces: bytes | Act) -> Fault:
    """The ordinary stream, cut after some events; then `pieces`, and a clean end if these do not prevent it."""

    def cut(body: Any) -> Iterator[bytes | Act]:
        with contextlib.closing(body):
            yield from itertools.islice(body, after)
        yield from pieces

    return lambda ordinary: ordinary._replace(body=cut(ordinary.body))


def unmodelled(code: str, message: str) -> bytes:
    """A frame of the message type `error`."""
    return frames.frame({":message-type": "error", ":error-code": code, ":error-message": message}, b"")


def exception(kind: str, message: str, **members: Any) -> bytes:
    """A frame with a modelled exception, named as `throttlingException` is."""
    return frames.exception(kind, {"message": message, **members})


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


class Kept(NamedTuple):
    """A request as it arrived: `model` is decoded, `headers` know no case, `arrived` is `time.monotonic()`."""

    path: str
    model: str
    headers: HeadersDict
    body: dict[str, Any]
    arrived: float


class Scripted:
    """The server; it runs while its context does, and then raises what went wrong inside it."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine or Echo()
        self.requests: list[Kept] = []
        self.script: deque[Fault] = deque()
        self.respond: Callable[[dict[str, Any]], dict[str, Any] | Reply] | None = None
        self._surprises: list[BaseException] = []
        listener = listening(Options())
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._running = Running(Application(self._answer, Limits()), listener)

    def __enter__(self) -> Self:
        self._running.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._running.stop(grace=0)
        if self._surprises and kind is None:
            raise self._surprises[0]

    def _answer(self, received: Received) -> Reply:
        body = json.loads(received.body or b"{}") if "json" in received.headers.get("content-type", "") else {}
        label = [*received.path.split("/"), "", "", ""][2]
        model, headers = urllib.parse.unquote(label), HeadersDict(received.headers)
        self.requests.append(Kept(received.path, model, headers, body, time.monotonic()))
        fault = self.script.popleft() if self.script else None
        try:
            return self._reply(received, fault)
        except Exception as surprise:
            self._surprises.append(surprise)
            raise

    def _reply(self, received: Received, fault: Fault | None) -> Reply:
        if isinstance(fault, Reply):
            return fault
        respond = (lambda _: fault) if isinstance(fault, dict) else self.respond
        engine = self.engine if respond is None else _Responding(respond)
        service = Service([Route("*", engine, strict=False, forward=True)])
        try:
            ordinary = answering(service)(received)
        except _Instead as instead:
            ordinary = instead.reply
        return fault(ordinary) if callable(fault) else ordinary


class _Instead(Exception):
    def __init__(self, instead: Reply) -> None:
        self.reply = instead


class _Responding:
    """An engine that answers with what a function gives."""

    def __init__(self, respond: Callable[[dict[str, Any]], Any]) -> None:
        self._respond = respond

    def converse(self, **request: Any) -> dict[str, Any]:
        told = self._respond(request)
        if isinstance(told, Reply):
            raise _Instead(told)
        return told

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        events = events_of(self.converse(**request))
        return {"stream": Stream(events, events.close)}


def connected(url: str, **config: Any) -> Any:
    """Make a real client of Amazon Bedrock's runtime that sends each request once."""
    import botocore.session
    from botocore.config import Config

    chosen = Config(retries={"total_max_attempts": 1}, proxies={}, **config)
    keys = {"aws_access_key_id": "id", "aws_secret_access_key": "key"}
    return botocore.session.Session().create_client(
        "bedrock-runtime", "us-east-1", endpoint_url=url, config=chosen, **keys
    )
