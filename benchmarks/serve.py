"""Measure `bx serve` over the echo engine beside a bare stub, and over the embedded engine beside the engine itself.

    python benchmarks/serve.py --rounds 15

Prints Markdown tables. Every server has the first core for itself, the client the second one. Needs Linux, and for
the last table the embedded model. `--base DIR` adds the start-up beside another version, whose source is in DIR.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import run
import stub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_HERE = Path(__file__).parent
MODEL = "global.amazon.nova-2-lite-v1:0"
_CALLS = 200  # in a round
_CONNECTIONS = 8
_SECONDS = 0.5  # of full load in a round
_EVENTS = 2000
_PACED = 60  # pieces of a paced stream
_SERVERS, _CLIENTS = {0}, {(os.cpu_count() or 1) - 1}  # cores
CREDENTIALS = {"aws_access_key_id": "benchmark", "aws_secret_access_key": "benchmark", "region_name": "us-east-1"}
_HEADERS = """\
POST /model/global.amazon.nova-2-lite-v1%3A0/{} HTTP/1.1\r
Host: 127.0.0.1:{}\r
Accept-Encoding: identity\r
Content-Type: application/json\r
User-Agent: Boto3/1.44.5 md/Botocore#1.44.5 ua/2.1 os/linux md/arch#x86_64 lang/python#3.11.7 cfg/retry-mode#legacy\r
X-Amz-Date: 20260101T000000Z\r
Authorization: AWS4-HMAC-SHA256 Credential=benchmark/20260101/us-east-1/bedrock/aws4_request, \
SignedHeaders=content-type;host;x-amz-date, Signature={}\r
amz-sdk-invocation-id: 00000000-0000-0000-0000-000000000000\r
amz-sdk-request: attempt=1\r
Content-Length: {}\r
\r
"""


class Server:
    """A server in a process of its own, on its own core; what it says goes to a file."""

    def __init__(self, *command: str) -> None:
        os.sched_setaffinity(0, _SERVERS)
        with tempfile.NamedTemporaryFile() as said:
            self._process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
            os.sched_setaffinity(0, _CLIENTS)
            self.port = self._told(Path(said.name))
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used."""
        return time.clock_gettime(~self._process.pid << 3 | 2)  # clock_getcpuclockid(3)

    def _told(self, said: Path) -> int:
        while self._process.poll() is None:
            if port := re.search(r"(?m)(?:^|127\.0\.0\.1:)(\d{4,5})\b", said.read_text()):
                return int(port[1])
            time.sleep(0.01)
        raise SystemExit(said.read_text())


class Raw:
    """The least client that there can be: prepared requests on a kept connection, and the ends of the answers."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = port

    def request(self, prompt: str, tokens: int, operation: str = "converse") -> bytes:
        """Write a request, with the headers that boto3 sends."""
        messages = [{"role": "user", "content": [{"text": prompt}]}]
        body = json.dumps({"messages": messages, "inferenceConfig": {"maxTokens": tokens}}).encode()
        return _HEADERS.format(operation, self._port, "0" * 64, len(body)).encode() + body

    def ask(self, request: bytes) -> bytes:
        """Return the whole answer."""
        self.socket.sendall(request)
        answer = b""
        while not _is_whole(answer):
            answer += self._receive()
        return answer

    def stream(self, request: bytes) -> Iterator[bytes]:
        """Yield what arrives of a stream, as it does."""
        self.socket.sendall(request)
        last = b""
        while not last.endswith(b"\r\n0\r\n\r\n"):
            arrived = self._receive()
            last = last[-8:] + arrived
            yield arrived

    def _receive(self) -> bytes:
        if arrived := self.socket.recv(1 << 18):
            return arrived
        raise SystemExit("A server closed a connection")


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    assert length, head
    assert head.startswith(b"HTTP/1.1 200"), answer
    return len(body) == int(length[1])


class Side(NamedTuple):
    """One of those that are compared: a server, and the clients that ask it."""

    server: Server
    raw: Raw
    boto3: Any


Sides = dict[str, Side]
Measured = dict[str, list[float]]  # one for each round


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description="Measure what bx serve adds.")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is measured (default: 15)")
    parser.add_argument("--base", help="the source (src) of another version, whose start-up is compared")
    parser.add_argument("--local", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.local:
        import first

        first.measure(options.rounds)
        return
    print(run.machine(options.rounds), flush=True)
    if options.base:
        _start(options.base, options.rounds)
    _over_echo(options.rounds)
    _paced(options.rounds)
    subprocess.run([sys.executable, __file__, "--local", "--rounds", str(options.rounds)], check=True)
    print(f"\nLoad at the end: {run.load()}")


def _start(base: str, rounds: int) -> None:
    """Print what it takes to start, beside another version."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("BX_", "PYTHON"))}
    for words in (["-c", "import bx"], ["-m", "bx", "--version"], ["-m", "bx", "--help"]):
        command = [sys.executable, *words]
        then = ["env", f"PYTHONPATH={base}", *command]
        now = ["env", f"PYTHONPATH={_HERE.parent / 'src'}", *command]
        runs = run.alternate({"before": then, "the same again": then, "now": now}, environ, rounds)
        run.table(f"`python {' '.join(words)}`, ratio to the other version", ["wall", "cpu"], runs)


# ---- over echo ------------------------------------------------------------------------------------------------


def _over_echo(rounds: int) -> None:
    bx = [str(Path(sysconfig.get_path("scripts")) / "bx"), "serve", "--model", "echo", "--port", "0"]
    commands = {
        "the stub": [sys.executable, str(_HERE / "stub.py"), "--quiet"],
        "uvicorn alone": [sys.executable, str(_HERE / "served.py"), "uvicorn"],
        "bx serve --log off": [*bx, "--log", "off"],
        "bx serve": bx,
    }
    with _sides(commands) as sides:
        _calls(sides, rounds)
        _load(sides, rounds)
        del sides["uvicorn alone"]  # it has no streams
        _events(sides, rounds)


@contextlib.contextmanager
def _sides(commands: Mapping[str, Sequence[str]]) -> Iterator[Sides]:
    """Start servers and clients; the first one is measured twice."""
    import boto3

    with contextlib.ExitStack() as stack:
        sides: Sides = {}
        for name, command in commands.items():
            server = stack.enter_context(Server(*command))
            client = boto3.client("bedrock-runtime", endpoint_url=server.url, **CREDENTIALS)
            sides[name] = Side(server, Raw(server.port), client)
            if len(sides) == 1:
                sides["the same again"] = sides[name]
        yield sides


def _alternate(sides: Sides, rounds: int, measure: Callable[[Side], Sequence[float]]) -> list[Measured]:
    """Measure each side in each round; returns what was found figure by figure."""
    kept = run.in_turn({name: functools.partial(measure, side) for name, side in sides.items()}, rounds)
    figures = len(next(iter(kept.values()))[0])
    return [{name: [found[number] for found in kept[name]] for name in sides} for number in range(figures)]


def _calls(sides: Sides, rounds: int) -> None:
    def measure(side: Side) -> tuple[float, float, float]:
        request = side.raw.request("A short answer.", 100)
        before = side.server.cpu()
        alone = _median(lambda: side.raw.ask(request), _CALLS)
        cpu = (side.server.cpu() - before) / _CALLS * 1e6
        asked = _converse("A short answer.", 100)
        return alone, cpu, _median(lambda: side.boto3.converse(**asked), _CALLS // 4)

    wall, cpu, boto3 = _alternate(sides, rounds, measure)
    columns = {"raw client µs": wall, "server's CPU µs": cpu, "boto3 µs": boto3}
    _table("One call after the other on a kept connection, medians", columns, added=True)


def _median(call: Callable[[], object], count: int) -> float:
    """Return the median time of a call, in µs."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


def _load(sides: Sides, rounds: int) -> None:
    def measure(side: Side) -> tuple[float, float]:
        before = side.server.cpu()
        calls, seconds = _loaded(side.server.port)
        return calls / seconds, (side.server.cpu() - before) / calls * 1e6

    speed, cpu = _alternate(sides, rounds, measure)
    _table(f"{_CONNECTIONS} clients at once", {"calls per second": speed, "server's CPU µs per call": cpu})


def _loaded(port: int) -> tuple[int, float]:
    """Keep several connections busy; returns the calls that were answered, and the seconds that it took."""
    clients = [Raw(port) for _ in range(_CONNECTIONS)]
    request, answers, calls = clients[0].request("A short answer.", 100), dict.fromkeys(clients, b""), 0
    with selectors.DefaultSelector() as waiting:
        for client in clients:
            waiting.register(client.socket, selectors.EVENT_READ, client)
            client.socket.sendall(request)
        started = time.perf_counter()
        while time.perf_counter() - started < _SECONDS:
            for key, _ in waiting.select(1):
                client = key.data
                answers[client] += client.socket.recv(1 << 16)
                if _is_whole(answers[client]):
                    answers[client], calls = b"", calls + 1
                    client.socket.sendall(request)
        seconds = time.perf_counter() - started
    for client in clients:
        client.socket.close()
    return calls, seconds


def _events(sides: Sides, rounds: int) -> None:
    """Print what an event takes: what a long answer takes beyond a short one to the same prompt."""
    prompt = " ".join(f"word{number}" for number in range(_EVENTS))

    def measure(side: Side) -> tuple[float, ...]:
        short, long = (_streamed(side, prompt, tokens) for tokens in (1, _EVENTS))
        return tuple((after - before) / (_EVENTS - 1) * 1e6 for before, after in zip(short, long, strict=True))

    wall, cpu, boto3 = _alternate(sides, rounds, measure)
    columns = {"raw client µs": wall, "server's CPU µs": cpu, "boto3 µs": boto3}
    _table(f"An event of a stream of {_EVENTS} without a pause", columns, added=True)


def _streamed(side: Side, prompt: str, tokens: int) -> tuple[float, float, float]:
    """Return the seconds by the raw client, of the server's CPU for it, and by boto3."""
    request = side.raw.request(prompt, tokens, "converse-stream")
    used, started = side.server.cpu(), time.perf_counter()
    for _ in side.raw.stream(request):
        pass
    ended, cpu = time.perf_counter(), side.server.cpu() - used
    for _ in side.boto3.converse_stream(**_converse(prompt, tokens))["stream"]:
        pass
    return ended - started, cpu, time.perf_counter() - ended


def _converse(prompt: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": [{"text": prompt}]}]
    return {"modelId": MODEL, "messages": messages, "inferenceConfig": {"maxTokens": tokens}}


# ---- one by one -----------------------------------------------------------------------------------------------


def _paced(rounds: int) -> None:
    """Print the time from an engine's event to its arrival, where the events come one by one."""
    commands = {
        "the stub": [sys.executable, str(_HERE / "stub.py"), "--quiet", "--paced"],
        "bx serve": [sys.executable, str(_HERE / "served.py"), "paced"],
    }

    def measure(side: Side) -> tuple[float, float]:
        delays = []
        for arrived in side.raw.stream(side.raw.request("Go.", _PACED, "converse-stream")):
            now = time.monotonic_ns()
            delays += [(now - int(left)) / 1000 for left in re.findall(rb'"text":" (\d+)"', arrived)]
        assert len(delays) == _PACED
        return statistics.median(delays), statistics.quantiles(delays, n=20)[-1]

    with _sides(commands) as sides:
        half, most = _alternate(sides, rounds, measure)
    columns = {"median µs": half, "95 % below µs": most}
    pause = round(stub.PAUSE * 1000)
    _table(f"From an engine's event to its arrival, one each {pause} ms", columns, added=True)


def _table(title: str, columns: Mapping[str, Measured], *, added: bool = False) -> None:
    """Print medians, and the medians and quartiles of the ratios to the first row, or of what is added to it."""
    beside = "added" if added else "ratio"
    print(f"\n### {title}\n\n| | " + " | ".join(f"{name} | {beside}" for name in columns) + " |")
    print("|---|" + "---:|---:|" * len(columns))
    for side in next(iter(columns.values())):
        cells = [side]
        for measured in columns.values():
            base = next(iter(measured.values()))
            pairs = list(zip(measured[side], base, strict=True))
            cells.append(_shown(statistics.median(measured[side])))
            cells.append(_spread([x - y for x, y in pairs]) if added else run.spread([x / y for x, y in pairs]))
        print("| " + " | ".join(cells) + " |", flush=True)


def _spread(differences: Sequence[float]) -> str:
    if len(differences) == 1:
        return _shown(differences[0])
    low, middle, high = statistics.quantiles(differences, n=4, method="inclusive")
    return f"**{_shown(middle)}** ({_shown(low)} to {_shown(high)})"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"  # noqa: PLR2004 # three figures


if __name__ == "__main__":
    main()
