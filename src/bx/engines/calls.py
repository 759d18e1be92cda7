"""One request to llama.cpp: computed in a thread of its own, waited for in another, stopped when nobody waits.

Chunks are llama.cpp's own dicts. This module knows nothing of how they are computed.
"""

from __future__ import annotations

import _thread
import queue
import weakref
from typing import TYPE_CHECKING, Any

from bx.converse import broken_stream, error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from botocore.exceptions import ClientError

    Chunk = dict[str, Any]

_TICK = 0.1  # seconds; Windows delivers Ctrl-C only between two waits


class Call:
    """The chunks of one request. Whoever drops it, closed or not, stops the computation."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._first: Chunk | None = None
        weakref.finalize(self, task.cancel).atexit = False

    def begin(self) -> None:
        """Wait for the first sign of life.

        Raises:
            ClientError: llama.cpp refused the request.
        """
        try:
            first = self._take()
        except BaseException:
            self.cancel()
            raise
        if first is None:
            raise closed()
        if "error" in first:
            raise _refused(first["error"])
        self._first = first

    def chunks(self) -> Generator[Chunk]:
        """Yield llama.cpp's chunks as they come; closing the generator stops the computation.

        Raises:
            EventStreamError: llama.cpp failed, or the engine was closed, before the answer was complete.
        """
        finished = False
        try:
            chunk, self._first = self._first, None
            while chunk is not None:
                if "error" in chunk:
                    raise broken_stream("modelStreamErrorException", _message(chunk["error"]))
                finished = finished or any(choice.get("finish_reason") for choice in chunk["choices"])
                yield chunk
                chunk = self._take()
        finally:
            self.cancel()
        if not finished:
            message = "The embedded engine, or this stream, was closed before the answer was complete"
            raise broken_stream("modelStreamErrorException", message)

    def size(self) -> int:
        """Return the tokens of the prompt, as soon as they are counted, and stop.

        Raises:
            ClientError: llama.cpp refused the request.
        """
        self.begin()
        self.cancel()
        progress: dict[str, int] = (self._first or {})["prompt_progress"]
        return progress["total"]

    def cancel(self) -> None:
        """Stop the computation; it ends with the next token or part of the prompt."""
        self._task.cancel()

    def _take(self) -> Chunk | None:
        while True:
            try:
                chunk = self._task.chunks.get(timeout=_TICK)
            except queue.Empty:
                if self._task.cancelled:  # by another thread; the computation goes on for a moment
                    return None
                continue
            if isinstance(chunk, Exception):
                raise error("ModelErrorException", f"The embedded model failed: {chunk}") from None
            return chunk


class Task:
    """The computation of one request, in a thread of its own so that Ctrl-C reaches the thread that waits for it."""

    def __init__(self, work: Callable[[Task], None], running: set[Task]) -> None:
        self.chunks: queue.SimpleQueue[Chunk | Exception | None] = queue.SimpleQueue()
        # Plain values: a Ctrl-C in the midst of a `threading.Event` may leave it locked.
        self.cancelled = False
        self.ended = False
        self._work = work
        self._running = running

    def start(self) -> None:
        """Start the thread; unlike `threading.Thread` without a moment in which it is half started."""
        _thread.start_new_thread(self._run, ())

    def cancel(self) -> None:
        """Ask the computation to stop."""
        self.cancelled = True

    def put(self, chunk: Chunk) -> bool:
        """Pass a chunk on; returns whether to stop."""
        self.chunks.put(chunk)
        return self.cancelled

    def _run(self) -> None:
        self._running.add(self)
        try:
            self._work(self)
        except Exception as cause:  # noqa: BLE001 # it is raised again in the thread that asked
            self.chunks.put(cause.with_traceback(None))  # whose frames would keep the model alive
        finally:
            self.chunks.put(None)
            self._running.discard(self)
            self.ended = True


def closed() -> ClientError:
    """Make the error of an engine that is used after it was closed."""
    return error("ServiceUnavailableException", "The embedded engine is closed")


def _refused(problem: dict[str, Any]) -> ClientError:
    """Make the service's error of one of llama.cpp's."""
    if problem.get("type") == "exceed_context_size_error":
        sizes = f"{problem['n_prompt_tokens']} tokens, and its context window holds {problem['n_ctx']}"
        return error("ValidationException", f"Input is too long for requested model: it has {sizes}.")
    code = "ValidationException" if problem.get("code") == 400 else "ModelErrorException"  # noqa: PLR2004 # HTTP
    return error(code, _message(problem))


def _message(problem: dict[str, Any]) -> str:
    return f"The embedded model refused the request: {problem.get('message')}"
