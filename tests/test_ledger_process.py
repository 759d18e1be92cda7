"""The ledger among real processes: many that write, one that dies, and files that cannot be written."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from bx import config
from bx.ledger.store import Store
from scripted import SILENCE, STALL, broken, connected

WRITER = """
import sys
from pathlib import Path
from bx.engines.echo import Echo
from bx.ledger.meter import Metered
from bx.ledger.store import Store

engine = Metered(Echo(), Store(Path(sys.argv[1])), labels={"source": "python", "tag": sys.argv[2]})
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    answer = engine.converse(modelId="echo", messages=[{"role": "user", "content": [{"text": f"Hi {number}"}]}])
    if sys.argv[4:]:
        print(number, flush=True)
"""


def writer(path, tag, count, *more):
    command = [sys.executable, "-c", WRITER, str(path), tag, str(count), *more]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def rows():
    return list(Store(config.ledger({})).rows())


def test_eight_processes_with_two_hundred_calls_each_lose_no_row(tmp_path):
    path = tmp_path / "new" / "ledger.db"  # all of them find no file, and make it
    processes = [writer(path, str(number), 200) for number in range(8)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60) for process in processes]
    assert told == [("", "")] * 8
    tags = [row["tag"] for row in Store(path).rows()]
    assert {tag: tags.count(tag) for tag in tags} == {str(number): 200 for number in range(8)}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
@pytest.mark.parametrize("after", [1, 37, 111])
def test_a_process_that_is_killed_while_it_writes_leaves_a_readable_ledger(tmp_path, after):
    path = tmp_path / "ledger.db"
    process = writer(path, "killed", 100_000, "tell")
    process.stdin.write("go\n")
    process.stdin.flush()
    for _ in range(after):
        process.stdout.readline()
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    store = Store(path)
    assert store.check() is None
    kept = len(list(store.rows()))
    assert kept >= after  # the rows of all calls that were answered
    store.write({"at": 1.0, "tag": "after"})
    assert len(list(store.rows())) == kept + 1
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_full_disk_costs_no_answer_and_is_said_once(tmp_path):
    path = tmp_path / "ledger.db"
    store = Store(path)
    store.write({"at": 1.0})
    store.close()
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n" + WRITER
    command = [sys.executable, "-c", limited, str(path), "full", "30", "tell"]
    done = subprocess.run(command, input="go\n", capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["ready", *map(str, range(30))]
    assert done.stderr.count("answers are not affected") == 1
    assert Store(path).check() is None
    assert len(list(Store(path).rows())) >= 1


def test_a_lock_that_lasts_costs_no_answer_and_is_said_once(bx):
    path = config.ledger({})
    assert bx("Hi", "--model", "echo").returncode == 0
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    done = bx("Hello there", "--model", "echo", "--stream")
    other.execute("ROLLBACK")
    other.close()
    assert (done.returncode, done.stdout) == (0, "Hello there\n")
    assert done.stderr.count("locked by another process") == 1
    assert len(rows()) == 1


@pytest.mark.parametrize("place", ["/dev/null/ledger.db", "/proc/ledger.db"])
@pytest.mark.skipif(sys.platform != "linux", reason="the places are Linux's")
def test_a_place_that_cannot_be_written_costs_no_answer_and_is_said_once(bx, place):
    done = bx("Hello there", "--model", "echo", BX_LEDGER=place)
    assert (done.returncode, done.stdout) == (0, "Hello there\n")
    assert done.stderr.count("bx:") == 1
    assert "cannot be used" in done.stderr
    quiet = bx("Hello there", "--model", "echo", "-q", BX_LEDGER=place)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "Hello there\n", "")


def test_a_damaged_ledger_costs_no_answer_and_is_moved_aside(bx):
    path = config.ledger({})
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 1000)
    done = bx("Hello there", "--model", "echo")
    assert (done.returncode, done.stdout) == (0, "Hello there\n")
    assert "was damaged" in done.stderr
    assert len(rows()) == 1
    assert bx("Hello there", "--model", "echo").stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("flags", [["--stream"], ["--no-stream"]])
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_written_as_interrupted(endpoint, flags, number):
    sent = getattr(signal, number)
    endpoint.script.append(broken(3, STALL) if flags == ["--stream"] else SILENCE)
    command = [sys.executable, "-m", "bx", "Hello there all", "--model", "claude", "--endpoint-url", endpoint.url]
    process = subprocess.Popen(
        [*command, *flags], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    if flags == ["--stream"]:
        process.stdout.read(5)
    else:
        until = time.monotonic() + 20
        while not endpoint.requests and time.monotonic() < until:
            time.sleep(0.01)
    for _ in range(3):  # Python hears one that comes just before a read that blocks only after that read
        process.send_signal(sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=10)
            break
    assert process.returncode == 128 + sent
    (only,) = rows()
    assert (only["outcome"], only["input_tokens"]) == ("interrupted", None)


def test_a_reader_that_goes_away_leaves_an_abandoned_row(endpoint):
    command = [sys.executable, "-m", "bx", "word " * 20_000, "--model", "claude", "--stream"]
    process = subprocess.Popen(
        [*command, "--endpoint-url", endpoint.url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.read(5)
    process.stdout.close()
    process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 141
    (only,) = rows()
    assert only["outcome"] == "abandoned"


def test_bx_serve_writes_what_it_answers(tmp_path):
    command = [sys.executable, "-m", "bx", "serve", "--model", "echo", "--port", "0"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    line = process.stderr.readline()
    url = next(word for word in line.split() if word.startswith("http"))
    client = connected(url)
    asked = {"modelId": "amazon.nova-lite-v1:0", "messages": [{"role": "user", "content": [{"text": "Hi there"}]}]}
    client.converse(**asked)
    for _ in client.converse_stream(**asked)["stream"]:
        pass
    client.close()
    process.terminate()
    process.communicate(timeout=20)
    told = [(row["source"], row["model_id"], row["operation"], row["outcome"], row["input_tokens"]) for row in rows()]
    # The server streams a whole answer too, to notice when its client has gone.
    assert told == [("serve", "echo", "ConverseStream", "answered", 2)] * 2
