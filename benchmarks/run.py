"""Measure bx as people run it, whole processes in alternation with a yardstick, and print Markdown tables.

    python benchmarks/run.py --rounds 15

Runs with the Python in whose environment bx, boto3 and, for the last table, the embedded engine are installed. It
contacts nothing but its own stub on the loopback. Needs a POSIX system.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_HERE = Path(__file__).parent
BX = [str(Path(sysconfig.get_path("scripts")) / "bx")]
_SEED = [sys.executable, str(_HERE / "seed.py")]
_BARE = [sys.executable, "-c", "pass"]
_KIBIBYTES = 1024 if sys.platform == "darwin" else 1  # the unit of the kernel's peak memory
_LONG = "20000"  # tokens
Found = TypeVar("Found")


class Run(NamedTuple):
    """What one process took: milliseconds, and MiB at its peak; and what it printed."""

    wall: float
    cpu: float
    memory: float
    arrival: float
    output: bytes


class Stub:
    """The endpoint, in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, str(_HERE / "stub.py")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{self._line()}"

    def arrived(self) -> float:
        """Return the moment at which the last request was there, by `time.monotonic()`."""
        return float(self._line())

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description="Measure bx against plain boto3, bare Python and plain xllamacpp.")
    parser.add_argument("--rounds", type=int, default=15, help="how often each command runs (default: 15)")
    rounds = parser.parse_args().rounds
    print(machine(rounds), flush=True)
    with tempfile.TemporaryDirectory() as home:
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BX_", "PYTHON"))
        }
        environ |= {"HOME": home, "AWS_EC2_METADATA_DISABLED": "true"}
        _start(environ, rounds)
        _bedrock(environ, rounds)
    subprocess.run([sys.executable, str(_HERE / "local.py"), "--rounds", str(rounds)], check=True)
    print(f"\nLoad at the end: {load()}")


def _start(environ: Mapping[str, str], rounds: int) -> None:
    """Print what it takes to start."""
    commands = {
        "`python -c pass`": _BARE,
        "the same again": _BARE,
        "`python -c 'import bx'`": [sys.executable, "-c", "import bx"],
        "`python -c 'import boto3'`": [sys.executable, "-c", "import boto3"],
        "`bx --version`": [*BX, "--version"],
        "`bx --help`": [*BX, "--help"],
        "`bx --dry-run hi`": [*BX, "--dry-run", "hi"],
        "`bx --model echo hi`": [*BX, "--model", "echo", "hi"],
    }
    table("Start-up, ratio to a bare interpreter", ["wall", "cpu"], alternate(commands, environ, rounds))


def _bedrock(environ: Mapping[str, str], rounds: int) -> None:
    """Print what a call takes, whole and streamed, beside a plain boto3 script."""
    stub = Stub()
    try:
        environ = {
            **environ,
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": stub.url,
        }
        whole, long = ["hi", "--max-tokens", "100"], ["hi", "--stream", "--max-tokens", _LONG]
        for title, asked, columns in (
            ("One call, ratio to boto3", whole, ["wall", "arrival", "cpu", "memory"]),
            (f"A stream of {_LONG} tokens to a pipe, ratio to boto3", long, ["wall", "arrival", "cpu", "memory"]),
        ):
            commands = {"boto3": [*_SEED, *asked], "the same again": [*_SEED, *asked], "bx": [*BX, *asked]}
            runs = alternate(commands, environ, rounds, stub)
            assert len({run.output for kept in runs.values() for run in kept}) == 1, "they print different answers"
            table(title, columns, runs)
    finally:
        stub.stop()


def alternate(
    commands: Mapping[str, Sequence[str]], environ: Mapping[str, str], rounds: int, stub: Stub | None = None
) -> dict[str, list[Run]]:
    """Run the commands in turn."""
    return in_turn(
        {name: functools.partial(_run, command, environ, stub) for name, command in commands.items()}, rounds
    )


def in_turn(ways: dict[str, Callable[[], Found]], rounds: int) -> dict[str, list[Found]]:
    """Measure each way in turn, there and back, once for nothing and then for each round."""
    found: dict[str, list[Found]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else reversed(ways):
            found[name].append(ways[name]())
    return {name: kept[1:] for name, kept in found.items()}


def _run(command: Sequence[str], environ: Mapping[str, str], stub: Stub | None) -> Run:
    started = time.monotonic()
    process = subprocess.Popen(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    ended = time.monotonic()
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    arrival = (stub.arrived() - started) * 1000 if stub else 0
    cpu, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / _KIBIBYTES / 1024
    return Run((ended - started) * 1000, cpu * 1000, memory, arrival, output)


def table(title: str, columns: Sequence[str], runs: Mapping[str, Sequence[Run]]) -> None:
    """Print the medians, and the medians and quartiles of the ratios to the first row, round by round."""
    units = {"wall": "wall ms", "arrival": "request arrives ms", "cpu": "CPU ms", "memory": "peak MiB"}
    print(f"\n### {title}\n\n| | " + " | ".join(f"{units[column]} | ratio" for column in columns) + " |")
    print("|---|" + "---:|---:|" * len(columns))
    yardstick = next(iter(runs.values()))
    for name, kept in runs.items():
        cells = [name]
        for column in columns:
            values = [getattr(run, column) for run in kept]
            pairs = zip(values, (getattr(run, column) for run in yardstick), strict=True)
            cells += [f"{statistics.median(values):.1f}", spread([value / base for value, base in pairs])]
        print("| " + " | ".join(cells) + " |", flush=True)


def spread(ratios: Sequence[float]) -> str:
    """Write the median of ratios, and their quartiles."""
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"**{middle:.2f}** ({low:.2f} to {high:.2f})"


def machine(rounds: int) -> str:
    """Say what is measured with, and on what."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("boto3", "botocore", "urllib3"))
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {platform.system()}, {os.cpu_count()} cores; {packages}; {rounds} rounds; load {load()}"


def load() -> str:
    """Write the load averages of this moment."""
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())


if __name__ == "__main__":
    main()
