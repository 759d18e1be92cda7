"""The rungs of the ladder: a request for JSON as each of them asks it, and each of their answers as the same text.

`native` sends the schema as Converse's `outputConfig`, `tool` as the input schema of a tool that must be called,
`prompt` in words. A schema whose root is no plain object travels as the member `answer` of one. Pure functions on
dicts and iterators; this module sends nothing and decides nothing.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from bx import partial
from bx.converse import Request, Response, text
from bx.instances import loads
from bx.schema import walk

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from bx.capabilities import Plan
    from bx.converse import Event

Schema = dict[str, Any]

_NAME = "answer"  # of the tool that must be called, and of the member that holds what is no object
_ABOUT = "Give the answer. Call this tool exactly once, with the whole answer."
_WORDS = (
    "Answer with one JSON object that satisfies this JSON Schema, and with nothing else: no code fence, no comment."
)
_AGAIN = "That answer cannot be used: {problem}. Give the whole answer again, corrected, as the JSON Schema asks."
_LONGEST_QUOTE = 20_000  # characters of a wrong answer that are shown to the model again
_LONGEST_BLANK = 500  # characters of white space in a row, after which a model is lost in it
_NO_OBJECT = {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf"}


class Asked(NamedTuple):
    """A request as it was sent, the plan behind it, how its answer is to be read, and whether a grammar holds it."""

    request: Request
    plan: Plan
    wrapped: bool = False
    tool: str = ""
    enforced: bool = False


def ask(plan: Plan, request: Request, schema: Schema, fields: dict[str, Any]) -> Asked:
    """Spell a request on the rung of a plan; `schema` is what the rung is to hold the model to.

    `fields` are parameters of the model's own that a forced tool needs; those of the request come first.
    """
    if plan.rung == "native":
        return Asked(_native(request, schema), plan)
    wrapped = schema.get("type") != "object" or bool(_NO_OBJECT & schema.keys())
    schema = _wrapped(schema) if wrapped else schema
    rest = {name: value for name, value in request.items() if name != "outputConfig"}
    if others := {name: value for name, value in request["outputConfig"].items() if name != "textFormat"}:
        rest["outputConfig"] = others
    if plan.rung == "prompt":
        words = f"{_WORDS}\n\n{json.dumps(schema, ensure_ascii=False)}"
        return Asked({**rest, "messages": _told(request.get("messages", []), words)}, plan, wrapped)
    tools = request.get("toolConfig", {}).get("tools", [])
    name = _free({tool.get("toolSpec", {}).get("name") for tool in tools})
    about = _definition(request).get("description") or schema.get("description")
    spec: dict[str, Any] = {"name": name, "description": f"{_ABOUT} {about}" if about else _ABOUT}
    spec["inputSchema"] = {"json": schema}
    if plan.strict:
        spec["strict"] = True
    by_name = plan.choice == "tool" and not tools
    config = {
        "tools": [*tools, {"toolSpec": spec}],
        "toolChoice": {"tool": {"name": name}} if by_name else {"any": {}},
    }
    if more := {**fields, **request.get("additionalModelRequestFields", {})}:
        rest["additionalModelRequestFields"] = more
    return Asked({**rest, "toolConfig": config}, plan, wrapped, name)


def again(request: Request, answer: str, problem: str) -> Request:
    """Continue a conversation after an answer that cannot be used, telling the model why."""
    words = _AGAIN.format(problem=problem)
    answer = answer.strip()[:_LONGEST_QUOTE]
    messages = request.get("messages", [])
    if (
        not answer or not messages or messages[-1]["role"] != "user"
    ):  # a blank text is refused, as are two turns of one role
        return {**request, "messages": _told(messages, words)}
    turns = [{"role": "assistant", "content": [{"text": answer}]}, {"role": "user", "content": [{"text": words}]}]
    return {**request, "messages": [*messages, *turns]}


def written(asked: Asked, response: Response) -> str | None:
    """Return what the model wrote as its answer; None where it called another tool instead."""
    content = response["output"]["message"]["content"]
    calls = [block["toolUse"] for block in content if "toolUse" in block]
    for call in calls:
        if asked.tool and call.get("name") == asked.tool:
            return json.dumps(call.get("input"), ensure_ascii=False)
    return None if calls else text(response)


def value(asked: Asked, answer: str) -> Any:
    """Read an answer as the JSON that it is, or holds.

    Raises:
        ValueError: it holds none.
    """
    found = _read(answer)
    if not asked.wrapped:
        return found
    if isinstance(found, dict) and found.keys() == {_NAME}:
        found = found[_NAME]
    if isinstance(found, str):  # some models spell the inner JSON as a text
        try:
            inner = loads(found)
        except ValueError:
            return found
        return inner if isinstance(inner, (dict, list)) else found
    return found


def result(response: Response, answer: str, stop: str) -> Response:
    """Replace what a response holds by a text; the model's reasoning stays before it."""
    message = response["output"]["message"]
    kept = [block for block in message["content"] if "reasoningContent" in block]
    return {
        **response,
        "output": {"message": {**message, "content": [*kept, {"text": answer}]}},
        "stopReason": stop,
    }


def events(asked: Asked, stream: Iterable[Event]) -> Generator[Event]:
    """Turn the events of a rung into those of an answer in text, as they come."""
    if asked.plan.rung == "native":
        yield from _unlooped(stream)
        return
    passed: deque[Event] = deque()
    answer = _Answer(asked, passed)
    pieces = answer.pieces(stream)
    cut: Iterable[str] = pieces if asked.tool else partial.document(pieces)
    if asked.wrapped:
        cut = partial.member(cut, _NAME)
    for piece in itertools.chain(cut, ("" for _ in pieces)):
        while passed and "contentBlockStop" not in passed[0]:
            yield passed.popleft()
        if piece:
            yield {"contentBlockDelta": {"contentBlockIndex": answer.index, "delta": {"text": piece}}}
        while passed:
            yield passed.popleft()
    yield from passed


def from_response(response: Response) -> Generator[Event]:
    """Give a whole response of texts and reasoning as the events of a stream."""
    message = response["output"]["message"]
    yield {"messageStart": {"role": message["role"]}}
    for index, block in enumerate(message["content"]):
        place = {"contentBlockIndex": index}
        if call := block.get("toolUse"):
            start = {name: part for name, part in call.items() if name != "input"}
            yield {"contentBlockStart": {**place, "start": {"toolUse": start}}}
            yield {"contentBlockDelta": {**place, "delta": {"toolUse": {"input": json.dumps(call["input"])}}}}
        elif thought := block.get("reasoningContent"):
            for name, part in {**thought, **thought.get("reasoningText", {})}.items():
                if name != "reasoningText":
                    yield {"contentBlockDelta": {**place, "delta": {"reasoningContent": {name: part}}}}
        elif "text" in block:
            yield {"contentBlockDelta": {**place, "delta": {"text": block["text"]}}}
        yield {"contentBlockStop": place}
    ending = ("stopReason", "additionalModelResponseFields")
    yield {"messageStop": {name: response[name] for name in ending if name in response}}
    parts = ("usage", "metrics", "trace", "performanceConfig", "serviceTier")
    yield {"metadata": {name: response[name] for name in parts if name in response}}


class _Answer:
    """Where the answer is in a stream: the call of our tool, or the text."""

    def __init__(self, asked: Asked, passed: deque[Event]) -> None:
        self.index = 0
        self._asked = asked
        self._passed = passed
        self._ours: set[int] = set()  # the blocks of the answer
        self._others = False  # whether another tool was called
        self._prose: list[str] = []  # text beside the call, which is the answer where no call comes

    def pieces(self, stream: Iterable[Event]) -> Iterator[str]:
        """Yield the answer's pieces, at least one an event, and put all other events into `passed`."""
        for event in stream:
            ((kind, body),) = event.items()
            at = body.get("contentBlockIndex", -1)
            delta = body.get("delta", {})
            if "text" in delta and (not self._asked.tool or not self._ours):
                yield from self._text(at, delta["text"])
            elif (
                kind == "contentBlockStart" and body["start"].get("toolUse", {}).get("name") == self._asked.tool != ""
            ):
                self._begin(at)
                yield ""
            elif at in self._ours and "toolUse" in delta:
                yield delta["toolUse"]["input"]
            elif kind == "messageStop":
                yield from self._stop(event)
            elif "text" not in delta and (kind != "contentBlockStop" or self._is_shown(at)):
                if _called(body):
                    self._another()
                self._passed.append(event)
                yield ""

    def _begin(self, at: int) -> None:
        if not self._ours:
            self.index = at
        self._ours.add(at)

    def _text(self, at: int, piece: str) -> Iterator[str]:
        if self._asked.tool:
            self._prose.append(piece)
            self.index = at
        else:
            self._begin(at)
            yield piece

    def _another(self) -> None:
        """Another tool is called: what was written before it is no answer, but may be shown."""
        self._others = True
        if self._prose:
            place = {"contentBlockIndex": self.index}
            self._passed.append({"contentBlockDelta": {**place, "delta": {"text": "".join(self._prose)}}})
            self._passed.append({"contentBlockStop": place})
            self._prose.clear()

    def _is_shown(self, at: int) -> bool:
        return not (self._prose and at == self.index and not self._ours)

    def _stop(self, event: Event) -> Iterator[str]:
        if self._prose and not self._ours and not self._others:
            yield "".join(partial.document(["".join(self._prose)])) or "".join(self._prose)
            self._passed.append({"contentBlockStop": {"contentBlockIndex": self.index}})
        stop = event["messageStop"]
        if stop.get("stopReason") == "tool_use" and self._ours:
            stop = {**stop, "stopReason": "end_turn"}
        self._passed.append({"messageStop": stop})
        yield ""


def _called(body: dict[str, Any]) -> str:
    """Return the name of the tool whose call begins with an event, or nothing."""
    return str(body.get("start", {}).get("toolUse", {}).get("name", ""))


def _unlooped(stream: Iterable[Event]) -> Iterator[Event]:
    """Pass an answer on; end it where the model does nothing any more but write white space."""
    blank, parts, index = 0, list[str](), 0
    for event in stream:
        yield event
        body = event.get("contentBlockDelta", {})
        piece = body.get("delta", {}).get("text", "")
        if piece:
            parts.append(piece)
            index = body["contentBlockIndex"]
            blank = blank + len(piece) if piece.isspace() else len(piece) - len(piece.rstrip())
        if blank > _LONGEST_BLANK:
            try:
                loads("".join(parts))
                stop = "end_turn"
            except ValueError:
                stop = "malformed_model_output"
            yield {"contentBlockStop": {"contentBlockIndex": index}}
            yield {"messageStop": {"stopReason": stop}}
            return


def _native(request: Request, schema: Schema) -> Request:
    if json.loads(_definition(request)["schema"]) == schema:
        return request
    definition = {**_definition(request), "schema": json.dumps(schema, ensure_ascii=False)}
    text_format = {**request["outputConfig"]["textFormat"], "structure": {"jsonSchema": definition}}
    return {**request, "outputConfig": {**request["outputConfig"], "textFormat": text_format}}


def _definition(request: Request) -> dict[str, Any]:
    definition: dict[str, Any] = request["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    return definition


def _wrapped(schema: Schema) -> Schema:
    """Make a schema the member of an object, and let its references find their targets there."""

    def moved(inner: Any) -> Any:
        if not isinstance(inner, dict):
            return inner
        inner = walk.mapped(inner, moved)
        for keyword in ("$ref", "$dynamicRef"):
            reference = inner.get(keyword)
            if isinstance(reference, str) and reference.startswith("#"):
                inner[keyword] = f"#/properties/{_NAME}{reference[1:]}"
        return inner

    return {
        "type": "object",
        "properties": {_NAME: moved(schema)},
        "required": [_NAME],
        "additionalProperties": False,
    }


def _told(messages: list[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """Add words to the last turn of the user."""
    last = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=None)
    if last is None:
        return [*messages, {"role": "user", "content": [{"text": words}]}]
    told = {**messages[last], "content": [*messages[last]["content"], {"text": words}]}
    return [*messages[:last], told, *messages[last + 1 :]]


def _free(taken: set[Any]) -> str:
    names = itertools.chain([_NAME], (f"{_NAME}_{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _read(answer: str) -> Any:
    """Read JSON that may stand in prose, in a code fence, or in doubled braces."""
    try:
        return loads(answer)
    except ValueError:
        inside = "".join(partial.document([answer]))
        if not inside:
            raise
        return loads(inside)
