"""The standard streams of real processes: terminals, pipes, files, sockets, full disks, signals and closed ends."""

from __future__ import annotations

import contextlib
import io
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bx.cli import terminal
from bx.cli.terminal import Terminal
from scripted import SILENCE, STALL, Scripted, broken

posix = pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals, signals and /dev")
BX = [sys.executable, "-m", "bx"]
ECHO = ["--model", "echo"]
HOSTILE = "\x1b[2J\x1b]0;title\x07 \x9b31m \u202etxt.exe\u2069 \x08\x7f\r!"
SHOWN = r"\x1b[2J\x1b]0;title\x07 \x9b31m \u202etxt.exe\u2069 \x08\x7f\r!"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


# ---- what is written ------------------------------------------------------------------------------------------


@given(st.text())
def test_nothing_that_is_made_visible_can_drive_a_terminal(text):
    shown = terminal.visible(text)
    hidden = {chr(code) for code in (*range(32), *range(127, 160))} - {"\n", "\t"}
    assert not hidden & set(shown)
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c") & set(shown)
    assert terminal.visible(shown) == shown


def test_ordinary_text_stays_as_it_is():
    text = "Grüße,\tعربى עברית 日本語 👩‍👩‍👧 é \u00a0 e\u0301\n"
    assert terminal.visible(text) == text
    assert terminal.visible(HOSTILE) == SHOWN


@given(st.text(max_size=12), st.data())
def test_a_text_may_come_in_any_pieces_even_in_half_characters(text, data):
    units = [unit for character in text for unit in (character if ord(character) < 0x10000 else halves(character))]
    out = io.StringIO()
    writer = Terminal(stdout=out)
    while units:
        count = data.draw(st.integers(1, len(units)))
        writer.answer("".join(units[:count]))
        units = units[count:]
    assert out.getvalue() == text


def halves(character):
    encoded = character.encode("utf-16-be")
    return [encoded[:2].decode("utf-16-be", "surrogatepass"), encoded[2:].decode("utf-16-be", "surrogatepass")]


@pytest.mark.parametrize("pieces", [["a\ud83d", "b"], ["a\ude00"], ["a\ud83d", "\ud83d\ude00"]])
def test_half_a_character_that_stays_alone_is_replaced_and_not_lost(pieces):
    out = io.StringIO()
    writer = Terminal(stdout=out)
    for piece in pieces:
        writer.answer(piece)
    writer.line()
    assert out.getvalue().startswith("a\ufffd")
    out.getvalue().encode()


def test_quiet_silences_notes_and_not_failures():
    err = io.StringIO()
    writer = Terminal(stderr=err)
    writer.note("one")
    writer.quiet = True
    writer.note("two")
    writer.complain("three")
    assert err.getvalue() == "bx: one\nthree\n"


def test_notes_cannot_drive_the_terminal_either():
    for stream in (Screen(), io.StringIO()):
        Terminal(stderr=stream).complain(HOSTILE)
        assert stream.getvalue() == SHOWN + "\n"


@pytest.mark.parametrize(
    ("stream", "environ", "coloured"),
    [
        (Screen, {"TERM": "xterm"}, True),
        (Screen, {}, True),
        (Screen, {"TERM": "xterm", "NO_COLOR": ""}, True),  # https://no-color.org: when present and not empty
        (Screen, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Screen, {"TERM": "dumb"}, False),
        (io.StringIO, {"TERM": "xterm"}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(stream, environ, coloured):
    err = stream()
    Terminal(stderr=err, environ=environ).aside("thought")
    assert err.getvalue() == ("\x1b[2mthought\x1b[0m" if coloured else "thought")


@pytest.mark.parametrize(
    ("environ", "quiet", "drawn"),
    [({}, False, True), ({"NO_COLOR": "1"}, False, True), ({"TERM": "dumb"}, False, False), ({}, True, False)],
)
def test_a_progress_bar_is_drawn_and_wiped_where_it_can_be(environ, quiet, drawn):
    err = Screen()
    writer = Terminal(stderr=err, environ=environ)
    writer.quiet = quiet
    with writer.progress("Fetching", 2_000_000) as done:
        done(1_000_000)
    assert ("1 of 2 MB" in err.getvalue()) == drawn
    assert err.getvalue().endswith("\r\x1b[K") == drawn


@pytest.mark.parametrize(
    ("reply", "agreed"),
    [("\n", True), ("y\n", True), ("YES\n", True), ("n\n", False), ("what?\n", False), ("", False)],
)
def test_a_question_is_agreed_to_by_a_line_and_not_by_the_end_of_input(reply, agreed):
    err = io.StringIO()
    assert Terminal(io.StringIO(reply), io.StringIO(), err).confirm("Fetch it?") == agreed
    assert err.getvalue() == "Fetch it? [Y/n] " + ("" if reply else "\n")


# ---- terminals ------------------------------------------------------------------------------------------------


def on_terminal(*arguments, stdin="tty", stdout="tty", stderr="tty", keys=b"", **environ):
    """Run `bx` with each stream on a pseudo-terminal of its own, or on a pipe."""
    import pty

    near, far = {}, {}
    for name, kind in {"stdin": stdin, "stdout": stdout, "stderr": stderr}.items():
        ends = pty.openpty() if kind == "tty" else os.pipe()
        near[name], far[name] = ends if name != "stdin" or kind == "tty" else ends[::-1]
    environ = {**os.environ, "TERM": "xterm", **environ}
    with subprocess.Popen([*BX, *arguments], env=environ, **far) as process:
        for end in far.values():
            os.close(end)
        os.write(near["stdin"], keys)
        written = drained(near["stdout"], near["stderr"])
        os.close(near["stdin"])
        process.wait(20)
    return Outcome(process.returncode, *(text.decode().replace("\r\n", "\n") for text in written))


def drained(*ends, timeout=20):
    """Read file descriptors to their ends, and close them."""
    texts = dict.fromkeys(ends, b"")
    with selectors.DefaultSelector() as waiting:
        for end in ends:
            waiting.register(end, selectors.EVENT_READ)
        while waiting.get_map():
            ready = waiting.select(timeout)
            assert ready, f"nothing came within {timeout} s: {texts}"
            for key, _ in ready:
                data = b""
                with contextlib.suppress(OSError):  # how Linux says that a terminal has ended
                    data = os.read(key.fd, 65536)
                texts[key.fd] += data
                if not data:
                    waiting.unregister(key.fd)
                    os.close(key.fd)
    return texts.values()


@posix
def test_an_answer_streams_on_a_terminal_and_nowhere_else(bx):
    assert on_terminal("Hello there", *ECHO) == (0, "Hello there\n", "[tokens: 4]\n")
    assert on_terminal("Hello there", *ECHO, "--no-stream") == (0, "Hello there\n", "")
    assert on_terminal("Hello there", *ECHO, stdout="pipe") == (0, "Hello there\n", "")
    assert on_terminal("Hello there", *ECHO, stderr="pipe") == (0, "Hello there\n", "[tokens: 4]\n")
    piped = bx("Hello there", *ECHO, "--stream")
    assert (piped.stdout, piped.stderr) == ("Hello there\n", "[tokens: 4]\n")


@posix
def test_json_does_not_stream_on_a_terminal_and_is_indented_there(bx):
    arguments = ['{"a": [1]}', *ECHO, "--json", '{"type": "object"}']
    assert on_terminal(*arguments) == (0, '{\n  "a": [\n    1\n  ]\n}\n', "")
    assert bx(*arguments).stdout == '{"a": [1]}\n'


@posix
@pytest.mark.parametrize("flag", ["--stream", "--no-stream"])
def test_a_models_control_characters_are_visible_on_a_terminal_and_unchanged_in_a_pipe(flag, bx):
    arguments = [HOSTILE, *ECHO, flag, "--quiet"]
    assert on_terminal(*arguments).out == SHOWN + "\n"
    for opened in (on_terminal(*arguments, "--raw-output"), on_terminal(*arguments, BX_RAW_OUTPUT="1")):
        assert opened.out == HOSTILE + "\n"
    piped = subprocess.run([*BX, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert piped.stdout == HOSTILE.encode() + b"\n"


@posix
@pytest.mark.parametrize(
    "streams", [{}, {"stdout": "pipe"}, {"stderr": "pipe"}, {"stdout": "pipe", "stderr": "pipe"}]
)
def test_without_a_prompt_a_terminal_gets_help_at_once(streams):
    outcome = on_terminal(**streams)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("usage: bx [OPTIONS] PROMPT")
    assert on_terminal("--model", "echo", **streams).out == outcome.out


@posix
def test_a_dash_reads_what_is_typed():
    assert on_terminal("-", *ECHO, "-q", keys=b"typed\n\x04").out.endswith("typed\n")


@posix
def test_reasoning_is_dimmed_and_ends_its_own_line_on_a_terminal():
    from test_cli_ask import Model

    with Scripted(Model("Four", reasoning=["Two and ", "two"])) as endpoint:
        arguments = ["Hi", "-v", "--stream", "--endpoint-url", endpoint.url]
        coloured, plain = on_terminal(*arguments), on_terminal(*arguments, NO_COLOR="1")
        assert on_terminal(*arguments, TERM="dumb") == plain
    assert coloured.err.startswith("\x1b[2mTwo and \x1b[0m\x1b[2mtwo\x1b[0m\x1b[2m\n\x1b[0m")
    assert plain.err == "Two and two\n[tokens: 12]\n"
    assert coloured.out == plain.out == "Four\n"


@posix
def test_a_model_that_is_missing_is_offered_unless_the_variable_agrees():
    pytest.importorskip("xllamacpp", reason="the embedded engine has no wheel for this platform")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "UV_DEFAULT_INDEX": "http://127.0.0.1:9/", "PIP_RETRIES": "0"}
    asked = on_terminal("Hi", "--model", "local", keys=b"n\n", **nowhere)
    assert "once? [Y/n] " in asked.err
    assert (asked.code, asked.out) == (2, "")
    agreed = on_terminal("Hi", "--model", "local", BX_YES="1", **nowhere)
    assert "[Y/n]" not in agreed.err
    assert "bx: fetching" in agreed.err
    forbidden = on_terminal("Hi", "--model", "local", BX_YES="1", BX_OFFLINE="1", **nowhere)
    assert "fetching SmolLM2" not in forbidden.err
    assert "BX_OFFLINE forbids" in forbidden.err


# ---- signals and closed ends ----------------------------------------------------------------------------------


@contextlib.contextmanager
def running(*arguments, **streams):
    given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    with subprocess.Popen([*BX, *arguments], **given) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupted(process):
    """Press Ctrl-C, and return how long it took to end."""
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(20)
    return time.monotonic() - started


@posix
def test_ctrl_c_in_a_stream_ends_at_once_and_keeps_what_was_printed(endpoint):
    endpoint.script.append(broken(3, STALL))
    with running("one two three four", "--stream", "--endpoint-url", endpoint.url) as process:
        assert process.stdout.read(7) == b"one two"
        assert interrupted(process) < 2
        assert (process.returncode, process.stdout.read(), process.stderr.read()) == (130, b"\n", b"")


@posix
def test_ctrl_c_before_the_first_byte_ends_at_once(endpoint):
    for flag in ("--stream", "--no-stream"):
        endpoint.script.append(SILENCE)
        with running("Hi", flag, "--endpoint-url", endpoint.url) as process:
            waited_for(lambda: endpoint.requests)
            endpoint.requests.clear()
            assert interrupted(process) < 2
            assert (process.returncode, process.stdout.read(), process.stderr.read()) == (130, b"", b"")


@posix
def test_ctrl_c_while_waiting_for_standard_input_ends_at_once():
    with running("Hi", *ECHO, stdin=subprocess.PIPE) as process:
        assert b"waiting for standard input" in process.stderr.readline()
        assert interrupted(process) < 2
        assert process.returncode == 130


def waited_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@posix
@pytest.mark.parametrize("unbuffered", ["", "1"])  # where Python takes half a write for a whole one
@pytest.mark.parametrize("flag", ["--stream", "--no-stream", "--raw --stream", "--dry-run"])
def test_a_reader_that_goes_away_is_no_failure_to_tell(flag, unbuffered):
    lines = "\n".join(f"line {number}" for number in range(15_000))
    command = f"set -o pipefail; '{sys.executable}' -m bx - --model echo -q {flag} | head -n 1"
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        ["bash", "-c", command], input=lines.encode(), capture_output=True, env=environ, check=False
    )
    assert (done.returncode, done.stderr) == (141, b"")
    assert len(done.stdout.splitlines()) == 1


@posix
def test_a_reader_that_goes_away_stops_a_stream(endpoint):
    class Endless:
        def __init__(self):
            self.closed = threading.Event()

        def converse_stream(self, **request):
            return {"stream": self.events()}

        def events(self):
            try:
                while True:
                    yield {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "more\n"}}}
            finally:
                self.closed.set()

    endpoint.engine = Endless()
    with running("Hi", "--stream", "--endpoint-url", endpoint.url) as process:
        assert process.stdout.readline() == b"more\n"
        process.stdout.close()
        assert (process.wait(20), process.stderr.read()) == (141, b"")
    assert endpoint.engine.closed.wait(20)


@posix
@pytest.mark.parametrize("flag", ["--stream", "--no-stream", "--help", "--version"])
def test_a_full_disk_is_told(flag):
    with Path("/dev/full").open("wb") as full, running("Hi", *ECHO, flag, stdout=full) as process:
        assert b"disk is full" in process.stderr.read()
        assert process.wait() == 2


@posix
@pytest.mark.parametrize("place", ["/dev/full", "&-"])
def test_notes_that_nobody_can_read_do_not_cost_the_answer(place):
    line = f"'{sys.executable}' -m bx 'Hello there' --model echo --stream --usage 2>{place} </dev/null"
    done = subprocess.run(["bash", "-c", line], stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (0, b"Hello there\n")


@posix
def test_a_closed_standard_output_is_told_before_anything_is_sent(endpoint):
    line = f"'{sys.executable}' -m bx Hi --endpoint-url {endpoint.url} >&- </dev/null"
    done = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert b"Standard output is closed" in done.stderr
    assert not endpoint.requests


@posix
def test_each_piece_is_written_when_it_arrives(endpoint):
    class Gated:
        def __init__(self):
            self.gate = threading.Semaphore(0)

        def converse_stream(self, **request):
            return {"stream": self.events()}

        def events(self):
            for piece in ("one", " two", " three"):
                yield {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": piece}}}
                assert self.gate.acquire(timeout=20)
            yield {"messageStop": {"stopReason": "end_turn"}}

    endpoint.engine = Gated()
    with running("Hi", "--stream", "--endpoint-url", endpoint.url) as process:
        for piece in (b"one", b" two", b" three"):
            assert os.read(process.stdout.fileno(), 100) == piece
            endpoint.engine.gate.release()
        assert process.stdout.read() == b"\n"
        assert process.wait(20) == 0


# ---- standard input -------------------------------------------------------------------------------------------


def answered(*arguments, **streams):
    with running(*arguments, *ECHO, **streams) as process:
        out, err = process.communicate(timeout=30)
        return Outcome(process.returncode, out.decode(), err.decode())


@posix
def test_a_file_a_pipe_and_a_socket_join_the_prompt_and_devices_do_not(tmp_path, bx):
    (tmp_path / "text").write_text("from afar\n")
    with (tmp_path / "text").open("rb") as file:
        assert answered("Hi", stdin=file) == (0, "Hi\n\nfrom afar\n", "")
    assert bx("Hi", *ECHO, stdin="from afar\n").stdout == "Hi\n\nfrom afar\n"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"from afar\n")
        ours.shutdown(socket.SHUT_WR)
        assert answered("Hi", stdin=theirs) == (0, "Hi\n\nfrom afar\n", "")
    with Path("/dev/zero").open("rb") as device:
        assert answered("Hi", stdin=device) == (0, "Hi\n", "")
    assert on_terminal("Hi", *ECHO, "-q", keys=b"typed\n").out == "Hi\n"


@posix
@pytest.mark.parametrize(
    ("arguments", "code", "out"), [("Hi", 0, b"Hi\n"), ("Hi -", 0, b"Hi\n"), ("-", 2, b""), ("", 2, b"")]
)
def test_a_closed_standard_input_is_an_empty_one(arguments, code, out):
    line = f"'{sys.executable}' -m bx {arguments} --model echo <&-"
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (code, out)
    assert (b"The prompt is empty" in done.stderr) == (code == 2)


@posix
def test_a_pipe_that_stays_silent_is_told_and_then_waited_for():
    with running("Hi", *ECHO, stdin=subprocess.PIPE) as process:
        started = time.monotonic()
        assert b"waiting for standard input" in process.stderr.readline()
        assert time.monotonic() - started > 1.5
        out, err = process.communicate(b"at last", timeout=20)
        assert (process.returncode, out, err) == (0, b"Hi\n\nat last\n", b"")


def test_input_that_is_no_text_is_told():
    with running("Hi", *ECHO, stdin=subprocess.PIPE) as process:
        out, err = process.communicate(b"caf\xe9", timeout=20)
    assert (process.returncode, out) == (2, b"")
    assert b"not UTF-8 text" in err
    assert b"iconv" in err


# ---- encodings ------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    "environ",
    [
        {"LANG": "C", "LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
    ],
)
def test_text_is_utf8_whatever_the_locale_says(environ, bx):
    text = "Grüße 😀 日本"
    for flag in ("--stream", "--no-stream"):
        done = bx("-", *ECHO, flag, "-q", stdin=text, **environ)
        assert (done.returncode, done.stdout, done.stderr) == (0, text + "\n", "")
    schema = bx("Hi", *ECHO, "--json", "-", "--dry-run", stdin='{"title": "Grüße 😀"}', **environ)
    assert "Grüße 😀" in schema.stdout


@posix
def test_a_terminal_that_cannot_show_a_character_gets_an_escape():
    outcome = on_terminal("Grüße 😀", *ECHO, "-q", PYTHONIOENCODING="ascii")
    assert outcome == (0, "Gr\\xfc\\xdfe \\U0001f600\n", "")
