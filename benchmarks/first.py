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

import bx
from bx import converse, weights
from bx.engines.local import Local

if TYPE_CHECKING:
    from collections.abc import Callable

    from bx.converse import Event

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

    with bx.serve(engine) as endpoint:
        print("x")
    engine.close()
