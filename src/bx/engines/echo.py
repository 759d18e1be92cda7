"""The smallest engine: it answers with what it was asked.

For tests, for the docs, and as the reference to read before writing another engine. A word counts as a token, so
`maxTokens` cuts the answer off after so many words. It knows no model and needs nothing.
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Any

from bx.converse import Stream, collect, schema_of
from bx.validation import check, counted

if TYPE_CHECKING:
    from collections.abc import Generator

    from bx.converse import Event, Response


class Echo:
    """An engine without a model."""

    def converse(self, **request: Any) -> Response:
        """Answer with the last message's text: see `bx.converse.Engine`."""
        return collect(self.converse_stream(**request)["stream"])

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer word by word: see `bx.converse.Engine`."""
        check(request)
        schema_of(request)
        closed = threading.Event()  # the stream may be closed by another thread than the one that reads it
        return {"stream": Stream(_events(request, closed), closed.set)}

    def count_tokens(self, **request: Any) -> dict[str, Any]:
        """Count the words of the messages: see `bx.converse.Engine`."""
        asked = counted(request)
        check(asked)
        return {"inputTokens": _size(asked)}


def _events(request: dict[str, Any], closed: threading.Event) -> Generator[Event]:
    started = time.monotonic()
    words, stop = _answer(request)
    yield {"messageStart": {"role": "assistant"}}
    for word in words:
        if closed.is_set():
            return
        yield {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": word}}}
    yield {"contentBlockStop": {"contentBlockIndex": 0}}
    yield {"messageStop": {"stopReason": stop}}
    asked = _size(request)
    usage = {"inputTokens": asked, "outputTokens": len(words), "totalTokens": asked + len(words)}
    yield {"metadata": {"usage": usage, "metrics": {"latencyMs": round((time.monotonic() - started) * 1000)}}}


def _size(request: dict[str, Any]) -> int:
    """Count the words of all messages."""
    return sum(len(_words(block["text"])) for message in request["messages"] for block in message["content"])


def _answer(request: dict[str, Any]) -> tuple[list[str], str]:
    """Return the words of the answer and the reason why it ends."""
    config = request.get("inferenceConfig", {})
    text = "".join(block["text"] for block in request["messages"][-1]["content"])
    stop = "end_turn"
    ends = [text.find(sequence) for sequence in config.get("stopSequences", []) if sequence in text]
    if ends:
        text, stop = text[: min(ends)], "stop_sequence"
    words = _words(text)
    limit = config.get("maxTokens", len(words))
    return (words[:limit], "max_tokens") if limit < len(words) else (words, stop)


def _words(text: str) -> list[str]:
    """Split a text into words, each with the white space before it; the last one keeps what follows it too."""
    words = re.findall(r"\s*\S+", text)
    return [*words[:-1], words[-1] + text[len(text.rstrip()) :]] if words else []
