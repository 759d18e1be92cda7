"""The vocabulary: Converse requests, responses and events, as the plain dicts that boto3 uses.

An engine is anything with boto3's two methods, `converse` and `converse_stream`. The functions here build a
request, read a response, and fold a stream into one. The shapes are those of the `Converse` and `ConverseStream`
operations in botocore's own service model. This module knows no engine, no file and no terminal, and imports
nothing of bx but what reads JSON.
"""

from __future__ import annotations

import contextlib
import json
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from bx.instances import loads, violation

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from botocore.exceptions import ClientError

Request = dict[str, Any]
Response = dict[str, Any]
Event = dict[str, Any]
Item = TypeVar("Item")

# How a request asks for JSON (native, tool or prompt) while it is on its way to an engine: not all of it shows in it.
rung: ContextVar[str | None] = ContextVar("rung", default=None)


class Engine(Protocol):
    """Anything that answers Converse requests: a boto3 client, one of ours, or a wrapper of either.

    Both methods take the members of Converse's request as keywords and raise
    `botocore.exceptions.ClientError` with a modelled code (`ValidationException`, `ThrottlingException`, ...).

    An engine may have boto3's `count_tokens(**request)` too: it takes `modelId` and `input`, which is
    `{"converse": {...}}` with the members of Converse that cost tokens, and gives `{"inputTokens": n}`: what
    `usage.inputTokens` of the answer would be. `count_tokens` here asks any engine for it.
    """

    def converse(self, **request: Any) -> Response:
        """Answer in one piece: a dict with `output`, `stopReason`, `usage` (in tokens) and `metrics` (in ms)."""

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events: `{"stream": iterator}`; closing the iterator stops the computation."""


class InvalidAnswer(ValueError):
    """The model's answer is no JSON that satisfies the schema. `text` is what arrived."""

    exit_code = 8

    def __init__(self, message: str, fix: str, text: str) -> None:
        super().__init__(message)
        self.fix = fix
        self.text = text


# ---- requests -------------------------------------------------------------------------------------------------


def request(
    prompt: str | list[dict[str, Any]],
    *,
    model: str,
    system: str | None = None,
    schema: dict[str, Any] | None = None,
    fields: dict[str, Any] | None = None,
    **inference: Any,
) -> Request:
    """Build a Converse request.

    Args:
        prompt: the user's text, or a whole list of Converse messages.
        model: what becomes `modelId`.
        system: the system prompt.
        schema: a JSON Schema that the answer must satisfy; sent as `outputConfig.textFormat`.
        fields: the model's own parameters; sent as `additionalModelRequestFields`.
        inference: `maxTokens` (tokens), `temperature` and `topP` (0 to 1), `stopSequences` (a list of strings);
            one that is None is left out.

    Returns:
        The keyword arguments for an engine's two methods.
    """
    messages = [{"role": "user", "content": [{"text": prompt}]}] if isinstance(prompt, str) else prompt
    built: Request = {"modelId": model, "messages": messages}
    if system:
        built["system"] = [{"text": system}]
    if config := {name: value for name, value in inference.items() if value is not None}:
        built["inferenceConfig"] = config
    if fields:
        built["additionalModelRequestFields"] = fields
    if schema is not None:
        definition = {"schema": json.dumps(schema, ensure_ascii=False)}
        built["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": definition}}}
    return built


@contextlib.contextmanager
def on_rung(name: str | None) -> Iterator[None]:
    """Let whoever passes a request on know its `rung`, while the context lasts."""
    before = rung.set(name)
    try:
        yield
    finally:
        rung.reset(before)


def count_tokens(engine: Engine, request: Request) -> dict[str, Any]:
    """Ask an engine for the tokens of a CountTokens request; see `Engine`.

    Raises:
        ClientError: the engine refused, or cannot count.
    """
    count = getattr(engine, "count_tokens", None)
    if count is None:
        message = "The provided model doesn't support counting tokens."
        raise error("ValidationException", message, operation="CountTokens")
    response: dict[str, Any] = count(**request)
    return response


def schema_of(request: Request) -> dict[str, Any] | None:
    """Read the JSON Schema that a request asks for, or None.

    Raises:
        ClientError: `ValidationException` when the schema is not the JSON text of an object.
    """
    text_format = request.get("outputConfig", {}).get("textFormat")
    if text_format is None:
        return None
    try:
        schema = json.loads(text_format["structure"]["jsonSchema"]["schema"])
    except (KeyError, TypeError, ValueError, RecursionError) as cause:
        message = "outputConfig.textFormat.structure.jsonSchema.schema must be a JSON Schema, as JSON text"
        raise error("ValidationException", f"{message}: {cause}") from None
    if not isinstance(schema, dict):
        raise error("ValidationException", "The JSON Schema in outputConfig must be an object")
    return schema


# ---- responses ------------------------------------------------------------------------------------------------


def text(response: Response) -> str:
    """Join all text blocks of a response: reasoning models put other blocks before the text."""
    return "".join(block["text"] for block in _content(response) if "text" in block)


def reasoning(response: Response) -> str:
    """Join the readable reasoning of a response; what the provider redacted is left out."""
    blocks = (block["reasoningContent"] for block in _content(response) if "reasoningContent" in block)
    return "".join(block.get("reasoningText", {}).get("text", "") for block in blocks)


def data(response: Response, schema: dict[str, Any]) -> Any:
    """Read the response's text as JSON that satisfies the schema.

    Raises:
        InvalidAnswer: the answer was cut off, refused or filtered, is no JSON, or breaks the schema.
    """
    answer, stop = text(response), response["stopReason"]
    if stop in UNFINISHED and stop != "malformed_model_output":  # of which the reason can be told below
        raise InvalidAnswer(*UNFINISHED[stop], answer)
    try:
        value = loads(answer)
    except ValueError as cause:
        fix = "Ask again, or choose a model that enforces schemas: docs/structured-output.md lists them"
        raise InvalidAnswer(f"The answer is not JSON ({cause})", fix, answer) from None
    if broken := violation(value, schema):
        fix = "Ask again, or describe the fields in the prompt or in the schema"
        raise InvalidAnswer(f"The answer does not satisfy the schema: {broken}", fix, answer)
    if stop in UNFINISHED:
        raise InvalidAnswer(*UNFINISHED[stop], answer)
    return value


def total(responses: Iterable[Response]) -> dict[str, Any]:
    """Add up the `usage` (tokens) and `metrics` (ms) of several responses; lists are put together.

    A part that one of them does not tell is left out: the sum is unknown then, and not less.
    """
    responses, summed = list(responses), dict[str, Any]()
    for part in ("usage", "metrics"):
        if all(part in response for response in responses):
            summed[part] = counts = dict[str, Any]()
            for name, count in ((name, count) for response in responses for name, count in response[part].items()):
                if isinstance(count, (int, float, list)):
                    counts[name] = counts[name] + count if name in counts else count
    return summed


# ---- streams --------------------------------------------------------------------------------------------------


def deltas(response: dict[str, Any]) -> Stream[str]:
    """Iterate over the text of a `converse_stream` response as it arrives; closing it stops the model.

    Raises:
        ClientError: the stream broke, or ended before the answer did.
    """
    events = response["stream"]
    pieces = (event.get("contentBlockDelta", {}).get("delta", {}).get("text") for event in complete(events))
    return Stream((piece for piece in pieces if piece), getattr(events, "close", lambda: None))


class Stream(Generic[Item]):
    """An iterator with a `close` that also works before the first item was taken, unlike a generator's."""

    def __init__(self, items: Generator[Item], close: Callable[[], None]) -> None:
        self._items = items
        self._close = close

    def __iter__(self) -> Iterator[Item]:
        return self._items

    def __next__(self) -> Item:
        return next(self._items)

    def close(self) -> None:
        """Stop the computation and free what the stream holds."""
        self._close()
        with contextlib.suppress(ValueError):  # another thread takes an item at this moment: it finds the end
            self._items.close()


def complete(events: Iterable[Event]) -> Generator[Event]:
    """Pass events through; raise when they end without a `messageStop`, which botocore takes for success.

    Closing this iterator closes the one below.
    """
    finished = False
    try:
        for event in events:
            if "contentBlockDelta" in event:
                if not _is_sound(event["contentBlockDelta"]):  # botocore takes a piece that is damaged for none
                    raise broken_stream("modelStreamErrorException", "A piece of the answer is damaged")
            elif "messageStop" in event:
                finished = bool(event["messageStop"].get("stopReason"))
            yield event
    finally:
        if close := getattr(events, "close", None):
            close()
    if not finished:
        raise broken_stream("modelStreamErrorException", "The stream ended before the answer did")


def _is_sound(body: dict[str, Any]) -> bool:
    delta = body.get("delta")
    if not isinstance(delta, dict) or not delta or not isinstance(delta.get("text", ""), str):
        return False
    call = delta.get("toolUse", {"input": ""})
    return isinstance(call, dict) and isinstance(call.get("input"), str)


def collect(events: Iterable[Event]) -> Response:
    """Fold the events of a stream into the response that `converse` would have given.

    The input of a tool call that was cut off is no JSON: then `input` is the text that arrived, a string.

    Raises:
        ClientError: the stream broke, or ended before the answer did.
    """
    role, blocks = "assistant", dict[int, dict[str, Any]]()
    response: Response = {}
    for event in complete(events):
        ((kind, body),) = event.items()
        if kind == "messageStart":  # where tools were run in between, the last turn is the answer
            role = body["role"]
            blocks.clear()
        elif kind == "contentBlockStart":
            blocks[body["contentBlockIndex"]] = {name: dict(start) for name, start in body["start"].items()}
        elif kind == "contentBlockDelta":
            _append(blocks.setdefault(body["contentBlockIndex"], {}), body["delta"])
        elif kind in ("messageStop", "metadata"):
            response.update(body)
    for block in blocks.values():
        if "text" in block:
            block["text"] = "".join(block["text"])
        if "toolUse" in block:
            whole = response["stopReason"] not in UNFINISHED
            block["toolUse"]["input"] = _tool_input("".join(block["toolUse"].get("input", ())), whole=whole)
    message = {"role": role, "content": [blocks[index] for index in sorted(blocks)]}
    return {"output": {"message": message}, **response}


def _append(block: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add one delta to the block that it continues."""
    ((kind, piece),) = delta.items()
    if kind == "text" and "citationsContent" in block:
        block["citationsContent"]["content"].append({"text": piece})
    elif kind == "text":
        block.setdefault("text", []).append(piece)  # joined in the end: text by text would take quadratic time
    elif kind == "toolUse":
        if kind not in block:
            raise broken_stream("modelStreamErrorException", "A tool call arrived without its beginning")
        block[kind].setdefault("input", []).append(piece["input"])
    elif kind == "citation":
        cited = block.setdefault("citationsContent", {"content": [], "citations": []})
        cited["citations"].append(piece)
    elif kind == "toolResult":
        block["toolResult"].setdefault("content", []).extend(piece)
    elif kind == "reasoningContent":
        _append_reasoning(block.setdefault("reasoningContent", {}), piece)
    else:
        block.setdefault(kind, {}).update(piece)


def _tool_input(written: str, *, whole: bool) -> Any:
    try:
        return loads(written or "{}")
    except ValueError:
        if whole:
            raise broken_stream("modelStreamErrorException", "The input of a tool call is not JSON") from None
        return written


def _append_reasoning(block: dict[str, Any], piece: dict[str, Any]) -> None:
    for name, value in piece.items():
        if name == "redactedContent":
            block[name] = block.get(name, b"") + value
        else:
            written = block.setdefault("reasoningText", {"text": ""})
            written[name] = written.get(name, "") + value


# ---- errors ---------------------------------------------------------------------------------------------------


def error(code: str, message: str, *, operation: str = "Converse", **members: str) -> ClientError:
    """Make the `ClientError` that botocore would raise for a modelled error code.

    `members` join the error's `response` beside `Error`, as `resourceName` does in a real one.
    """
    from botocore.exceptions import ClientError

    metadata = {"HTTPStatusCode": status_of(code)}
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata, **members}, operation
    )


def status_of(code: str) -> int:
    """Return the HTTP status of one of AWS's error codes; 500 for one that is not known."""
    return _STATUS.get(code, 500)


def broken_stream(code: str, message: str) -> ClientError:
    """Make the error that botocore raises for an exception inside a stream; `code` is in lowerCamelCase."""
    from botocore.exceptions import EventStreamError

    return EventStreamError({"Error": {"Code": code, "Message": message}}, "ConverseStream")


def _content(response: Response) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = response["output"]["message"]["content"]
    return content


_STATUS = {
    "ValidationException": 400,
    "SerializationException": 400,
    "ServiceQuotaExceededException": 400,
    "AccessDeniedException": 403,
    "ExpiredTokenException": 403,
    "IncompleteSignatureException": 403,
    "InvalidSignatureException": 403,
    "MissingAuthenticationTokenException": 403,
    "UnrecognizedClientException": 403,
    "ResourceNotFoundException": 404,
    "ModelTimeoutException": 408,
    "ModelErrorException": 424,
    "ModelStreamErrorException": 424,
    "ThrottlingException": 429,
    "ModelNotReadyException": 429,
    "InternalServerException": 500,
    "ServiceUnavailableException": 503,
}
_RAISE_LIMIT = "Raise the limit with --max-tokens (maxTokens in Python)"
_REFUSED = "Reword the prompt, or ask another model"
# Stop reasons of answers that did not come to their end -> what happened, what to do.
UNFINISHED = {
    "max_tokens": ("The answer was cut off at the token limit", _RAISE_LIMIT),
    "model_context_window_exceeded": (
        "The answer was cut off at the end of the model's context window",
        "Shorten the prompt, or choose a model with a larger context window",
    ),
    "refusal": ("The model refused to answer", _REFUSED),
    "content_filtered": ("The answer was withheld by a content filter", _REFUSED),
    "guardrail_intervened": ("A guardrail withheld the answer", _REFUSED),
    "malformed_model_output": ("The model's output was malformed", "Ask again, or ask another model"),
    "malformed_tool_use": ("The model's tool call was malformed", "Ask again, or ask another model"),
}
