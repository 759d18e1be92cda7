"""The embedded engine: Converse on a model that runs in this very process, with schemas enforced token by token.

The model's own chat template, exact token counts, several requests at once, and for a JSON Schema a grammar that is
proven to be in force before the first token is written. It knows model files and what they are asked in Converse's
words; `llama` knows the library that computes.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

from bx import grammar, weights
from bx.converse import Stream, collect, error, schema_of, violation
from bx.engines import chat, llama
from bx.engines.calls import closed
from bx.validation import check

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from botocore.exceptions import ClientError

    from bx.converse import Event, Request, Response
    from bx.engines.calls import Call

# additionalModelRequestFields: the least and the most of each, and whether it is a whole number.
_FIELDS: dict[str, tuple[float, float, bool]] = {
    "seed": (0, 2**32 - 2, True),  # the last one means "any" to llama.cpp
    "top_k": (0, 2**31 - 1, True),
    "min_p": (0, 1, False),
    "repeat_penalty": (0.01, 100, False),
    "dry_multiplier": (0, 100, False),
}
_PROOFS = 100  # grammars that are remembered as proven
_LONGEST_REASON = 600  # characters


class Local:
    """An engine over GGUF model files: `local`, `local:NAME` of a pulled model, or `local:/path/model.gguf`.

    A model is loaded by the first request for it, and kept until the engine is closed or the process ends. Threads
    may share the engine. A process that is forked from one with a loaded model cannot use it, nor any other.
    """

    def __init__(self) -> None:
        self._models: dict[Path, llama.Model] = {}
        self._proven: dict[tuple[Path, str], str] = {}
        self._lock = threading.Lock()
        self._open = True
        llama.watch()

    def converse(self, **request: Any) -> Response:
        """Answer in one piece: see `bx.converse.Engine`."""
        return collect(self.converse_stream(**request)["stream"])

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events: see `bx.converse.Engine`."""
        started = time.monotonic()
        with llama.preparing():
            call, schema = self._ask(request)
        events = _timed(chat.events(call.chunks(), request, schema), started)
        return {"stream": Stream(events, call.cancel)}

    def _ask(self, request: Request) -> tuple[Call, dict[str, Any] | None]:
        """Check a request, load its model, prove its grammar, and start the answer; returns the schema too."""
        check(request, fields=_FIELDS)
        _check_fields(request.get("additionalModelRequestFields", {}))
        schema = schema_of(request)
        if schema is not None:
            _check_schema(schema, request)
        llama.check_installed()
        path = _find(request.get("modelId"))
        model = self._model(path)
        constraint: dict[str, Any] = {}
        if schema is not None:
            constraint = {"grammar": self._grammar(path, model, schema, request), "reasoning_format": "none"}
        body = chat.body(request, None if schema is None else grammar.hint(schema), model.controls)
        call = model.chat(body | constraint)
        call.begin()
        return call, schema

    def close(self) -> None:
        """Stop what is being answered and unload the models; the engine cannot be used afterwards.

        The memory of the model that enforced a schema last is freed when another model does so, or with the process.
        """
        with self._lock:
            self._open = False
            for model in self._models.values():
                model.close()
            self._models.clear()

    def _model(self, path: Path) -> llama.Model:
        with self._lock:
            if not self._open:
                raise closed()
            if path not in self._models:
                self._models[path] = llama.Model(path)
            return self._models[path]

    def _grammar(self, path: Path, model: llama.Model, schema: dict[str, Any], request: Request) -> str:
        """Return a grammar for a schema that is proven to be in force on this model."""
        key = path, _text_of(request)
        if (path, "") not in self._proven:
            if _holds(model, None):
                raise error("ModelErrorException", "The embedded model cannot be held to a schema: the test fails")
            self._proven[path, ""] = ""
        if key not in self._proven:
            proven = _prove(model, schema)
            if len(self._proven) >= _PROOFS:
                self._proven.clear()
            self._proven[key] = proven
        return self._proven[key]


def _prove(model: llama.Model, schema: dict[str, Any]) -> str:
    for candidate in grammar.candidates(schema):
        if _holds(model, candidate):
            return candidate
    reason = grammar.refusal(schema, lambda candidate: _holds(model, candidate))
    raise _unenforceable(f"{reason}. Remove it and try again.")


def _holds(model: llama.Model, candidate: str | None) -> bool:
    """Push the model towards a token that no JSON starts with: only a grammar in force keeps it away.

    llama.cpp answers unconstrained, and without an error, when it cannot compile a grammar.
    """
    body = {"prompt": "x", "max_tokens": 1, "temperature": 0, "logit_bias": [["Z", 100]]}
    call = model.complete(body if candidate is None else body | {"grammar": candidate})
    call.begin()
    return not any("Z" in choice.get("text", "") for chunk in call.chunks() for choice in chunk["choices"])


def _check_schema(schema: dict[str, Any], request: Request) -> None:
    """Refuse what no model could be held to, before one is loaded."""
    if request["messages"][-1]["role"] == "assistant":
        message = "This model does not support assistant message prefill with a JSON Schema."
        raise error("ValidationException", f"{message} The conversation must end with a user message.")
    try:
        grammar.check(schema, _text_of(request))
        violation(None, schema)
    except ValueError as cause:
        raise _unenforceable(str(cause)) from None


def _text_of(request: Request) -> str:
    text: str = request["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"]
    return text


def _unenforceable(reason: str) -> ClientError:
    if len(reason) > _LONGEST_REASON:
        reason = reason[:_LONGEST_REASON] + "..."
    return error("ValidationException", f"The JSON Schema cannot be enforced by this model: {reason}")


def _check_fields(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        least, most, whole = _FIELDS[name]
        kinds = int if whole else (int, float)
        known = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        if not known or not least <= value <= most:
            kind = "a whole number" if whole else "a number"
            where = f"additionalModelRequestFields.{name}"
            raise error("ValidationException", f"{where} must be {kind} from {least} to {most}, not {value!r}.")


def _timed(events: Iterator[Event], started: float) -> Generator[Event]:
    """Add the latency to the last event."""
    for event in events:
        if "metadata" in event:
            event["metadata"]["metrics"] = {"latencyMs": round((time.monotonic() - started) * 1000)}
        yield event


def _find(model_id: Any) -> Path:
    if not isinstance(model_id, str) or model_id.partition(":")[0] != "local":
        raise error("ValidationException", "The provided model identifier is invalid.")
    try:
        return weights.find(model_id.partition(":")[2] or weights.DEFAULT)
    except weights.WeightsError as cause:
        if cause.name:
            message = f"{cause}. {cause.fix}"
            raise error("ModelNotReadyException", message, resourceName=cause.name) from cause
        raise error("ResourceNotFoundException", f"{cause}. {cause.fix}") from cause
