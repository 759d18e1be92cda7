"""The embedded engine: llama.cpp in this very process, with grammars enforced token by token.

The model's own chat template, exact token counts, several requests at once, and for a JSON Schema a grammar that is
proven to be in force before the first token is written. This is the only module that knows llama.cpp; it knows no
configuration and no names but those of model files.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import queue
import secrets
import shutil
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

from bx import grammar, weights
from bx.converse import Stream, collect, error, schema_of, violation
from bx.engines import chat
from bx.validation import check

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from botocore.exceptions import ClientError

    from bx.converse import Event, Response

_SLOTS = 4  # requests that are answered at once; more wait in llama.cpp's queue
_CONTEXT = 8192  # tokens of context, shared by the slots; llama.cpp lowers it to what the model was trained for
_BATCH = 128  # tokens of the prompt between two moments at which a request can be stopped
_THREADS = 8  # at most: more only get in each other's way with the small models that this engine is for
_FIELDS = ("seed", "top_k", "min_p", "repeat_penalty", "dry_multiplier")  # additionalModelRequestFields
_ALWAYS = {
    "cache_prompt": False,  # what was asked before must not change an answer at temperature 0
    "timings_per_token": True,  # the tokens so far, also where the answer is stopped
    "return_progress": True,  # signs of life while the prompt is read: moments to stop at
}
_TICK = 0.1  # seconds; Windows delivers Ctrl-C only between two waits


class Local:
    """An engine over GGUF model files: `local`, `local:NAME` of a pulled model, or `local:/path/model.gguf`.

    A model is loaded by the first request for it and kept. Threads may share the engine.
    """

    def __init__(self) -> None:
        self._models: dict[Path, _Model] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()
        # Leaving the interpreter while llama.cpp computes crashes it: everything is stopped first.
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._abandon)

    def converse(self, **request: Any) -> Response:
        """Answer in one piece: see `bx.converse.Engine`."""
        return collect(self.converse_stream(**request)["stream"])

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events: see `bx.converse.Engine`."""
        started = time.monotonic()
        check(request, fields=_FIELDS)
        schema = schema_of(request)
        model = self._model(request["modelId"])
        body = chat.body(request, None if schema is None else grammar.hint(schema)) | _ALWAYS
        if schema is not None:
            body |= {"grammar": model.enforced(schema), "reasoning_format": "none"}
        generation = model.generate(body)
        events = _timed(chat.events(generation.chunks(), request, schema), started)
        return {"stream": Stream(events, generation.cancel)}

    def close(self) -> None:
        """Stop what is being answered and unload the models."""
        atexit.unregister(self.close)
        with self._lock:
            models, self._models = self._models, {}
        for model in models.values():
            model.close()

    def _model(self, model_id: str) -> _Model:
        if os.getpid() != self._process:
            raise error("InternalServerException", "The embedded engine cannot be used in a forked process")
        path = _find(model_id.partition(":")[2] or weights.DEFAULT)
        with self._lock:
            if path not in self._models:
                self._models[path] = _Model(path)
            return self._models[path]

    def _abandon(self) -> None:
        """Keep a forked child from destroying models whose threads live in its parent only: it would hang."""
        atexit.unregister(self.close)
        for model in self._models.values():
            model.leak()


class _Model:
    """One loaded model: llama.cpp's server object, and the grammars that were proven on it."""

    def __init__(self, path: Path) -> None:
        self._server = _load(path)
        self._running: set[_Generation] = set()
        self._grammars: dict[str, str] = {}
        self._used = False

    def generate(self, body: dict[str, Any]) -> _Generation:
        """Start answering; what llama.cpp refuses is raised here, before the first event."""
        self._used = True
        generation = _Generation(self._server, body, self._running.discard)
        self._running.add(generation)
        generation.begin()
        return generation

    def enforced(self, schema: dict[str, Any]) -> str:
        """Return a grammar for a schema that is proven to be in force on this model."""
        key = str(schema)
        if key not in self._grammars:
            self._grammars[key] = self._prove(schema)
        return self._grammars[key]

    def _prove(self, schema: dict[str, Any]) -> str:
        try:
            violation(None, schema)
            for candidate in grammar.candidates(schema):
                if self._holds(candidate):
                    return candidate
            reason = f"{grammar.refusal(schema)}. Remove it and try again."
        except ValueError as cause:
            reason = str(cause)
        raise error("ValidationException", f"The JSON Schema cannot be enforced by this model: {reason}")

    def _holds(self, candidate: str) -> bool:
        """Push the model towards a token that no JSON starts with: only a grammar in force keeps it away.

        llama.cpp answers unconstrained, and without an error, when it cannot compile a grammar.
        """
        self._used = True
        body = {"prompt": "x", "max_tokens": 1, "temperature": 0, "grammar": candidate, "cache_prompt": False}
        answer = self._server.handle_completions({**body, "logit_bias": [["Z", 100]]})
        return "choices" in answer and "Z" not in answer["choices"][0]["text"]

    def close(self) -> None:
        """Stop all answers and free the memory."""
        for generation in list(self._running):
            generation.cancel()
            generation.join()
        if not self._used:  # llama.cpp hangs when it is stopped before it was ever asked
            self._server.handle_completions({"prompt": "x", "max_tokens": 1})
        del self._server

    def leak(self) -> None:
        """Never free the memory: see `Local._abandon`."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._server))


class _Generation:
    """One request, computed in a thread of its own so that Ctrl-C reaches the thread that waits for it."""

    def __init__(self, server: Any, body: dict[str, Any], done: Callable[[_Generation], None]) -> None:
        self._chunks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._done = done
        self._first: Any = None
        self._thread = threading.Thread(target=self._run, args=(server, body), daemon=True)

    def begin(self) -> None:
        """Start the thread and wait for its first sign of life.

        Raises:
            ClientError: llama.cpp refused the request.
        """
        self._thread.start()
        self._first = self._take()

    def chunks(self) -> Generator[dict[str, Any]]:
        """Yield llama.cpp's chunks as they come; closing the generator stops the computation."""
        try:
            chunk, self._first = self._first, None
            while chunk is not None:
                yield chunk
                chunk = self._take()
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop the computation; it ends with the next token or part of the prompt."""
        self._cancelled.set()

    def join(self) -> None:
        """Wait until the computation has ended."""
        self._thread.join()

    def _take(self) -> Any:
        while True:
            try:
                chunk = self._chunks.get(timeout=_TICK)
            except queue.Empty:
                continue
            if isinstance(chunk, Exception):
                raise error("ModelErrorException", f"The embedded model failed: {chunk}") from chunk
            if chunk is not None and "error" in chunk:
                raise _refused(chunk["error"])
            return chunk

    def _run(self, server: Any, body: dict[str, Any]) -> None:
        try:
            answer = server.handle_chat_completions(body, self._put)
            if isinstance(answer, dict) and "error" in answer:
                self._chunks.put(answer)
        except Exception as cause:  # noqa: BLE001 # it is raised again in the thread that asked
            self._chunks.put(cause)
        finally:
            self._chunks.put(None)
            self._done(self)

    def _put(self, chunk: dict[str, Any]) -> bool:
        self._chunks.put(chunk)
        return self._cancelled.is_set()


def _timed(events: Iterator[Event], started: float) -> Generator[Event]:
    """Add the latency to the last event."""
    for event in events:
        if "metadata" in event:
            event["metadata"]["metrics"] = {"latencyMs": round((time.monotonic() - started) * 1000)}
        yield event


def _load(path: Path) -> Any:
    """Load a model file into llama.cpp, which always listens somewhere: here, where nobody can reach it."""
    # Spinning threads make two processes on one machine crawl; read by libgomp when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        import xllamacpp
    except ImportError as cause:
        raise _not_installed(cause) from cause
    folder = tempfile.mkdtemp(prefix="bx-")  # 0700
    parameters = _parameters(xllamacpp.CommonParams(), path, folder)
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as cause:
        message = f"{path} cannot be loaded: it is no GGUF model that this engine runs, or it is damaged"
        raise error("ValidationException", message) from cause
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # without its name the socket is out of reach for everyone


def _parameters(parameters: Any, path: Path, folder: str) -> Any:
    parameters.model.path = str(path)
    parameters.model_alias = {"local"}
    parameters.n_parallel, parameters.kv_unified, parameters.n_ctx = _SLOTS, True, _CONTEXT
    parameters.n_batch = parameters.n_ubatch = _BATCH
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = min(_processors(), _THREADS)
    parameters.verbosity = -1
    parameters.warmup = parameters.fit_params = False  # they double the time to load and change nothing else
    parameters.cache_ram_mib = 0
    parameters.n_threads_http = 1
    parameters.ui = parameters.endpoint_slots = False
    # There is no way not to listen. A socket in a private folder where the system has such sockets; and a key that
    # nobody knows, everywhere.
    parameters.api_keys = [secrets.token_hex(32)]
    if os.name == "posix":
        parameters.hostnames = [f"{folder}/x.sock"]
    return parameters


def _processors() -> int:
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _find(name: str) -> Path:
    try:
        return weights.find(name)
    except weights.WeightsError as cause:
        if cause.name:
            message = f"{cause}. {cause.fix}"
            raise error("ModelNotReadyException", message, resourceName=cause.name) from cause
        raise error("ResourceNotFoundException", f"{cause}. {cause.fix}") from cause


def _not_installed(cause: ImportError) -> ClientError:
    if "libgomp" in str(cause):
        return error("ModelErrorException", "The embedded engine needs libgomp: apt-get install libgomp1")
    if isinstance(cause, ModuleNotFoundError):
        fix = "pip install 'bedrock-bx[local]'"
        return error("ResourceNotFoundException", f"The embedded engine is not installed: {fix}")
    return error("ModelErrorException", f"The embedded engine cannot be loaded: {cause}")


def _refused(problem: dict[str, Any]) -> ClientError:
    """Make the service's error of one of llama.cpp's."""
    if problem.get("type") == "exceed_context_size_error":
        sizes = f"{problem['n_prompt_tokens']} tokens, and its context window holds {problem['n_ctx']}"
        return error("ValidationException", f"Input is too long for requested model: it has {sizes}.")
    code = "ValidationException" if problem.get("code") == 400 else "ModelErrorException"  # noqa: PLR2004 # HTTP
    return error(code, f"The embedded model refused the request: {problem.get('message')}")
