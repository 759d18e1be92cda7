"""What native answers of InvokeModel have in common on their way out: streams that can be closed, and measures."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

from bx.converse import Stream, complete, error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from botocore.exceptions import ClientError

    from bx.converse import Event

METRICS = "amazon-bedrock-invocationMetrics"
_COUNTS = {
    "inputTokens": "inputTokenCount",
    "outputTokens": "outputTokenCount",
    "cacheReadInputTokens": "cacheReadInputTokenCount",
    "cacheWriteInputTokens": "cacheWriteInputTokenCount",
}


class Arriving:
    """The events of a stream as (kind, body), as they come; it keeps what is told of the whole answer.

    `ended` holds the members of `messageStop` and `metadata` that have come so far.
    """

    def __init__(self, stream: Iterable[Event]) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self._first: float | None = None
        self.ended: dict[str, Any] = {}

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for event in complete(self._stream):
            if self._first is None:
                self._first = time.monotonic()
            ((kind, body),) = event.items()
            if kind in ("messageStop", "metadata"):
                self.ended |= body
            yield kind, body

    def metrics(self) -> dict[str, Any]:
        """Return what the service adds to the last piece: counts of tokens, and times in ms."""
        usage, now = self.ended.get("usage", {}), time.monotonic()
        whole = self.ended.get("metrics", {}).get("latencyMs", round((now - self._started) * 1000))
        first = round(((self._first or now) - self._started) * 1000)
        counts = {new: usage[name] for name, new in _COUNTS.items() if name in usage}
        return {**counts, "invocationLatency": whole, "firstByteLatency": min(first, whole)}


def translated(
    stream: Iterable[Event], translate: Callable[[Arriving], Generator[dict[str, Any]]]
) -> Stream[dict[str, Any]]:
    """Translate a stream while it comes; closing the result closes the stream, also from another thread."""
    return Stream(translate(Arriving(stream)), getattr(stream, "close", lambda: None))


def plain(value: Any) -> Any:
    """Copy a value into JSON: bytes become base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def untold(kind: str, family: str) -> ClientError:
    """Make the error of an answer with a block that a family's format has no word for."""
    message = f"The answer holds a {kind} block, which {family} cannot carry. Use Converse and try again."
    return error("ModelErrorException", message, operation="InvokeModel")
