"""The server's HTTP, over answers made by hand: what a client may do to it, and what it does then."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time

import pytest

from bx.server import frames
from bx.server.endpoint import Options, listening
from bx.server.exchange import Act, Reply
from bx.server.http import Application, Limits, _Turns
from bx.server.running import Running

PLAIN = {"Content-Type": "text/plain"}
WAIT = 10  # seconds: far longer than anything here takes


class Server:
    """A running server over an answer that a test may replace, and the notes of what is over."""

    def __init__(self, answer, limits):
        self.listener = listening(Options())
        self.port = self.listener.getsockname()[1]
        self.notes = []
        self.running = Running(Application(answer, limits, done=self.notes.append), self.listener)
        self.running.start()

    def connection(self, timeout=WAIT):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, path="/", body=b"", method="POST", **headers):
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def raw(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT)


@pytest.fixture
def serve():
    started = []

    def start(answer, **limits):
        started.append(Server(answer, Limits(**limits)))
        return started[-1]

    yield start
    for server in started:
        server.running.stop(grace=0)


def echo(received):
    return Reply(200, PLAIN, received.body)


def eventually(true):
    until = time.monotonic() + WAIT
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    return true()


def endless(closed):
    """A body that goes on until it is closed, which is then told."""

    class Body:
        def __init__(self):
            self.stop = threading.Event()

        def __iter__(self):
            while not self.stop.wait(0.01):
                yield b"more"

        def close(self):
            self.stop.set()
            closed.set()

    return Body()


def test_a_body_in_one_piece_has_its_length_and_every_reply_its_request_id(serve):
    status, headers, body = serve(echo).ask(body=b"hello")
    assert (status, body, headers["content-length"]) == (200, b"hello", "5")
    assert headers["x-amzn-requestid"]


def test_pieces_are_sent_as_they_come(serve):
    gate = threading.Event()

    def pieces():
        yield b"one"
        assert gate.wait(WAIT)
        yield b"two"

    server = serve(lambda _: Reply(200, PLAIN, pieces()))
    with contextlib.closing(server.connection()) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.read(3) == b"one"
        gate.set()
        assert response.read() == b"two"


def test_the_path_and_the_query_reach_the_answer_as_they_stood_in_the_request(serve):
    got = []
    server = serve(lambda received: got.append(received) or Reply(200, PLAIN, b""))
    server.ask("/model/arn%3Aaws%2Fx%20y/converse?a=1&b=%2F")
    assert (got[0].path, got[0].query) == ("/model/arn%3Aaws%2Fx%20y/converse", "a=1&b=%2F")
    assert got[0].headers["host"] == f"127.0.0.1:{server.port}"


def test_a_surprise_is_an_internal_error_without_its_traceback_and_the_log_has_it(serve, caplog):
    def fail(_):
        raise KeyError("secret detail")

    status, headers, body = serve(fail).ask()
    assert status == 500
    assert headers["x-amzn-errortype"].startswith("InternalServerException:")
    assert b"secret" not in body
    assert "secret detail" in caplog.text


def test_a_body_that_fails_in_the_middle_is_no_whole_answer(serve, caplog):
    def pieces():
        yield b"one"
        raise KeyError("oops")

    with pytest.raises(http.client.IncompleteRead):
        serve(lambda _: Reply(200, PLAIN, pieces())).ask()
    assert "oops" in caplog.text


@pytest.mark.parametrize(
    ("act", "error"),
    [(Act.RESET, ConnectionResetError), (Act.HANGUP, (http.client.IncompleteRead, http.client.RemoteDisconnected))],
)
@pytest.mark.parametrize("status", [0, 200])
def test_a_connection_ends_as_the_body_says(serve, act, error, status):
    pieces = [act] if status == 0 else [b"some", act]
    with pytest.raises(error):
        serve(lambda _: Reply(status, PLAIN, pieces)).ask()


def test_a_stalled_body_says_nothing_more_until_the_client_leaves(serve):
    server = serve(lambda _: Reply(200, PLAIN, [b"some", Act.STALL]))
    with contextlib.closing(server.connection(timeout=0.3)) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.read(4) == b"some"
        with pytest.raises(TimeoutError):
            response.read(1)
    assert eventually(lambda: server.notes)


def test_a_client_that_hangs_up_closes_the_body(serve):
    closed = threading.Event()
    server = serve(lambda _: Reply(200, PLAIN, endless(closed)))
    connection = server.connection()
    connection.request("GET", "/")
    assert connection.getresponse().read(4) == b"more"
    began = time.monotonic()
    connection.sock.close() if connection.sock else None
    connection.close()
    del connection
    assert closed.wait(WAIT)
    assert time.monotonic() - began < WAIT


def test_a_client_that_hangs_up_before_the_reply_is_told_to_what_works_for_it(serve):
    began, closed = threading.Event(), threading.Event()

    def slow(received):
        with received.hangup.closes(closed.set):
            began.set()
            received.hangup.wait(WAIT)
        return Reply(200, PLAIN, b"too late")

    server = serve(slow)
    with server.raw() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert began.wait(WAIT)
    assert closed.wait(WAIT)


def test_a_client_that_does_not_read_holds_up_its_own_thread_only(serve):
    made = []

    def pieces():
        for number in range(100_000):
            made.append(number)
            yield b"x" * 1000

    server = serve(lambda received: Reply(200, PLAIN, pieces() if received.path == "/big" else b"quick"))
    with server.raw() as sluggard:
        sluggard.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert eventually(lambda: len(made) > 30)
        assert [server.ask()[2] for _ in range(20)] == [b"quick"] * 20
        time.sleep(0.2)
        count = len(made)
        assert count < 100_000
        time.sleep(0.2)
        assert len(made) == count, "its body is made although nobody takes it"


def test_a_client_that_takes_nothing_for_too_long_is_dropped(serve):
    closed = threading.Event()

    class Big:
        def __iter__(self):
            while not closed.is_set():
                yield b"x" * 100_000

        close = closed.set

    server = serve(lambda _: Reply(200, PLAIN, Big()), idle=0.2)
    with server.raw() as sluggard:
        sluggard.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert closed.wait(WAIT)


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST / HT",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_a_request_that_never_comes_to_its_end_is_dropped(serve, begun):
    server = serve(echo, idle=0.2)
    with server.raw() as client:
        client.sendall(begun)
        assert client.recv(1000) == b""


def test_a_head_that_comes_drop_by_drop_is_dropped_all_the_same(serve):
    server = serve(echo, idle=0.3)
    with server.raw() as client, pytest.raises(OSError):  # noqa: PT011 # which one depends on the moment
        drip(client)


def drip(client):
    client.sendall(b"POST / HTTP/1.1\r\n")
    for _ in range(200):
        client.sendall(b"X-A: b\r\n")
        time.sleep(0.02)
    raise AssertionError("it went on for four seconds")


def test_an_exchange_that_takes_too_long_in_all_is_ended(serve):
    closed = threading.Event()
    server = serve(lambda _: Reply(200, PLAIN, endless(closed)), total=0.3)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        server.ask()
    assert closed.wait(WAIT)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long_is_refused_in_the_service_s_words(serve, chunked):
    server = serve(echo, body=1000)
    assert server.ask(body=b"x" * 1000)[2] == b"x" * 1000
    status, headers, body = server.ask(body=iter([b"x" * 1001]) if chunked else b"x" * 1001)
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(body) == {"message": "Input is too long for requested model."}


def test_a_head_that_is_too_long_is_refused(serve):
    status, _, _ = serve(echo, head=2000).ask("/", **{"X-Long": "x" * 5000})
    assert status == 400


@pytest.mark.parametrize(
    "line", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nNo colon\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01"]
)
def test_what_is_no_http_is_refused(serve, line):
    with serve(echo).raw() as client:
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        refused = b"".join(iter(lambda: client.recv(1000), b""))
    assert refused[:12] in (b"HTTP/1.1 400", b"")
    assert not refused or (b"x-amzn-RequestId" in refused and b'{"message":' in refused)


def test_more_requests_than_can_be_answered_wait_and_more_than_can_wait_are_throttled(serve):
    gate, began = threading.Event(), threading.Semaphore(0)

    def wait(received):
        began.release()
        assert gate.wait(WAIT)
        return echo(received)

    server = serve(wait, concurrent=2, queue=2)
    results = []
    threads = [threading.Thread(target=lambda: results.append(server.ask()[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert began.acquire(timeout=WAIT)
    assert began.acquire(timeout=WAIT)
    assert eventually(lambda: len(server.running.application.exchanges) == 4)
    time.sleep(0.1)
    status, headers, body = server.ask()
    assert status == 429
    assert headers["x-amzn-errortype"].startswith("ThrottlingException:")
    assert b"Too many requests" in body
    gate.set()
    for thread in threads:
        thread.join(WAIT)
    assert results == [200] * 4
    assert server.ask()[0] == 200


def test_the_server_s_own_pages_wait_for_nobody(serve):
    gate = threading.Event()

    def wait(received):
        assert received.path != "/" or gate.wait(WAIT)
        return echo(received)

    server = serve(wait, concurrent=1, queue=0)
    first = threading.Thread(target=server.ask)
    first.start()
    assert eventually(lambda: len(server.running.application.exchanges) == 1)
    assert [server.ask("/_bx/health")[0], server.ask("/other")[0]] == [200, 429]
    gate.set()
    first.join(WAIT)
    assert server.ask("/other")[0] == 200


def test_a_client_that_gives_up_waiting_leaves_its_turn_to_the_next(serve):
    gate = threading.Event()

    def wait(received):
        assert gate.wait(WAIT)
        return echo(received)

    server = serve(wait, concurrent=1, queue=1)
    first = threading.Thread(target=server.ask)
    first.start()
    assert eventually(lambda: len(server.running.application.exchanges) == 1)
    with server.raw() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert eventually(lambda: len(server.running.application.exchanges) == 2)
    assert eventually(lambda: len(server.running.application.exchanges) == 1)
    gate.set()
    first.join(WAIT)
    assert server.ask()[0] == 200


def test_a_client_that_has_given_up_takes_no_place_in_the_queue(serve):
    gate, began = threading.Event(), threading.Event()

    def wait(received):
        began.set()
        assert gate.wait(WAIT)
        return echo(received)

    server, results = serve(wait, concurrent=1, queue=1), []
    threads = [threading.Thread(target=lambda: results.append(server.ask()[0])) for _ in range(2)]
    threads[0].start()
    assert began.wait(WAIT)
    with server.raw() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert eventually(lambda: len(server.running.application.exchanges) == 2)
    assert eventually(lambda: server.notes)
    assert "status" not in server.notes[0]  # nobody was there to be told one
    threads[1].start()
    assert eventually(lambda: len(server.running.application.exchanges) == 2)
    gate.set()
    for thread in threads:
        thread.join(WAIT)
    assert results == [200, 200]


def test_a_turn_that_is_given_in_the_moment_when_the_time_is_up_is_not_lost():
    async def scenario():
        turns, gone = _Turns(1, 1), asyncio.Event()
        assert await turns.taken(gone)
        waiting = asyncio.create_task(turns.taken(gone))
        await asyncio.sleep(0)
        turns.free()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return await asyncio.wait_for(turns.taken(gone), 1)

    assert asyncio.run(scenario())


def test_what_the_server_refuses_itself_is_noted_with_its_error(serve):
    gate = threading.Event()

    def wait(received):
        assert gate.wait(WAIT)
        return echo(received)

    server = serve(wait, concurrent=1, queue=0, body=100)
    first = threading.Thread(target=server.ask)
    first.start()
    assert eventually(lambda: len(server.running.application.exchanges) == 1)
    server.ask()
    server.ask(body=b"x" * 101)
    assert eventually(lambda: len(server.notes) == 2)
    gate.set()
    first.join(WAIT)
    assert [(notes["status"], notes["code"]) for notes in server.notes[:2]] == [
        (429, "ThrottlingException"),
        (400, "ValidationException"),
    ]


def test_a_stop_lets_what_runs_finish_within_its_grace(serve):
    began = threading.Event()

    def pieces():
        yield b"one"
        began.set()
        time.sleep(0.3)
        yield b"two"

    server = serve(lambda _: Reply(200, PLAIN, pieces()))
    results = []
    thread = threading.Thread(target=lambda: results.append(server.ask()))
    thread.start()
    assert began.wait(WAIT)
    server.running.stop(grace=WAIT)
    thread.join(WAIT)
    assert results[0][2] == b"onetwo"


def test_a_stream_that_outlasts_the_grace_ends_with_a_modelled_exception(serve):
    closed = threading.Event()
    server = serve(lambda _: Reply(200, {"Content-Type": frames.CONTENT_TYPE}, endless(closed)))
    results = []
    thread = threading.Thread(target=lambda: results.append(server.ask()))
    thread.start()
    assert eventually(lambda: len(server.running.application.exchanges) == 1)
    time.sleep(0.1)
    server.running.stop(grace=0.2)
    thread.join(WAIT)
    assert results[0][2].endswith(
        frames.exception("serviceUnavailableException", {"message": "The server is stopping. Try again later."})
    )
    assert closed.wait(WAIT)


def test_a_call_that_outlasts_the_grace_is_told_that_the_service_is_unavailable(serve):
    def wait(received):
        received.hangup.wait(WAIT)
        return echo(received)

    server = serve(wait)
    results = []
    thread = threading.Thread(target=lambda: results.append(server.ask()))
    thread.start()
    assert eventually(lambda: len(server.running.application.exchanges) == 1)
    server.running.stop(grace=0.1)
    thread.join(WAIT)
    assert results[0][0] == 503


def test_nothing_listens_after_a_stop_and_no_thread_is_left(serve):
    server = serve(echo)
    with contextlib.closing(server.connection()) as kept:
        kept.request("GET", "/")
        assert kept.getresponse().read() == b""
        server.running.stop(grace=1)
        with pytest.raises(OSError):  # noqa: PT011 # refused
            server.raw()
    assert eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("bx-")])


def test_a_kept_connection_answers_again_and_again(serve):
    server = serve(echo)
    with contextlib.closing(server.connection()) as connection:
        for number in range(50):
            connection.request("POST", "/", str(number).encode())
            assert connection.getresponse().read() == str(number).encode()
    assert eventually(lambda: len(server.notes) == 50)


def test_a_header_cannot_be_smuggled_through_a_value(serve):
    server = serve(lambda _: Reply(200, {"x-bx-ignored": "a\r\nX-Evil: 1ü"}, b""))
    _, headers, _ = server.ask()
    assert "x-evil" not in headers
    assert headers["x-bx-ignored"] == "a??X-Evil: 1?"


def test_a_request_without_a_body_is_answered_over_http2(serve):
    pytest.importorskip("zttp", reason="there is no HTTP/2 without it")
    server = serve(lambda received: Reply(200, PLAIN, received.path.encode()))
    # HEADERS that end the stream, as curl sends them; zttp's own client ends it in another frame.
    block = b"\x82\x86\x84\x41\x09localhost"  # GET, http, /, the authority, by the tables of HPACK
    head = len(block).to_bytes(3, "big") + b"\x01\x05" + (1).to_bytes(4, "big")
    with contextlib.closing(server.raw()) as raw:
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + head + block)
        data = b""
        while b"text/plain" not in data and (piece := raw.recv(4096)):
            data += piece
    assert b"text/plain" in data
