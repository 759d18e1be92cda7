"""OpenAI's chat completions, as InvokeModel has them for many providers: bodies and answers <-> Converse."""

from __future__ import annotations

import json
import re
import time
import uuid
from typing import TYPE_CHECKING, Any

from bx.capabilities import base
from bx.instances import loads
from bx.server.native.answers import METRICS, translated, untold
from bx.server.native.body import (
    NO_CALLS,
    Body,
    decoded,
    malformed,
    merged,
    one_of,
    present,
    text_format,
    tool_config,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from bx.converse import Event, Request, Response, Stream
    from bx.server.native.answers import Arriving

    _Block = dict[str, Any]
    _Readers = dict[str, Callable[[Body], _Block]]

_FAMILY = "the form of chat completions"

# ---- in -------------------------------------------------------------------------------------------------------

_INFERENCE: list[tuple[str, str, type]] = [
    ("max_tokens", "maxTokens", int),
    ("max_completion_tokens", "maxTokens", int),
    ("temperature", "temperature", float),
    ("top_p", "topP", float),
]
# What Converse takes as a parameter of the model's own.
_FIELDS: list[tuple[str, str, type]] = [
    ("seed", "seed", int),
    ("top_k", "top_k", int),
    ("min_p", "min_p", float),
    ("reasoning_effort", "reasoning_effort", str),
    ("user", "user", str),
    ("presence_penalty", "presence_penalty", float),
    ("frequency_penalty", "frequency_penalty", float),
    ("logit_bias", "logit_bias", dict),
    ("parallel_tool_calls", "parallel_tool_calls", bool),
]
# Of those, the values that say nothing.
_DEFAULTS = {"presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "parallel_tool_calls": True}
# What is served only as it is by default.
_NEUTRAL: dict[str, list[Any]] = {
    "n": [1],
    "logprobs": [False],
    "store": [False],
    "service_tier": ["auto", "default"],
}
_CHOICES: dict[str, dict[str, Any]] = {"none": NO_CALLS, "auto": {"auto": {}}, "required": {"any": {}}}
_ROLES = ["system", "developer", "user", "assistant", "tool"]
_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,")
_NO_INPUT = {"type": "object", "properties": {}}


def request(body: Any, model_id: str) -> Request:
    """Read a body as a Converse request.

    System and developer messages become the system prompt, wherever they stand. `model`, `stream` and
    `stream_options` say nothing here: the operation and its path do. What Converse has no member for, such as `seed`,
    becomes `additionalModelRequestFields` unless it is as it is by default; the engine judges it.

    Raises:
        ClientError: `ValidationException`: a key is missing, unknown, of another type, or cannot be served.
    """
    with Body(body) as given:
        _skip(given)
        system, turns = _conversation(given.parts("messages", needed=True))
        built: Request = {"modelId": model_id, "messages": merged(turns)}
        inference = given.renamed(_INFERENCE) | present(stopSequences=given.strings("stop", alone=True))
        own = given.renamed(_FIELDS)
        fields = {name: value for name, value in own.items() if name not in _DEFAULTS or value != _DEFAULTS[name]}
        tools = [_tool(part) for part in given.parts("tools")]
        built |= tool_config(tools, _choice(given), built)
        built |= present(system=system or None, inferenceConfig=inference, additionalModelRequestFields=fields)
        return built | present(outputConfig=_format(given.part("response_format")))


def _skip(given: Body) -> None:
    """Take what says nothing here."""
    given.take("model", str)
    given.take("stream", bool)
    if options := given.part("stream_options"):
        with options:
            options.take("include_usage", bool)
            options.take("include_obfuscation", bool)
    for name, values in _NEUTRAL.items():
        given.neutral(name, *values)


def _conversation(parts: Iterable[Body]) -> tuple[list[_Block], list[tuple[str, list[_Block]]]]:
    """Return the system prompt, and the turns of Converse's two roles."""
    system: list[_Block] = []
    turns: list[tuple[str, list[_Block]]] = []
    for part in parts:
        with part as message:
            role = message.choice("role", _ROLES)
            if role in ("system", "developer"):
                system += _content(message, _TEXTS)
            elif role == "tool":
                message.take("name", str)  # the call's id tells it
                call = message.need("tool_call_id", str)
                result = {"toolUseId": call, "content": _content(message, _TEXTS)}
                turns.append(("user", [{"toolResult": result}]))
            else:
                turns.append((role, _content(message, _PARTS) if role == "user" else _said(message)))
    return system, turns


def _content(given: Body, kinds: _Readers) -> list[_Block]:
    return _blocks(given.need("content", str, list), given.at("content"), kinds)


def _blocks(content: str | list[Any], path: str, kinds: _Readers) -> list[_Block]:
    if isinstance(content, str):
        return [{"text": content}]
    blocks = []
    for index, each in enumerate(content):
        with Body(each, f"{path}/{index}") as part:
            blocks.append(kinds[part.choice("type", kinds)](part))
    return blocks


def _said(given: Body) -> list[_Block]:
    """Read an assistant's turn: its reasoning, its text, its calls."""
    for name in ("refusal", "audio", "function_call"):
        given.neutral(name)
    given.neutral("annotations", [])
    thought = given.take("reasoning_content", str)
    blocks: list[_Block] = [{"reasoningContent": {"reasoningText": {"text": thought}}}] if thought else []
    calls = [_call(part) for part in given.parts("tool_calls")]
    content = given.take("content", str, list)
    if content or (content is not None and not calls):  # beside calls, an empty text stands for none
        blocks += _blocks(content, given.at("content"), _TEXTS)
    if not blocks and not calls:
        given.need("content")
    return [*blocks, *calls]


def _call(given: Body) -> _Block:
    with given:
        given.take("index", int)
        given.neutral("type", "function")
        call = {"toolUseId": given.need("id", str)}
        with Body(given.need("function", dict), given.at("function")) as function:
            call["name"] = function.need("name", str)
            written = function.need("arguments", str)
            try:
                arguments = loads(written or "{}")
            except ValueError as cause:
                raise malformed(function.at("arguments"), f"the string is not JSON ({cause})") from None
            if not isinstance(arguments, dict):
                raise malformed(function.at("arguments"), "the string is not the JSON of an object")
        return {"toolUse": {**call, "input": arguments}}


def _text(given: Body) -> _Block:
    return {"text": given.need("text", str)}


def _image(given: Body) -> _Block:
    with Body(given.need("image_url", dict), given.at("image_url")) as image:
        image.neutral("detail", "auto")
        url = image.need("url", str)
        start = _IMAGE.match(url)
        if not start:
            raise malformed(
                image.at("url"), "the image must stand here as data:image/png;base64,... (or jpeg, gif, webp)"
            )
        data = decoded(url[start.end() :], image.at("url"))
        return {"image": {"format": start[1], "source": {"bytes": data}}}


def _audio(given: Body) -> _Block:
    with Body(given.need("input_audio", dict), given.at("input_audio")) as audio:
        return {"audio": {"format": audio.need("format", str), "source": {"bytes": audio.blob("data")}}}


_TEXTS: _Readers = {"text": _text}
_PARTS: _Readers = {"text": _text, "image_url": _image, "input_audio": _audio}


def _tool(given: Body) -> _Block:
    with given:
        given.choice("type", ["function"])
        with Body(given.need("function", dict), given.at("function")) as function:
            spec = {"name": function.need("name", str)}
            schema = {"json": function.take("parameters", dict) or _NO_INPUT}
            strict = function.take("strict", bool) or None
            return {
                "toolSpec": spec
                | present(description=function.take("description", str), inputSchema=schema, strict=strict)
            }


def _choice(given: Body) -> dict[str, Any] | None:
    """Return Converse's tool choice."""
    value = given.take("tool_choice", str, dict)
    if isinstance(value, dict):
        with Body(value, given.at("tool_choice")) as choice:
            choice.choice("type", ["function"])
            with Body(choice.need("function", dict), choice.at("function")) as function:
                return {"tool": {"name": function.need("name", str)}}
    return None if value is None else _CHOICES[one_of(value, given.at("tool_choice"), _CHOICES)]


def _format(given: Body | None) -> dict[str, Any] | None:
    if given is None:
        return None
    with given:
        kind = given.choice("type", ["text", "json_object", "json_schema"])
        if kind == "text":
            return None
        if kind == "json_object":
            return text_format({"type": "object"}, given.path)
        with Body(given.need("json_schema", dict), given.at("json_schema")) as wanted:
            wanted.take("strict", bool)  # Converse knows no other way
            about = {"name": wanted.take("name", str), "description": wanted.take("description", str)}
            return text_format(wanted.need("schema", dict), wanted.at("schema"), **about)


# ---- out ------------------------------------------------------------------------------------------------------

_STOPS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "refusal": "content_filter",
}
_TAGS = ("<reasoning>", "</reasoning>")


def response(answer: Response, model_id: str) -> dict[str, Any]:
    """Write Converse's response as a native one.

    Reasoning stands in `reasoning_content`, or before the text in tags, as gpt-oss has it. Its signature and what was
    redacted of it have no place in this form.

    Raises:
        ClientError: `ModelErrorException`: it holds a block that the form cannot carry.
    """
    message = answer["output"]["message"]
    writer, told = _Writer(model_id), dict[str, Any]()
    texts, thoughts, calls = list[str](), list[str](), list[dict[str, Any]]()
    for block in message["content"]:
        for delta in writer.whole(block):
            texts.append(delta.get("content", ""))
            thoughts.append(delta.get("reasoning_content", ""))
            calls += delta.get("tool_calls", [])
    if any(thoughts):
        told["reasoning_content"] = "".join(thoughts)
    if calls:
        told["tool_calls"] = [{name: call[name] for name in call if name != "index"} for call in calls]
    said = {"role": message["role"], "content": "".join(texts) if any(texts) or not calls else None, **told}
    choice = {"index": 0, "message": said, "finish_reason": _finish(answer), "logprobs": None}
    return {**_envelope("chat.completion", model_id), "choices": [choice], "usage": _usage(answer)}


def events(stream: Iterable[Event], model_id: str) -> Stream[dict[str, Any]]:
    """Write Converse's events as native chunks, each as it comes; the last one holds `usage`.

    Raises:
        ClientError: while iterating: the stream broke, or holds what the form cannot carry.
    """
    return translated(stream, lambda arriving: _events(arriving, model_id))


def _events(arriving: Arriving, model_id: str) -> Generator[dict[str, Any]]:
    writer, envelope = _Writer(model_id), _envelope("chat.completion.chunk", model_id)
    for kind, body in arriving:
        for delta in writer.deltas(kind, body):
            yield {**envelope, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": _finish(arriving.ended)}]}
    yield {**envelope, **last, "usage": _usage(arriving.ended), METRICS: arriving.metrics()}


class _Writer:
    """What of an answer was written so far: how many calls, and whether one waits for its input."""

    def __init__(self, model_id: str) -> None:
        self._tagged = base(model_id).startswith("openai.gpt-oss")
        self._thinking = False  # within tags that are to be closed
        self._calls = 0
        self._waiting = False

    def whole(self, block: _Block) -> Iterator[dict[str, Any]]:
        """Write a block of a response."""
        for kind, value in block.items():
            if kind == "toolUse":
                written = value["input"]
                text = written if isinstance(written, str) else json.dumps(written, ensure_ascii=False)
                yield self._call(value, text)
            elif kind == "reasoningContent":
                yield from self._thought(value.get("reasoningText", {}).get("text", ""))
                yield from self._ended()
            elif kind == "text":
                yield {"content": value}
            else:
                raise untold(kind, _FAMILY)

    def deltas(self, kind: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Write an event of a stream."""
        if kind == "messageStart":
            yield {"role": body["role"], "content": ""}
        elif kind == "contentBlockStart":
            for name, started in body["start"].items():
                if name != "toolUse":
                    raise untold(name, _FAMILY)
                self._waiting = True
                yield self._call(started, "")
        elif kind == "contentBlockDelta":
            yield from self._delta(body["delta"])
        elif kind == "contentBlockStop":
            yield from self._ended()

    def _delta(self, delta: dict[str, Any]) -> Iterator[dict[str, Any]]:
        ((kind, piece),) = delta.items()
        if kind == "text":
            yield {"content": piece}
        elif kind == "toolUse":
            yield self._input(piece["input"])
        elif kind == "reasoningContent":
            yield from self._thought(piece.get("text", ""))
        else:
            raise untold(kind, _FAMILY)

    def _call(self, call: dict[str, Any], arguments: str) -> dict[str, Any]:
        self._calls += 1
        function = {"name": call["name"], "arguments": arguments}
        told = {"index": self._calls - 1, "id": call["toolUseId"], "type": "function", "function": function}
        return {"tool_calls": [told]}

    def _input(self, arguments: str) -> dict[str, Any]:
        self._waiting = self._waiting and not arguments
        return {"tool_calls": [{"index": self._calls - 1, "function": {"arguments": arguments}}]}

    def _thought(self, text: str) -> Iterator[dict[str, Any]]:
        if text and self._tagged:
            yield {"content": text if self._thinking else _TAGS[0] + text}
            self._thinking = True
        elif text:
            yield {"reasoning_content": text}

    def _ended(self) -> Iterator[dict[str, Any]]:
        if self._thinking:
            yield {"content": _TAGS[1]}
        if self._waiting:  # no input at all is an empty object in Converse, and must be JSON here
            yield self._input("{}")
        self._thinking = self._waiting = False


def _envelope(kind: str, model_id: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4()}", "object": kind, "created": int(time.time()), "model": base(model_id)}


def _finish(ended: dict[str, Any]) -> Any:
    reason = ended.get("stopReason")
    return _STOPS.get(str(reason), reason)


def _usage(ended: dict[str, Any]) -> dict[str, Any]:
    """Count as this form does: tokens of the cache are part of the prompt's."""
    usage = ended.get("usage", {})
    if "inputTokens" not in usage or "outputTokens" not in usage:
        return {}
    prompt = sum(usage.get(name, 0) for name in ("inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"))
    output = usage["outputTokens"]
    counts: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    if "cacheReadInputTokens" in usage:
        counts["prompt_tokens_details"] = {"cached_tokens": usage["cacheReadInputTokens"]}
    return counts
