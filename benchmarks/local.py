"""Measure the embedded engine: bx against the same library called directly, and with a schema against without.

    python benchmarks/local.py --rounds 15

Two copies of the model are loaded into one process, with the same settings, and answer in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bx import converse, weights
from bx.engines import chat, llama
from bx.engines.local import Local

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_TOKENS = 64
_PROMPT = "Tell a long story about a lighthouse keeper and the sea."
_STORY = {"type": "string", "minLength": 4 * _TOKENS * 4, "maxLength": 8 * _TOKENS * 4}
_SCHEMA = {"type": "object", "properties": {"story": _STORY}, "required": ["story"]}


class Answer(NamedTuple):
    """The seconds to the first text and to the end, the tokens, and the text."""

    first: float
    whole: float
    tokens: int
    text: str

    @property
    def speed(self) -> float:
        """Tokens per second, the reading of the prompt included."""
        return self.tokens / self.whole

    @property
    def pace(self) -> float:
        """Tokens per second once the first text is there."""
        return (self.tokens - 1) / (self.whole - self.first)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15, help="how often each way answers (default: 15)")
    rounds = parser.parse_args().rounds
    try:
        path = weights.find(weights.DEFAULT)
        direct = _direct(path)
    except (weights.WeightsError, ImportError) as missing:
        print(f"\nThe embedded engine was not measured: {missing}")
        return
    engine = Local()
    plain = _request(path, None)
    held = _request(path, _SCHEMA)
    ways: dict[str, Callable[[], Answer]] = {
        "xllamacpp": lambda: _ask_directly(direct, plain),
        "bx": lambda: _ask(engine, plain),
        "bx, held to a schema": lambda: _ask(engine, held),
    }
    started = time.monotonic()
    cold = {name: way() for name, way in ways.items()}
    print(f"\nAll loaded and proven after {time.monotonic() - started:.1f} s")
    assert cold["xllamacpp"].text == cold["bx"].text, "they generate different texts"
    answers: dict[str, list[Answer]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 else reversed(ways):
            answers[name].append(ways[name]())
    _table(answers)
    engine.close()


def _direct(path: Path) -> Any:
    """Load the model as the engine does."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    import xllamacpp

    with tempfile.TemporaryDirectory(prefix="bx-") as folder:
        return xllamacpp.Server(llama._parameters(xllamacpp.CommonParams(), path, folder))  # noqa: SLF001 # the same


def _request(path: Path, schema: dict[str, Any] | None) -> converse.Request:
    return converse.request(_PROMPT, model=f"local:{path}", schema=schema, maxTokens=_TOKENS, temperature=0)


def _ask_directly(server: Any, request: converse.Request) -> Answer:
    started, pieces = time.monotonic(), list[str]()
    first, tokens = 0.0, 0

    def take(chunk: dict[str, Any]) -> bool:
        nonlocal first, tokens
        for choice in chunk["choices"]:
            if piece := choice["delta"].get("content"):
                first = first or time.monotonic() - started
                pieces.append(piece)
        tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        return False

    body = {**chat.body(request), "cache_prompt": False, "stream_options": {"include_usage": True}}
    server.handle_chat_completions(body, take)
    return Answer(first, time.monotonic() - started, tokens, "".join(pieces))


def _ask(engine: converse.Engine, request: converse.Request) -> Answer:
    started, pieces = time.monotonic(), list[str]()
    first, tokens = 0.0, 0
    for event in engine.converse_stream(**request)["stream"]:
        if piece := event.get("contentBlockDelta", {}).get("delta", {}).get("text"):
            first = first or time.monotonic() - started
            pieces.append(piece)
        tokens = event.get("metadata", {}).get("usage", {}).get("outputTokens", tokens)
    return Answer(first, time.monotonic() - started, tokens, "".join(pieces))


def _table(answers: dict[str, list[Answer]]) -> None:
    """Print medians; the first ratio is to xllamacpp, the second to bx without a schema."""
    print(f"\n### The embedded engine, answers of {_TOKENS} tokens\n")
    print(
        "| | tokens/s, whole answer | ratio to xllamacpp | tokens/s after the first | ratio to bx | first token ms |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for name, kept in answers.items():
        speeds, paces = [answer.speed for answer in kept], [answer.pace for answer in kept]
        to_direct = _ratio(speeds, [answer.speed for answer in answers["xllamacpp"]])
        to_plain = _ratio(paces, [answer.pace for answer in answers["bx"]])
        first = statistics.median(answer.first for answer in kept) * 1000
        medians = statistics.median(speeds), statistics.median(paces)
        print(f"| {name} | {medians[0]:.1f} | {to_direct} | {medians[1]:.1f} | {to_plain} | {first:.0f} |")


def _ratio(values: Sequence[float], bases: Sequence[float]) -> str:
    ratios = [value / base for value, base in zip(values, bases, strict=True)]
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
