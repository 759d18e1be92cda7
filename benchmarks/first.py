"""Measure the time to the first event of the embedded engine: through a bx server, and of the engine called directly.

    python benchmarks/first.py --rounds 15

One engine in one process answers both ways in turn, at temperature 0.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, NamedTuple

import run
import serve

from bx import converse, weights
from bx.engines.local import Local
from bx.server.endpoint import Endpoint, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_PROMPT = "Tell a long story about a lighthouse keeper and the sea."
_TOKENS = 4


class Seconds(NamedTuple):
    """Until an answer's first event, which is `messageStart`, and until its first text."""

    event: float
    text: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15, help="how often each way answers (default: 15)")
    measure(parser.parse_args().rounds)


def measure(rounds: int) -> None:
    """Print the table."""
    try:
        path = weights.find(weights.DEFAULT)
        engine = Local()
        asked = converse.request(_PROMPT, model=f"local:{path}", maxTokens=_TOKENS, temperature=0)
        engine.converse(**asked)
    except (weights.WeightsError, ImportError) as missing:
        print(f"\nThe embedded engine was not measured: {missing}")
        return
    import boto3

    route = Route("*", engine, f"local:{path}")
    with Endpoint([route]) as endpoint:
        raw = serve.Raw(int(endpoint.url.rpartition(":")[2]))
        client = boto3.client("bedrock-runtime", endpoint_url=endpoint.url, **serve.CREDENTIALS)
        sent, named = raw.request(_PROMPT, _TOKENS, "converse-stream"), {**asked, "modelId": serve.MODEL}
        ways: dict[str, Callable[[], Seconds]] = {
            "the engine": lambda: _ask(engine, asked),
            "the same again": lambda: _ask(engine, asked),
            "bx serve, raw client": lambda: _ask_raw(raw, sent),
            "bx serve, boto3": lambda: _ask(client, named),
        }
        answers = run.in_turn(ways, rounds)
    engine.close()
    _table(answers)


def _ask(engine: converse.Engine, request: converse.Request) -> Seconds:
    started = time.perf_counter()
    response = engine.converse_stream(**request)
    first: dict[str, float] = {}
    for event in response["stream"]:
        first.setdefault(next(iter(event)), time.perf_counter() - started)
    return Seconds(first["messageStart"], first["contentBlockDelta"])


def _ask_raw(raw: serve.Raw, request: bytes) -> Seconds:
    started = time.perf_counter()
    first: dict[bytes, float] = {}
    for arrived in raw.stream(request):
        for kind in (b"messageStart", b"contentBlockDelta"):
            if kind in arrived:
                first.setdefault(kind, time.perf_counter() - started)
    return Seconds(first[b"messageStart"], first[b"contentBlockDelta"])


def _table(answers: Mapping[str, Sequence[Seconds]]) -> None:
    """Print medians, and the ratios to the engine called directly."""
    print("\n### The embedded engine: the time to the first event, and to the first text\n")
    print("| | first event ms | ratio | first text ms | ratio |\n|---|---:|---:|---:|---:|")
    direct = next(iter(answers.values()))
    for name, kept in answers.items():
        cells = [name]
        for part in range(2):
            ratios = [answer[part] / base[part] for answer, base in zip(kept, direct, strict=True)]
            cells += [f"{statistics.median(answer[part] for answer in kept) * 1000:.1f}", run.spread(ratios)]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
