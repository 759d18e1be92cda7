"""The smallest engine: it answers with what it was asked.

For tests, for the docs, and as the reference to read before writing another engine. A word counts as a token, so
`maxTokens` cuts the answer off after so many words. It knows no model and needs nothing.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from bx.converse import collect, schema_of
from bx.validation import check

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        return {"stream": _events(request)}


def _events(request: dict[str, Any]) -> Iterator[Event]:
    started = time.monotonic()
    words, stop = _answer(request)
    yield {"messageStart": {"role": "assistant"}}
    for word in words:
        yield {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": word}}}
    yield {"contentBlockStop": {"contentBlockIndex": 0}}
    yield {"messageStop": {"stopReason": stop}}
    texts = [block["text"] for message in request["messages"] for block in message["content"]]
    asked = sum(len(_words(text)) for text in texts)
    usage = {"inputTokens": asked, "outputTokens": len(words), "totalTokens": asked + len(words)}
    yield {"metadata": {"usage": usage, "metrics": {"latencyMs": round((time.monotonic() - started) * 1000)}}}


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
