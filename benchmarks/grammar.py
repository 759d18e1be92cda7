"""Measure what a schema adds to the first and to later answers of the embedded engine, with its memory and without.

    python benchmarks/grammar.py --rounds 7

Processes with a loaded model write one token for one schema after the other: with an empty memory of what is proven,
and with what the process before them left. The sample is described in tests/test_jsonschemabench.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from bx import converse, grammar, weights
from bx.engines import local

_SAMPLE = Path(__file__).parents[2] / "shared" / "jsonschemabench" / "sample.jsonl"
_EXAMPLE = Path(__file__).parents[1] / "examples" / "incident.schema.json"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7, help="how many processes of each kind (default: 7)")
    parser.add_argument("--schemas", help="measure these schemas in this process, and print the milliseconds of each")
    given = parser.parse_args()
    if given.schemas:
        print(json.dumps(_measure(json.loads(Path(given.schemas).read_text(encoding="utf-8")))))
        return
    try:
        weights.find(weights.DEFAULT)
    except weights.WeightsError as missing:
        print(f"\nThe grammars were not measured: {missing}")
        return
    sample = Path(os.environ.get("BX_JSONSCHEMABENCH", _SAMPLE))
    _table("The schema of examples/, in a fresh process", [_read(_EXAMPLE)], given.rounds)
    if sample.exists():
        lines = sample.read_text(encoding="utf-8").splitlines()
        _table(f"A sample of {len(lines)} real schemas", [json.loads(line)["schema"] for line in lines], 1)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _measure(schemas: list[Any]) -> list[tuple[float, float]]:
    """Return for each schema that is enforced the milliseconds of the first and of a later answer of one token."""
    engine, kept = local.Local(), []
    engine.converse(**converse.request("x", model="local", maxTokens=1))  # loads the model
    for schema in schemas:
        request, taken = converse.request("x", model="local", schema=schema, maxTokens=1), []
        try:
            for _ in range(2):
                started = time.perf_counter()
                engine.converse(**request)
                taken.append((time.perf_counter() - started) * 1000)
        except ClientError:
            continue
        kept.append((taken[0], taken[1]))
    engine.close()
    return kept


def _table(title: str, schemas: list[Any], rounds: int) -> None:
    """Print the first and a later call of each schema, with an empty memory and with one that knows it."""
    ways: dict[str, list[tuple[float, float]]] = {"nothing remembered": [], "remembered by another process": []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "schemas.json")
        file.write_text(json.dumps(schemas), encoding="utf-8")
        for number in range(rounds):
            cache = Path(folder, str(number))
            (cache / "bx").mkdir(parents=True)
            (cache / "bx" / "models").symlink_to(weights.folder(), target_is_directory=True)
            for name in ways:
                ways[name] += _process(file, cache)
    print(f"\n### {title}\n\n| | first call ms, p50 | p95 | ratio | later calls ms, p50 | p95 |")
    print("|---|---:|---:|---:|---:|---:|")
    bases = [first for first, _ in ways["nothing remembered"]]
    for name, kept in ways.items():
        firsts, laters = [first for first, _ in kept], [later for _, later in kept]
        ratio = statistics.median(first / base for first, base in zip(firsts, bases, strict=True))
        cells = _middle(firsts), _high(firsts), f"**{ratio:.2f}**", _middle(laters), _high(laters)
        print(f"| {name} | {' | '.join(cells)} |")
    taken = [_rewriting(schema) for schema in schemas]
    print(f"\nOf it, writing the grammars: p50 {_middle(taken)} ms, p95 {_high(taken)} ms")


def _process(file: Path, cache: Path) -> list[tuple[float, float]]:
    command = [sys.executable, __file__, "--schemas", str(file)]
    environ = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True)
    return [(first, later) for first, later in json.loads(done.stdout)]


def _rewriting(schema: dict[str, Any]) -> float:
    started = time.perf_counter()
    next(grammar.candidates(schema), None)
    return (time.perf_counter() - started) * 1000


def _middle(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}"


def _high(values: list[float]) -> str:
    return f"{sorted(values)[min(len(values) - 1, len(values) * 95 // 100)]:.2f}"


if __name__ == "__main__":
    main()
