"""The embedded engine: Converse on a model that runs in this very process, with schemas enforced token by token.

The model's own chat template, exact token counts, several requests at once, and for a JSON Schema a grammar that is
proven to be in force before the first token is written. It knows model files and what they are asked in Converse's
words; `llama` knows the library that computes.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import math
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from bx import grammar, weights
from bx.converse import Stream, collect, error, schema_of
from bx.converse import request as build
from bx.engines import chat, llama, toolcalls
from bx.engines.calls import closed
from bx.instances import violation
from bx.memory import Memory
from bx.validation import check, counted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from bx.converse import Event, Request, Response
    from bx.engines.calls import Call

    _Answer = tuple[Iterator[Event], Callable[[], None]]  # its events, and what stops it
    _Inputs = dict[str, "_Input"]  # by the names of their tools

# additionalModelRequestFields: the least and the most of each, and whether it is a whole number.
_FIELDS: dict[str, tuple[float, float, bool]] = {
    "seed": (0, 2**32 - 2, True),  # the last one means "any" to llama.cpp
    "top_k": (0, 2**31 - 1, True),
    "min_p": (0, 1, False),
    "repeat_penalty": (0.01, 100, False),
    "dry_multiplier": (0, 100, False),
}
_PROOFS = 100  # grammars that are remembered as proven
_REMEMBERED = 24 * 3600  # seconds for which other processes need not prove a grammar again
_LONGEST_REASON = 600  # characters
_ANY_INPUT = {"type": "object"}


class Local:
    """An engine over GGUF model files: `local`, `local:NAME` of a pulled model, or `local:/path/model.gguf`.

    A model is loaded by the first request for it, and kept until the engine is closed or the process ends. Threads
    may share the engine. A process that is forked from one with a loaded model cannot use it, nor any other.
    """

    def __init__(self) -> None:
        self._models: dict[Path, llama.Model] = {}
        self._proven: dict[tuple[Path, str], str] = {}
        self._neutral: dict[tuple[Path, str], float] = {}  # how models lean to tools that nothing speaks for
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
            events, cancel = self._ask(request)
        return {"stream": Stream(_timed(events, started), cancel)}

    def count_tokens(self, **request: Any) -> dict[str, Any]:
        """Count by the model's own tokenizer and template: see `bx.converse.Engine`.

        Where the model may choose between text and a call, what the answer in text would read is counted.
        """
        with llama.preparing():
            asked = counted(request)
            inputs, _ = _checked(asked)
            path = _find(asked.get("modelId"))
            model, hint = self._model(path), None
            if inputs and toolcalls.is_forced(asked):
                spec, _ = self._best_tool(path, model, asked, toolcalls.message(asked) or toolcalls.last_text(asked))
                hint = toolcalls.hint(inputs[spec["name"]].schema)
            return {"inputTokens": model.count(chat.body(asked, hint, model.controls)["messages"])}

    def _ask(self, request: Request) -> _Answer:
        """Check a request, load its model, prove its grammars, and start the answer."""
        inputs, schema = _checked(request)
        path = _find(request.get("modelId"))
        model = self._model(path)
        constraint = None if schema is None else self._grammar(path, model, schema, request)
        if inputs and (called := self._call_tool(path, model, request, inputs)):
            return called
        hint = None if schema is None else grammar.hint(schema)
        call = _begun(model, chat.body(request, hint, model.controls), constraint)
        return chat.events(call.chunks(), request, schema), call.cancel

    def _call_tool(self, path: Path, model: llama.Model, request: Request, inputs: _Inputs) -> _Answer | None:
        """Start the answer that is a call, or return None where the model may write text and should."""
        inputs = {name: self._proven_input(path, model, name, taken) for name, taken in inputs.items()}
        forced, said = toolcalls.is_forced(request), toolcalls.message(request)
        if said is None and not forced:
            return None
        said = said or toolcalls.last_text(request)
        spec, lean = self._best_tool(path, model, request, said)
        schema = inputs[spec["name"]].schema
        body = toolcalls.SAMPLING | chat.body(request, toolcalls.hint(schema), model.controls)
        call = _begun(model, body, self._grammar(path, model, schema, _holding(schema)))
        if forced:
            return chat.events(call.chunks(), request, schema, spec["name"]), call.cancel
        drafted = [*call.chunks()]
        if not toolcalls.is_called(lean, chat.written(drafted), spec, said):
            return None
        return chat.events((chunk for chunk in drafted), request, schema, spec["name"]), call.cancel

    def _proven_input(self, path: Path, model: llama.Model, name: str, taken: _Input) -> _Input:
        """Return what a tool's input is held to on this model."""
        try:
            self._grammar(path, model, taken.schema, _holding(taken.schema))
        except ClientError as refused:
            return _instead(taken, name, refused)
        return taken

    def _best_tool(self, path: Path, model: llama.Model, request: Request, said: str) -> tuple[dict[str, Any], float]:
        """Return the tool that the model leans to most for a message, and how much."""
        specs = toolcalls.offered(request)
        if len(specs) == 1 and toolcalls.is_forced(request):
            return specs[0], 0
        leanings = []
        for spec in specs:
            key = path, json.dumps(spec)
            if key not in self._neutral:
                if len(self._neutral) >= _PROOFS:
                    self._neutral.clear()
                self._neutral[key] = _leaning(model, spec, toolcalls.NEUTRAL)
            leanings.append(_leaning(model, spec, said) - self._neutral[key])
        best = max(range(len(specs)), key=leanings.__getitem__)
        return specs[best], leanings[best]

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
        if key not in self._proven:
            proven = _prove(path, model, schema)
            if len(self._proven) >= _PROOFS:
                self._proven.clear()
            self._proven[key] = proven
        return self._proven[key]


class _Input(NamedTuple):
    """What the input of a tool is held to, and whether a schema that cannot be enforced must be refused."""

    schema: dict[str, Any]
    strict: bool


def _checked(request: Request) -> tuple[_Inputs, dict[str, Any] | None]:
    """Refuse what no model here could answer, before one is loaded.

    Returns:
        What the tools that may be called take, and the schema of the answer.
    """
    check(request, fields=_FIELDS, tools=True)
    _check_fields(request.get("additionalModelRequestFields", {}))
    schema = schema_of(request)
    if schema is not None:
        _check_schema(request)
    inputs = _check_inputs(request)
    llama.check_installed()
    return inputs, schema


def _check_inputs(request: Request) -> _Inputs:
    """Refuse tools whose input no model could be held to; returns what each that may be called takes."""
    forced = toolcalls.is_forced(request)
    if forced and request["messages"][-1]["role"] == "assistant":
        message = "This model does not support assistant message prefill with a tool that must be called."
        raise error("ValidationException", f"{message} The conversation must end with a user message.")
    inputs = {}
    for spec in toolcalls.offered(request):
        name, taken = spec["name"], _Input(spec["inputSchema"]["json"], forced or spec.get("strict", False))
        try:
            _check_schema(_holding(taken.schema))
            inputs[name] = taken
        except ClientError as refused:
            inputs[name] = _instead(taken, name, refused)
    return inputs


def _instead(taken: _Input, name: str, refused: ClientError) -> _Input:
    """Hold an input whose schema was refused to any object, unless it must be enforced."""
    told = refused.response["Error"]
    if told["Code"] != "ValidationException":
        raise refused
    if taken.strict:
        raise error("ValidationException", f"The input of the tool {name}: {told['Message']}") from None
    return taken._replace(schema=_ANY_INPUT)


def _holding(schema: dict[str, Any]) -> Request:
    """Make the request that would hold a text to a schema."""
    return build("", model="local", schema=schema)


def _begun(model: llama.Model, body: dict[str, Any], constraint: str | None = None) -> Call:
    """Start the answer to a chat completion, with a grammar where one is given."""
    call = model.chat(body if constraint is None else body | {"grammar": constraint, "reasoning_format": "none"})
    call.begin()
    return call


def _leaning(model: llama.Model, spec: dict[str, Any], said: str) -> float:
    """Ask a model whether a tool fits a message: above 0 it rather does."""
    body = toolcalls.question(spec, said)
    for plain in body["messages"]:
        plain["content"] = chat.harmless(plain["content"], model.controls)
    return toolcalls.leaning(_begun(model, body).chunks())


def _prove(path: Path, model: llama.Model, schema: dict[str, Any]) -> str:
    if not _passes(path, model, None):
        raise error("ModelErrorException", "The embedded model cannot be held to a schema: the test fails")
    for candidate in grammar.candidates(schema):
        if _passes(path, model, candidate):
            return candidate
    reason = grammar.refusal(schema, lambda candidate: _holds(model, candidate))
    raise _unenforceable(f"{reason}. Remove it and try again.")


def _passes(path: Path, model: llama.Model, candidate: str | None) -> bool:
    """Whether a model is held to a grammar, or to nothing without one; a proof is remembered for 24 hours.

    The same build of the library, the same file and the same text give the same result; and were it not so, the
    finished answer is validated all the same. What failed is tried again: it may have been the moment.
    """
    memory, digest = Memory("grammars", _REMEMBERED), hashlib.sha256((candidate or "").encode())
    library = importlib.util.find_spec("xllamacpp")
    for file in (path, *(Path(library.origin).parent.glob("*") if library and library.origin else ())):
        found = file.stat()
        digest.update(f"\n{file}\n{found.st_size}\n{found.st_mtime_ns}".encode())
    if memory.get(digest.hexdigest()) == "proven":
        return True
    passed = _holds(model, candidate) is (candidate is not None)
    if passed:
        memory.put(digest.hexdigest(), "proven")
    return passed


def _holds(model: llama.Model, candidate: str | None) -> bool:
    """Push the model towards a token that no JSON starts with: only a grammar in force keeps it away.

    llama.cpp answers unconstrained, and without an error, when it cannot compile a grammar.
    """
    body = {"prompt": "x", "max_tokens": 1, "temperature": 0, "logit_bias": [["Z", 100]]}
    call = model.complete(body if candidate is None else body | {"grammar": candidate})
    call.begin()
    written = "".join(choice.get("text", "") for chunk in call.chunks() for choice in chunk["choices"])
    return bool(written) and "Z" not in written


def _check_schema(request: Request) -> None:
    """Refuse what no model could be held to, before one is loaded."""
    if request["messages"][-1]["role"] == "assistant":
        message = "This model does not support assistant message prefill with a JSON Schema."
        raise error("ValidationException", f"{message} The conversation must end with a user message.")
    try:
        _check_text(_text_of(request))
    except ValueError as cause:
        raise _unenforceable(str(cause)) from None


@functools.lru_cache(maxsize=_PROOFS)
def _check_text(text: str) -> None:
    """Refuse a schema that is no schema, or too much; one that passed is not looked at again."""
    schema = json.loads(text)
    grammar.check(schema, text)
    violation(None, schema)


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
