"""`bx serve` as a process under load: many streams at once, many calls in a row, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from botocore.eventstream import EventStreamBuffer

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
PROC = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks into /proc")
MODEL = "amazon.nova-lite-v1:0"
STREAMS = 200
WORDS = 12
PAUSE = 0.05  # seconds between the events of a stream
WAIT = 30  # seconds: far longer than anything here takes
LEDGER = 3  # descriptors that stay open: its file, the journal, and the index of that
STOPPING = "serviceUnavailableException"


class Served:
    """A process of `bx serve` over the echo engine, and what its kernel knows about it."""

    def __init__(self, *arguments, log="off", **given):
        command = [sys.executable, "-m", "bx", "serve", "--model", "echo", "--port", "0", "--log", log, *arguments]
        self.process = subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **given})
        self.told = []
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", self.line())):
            assert self.process.poll() is None, self.told
        self.port = int(found[1])

    def line(self):
        self.told.append(self.process.stderr.readline().decode())
        return self.told[-1]

    def drained(self):
        """Read on, so that it can write."""
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        return self

    def raw(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT)

    def figures(self):
        """Its memory in KiB, its threads and its descriptors."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        memory, threads = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads"))
        return memory, threads, len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def settled(self, descriptors, threads=1000):
        """Its figures, as soon as no more than these are left; threads wait for another job for a while."""
        until = time.monotonic() + WAIT
        while (now := self.figures())[1] > threads or now[2] > descriptors:
            assert time.monotonic() < until, f"{now[1]} threads and {now[2]} descriptors are left"
            time.sleep(0.05)
        return now

    def active(self):
        """How many exchanges it says are under way, besides the one that asks."""
        with self.raw() as client:
            client.sendall(b"GET /_bx/stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            data = b"".join(iter(lambda: client.recv(65536), b""))
        return json.loads(data.partition(b"\r\n\r\n")[2])["active"] - 1

    def ends(self, seconds=WAIT):
        return self.process.wait(seconds)


@pytest.fixture
def served():
    with contextlib.ExitStack() as stack:

        def start(*arguments, **given):
            one = Served(*arguments, **given)
            stack.callback(one.process.wait)
            stack.callback(one.process.kill)
            for stream in (one.process.stdout, one.process.stderr):
                if stream:
                    stack.callback(stream.close)
            return one

        yield start


# ---- clients --------------------------------------------------------------------------------------------------


def text(number):
    return " ".join(f"w{number}.{index}" for index in range(WORDS))


def body(said):
    return json.dumps({"messages": [{"role": "user", "content": [{"text": said}]}]}).encode()


def request(said, operation="converse", *, more=""):
    head = f"POST /model/{MODEL}/{operation} HTTP/1.1\r\nHost: localhost\r\n{more}"
    return f"{head}Content-Length: {len(body(said))}\r\n\r\n".encode() + body(said)


def events(data):
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [(message.headers, json.loads(message.payload)) for message in buffer]


def said(data):
    """The text of a stream's deltas; the stream must be whole."""
    found = events(data)
    assert [headers[":event-type"] for headers, _ in found][-2:] == ["messageStop", "metadata"]
    return "".join(payload["delta"]["text"] for _, payload in found if "delta" in payload)


def unchunked(data):
    """The body of a reply in chunks; it must be whole."""
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    pieces = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        pieces.append(rest[:length])
        rest = rest[length + 2 :]
        if not length:
            return b"".join(pieces)


async def over_http1(port, number):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(text(number), "converse-stream", more="Connection: close\r\n"))
    data = await reader.read()
    writer.close()
    return said(unchunked(data))


async def over_http2(port, numbers):
    """Ask for several streams on one connection; returns what each said, in the order of the numbers."""
    import zttp

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = asked_over_http2(*(text(number) for number in numbers))
    got = {2 * place + 1: b"" for place in range(len(numbers))}
    unfinished = set(got)
    while unfinished:
        writer.write(connection.data_to_send())
        data = await reader.read(65536)
        assert data, "the connection ended before its streams"
        connection.receive_data(data)
        while (event := connection.next_event()) is not zttp.NEED_DATA:
            assert not isinstance(event, zttp.RstStream | zttp.GoAway), event
            if isinstance(event, zttp.Data):
                got[event.stream_id] += event.data
            elif isinstance(event, zttp.EndOfMessage):
                unfinished.discard(event.stream_id)
    writer.close()
    return [said(data) for data in got.values()]


def asked_over_http2(*texts, connection=None, model=MODEL):
    """A connection that has asked for streams."""
    import zttp

    if connection is None:
        connection = zttp.Connection(zttp.CLIENT, protocol=zttp.HTTP2)
        connection.initiate_connection()
    for each in texts:
        path = f"/model/{model}/converse-stream".encode()
        stream = connection.send_request(b"POST", path, b"2", [(b"host", b"localhost")])
        stream.send_data(body(each))
        stream.end_message()
    return connection


def all_over_http1(port, numbers):
    async def every():
        return await asyncio.gather(*(over_http1(port, number) for number in numbers))

    return asyncio.run(every())


def all_over_http2(port, numbers):
    async def every():  # a connection has at most 128 streams
        halves = [numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]]
        return itertools.chain(*await asyncio.gather(*(over_http2(port, half) for half in halves)))

    return list(asyncio.run(every()))


# ---- load -----------------------------------------------------------------------------------------------------


@PROC
@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_200_streams_at_once_are_neither_lost_nor_mixed_up_and_take_no_more_memory_the_next_time(served, protocol):
    if protocol == "http2":
        pytest.importorskip("zttp", reason="there is no HTTP/2 without it")
    ask = all_over_http1 if protocol == "http1" else all_over_http2
    server = served("--fault", f"slow-events,seconds={PAUSE}")
    _, few, descriptors = server.figures()
    descriptors += LEDGER
    memory = []
    for start in (0, 1000, 2000):
        numbers = list(range(start, start + STREAMS))
        began = time.monotonic()
        assert ask(server.port, numbers) == [text(number) for number in numbers]
        assert time.monotonic() - began < STREAMS * WORDS * PAUSE / 4, "they ran one after the other"
        memory.append(server.settled(descriptors, few + STREAMS + 5)[0])
    assert memory[-1] < memory[0] + 8 * 1024, f"the memory grows: {memory} KiB"


def exchanged(client, said):
    """Ask for a whole answer on an open connection; returns its text."""
    client.sendall(request(said))
    data = client.recv(65536)
    while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < length_of(data):
        piece = client.recv(65536)
        assert piece, data
        data += piece
    return json.loads(data.partition(b"\r\n\r\n")[2])["output"]["message"]["content"][0]["text"]


def length_of(data):
    return int(re.search(rb"(?i)content-length: (\d+)", data)[1])


@PROC
def test_10_000_calls_in_a_row_leave_no_descriptor_no_thread_and_no_memory_behind(served):
    server = served()

    def calls(count):
        with server.raw() as kept:
            for number in range(count - count // 5):
                assert exchanged(kept, f"call {number}") == f"call {number}"
        for number in range(count // 5):
            with server.raw() as new:
                assert exchanged(new, f"new {number}") == f"new {number}"

    calls(2000)
    before = server.figures()
    calls(8000)
    memory, _, _ = server.settled(before[2], before[1])
    assert memory < before[0] + 4 * 1024, f"the memory grows: from {before[0]} to {memory} KiB"


@PROC
def test_clients_that_hang_up_leave_no_thread_and_no_descriptor_behind(served):
    server = served("--fault", "slow-events,seconds=5")
    _, threads, descriptors = server.figures()
    descriptors += LEDGER
    for _ in range(5):
        clients = [server.raw() for _ in range(20)]
        for client in clients:
            client.sendall(request("a b c d", "converse-stream"))
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"
            client.close()
    began = time.monotonic()
    while server.active():
        assert time.monotonic() - began < 4, "their answers go on"
    server.settled(descriptors, threads + 25)  # those of one round may wait for the next


@PROC
def test_an_http2_stream_that_is_reset_ends_its_answer_and_no_other(served):
    zttp = pytest.importorskip("zttp", reason="there is no HTTP/2 without it")
    server = served("--fault", "slow-events,seconds=5,model=*pro*", "--fault", "slow-events,seconds=0.2,model=*lite*")
    connection = asked_over_http2("a b c", "a b c", model="amazon.nova-pro-v1:0")
    asked_over_http2("a b c", connection=connection)
    begun, data = set(), b""
    with server.raw() as client:
        while b"metadata" not in data:
            client.sendall(connection.data_to_send())
            connection.receive_data(client.recv(65536))
            while (event := connection.next_event()) is not zttp.NEED_DATA:
                if isinstance(event, zttp.Response) and event.stream_id in (1, 3):
                    begun.add(event.stream_id)
                    connection.stream(event.stream_id).reset(8)
                elif isinstance(event, zttp.Data) and event.stream_id == 5:
                    data += event.data
        assert begun == {1, 3}
        assert said(data) == "a b c"
        assert server.active() == 0


@PROC
def test_an_http2_client_that_does_not_read_its_stream_fills_no_memory_and_holds_up_no_other(served):
    zttp = pytest.importorskip("zttp", reason="there is no HTTP/2 without it")
    server = served()
    connection = asked_over_http2("w " * 500_000)
    with server.raw() as sluggard, server.raw() as other:
        begun = False
        while not begun:  # what comes of the reply after its head is not taken
            sluggard.sendall(connection.data_to_send())
            connection.receive_data(sluggard.recv(65536))
            while (event := connection.next_event()) is not zttp.NEED_DATA:
                begun = begun or isinstance(event, zttp.Response)
        time.sleep(1.5)
        before = server.figures()[0]
        assert exchanged(other, "quick") == "quick"
        time.sleep(1.5)
        assert server.figures()[0] < before + 4 * 1024


@POSIX
def test_more_connections_than_it_may_open_wait_and_are_told_of_once(served):
    resource = pytest.importorskip("resource")
    few = 60
    server = served(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (few, few)))
    with server.raw() as first:
        assert exchanged(first, "first") == "first"  # what it reads once has been read
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(server.raw()) for _ in range(2 * few)]
        assert exchanged(crowd[0], "early") == "early"
        time.sleep(1.5)
    with server.raw() as last:
        assert exchanged(last, "last") == "last"
    server.process.terminate()
    assert server.ends() == 0
    told = server.process.stderr.read().decode()
    assert told.count("more connections than this process may open") == 1
    assert "Traceback" not in told


# ---- stop -----------------------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_running_streams_within_the_grace_with_a_modelled_exception(served, sign):
    server = served("--fault", "slow-events,seconds=0.2", "--grace", "0.5")
    with server.raw() as client:
        client.sendall(request(" ".join("abc" * 100), "converse-stream", more="Connection: close\r\n"))
        data = client.recv(65536)
        began = time.monotonic()
        server.process.send_signal(sign)
        while piece := client.recv(65536):
            data += piece
    headers, payload = events(unchunked(data))[-1]
    assert headers[":exception-type"] == STOPPING
    assert "stopping" in payload["message"]
    assert server.ends() == 0
    assert 0.4 < time.monotonic() - began < 5


@POSIX
def test_a_signal_ends_streams_over_http2_with_a_modelled_exception_too(served):
    zttp = pytest.importorskip("zttp", reason="there is no HTTP/2 without it")
    server = served("--fault", "slow-events,seconds=0.2", "--grace", "0.5")
    connection, data, gone = asked_over_http2("a " * 100), b"", False
    with server.raw() as client:
        while not gone:
            client.sendall(connection.data_to_send())
            connection.receive_data(client.recv(65536))
            while (event := connection.next_event()) is not zttp.NEED_DATA:
                gone = gone or isinstance(event, zttp.GoAway)
                if isinstance(event, zttp.Response):
                    server.process.terminate()
                data += event.data if isinstance(event, zttp.Data) else b""
    assert events(data)[-1][0][":exception-type"] == STOPPING
    assert server.ends() == 0


@POSIX
def test_a_stream_that_ends_within_the_grace_is_whole(served):
    server = served("--fault", "slow-events,seconds=0.05")
    with server.raw() as client:
        client.sendall(request(text(1), "converse-stream", more="Connection: close\r\n"))
        data = client.recv(65536)
        server.process.terminate()
        while piece := client.recv(65536):
            data += piece
    assert said(unchunked(data)) == text(1)
    assert server.ends() == 0


@POSIX
def test_a_second_ctrl_c_ends_it_at_once(served):
    server = served("--fault", "slow-events,seconds=5", "--grace", "60")
    with server.raw() as client:
        client.sendall(request("a b c d", "converse-stream"))
        client.recv(100)
        server.process.send_signal(signal.SIGINT)
        while "stopping" not in server.line():
            pass
        server.process.send_signal(signal.SIGINT)
        assert server.ends(5) == 130
    assert b"Traceback" not in server.process.stderr.read()


@POSIX
def test_a_client_that_does_not_read_does_not_hold_up_the_stop(served):
    server = served("--grace", "0.2")
    with server.raw() as sluggard:
        sluggard.sendall(request("w " * 200_000, "converse-stream"))
        sluggard.recv(100)
        began = time.monotonic()
        server.process.terminate()
        assert server.ends() == 0
        assert time.monotonic() - began < 5


@POSIX
def test_idle_connections_do_not_hold_up_the_stop(served):
    server = served()
    with server.raw() as silent, server.raw() as kept, server.raw() as begun:
        assert exchanged(kept, "hi") == "hi"
        begun.sendall(b"POST /model/x HTTP/1.1\r\nHost: loc")
        time.sleep(0.1)
        began = time.monotonic()
        server.process.terminate()
        assert server.ends() == 0
        assert time.monotonic() - began < 3
        assert silent.recv(100) == b""


def test_a_port_in_use_is_told_with_its_remedy(served, bx):
    port = str(served().port)
    failed = bx("serve", "--model", "echo", "--port", port)
    assert failed.returncode == 2
    assert f"Port {port} is in use" in failed.stderr
    assert "--port" in failed.stderr.partition("->")[2]
    assert "Traceback" not in failed.stderr


# ---- its streams and its home ---------------------------------------------------------------------------------


def test_an_access_log_that_nobody_reads_holds_up_no_request(served):
    server = served(log="json")
    with server.raw() as client:
        for number in range(1000):  # several times what a pipe holds
            assert exchanged(client, f"call {number}") == f"call {number}"
    server.process.terminate()
    server.drained()
    assert server.ends() == (0 if os.name == "posix" else 1)


@POSIX
def test_an_access_log_whose_reader_has_gone_costs_no_request(served):
    server = served(log="text")
    server.process.stderr.close()
    with server.raw() as client:
        for number in range(20):
            assert exchanged(client, f"call {number}") == f"call {number}"
    server.process.terminate()
    assert server.ends() == 0


@POSIX
@pytest.mark.parametrize("closed", ["2>&-", "0<&-", "2>&- 0<&- >/dev/null"])
def test_closed_standard_streams_do_not_keep_it_from_serving(closed):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shell = f'exec "$0" -m bx serve --model echo --port {port} {closed}'
    with subprocess.Popen(["sh", "-c", shell, sys.executable], stderr=subprocess.DEVNULL) as process:
        try:
            with listening_on(port) as client:
                assert exchanged(client, "hello") == "hello"
            process.terminate()
            assert process.wait(WAIT) == 0
        finally:
            process.kill()


@POSIX
def test_a_closed_standard_output_is_told(private_home):
    shell = 'exec "$0" -m bx serve --model echo --port 0 >&-'
    failed = subprocess.run(["sh", "-c", shell, sys.executable], stderr=subprocess.PIPE, timeout=WAIT, check=False)
    assert failed.returncode == 2
    assert b"Standard output is closed" in failed.stderr


def listening_on(port):
    until = time.monotonic() + WAIT
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        assert time.monotonic() < until, "it never began to listen"
        time.sleep(0.05)


@POSIX
def test_a_home_that_cannot_be_written_is_no_obstacle(served, private_home):
    private_home.chmod(0o500)
    try:
        with served().raw() as client:
            assert exchanged(client, "hello") == "hello"
    finally:
        private_home.chmod(0o700)
    assert list(private_home.iterdir()) == [] or os.geteuid() == 0  # whom nothing is forbidden
