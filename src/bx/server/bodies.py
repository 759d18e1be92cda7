"""What requests and answers say about tokens and grammars, whether they are Converse's or of a model's native form.

The names of a native form are looked for, never demanded: what is not there is not told.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from bx.server import frames

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bx.server.exchange import Call

_MAX_TOKENS = [
    ("inferenceConfig", "maxTokens"),
    ("inferenceConfig", "max_new_tokens"),
    ("max_tokens",),
    ("max_completion_tokens",),
]
_INPUT = ["inputTokens", "input_tokens", "prompt_tokens", "inputTokenCount"]
_WRITTEN = ["cacheWriteInputTokens", "cache_creation_input_tokens", "cacheWriteInputTokenCount"]
_OUTPUT = ["outputTokens", "output_tokens", "completion_tokens", "outputTokenCount"]
_METRICS = "amazon-bedrock-invocationMetrics"  # the service adds them to the last piece of a native stream


class Usage(NamedTuple):
    """Tokens that a request took; `input` without those of the cache."""

    input: int
    cache_writes: int
    output: int


# ---- requests -------------------------------------------------------------------------------------------------


def asked(call: Call) -> dict[str, Any]:
    """Return a request as JSON has it: Converse's members, or a native body; empty where that is no object."""
    if "body" not in call.request:
        return call.request
    return _object(call.request["body"])


def max_tokens(call: Call) -> int | None:
    """Read how many tokens a request allows the answer, or None."""
    found = _limits(asked(call))
    return min(found.values(), default=None)


def capped(call: Call, tokens: int) -> Call:
    """Copy a request that allows the answer no more than so many tokens; one that cannot be read stays as it is."""
    document = asked(call)
    if not document:
        return call
    for path in _limits(document) or [_usual(call, document)]:
        document = _with(document, path, min(tokens, _limits(document).get(path, tokens)))
    request = {**call.request, "body": frames.dumped(document)} if "body" in call.request else document
    return call._replace(request=request)


def grammar(call: Call) -> str | None:
    """Name the grammar that a request needs, from its model, schema and strict tools; None where it needs none.

    Descriptions make no difference to a grammar.
    """
    document = asked(call)
    schemas = [
        _at(document, ("outputConfig", "textFormat", "structure", "jsonSchema", "schema")),
        _at(document, ("output_config", "format", "schema")),
        _at(document, ("response_format", "json_schema", "schema")),
    ]
    found = [_object(schema) if isinstance(schema, str) else schema for schema in schemas if schema] + _strict(
        document
    )
    if not found:
        return None
    written = json.dumps([call.request.get("modelId"), _bare(found)], sort_keys=True, default=repr)
    return hashlib.sha256(written.encode(errors="surrogatepass")).hexdigest()


def _strict(document: dict[str, Any]) -> list[Any]:
    listed = _at(document, ("toolConfig", "tools")) or document.get("tools")
    tools = [tool for tool in listed if isinstance(tool, dict)] if isinstance(listed, list) else []
    specs = [next((tool[name] for name in ("toolSpec", "function") if name in tool), tool) for tool in tools]
    return [spec for spec in specs if isinstance(spec, dict) and spec.get("strict")]


def _bare(value: Any) -> Any:
    if isinstance(value, list):
        return [_bare(item) for item in value]
    if isinstance(value, dict):  # a property may be called description: its value is a schema then, and no text
        kept = {name: item for name, item in value.items() if name != "description" or not isinstance(item, str)}
        return {name: _bare(item) for name, item in kept.items()}
    return value


def _limits(document: dict[str, Any]) -> dict[tuple[str, ...], int]:
    found = {path: _at(document, path) for path in _MAX_TOKENS}
    return {path: value for path, value in found.items() if isinstance(value, int) and not isinstance(value, bool)}


def _usual(call: Call, document: dict[str, Any]) -> tuple[str, ...]:
    """Where a request without a limit would have it."""
    nova = "inferenceConfig" in document or "amazon.nova" in str(call.request.get("modelId"))
    return ("inferenceConfig", "maxTokens") if "body" not in call.request or nova else ("max_tokens",)


# ---- answers --------------------------------------------------------------------------------------------------


def opened(frame: bytes) -> tuple[str, dict[str, Any]] | None:
    """Read a frame as an event: its name and body; None for an exception, or a frame that is damaged."""
    from botocore.eventstream import EventStreamBuffer, ParserError

    buffer = EventStreamBuffer()
    buffer.add_data(frame)
    try:
        message = next(buffer)
    except (ParserError, StopIteration):
        return None
    kind = message.headers.get(":event-type")
    return (kind, _object(message.payload)) if isinstance(kind, str) else None


def usage(body: bytes) -> Usage | None:
    """Read what an answer in one piece took; None where it does not say."""
    return _counted(_object(body).get("usage"))


def streamed_usage(frame: bytes) -> Usage | None:
    """Read what an answer took from the event of its stream that tells; None for any other event."""
    kind, body = opened(frame) or ("", {})
    if kind == "metadata":
        return _counted(body.get("usage"))
    if kind != "chunk" or not isinstance(body.get("bytes"), str):
        return None
    document = _object(base64.b64decode(body["bytes"]))
    return _counted(document.get(_METRICS)) or _counted(_at(document, ("metadata", "usage")))


def _counted(told: Any) -> Usage | None:
    if not isinstance(told, dict):
        return None
    taken, written, given = (_first(told, names) for names in (_INPUT, _WRITTEN, _OUTPUT))
    return None if taken is None or given is None else Usage(taken, written or 0, given)


def _first(told: dict[str, Any], names: Iterable[str]) -> int | None:
    return next((told[name] for name in names if isinstance(told.get(name), int)), None)


# ---- JSON -----------------------------------------------------------------------------------------------------


def _object(written: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(written)
    except (ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _with(document: dict[str, Any], path: tuple[str, ...], value: int) -> dict[str, Any]:
    name, *rest = path
    if not rest:
        return {**document, name: value}
    inner = document.get(name)
    return {**document, name: _with(inner if isinstance(inner, dict) else {}, tuple(rest), value)}
