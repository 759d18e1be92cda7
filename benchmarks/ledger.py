"""Measure what the ledger costs: a call beside the same call without it, and whole processes with it and without.

    python benchmarks/ledger.py --rounds 15

Nothing is contacted. Needs a POSIX system.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from run import BX, alternate, in_turn, load, machine, spread, table  # run as a script: its folder is on the path

from bx.converse import request
from bx.engines.echo import Echo
from bx.ledger.meter import Metered
from bx.ledger.store import Store

if TYPE_CHECKING:
    from bx.converse import Engine

_CALLS = 500
_ASKED = [*BX, "--model", "echo", "hi"]


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description="Measure what the ledger costs.")
    parser.add_argument("--rounds", type=int, default=15, help="how often each way runs (default: 15)")
    rounds = parser.parse_args().rounds
    print(machine(rounds), flush=True)
    with tempfile.TemporaryDirectory() as home:
        _calls(Path(home), rounds)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BX_"))}
        off, on = (["env", f"BX_LEDGER={place}", *_ASKED] for place in ("off", f"{home}/command.db"))
        commands = {"without a ledger": off, "the same again": off, "with a ledger": on}
        runs = alternate(commands, {**environ, "HOME": home}, rounds)
        table("`bx --model echo hi`, ratio to the same without a ledger", ["wall", "cpu"], runs)
    print(f"\nLoad at the end: {load()}")


def _calls(folder: Path, rounds: int) -> None:
    """Print what a call takes, in microseconds."""
    store = Store(folder / "calls.db")
    engine = Echo()
    metered = Metered(engine, store, labels={"source": "python"})
    found = in_turn({"without": lambda: _one(engine), "with": lambda: _one(metered)}, rounds)
    store.close()
    more = [with_it - without for with_it, without in zip(found["with"], found["without"], strict=True)]
    print(f"\n### One call, microseconds, of {_CALLS} in a row\n\n| | median |\n|---|---:|")
    for name, kept in (*found.items(), ("the ledger", more)):
        print(f"| {name} | {statistics.median(kept):.0f} |")
    ratios = [with_it / without for with_it, without in zip(found["with"], found["without"], strict=True)]
    print(f"\nRatio: {spread(ratios)}", flush=True)


def _one(engine: Engine) -> float:
    asked = request("hi", model="echo")
    started = time.perf_counter()
    for _ in range(_CALLS):
        engine.converse(**asked)
    return (time.perf_counter() - started) / _CALLS * 1e6


if __name__ == "__main__":
    main()
