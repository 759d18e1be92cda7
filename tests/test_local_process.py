"""The embedded engine as a guest in a process: interrupted and left at any moment, quiet, and closed to others."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tiny_model

pytest.importorskip("xllamacpp", reason="the embedded engine has no wheel for this platform")

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and forks")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc of Linux")
CRASHES = ("Fatal Python error", "Segmentation", "Exception ignored", "GGML", "terminate called", "Aborted")

# What every program below begins with.
PRELUDE = """
import os, signal, sys, threading, time
from bx.converse import collect, request, text
from bx.engines.local import Local
model, prompt = sys.argv[1], "Write a very long story about a storm."
def ask(engine, tokens=2000, **more):
    return engine.converse_stream(**request(prompt, model=model, maxTokens=tokens, **more))["stream"]
def forever(engine):
    while True:
        collect(ask(engine, 100, schema={"type": "array", "items": {"type": "integer"}} if os.getpid() % 2 else None))
def beside(engine):
    threading.Thread(target=forever, args=(engine,), daemon=True).start()
def say(word):
    print(word, flush=True)
"""
# How a process is left: the program, and the exit codes that are right where nothing sends it a signal.
LEAVING = {
    "returns": ("engine = Local(); list(zip(range(3), ask(engine)))", {0}),
    "returns with a stream unread": ("engine = Local(); stream = ask(engine)", {0}),
    "returns with a stream half read": ("stream = iter(ask(Local())); next(stream); next(stream)", {0}),
    "exits": ("list(zip(range(3), ask(Local()))); sys.exit(3)", {3}),
    "fails": ("kept = ask(Local()); raise ValueError('by design')", {1}),
    "never asks": ("engine = Local(); engine._model(__import__('pathlib').Path(model.partition(':')[2]))", {0}),
    "closes": ("engine = Local(); stream = ask(engine); engine.close(); engine.close()", {0}),
    "drops its engine": ("stream = ask(Local()); del stream; __import__('gc').collect()", {0}),
    "has two engines": ("one, two = Local(), Local(); streams = ask(one), ask(two)", {0}),
    "has threads that go on": (
        "engine = Local(); [beside(engine) for _ in range(3)]; time.sleep(float(sys.argv[2]))",
        {0},
    ),
    "has a thread that begins": (
        "beside(Local()); time.sleep(float(sys.argv[2]) / 3)",
        {0},
    ),
    "is signalled": ("engine = Local(); forever(engine)", set()),
    "is signalled with threads": (
        "engine = Local(); beside(engine); forever(engine)",
        set(),
    ),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return f"local:{tiny_model.write(tmp_path_factory.mktemp('tiny') / 'tiny.gguf', context=8192)}"


@pytest.fixture
def run(tmp_path):
    """Start a Python program with the prelude; what it leaves in its temporary folder is looked at afterwards."""
    (tmp_path / "tmp").mkdir()
    environ = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    started = []

    def start(program, *arguments):
        command = [sys.executable, "-c", PRELUDE + program, *arguments]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, env=environ, text=True, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def folders(tmp_path):
    """The engine's folders: Python's `tempfile` tries the place with a file of its own first."""
    return list((tmp_path / "tmp").glob("bx-*"))


def finished(process, timeout=30):
    """The exit code and what was printed, which has nothing of a crash."""
    out, err = process.communicate(timeout=timeout)
    assert not any(word in err for word in CRASHES), err
    return process.returncode, out, err


# ---- leaving --------------------------------------------------------------------------------------------------


@POSIX
def test_a_process_is_left_a_hundred_times_at_any_moment_without_a_hang_or_a_crash(
    run, tiny, fetched_weights, tmp_path
):
    rolled = random.Random(os.environ.get("BX_TEST_SEED", "seed"))
    ways = [*LEAVING] * 8
    signals = {signal.SIGINT: {-2, 1, 130}, signal.SIGTERM: {-15}, signal.SIGKILL: {-9}}

    def leave(at):
        way = ways[at % len(ways)]
        program, codes = LEAVING[way]
        # The real model where its size may matter; it loads slowly, so seldom.
        model = f"local:{fetched_weights}" if at % 10 == 0 else tiny
        after = rolled.random()
        process = run(program, model, str(after))
        sent = None
        if not codes:
            sent = rolled.choice([*signals])
            time.sleep(0.1 + after)
            process.send_signal(sent)
        code, _, err = finished(process)
        assert code in (codes or signals[sent]), (way, sent, code, err)
        return way

    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(leave, range(104)))) == 104
    left = [path for path in (tmp_path / "tmp").iterdir() if path.name.startswith("bx-")]
    # Killed in the moment of loading, a process cannot remove the folder of its socket.
    assert len(left) <= 8, left


@POSIX
@pytest.mark.parametrize("end", ["return", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_no_file_is_left_behind(run, tiny, tmp_path, end):
    process = run(f"stream = ask(Local()); say('ready'); {'' if end == 'return' else end}", tiny)
    finished(process)
    assert not list((tmp_path / "tmp").iterdir())


@POSIX
def test_a_forked_child_is_refused_and_can_leave(run, tiny):
    program = """
engine = Local()
stream = ask(engine)
child = os.fork()
if not child:
    for used in (engine, Local()):
        try:
            ask(used)
        except Exception as refusal:
            say(refusal)
    sys.exit(5)
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
say(len(collect(stream)["output"]["message"]["content"]))
"""
    code, out, _ = finished(run(program, tiny))
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 4
    assert all("cannot be used in a forked process" in line for line in lines[:2])
    assert lines[2:] == ["5", "1"]


@POSIX
def test_an_engine_made_before_a_fork_and_used_after_it_works(run, tiny):
    program = """
engine = Local()
if not os.fork():
    say(len(collect(ask(engine, 10))["output"]["message"]["content"]))
    sys.exit(0)
assert os.wait()[1] == 0
say(len(collect(ask(engine, 10))["output"]["message"]["content"]))
"""
    assert finished(run(program, tiny))[:2] == (0, "1\n1\n")


def test_a_subprocess_may_be_started_while_a_model_is_loaded(run, tiny):
    program = "stream = ask(Local()); import subprocess; say(subprocess.run([sys.executable, '-c', '']).returncode)"
    assert finished(run(program, tiny))[:2] == (0, "0\n")


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------

INTERRUPTED = """
engine = Local()
collect(ask(engine, 1))
threading.Timer(0.6, lambda: (marks.append(time.monotonic()), os.kill(os.getpid(), signal.SIGINT))).start()
marks = []
try:
    {work}
except KeyboardInterrupt:
    say(time.monotonic() - marks[0])
prompt = "hi"
collect(ask(engine, 1))
say("goes on")
sys.exit(130)
"""


@POSIX
@pytest.mark.parametrize(
    "work",
    [
        "collect(ask(engine))",
        "prompt = 'word ' * 6000; collect(ask(engine))",
        "[beside(engine) for _ in range(5)]; forever(engine)",
    ],
    ids=["generating", "reading a long prompt", "waiting for others"],
)
def test_ctrl_c_is_heard_at_once_and_the_engine_goes_on(run, fetched_weights, work):
    code, out, err = finished(run(INTERRUPTED.replace("{work}", work), f"local:{fetched_weights}"), timeout=60)
    assert code == 130, err
    heard, on = out.splitlines()
    assert on == "goes on"
    assert float(heard) < 0.1


@POSIX
def test_ctrl_c_ends_the_program_at_once_and_keeps_what_was_printed(fetched_weights, tmp_path):
    command = [
        sys.executable,
        "-m",
        "bx",
        "Write a very long story",
        "--model",
        f"local:{fetched_weights}",
        "--stream",
    ]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=tmp_path, **pipes) as process:
        first = process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        rest, err = process.communicate(timeout=20)
        took = time.monotonic() - sent
    assert process.returncode == 130
    assert (first + rest).strip()
    assert not any(word in err for word in ("Traceback", *CRASHES)), err
    assert took < 0.3


@POSIX
def test_ctrl_c_while_the_model_loads_leaves_nothing_behind(fetched_weights, tmp_path):
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "bx", "hi", "--model", f"local:{fetched_weights}", "--stream"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environ = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    for wait in (0.0, 0.05, 0.15):
        with subprocess.Popen(command, cwd=tmp_path, env=environ, **pipes) as process:
            while process.poll() is None and not folders(tmp_path):
                time.sleep(0.001)
            time.sleep(wait)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (130, b"")
        assert not list((tmp_path / "tmp").iterdir())


@POSIX
def test_a_closed_pipe_ends_the_program_in_silence(fetched_weights, tmp_path):
    bx = f'"{sys.executable}" -m bx "Write a very long story" --model "local:{fetched_weights}" --stream'
    line = f"{bx} | head -c 20; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, cwd=tmp_path, timeout=60, check=False)
    assert (done.returncode, len(done.stdout), done.stderr) == (141, 20, b"")


# ---- quiet and closed -----------------------------------------------------------------------------------------


def test_nothing_of_the_library_reaches_the_terminal(run, tiny, fetched_weights, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(1000))
    program = """
node = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}
schemas = [None, {"not": {}}, {"$ref": "#"}, {"type": "boolean"}, {"pattern": "(?=a)"}]
schemas += [{"$ref": "#/$defs/n", "$defs": {"n": node}}, {"type": "string", "format": "uri"}]
engine = Local()
for model in sys.argv[1:]:
    for schema in schemas:
        for prompt in ("hi", "word " * 9000):
            try:
                collect(ask(engine, 60, schema=schema, temperature=1, fields={"seed": 1}))
            except Exception as refusal:
                assert "ValidationException" in str(refusal), refusal
engine.close()
"""
    models = [f"local:{path}" for path in (fetched_weights, tmp_path / "bad.gguf")]
    assert finished(run(program, tiny, *models), timeout=120) == (0, "", "")


def sockets(pid, kind):
    """The lines of /proc/net about the sockets of a process."""
    here = Path(f"/proc/{pid}")
    targets = [str(descriptor.readlink()) for descriptor in (here / "fd").iterdir()]
    inodes = {target[8:-1] for target in targets if target.startswith("socket:[")}
    table = (here / "net" / kind).read_text().splitlines()[1:]
    return [line for line in table if inodes & set(line.split())]


@LINUX
def test_nobody_can_reach_the_engine(run, fetched_weights, tmp_path):
    process = run("stream = ask(Local()); say('ready'); time.sleep(60)", f"local:{fetched_weights}")
    assert process.stdout.readline() == "ready\n"
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        assert sockets(process.pid, kind) == [], kind
    (line,) = sockets(process.pid, "unix")
    *_, path = line.split()
    # It is bound to a name that is gone, in a folder that is gone; a name with @ would be one without a file.
    assert path.startswith(str(tmp_path / "tmp" / "bx-"))
    assert not Path(path).exists()
    assert not list((tmp_path / "tmp").iterdir())


@LINUX
def test_while_a_model_loads_its_socket_is_in_a_private_folder(run, fetched_weights, tmp_path):
    process = run("stream = ask(Local())", f"local:{fetched_weights}")
    modes = set()
    while process.poll() is None:
        for folder in folders(tmp_path):
            try:
                modes.add(stat.S_IMODE(folder.stat().st_mode))
            except FileNotFoundError:  # it was removed in this moment
                continue
        time.sleep(0.002)
    assert modes == {0o700}


@pytest.mark.parametrize(
    ("machine", "said"), [("x86_64", "pip install 'bedrock-bx[local]'"), ("riscv64", "do not run on this platform")]
)
def test_without_the_engine_nothing_is_fetched_for_it_and_the_way_out_is_named(bx, tmp_path, machine, said):
    hidden = "import sys, platform; sys.modules['xllamacpp'] = None; platform.machine = lambda: sys.argv[-1]"
    hidden += "; import importlib.util as u; real = u.find_spec"
    hidden += "; u.find_spec = lambda name, *more: None if name == 'xllamacpp' else real(name, *more)"
    code = f"{hidden}; from bx.cli import main, Terminal; sys.exit(main(['hi', '-m', 'local', '-y'], Terminal()))"
    command = [sys.executable, "-c", code, machine]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "fetching" not in done.stderr
