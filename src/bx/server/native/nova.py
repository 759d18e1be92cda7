"""Amazon Nova's own form, as InvokeModel has it: bodies and answers <-> Converse, of which it is a dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bx.server import wire
from bx.server.native.answers import METRICS, plain, translated
from bx.server.native.body import Body, decoded, malformed, present, typed

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from botocore.model import Shape

    from bx.converse import Event, Request, Response, Stream
    from bx.server.native.answers import Arriving

_VERSION = "messages-v1"
_INFERENCE: list[tuple[str, str, type]] = [
    ("maxTokens", "maxTokens", int),
    ("max_new_tokens", "maxTokens", int),
    ("temperature", "temperature", float),
    ("topP", "topP", float),
    ("top_p", "topP", float),
    ("stopSequences", "stopSequences", list),
]
_TOP_K: list[tuple[str, str, type]] = [("topK", "topK", int), ("top_k", "topK", int)]
_REASONING: list[tuple[str, str, type]] = [("reasoningConfig", "reasoningConfig", dict)]
# Of Converse's unions, what Nova's form has too: documents can only be sent with Converse.
_UNIONS = {
    "SystemContentBlock": {"text", "cachePoint"},
    "ContentBlock": {
        "text", "image", "video", "audio", "toolUse", "toolResult", "reasoningContent", "cachePoint"
    },
    "ToolResultContentBlock": {"text", "json", "image", "video"},
    "Tool": {"toolSpec", "systemTool", "cachePoint"},
}  # fmt: skip
_KINDS: dict[str, type] = {
    "structure": dict,
    "map": dict,
    "list": list,
    "string": str,
    "blob": str,
    "boolean": bool,
    "integer": int,
    "long": int,
    "float": float,
    "double": float,
}
_COUNTS = {
    "inputTokens": "inputTokens",
    "outputTokens": "outputTokens",
    "totalTokens": "totalTokens",
    "cacheReadInputTokens": "cacheReadInputTokenCount",
    "cacheWriteInputTokens": "cacheWriteInputTokenCount",
}

# ---- in -------------------------------------------------------------------------------------------------------


def request(body: Any, model_id: str) -> Request:
    """Read a body as a Converse request.

    `reasoningConfig`, which may stand in the body or its `inferenceConfig`, and `topK` become
    `additionalModelRequestFields`, in the form that Nova takes there.

    Raises:
        ClientError: `ValidationException`: a key is missing, unknown or of another type.
    """
    members = wire.operation("Converse").input_shape.members
    built: Request = {"modelId": model_id}
    with Body(body) as given:
        given.neutral("schemaVersion", _VERSION)
        built["messages"] = _read(members["messages"], given.need("messages", list), given.at("messages"))
        for name in ("system", "toolConfig"):
            value = given.take(name)
            if value is not None:
                built[name] = _read(members[name], value, given.at(name))
        fields = {**(given.take("additionalModelRequestFields", dict) or {}), **given.renamed(_REASONING)}
        inference, own = _inference(given.part("inferenceConfig"))
    if twice := next((name for name in own if name in fields), None):
        raise malformed("#/inferenceConfig", f"extraneous key [{twice}] is not permitted")
    return built | present(inferenceConfig=inference, additionalModelRequestFields=fields | own)


def _inference(given: Body | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `inferenceConfig`, and what of it is a parameter of the model's own in Converse."""
    if given is None:
        return {}, {}
    with given:
        own = given.renamed(_REASONING) | present(inferenceConfig=given.renamed(_TOP_K))
        return given.renamed(_INFERENCE), own


def _read(shape: Shape, value: Any, path: str) -> Any:
    """Read a part that is Converse's but for its bytes, which stand in base64."""
    kind = shape.type_name
    if kind == "structure" and shape.is_document_type:
        return value
    typed(value, path, _KINDS[kind])
    if kind == "blob":
        return decoded(value, path)
    if kind == "list":
        return [_read(shape.member, item, f"{path}/{index}") for index, item in enumerate(value)]
    return _members(shape, value, path) if kind == "structure" else value


def _members(shape: Shape, value: dict[str, Any], path: str) -> dict[str, Any]:
    with Body(value, path) as given:
        found = {}
        for name in shape.members:
            if name not in _UNIONS.get(shape.name, shape.members):
                continue
            item = given.need(name) if name in shape.required_members else given.take(name)
            if item is not None:
                found[name] = _read(shape.members[name], item, given.at(name))
    return found


# ---- out ------------------------------------------------------------------------------------------------------


def response(answer: Response, model_id: str) -> dict[str, Any]:  # noqa: ARG001 # Nova's answers name no model
    """Write Converse's response as a native one."""
    return {"output": plain(answer["output"]), "stopReason": answer["stopReason"], "usage": _usage(answer)}


def events(stream: Iterable[Event], model_id: str) -> Stream[dict[str, Any]]:  # noqa: ARG001 # the same
    """Write Converse's events as native ones, each as it comes.

    Raises:
        ClientError: while iterating: the stream broke.
    """
    return translated(stream, _events)


def _events(arriving: Arriving) -> Generator[dict[str, Any]]:
    for kind, body in arriving:
        if kind == "metadata":
            told = {"usage": _usage(body), "metrics": {}, "trace": plain(body.get("trace", {}))}
            yield {"metadata": told, METRICS: arriving.metrics()}
        else:
            yield {kind: plain(body)}


def _usage(ended: dict[str, Any]) -> dict[str, Any]:
    usage = ended.get("usage", {})
    return {new: usage[name] for name, new in _COUNTS.items() if name in usage}
