"""What each fault does to an answer.

An effect is `(call, perform, strike) -> Reply`: it answers by `perform`, or otherwise, and calls `strike` when it
makes a difference. Errors are raised; headers that belong to one stand in its `ResponseMetadata.HTTPHeaders`.

In a stream, a fault comes in place of the event after the first `after`: a stream that has no such event is whole.
What is below is closed before that, so that an engine does not work for nobody.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bx.converse import Stream, error
from bx.server import bodies, control, frames, wire
from bx.server.exchange import Act, Reply
from bx.server.quotas import Measures, Quota

if TYPE_CHECKING:
    from collections.abc import Iterable

    from botocore.exceptions import ClientError

    from bx.server.exchange import Call, Perform

Fault = Mapping[str, Any]
_Piece = bytes | Act
_Strike = Callable[[], None]
Effect = Callable[["Call", "Perform", _Strike], Reply]
_Plain = Callable[[Fault, "Call", "Perform"], Reply]

_GONE = Reply(0, {}, [Act.HANGUP])


def made(fault: Fault, facts: Mapping[str, Any], measures: Measures) -> Effect:
    """Make the effect of a fault.

    Args:
        fault: its name (`fault`) and options, all checked.
        facts: its entry in `faults.toml`, and `actions`: the IAM action of each operation.
        measures: how tokens and time are measured.
    """
    name = fault["fault"]
    if name == "quota":
        return Quota({limit: fault[limit] for limit in ("rpm", "tpm", "tpd") if limit in fault}, measures).perform
    if name == "slow-compile":
        return _Compiler(fault, facts, measures.clock).perform
    effect = _EFFECTS.get(name) or functools.partial(_blocked if name == "guardrail" else _exception, facts)

    def perform(call: Call, perform: Perform, strike: _Strike) -> Reply:
        strike()
        return effect(fault, call, perform)

    return perform


def concerns(fault: Fault, call: Call) -> bool:
    """Whether there is anything in a request that the fault is about."""
    if fault["fault"] == "slow-compile":
        return bodies.grammar(call) is not None
    return fault["fault"] != "malformed-tool-use" or bool(call.request.get("toolConfig"))


def in_stream(operation: str, name: str) -> bool:
    """Whether an exception, such as ThrottlingException, can come within an operation's stream."""
    return wire.streams(operation) and name[:1].lower() + name[1:] in _kinds(operation)


# ---- exceptions -----------------------------------------------------------------------------------------------


def _exception(facts: Mapping[str, Any], fault: Fault, call: Call, perform: Perform) -> Reply:
    failed = _failed(facts, fault, call)
    if "after" not in fault:
        raise failed

    def late(_: bytes) -> Iterator[_Piece]:
        call.received.notes["code"] = fault["fault"]
        yield wire.exception(failed, _kinds(call.operation))

    return _ended(perform(call), fault["after"], late)


def _failed(facts: Mapping[str, Any], fault: Fault, call: Call) -> ClientError:
    action = fault.get("action") or facts["actions"].get(call.operation, f"bedrock:{call.operation}")
    words = {"action": action, "resource": _resource(call)}
    members = {
        name: value.format(**words) if isinstance(value, str) else value
        for name, value in facts.get("members", {}).items()
    }
    message = fault.get("message") or facts["text"].format(**words)
    failed = error(fault["fault"], message, operation=call.operation, **members)
    if "retry_after" in fault:
        failed.response["ResponseMetadata"]["HTTPHeaders"] = {"x-amz-retry-after": str(fault["retry_after"])}
    return failed


def _resource(call: Call) -> str:
    """Return the ARN of what a request is about."""
    model = str(call.request.get("modelId") or "*")
    return model if model == "*" else control.arn(model, call.received.notes.get("region", ""))


def _kinds(operation: str) -> Mapping[str, Any]:
    shape = wire.operation(operation).output_shape
    kinds: Mapping[str, Any] = shape.members[shape.serialization["payload"]].members
    return kinds


# ---- streams --------------------------------------------------------------------------------------------------


def _through(reply: Reply, change: Callable[[Iterator[Any], _Strike], Iterator[_Piece]]) -> Reply:
    """Send a reply's pieces through a generator, which is also given what closes the body; bytes stay as they are."""
    body: Any = reply.body
    if isinstance(body, bytes):
        return reply
    close: Callable[[], None] = getattr(body, "close", lambda: None)

    def pieces() -> Generator[_Piece]:
        try:
            yield from change(iter(body), close)
        finally:
            close()

    return reply._replace(body=Stream(pieces(), close))


def _ended(reply: Reply, after: int, end: Callable[[bytes], Iterator[_Piece]]) -> Reply:
    """Let a stream's first events pass; then send `end` of the next one, and nothing more."""

    def change(pieces: Iterator[Any], close: _Strike) -> Iterator[_Piece]:
        for index, piece in enumerate(pieces):
            if index == after and isinstance(piece, bytes):
                close()
                yield from end(piece)
                return
            yield piece

    return _through(reply, change)


def _act(act: Act, fault: Fault, call: Call, perform: Perform) -> Reply:
    """Close or reset the connection: at once, or within the answer."""
    if "after" not in fault:
        return Reply(0, {}, [act])
    reply = perform(call)
    if isinstance(reply.body, bytes):
        return reply._replace(body=[*_half(reply.body), act])
    return _ended(reply, fault["after"], lambda _: iter([act]))


def _stall(fault: Fault, call: Call, perform: Perform) -> Reply:
    if not wire.streams(call.operation):
        return Reply(0, {}, [Act.STALL])
    return _ended(perform(call), fault["after"], lambda _: iter([Act.STALL]))


def _truncate(fault: Fault, call: Call, perform: Perform) -> Reply:
    reply = perform(call)
    if isinstance(reply.body, bytes):
        return reply._replace(body=_half(reply.body))
    return _ended(reply, fault["after"], lambda piece: iter(_half(piece) if fault["mid_frame"] else []))


def _half(body: bytes) -> list[_Piece]:
    return [body[: len(body) // 2]] if len(body) > 1 else []


def _corrupt(fault: Fault, call: Call, perform: Perform) -> Reply:
    def change(pieces: Iterator[Any], _: _Strike) -> Iterator[_Piece]:
        for index, piece in enumerate(pieces):
            yield frames.corrupted(piece) if index == fault["after"] and isinstance(piece, bytes) else piece

    return _through(perform(call), change)


# ---- time -----------------------------------------------------------------------------------------------------


def _late(fault: Fault, call: Call, perform: Perform) -> Reply:
    return _GONE if call.received.hangup.wait(fault["seconds"]) else perform(call)


def _paused(fault: Fault, call: Call, perform: Perform) -> Reply:
    """Wait before the first event of a stream, or before all others."""
    first = fault["fault"] == "slow-first-token"

    def change(pieces: Iterator[Any], _: _Strike) -> Iterator[_Piece]:
        if first:
            call.received.hangup.wait(fault["seconds"])
        for index, piece in enumerate(pieces):
            if index and not first:
                call.received.hangup.wait(fault["seconds"])
            yield piece

    return _through(perform(call), change)


class _Compiler:
    """The grammars that are compiled, or being compiled.

    As in the service, a compilation goes on when its client gives up; who asks in the meantime waits for the rest.
    """

    def __init__(self, fault: Fault, facts: Mapping[str, Any], clock: Callable[[], float]) -> None:
        self._fault = fault
        self._text: str = facts["text"]
        self._clock = clock
        self._ready: dict[str, float] = {}  # name of a grammar -> when it is compiled
        self._lock = threading.Lock()

    def perform(self, call: Call, perform: Perform, strike: _Strike) -> Reply:
        """Answer when the grammar is compiled.

        Raises:
            ClientError: `ValidationException` when that takes too long, or `perform`'s own.
        """
        name = bodies.grammar(call) or ""
        now = self._clock()
        with self._lock:
            left = self._ready.setdefault(name, now + self._fault["seconds"]) - now
        fails = self._fault["timeout"]
        if left > 0 or fails:
            strike()
        if left > 0 and call.received.hangup.wait(left):
            return _GONE
        if fails:
            with self._lock:  # the next request begins anew
                self._ready.pop(name, None)
            raise error("ValidationException", self._text, operation=call.operation)
        return perform(call)


# ---- the answer -----------------------------------------------------------------------------------------------


def _cut(fault: Fault, call: Call, perform: Perform) -> Reply:
    return perform(bodies.capped(call, fault["tokens"]))


def _malformed(fault: Fault, call: Call, perform: Perform) -> Reply:
    """Change the reason why an answer stopped; for malformed tool use, also its calls into text."""
    printed = fault["fault"] == "malformed-tool-use"
    stop = "malformed_tool_use" if printed else "malformed_model_output"
    reply = perform(call)
    if reply.status == 200 and isinstance(reply.body, bytes):  # noqa: PLR2004 # it is HTTP's
        response = json.loads(reply.body)
        message = response["output"]["message"]
        if printed:
            message["content"] = [_as_text(block) for block in message["content"]]
        return reply._replace(body=frames.dumped({**response, "stopReason": stop}))
    return _through(reply, lambda pieces, _: _malformed_events(pieces, stop, printed=printed))


def _malformed_events(pieces: Iterator[Any], stop: str, *, printed: bool) -> Iterator[_Piece]:
    calls: dict[int, tuple[str, list[str]]] = {}
    for piece in pieces:
        kind, body = (bodies.opened(piece) if isinstance(piece, bytes) else None) or ("", {})
        index = body.get("contentBlockIndex", 0)
        if kind == "messageStop":
            yield frames.event(kind, {**body, "stopReason": stop})
        elif printed and kind == "contentBlockStart" and "toolUse" in body["start"]:
            calls[index] = body["start"]["toolUse"]["name"], []
        elif index in calls and kind == "contentBlockDelta":
            calls[index][1].append(body["delta"]["toolUse"]["input"])
        else:
            if index in calls and kind == "contentBlockStop":
                name, written = calls.pop(index)
                delta = {"text": _as_nova_prints_it(name, "".join(written))}
                yield frames.event("contentBlockDelta", {"contentBlockIndex": index, "delta": delta})
            yield piece


def _as_text(block: dict[str, Any]) -> dict[str, Any]:
    if "toolUse" not in block:
        return block
    return {"text": _as_nova_prints_it(block["toolUse"]["name"], json.dumps(block["toolUse"]["input"]))}


def _as_nova_prints_it(name: str, written: str) -> str:
    """Print a tool call in the dialect that Nova has for itself, without its end."""
    try:
        given = json.loads(written or "{}")
    except ValueError:
        given = written
    parameters = given.items() if isinstance(given, dict) else [("input", given)]
    lines = [
        f"    <__parameter={key}>{value if isinstance(value, str) else frames.dumped(value).decode()}</__parameter>"
        for key, value in parameters
    ]
    return "\n".join(["<tools>", f"  <__function={name}>", *lines])


def _blocked(facts: Mapping[str, Any], fault: Fault, call: Call, _: Perform) -> Reply:
    """Answer as a guardrail does that blocks the input: no model is asked."""
    message = fault.get("message") or facts["text"]
    ending = {"stopReason": "guardrail_intervened"}
    counts = {
        "usage": {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0},
        "metrics": {"latencyMs": 0},
        **_trace(call.request.get("guardrailConfig") or {}),
    }
    if call.operation == "Converse":
        content = {"role": "assistant", "content": [{"text": message}]}
        return wire.reply("Converse", {"output": {"message": content}, **ending, **counts})
    events: Iterable[dict[str, Any]] = (
        {"messageStart": {"role": "assistant"}},
        {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": message}}},
        {"contentBlockStop": {"contentBlockIndex": 0}},
        {"messageStop": ending},
        {"metadata": counts},
    )
    return wire.stream("ConverseStream", events)


def _trace(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the guardrail found, where the request asks for it."""
    if config.get("trace", "disabled") == "disabled":
        return {}
    topic = {"topics": [{"name": "Denied topic", "type": "DENY", "action": "BLOCKED"}]}
    name = config.get("guardrailIdentifier", "")
    return {"trace": {"guardrail": {"inputAssessment": {name: {"topicPolicy": topic}}}}}


_EFFECTS: dict[str, _Plain] = {
    "latency": _late,
    "slow-first-token": _paused,
    "slow-events": _paused,
    "stall": _stall,
    "truncate": _truncate,
    "hangup": functools.partial(_act, Act.HANGUP),
    "reset": functools.partial(_act, Act.RESET),
    "bad-crc": _corrupt,
    "max-tokens": _cut,
    "malformed-tool-use": _malformed,
    "malformed-output": _malformed,
}
