"""Anthropic's Messages, as InvokeModel has them: bodies and answers <-> Converse."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

from bx import partial
from bx.capabilities import base
from bx.server.native import citations
from bx.server.native.answers import METRICS, plain, translated, untold
from bx.server.native.body import Body, merged, present, text_format, tool_config

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from bx.converse import Event, Request, Response, Stream
    from bx.server.native.answers import Arriving

    _Block = dict[str, Any]
    _Readers = dict[str, Callable[[Body], _Block]]

VERSION = "bedrock-2023-05-31"
_FAMILY = "Anthropic's format"

# ---- in -------------------------------------------------------------------------------------------------------

_INFERENCE: list[tuple[str, str, type]] = [
    ("temperature", "temperature", float),
    ("top_p", "topP", float),
    ("stop_sequences", "stopSequences", list),
]
# What Converse takes as a parameter of the model's own.
_FIELDS: list[tuple[str, str, type]] = [
    ("top_k", "top_k", int),
    ("thinking", "thinking", dict),
    ("metadata", "metadata", dict),
    ("anthropic_beta", "anthropic_beta", list),
]
_IMAGES = {f"image/{name}": name for name in ("png", "jpeg", "gif", "webp")}
_LONGEST_NAME = 200  # characters of a document's name


def request(body: Any, model_id: str) -> Request:
    """Read a body as a Converse request.

    `top_k`, `thinking`, `metadata`, `anthropic_beta`, `output_config.effort` and `disable_parallel_tool_use` become
    `additionalModelRequestFields`; a `cache_control` becomes a cache point behind its block. A document's title
    becomes its name, without the characters that Converse refuses there.

    Raises:
        ClientError: `ValidationException`: a key is missing, unknown, of another type, or cannot be served.
    """
    with Body(body) as given:
        given.choice("anthropic_version", [VERSION])
        built: Request = {"modelId": model_id, "messages": _messages(given)}
        built |= present(system=_blocks(given, "system", _SYSTEM))
        built["inferenceConfig"] = {"maxTokens": given.need("max_tokens", int), **given.renamed(_INFERENCE)}
        fields = given.renamed(_FIELDS)
        choice, single = _choice(given.part("tool_choice"))
        tools = [each for part in given.parts("tools") for each in _tool(part)]
        built |= tool_config(tools, choice, built)
        schema, effort = _output(given.part("output_config"))
        built |= present(outputConfig=schema)
    if single and "toolConfig" in built:
        fields["tool_choice"] = {"disable_parallel_tool_use": True}
    return built | present(additionalModelRequestFields=fields | effort)


def _messages(given: Body) -> list[dict[str, Any]]:
    turns = []
    for part in given.parts("messages", needed=True):
        with part as turn:
            content = _blocks(turn, "content", _BLOCKS)
            if content is None:
                turn.need("content")
            turns.append((turn.choice("role", ["user", "assistant"]), content or []))
    return merged(turns)


def _blocks(given: Body, name: str, kinds: _Readers, *, cached: bool = True) -> list[_Block] | None:
    """Take a text, or a list of blocks; those in the result of a tool have no cache points in Converse."""
    value = given.take(name, str, list)
    if value is None:
        return None
    if isinstance(value, str):
        return [{"text": value}]
    blocks = []
    for index, each in enumerate(value):
        with Body(each, f"{given.at(name)}/{index}") as part:
            blocks.append(kinds[part.choice("type", kinds)](part))
            blocks += _cache_point(part) if cached else []
    return blocks


def _cache_point(given: Body) -> list[_Block]:
    control = given.part("cache_control")
    if control is None:
        return []
    with control:
        control.choice("type", ["ephemeral"])
        return [{"cachePoint": {"type": "default", **control.renamed([("ttl", "ttl", str)])}}]


def _text(given: Body) -> _Block:
    given.neutral("citations", [])
    return {"text": given.need("text", str)}


def _image(given: Body) -> _Block:
    with Body(given.need("source", dict), given.at("source")) as source:
        source.choice("type", ["base64"])
        kind = _IMAGES[source.choice("media_type", _IMAGES)]
        return {"image": {"format": kind, "source": {"bytes": source.blob("data")}}}


def _document(given: Body) -> _Block:
    with Body(given.need("source", dict), given.at("source")) as source:
        kind, document = source.choice("type", _DOCUMENTS), dict[str, Any]()
        if kind != "content":
            document["format"] = _DOCUMENTS[kind]
            source.choice("media_type", ["application/pdf" if kind == "base64" else "text/plain"])
        if kind == "base64":
            document["source"] = {"bytes": source.blob("data")}
        elif kind == "text":
            document["source"] = {"text": source.need("data", str)}
        else:
            document["source"] = {"content": _blocks(source, "content", _SYSTEM, cached=False) or []}
    title = re.sub(r"[^A-Za-z0-9\s()\[\]-]", "-", given.take("title", str) or "document")
    document["name"] = re.sub(r"\s+", " ", title).strip()[:_LONGEST_NAME] or "document"
    return {"document": document | present(context=given.take("context", str), citations=_citations(given))}


def _search_result(given: Body) -> _Block:
    result = {name: given.need(name, str) for name in ("source", "title")}
    content = _blocks(given, "content", _SYSTEM, cached=False) or []
    return {"searchResult": {**result, "content": content, **present(citations=_citations(given))}}


def _citations(given: Body) -> dict[str, Any] | None:
    wanted = given.part("citations")
    if wanted is None:
        return None
    with wanted:
        return {"enabled": wanted.need("enabled", bool)}


def _tool_use(given: Body) -> _Block:
    call = {"toolUseId": given.need("id", str), "name": given.need("name", str)}
    return {"toolUse": {**call, "input": given.need("input", dict)}}


def _tool_result(given: Body) -> _Block:
    result = {"toolUseId": given.need("tool_use_id", str)}
    content = _blocks(given, "content", _RESULTS, cached=False) or []
    failed = given.take("is_error", bool)
    status = {} if failed is None else {"status": "error" if failed else "success"}
    return {"toolResult": {**result, "content": content, **status}}


def _thinking(given: Body) -> _Block:
    told = {"text": given.need("thinking", str), **present(signature=given.take("signature", str))}
    return {"reasoningContent": {"reasoningText": told}}


def _redacted(given: Body) -> _Block:
    return {"reasoningContent": {"redactedContent": given.blob("data")}}


_DOCUMENTS = {"base64": "pdf", "text": "txt", "content": ""}
_SYSTEM: _Readers = {"text": _text}
_RESULTS: _Readers = {"text": _text, "image": _image, "document": _document, "search_result": _search_result}
_BLOCKS: _Readers = {
    **_RESULTS,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "thinking": _thinking,
    "redacted_thinking": _redacted,
}


def _tool(given: Body) -> list[_Block]:
    with given:
        given.neutral("type", "custom")
        spec = {"name": given.need("name", str), "inputSchema": {"json": given.need("input_schema", dict)}}
        spec |= present(description=given.take("description", str), strict=given.take("strict", bool) or None)
        return [{"toolSpec": spec}, *_cache_point(given)]


def _choice(given: Body | None) -> tuple[dict[str, Any] | None, bool]:
    """Return Converse's tool choice, and whether at most one tool may be called at a time."""
    if given is None:
        return None, False
    with given:
        kind = given.choice("type", ["auto", "any", "tool", "none"])
        single = bool(given.take("disable_parallel_tool_use", bool))
        return {kind: {"name": given.need("name", str)} if kind == "tool" else {}}, single


def _output(given: Body | None) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return `outputConfig`, and the effort as a parameter of the model's own."""
    if given is None:
        return None, {}
    with given:
        effort = present(output_config=given.renamed([("effort", "effort", str)]))
        wanted = given.part("format")
        if wanted is None:
            return None, effort
        with wanted:
            wanted.choice("type", ["json_schema"])
            return text_format(wanted.need("schema", dict), wanted.at("schema")), effort


# ---- out ------------------------------------------------------------------------------------------------------

_STOPS = {"content_filtered": "refusal", "guardrail_intervened": "refusal"}  # the others have the same names
_USAGE = {
    "inputTokens": "input_tokens",
    "cacheWriteInputTokens": "cache_creation_input_tokens",
    "cacheReadInputTokens": "cache_read_input_tokens",
    "outputTokens": "output_tokens",
}


def response(answer: Response, model_id: str) -> dict[str, Any]:
    """Write Converse's response as a native one.

    The sequence that stopped the model is null unless the response tells it (`additionalModelResponseFields`).

    Raises:
        ClientError: `ModelErrorException`: it holds a block that the format cannot carry.
    """
    content = [_block(block) for block in answer["output"]["message"]["content"] if block]
    return _envelope(model_id, answer["output"]["message"]["role"]) | {
        "content": content,
        **_stopped(answer),
        "usage": _usage(answer),
    }


def _envelope(model_id: str, role: str) -> dict[str, Any]:
    name = re.sub(r"-v\d+(:\d+)?$", "", base(model_id).removeprefix("anthropic."))
    return {"model": name, "id": f"msg_bdrk_{uuid.uuid4().hex[:24]}", "type": "message", "role": role}


def _stopped(ended: dict[str, Any]) -> dict[str, Any]:
    reason = ended.get("stopReason")
    sequence = (ended.get("additionalModelResponseFields") or {}).get("stop_sequence")
    return {"stop_reason": _STOPS.get(str(reason), reason), "stop_sequence": sequence}


def _usage(ended: dict[str, Any]) -> dict[str, Any]:
    usage = ended.get("usage", {})
    counts: dict[str, Any] = {new: usage[name] for name, new in _USAGE.items() if name in usage}
    if details := usage.get("cacheDetails"):
        written = {f"ephemeral_{each['ttl']}_input_tokens": each["inputTokens"] for each in details}
        counts["cache_creation"] = written
    return counts


def _block(block: _Block) -> dict[str, Any]:
    ((kind, value),) = block.items()
    if kind == "text":
        return {"type": "text", "text": value}
    if kind == "toolUse":
        return {"type": "tool_use", "id": value["toolUseId"], "name": value["name"], "input": _input(value["input"])}
    if kind == "reasoningContent" and "reasoningText" in value:
        told = value["reasoningText"]
        return {"type": "thinking", "thinking": told["text"], "signature": told.get("signature", "")}
    if kind == "reasoningContent":
        return {"type": "redacted_thinking", "data": plain(value["redactedContent"])}
    if kind == "citationsContent":
        text = "".join(part["text"] for part in value.get("content", []))
        return {
            "type": "text",
            "text": text,
            "citations": [citations.native(each) for each in value.get("citations", [])],
        }
    raise untold(kind, _FAMILY)


def _input(value: Any) -> dict[str, Any]:
    """Return the input of a call; of one that was cut off, what of it can be read."""
    if isinstance(value, str):
        read: Any = None
        for read in partial.snapshots([value]):  # noqa: B007 # the last one counts
            pass
        value = read
    return value if isinstance(value, dict) else {}


# ---- streams --------------------------------------------------------------------------------------------------


def events(stream: Iterable[Event], model_id: str) -> Stream[dict[str, Any]]:
    """Write Converse's events as native ones, each as it comes.

    The counts of tokens come in the end, for Converse tells them there; `message_start` counts none yet.

    Raises:
        ClientError: while iterating: the stream broke, or holds what the format cannot carry.
    """
    return translated(stream, lambda arriving: _events(arriving, model_id))


def _events(arriving: Arriving, model_id: str) -> Generator[dict[str, Any]]:
    blocks = _Blocks()
    for kind, body in arriving:
        if kind == "messageStart":
            nothing = {"content": [], **_stopped({}), "usage": {"input_tokens": 0, "output_tokens": 0}}
            yield {"type": "message_start", "message": _envelope(model_id, body["role"]) | nothing}
        elif kind == "contentBlockStart":
            yield from blocks.start(body)
        elif kind == "contentBlockDelta":
            yield from blocks.add(body)
        elif kind == "contentBlockStop":
            yield from blocks.stop()
    yield from blocks.stop()
    yield {"type": "message_delta", "delta": _stopped(arriving.ended), "usage": _usage(arriving.ended)}
    yield {"type": "message_stop", METRICS: arriving.metrics()}


class _Blocks:
    """The blocks of a stream, numbered without gaps; each is started and stopped, which Converse does not do."""

    def __init__(self) -> None:
        self._count = 0
        self._open: int | None = None  # Converse's number of the block that is open

    def start(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for kind, started in body["start"].items():
            if kind != "toolUse":
                raise untold(kind, _FAMILY)
            call = {"id": started["toolUseId"], "name": started["name"]}
            yield from self._begin(body["contentBlockIndex"], {"type": "tool_use", **call, "input": {}})

    def add(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        ((kind, piece),) = body["delta"].items()
        begun, deltas = _delta(kind, piece)
        if begun and self._open != body["contentBlockIndex"]:
            yield from self._begin(body["contentBlockIndex"], begun)
        for delta in deltas:
            yield {"type": "content_block_delta", "index": self._count - 1, "delta": delta}

    def stop(self) -> Iterator[dict[str, Any]]:
        if self._open is not None:
            yield {"type": "content_block_stop", "index": self._count - 1}
        self._open = None

    def _begin(self, number: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self.stop()
        self._open = number
        self._count += 1
        yield {"type": "content_block_start", "index": self._count - 1, "content_block": block}


def _delta(kind: str, piece: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return how the block of a piece begins, and the native pieces."""
    if kind == "text":
        return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece}]
    if kind == "toolUse":
        return {}, [{"type": "input_json_delta", "partial_json": piece["input"]}]
    if kind == "reasoningContent" and "redactedContent" in piece:
        return {"type": "redacted_thinking", "data": plain(piece["redactedContent"])}, []
    if kind == "reasoningContent":
        return {"type": "thinking", "thinking": "", "signature": ""}, [
            _THOUGHTS[name](told) for name, told in piece.items()
        ]
    if kind == "citation":
        cited = {"type": "citations_delta", "citation": citations.native(piece)}
        return {"type": "text", "text": "", "citations": []}, [cited]
    raise untold(kind, _FAMILY)


_THOUGHTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "text": lambda told: {"type": "thinking_delta", "thinking": told},
    "signature": lambda told: {"type": "signature_delta", "signature": told},
}
